#include "cluster/exchange.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/error.h"
#include "cluster/answer.h"
#include "cluster/head.h"

enum {
    SPARE_EXCHANGES = 256,
    KEEP_BYTES = 16 << 10, /* of a spare exchange's buffers */
    KEEP_BODY_BYTES = 2 * CM_EXCHANGE_MARK_BYTES,
    OK = 200,
    TOO_LARGE = 413,
    HEAD_TOO_LARGE = 431,
    NOT_IMPLEMENTED = 501,
};

/* --- making and keeping --- */

void cm_exchanges_init(struct cm_exchanges *exchanges, const struct cm_exchange_events *events) {
    *exchanges = (struct cm_exchanges){.events = events};
    cm_list_init(&exchanges->spare);
}

static void dispose(struct cm_exchange *exchange) {
    cm_buf_deinit(&exchange->target);
    cm_buf_deinit(&exchange->fields);
    cm_buf_deinit(&exchange->body);
    cm_buf_deinit(&exchange->head);
    cm_buf_deinit(&exchange->out);
    free(exchange);
}

void cm_exchanges_deinit(struct cm_exchanges *exchanges) {
    CM_LIST_EACH(link, &exchanges->spare)
    dispose(CM_LIST_ITEM(link, struct cm_exchange, link));
    cm_list_init(&exchanges->spare);
    exchanges->spares = 0;
}

static struct cm_buf emptied(struct cm_buf buf) {
    cm_buf_reset(&buf, KEEP_BYTES);
    return buf;
}

/* Makes another one of what a spare one has of memory. */
static void renew(struct cm_exchange *exchange) {
    struct cm_exchange fresh = {
        .all = exchange->all,
        .target = emptied(exchange->target),
        .fields = emptied(exchange->fields),
        .body = emptied(exchange->body),
        .head = emptied(exchange->head),
        .out = emptied(exchange->out),
        .status = OK,
    };
    *exchange = fresh;
    cm_list_init(&exchange->link);
}

static void release(struct cm_exchange *exchange) {
    struct cm_exchanges *all = exchange->all;
    if (all->spares >= SPARE_EXCHANGES) {
        dispose(exchange);
        return;
    }
    renew(exchange);
    cm_list_append(&all->spare, &exchange->link);
    all->spares++;
}

static struct cm_exchange *obtain(struct cm_exchanges *all) {
    if (cm_list_empty(&all->spare)) {
        struct cm_exchange *exchange = calloc(1, sizeof *exchange);
        if (exchange) {
            exchange->all = all;
            renew(exchange);
        }
        return exchange;
    }
    /* The one used last, whose memory is warm. */
    struct cm_exchange *exchange = CM_LIST_ITEM(all->spare.prev, struct cm_exchange, link);
    cm_list_remove(&exchange->link);
    all->spares--;
    return exchange;
}

int cm_exchange_new(struct cm_exchanges *exchanges, struct MHD_Connection *connection, const char *target,
                    struct cm_exchange **exchange) {
    struct cm_exchange *made = obtain(exchanges);
    if (!made)
        return CM_E_NOMEMORY;
    made->connection = connection;
    int err = cm_buf_append(&made->target, target, strlen(target));
    if (err) {
        release(made);
        return err;
    }
    *exchange = made;
    return 0;
}

/* --- the request, on its way from libmicrohttpd --- */

struct walk {
    cm_exchange_field_fn fn;
    void *context;
};

static enum MHD_Result on_field(void *context, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                const char *value, size_t value_len) {
    (void)kind;
    const struct walk *walk = context;
    walk->fn(walk->context, (struct cm_bytes){(const uint8_t *)name, name_len},
             (struct cm_bytes){(const uint8_t *)(value ? value : ""), value ? value_len : 0});
    return MHD_YES;
}

static void each_sent(struct cm_exchange *exchange, cm_exchange_field_fn fn, void *context) {
    struct walk walk = {fn, context};
    MHD_get_connection_values_n(exchange->connection, MHD_HEADER_KIND, on_field, &walk);
}

static void collect_field(void *context, struct cm_bytes name, struct cm_bytes value) {
    struct cm_buf *fields = context;
    uint32_t lens[] = {(uint32_t)name.len, (uint32_t)value.len};
    /* Without memory for it, it is as if it had not been sent. */
    if (cm_buf_reserve(fields, sizeof lens + name.len + value.len))
        return;
    cm_buf_append(fields, lens, sizeof lens);
    cm_buf_append(fields, name.data, name.len);
    cm_buf_append(fields, value.data, value.len);
}

static void collect(struct cm_exchange *exchange) {
    if (exchange->collected)
        return;
    exchange->collected = true;
    each_sent(exchange, collect_field, &exchange->fields);
}

static void look_at(void *context, struct cm_bytes name, struct cm_bytes value) {
    cm_head_add(context, name, value);
}

/* What the request is refused with, or 0. */
static unsigned inspect(struct cm_exchange *exchange, const struct cm_head_line *line) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (!info || info->header_size > exchange->all->max_header_bytes)
        return HEAD_TOO_LARGE;
    struct cm_head head;
    cm_head_begin(&head, line, exchange->all->placed);
    each_sent(exchange, look_at, &head);
    int status = cm_head_end(&head, info->header_size);
    if (status)
        return (unsigned)status;
    size_t len = strlen(line->method);
    if (len >= sizeof exchange->method)
        return NOT_IMPLEMENTED;
    memcpy(exchange->method, line->method, len);
    exchange->bodiless = strcmp(line->method, "HEAD") == 0;
    return head.content_length > exchange->all->max_body_bytes ? TOO_LARGE : 0;
}

static const char *refusal_text(unsigned status) {
    switch (status) {
    case TOO_LARGE:
        return "the body is too large\n";
    case HEAD_TOO_LARGE:
        return "the header fields are too large\n";
    case NOT_IMPLEMENTED:
        return "the method or the transfer encoding is not known\n";
    default:
        return "the request is malformed\n";
    }
}

/* An answer before the request's body has come makes libmicrohttpd close the connection behind it. */
static enum MHD_Result refuse(struct cm_exchange *exchange, unsigned status) {
    struct cm_bytes text = cm_bytes_of(refusal_text(status));
    exchange->status = status;
    exchange->refused = exchange->finished = true;
    if (cm_buf_append(&exchange->out, text.data, text.len) ||
        cm_exchange_field(exchange, cm_bytes_of("Content-Type"), cm_bytes_of("text/plain")) ||
        (!exchange->all->closing &&
         cm_exchange_field(exchange, cm_bytes_of("Connection"), cm_bytes_of("close"))))
        return MHD_NO;
    return cm_answer_queue(exchange);
}

static void ask(struct cm_exchange *exchange) {
    exchange->asked = exchange->held = true;
    exchange->all->held++;
    exchange->all->events->on_request(exchange);
}

static enum MHD_Result take_head(struct cm_exchange *exchange, const struct cm_head_line *line) {
    exchange->headed = true;
    unsigned status = inspect(exchange, line);
    if (status)
        return refuse(exchange, status);
    if (exchange->all->streamed)
        ask(exchange);
    return exchange->broken ? MHD_NO : MHD_YES;
}

/* How much of a streamed body there is room for. */
static size_t room_for(const struct cm_exchange *exchange, size_t len) {
    if (!exchange->all->streamed || exchange->discards)
        return len;
    size_t unread = cm_exchange_unread(exchange).len;
    size_t room = unread < CM_EXCHANGE_MARK_BYTES ? CM_EXCHANGE_MARK_BYTES - unread : 0;
    return len < room ? len : room;
}

static enum MHD_Result take_body(struct cm_exchange *exchange, const char *data, size_t *len) {
    if (*len > exchange->all->max_body_bytes - exchange->received_bytes || exchange->broken)
        return MHD_NO;
    size_t taken = room_for(exchange, *len);
    if (taken == 0) {
        cm_answer_suspend(exchange);
        return MHD_YES;
    }
    if (!exchange->discards && cm_buf_append(&exchange->body, data, taken))
        return MHD_NO;
    exchange->received_bytes += taken;
    *len -= taken;
    if (exchange->asked)
        exchange->all->events->on_progress(exchange);
    return MHD_YES;
}

enum MHD_Result cm_exchange_advance(struct cm_exchange *exchange, const struct cm_head_line *line,
                                    const char *data, size_t *len) {
    if (!exchange->headed)
        return take_head(exchange, line);
    if (*len)
        return take_body(exchange, data, len);
    bool was_complete = exchange->complete;
    exchange->complete = true;
    if (!exchange->asked)
        ask(exchange);
    else if (!was_complete)
        exchange->all->events->on_progress(exchange);
    if (exchange->begun || exchange->finished || exchange->broken)
        return cm_answer_queue(exchange);
    cm_answer_suspend(exchange);
    return MHD_YES;
}

/* --- the end --- */

/* Keeps what the owner may still want to know. */
static void keep(struct cm_exchange *exchange) {
    collect(exchange);
    cm_exchange_remote(exchange, exchange->remote);
}

void cm_exchange_end(struct cm_exchange *exchange, bool cut) {
    bool held = exchange->held;
    exchange->cut = cut;
    if (held)
        keep(exchange);
    exchange->connection = NULL;
    if (exchange->asked) /* whose owner may have dropped it, and left somebody waiting */
        exchange->all->events->on_progress(exchange);
    if (!held)
        release(exchange);
}

void cm_exchange_drop(struct cm_exchange *exchange) {
    struct cm_exchanges *all = exchange->all;
    exchange->held = false;
    all->held--;
    if (!exchange->connection)
        release(exchange);
    if (all->closing)
        all->on_resumed(all);
}

/* --- what the owner reads --- */

void cm_exchange_each(struct cm_exchange *exchange, cm_exchange_field_fn fn, void *context) {
    collect(exchange);
    const uint8_t *at = exchange->fields.data, *end = at + exchange->fields.len;
    while (at < end) {
        uint32_t lens[2];
        memcpy(lens, at, sizeof lens);
        at += sizeof lens;
        fn(context, (struct cm_bytes){at, lens[0]}, (struct cm_bytes){at + lens[0], lens[1]});
        at += (size_t)lens[0] + lens[1];
    }
}

struct cm_bytes cm_exchange_method(const struct cm_exchange *exchange) {
    return cm_bytes_of(exchange->method);
}

void cm_exchange_remote(const struct cm_exchange *exchange, char address[CM_EXCHANGE_ADDRESS_BYTES]) {
    memset(address, 0, CM_EXCHANGE_ADDRESS_BYTES);
    if (!exchange->connection) {
        memcpy(address, exchange->remote, CM_EXCHANGE_ADDRESS_BYTES);
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr &&
        (info->client_addr->sa_family == AF_INET || info->client_addr->sa_family == AF_INET6))
        uv_ip_name(info->client_addr, address, CM_EXCHANGE_ADDRESS_BYTES);
}

struct cm_bytes cm_exchange_unread(const struct cm_exchange *exchange) {
    if (exchange->body.len == exchange->read)
        return (struct cm_bytes){0};
    return (struct cm_bytes){exchange->body.data + exchange->read, exchange->body.len - exchange->read};
}

void cm_exchange_take(struct cm_exchange *exchange) {
    exchange->read = 0;
    cm_buf_reset(&exchange->body, KEEP_BODY_BYTES);
    /* Behind a complete request it is the answer that is waited for. */
    if (!exchange->complete)
        cm_answer_resume(exchange);
}

/* --- what the owner writes --- */

int cm_exchange_field(struct cm_exchange *exchange, struct cm_bytes name, struct cm_bytes value) {
    struct cm_buf *head = &exchange->head;
    size_t need = name.len + value.len + 2;
    if (name.len > CM_EXCHANGE_HEAD_MAX_BYTES || value.len > CM_EXCHANGE_HEAD_MAX_BYTES ||
        need > CM_EXCHANGE_HEAD_MAX_BYTES - head->len)
        return CM_E_TOOLARGE;
    int err = cm_buf_reserve(head, need);
    if (err)
        return err;
    cm_buf_append(head, name.data, name.len);
    cm_buf_append(head, "", 1);
    cm_buf_append(head, value.data, value.len);
    cm_buf_append(head, "", 1);
    return 0;
}

static void discard_rest(struct cm_exchange *exchange) {
    exchange->discards = true;
    cm_buf_reset(&exchange->body, KEEP_BYTES);
    exchange->read = 0;
}

int cm_exchange_write(struct cm_exchange *exchange, struct cm_bytes bytes) {
    exchange->begun = true;
    if (!exchange->complete)
        discard_rest(exchange);
    if (exchange->queued && cm_answer_is_bodiless(exchange))
        return exchange->cut ? CM_E_CLOSED : 0;
    if (!exchange->connection)
        return CM_E_CLOSED;
    /* What has left makes room once it is the larger part, so that each byte is moved at most once for one
     * sent. */
    if (exchange->queued && exchange->sent > cm_answer_unsent(exchange)) {
        cm_buf_consume(&exchange->out, exchange->sent);
        exchange->sent = 0;
    }
    int err = cm_buf_append(&exchange->out, bytes.data, bytes.len);
    cm_answer_resume(exchange);
    return err;
}

void cm_exchange_finish(struct cm_exchange *exchange) {
    exchange->finished = true;
    if (!exchange->complete)
        discard_rest(exchange);
    if (exchange->connection)
        cm_answer_resume(exchange);
}

void cm_exchange_break(struct cm_exchange *exchange) {
    exchange->broken = true;
    if (exchange->connection)
        cm_answer_resume(exchange);
}

void cm_exchange_reset(struct cm_exchange *exchange) {
    exchange->status = OK;
    exchange->head.len = 0;
    exchange->out.len = 0;
}
