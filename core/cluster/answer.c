#include "cluster/answer.h"

#include <string.h>

enum {
    KEEP_BYTES = 2 * CM_EXCHANGE_MARK_BYTES, /* of an empty buffer */
    BLOCK_BYTES = 32 << 10,                  /* of a streamed answer, at most, in one piece */
    NO_CONTENT = 204,
    NOT_MODIFIED = 304,
};

void cm_answer_suspend(struct cm_exchange *exchange) {
    exchange->suspended = true;
    MHD_suspend_connection(exchange->connection);
}

void cm_answer_resume(struct cm_exchange *exchange) {
    if (!exchange->suspended)
        return;
    exchange->suspended = false;
    MHD_resume_connection(exchange->connection);
    exchange->all->on_resumed(exchange->all);
}

size_t cm_answer_unsent(const struct cm_exchange *exchange) {
    return exchange->out.len - exchange->sent;
}

bool cm_exchange_is_full(const struct cm_exchange *exchange) {
    return exchange->connection && cm_answer_unsent(exchange) > CM_EXCHANGE_MARK_BYTES;
}

/* libmicrohttpd wants a part of a streamed answer. */
static ssize_t on_pull(void *context, uint64_t position, char *bytes, size_t most) {
    (void)position;
    struct cm_exchange *exchange = context;
    if (exchange->broken)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t len = cm_answer_unsent(exchange) < most ? cm_answer_unsent(exchange) : most;
    if (len == 0 && exchange->finished)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (len == 0) {
        cm_answer_suspend(exchange);
        return 0;
    }
    bool was_full = cm_exchange_is_full(exchange);
    memcpy(bytes, exchange->out.data + exchange->sent, len);
    exchange->sent += len;
    if (cm_answer_unsent(exchange) == 0) {
        cm_buf_reset(&exchange->out, KEEP_BYTES);
        exchange->sent = 0;
    }
    if (was_full && !cm_exchange_is_full(exchange))
        exchange->all->events->on_progress(exchange);
    return (ssize_t)len;
}

static bool add_fields(struct MHD_Response *response, const struct cm_buf *head) {
    bool added = true;
    for (size_t at = 0; added && at < head->len;) {
        const char *name = (const char *)head->data + at;
        const char *value = name + strlen(name) + 1;
        added = MHD_add_response_header(response, name, value) == MHD_YES;
        at += strlen(name) + strlen(value) + 2;
    }
    return added;
}

static enum MHD_Result queue(struct cm_exchange *exchange, struct MHD_Response *response) {
    if (!response)
        return MHD_NO;
    enum MHD_Result result = MHD_NO;
    bool closes = exchange->all->closing;
    if (add_fields(response, &exchange->head) &&
        (!closes || MHD_add_response_header(response, "Connection", "close") == MHD_YES))
        result = MHD_queue_response(exchange->connection, exchange->status, response);
    MHD_destroy_response(response);
    exchange->queued = result == MHD_YES;
    return result;
}

bool cm_answer_is_bodiless(const struct cm_exchange *exchange) {
    return exchange->bodiless || exchange->status == NO_CONTENT || exchange->status == NOT_MODIFIED;
}

/* The buffer stays as it is until cm_exchange_end. */
static struct MHD_Response *whole_response(struct cm_exchange *exchange) {
    static char nothing[1];
    return MHD_create_response_from_buffer(
        exchange->out.len, exchange->out.len ? (void *)exchange->out.data : nothing, MHD_RESPMEM_PERSISTENT);
}

static struct MHD_Response *streamed_response(struct cm_exchange *exchange) {
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, on_pull, exchange, NULL);
    /* Behind a head in chunks without a body libmicrohttpd sends the last chunk all the same. */
    if (response && cm_answer_is_bodiless(exchange))
        MHD_set_response_options(response, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
    return response;
}

enum MHD_Result cm_answer_queue(struct cm_exchange *exchange) {
    if (exchange->broken)
        return MHD_NO;
    return queue(exchange, exchange->finished ? whole_response(exchange) : streamed_response(exchange));
}
