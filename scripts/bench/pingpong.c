/* The bare limits that an operation through the master is measured against: two processes throw 128 bytes to
 * and fro over a socketpair with blocking calls; or, "relayed", one asks another through a third, four
 * messages for one answer, and all three look for a while before they sleep. Usage: pingpong [ROUNDS
 * [relayed]]. Prints one line of figures. */
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crew.h"

enum {
    MESSAGE_BYTES = 128,
    WARM_UP = 1000,
    DEFAULT_ROUNDS = 100000,
    MOST_ROUNDS = 100000000,
    LOOK_NS = 50000
};

/* What has come so far of a message that begins. Looking, as core/base/patience does, spares the wake-up. */
static size_t look(int fd, char *message) {
    uint64_t since_ns = now_ns();
    do {
        ssize_t got = recv(fd, message, MESSAGE_BYTES, MSG_DONTWAIT);
        if (got >= 0)
            return (size_t)got;
        sched_yield();
    } while (now_ns() - since_ns < LOOK_NS);
    return 0;
}

/* False at the end of the stream. */
static int receive(int fd, char *message, int looks) {
    size_t have = looks ? look(fd, message) : 0;
    while (have < MESSAGE_BYTES) {
        ssize_t got = read(fd, message + have, MESSAGE_BYTES - have);
        if (got == 0)
            return 0;
        if (got < 0 && errno != EINTR)
            fail("read", NULL);
        if (got > 0)
            have += (size_t)got;
    }
    return 1;
}

/* A message of this size always fits into the socket's buffer, so it leaves in one piece. */
static void send_message(int fd, const char *message) {
    if (write(fd, message, MESSAGE_BYTES) != MESSAGE_BYTES)
        fail("write", NULL);
}

static void bounce(int fd, char *message, int looks) {
    send_message(fd, message);
    if (!receive(fd, message, looks))
        fail("the other process", "it has gone");
}

/* Starts a process that answers each message, having asked the one at `behind` if that is none of -1. Gives
 * the descriptor to reach it by. */
static int start(int behind, int looks) {
    int ends[2];
    char message[MESSAGE_BYTES];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        fail("socketpair", NULL);
    pid_t child = fork();
    if (child < 0)
        fail("fork", NULL);
    if (child == 0) {
        close(ends[0]);
        while (receive(ends[1], message, looks)) {
            if (behind >= 0)
                bounce(behind, message, looks);
            send_message(ends[1], message);
        }
        _exit(0);
    }
    close(ends[1]);
    return ends[0];
}

int main(int argc, char **argv) {
    char *end = NULL;
    long rounds = argc > 1 ? strtol(argv[1], &end, 10) : DEFAULT_ROUNDS;
    int relayed = argc == 3 && strcmp(argv[2], "relayed") == 0;
    if (argc > 2 + relayed || rounds < 1 || rounds > MOST_ROUNDS || (end && *end)) {
        fprintf(stderr, "usage: pingpong [ROUNDS [relayed]]\n");
        return 2;
    }

    char message[MESSAGE_BYTES] = {0};
    uint64_t *took_ns = calloc((size_t)rounds, sizeof *took_ns);
    if (!took_ns)
        fail("memory", NULL);
    int answers = start(-1, relayed);
    int asked = relayed ? start(answers, relayed) : answers;

    for (int i = 0; i < WARM_UP; i++)
        bounce(asked, message, relayed);
    uint64_t start_ns = now_ns();
    for (long i = 0; i < rounds; i++) {
        uint64_t sent_ns = now_ns();
        bounce(asked, message, relayed);
        took_ns[i] = now_ns() - sent_ns;
    }
    double seconds = (double)(now_ns() - start_ns) / 1e9;
    close(answers);
    close(asked);
    while (wait(NULL) > 0) {
    }

    say_times(took_ns, (size_t)rounds);
    printf(" per_s=%.0f\n", (double)rounds / seconds);
    free(took_ns);
    return 0;
}
