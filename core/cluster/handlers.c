#include "cluster/handlers.h"

#include "base/error.h"
#include "wire/message.h"
#include "wire/ops.h"

struct request {
    struct cm_store *store;
    uint32_t max_value_bytes;
    uint64_t now_ms;
    struct cm_reader in;
    struct cm_writer out;
};

/* The key at the head of each payload. Who sends none, or one too long, has gone past the checks of our own
 * library. */
static struct cm_bytes read_key(struct request *request) {
    struct cm_bytes key = cm_read_bytes(&request->in);
    if (key.len == 0 || key.len > CM_KEY_MAX_BYTES)
        request->in.error = CM_E_BADFRAME;
    return key;
}

static int do_set(struct request *request) {
    struct cm_bytes key = read_key(request);
    struct cm_bytes value = cm_read_bytes(&request->in);
    int err = cm_reader_end(&request->in);
    if (err)
        return err;
    if (value.len > request->max_value_bytes)
        return CM_E_TOOLARGE;
    uint64_t version;
    err = cm_store_set(request->store, key, value, 0, request->now_ms, &version);
    if (!err)
        cm_write_u64(&request->out, version);
    return err;
}

static int do_get(struct request *request) {
    struct cm_bytes key = read_key(request);
    int err = cm_reader_end(&request->in);
    if (err)
        return err;
    struct cm_bytes value;
    uint64_t version;
    err = cm_store_get(request->store, key, request->now_ms, &value, &version);
    if (err)
        return err;
    cm_write_bytes(&request->out, value);
    cm_write_u64(&request->out, version);
    return 0;
}

static int do_remove(struct request *request) {
    struct cm_bytes key = read_key(request);
    int err = cm_reader_end(&request->in);
    if (err)
        return err;
    uint64_t version;
    err = cm_store_remove(request->store, key, request->now_ms, &version);
    if (!err)
        cm_write_u64(&request->out, version);
    return err;
}

int cm_handlers_do(struct cm_store *store, uint32_t max_value_bytes, uint8_t op, struct cm_bytes payload,
                   uint64_t now_ms, struct cm_buf *reply) {
    struct request request = {.store = store, .max_value_bytes = max_value_bytes, .now_ms = now_ms};
    cm_reader_init(&request.in, payload);
    cm_writer_init(&request.out, reply);
    int err;
    switch (op) {
    case CM_OP_SET:
        err = do_set(&request);
        break;
    case CM_OP_GET:
        err = do_get(&request);
        break;
    case CM_OP_REMOVE:
        err = do_remove(&request);
        break;
    default:
        return CM_E_BADFRAME;
    }
    return err ? err : request.out.error;
}
