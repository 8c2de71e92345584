#include "cluster/stored.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/durable.h"
#include "data/json.h"
#include "wire/message.h"

int cm_stored_write(struct cm_bytes body, uint64_t now_ms, uint64_t wall_ms, struct cm_buf *out) {
    struct cm_writer writer;
    cm_writer_init(&writer, out);
    cm_write_u64(&writer, wall_ms - now_ms);
    return writer.error ? writer.error : cm_buf_append(out, body.data, body.len);
}

int cm_stored_read(struct cm_bytes bytes, uint64_t wall_ms, uint64_t *now_ms, struct cm_bytes *body) {
    struct cm_reader reader;
    cm_reader_init(&reader, bytes);
    *now_ms = wall_ms - cm_read_u64(&reader);
    *body = (struct cm_bytes){reader.next, cm_reader_left(&reader)};
    return reader.error || !body->len ? CM_E_BADVALUE : 0;
}

struct export {
    FILE *out;
    struct cm_buf line;
    const char *before; /* the next line */
};

/* A stream says why it failed in errno alone. */
static int failure(void) {
    return errno ? -errno : -EIO;
}

static int write_document(struct export *export, struct cm_bytes name, struct cm_bytes body,
                          uint64_t now_ms) {
    export->line.len = 0;
    int err = cm_buf_append(&export->line, export->before, strlen(export->before));
    if (!err)
        err = cm_json_string(name, &export->line);
    if (!err)
        err = cm_buf_append(&export->line, ": ", 2);
    if (!err)
        err = cm_json_write(body, now_ms, true, &export->line);
    if (err)
        return err == CM_E_NOTFOUND ? 0 : err; /* expired */
    export->before = ",\n";
    errno = 0;
    return fwrite(export->line.data, 1, export->line.len, export->out) == export->line.len ? 0 : failure();
}

static int export_document(void *data, uint64_t number, struct cm_bytes name, struct cm_bytes bytes) {
    (void)number;
    struct cm_bytes body;
    uint64_t now_ms;
    int err = cm_stored_read(bytes, cm_clock_wall_ms(), &now_ms, &body);
    return err ? err : write_document(data, name, body, now_ms);
}

int cm_stored_export(const char *filename, FILE *out, char *text, size_t text_bytes) {
    struct export export = {.out = out, .before = "{\n"};
    text[0] = 0;
    int err = cm_durable_read(filename, export_document, &export, text, text_bytes);
    cm_buf_deinit(&export.line);
    errno = 0;
    if (!err && (fputs(export.before[0] == ',' ? "\n}\n" : "{}\n", out) < 0 || fflush(out)))
        err = failure();
    if (err && !text[0])
        snprintf(text, text_bytes, "cannot write the documents of %s: %s", filename, cm_error_text(err));
    return err;
}
