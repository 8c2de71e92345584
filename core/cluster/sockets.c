#include "cluster/sockets.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/descriptor.h"
#include "wire/message.h"
#include "wire/ops.h"

enum {
    UNUSED_MS = 15000, /* more than the longest pause before a worker is started again */
    LOOK_MS = 1000,
};

struct address {
    struct sockaddr_storage any; /* zeroed but for what is said, so that bytes can be compared */
    socklen_t len;
};

struct bound_socket {
    struct cm_list link;
    uint32_t id;
    int fd;
    struct address address; /* as it was asked for */
    dev_t device;           /* where it has a path: of what that led to when it was bound */
    ino_t inode;
    struct cm_list holders; /* struct holder */
    uint64_t unused_ms;     /* since when nobody has it; 0: somebody does */
};

struct holder {
    struct cm_list link;
    uint32_t seat;
    uint32_t count;
};

/* --- binding --- */

static const char *path_of(const struct address *address) {
    return address->any.ss_family == AF_UNIX ? ((const struct sockaddr_un *)&address->any)->sun_path : NULL;
}

/* Whether nobody listens there any more: who did has died and left its path behind. */
static bool is_stale(const struct address *address) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)&address->any, address->len) < 0 &&
                 errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return stale;
}

static int bind_to(int fd, const struct address *address) {
    const struct sockaddr *any = (const struct sockaddr *)&address->any;
    if (bind(fd, any, address->len) == 0)
        return 0;
    int err = -errno;
    const char *path = path_of(address);
    if (err != -EADDRINUSE || !path || !is_stale(address) || unlink(path) < 0)
        return err;
    return bind(fd, any, address->len) == 0 ? 0 : -errno;
}

/* The descriptor, or an errno. */
static int open_bound(const struct address *address) {
    int fd = socket(address->any.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int on = 1;
    int err = 0;
    /* Connections of an earlier run that linger are in nobody's way; one that listens still is. */
    if (!path_of(address) && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        err = -errno;
    if (!err)
        err = bind_to(fd, address);
    if (err)
        close(fd);
    return err ? err : fd;
}

static struct bound_socket *find(const struct cm_sockets *sockets, const struct address *address) {
    CM_LIST_EACH(link, &sockets->bound) {
        struct bound_socket *bound = CM_LIST_ITEM(link, struct bound_socket, link);
        if (bound->address.len == address->len &&
            memcmp(&bound->address.any, &address->any, address->len) == 0)
            return bound;
    }
    return NULL;
}

static void note_path(struct bound_socket *bound) {
    struct stat there;
    if (path_of(&bound->address) && lstat(path_of(&bound->address), &there) == 0) {
        bound->device = there.st_dev;
        bound->inode = there.st_ino;
    }
}

/* Unless somebody has put something else there: a cluster that takes this one's place, perhaps. */
static void remove_path(const struct bound_socket *bound) {
    const char *path = path_of(&bound->address);
    struct stat there;
    if (path && lstat(path, &there) == 0 && there.st_dev == bound->device && there.st_ino == bound->inode)
        unlink(path);
}

/* 0 with the socket, or an errno or CM_E_NOMEMORY. */
static int find_or_bind(struct cm_sockets *sockets, const struct address *address,
                        struct bound_socket **result) {
    *result = find(sockets, address);
    if (*result)
        return 0;
    if (sockets->count >= sockets->most)
        return -EMFILE;
    struct bound_socket *bound = calloc(1, sizeof *bound);
    if (!bound)
        return CM_E_NOMEMORY;
    int fd = open_bound(address);
    if (fd < 0) {
        free(bound);
        return fd;
    }
    *bound = (struct bound_socket){.id = ++sockets->last_id, .fd = fd, .address = *address};
    bound->unused_ms = cm_clock_ms();
    note_path(bound);
    cm_list_init(&bound->holders);
    cm_list_append(&sockets->bound, &bound->link);
    sockets->count++;
    *result = bound;
    return 0;
}

static void close_bound(struct cm_sockets *sockets, struct bound_socket *bound) {
    CM_LIST_EACH(link, &bound->holders) {
        free(CM_LIST_ITEM(link, struct holder, link));
    }
    remove_path(bound);
    close(bound->fd);
    cm_list_remove(&bound->link);
    sockets->count--;
    free(bound);
}

/* --- who has it --- */

static struct holder *holder_of(const struct bound_socket *bound, uint32_t seat) {
    CM_LIST_EACH(link, &bound->holders) {
        struct holder *holder = CM_LIST_ITEM(link, struct holder, link);
        if (holder->seat == seat)
            return holder;
    }
    return NULL;
}

static int hold(struct bound_socket *bound, uint32_t seat) {
    struct holder *holder = holder_of(bound, seat);
    if (!holder) {
        holder = calloc(1, sizeof *holder);
        if (!holder)
            return CM_E_NOMEMORY;
        holder->seat = seat;
        cm_list_append(&bound->holders, &holder->link);
    }
    holder->count++;
    bound->unused_ms = 0;
    return 0;
}

static void drop(struct bound_socket *bound, struct holder *holder) {
    cm_list_remove(&holder->link);
    free(holder);
    if (cm_list_empty(&bound->holders))
        bound->unused_ms = cm_clock_ms();
}

/* --- requests: a payload is taken for hostile --- */

static bool to_unix(struct cm_bytes path, struct address *address) {
    struct sockaddr_un *name = (struct sockaddr_un *)&address->any;
    if (path.len < 2 || path.len >= sizeof name->sun_path || path.data[0] != '/' ||
        memchr(path.data, 0, path.len))
        return false;
    name->sun_family = AF_UNIX;
    memcpy(name->sun_path, path.data, path.len);
    address->len = sizeof *name;
    return true;
}

static bool to_inet(struct cm_bytes host, uint32_t port, struct address *address) {
    char text[64];
    if (host.len == 0 || host.len >= sizeof text || port > 65535 || memchr(host.data, 0, host.len))
        return false;
    memcpy(text, host.data, host.len);
    text[host.len] = 0;
    address->len = sizeof(struct sockaddr_in);
    if (uv_ip4_addr(text, (int)port, (struct sockaddr_in *)&address->any) == 0)
        return true;
    address->len = sizeof(struct sockaddr_in6);
    return uv_ip6_addr(text, (int)port, (struct sockaddr_in6 *)&address->any) == 0;
}

static int answer(struct bound_socket *bound, struct cm_process *process, const struct cm_frame *frame) {
    struct cm_buf payload = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &payload);
    cm_write_u32(&writer, bound->id);
    int err = writer.error ? writer.error : hold(bound, process->seat);
    /* Before the answer: whoever has read that finds the descriptor there. */
    if (!err) {
        err = cm_descriptor_send(process->descriptors, bound->fd);
        struct holder *holder = holder_of(bound, process->seat);
        if (err && --holder->count == 0)
            drop(bound, holder);
    }
    err = err ? cm_process_refuse(process, frame->op, frame->id, err, NULL)
              : cm_process_reply(process, frame->op, frame->id, cm_buf_view(&payload));
    cm_buf_deinit(&payload);
    return err;
}

int cm_sockets_bind(struct cm_sockets *sockets, struct cm_process *process, const struct cm_frame *frame) {
    struct cm_reader in;
    cm_reader_init(&in, frame->payload);
    struct cm_bytes host = cm_read_bytes(&in);
    uint32_t port = cm_read_u32(&in);
    struct address address = {0};
    bool good = port == CM_BIND_UNIX ? to_unix(host, &address) : to_inet(host, port, &address);
    if (cm_reader_end(&in) || !good)
        return CM_E_BADFRAME;
    struct bound_socket *bound;
    int err = process->dead ? CM_E_CLOSED : find_or_bind(sockets, &address, &bound);
    if (!err)
        return answer(bound, process, frame);
    bool full = err == -EMFILE && sockets->count >= sockets->most;
    return cm_process_refuse(process, frame->op, frame->id, err,
                             full ? cm_descriptor_refusal(sockets->most, "sockets") : NULL);
}

int cm_sockets_unbind(struct cm_sockets *sockets, struct cm_process *process, const struct cm_frame *frame) {
    struct cm_reader in;
    cm_reader_init(&in, frame->payload);
    uint32_t id = cm_read_u32(&in);
    if (cm_reader_end(&in))
        return CM_E_BADFRAME;
    CM_LIST_EACH(link, &sockets->bound) {
        struct bound_socket *bound = CM_LIST_ITEM(link, struct bound_socket, link);
        struct holder *holder = bound->id == id ? holder_of(bound, process->seat) : NULL;
        if (!holder || --holder->count)
            continue;
        drop(bound, holder);
        /* It was said, so nobody is to be started again for it. */
        if (bound->unused_ms)
            close_bound(sockets, bound);
    }
    return 0;
}

void cm_sockets_on_gone(struct cm_sockets *sockets, uint32_t seat) {
    CM_LIST_EACH(link, &sockets->bound) {
        struct bound_socket *bound = CM_LIST_ITEM(link, struct bound_socket, link);
        struct holder *holder = holder_of(bound, seat);
        if (holder)
            drop(bound, holder);
    }
}

/* --- beginning and end --- */

static void on_idle(uv_timer_t *idle) {
    struct cm_sockets *sockets = idle->data;
    uint64_t now_ms = cm_clock_ms();
    CM_LIST_EACH(link, &sockets->bound) {
        struct bound_socket *bound = CM_LIST_ITEM(link, struct bound_socket, link);
        if (bound->unused_ms && now_ms - bound->unused_ms >= UNUSED_MS)
            close_bound(sockets, bound);
    }
}

void cm_sockets_init(struct cm_sockets *sockets, uint32_t most) {
    *sockets = (struct cm_sockets){.most = most};
    cm_list_init(&sockets->bound);
}

void cm_sockets_start(struct cm_sockets *sockets, uv_loop_t *loop) {
    uv_timer_init(loop, &sockets->idle);
    sockets->idle.data = sockets;
    uv_timer_start(&sockets->idle, on_idle, LOOK_MS, LOOK_MS);
}

void cm_sockets_stop(struct cm_sockets *sockets) {
    uv_close((uv_handle_t *)&sockets->idle, NULL);
    CM_LIST_EACH(link, &sockets->bound) {
        close_bound(sockets, CM_LIST_ITEM(link, struct bound_socket, link));
    }
}
