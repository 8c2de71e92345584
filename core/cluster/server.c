#include "cluster/server.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

enum {
    BACKLOG = 1024,
    POOL_BYTES = 16 << 10, /* of a connection's memory, beside what a request's head may take */
    /* A client that keeps its connection may be sending the next request while the server begins to stop: one
     * that has not for so long is not expected to. */
    QUIET_MS = 300,
    QUIET_POLL_MS = 50,
    BUSY_TURNS = 128,
};

struct cm_server *cm_server_of(const struct cm_exchange *exchange) {
    return CM_LIST_ITEM(exchange->all, struct cm_server, exchanges);
}

static uint64_t now_ms(const struct cm_server *server) {
    return uv_now(server->loop);
}

/* --- what libmicrohttpd calls --- */

static struct cm_client *client_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void end_exchange(struct cm_client *client, bool cut) {
    struct cm_exchange *exchange = client->owner;
    client->owner = NULL;
    if (!exchange)
        return;
    client->lingers = exchange->refused;
    cm_exchange_end(exchange, cut);
}

/* An answer without reading the rest: ours, or one that libmicrohttpd gives to a bad head. */
static bool may_lose_its_answer(const struct cm_client *client) {
    return client->lingers || (client->phase == CM_CLIENT_HEADING && cm_client_has_unread(client));
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    struct cm_server *server = context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct cm_client *client = NULL;
        if (info)
            cm_client_new(&server->clients, info->connect_fd, now_ms(server), &client);
        *socket_context = client; /* NULL: its first request will end it */
    } else if (*socket_context) {
        struct cm_client *client = *socket_context;
        end_exchange(client, true);
        if (may_lose_its_answer(client) && cm_lingers_add(&server->lingers, client->fd))
            server->open_handles++;
        cm_client_free(&server->clients, client);
        *socket_context = NULL;
        server->freed = true;
    }
}

/* A request's line has come; what is returned is the handler's context. */
static void *on_line(void *context, const char *target, struct MHD_Connection *connection) {
    struct cm_server *server = context;
    struct cm_client *client = client_of(connection);
    if (!client)
        return NULL;
    cm_client_enter(&server->clients, client, CM_CLIENT_HEADING, now_ms(server));
    struct cm_exchange *exchange = NULL;
    cm_exchange_new(&server->exchanges, connection, target, &exchange);
    client->owner = exchange;
    return exchange;
}

static enum MHD_Result on_access(void *context, struct MHD_Connection *connection, const char *path,
                                 const char *method, const char *version, const char *data, size_t *len,
                                 void **request_context) {
    struct cm_server *server = context;
    struct cm_exchange *exchange = *request_context;
    if (!exchange)
        return MHD_NO;
    if (!exchange->headed)
        cm_client_enter(&server->clients, client_of(connection), CM_CLIENT_BUSY, now_ms(server));
    struct cm_head_line line = {method, path, version, cm_buf_view(&exchange->target)};
    return cm_exchange_advance(exchange, &line, data, len);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **request_context,
                         enum MHD_RequestTerminationCode code) {
    struct cm_server *server = context;
    struct cm_client *client = client_of(connection);
    *request_context = NULL;
    if (!client)
        return;
    end_exchange(client, code != MHD_REQUEST_TERMINATED_COMPLETED_OK);
    cm_client_enter(&server->clients, client, CM_CLIENT_RESTING, now_ms(server));
}

/* Targets stay as they were sent: decoded, they could contain a NUL. */
static size_t keep_escaped(void *context, struct MHD_Connection *connection, char *text) {
    (void)context;
    (void)connection;
    return strlen(text);
}

static void on_message(void *context, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

/* What libmicrohttpd has to say is about single connections; only of a failed start it is the reason. */
static void on_message(void *context, const char *format, va_list arguments) {
    const struct cm_server *server = context;
    char line[CM_SERVER_REASON_BYTES];
    vsnprintf(line, sizeof line, format, arguments);
    line[strcspn(line, "\n")] = 0;
    if (server->reason)
        memcpy(server->reason, line, sizeof line);
    else
        cm_log(CM_LOG_DEBUG, "http: %s", line);
}

/* --- the loop --- */

static void on_due(uv_timer_t *timer);
static void on_again(uv_idle_t *again);

/* In a half-done handshake of TLS libmicrohttpd wants to run again at once, and again: then not all the time.
 */
static bool runs_at_once(struct cm_server *server) {
    return ++server->turns % BUSY_TURNS != 0;
}

static uint64_t next_due_ms(struct cm_server *server) {
    uint64_t now = now_ms(server), due_ms = cm_clients_due_ms(&server->clients);
    /* One that has no room left accepts again when it runs once more. */
    bool at_once = server->freed;
    server->freed = false;
    MHD_UNSIGNED_LONG_LONG timeout_ms;
    if (MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES) {
        bool wants_now = timeout_ms == 0 && runs_at_once(server);
        at_once = at_once || wants_now;
        /* Not 0: libuv would call a timer of this turn's time again before anything else. */
        uint64_t wait_ms = timeout_ms ? timeout_ms : 1;
        if (!wants_now && now + wait_ms < due_ms)
            due_ms = now + wait_ms;
    }
    if (server->stopping && now + QUIET_POLL_MS < due_ms)
        due_ms = now + QUIET_POLL_MS;
    if (at_once)
        uv_idle_start(&server->again, on_again);
    return due_ms;
}

/* A timer that comes too early harms nobody; most of the time the one that runs is left alone. */
static void arm(struct cm_server *server) {
    uint64_t due_ms = next_due_ms(server);
    if (due_ms >= server->due_ms)
        return;
    server->due_ms = due_ms;
    uint64_t now = now_ms(server);
    uv_timer_start(&server->timer, on_due, due_ms > now ? due_ms - now : 1, 0);
}

static void let_go(struct cm_server *server) {
    if (--server->open_handles)
        return;
    server->events->on_closed(server);
    cm_exchanges_deinit(&server->exchanges);
    free(server);
}

static void on_lingered(struct cm_lingers *lingers) {
    let_go(CM_LIST_ITEM(lingers, struct cm_server, lingers));
}

static void on_handle_closed(uv_handle_t *handle) {
    struct cm_server *server = handle->type == UV_POLL    ? CM_LIST_ITEM(handle, struct cm_server, poll)
                               : handle->type == UV_TIMER ? CM_LIST_ITEM(handle, struct cm_server, timer)
                                                          : CM_LIST_ITEM(handle, struct cm_server, again);
    let_go(server);
}

static void leave(struct cm_server *server) {
    uv_close((uv_handle_t *)&server->poll, on_handle_closed);
    uv_close((uv_handle_t *)&server->timer, on_handle_closed);
    uv_close((uv_handle_t *)&server->again, on_handle_closed);
    MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
    cm_lingers_end(&server->lingers);
}

/* Whether that was all. */
static bool wind_down(struct cm_server *server) {
    if (!server->quiet) {
        server->quiet = true;
        close(MHD_quiesce_daemon(server->daemon));
    }
    cm_clients_dismiss(&server->clients, QUIET_MS, now_ms(server));
    if (server->clients.count || server->exchanges.held)
        return false;
    leave(server);
    return true;
}

static void run(struct cm_server *server) {
    uv_idle_stop(&server->again);
    MHD_run(server->daemon);
    cm_clients_expire(&server->clients, now_ms(server));
    if (!server->stopping || !wind_down(server))
        arm(server);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    struct cm_server *server = CM_LIST_ITEM(poll, struct cm_server, poll);
    server->turns = 0;
    run(server);
}

static void on_due(uv_timer_t *timer) {
    struct cm_server *server = CM_LIST_ITEM(timer, struct cm_server, timer);
    server->due_ms = UINT64_MAX;
    run(server);
}

static void on_again(uv_idle_t *again) {
    run(CM_LIST_ITEM(again, struct cm_server, again));
}

static void on_resumed(struct cm_exchanges *exchanges) {
    struct cm_server *server = CM_LIST_ITEM(exchanges, struct cm_server, exchanges);
    uv_idle_start(&server->again, on_again);
}

void cm_server_stop(struct cm_server *server) {
    if (server->stopping)
        return;
    server->stopping = server->exchanges.closing = true;
    uv_idle_start(&server->again, on_again);
}

/* --- the start --- */

static struct MHD_Daemon *start_daemon(struct cm_server *server, int fd,
                                       const struct cm_server_options *options) {
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    uint64_t idle_s = (options->idle_ms + 999) / 1000;
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_LISTEN_SOCKET, fd, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)(options->max_header_bytes + POOL_BYTES), NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)options->max_connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)(idle_s < INT_MAX ? idle_s : INT_MAX), NULL},
        /* Where its parser is judged by cluster/head, its own refusals are in the way: they answer twice. */
        {MHD_OPTION_STRICT_FOR_CLIENT, server->exchanges.placed ? 0 : 1, NULL},
        {MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, NULL},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, server},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, server},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)on_line, server},
        {MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)keep_escaped, server},
        {MHD_OPTION_END, 0, NULL},
        {MHD_OPTION_END, 0, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    size_t last = sizeof items / sizeof *items - 3;
    if (!options->cert) {
        flags |= MHD_USE_TURBO; /* which reads before it is told that there is something */
    } else {
        flags |= MHD_USE_TLS;
        items[last++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)options->cert};
        items[last] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)options->key};
    }
    return MHD_start_daemon(flags, 0, NULL, NULL, on_access, server, MHD_OPTION_EXTERNAL_LOGGER, on_message,
                            server, MHD_OPTION_ARRAY, items, MHD_OPTION_END);
}

static void watch(struct cm_server *server) {
    uv_timer_init(server->loop, &server->timer);
    uv_idle_init(server->loop, &server->again);
    uv_handle_t *handles[] = {(uv_handle_t *)&server->poll, (uv_handle_t *)&server->timer,
                              (uv_handle_t *)&server->again};
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) {
        handles[i]->data = NULL; /* handles that are not luv's are known by data that is not luv's */
        uv_unref(handles[i]);
        server->open_handles++;
    }
    uv_poll_start(&server->poll, UV_READABLE, on_poll);
}

/* As its version says: "0.9.75". */
static bool parses_in_place(void) {
    static const char line[] = "0.9.";
    const char *version = MHD_get_version();
    return strncmp(version, line, sizeof line - 1) == 0 && strtol(version + sizeof line - 1, NULL, 10) < 77;
}

/* Closes it if it is that socket still: libmicrohttpd has closed it on some of the ways on which it fails,
 * and another thread may have opened something under its number since. */
static void close_if_still(int fd, const struct stat *was) {
    struct stat now;
    if (fstat(fd, &now) == 0 && now.st_dev == was->st_dev && now.st_ino == was->st_ino)
        close(fd);
}

static int open_server(struct cm_server *server, int fd, const struct cm_server_options *options,
                       char *reason) {
    struct stat was;
    if (listen(fd, BACKLOG) < 0 || fstat(fd, &was) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    reason[0] = 0;
    server->reason = reason;
    server->daemon = start_daemon(server, fd, options);
    server->reason = NULL;
    if (!server->daemon) {
        close_if_still(fd, &was);
        return reason[0] && options->cert ? CM_E_BADVALUE : CM_E_NOMEMORY;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    int err = uv_poll_init(server->loop, &server->poll, info->epoll_fd);
    if (err)
        MHD_stop_daemon(server->daemon);
    return err;
}

int cm_server_new(uv_loop_t *loop, int fd, const struct cm_server_options *options,
                  const struct cm_server_events *events, void *owner, char reason[CM_SERVER_REASON_BYTES],
                  struct cm_server **server) {
    struct cm_server *made = calloc(1, sizeof *made);
    if (!made) {
        close(fd);
        return CM_E_NOMEMORY;
    }
    made->loop = loop;
    made->events = events;
    made->owner = owner;
    made->due_ms = UINT64_MAX;
    cm_clients_init(&made->clients, options->header_ms,
                    options->header_ms && options->idle_ms ? options->idle_ms + options->header_ms : 0);
    cm_lingers_init(&made->lingers, loop, on_lingered);
    cm_exchanges_init(&made->exchanges, &events->exchange);
    made->exchanges.on_resumed = on_resumed;
    made->exchanges.max_header_bytes = options->max_header_bytes;
    made->exchanges.max_body_bytes = options->max_body_bytes;
    made->exchanges.placed = parses_in_place();
    made->exchanges.streamed = options->streamed;
    int err = open_server(made, fd, options, reason);
    if (err) {
        if (err != CM_E_BADVALUE)
            snprintf(reason, CM_SERVER_REASON_BYTES, "%s", cm_error_text(err));
        free(made);
        return err;
    }
    watch(made);
    *server = made;
    return 0;
}
