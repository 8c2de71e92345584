#include "cluster/durable_record.h"

#include "base/error.h"
#include "cluster/durable.h"

enum { HEAD_BYTES = sizeof(uint64_t) + sizeof(uint32_t) };

bool cm_durable_record_parse(struct cm_bytes record, struct cm_bytes *name, struct cm_bytes *value) {
    struct cm_reader reader;
    cm_reader_init(&reader, record);
    *name = cm_read_bytes(&reader);
    *value = (struct cm_bytes){reader.next, cm_reader_left(&reader)};
    return !reader.error && name->len > 0 && name->len <= CM_DURABLE_MAX_NAME;
}

bool cm_durable_record_next(struct cm_reader *slice, uint64_t *number, struct cm_bytes *name,
                            struct cm_bytes *value) {
    if (cm_reader_left(slice) == 0)
        return false;
    *number = cm_read_u64(slice);
    return cm_durable_record_parse(cm_read_bytes(slice), name, value);
}

int cm_durable_record_begin(struct cm_buf *batch, uint64_t number, struct cm_bytes name) {
    struct cm_writer writer;
    cm_writer_init(&writer, batch);
    cm_write_u64(&writer, number);
    cm_write_u32(&writer, 0);
    cm_write_bytes(&writer, name);
    return writer.error;
}

int cm_durable_record_end(struct cm_buf *batch, size_t begun) {
    size_t record_bytes = batch->len - begun - HEAD_BYTES;
    if (record_bytes > UINT32_MAX)
        return CM_E_TOOLARGE;
    struct cm_writer writer;
    cm_writer_init(&writer, batch);
    cm_rewrite_u32(&writer, begun + sizeof(uint64_t), (uint32_t)record_bytes);
    return 0;
}

int cm_durable_record_remove(struct cm_buf *batch, uint64_t number) {
    struct cm_writer writer;
    cm_writer_init(&writer, batch);
    cm_write_u64(&writer, number);
    cm_write_u32(&writer, 0);
    return writer.error;
}
