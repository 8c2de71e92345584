/* What a process can ask the store for through the master: each operation, and whatever else it may send. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cluster/handlers.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "wire/message.h"
#include "wire/ops.h"

enum { MAX_VALUE_BYTES = 100 };

struct exchange {
    struct cm_store *store;
    struct cm_buf payload;
    struct cm_buf reply;
};

static void start(struct exchange *exchange) {
    *exchange = (struct exchange){0};
    assert_int_equal(cm_store_new(1 << 20, &exchange->store), 0);
}

static void end(struct exchange *exchange) {
    cm_store_free(exchange->store);
    cm_buf_deinit(&exchange->payload);
    cm_buf_deinit(&exchange->reply);
}

/* Does the operation with what has been written to the payload, from a copy of just that size, so that a
 * sanitizer sees a read behind it. */
static int do_op(struct exchange *exchange, uint8_t op, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, exchange->payload.data, len);
    exchange->reply.len = 0;
    int err = cm_handlers_do(exchange->store, MAX_VALUE_BYTES, op, (struct cm_bytes){copy, len}, 0,
                             &exchange->reply);
    free(copy);
    return err;
}

/* Writes the fields of a request; NULL is no field. */
static void write_fields(struct exchange *exchange, struct cm_bytes first, const char *second) {
    struct cm_writer writer;
    exchange->payload.len = 0;
    cm_writer_init(&writer, &exchange->payload);
    cm_write_bytes(&writer, first);
    if (second)
        cm_write_bytes(&writer, cm_bytes_of(second));
    assert_int_equal(writer.error, 0);
}

static int ask(struct exchange *exchange, uint8_t op, const char *key, const char *value) {
    write_fields(exchange, cm_bytes_of(key), value);
    return do_op(exchange, op, exchange->payload.len);
}

static void test_operations(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    struct cm_reader reader;

    assert_int_equal(ask(&exchange, CM_OP_GET, "key", NULL), CM_E_NOTFOUND);
    assert_int_equal(ask(&exchange, CM_OP_SET, "key", "value"), 0);
    cm_reader_init(&reader, cm_buf_view(&exchange.reply));
    uint64_t version = cm_read_u64(&reader);
    assert_int_equal(cm_reader_end(&reader), 0);
    assert_true(version > 0);

    assert_int_equal(ask(&exchange, CM_OP_GET, "key", NULL), 0);
    cm_reader_init(&reader, cm_buf_view(&exchange.reply));
    struct cm_bytes value = cm_read_bytes(&reader);
    assert_int_equal(value.len, 5);
    assert_memory_equal(value.data, "value", 5);
    assert_int_equal(cm_read_u64(&reader), version);
    assert_int_equal(cm_reader_end(&reader), 0);

    assert_int_equal(ask(&exchange, CM_OP_REMOVE, "key", NULL), 0);
    cm_reader_init(&reader, cm_buf_view(&exchange.reply));
    assert_true(cm_read_u64(&reader) > version);
    assert_int_equal(cm_reader_end(&reader), 0);
    assert_int_equal(ask(&exchange, CM_OP_GET, "key", NULL), CM_E_NOTFOUND);
    end(&exchange);
}

static void test_limits(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    char value[MAX_VALUE_BYTES + 2];
    memset(value, 'v', sizeof value);
    value[MAX_VALUE_BYTES + 1] = 0;
    assert_int_equal(ask(&exchange, CM_OP_SET, "key", value), CM_E_TOOLARGE);
    value[MAX_VALUE_BYTES] = 0;
    assert_int_equal(ask(&exchange, CM_OP_SET, "key", value), 0);

    static uint8_t key[CM_KEY_MAX_BYTES + 1];
    static const uint8_t ops[] = {CM_OP_SET, CM_OP_GET, CM_OP_REMOVE};
    for (size_t i = 0; i < sizeof ops; i++) {
        const char *second = ops[i] == CM_OP_SET ? "" : NULL;
        write_fields(&exchange, (struct cm_bytes){key, sizeof key}, second);
        assert_int_equal(do_op(&exchange, ops[i], exchange.payload.len), CM_E_BADFRAME);
        assert_int_equal(ask(&exchange, ops[i], "", second), CM_E_BADFRAME);
        write_fields(&exchange, (struct cm_bytes){key, sizeof key - 1}, second);
        assert_int_not_equal(do_op(&exchange, ops[i], exchange.payload.len), CM_E_BADFRAME);
    }
    end(&exchange);
}

/* Every payload that is too short or too long is refused, and so is every operation that is not the store's.
 */
static void test_malformed(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    static const uint8_t ops[] = {CM_OP_SET, CM_OP_GET, CM_OP_REMOVE};
    for (size_t i = 0; i < sizeof ops; i++) {
        write_fields(&exchange, cm_bytes_of("some key"), ops[i] == CM_OP_SET ? "some value" : NULL);
        size_t whole = exchange.payload.len;
        for (size_t len = 0; len < whole; len++)
            assert_int_equal(do_op(&exchange, ops[i], len), CM_E_BADFRAME);
        assert_int_equal(cm_buf_append(&exchange.payload, "x", 1), 0);
        assert_int_equal(do_op(&exchange, ops[i], whole + 1), CM_E_BADFRAME);
    }
    for (unsigned op = 0; op < 256; op++)
        if (op != CM_OP_SET && op != CM_OP_GET && op != CM_OP_REMOVE)
            assert_int_equal(do_op(&exchange, (uint8_t)op, exchange.payload.len), CM_E_BADFRAME);
    end(&exchange);
}

static void test_random_bytes(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    uint64_t random = 1;
    for (int round = 0; round < 20000; round++) {
        exchange.payload.len = 0;
        size_t len = random_below(&random, 40);
        for (size_t i = 0; i < len; i++) {
            /* Small numbers often, so that lengths are believed now and then. */
            uint8_t byte =
                (uint8_t)(random_below(&random, 3) ? random_below(&random, 12) : random_next(&random));
            assert_int_equal(cm_buf_append(&exchange.payload, &byte, 1), 0);
        }
        int err = do_op(&exchange, (uint8_t)(1 + random_below(&random, 3)), len);
        assert_true(err == 0 || err == CM_E_BADFRAME || err == CM_E_NOTFOUND);
    }
    end(&exchange);
}

/* Without memory an operation says so, and the store is as it was. */
static int without_memory(void *data) {
    (void)data;
    struct cm_store *store;
    int err = cm_store_new(1 << 20, &store);
    if (err)
        return err;
    struct cm_buf reply = {0};
    static const uint8_t set[] = {1, 0, 0, 0, 'k', 1, 0, 0, 0, 'v'};
    static const uint8_t get[] = {1, 0, 0, 0, 'k'};
    int set_err =
        cm_handlers_do(store, MAX_VALUE_BYTES, CM_OP_SET, (struct cm_bytes){set, sizeof set}, 0, &reply);
    uint64_t entries;
    uint64_t bytes;
    cm_store_usage(store, &entries, &bytes);
    /* An entry that is there without its reply is no fault: the sender dies of a reply that cannot be made.
     */
    assert_true(set_err == 0 ? entries == 1 : set_err == CM_E_NOMEMORY && entries <= 1);
    err = cm_handlers_do(store, MAX_VALUE_BYTES, CM_OP_GET, (struct cm_bytes){get, sizeof get}, 0, &reply);
    if (entries == 0)
        assert_int_equal(err, CM_E_NOTFOUND);
    cm_buf_deinit(&reply);
    cm_store_free(store);
    return set_err ? set_err : err;
}

static void test_without_memory(void **state) {
    (void)state;
    alloc_failure_each(without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
