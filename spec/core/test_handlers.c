/* What a process can ask the master to do to the store: each operation, and whatever else it may send. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cluster/handlers.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/stores.h"
#include "spec/core/test.h"
#include "wire/message.h"
#include "wire/ops.h"

enum { MAX_VALUE_BYTES = 100, LAST_OP = CM_OP_EXPIRE, SEATS = 2, START_MS = 1000 };

struct exchange {
    struct stores stores;
    struct cm_store *store; /* the master's */
    struct cm_lru lru;
    struct cm_buf found; /* the value that was read last */
    struct cm_buf payload;
    struct cm_writer out; /* to the payload */
    struct cm_buf reply;
    struct cm_reader in; /* from the reply */
};

static struct cm_lockq locks; /* nobody has a lock: every fence is refused */

static const struct cm_handlers *handlers_of(struct cm_lru *lru) {
    static struct cm_handlers handlers;
    handlers = (struct cm_handlers){lru, &locks, MAX_VALUE_BYTES};
    return &handlers;
}

static void start(struct exchange *exchange) {
    *exchange = (struct exchange){0};
    assert_int_equal(stores_open(&exchange->stores, 16 << 20, SEATS, 1), 0);
    stores_turn(START_MS);
    exchange->store = stores_master(&exchange->stores);
    assert_int_equal(cm_lockq_init(&locks, exchange->store->participant), 0);
    cm_lru_init(&exchange->lru, exchange->store);
    assert_int_equal(cm_lru_start(&exchange->lru, &(struct cm_lru_options){.most_entries = 10}), 0);
}

static void end(struct exchange *exchange) {
    cm_lockq_deinit(&locks);
    stores_close(&exchange->stores);
    cm_buf_deinit(&exchange->found);
    cm_buf_deinit(&exchange->payload);
    cm_buf_deinit(&exchange->reply);
}

/* Does the operation with the first bytes of the payload, in a copy of just that size, so that a sanitizer
 * sees a read behind it. */
static int do_cut(struct exchange *exchange, unsigned op, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, exchange->payload.data, len);
    exchange->reply.len = 0;
    int err = cm_handlers_do(handlers_of(&exchange->lru), (uint8_t)op, (struct cm_bytes){copy, len},
                             &exchange->reply);
    free(copy);
    cm_reader_init(&exchange->in, cm_buf_view(&exchange->reply));
    return err;
}

static int ask(struct exchange *exchange, unsigned op) {
    assert_int_equal(exchange->out.error, 0);
    return do_cut(exchange, op, exchange->payload.len);
}

/* --- requests */

static struct cm_writer *begin(struct exchange *exchange) {
    exchange->payload.len = 0;
    cm_writer_init(&exchange->out, &exchange->payload);
    return &exchange->out;
}

static struct cm_writer *begin_key(struct exchange *exchange, const char *key) {
    cm_write_bytes(begin(exchange), cm_bytes_of(key));
    return &exchange->out;
}

static void write_change(struct exchange *exchange, uint8_t flags, uint64_t version, uint64_t ttl_ms) {
    cm_write_u8(&exchange->out, flags);
    cm_write_u64(&exchange->out, version);
    cm_write_u64(&exchange->out, ttl_ms);
    cm_write_u64(&exchange->out, 0); /* no fence */
    cm_write_u32(&exchange->out, 0);
}

static void write_integer(struct exchange *exchange, int64_t integer) {
    uint8_t space[CM_NUMBER_BYTES];
    cm_write_bytes(&exchange->out, cm_number_encode((struct cm_number){.integer = integer}, space));
}

static int set(struct exchange *exchange, const char *key, const char *value, uint8_t flags, uint64_t version,
               uint64_t ttl_ms) {
    cm_write_bytes(begin_key(exchange, key), cm_bytes_of(value));
    write_change(exchange, flags, version, ttl_ms);
    return ask(exchange, CM_OP_SET);
}

static int drop(struct exchange *exchange, const char *key, uint8_t flags, uint64_t version) {
    begin_key(exchange, key);
    write_change(exchange, flags, version, 0);
    return ask(exchange, CM_OP_REMOVE);
}

static int increment(struct exchange *exchange, const char *key, int64_t delta, int64_t initial,
                     uint64_t ttl_ms) {
    begin_key(exchange, key);
    write_integer(exchange, delta);
    write_integer(exchange, initial);
    cm_write_u64(&exchange->out, ttl_ms);
    return ask(exchange, CM_OP_INCREMENT);
}

static int expire(struct exchange *exchange, const char *key, uint64_t ttl_ms) {
    cm_write_u64(begin_key(exchange, key), ttl_ms);
    return ask(exchange, CM_OP_EXPIRE);
}

/* --- replies, and what is there */

static uint64_t read_last_u64(struct exchange *exchange) {
    uint64_t number = cm_read_u64(&exchange->in);
    assert_int_equal(cm_reader_end(&exchange->in), 0);
    return number;
}

static void assert_no_more(struct exchange *exchange) {
    assert_int_equal(cm_reader_end(&exchange->in), 0);
}

static void assert_bytes(struct cm_bytes bytes, const char *expected) {
    assert_int_equal(bytes.len, strlen(expected));
    assert_memory_equal(bytes.data, expected, bytes.len);
}

/* 0 where there is nothing. */
static uint64_t version_of(struct exchange *exchange, const char *key) {
    uint64_t version;
    int err = cm_store_get(exchange->store, cm_bytes_of(key), NULL, NULL, &version, NULL);
    assert_int_equal(err, version ? 0 : CM_E_NOTFOUND);
    return version;
}

/* How long the entry still has; 0: for ever. */
static uint64_t ttl_of(struct exchange *exchange, const char *key) {
    uint64_t expires_ms;
    assert_int_equal(cm_store_get(exchange->store, cm_bytes_of(key), NULL, NULL, NULL, &expires_ms), 0);
    return expires_ms ? expires_ms - stores_clock() : 0;
}

static void assert_value(struct exchange *exchange, const char *key, const char *expected) {
    struct cm_value value;
    int err = cm_store_get(exchange->store, cm_bytes_of(key), &exchange->found, &value, NULL, NULL);
    assert_int_equal(err, expected ? 0 : CM_E_NOTFOUND);
    if (!expected)
        return;
    assert_false(value.is_number);
    assert_bytes(value.bytes, expected);
}

static void assert_integer(struct exchange *exchange, const char *key, int64_t expected) {
    struct cm_value value;
    assert_int_equal(cm_store_get(exchange->store, cm_bytes_of(key), &exchange->found, &value, NULL, NULL),
                     0);
    assert_true(value.is_number && !value.number.is_float);
    assert_true(value.number.integer == expected);
}

static uint64_t entries(struct exchange *exchange) {
    struct cm_store_stats stats;
    cm_store_stats(exchange->store, &stats);
    return stats.entries;
}

/* --- each operation */

static void set_and_remove(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(set(&exchange, "key", "value", 0, 0, 0), 0);
    uint64_t version = read_last_u64(&exchange);
    assert_true(version > 0);
    assert_int_equal(version_of(&exchange, "key"), version);
    assert_value(&exchange, "key", "value");
    assert_int_equal(drop(&exchange, "key", 0, 0), 0);
    assert_true(read_last_u64(&exchange) > version);
    assert_value(&exchange, "key", NULL);
    assert_int_equal(drop(&exchange, "key", 0, 0), 0);
    assert_int_equal(read_last_u64(&exchange), 0);
    end(&exchange);
}

static void conditions(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(set(&exchange, "key", "first", CM_CHANGE_IF_PRESENT, 0, 0), CM_E_NOTFOUND);
    assert_int_equal(set(&exchange, "key", "first", CM_CHANGE_IF_VERSION, 1, 0), CM_E_CONFLICT);
    assert_int_equal(entries(&exchange), 0);
    assert_int_equal(set(&exchange, "key", "first", CM_CHANGE_IF_ABSENT, 7, 0), 0);
    uint64_t version = read_last_u64(&exchange);
    assert_int_equal(set(&exchange, "key", "second", CM_CHANGE_IF_ABSENT, 0, 0), CM_E_EXISTS);
    assert_int_equal(set(&exchange, "key", "second", CM_CHANGE_IF_VERSION, 0, 0), CM_E_CONFLICT);
    assert_int_equal(set(&exchange, "key", "second", CM_CHANGE_IF_VERSION, version + 1, 0), CM_E_CONFLICT);
    assert_value(&exchange, "key", "first");
    assert_int_equal(set(&exchange, "key", "second", CM_CHANGE_IF_VERSION, version, 0), 0);
    assert_true(read_last_u64(&exchange) > version);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, version), CM_E_CONFLICT);
    assert_value(&exchange, "key", "second");
    version = version_of(&exchange, "key");
    assert_int_equal(set(&exchange, "key", "third", CM_CHANGE_IF_PRESENT, 0, 0), 0);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, version), CM_E_CONFLICT);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, version_of(&exchange, "key")), 0);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, 0), 0);
    assert_int_equal(set(&exchange, "key", "fourth", CM_CHANGE_IF_VERSION, 0, 0), 0);
    end(&exchange);
}

static void times(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    uint64_t now_ms = START_MS;
    assert_int_equal(expire(&exchange, "key", 5), CM_E_NOTFOUND);
    assert_int_equal(set(&exchange, "key", "first", 0, 0, 30), 0);
    stores_turn(now_ms += 10);
    assert_int_equal(ttl_of(&exchange, "key"), 20);
    assert_int_equal(set(&exchange, "key", "second", CM_CHANGE_KEEP_TTL, 0, 500), 0);
    assert_int_equal(ttl_of(&exchange, "key"), 20);
    stores_turn(now_ms += 19);
    assert_int_equal(ttl_of(&exchange, "key"), 1);
    assert_int_equal(expire(&exchange, "key", 7), 0);
    assert_no_more(&exchange);
    stores_turn(now_ms += 6);
    assert_value(&exchange, "key", "second");
    stores_turn(now_ms + 1);
    assert_int_equal(expire(&exchange, "key", 7), CM_E_NOTFOUND);
    assert_value(&exchange, "key", NULL);
    /* A new entry has no ttl to keep, and takes the one given. */
    assert_int_equal(set(&exchange, "key", "third", CM_CHANGE_KEEP_TTL, 0, 40), 0);
    assert_int_equal(ttl_of(&exchange, "key"), 40);
    assert_int_equal(expire(&exchange, "key", 0), 0);
    assert_int_equal(ttl_of(&exchange, "key"), 0);
    assert_int_equal(expire(&exchange, "key", 40), 0);
    assert_int_equal(set(&exchange, "key", "third", 0, 0, 0), 0);
    stores_turn(UINT64_MAX);
    assert_value(&exchange, "key", "third");
    end(&exchange);
}

static void numbers(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    const int64_t sums[] = {107, 114};
    uint64_t last = 0;
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(increment(&exchange, "n", 7, 100, 50), 0);
        struct cm_number sum;
        assert_int_equal(cm_number_decode(cm_read_bytes(&exchange.in), &sum), 0);
        assert_false(sum.is_float);
        assert_int_equal(sum.integer, sums[i]);
        uint64_t version = read_last_u64(&exchange);
        assert_true(version > last);
        last = version;
        stores_turn(START_MS + 10 * (i + 1));
    }
    assert_int_equal(ttl_of(&exchange, "n"), 30); /* of its creation */
    assert_int_equal(increment(&exchange, "n", INT64_MAX, 0, 0), CM_E_BADVALUE);
    assert_int_equal(increment(&exchange, "new", INT64_MIN, -1, 0), CM_E_BADVALUE);
    assert_int_equal(entries(&exchange), 1);
    assert_integer(&exchange, "n", 114);
    assert_int_equal(set(&exchange, "n", "text", 0, 0, 0), 0);
    assert_int_equal(increment(&exchange, "n", 1, 0, 0), CM_E_BADVALUE);
    assert_value(&exchange, "n", "text");
    /* What comes as the bytes of a number is one. */
    assert_int_equal(set(&exchange, "n", "\x05", 0, 0, 0), 0);
    assert_integer(&exchange, "n", 5);
    assert_int_equal(increment(&exchange, "n", 1, 0, 0), 0);
    assert_integer(&exchange, "n", 6);
    end(&exchange);
}

static void many(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    cm_write_u32(begin(&exchange), 0);
    assert_int_equal(ask(&exchange, CM_OP_SET_MANY), 0);
    assert_no_more(&exchange);
    assert_int_equal(entries(&exchange), 0);
    cm_write_u32(begin(&exchange), 3);
    const char *const pairs[] = {"a", "\xa1one", "b", "", "a", "\xa5three"};
    for (size_t i = 0; i < 6; i++)
        cm_write_bytes(&exchange.out, cm_bytes_of(pairs[i]));
    assert_int_equal(ask(&exchange, CM_OP_SET_MANY), 0);
    assert_no_more(&exchange);
    assert_value(&exchange, "a", "\xa5three");
    assert_value(&exchange, "b", "");
    end(&exchange);
}

/* --- bounds */

static void values_have_a_limit(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    char value[MAX_VALUE_BYTES + 2];
    memset(value, 'v', sizeof value);
    for (int over = 1; over >= 0; over--) {
        value[MAX_VALUE_BYTES + over] = 0;
        assert_int_equal(set(&exchange, "key", value, 0, 0, 0), over ? CM_E_TOOLARGE : 0);
        cm_write_u32(begin(&exchange), 2);
        const char *const pairs[] = {"a", "1", "b", value};
        for (size_t i = 0; i < 4; i++)
            cm_write_bytes(&exchange.out, cm_bytes_of(pairs[i]));
        assert_int_equal(ask(&exchange, CM_OP_SET_MANY), over ? CM_E_TOOLARGE : 0);
        assert_int_equal(entries(&exchange), over ? 0 : 3);
    }
    end(&exchange);
}

/* The request of the operation with this key. */
static void write_with_key(struct exchange *exchange, unsigned op, struct cm_bytes key) {
    begin(exchange);
    if (op == CM_OP_SET_MANY)
        cm_write_u32(&exchange->out, 1);
    if (op != CM_OP_LRU_CLEAR && op != CM_OP_LRU_OPTIONS)
        cm_write_bytes(&exchange->out, key);
    if (op == CM_OP_LRU_SET) {
        cm_write_bytes(&exchange->out, cm_bytes_of("cached"));
        cm_write_u64(&exchange->out, 50);
    }
    if (op == CM_OP_LRU_OPTIONS) {
        cm_write_u64(&exchange->out, 2);
        cm_write_u64(&exchange->out, 1000);
        cm_write_u32(&exchange->out, 70);
        cm_write_u8(&exchange->out, 0);
        cm_write_u8(&exchange->out, 1);
    }
    if (op == CM_OP_SET || op == CM_OP_SET_MANY)
        cm_write_bytes(&exchange->out, cm_bytes_of("some value"));
    if (op == CM_OP_SET || op == CM_OP_REMOVE)
        write_change(exchange, 0, 0, 0);
    if (op == CM_OP_INCREMENT) {
        write_integer(exchange, 1);
        write_integer(exchange, 2);
    }
    if (op == CM_OP_INCREMENT || op == CM_OP_EXPIRE)
        cm_write_u64(&exchange->out, 0);
}

static void keys_have_bounds(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    static uint8_t key[CM_KEY_MAX_BYTES + 1];
    for (unsigned op = 1; op <= LAST_OP; op++) {
        write_with_key(&exchange, op, (struct cm_bytes){key, sizeof key});
        assert_int_equal(ask(&exchange, op), CM_E_BADFRAME);
        write_with_key(&exchange, op, (struct cm_bytes){key, 0});
        assert_int_equal(ask(&exchange, op), CM_E_BADFRAME);
        write_with_key(&exchange, op, (struct cm_bytes){key, sizeof key - 1});
        assert_int_not_equal(ask(&exchange, op), CM_E_BADFRAME);
        end(&exchange);
        start(&exchange); /* the next finds nothing */
    }
    end(&exchange);
}

/* --- what is no request */

static void every_cut_and_every_extra_byte_is_refused(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(set(&exchange, "some key", "some value", 0, 0, 0), 0);
    uint64_t version = read_last_u64(&exchange);
    for (unsigned op = 1; op <= LAST_OP; op++) {
        write_with_key(&exchange, op, cm_bytes_of("some key"));
        size_t whole = exchange.payload.len;
        for (size_t len = 0; len < whole; len++)
            assert_int_equal(do_cut(&exchange, op, len), CM_E_BADFRAME);
        assert_int_equal(cm_buf_append(&exchange.payload, "\0\0\0\0\0\0\0\0", 8), 0);
        for (size_t len = whole + 1; len <= whole + 8; len++)
            assert_int_equal(do_cut(&exchange, op, len), CM_E_BADFRAME);
    }
    /* None of it has done anything. */
    assert_value(&exchange, "some key", "some value");
    assert_int_equal(version_of(&exchange, "some key"), version);
    assert_int_equal(entries(&exchange), 1);
    end(&exchange);
}

static void other_operations_are_refused(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    write_with_key(&exchange, CM_OP_SET, cm_bytes_of("some key"));
    for (unsigned op = 0; op < 256; op++)
        if (op == 0 || (op > LAST_OP && (op < CM_OP_LRU_SET || op > CM_OP_LRU_OPTIONS))) {
            assert_int_equal(ask(&exchange, op), CM_E_BADFRAME);
            assert_int_equal(do_cut(&exchange, op, 0), CM_E_BADFRAME);
        }
    assert_int_equal(entries(&exchange), 0);
    end(&exchange);
}

static void bad_fields_are_refused(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    for (unsigned flags = 0; flags < 256; flags++) {
        bool bad = flags > CM_CHANGE_FLAGS;
        int err = set(&exchange, "key", "a", (uint8_t)flags, 0, 0);
        assert_int_equal(err == CM_E_BADFRAME, bad);
        err = drop(&exchange, "key", (uint8_t)flags, 0);
        assert_int_equal(err == CM_E_BADFRAME, bad);
    }
    const uint64_t ttls[] = {CM_TTL_MAX_MS, CM_TTL_MAX_MS + 1, UINT64_C(1) << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof ttls / sizeof ttls[0]; i++) {
        int expected = i ? CM_E_BADFRAME : 0;
        assert_int_equal(set(&exchange, "key", "a", 0, 0, ttls[i]), expected);
        assert_int_equal(set(&exchange, "key", "a", CM_CHANGE_KEEP_TTL, 0, ttls[i]), expected);
        assert_int_equal(increment(&exchange, "n", 1, 0, ttls[i]), expected);
        assert_int_equal(expire(&exchange, "key", ttls[i]), expected);
        assert_int_equal(ttl_of(&exchange, "key"), CM_TTL_MAX_MS);
    }
    /* A delta, and an initial value, that is no number. */
    const char *const others[] = {"", "\xc0", "\xa1z", "\x01\x01", "\xd3\x01"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        for (int second = 0; second < 2; second++) {
            begin_key(&exchange, "n");
            if (second)
                write_integer(&exchange, 1);
            cm_write_bytes(&exchange.out, cm_bytes_of(others[i]));
            if (!second)
                write_integer(&exchange, 1);
            cm_write_u64(&exchange.out, 0);
            assert_int_equal(ask(&exchange, CM_OP_INCREMENT), CM_E_BADFRAME);
        }
    end(&exchange);
}

static void a_wrong_count_of_pairs_is_refused(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    const uint32_t counts[] = {0, 1, 3, 4, 1 << 20, UINT32_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        cm_write_u32(begin(&exchange), counts[i]);
        const char *const pairs[] = {"a", "1", "b", "2"};
        for (size_t j = 0; j < 4; j++)
            cm_write_bytes(&exchange.out, cm_bytes_of(pairs[j]));
        assert_int_equal(ask(&exchange, CM_OP_SET_MANY), CM_E_BADFRAME);
    }
    /* One too large beside it is no excuse. */
    static char large[MAX_VALUE_BYTES + 2];
    memset(large, 'v', MAX_VALUE_BYTES + 1);
    cm_write_u32(begin(&exchange), 2);
    cm_write_bytes(&exchange.out, cm_bytes_of("a"));
    cm_write_bytes(&exchange.out, cm_bytes_of(large));
    cm_write_bytes(&exchange.out, cm_bytes_of(""));
    cm_write_bytes(&exchange.out, cm_bytes_of("b"));
    assert_int_equal(ask(&exchange, CM_OP_SET_MANY), CM_E_BADFRAME);
    assert_int_equal(entries(&exchange), 0);
    end(&exchange);
}

static bool is_result(int err) {
    return err == 0 || err == CM_E_NOTOWNER || err == CM_E_NOTFOUND || err == CM_E_EXISTS ||
           err == CM_E_CONFLICT || err == CM_E_BADVALUE || err == CM_E_TOOLARGE || err == CM_E_BADFRAME;
}

/* --- the cache */

enum { LRU_OPS = CM_OP_LRU_OPTIONS - CM_OP_LRU_SET + 1 };

static const char *cached(struct exchange *exchange, const char *key) {
    struct cm_bytes value;
    int err = cm_lru_get(&exchange->lru, cm_bytes_of(key), &exchange->found, &value);
    assert_true(err == 0 || err == CM_E_NOTFOUND);
    if (!err)
        assert_bytes(value, "cached");
    return err ? NULL : "cached";
}

static uint64_t cached_entries(const struct exchange *exchange) {
    struct cm_lru_stats stats;
    cm_lru_stats(&exchange->stores.segment, &stats);
    return stats.entries;
}

static int ask_lru(struct exchange *exchange, unsigned op, const char *key) {
    write_with_key(exchange, op, cm_bytes_of(key));
    int err = ask(exchange, op);
    if (!err)
        assert_int_equal(exchange->reply.len, 0);
    return err;
}

static void the_cache(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_SET, "a"), 0);
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_SET, "b"), 0);
    assert_non_null(cached(&exchange, "a"));
    assert_value(&exchange, "a", NULL);
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_REMOVE, "a"), 0);
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_REMOVE, "a"), 0);
    assert_null(cached(&exchange, "a"));
    assert_non_null(cached(&exchange, "b"));
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_CLEAR, ""), 0);
    assert_int_equal(cached_entries(&exchange), 0);
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_SET, "a"), 0);
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_OPTIONS, ""), 0);
    assert_int_equal(cached_entries(&exchange), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ask_lru(&exchange, CM_OP_LRU_SET, (const char *[]){"a", "b", "c"}[i]), 0);
    assert_int_equal(cached_entries(&exchange), 2);
    end(&exchange);
}

static void what_is_no_request_to_the_cache_is_refused(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(ask_lru(&exchange, CM_OP_LRU_SET, "a"), 0);
    for (unsigned op = CM_OP_LRU_SET; op <= CM_OP_LRU_OPTIONS; op++) {
        write_with_key(&exchange, op, cm_bytes_of("a"));
        size_t whole = exchange.payload.len;
        for (size_t len = 0; len < whole; len++)
            assert_int_equal(do_cut(&exchange, op, len), CM_E_BADFRAME);
        assert_int_equal(cm_buf_append(&exchange.payload, "\0\0\0\0\0\0\0\0", 8), 0);
        for (size_t len = whole + 1; len <= whole + 8; len++)
            assert_int_equal(do_cut(&exchange, op, len), CM_E_BADFRAME);
    }
    /* The last byte of the options is a boolean, the last eight of an entry are an age. */
    write_with_key(&exchange, CM_OP_LRU_OPTIONS, (struct cm_bytes){0});
    exchange.payload.data[exchange.payload.len - 1] = 2;
    assert_int_equal(ask(&exchange, CM_OP_LRU_OPTIONS), CM_E_BADFRAME);
    write_with_key(&exchange, CM_OP_LRU_SET, cm_bytes_of("a"));
    exchange.payload.data[exchange.payload.len - 1] = 2;
    assert_int_equal(ask(&exchange, CM_OP_LRU_SET), CM_E_BADFRAME);
    static uint8_t bytes[CM_KEY_MAX_BYTES + 1];
    for (unsigned op = CM_OP_LRU_SET; op <= CM_OP_LRU_REMOVE; op++) {
        write_with_key(&exchange, op, (struct cm_bytes){bytes, sizeof bytes});
        assert_int_equal(ask(&exchange, op), CM_E_BADFRAME);
        write_with_key(&exchange, op, (struct cm_bytes){0});
        assert_int_equal(ask(&exchange, op), CM_E_BADFRAME);
    }
    cm_write_bytes(begin_key(&exchange, "a"), (struct cm_bytes){bytes, MAX_VALUE_BYTES + 1});
    cm_write_u64(&exchange.out, 0);
    assert_int_equal(ask(&exchange, CM_OP_LRU_SET), CM_E_TOOLARGE);
    write_with_key(&exchange, CM_OP_LRU_OPTIONS, (struct cm_bytes){0});
    exchange.payload.data[7] = 1; /* of the number of entries */
    assert_int_equal(ask(&exchange, CM_OP_LRU_OPTIONS), CM_E_BADVALUE);
    /* None of it has done anything. */
    assert_non_null(cached(&exchange, "a"));
    end(&exchange);
}

static void random_bytes_do_no_harm(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    uint64_t random = 1, good = 0, now_ms = START_MS;
    for (int round = 0; round < 100000; round++) {
        unsigned op = 1 + (unsigned)random_below(&random, LAST_OP + LRU_OPS);
        if (op > LAST_OP)
            op += CM_OP_LRU_SET - LAST_OP - 1;
        size_t len = random_below(&random, 40);
        if (round % 2) {
            /* A good one with a few bytes changed. */
            write_with_key(&exchange, op, cm_bytes_of("k"));
            len = exchange.payload.len;
            for (size_t i = random_below(&random, 4); len && i > 0; i--)
                exchange.payload.data[random_below(&random, len)] = (uint8_t)random_next(&random);
        } else {
            exchange.payload.len = 0;
            for (size_t i = 0; i < len; i++) {
                /* Small numbers often, so that lengths are believed now and then. */
                uint8_t byte =
                    (uint8_t)(random_below(&random, 3) ? random_below(&random, 12) : random_next(&random));
                assert_int_equal(cm_buf_append(&exchange.payload, &byte, 1), 0);
            }
        }
        int err = do_cut(&exchange, op, len);
        assert_true(is_result(err));
        good += err == 0;
        stores_turn(now_ms += random_below(&random, 2));
        if (round % 1000 == 0)
            stores_tend(&exchange.stores, true);
    }
    assert_true(good > 1000);
    end(&exchange);
}

/* The reply is appended to what else goes to the process, which does not count. */
static void a_reply_is_appended(void **state) {
    (void)state;
    enum { BEFORE = 100 << 10 };
    struct exchange exchange;
    start(&exchange);
    static const uint8_t before[BEFORE] = {1, 2, 3};
    write_with_key(&exchange, CM_OP_SET, cm_bytes_of("key"));
    exchange.reply.len = 0;
    assert_int_equal(cm_buf_append(&exchange.reply, before, BEFORE), 0);
    assert_int_equal(cm_handlers_do(handlers_of(&exchange.lru), CM_OP_SET, cm_buf_view(&exchange.payload),
                                    &exchange.reply),
                     0);
    assert_int_equal(exchange.reply.len, BEFORE + 8);
    assert_memory_equal(exchange.reply.data, before, BEFORE);
    end(&exchange);
}

/* --- no memory */

/* The largest that is stored is far below a chunk, so that nothing but the segment's end is in the way. */
static void fill(struct exchange *exchange) {
    char key[] = "fill0000000";
    for (unsigned i = 0;; i++) {
        snprintf(key, sizeof key, "fill%07u", i % 10000000);
        write_with_key(exchange, CM_OP_SET, cm_bytes_of(key));
        int err = ask(exchange, CM_OP_SET);
        if (err) {
            assert_int_equal(err, CM_E_NOMEMORY);
            return;
        }
        if (i % 1000 == 0)
            stores_tend(&exchange->stores, true);
    }
}

/* At the cap what needs more memory is refused, and what needs none works. */
static void a_full_memory_is_said_to_be(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(increment(&exchange, "n", 1, 0, 0), 0);
    fill(&exchange);
    uint64_t full = entries(&exchange);
    assert_true(full > 1000);
    assert_int_equal(increment(&exchange, "new", 1, 0, 0), CM_E_NOMEMORY);
    cm_write_u32(begin(&exchange), 2);
    const char *const pairs[] = {"fill0000000", "changed", "new", "\xa9new value"};
    for (size_t i = 0; i < 4; i++)
        cm_write_bytes(&exchange.out, cm_bytes_of(pairs[i]));
    assert_int_equal(ask(&exchange, CM_OP_SET_MANY), CM_E_NOMEMORY);
    assert_int_equal(entries(&exchange), full);
    assert_value(&exchange, "fill0000000", "some value");
    assert_int_equal(set(&exchange, "fill0000000", "same bytes", 0, 0, 0), 0);
    assert_int_equal(increment(&exchange, "n", 1, 0, 0), 0);
    assert_int_equal(expire(&exchange, "fill0000001", 5000), 0);
    assert_int_equal(drop(&exchange, "fill0000001", 0, 0), 0);
    assert_int_equal(set(&exchange, "new0000001", "some value", 0, 0, 0), 0);
    assert_int_equal(entries(&exchange), full);
    end(&exchange);
}

struct without_memory {
    unsigned op;
    struct cm_buf payload;
};

/* Without memory an operation says so, and the store is whole. */
static int without_memory(void *data) {
    const struct without_memory *request = data;
    struct stores stores;
    int err = stores_open(&stores, 1 << 20, SEATS, 1);
    if (err)
        return err;
    struct cm_store *store = stores_master(&stores);
    struct cm_buf reply = {0};
    uint64_t version;
    struct cm_value value = {.bytes = cm_bytes_of("\x01")};
    assert_int_equal(cm_number_decode(value.bytes, &value.number), 0);
    value.is_number = true;
    int set_err = cm_store_set(store, cm_bytes_of("key"), &value,
                               &(struct cm_change){.expires_ms = stores_clock() + 9}, &version);
    struct cm_lru lru;
    cm_lru_init(&lru, store);
    err = cm_handlers_do(handlers_of(&lru), (uint8_t)request->op, cm_buf_view(&request->payload), &reply);
    if (err == CM_E_NOTFOUND && set_err)
        err = 0;
    /* A change without its reply is none that the handler could take back. */
    struct cm_store_stats stats;
    cm_store_stats(store, &stats);
    assert_in_range(stats.entries, 0, 1);
    assert_int_equal(stats.used_bytes > 0, stats.entries > 0);
    stores_check_counts(&stores.segment, true);
    cm_buf_deinit(&reply);
    stores_close(&stores);
    return set_err ? set_err : err;
}

static void without_memory_an_operation_says_so(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    for (unsigned op = 1; op <= LAST_OP; op++) {
        write_with_key(&exchange, op, cm_bytes_of("key"));
        struct without_memory request = {.op = op, .payload = exchange.payload};
        alloc_failure_each(without_memory, &request);
    }
    end(&exchange);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_and_remove),
        cmocka_unit_test(conditions),
        cmocka_unit_test(times),
        cmocka_unit_test(numbers),
        cmocka_unit_test(many),
        cmocka_unit_test(values_have_a_limit),
        cmocka_unit_test(keys_have_bounds),
        cmocka_unit_test(every_cut_and_every_extra_byte_is_refused),
        cmocka_unit_test(other_operations_are_refused),
        cmocka_unit_test(bad_fields_are_refused),
        cmocka_unit_test(a_wrong_count_of_pairs_is_refused),
        cmocka_unit_test(the_cache),
        cmocka_unit_test(what_is_no_request_to_the_cache_is_refused),
        cmocka_unit_test(random_bytes_do_no_harm),
        cmocka_unit_test(a_reply_is_appended),
        cmocka_unit_test(a_full_memory_is_said_to_be),
        cmocka_unit_test(without_memory_an_operation_says_so),
    };
    return cmocka_run_group_tests_name("handlers", tests, NULL, NULL);
}
