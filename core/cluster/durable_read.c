#include <stdio.h>

#include "cluster/durable.h"
#include "cluster/durable_file.h"
#include "cluster/durable_record.h"

enum { KEEP_BYTES = 2 * CM_DURABLE_SLICE_BYTES }; /* a buffer larger than this is given back */

static int visit_slice(struct cm_bytes bytes, cm_durable_visit_fn visit, void *data) {
    struct cm_reader slice;
    uint64_t number;
    struct cm_bytes name;
    struct cm_bytes value;
    int err = 0;
    cm_reader_init(&slice, bytes);
    while (!err && cm_durable_record_next(&slice, &number, &name, &value))
        err = visit(data, number, name, value);
    return err;
}

static int visit_all(struct cm_durable_file *file, cm_durable_visit_fn visit, void *data, char *text) {
    struct cm_buf slice = {0};
    uint64_t from = 1;
    int err = 0;
    while (!err && from) {
        cm_buf_reset(&slice, KEEP_BYTES);
        err = cm_durable_file_read(file, &from, &slice, text);
        if (!err)
            err = visit_slice(cm_buf_view(&slice), visit, data);
    }
    cm_buf_deinit(&slice);
    return err;
}

int cm_durable_read(const char *filename, cm_durable_visit_fn visit, void *data, char *text,
                    size_t text_bytes) {
    char line[CM_DURABLE_TEXT_BYTES] = "";
    struct cm_durable_file file;
    int err = cm_durable_file_open(&file, filename, false, line);
    if (!err) {
        err = visit_all(&file, visit, data, line);
        cm_durable_file_close(&file, false, line);
    }
    snprintf(text, text_bytes, "%s", line);
    return err;
}
