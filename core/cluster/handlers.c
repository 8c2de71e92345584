#include "cluster/handlers.h"

#include <stdlib.h>

#include "base/error.h"
#include "wire/message.h"
#include "wire/ops.h"

struct request {
    struct cm_store *store;
    struct cm_lru *lru;
    struct cm_lockq *locks;
    uint32_t max_value_bytes;
    struct cm_reader in;
    struct cm_writer out;
};

/* --- reading: what does not fit marks the reader, and the request goes no further than its end --- */

/* Who sends no key, or one too long, has gone past the checks of our own library. */
static struct cm_bytes read_key(struct request *request) {
    struct cm_bytes key = cm_read_bytes(&request->in);
    if (key.len == 0 || key.len > CM_KEY_MAX_BYTES)
        request->in.error = CM_E_BADFRAME;
    return key;
}

/* A ttl, as the time at which it is over; 0: never. */
static uint64_t read_expiry(struct request *request) {
    uint64_t ttl_ms = cm_read_u64(&request->in);
    if (ttl_ms > CM_TTL_MAX_MS)
        request->in.error = CM_E_BADFRAME;
    return ttl_ms ? request->store->clock_ms() + ttl_ms : 0;
}

static struct cm_change read_change(struct request *request) {
    uint8_t flags = cm_read_u8(&request->in);
    if (flags & ~CM_CHANGE_FLAGS)
        request->in.error = CM_E_BADFRAME;
    struct cm_change change = {.if_absent = flags & CM_CHANGE_IF_ABSENT,
                               .if_present = flags & CM_CHANGE_IF_PRESENT,
                               .if_version = flags & CM_CHANGE_IF_VERSION,
                               .cleared = flags & CM_CHANGE_CLEARED,
                               .keep_expiry = flags & CM_CHANGE_KEEP_TTL,
                               .version = cm_read_u64(&request->in)};
    change.expires_ms = read_expiry(request);
    change.fence.token = cm_read_u64(&request->in);
    change.fence.slot = cm_read_u32(&request->in);
    return change;
}

static struct cm_number read_number(struct request *request) {
    struct cm_number number = {0};
    if (cm_number_decode(cm_read_bytes(&request->in), &number))
        request->in.error = CM_E_BADFRAME;
    return number;
}

/* A number is kept as one. */
static struct cm_value read_value(struct request *request) {
    struct cm_value value = {.bytes = cm_read_bytes(&request->in)};
    value.is_number = cm_number_decode(value.bytes, &value.number) == 0;
    return value;
}

/* --- fences: a lock's owner may give its lock back meanwhile, so the queue keeps it --- */

static int begin_fence(struct request *request, struct cm_change *change, struct cm_lock_id *fence) {
    *fence = change->fence;
    change->fence = (struct cm_lock_id){0}; /* checked here, for it may be in the master's memory */
    return !fence->token || cm_lockq_fence_begin(request->locks, *fence) ? 0 : CM_E_NOTOWNER;
}

static void end_fence(struct request *request, struct cm_lock_id fence) {
    if (fence.token)
        cm_lockq_fence_end(request->locks, fence);
}

/* --- the operations --- */

static int do_set(struct request *request) {
    struct cm_bytes key = read_key(request);
    struct cm_value value = read_value(request);
    struct cm_change change = read_change(request);
    int err = cm_reader_end(&request->in);
    if (err)
        return err;
    if (!value.is_number && value.bytes.len > request->max_value_bytes)
        return CM_E_TOOLARGE;
    uint64_t version;
    struct cm_lock_id fence;
    err = begin_fence(request, &change, &fence);
    if (!err)
        err = cm_store_set(request->store, key, &value, &change, &version);
    end_fence(request, fence);
    if (!err)
        cm_write_u64(&request->out, version);
    return err;
}

static int do_remove(struct request *request) {
    struct cm_bytes key = read_key(request);
    struct cm_change change = read_change(request);
    int err = cm_reader_end(&request->in);
    if (err)
        return err;
    uint64_t version;
    struct cm_lock_id fence;
    err = begin_fence(request, &change, &fence);
    if (!err)
        err = cm_store_remove(request->store, key, &change, &version);
    end_fence(request, fence);
    if (!err)
        cm_write_u64(&request->out, version);
    return err;
}

static int do_increment(struct request *request) {
    struct cm_bytes key = read_key(request);
    struct cm_number delta = read_number(request);
    struct cm_number initial = read_number(request);
    uint64_t expires_ms = read_expiry(request);
    int err = cm_reader_end(&request->in);
    if (err)
        return err;
    struct cm_number sum;
    uint64_t version;
    err = cm_store_increment(request->store, key, delta, initial, expires_ms, &sum, &version);
    if (err)
        return err;
    uint8_t space[CM_NUMBER_BYTES];
    cm_write_bytes(&request->out, cm_number_encode(sum, space));
    cm_write_u64(&request->out, version);
    return 0;
}

static int do_set_many(struct request *request) {
    enum { LEAST_PAIR_BYTES = 9 }; /* two lengths and a key of one byte */
    uint32_t count = cm_read_count(&request->in, LEAST_PAIR_BYTES);
    struct cm_pair *pairs = calloc(count ? count : 1, sizeof *pairs);
    if (!pairs)
        return CM_E_NOMEMORY;
    int err = 0;
    for (uint32_t i = 0; i < count; i++) {
        pairs[i].key = read_key(request);
        pairs[i].value = read_value(request);
        if (!pairs[i].value.is_number && pairs[i].value.bytes.len > request->max_value_bytes)
            err = CM_E_TOOLARGE;
    }
    if (cm_reader_end(&request->in))
        err = CM_E_BADFRAME;
    if (!err)
        err = cm_store_set_many(request->store, pairs, count);
    free(pairs);
    return err;
}

static int do_expire(struct request *request) {
    struct cm_bytes key = read_key(request);
    uint64_t expires_ms = read_expiry(request);
    int err = cm_reader_end(&request->in);
    return err ? err : cm_store_expire(request->store, key, expires_ms);
}

static int do_lru_set(struct request *request) {
    struct cm_bytes key = read_key(request);
    struct cm_bytes value = cm_read_bytes(&request->in);
    uint64_t max_age_ms = cm_read_u64(&request->in);
    if (max_age_ms > CM_LRU_AGE_MOST_MS && max_age_ms != CM_LRU_DEFAULT_AGE)
        request->in.error = CM_E_BADFRAME;
    int err = cm_reader_end(&request->in);
    if (err)
        return err;
    if (value.len > request->max_value_bytes)
        return CM_E_TOOLARGE;
    return cm_lru_set(request->lru, key, value, max_age_ms);
}

static int do_lru_remove(struct request *request) {
    struct cm_bytes key = read_key(request);
    int err = cm_reader_end(&request->in);
    if (!err)
        cm_lru_remove(request->lru, key);
    return err;
}

static int do_lru_clear(struct request *request) {
    int err = cm_reader_end(&request->in);
    if (!err)
        cm_lru_clear(request->lru);
    return err;
}

static bool read_flag(struct request *request) {
    uint8_t flag = cm_read_u8(&request->in);
    if (flag > 1)
        request->in.error = CM_E_BADFRAME;
    return flag;
}

static int do_lru_options(struct request *request) {
    struct cm_lru_options options = {.most_entries = cm_read_u64(&request->in)};
    options.most_bytes = cm_read_u64(&request->in);
    options.max_age_ms = cm_read_u32(&request->in);
    options.update_age = read_flag(request);
    options.stale = read_flag(request);
    int err = cm_reader_end(&request->in);
    return err ? err : cm_lru_start(request->lru, &options);
}

int cm_handlers_do(const struct cm_handlers *handlers, uint8_t op, struct cm_bytes payload,
                   struct cm_buf *reply) {
    static int (*const operations[])(struct request *) = {
        [CM_OP_SET] = do_set,
        [CM_OP_REMOVE] = do_remove,
        [CM_OP_INCREMENT] = do_increment,
        [CM_OP_SET_MANY] = do_set_many,
        [CM_OP_EXPIRE] = do_expire,
        [CM_OP_LRU_SET] = do_lru_set,
        [CM_OP_LRU_REMOVE] = do_lru_remove,
        [CM_OP_LRU_CLEAR] = do_lru_clear,
        [CM_OP_LRU_OPTIONS] = do_lru_options,
    };
    if (op >= sizeof operations / sizeof *operations || !operations[op])
        return CM_E_BADFRAME;
    struct request request = {.store = handlers->lru->store,
                              .lru = handlers->lru,
                              .locks = handlers->locks,
                              .max_value_bytes = handlers->max_value_bytes};
    cm_reader_init(&request.in, payload);
    cm_writer_init(&request.out, reply);
    int err = operations[op](&request);
    return err ? err : request.out.error;
}
