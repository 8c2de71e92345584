#include "redis.h"

#include "crew.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int server = -1;
char redis_reply[16384];

void redis_open(const char *place) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(place);
    if (len >= sizeof address.sun_path)
        fail(place, "too long for a socket");
    memcpy(address.sun_path, place, len);
    server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) != 0)
        fail(place, NULL);
}

void redis_close(void) {
    close(server);
    server = -1;
}

void redis_ask(const char *request, size_t len) {
    for (size_t sent = 0; sent < len;) {
        ssize_t count = write(server, request + sent, len - sent);
        if (count <= 0)
            fail("writing to Redis", NULL);
        sent += (size_t)count;
    }
}

bool redis_is_nil(void) {
    return strncmp(redis_reply, "$-1\r\n", 5) == 0;
}

size_t redis_answer(size_t have, size_t want) {
    while (have < want && !(have > 0 && redis_is_nil())) {
        ssize_t count = read(server, redis_reply + have, sizeof redis_reply - 1 - have);
        if (count <= 0)
            fail("reading from Redis", count == 0 ? "it has gone, or the reply is too long" : NULL);
        have += (size_t)count;
        redis_reply[have] = '\0';
        if (redis_reply[0] == '-')
            fail("Redis said", redis_reply);
    }
    return have;
}

long long redis_answer_number(size_t *have) {
    *have = redis_answer(0, 1);
    while (!strchr(redis_reply, '\n'))
        *have = redis_answer(*have, *have + 1);
    return strtoll(redis_reply + 1, NULL, 10);
}

long redis_pid(void) {
    struct ucred other;
    socklen_t other_len = sizeof other;
    if (getsockopt(server, SOL_SOCKET, SO_PEERCRED, &other, &other_len) != 0)
        fail("SO_PEERCRED", NULL);
    return other.pid;
}
