#include "cluster/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

enum { AGAIN_MS = 50, AGAINS_MOST = 200 };

/* A path, or with @ in front a name without a file. */
static int read_address(struct cm_notify *notify, const char *name) {
    size_t len = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || len < 2)
        return -EAFNOSUPPORT;
    if (len >= sizeof notify->address.sun_path)
        return -ENAMETOOLONG;
    notify->address.sun_family = AF_UNIX;
    memcpy(notify->address.sun_path, name, len);
    if (name[0] == '@')
        notify->address.sun_path[0] = 0;
    notify->address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    return 0;
}

/* 0 for what is no number. */
static uint64_t read_number(const char *text) {
    char *end = NULL;
    errno = 0;
    unsigned long long number = text && text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    return end && !*end && !errno ? number : 0;
}

static uint64_t read_alive_ms(void) {
    const char *pid = getenv("WATCHDOG_PID");
    if (pid && read_number(pid) != (uint64_t)getpid())
        return 0; /* it is somebody else's */
    uint64_t limit_us = read_number(getenv("WATCHDOG_USEC"));
    return limit_us ? limit_us / 2000 + (limit_us < 2000) : 0;
}

void cm_notify_init(struct cm_notify *notify) {
    *notify = (struct cm_notify){.fd = -1};
    const char *name = getenv("NOTIFY_SOCKET");
    if (name) {
        int err = read_address(notify, name);
        if (!err)
            notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (notify->fd >= 0)
            notify->alive_ms = read_alive_ms();
        else
            cm_log(CM_LOG_WARN, "the service manager is told nothing: NOTIFY_SOCKET is '%s': %s", name,
                   cm_error_text(err ? err : -errno));
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

/* 0 or an errno. */
static int send_text(const struct cm_notify *notify, const char *text) {
    ssize_t sent = sendto(notify->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
                          (const struct sockaddr *)&notify->address, notify->address_bytes);
    return sent < 0 ? -errno : 0;
}

static void on_again(uv_timer_t *timer);

static void send_state(struct cm_notify *notify) {
    int err = send_text(notify, notify->state);
    if ((err == -EAGAIN || err == -ENOBUFS) && notify->agains++ < AGAINS_MOST) {
        uv_timer_start(&notify->again, on_again, AGAIN_MS, 0);
        return;
    }
    uv_timer_stop(&notify->again);
    if (err)
        cm_log(CM_LOG_WARN, "the service manager has not been told '%.*s': %s",
               (int)strcspn(notify->state, "\n"), notify->state, cm_error_text(err));
}

static void on_again(uv_timer_t *timer) {
    send_state(timer->data);
}

/* A late one comes with the next: it says the same again. */
static void on_alive(uv_timer_t *timer) {
    send_text(timer->data, "WATCHDOG=1");
}

void cm_notify_start(struct cm_notify *notify, uv_loop_t *loop) {
    uv_timer_init(loop, &notify->alive);
    uv_timer_init(loop, &notify->again);
    notify->alive.data = notify->again.data = notify;
    uv_unref((uv_handle_t *)&notify->alive);
    uv_unref((uv_handle_t *)&notify->again);
    if (notify->alive_ms)
        uv_timer_start(&notify->alive, on_alive, notify->alive_ms, notify->alive_ms);
}

void cm_notify_stop(struct cm_notify *notify) {
    uv_close((uv_handle_t *)&notify->alive, NULL);
    uv_close((uv_handle_t *)&notify->again, NULL);
    if (notify->fd >= 0)
        close(notify->fd);
    notify->fd = -1;
}

static void tell(struct cm_notify *notify) {
    notify->agains = 0;
    if (notify->fd >= 0)
        send_state(notify);
}

void cm_notify_ready(struct cm_notify *notify, unsigned workers) {
    snprintf(notify->state, sizeof notify->state, "READY=1\nSTATUS=Running, workers: %u", workers);
    tell(notify);
}

void cm_notify_reloading(struct cm_notify *notify) {
    /* The time says of a signal whether it was before. */
    snprintf(notify->state, sizeof notify->state, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=Reloading",
             (unsigned long long)(cm_clock_ns() / 1000));
    tell(notify);
}

void cm_notify_stopping(struct cm_notify *notify) {
    snprintf(notify->state, sizeof notify->state, "STOPPING=1\nSTATUS=Stopping");
    tell(notify);
}
