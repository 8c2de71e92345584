/* Redis for memory_peers.c. */
#include "memory_peers.h"
#include "redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS_AT_ONCE = 100 };

static char request[SETS_AT_ONCE * 256];

static size_t put_set(char *out, const char *key, const char *value) {
    return (size_t)sprintf(out, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", KEY_BYTES, key, VALUE_BYTES,
                           value);
}

static void redis_get(const char *key, char *value) {
    static const char head[] = "$100\r\n";
    _Static_assert(VALUE_BYTES == 100, "the head of the reply");
    redis_ask(request,
              (size_t)snprintf(request, sizeof request, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", KEY_BYTES, key));
    redis_answer(0, sizeof head - 1 + VALUE_BYTES + 2);
    if (redis_is_nil())
        fail(key, "nothing there");
    memcpy(value, redis_reply + sizeof head - 1, VALUE_BYTES);
}

static void redis_set(const char *key, const char *value) {
    redis_ask(request, put_set(request, key, value));
    redis_answer(0, strlen("+OK\r\n"));
}

static long long redis_increment(const char *key, long long delta) {
    char text[24];
    size_t have;
    int digits = snprintf(text, sizeof text, "%lld", delta);
    redis_ask(request,
              (size_t)snprintf(request, sizeof request, "*3\r\n$6\r\nINCRBY\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n",
                               KEY_BYTES, key, digits, text));
    return redis_answer_number(&have);
}

static void redis_fill(long count, const char *value) {
    for (long first = 0; first < count; first += SETS_AT_ONCE) {
        size_t len = 0;
        for (long i = first; i < first + SETS_AT_ONCE; i++) {
            char key[KEY_BYTES + 1];
            make_key(key, i);
            len += put_set(request + len, key, value);
        }
        redis_ask(request, len);
        redis_answer(0, SETS_AT_ONCE * strlen("+OK\r\n"));
    }
}

static void redis_used(double *counted, double *resident) {
    static const char field[] = "\nused_memory:";
    size_t have;
    redis_ask(request, (size_t)snprintf(request, sizeof request, "*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n"));
    long long len = redis_answer_number(&have);
    redis_answer(have, (size_t)(strchr(redis_reply, '\n') + 1 - redis_reply) + (size_t)len + 2);
    const char *found = strstr(redis_reply, field);
    if (found)
        *counted = strtod(found + sizeof field - 1, NULL);
    else
        fail("Redis", "no used_memory in INFO");
    *resident = resident_bytes(redis_pid());
}

const struct peer redis_peer = {
    .name = "redis",
    .open = redis_open,
    .close = redis_close,
    .get = redis_get,
    .set = redis_set,
    .increment = redis_increment,
    .fill = redis_fill,
    .used = redis_used,
};
