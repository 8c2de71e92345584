/* Redis in scripts/bench/listen: one process publishes now and then, the other one has subscribed; how long
 * after the call a message is there. Usage: listen_redis SOCKET CHANGES. Prints the line that listen.lua
 * prints. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crew.h"
#include "redis.h"

enum { WARM_UP = 200, PAUSE_NS = 1000000, MOST = 1000000 };

static const char subscribe[] = "*2\r\n$9\r\nSUBSCRIBE\r\n$3\r\nkey\r\n";
static const char subscribed[] = "*3\r\n$9\r\nsubscribe\r\n$3\r\nkey\r\n:1\r\n";
static const char message[] =
    "*3\r\n$7\r\nmessage\r\n$3\r\nkey\r\n$20\r\n"; /* 20 digits and a line's end follow */

static void listen_to(const char *place, int ready, long changes) {
    size_t start = sizeof message - 1, len = start + 22, have = 0;
    uint64_t *took_ns = calloc((size_t)changes, sizeof *took_ns);
    if (!took_ns)
        fail("memory", NULL);
    redis_open(place);
    redis_ask(subscribe, sizeof subscribe - 1);
    redis_answer(0, sizeof subscribed - 1);
    if (write(ready, "", 1) != 1)
        fail("pipe", NULL);
    for (long i = -WARM_UP; i < changes; i++) {
        have = redis_answer(have, len);
        uint64_t now = now_ns();
        if (memcmp(redis_reply, message, start) != 0)
            fail("Redis sent", redis_reply);
        if (i >= 0)
            took_ns[i] = now - strtoull(redis_reply + start, NULL, 10);
        have -= len; /* another one may have come with it */
        memmove(redis_reply, redis_reply + len, have + 1);
    }
    say_times(took_ns, (size_t)changes);
    printf("\n");
    free(took_ns);
}

int main(int argc, char **argv) {
    long changes = argc == 3 ? strtol(argv[2], NULL, 10) : 0;
    if (changes < 1 || changes > MOST) {
        fprintf(stderr, "usage: listen_redis SOCKET CHANGES\n");
        return 2;
    }
    int ends[2];
    char ready;
    if (pipe(ends) != 0)
        fail("pipe", NULL);
    pid_t child = fork();
    if (child < 0)
        fail("fork", NULL);
    if (child == 0) {
        listen_to(argv[1], ends[1], changes);
        return 0;
    }
    close(ends[1]);
    if (read(ends[0], &ready, 1) != 1)
        fail("the subscriber", "it has gone");
    redis_open(argv[1]);
    for (long i = -WARM_UP; i < changes; i++) {
        char request[128];
        int len = snprintf(request, sizeof request,
                           "*3\r\n$7\r\nPUBLISH\r\n$3\r\nkey\r\n$20\r\n%020" PRIu64 "\r\n", now_ns());
        redis_ask(request, (size_t)len);
        size_t have;
        redis_answer_number(&have);
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
    redis_close();
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
