/* The bare limit that scripts/bench/http is measured against: each of WORKERS processes waits with epoll,
 * receives a request and sends an answer of the same bytes that the others send for /hello, and looks at
 * nothing else. Usage: http_bare PORT WORKERS. Ends on SIGTERM. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "crew.h"

enum { BACKLOG = 511, EVENTS = 64, REQUEST_BYTES = 4096 };

static const char answer[] = "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 20:20:20 GMT\r\n"
                             "Content-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

static const int on = 1;
static uint16_t port;

/* Each process has a socket of its own, among which the kernel deals out the connections. */
static int listen_on(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) ||
        bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, BACKLOG))
        fail("listen", NULL);
    return fd;
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl", NULL);
}

static void accept_all(int epoll, int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(epoll, fd);
    }
}

/* A request comes in one piece, and the answer fits into the socket's buffer. */
static void serve(int fd) {
    char request[REQUEST_BYTES];
    ssize_t got = recv(fd, request, sizeof request, 0);
    if (got > 0)
        got = send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
    if (got == 0 || (got < 0 && errno != EAGAIN))
        close(fd);
}

static void work(int index, void *shared) {
    (void)index;
    (void)shared;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int epoll = epoll_create1(0), listener = listen_on();
    watch(epoll, listener);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                accept_all(epoll, listener);
            else
                serve(events[i].data.fd);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 3)
        fail("usage", "http_bare PORT WORKERS");
    port = (uint16_t)strtoul(argv[1], NULL, 10);
    crew_run((int)strtol(argv[2], NULL, 10), work, NULL);
    return 0;
}
