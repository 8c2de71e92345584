/* The input's first byte picks the payload's kind. What is read is written the same way. */
#include "base/error.h"
#include "spec/fuzz/fuzz.h"
#include "wire/control.h"

/* Writes what was read: the same bytes, but for bytes that mean a boolean, where each that is not zero is
 * true. */
static void same_again(struct cm_bytes payload, struct cm_buf *buf, const struct cm_writer *writer) {
    MUST(writer->error == 0 && buf->len == payload.len);
}

static void try_script(struct cm_bytes payload) {
    struct cm_script script;
    struct cm_reader reader;
    MUST(cm_script_init(&script) == 0);
    cm_reader_init(&reader, payload);
    int err = cm_script_read(&reader, &script);
    MUST(err == 0 || err == CM_E_BADFRAME);
    if (err == 0 && cm_reader_end(&reader) == 0) {
        struct cm_buf buf = {0};
        struct cm_writer writer;
        cm_writer_init(&writer, &buf);
        cm_script_write(&writer, &script);
        same_again(payload, &buf, &writer);
        MUST(memcmp(buf.data, payload.data, buf.len) == 0);
        cm_buf_deinit(&buf);
    }
    cm_script_deinit(&script);
}

static void try_init(struct cm_bytes payload) {
    struct cm_init init;
    int err = cm_init_read(payload, &init);
    MUST(err == 0 || err == CM_E_BADFRAME);
    if (err == 0) {
        struct cm_buf buf = {0};
        struct cm_writer writer;
        cm_writer_init(&writer, &buf);
        cm_init_write(&writer, &init);
        same_again(payload, &buf, &writer);
        struct cm_init again;
        MUST(cm_init_read(cm_buf_view(&buf), &again) == 0 && again.row_count == init.row_count);
        cm_init_deinit(&again);
        cm_buf_deinit(&buf);
    }
    cm_init_deinit(&init);
}

static void try_event(struct cm_bytes payload) {
    struct cm_process_event event;
    int err = cm_process_event_read(payload, &event);
    MUST(err == 0 || err == CM_E_BADFRAME);
    if (err)
        return;
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    cm_process_event_write(&writer, &event);
    same_again(payload, &buf, &writer);
    MUST(memcmp(buf.data, payload.data, buf.len - 1) == 0);
    cm_buf_deinit(&buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    uint8_t *copy = exact_copy(data + 1, size - 1);
    struct cm_bytes payload = {copy, size - 1};
    switch (data[0] % 3) {
    case 0:
        try_script(payload);
        break;
    case 1:
        try_init(payload);
        break;
    default:
        try_event(payload);
        break;
    }
    free(copy);
    return 0;
}
