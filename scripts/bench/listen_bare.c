/* The bare limit in scripts/bench/listen: one process sends a message now and then to a second one, which
 * does nothing but send it on to a third; how long after the call it is there. Usage: listen_bare CHANGES.
 * Prints the line that listen.lua prints. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crew.h"

enum { WARM_UP = 200, PAUSE_NS = 1000000, MOST = 1000000, WORDS = 16 };

/* A message this small comes and leaves in one piece. False at the end. */
static int receive(int fd, uint64_t message[WORDS]) {
    ssize_t got = read(fd, message, WORDS * sizeof *message);
    if (got < 0)
        fail("read", NULL);
    return got > 0;
}

static void send_on(int fd, const uint64_t message[WORDS]) {
    if (write(fd, message, WORDS * sizeof *message) != (ssize_t)(WORDS * sizeof *message))
        fail("write", NULL);
}

static void relay(int from, int to) {
    uint64_t message[WORDS];
    while (receive(from, message))
        send_on(to, message);
}

static void hear(int from, long changes) {
    uint64_t message[WORDS], *took_ns = calloc((size_t)changes, sizeof *took_ns);
    if (!took_ns)
        fail("memory", NULL);
    for (long i = -WARM_UP; i < changes && receive(from, message); i++) {
        uint64_t now = now_ns();
        if (i >= 0)
            took_ns[i] = now - message[0];
    }
    say_times(took_ns, (size_t)changes);
    printf("\n");
    free(took_ns);
}

int main(int argc, char **argv) {
    long changes = argc == 2 ? strtol(argv[1], NULL, 10) : 0;
    if (changes < 1 || changes > MOST) {
        fprintf(stderr, "usage: listen_bare CHANGES\n");
        return 2;
    }
    int first[2], second[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, first) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, second) != 0)
        fail("socketpair", NULL);
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork", NULL);
        if (child > 0)
            continue;
        close(first[1]);
        close(second[i ? 1 : 0]);
        if (i == 0)
            relay(first[0], second[1]);
        else
            hear(second[0], changes);
        return 0;
    }
    close(first[0]);
    close(second[0]);
    close(second[1]);
    uint64_t message[WORDS] = {0};
    for (long i = -WARM_UP; i < changes; i++) {
        message[0] = now_ns();
        send_on(first[1], message);
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
    close(first[1]);
    int failed = 0, status;
    while (wait(&status) > 0)
        failed |= status != 0;
    return failed;
}
