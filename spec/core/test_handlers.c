/* What a process can ask the store for through the master: each operation, and whatever else it may send. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cluster/handlers.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "wire/message.h"
#include "wire/ops.h"

enum { MAX_VALUE_BYTES = 100, LAST_OP = CM_OP_STATS };

struct exchange {
    struct cm_store *store;
    uint64_t now_ms;
    struct cm_buf payload;
    struct cm_writer out; /* to the payload */
    struct cm_buf reply;
    struct cm_reader in; /* from the reply */
};

static void start(struct exchange *exchange) {
    *exchange = (struct exchange){.now_ms = 1000};
    assert_int_equal(cm_store_new(64 << 20, &exchange->store), 0);
}

static void end(struct exchange *exchange) {
    cm_store_free(exchange->store);
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
    int err = cm_handlers_do(exchange->store, MAX_VALUE_BYTES, (uint8_t)op, (struct cm_bytes){copy, len},
                             exchange->now_ms, &exchange->reply);
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

static int get(struct exchange *exchange, const char *key) {
    begin_key(exchange, key);
    return ask(exchange, CM_OP_GET);
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

static int ttl(struct exchange *exchange, const char *key) {
    begin_key(exchange, key);
    return ask(exchange, CM_OP_TTL);
}

static int expire(struct exchange *exchange, const char *key, uint64_t ttl_ms) {
    cm_write_u64(begin_key(exchange, key), ttl_ms);
    return ask(exchange, CM_OP_EXPIRE);
}

static int keys(struct exchange *exchange, const char *prefix, uint64_t cursor, uint32_t limit) {
    cm_write_u64(begin_key(exchange, prefix), cursor);
    cm_write_u32(&exchange->out, limit);
    return ask(exchange, CM_OP_KEYS);
}

static int count_or_clear(struct exchange *exchange, unsigned op, const char *prefix, uint64_t cursor,
                          uint64_t until) {
    struct cm_writer *out = begin_key(exchange, prefix);
    cm_write_u64(out, cursor);
    if (op == CM_OP_CLEAR)
        cm_write_u64(out, until);
    return ask(exchange, op);
}

/* --- replies */

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

static void assert_value(struct exchange *exchange, const char *key, const char *expected) {
    assert_int_equal(get(exchange, key), expected ? 0 : CM_E_NOTFOUND);
    if (expected)
        assert_bytes(cm_read_bytes(&exchange->in), expected);
}

static uint64_t entries(struct exchange *exchange) {
    struct cm_store_stats stats;
    cm_store_stats(exchange->store, &stats);
    return stats.entries;
}

/* --- each operation */

static void set_get_and_remove(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(get(&exchange, "key"), CM_E_NOTFOUND);
    assert_int_equal(set(&exchange, "key", "value", 0, 0, 0), 0);
    uint64_t version = read_last_u64(&exchange);
    assert_true(version > 0);
    assert_int_equal(get(&exchange, "key"), 0);
    assert_bytes(cm_read_bytes(&exchange.in), "value");
    assert_int_equal(read_last_u64(&exchange), version);
    assert_int_equal(drop(&exchange, "key", 0, 0), 0);
    assert_true(read_last_u64(&exchange) > version);
    assert_int_equal(get(&exchange, "key"), CM_E_NOTFOUND);
    assert_int_equal(drop(&exchange, "key", 0, 0), 0);
    assert_int_equal(read_last_u64(&exchange), 0);
    end(&exchange);
}

static void conditions(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(set(&exchange, "key", "a", CM_CHANGE_IF_PRESENT, 0, 0), CM_E_NOTFOUND);
    assert_int_equal(set(&exchange, "key", "a", CM_CHANGE_IF_VERSION, 1, 0), CM_E_CONFLICT);
    assert_int_equal(entries(&exchange), 0);
    assert_int_equal(set(&exchange, "key", "a", CM_CHANGE_IF_ABSENT, 7, 0), 0);
    uint64_t version = read_last_u64(&exchange);
    assert_int_equal(set(&exchange, "key", "b", CM_CHANGE_IF_ABSENT, 0, 0), CM_E_EXISTS);
    assert_int_equal(set(&exchange, "key", "b", CM_CHANGE_IF_VERSION, 0, 0), CM_E_CONFLICT);
    assert_int_equal(set(&exchange, "key", "b", CM_CHANGE_IF_VERSION, version + 1, 0), CM_E_CONFLICT);
    assert_value(&exchange, "key", "a");
    assert_int_equal(set(&exchange, "key", "b", CM_CHANGE_IF_VERSION, version, 0), 0);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, version), CM_E_CONFLICT);
    assert_int_equal(get(&exchange, "key"), 0);
    assert_bytes(cm_read_bytes(&exchange.in), "b");
    version = read_last_u64(&exchange);
    assert_int_equal(set(&exchange, "key", "c", CM_CHANGE_IF_PRESENT, 0, 0), 0);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, version), CM_E_CONFLICT);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, version + 1), 0);
    assert_int_equal(drop(&exchange, "key", CM_CHANGE_IF_VERSION, 0), 0);
    assert_int_equal(set(&exchange, "key", "d", CM_CHANGE_IF_VERSION, 0, 0), 0);
    end(&exchange);
}

static void times(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    assert_int_equal(ttl(&exchange, "key"), CM_E_NOTFOUND);
    assert_int_equal(expire(&exchange, "key", 5), CM_E_NOTFOUND);
    assert_int_equal(set(&exchange, "key", "a", 0, 0, 30), 0);
    exchange.now_ms += 10;
    assert_int_equal(ttl(&exchange, "key"), 0);
    assert_int_equal(read_last_u64(&exchange), 20);
    assert_int_equal(set(&exchange, "key", "b", CM_CHANGE_KEEP_TTL, 0, 500), 0);
    assert_int_equal(ttl(&exchange, "key"), 0);
    assert_int_equal(read_last_u64(&exchange), 20);
    exchange.now_ms += 19;
    assert_int_equal(ttl(&exchange, "key"), 0);
    assert_int_equal(read_last_u64(&exchange), 1);
    assert_int_equal(expire(&exchange, "key", 7), 0);
    assert_no_more(&exchange);
    exchange.now_ms += 6;
    assert_value(&exchange, "key", "b");
    exchange.now_ms++;
    assert_int_equal(ttl(&exchange, "key"), CM_E_NOTFOUND);
    assert_int_equal(expire(&exchange, "key", 7), CM_E_NOTFOUND);
    assert_value(&exchange, "key", NULL);
    /* A new entry has no ttl to keep, and takes the one given. */
    assert_int_equal(set(&exchange, "key", "c", CM_CHANGE_KEEP_TTL, 0, 40), 0);
    assert_int_equal(ttl(&exchange, "key"), 0);
    assert_int_equal(read_last_u64(&exchange), 40);
    assert_int_equal(expire(&exchange, "key", 0), 0);
    assert_int_equal(ttl(&exchange, "key"), 0);
    assert_int_equal(read_last_u64(&exchange), 0);
    assert_int_equal(expire(&exchange, "key", 40), 0);
    assert_int_equal(set(&exchange, "key", "c", 0, 0, 0), 0);
    exchange.now_ms = UINT64_MAX;
    assert_value(&exchange, "key", "c");
    end(&exchange);
}

static void numbers(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    const int64_t sums[] = {107, 114};
    uint64_t last = 0;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(increment(&exchange, "n", 7, 100, 50), 0);
        struct cm_number sum;
        assert_int_equal(cm_number_decode(cm_read_bytes(&exchange.in), &sum), 0);
        assert_false(sum.is_float);
        assert_int_equal(sum.integer, sums[i]);
        uint64_t version = read_last_u64(&exchange);
        assert_true(version > last);
        last = version;
        exchange.now_ms += 10;
    }
    assert_int_equal(ttl(&exchange, "n"), 0);
    assert_int_equal(read_last_u64(&exchange), 30); /* of its creation */
    assert_int_equal(increment(&exchange, "n", INT64_MAX, 0, 0), CM_E_BADVALUE);
    assert_int_equal(increment(&exchange, "new", INT64_MIN, -1, 0), CM_E_BADVALUE);
    assert_int_equal(entries(&exchange), 1);
    assert_int_equal(set(&exchange, "n", "text", 0, 0, 0), 0);
    assert_int_equal(increment(&exchange, "n", 1, 0, 0), CM_E_BADVALUE);
    assert_value(&exchange, "n", "text");
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
    const char *const pairs[] = {"a", "1", "b", "", "a", "3"};
    for (size_t i = 0; i < 6; i++)
        cm_write_bytes(&exchange.out, cm_bytes_of(pairs[i]));
    assert_int_equal(ask(&exchange, CM_OP_SET_MANY), 0);
    assert_no_more(&exchange);
    assert_value(&exchange, "a", "3");
    assert_value(&exchange, "b", "");
    end(&exchange);
}

static void walks(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    for (int i = 0; i < 40; i++) {
        char key[16];
        snprintf(key, sizeof key, "%s%d", i % 2 ? "odd" : "even", i);
        assert_int_equal(set(&exchange, key, "v", 0, 0, i < 10 ? 5 : 0), 0);
    }
    exchange.now_ms += 5; /* ten have expired, and none has met them */
    assert_int_equal(count_or_clear(&exchange, CM_OP_COUNT, "odd", 0, 0), 0);
    assert_int_equal(cm_read_u64(&exchange.in), 15);
    assert_int_equal(read_last_u64(&exchange), 0);
    assert_int_equal(keys(&exchange, "odd", 0, 1000), 0);
    for (int i = 0; i < 15; i++)
        assert_memory_equal(cm_read_bytes(&exchange.in).data, "odd", 3);
    assert_int_equal(read_last_u64(&exchange), 0);
    begin(&exchange);
    assert_int_equal(ask(&exchange, CM_OP_STATS), 0);
    assert_int_equal(cm_read_u64(&exchange.in), 40);
    assert_in_range(cm_read_u64(&exchange.in), 40 * 6, 40 * 200);
    assert_int_equal(read_last_u64(&exchange), 64 << 20);
    assert_int_equal(count_or_clear(&exchange, CM_OP_CLEAR, "odd", 0, 0), 0);
    assert_int_equal(cm_read_u64(&exchange.in), 15);
    assert_int_equal(cm_read_u64(&exchange.in), 0);
    assert_int_equal(read_last_u64(&exchange), 40); /* the newest version there was */
    assert_int_equal(entries(&exchange), 20);       /* expired ones that match are gone, too */
    assert_int_equal(count_or_clear(&exchange, CM_OP_CLEAR, "", 0, 0), 0);
    assert_int_equal(cm_read_u64(&exchange.in), 15);
    assert_int_equal(entries(&exchange), 0);
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

/* The request of the operation with this key or prefix. */
static void write_with_key(struct exchange *exchange, unsigned op, struct cm_bytes key) {
    begin(exchange);
    if (op == CM_OP_SET_MANY)
        cm_write_u32(&exchange->out, 1);
    if (op != CM_OP_STATS)
        cm_write_bytes(&exchange->out, key);
    if (op == CM_OP_SET || op == CM_OP_SET_MANY)
        cm_write_bytes(&exchange->out, cm_bytes_of("some value"));
    if (op == CM_OP_SET || op == CM_OP_REMOVE)
        write_change(exchange, 0, 0, 0);
    if (op == CM_OP_INCREMENT) {
        write_integer(exchange, 1);
        write_integer(exchange, 2);
    }
    if (op == CM_OP_INCREMENT || op == CM_OP_EXPIRE || op == CM_OP_KEYS || op == CM_OP_COUNT ||
        op == CM_OP_CLEAR)
        cm_write_u64(&exchange->out, 0);
    if (op == CM_OP_CLEAR)
        cm_write_u64(&exchange->out, 0);
    if (op == CM_OP_KEYS)
        cm_write_u32(&exchange->out, 10);
}

static bool takes_prefix(unsigned op) {
    return op == CM_OP_KEYS || op == CM_OP_COUNT || op == CM_OP_CLEAR;
}

static void keys_and_prefixes_have_bounds(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    static uint8_t key[CM_KEY_MAX_BYTES + 1];
    for (unsigned op = 1; op < CM_OP_STATS; op++) {
        write_with_key(&exchange, op, (struct cm_bytes){key, sizeof key});
        assert_int_equal(ask(&exchange, op), CM_E_BADFRAME);
        write_with_key(&exchange, op, (struct cm_bytes){key, 0});
        assert_int_equal(ask(&exchange, op), takes_prefix(op) ? 0 : CM_E_BADFRAME);
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
    assert_int_equal(get(&exchange, "some key"), 0);
    assert_bytes(cm_read_bytes(&exchange.in), "some value");
    assert_int_equal(read_last_u64(&exchange), 1);
    assert_int_equal(entries(&exchange), 1);
    end(&exchange);
}

static void other_operations_are_refused(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    write_with_key(&exchange, CM_OP_GET, cm_bytes_of("some key"));
    for (unsigned op = 0; op < 256; op++)
        if (op == 0 || op > LAST_OP) {
            assert_int_equal(ask(&exchange, op), CM_E_BADFRAME);
            assert_int_equal(do_cut(&exchange, op, 0), CM_E_BADFRAME);
        }
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
        assert_int_equal(ttl(&exchange, "key"), 0);
        assert_int_equal(read_last_u64(&exchange), CM_TTL_MAX_MS);
    }
    assert_int_equal(keys(&exchange, "", 0, 0), CM_E_BADFRAME);
    assert_int_equal(keys(&exchange, "", 0, UINT32_MAX), 0);
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
    return err == 0 || err == CM_E_NOTFOUND || err == CM_E_EXISTS || err == CM_E_CONFLICT ||
           err == CM_E_BADVALUE || err == CM_E_TOOLARGE || err == CM_E_BADFRAME;
}

static void random_bytes_do_no_harm(void **state) {
    (void)state;
    struct exchange exchange;
    start(&exchange);
    uint64_t random = 1, good = 0;
    for (int round = 0; round < 100000; round++) {
        unsigned op = 1 + (unsigned)random_below(&random, LAST_OP);
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
        exchange.now_ms += random_below(&random, 2);
    }
    assert_true(good > 1000);
    end(&exchange);
}

/* --- replies of walks */

/* Lists all in requests of that limit; gives how many keys there were, and how many requests. */
static size_t list_all(struct exchange *exchange, const char *prefix, uint32_t limit, size_t most_bytes,
                       uint8_t *listed, size_t *requests) {
    uint64_t cursor = 0;
    size_t all = 0;
    *requests = 0;
    do {
        assert_int_equal(keys(exchange, prefix, cursor, limit), 0);
        assert_in_range(exchange->reply.len, 8, most_bytes);
        size_t some = 0;
        for (; cm_reader_left(&exchange->in) > 8; some++) {
            struct cm_bytes key = cm_read_bytes(&exchange->in);
            uint32_t n = 0;
            memcpy(&n, key.data + key.len - 4, 4);
            listed[n]++;
        }
        /* The limit, and what else is in the last chain. */
        assert_true(some < (uint64_t)limit + 20);
        cursor = read_last_u64(exchange);
        all += some;
        ++*requests;
    } while (cursor);
    return all;
}

/* Keys of that length, the last bytes of which are a number. */
static void fill(struct exchange *exchange, uint32_t count, size_t key_len) {
    uint8_t *key = calloc(1, key_len);
    assert_non_null(key);
    key[0] = 'k';
    for (uint32_t n = 0; n < count; n++) {
        memcpy(key + key_len - 4, &n, 4);
        write_with_key(exchange, CM_OP_SET, (struct cm_bytes){key, key_len});
        assert_int_equal(ask(exchange, CM_OP_SET), 0);
    }
    free(key);
}

static void check_listing(uint32_t count, size_t key_len, uint32_t limit, size_t most_bytes,
                          size_t least_requests, size_t most_requests) {
    struct exchange exchange;
    start(&exchange);
    fill(&exchange, count, key_len);
    uint8_t *listed = calloc(count, 1);
    assert_non_null(listed);
    size_t requests;
    assert_int_equal(list_all(&exchange, "k", limit, most_bytes, listed, &requests), count);
    assert_in_range(requests, least_requests, most_requests);
    for (uint32_t n = 0; n < count; n++)
        assert_int_equal(listed[n], 1);
    assert_int_equal(list_all(&exchange, "none", limit, 8, listed, &requests), 0);
    free(listed);
    end(&exchange);
}

static void lists_come_in_slices(void **state) {
    (void)state;
    /* By the limit, by the walk's steps, by the reply's bytes, and by those where each key is as long as can
     * be: far from what a process takes. */
    check_listing(500, 5, 1, 1000, 200, 500);
    check_listing(500, 5, 50, 2000, 5, 10);
    check_listing(500, 5, UINT32_MAX, 5000, 1, 1);
    check_listing(30000, 5, UINT32_MAX, 45000, 15, 16);
    check_listing(1000, 1000, UINT32_MAX, 90000, 11, 16);
    check_listing(300, CM_KEY_MAX_BYTES, UINT32_MAX, cm_reply_most_bytes(0) / 2, 40, 300);
}

static void counts_and_clears_come_in_slices(void **state) {
    (void)state;
    enum { MANY = 30000 };
    struct exchange exchange;
    start(&exchange);
    fill(&exchange, MANY, 5);
    const unsigned ops[] = {CM_OP_COUNT, CM_OP_CLEAR, CM_OP_COUNT};
    for (size_t i = 0; i < 3; i++) {
        uint64_t cursor = 0, until = 0, all = 0, requests = 0;
        do {
            assert_int_equal(count_or_clear(&exchange, ops[i], "k", cursor, until), 0);
            uint64_t some = cm_read_u64(&exchange.in);
            assert_true(some < 5000);
            all += some;
            cursor = cm_read_u64(&exchange.in);
            until = ops[i] == CM_OP_CLEAR ? cm_read_u64(&exchange.in) : 0;
            assert_no_more(&exchange);
            requests++;
        } while (cursor);
        assert_int_equal(all, i < 2 ? MANY : 0);
        assert_in_range(requests, 15, 16);
    }
    end(&exchange);
}

/* The reply is appended to what else goes to the process, which does not count. */
static void a_reply_is_appended(void **state) {
    (void)state;
    enum { BEFORE = 100 << 10 };
    struct exchange exchange;
    start(&exchange);
    fill(&exchange, 100, 5);
    static const uint8_t before[BEFORE] = {1, 2, 3};
    cm_write_u64(begin_key(&exchange, ""), 0);
    cm_write_u32(&exchange.out, 1000);
    exchange.reply.len = 0;
    assert_int_equal(cm_buf_append(&exchange.reply, before, BEFORE), 0);
    assert_int_equal(cm_handlers_do(exchange.store, MAX_VALUE_BYTES, CM_OP_KEYS,
                                    cm_buf_view(&exchange.payload), 0, &exchange.reply),
                     0);
    assert_int_equal(exchange.reply.len, BEFORE + 100 * 9 + 8);
    assert_memory_equal(exchange.reply.data, before, BEFORE);
    end(&exchange);
}

/* --- no memory */

struct without_memory {
    unsigned op;
    struct cm_buf payload;
};

/* Without memory an operation says so, and the store is whole. */
static int without_memory(void *data) {
    const struct without_memory *request = data;
    struct cm_store *store;
    int err = cm_store_new(1 << 20, &store);
    if (err)
        return err;
    struct cm_buf reply = {0};
    uint64_t version;
    int set_err = cm_store_set(store, cm_bytes_of("key"), cm_bytes_of("\x01"),
                               &(struct cm_change){.expires_ms = 9}, 0, &version);
    err = cm_handlers_do(store, MAX_VALUE_BYTES, (uint8_t)request->op, cm_buf_view(&request->payload), 0,
                         &reply);
    if (err == CM_E_NOTFOUND && set_err)
        err = 0;
    /* A change without its reply is none that the handler could take back. */
    struct cm_store_stats stats;
    cm_store_stats(store, &stats);
    assert_in_range(stats.entries, 0, 2);
    assert_int_equal(stats.used_bytes > 0, stats.entries > 0);
    uint64_t cursor = 0, until = 0, removed;
    while (cm_store_clear(store, cm_bytes_of(""), &cursor, &until, 100, 0, &removed))
        continue;
    cm_store_stats(store, &stats);
    assert_int_equal(stats.used_bytes, 0);
    cm_buf_deinit(&reply);
    cm_store_free(store);
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
        cmocka_unit_test(set_get_and_remove),
        cmocka_unit_test(conditions),
        cmocka_unit_test(times),
        cmocka_unit_test(numbers),
        cmocka_unit_test(many),
        cmocka_unit_test(walks),
        cmocka_unit_test(values_have_a_limit),
        cmocka_unit_test(keys_and_prefixes_have_bounds),
        cmocka_unit_test(every_cut_and_every_extra_byte_is_refused),
        cmocka_unit_test(other_operations_are_refused),
        cmocka_unit_test(bad_fields_are_refused),
        cmocka_unit_test(a_wrong_count_of_pairs_is_refused),
        cmocka_unit_test(random_bytes_do_no_harm),
        cmocka_unit_test(lists_come_in_slices),
        cmocka_unit_test(counts_and_clears_come_in_slices),
        cmocka_unit_test(a_reply_is_appended),
        cmocka_unit_test(without_memory_an_operation_says_so),
    };
    return cmocka_run_group_tests_name("handlers", tests, NULL, NULL);
}
