/* The input's first byte is the number of items to read, the bytes after it their kinds, the rest is the
 * payload. What was read without a failure is written again and must be the payload's beginning. */
#include <stdbool.h>

#include "base/error.h"
#include "spec/fuzz/fuzz.h"
#include "wire/message.h"

enum { U8, U32, U64, BYTES, COUNT, KINDS };

static void copy_item(struct cm_reader *reader, struct cm_writer *writer, unsigned kind) {
    bool failed = reader->error;
    uint64_t number = 0;
    struct cm_bytes bytes;
    switch (kind % KINDS) {
    case U8:
        cm_write_u8(writer, (uint8_t)(number = cm_read_u8(reader)));
        break;
    case U32:
        cm_write_u32(writer, (uint32_t)(number = cm_read_u32(reader)));
        break;
    case U64:
        cm_write_u64(writer, number = cm_read_u64(reader));
        break;
    case BYTES:
        bytes = cm_read_bytes(reader);
        MUST(bytes.data && (!reader->error || bytes.len == 0));
        cm_write_bytes(writer, bytes);
        break;
    default:
        cm_write_u32(writer, (uint32_t)(number = cm_read_count(reader, 1 + kind / KINDS)));
        MUST(number * (1 + kind / KINDS) <= (size_t)(reader->end - reader->next));
        break;
    }
    MUST(!failed || reader->error);
    MUST(!reader->error || number == 0);
}

static void copy_items(const uint8_t *kinds, size_t count, struct cm_bytes payload) {
    struct cm_buf buf = {0};
    struct cm_writer writer;
    struct cm_reader reader;
    cm_writer_init(&writer, &buf);
    cm_reader_init(&reader, payload);
    size_t good_len = 0;
    for (size_t i = 0; i < count; i++) {
        copy_item(&reader, &writer, kinds[i]);
        MUST(writer.error == 0 && reader.next <= reader.end);
        if (!reader.error) {
            good_len = buf.len;
            MUST(good_len == (size_t)(reader.next - payload.data));
        }
    }
    MUST(good_len <= payload.len && (!good_len || memcmp(buf.data, payload.data, good_len) == 0));
    MUST((cm_reader_end(&reader) == 0) == (!reader.error && good_len == payload.len));
    cm_buf_deinit(&buf);
}

static void copy_error(struct cm_bytes payload) {
    int code = 0, again = 0;
    struct cm_bytes text, text_again;
    if (cm_read_error(payload, &code, &text))
        return;
    MUST(code < 0);
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    if (!memchr(text.data, 0, text.len)) { /* the writer takes C strings */
        char *string = calloc(1, text.len + 1);
        MUST(string);
        memcpy(string, text.data, text.len);
        cm_write_error(&writer, code, string);
        MUST(writer.error == 0);
        MUST(cm_read_error(cm_buf_view(&buf), &again, &text_again) == 0 && again == code);
        MUST(text_again.len == text.len && memcmp(text_again.data, text.data, text.len) == 0);
        free(string);
    }
    cm_buf_deinit(&buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    size_t count = data[0] < size - 1 ? data[0] : size - 1;
    size_t len = size - 1 - count;
    uint8_t *payload = exact_copy(data + 1 + count, len);
    copy_items(data + 1, count, (struct cm_bytes){payload, len});
    copy_error((struct cm_bytes){payload, len});
    free(payload);
    return 0;
}
