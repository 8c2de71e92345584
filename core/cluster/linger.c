#include "cluster/linger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MOST = 64,
    LINGER_MS = 2000,
    MOST_BYTES = 4 << 20,
    READ_BYTES = 16 << 10,
    READS_PER_TURN = 8,
};

struct lingering {
    struct cm_list link;
    struct cm_lingers *all;
    uv_poll_t poll;
    uv_timer_t timer;
    int fd;
    int open_handles;
    size_t read_bytes;
};

void cm_lingers_init(struct cm_lingers *lingers, uv_loop_t *loop,
                     void (*on_gone)(struct cm_lingers *lingers)) {
    *lingers = (struct cm_lingers){.loop = loop, .on_gone = on_gone};
    cm_list_init(&lingers->items);
}

static void on_handle_closed(uv_handle_t *handle) {
    struct lingering *lingering = handle->type == UV_POLL ? CM_LIST_ITEM(handle, struct lingering, poll)
                                                          : CM_LIST_ITEM(handle, struct lingering, timer);
    if (--lingering->open_handles)
        return;
    struct cm_lingers *all = lingering->all;
    close(lingering->fd);
    free(lingering);
    all->count--;
    all->on_gone(all);
}

static void end(struct lingering *lingering) {
    cm_list_remove(&lingering->link);
    uv_close((uv_handle_t *)&lingering->poll, on_handle_closed);
    uv_close((uv_handle_t *)&lingering->timer, on_handle_closed);
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    struct lingering *lingering = CM_LIST_ITEM(poll, struct lingering, poll);
    char bytes[READ_BYTES];
    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t got = recv(lingering->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got > 0)
            lingering->read_bytes += (size_t)got;
        if (got <= 0 || lingering->read_bytes > MOST_BYTES) {
            end(lingering);
            return;
        }
    }
}

static void on_time(uv_timer_t *timer) {
    end(CM_LIST_ITEM(timer, struct lingering, timer));
}

bool cm_lingers_add(struct cm_lingers *lingers, int fd) {
    struct lingering *lingering = lingers->count < MOST ? calloc(1, sizeof *lingering) : NULL;
    if (!lingering)
        return false;
    lingering->all = lingers;
    lingering->open_handles = 2;
    lingering->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (lingering->fd < 0 || uv_poll_init(lingers->loop, &lingering->poll, lingering->fd)) {
        if (lingering->fd >= 0)
            close(lingering->fd);
        free(lingering);
        return false;
    }
    shutdown(fd, SHUT_WR); /* which closing it would have done */
    uv_timer_init(lingers->loop, &lingering->timer);
    lingering->poll.data = lingering->timer.data = NULL; /* handles that are not luv's */
    uv_unref((uv_handle_t *)&lingering->poll);
    uv_unref((uv_handle_t *)&lingering->timer);
    uv_poll_start(&lingering->poll, UV_READABLE, on_readable);
    uv_timer_start(&lingering->timer, on_time, LINGER_MS, 0);
    cm_list_append(&lingers->items, &lingering->link);
    lingers->count++;
    return true;
}

void cm_lingers_end(struct cm_lingers *lingers) {
    CM_LIST_EACH(link, &lingers->items)
    end(CM_LIST_ITEM(link, struct lingering, link));
}
