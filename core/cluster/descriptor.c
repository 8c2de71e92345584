#include "cluster/descriptor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
    OWN = 32,        /* for the loop, signals, the memory, and a process that is being started */
    OF_PROCESS = 2,  /* its frames, and its descriptors */
    PARTS = 5,       /* a storage has three open files; and some may be closing while others open */
    LEAST_SHARE = 8, /* below that nothing would work, and the system says why */
    MOST_SHARE = 1024,
};

/* Packets, so that each descriptor stays one. */
int cm_descriptor_pipe(int ends[2]) {
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0 ? -errno : 0;
}

/* A packet of one byte, with room for one descriptor. */
struct packet {
    char byte;
    struct iovec bytes;
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message;
};

static void init(struct packet *packet) {
    memset(packet, 0, sizeof *packet);
    packet->bytes = (struct iovec){&packet->byte, 1};
    packet->message = (struct msghdr){.msg_iov = &packet->bytes,
                                      .msg_iovlen = 1,
                                      .msg_control = packet->control.room,
                                      .msg_controllen = sizeof packet->control.room};
}

int cm_descriptor_send(int pipe, int fd) {
    struct packet packet;
    init(&packet);
    packet.control.head =
        (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&packet.control.head), &fd, sizeof fd);
    ssize_t sent;
    do
        sent = sendmsg(pipe, &packet.message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int cm_descriptor_take(int pipe) {
    struct packet packet;
    init(&packet);
    ssize_t taken;
    do
        taken = recvmsg(pipe, &packet.message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (taken < 0 && errno == EINTR);
    if (taken < 0)
        return -errno;
    const struct cmsghdr *head = CMSG_FIRSTHDR(&packet.message);
    if (taken == 0 || !head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EPROTO; /* out of descriptors, it came without */
    int fd;
    memcpy(&fd, CMSG_DATA(head), sizeof fd);
    return fd;
}

static uint64_t open_files(void) {
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}

uint32_t cm_descriptor_share(uint32_t seats) {
    uint64_t limit = open_files(), reserved = OWN + OF_PROCESS * (uint64_t)seats;
    uint64_t share = limit > reserved ? (limit - reserved) / PARTS : 0;
    return share < LEAST_SHARE ? LEAST_SHARE : share > MOST_SHARE ? MOST_SHARE : (uint32_t)share;
}

const char *cm_descriptor_refusal(uint32_t share, const char *what) {
    static char text[160];
    int len = snprintf(text, sizeof text, "%u %s are open in this cluster, which are all that it may have",
                       share, what);
    if (share < MOST_SHARE)
        snprintf(text + len, sizeof text - (size_t)len, " with %llu open files (ulimit -n)",
                 (unsigned long long)open_files());
    return text;
}
