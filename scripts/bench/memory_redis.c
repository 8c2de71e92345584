/* Redis for memory_peers.c: blocking calls on a unix socket, the protocol written out. */
#include "memory_peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SETS_AT_ONCE = 100 };

static int server = -1;
static char request[SETS_AT_ONCE * 256];
static char reply[16384];

static void redis_open(const char *place) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(place);
    if (len >= sizeof address.sun_path)
        fail(place, "too long for a socket");
    memcpy(address.sun_path, place, len);
    server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) != 0)
        fail(place, NULL);
}

static void redis_close(void) {
    close(server);
    server = -1;
}

static void ask(size_t len) {
    for (size_t sent = 0; sent < len;) {
        ssize_t count = write(server, request + sent, len - sent);
        if (count <= 0)
            fail("writing to Redis", NULL);
        sent += (size_t)count;
    }
}

/* Reads on after `have` bytes of the reply until it has at least `want`; returns how many. */
static size_t answer(size_t have, size_t want) {
    while (have < want) {
        ssize_t count = read(server, reply + have, sizeof reply - 1 - have);
        if (count <= 0)
            fail("reading from Redis", count == 0 ? "it has gone, or the reply is too long" : NULL);
        have += (size_t)count;
        reply[have] = '\0';
        if (reply[0] == '-' || strncmp(reply, "$-1", 3) == 0)
            fail("Redis said", reply);
    }
    return have;
}

/* What is in the first line after its sign; `have`: how many bytes are there, more than the line maybe. */
static long long answer_number(size_t *have) {
    *have = answer(0, 1);
    while (!strchr(reply, '\n'))
        *have = answer(*have, *have + 1);
    return strtoll(reply + 1, NULL, 10);
}

static size_t put_set(char *out, const char *key, const char *value) {
    return (size_t)sprintf(out, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", KEY_BYTES, key, VALUE_BYTES,
                           value);
}

static void redis_get(const char *key, char *value) {
    static const char head[] = "$100\r\n";
    _Static_assert(VALUE_BYTES == 100, "the head of the reply");
    ask((size_t)snprintf(request, sizeof request, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", KEY_BYTES, key));
    answer(0, sizeof head - 1 + VALUE_BYTES + 2);
    memcpy(value, reply + sizeof head - 1, VALUE_BYTES);
}

static void redis_set(const char *key, const char *value) {
    ask(put_set(request, key, value));
    answer(0, strlen("+OK\r\n"));
}

static long long redis_increment(const char *key, long long delta) {
    char text[24];
    size_t have;
    int digits = snprintf(text, sizeof text, "%lld", delta);
    ask((size_t)snprintf(request, sizeof request, "*3\r\n$6\r\nINCRBY\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n",
                         KEY_BYTES, key, digits, text));
    return answer_number(&have);
}

static void redis_fill(long count, const char *value) {
    for (long first = 0; first < count; first += SETS_AT_ONCE) {
        size_t len = 0;
        for (long i = first; i < first + SETS_AT_ONCE; i++) {
            char key[KEY_BYTES + 1];
            make_key(key, i);
            len += put_set(request + len, key, value);
        }
        ask(len);
        answer(0, SETS_AT_ONCE * strlen("+OK\r\n"));
    }
}

static void redis_used(double *counted, double *resident) {
    static const char field[] = "\nused_memory:";
    struct ucred other;
    socklen_t other_len = sizeof other;
    size_t have;
    ask((size_t)snprintf(request, sizeof request, "*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n"));
    long long len = answer_number(&have);
    answer(have, (size_t)(strchr(reply, '\n') + 1 - reply) + (size_t)len + 2);
    const char *found = strstr(reply, field);
    if (found)
        *counted = strtod(found + sizeof field - 1, NULL);
    else
        fail("Redis", "no used_memory in INFO");
    if (getsockopt(server, SOL_SOCKET, SO_PEERCRED, &other, &other_len) != 0)
        fail("SO_PEERCRED", NULL);
    *resident = resident_bytes(other.pid);
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
