#include "wire/message.h"

#include "base/error.h"

void cm_writer_init(struct cm_writer *writer, struct cm_buf *buf) {
    *writer = (struct cm_writer){buf, 0};
}

static void put(struct cm_writer *writer, const void *bytes, size_t len) {
    if (!writer->error)
        writer->error = cm_buf_append(writer->buf, bytes, len);
}

static void put_integer(struct cm_writer *writer, uint64_t value, size_t len) {
    uint8_t bytes[8];
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    put(writer, bytes, len);
}

void cm_write_u8(struct cm_writer *writer, uint8_t value) {
    put_integer(writer, value, 1);
}

void cm_write_u32(struct cm_writer *writer, uint32_t value) {
    put_integer(writer, value, 4);
}

void cm_write_u64(struct cm_writer *writer, uint64_t value) {
    put_integer(writer, value, 8);
}

void cm_write_bytes(struct cm_writer *writer, struct cm_bytes bytes) {
    if (bytes.len > UINT32_MAX && !writer->error)
        writer->error = CM_E_TOOLARGE;
    cm_write_u32(writer, (uint32_t)bytes.len);
    put(writer, bytes.data, bytes.len);
}

void cm_rewrite_u32(struct cm_writer *writer, size_t at, uint32_t value) {
    for (size_t i = 0; !writer->error && i < 4; i++)
        writer->buf->data[at + i] = (uint8_t)(value >> (8 * i));
}

void cm_reader_init(struct cm_reader *reader, struct cm_bytes bytes) {
    const uint8_t *start = bytes.len ? bytes.data : (const uint8_t *)""; /* an empty buffer has no data */
    *reader = (struct cm_reader){start, start + bytes.len, 0};
}

static const uint8_t *take(struct cm_reader *reader, size_t len) {
    if (reader->error || (size_t)(reader->end - reader->next) < len) {
        reader->error = CM_E_BADFRAME;
        return NULL;
    }
    const uint8_t *bytes = reader->next;
    reader->next += len;
    return bytes;
}

static uint64_t take_integer(struct cm_reader *reader, size_t len) {
    const uint8_t *bytes = take(reader, len);
    uint64_t value = 0;
    for (size_t i = 0; bytes && i < len; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

uint8_t cm_read_u8(struct cm_reader *reader) {
    return (uint8_t)take_integer(reader, 1);
}

uint32_t cm_read_u32(struct cm_reader *reader) {
    return (uint32_t)take_integer(reader, 4);
}

uint64_t cm_read_u64(struct cm_reader *reader) {
    return take_integer(reader, 8);
}

struct cm_bytes cm_read_bytes(struct cm_reader *reader) {
    size_t len = cm_read_u32(reader);
    const uint8_t *bytes = take(reader, len);
    return bytes ? (struct cm_bytes){bytes, len} : (struct cm_bytes){(const uint8_t *)"", 0};
}

uint32_t cm_read_count(struct cm_reader *reader, size_t item_bytes) {
    uint32_t count = cm_read_u32(reader);
    if (count > (size_t)(reader->end - reader->next) / item_bytes) {
        reader->error = CM_E_BADFRAME;
        return 0;
    }
    return count;
}

size_t cm_reader_left(const struct cm_reader *reader) {
    return (size_t)(reader->end - reader->next);
}

int cm_reader_end(const struct cm_reader *reader) {
    return reader->error || reader->next != reader->end ? CM_E_BADFRAME : 0;
}

void cm_write_error(struct cm_writer *writer, int code, const char *text) {
    cm_write_u32(writer, 0U - (uint32_t)code);
    cm_write_bytes(writer, cm_bytes_of(text ? text : cm_error_text(code)));
}

int cm_read_error(struct cm_bytes payload, int *code, struct cm_bytes *text) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    uint32_t negated = cm_read_u32(&reader);
    *code = negated > 0 && negated <= INT32_MAX ? -(int)negated : CM_E_REMOTE;
    *text = cm_read_bytes(&reader);
    return cm_reader_end(&reader);
}
