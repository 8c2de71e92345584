/* One HTTP request and its answer, between libmicrohttpd, whose connection it comes on, and the owner, who
 * has it handled: at once or later, while the connection is suspended.
 *
 * The server makes it when a request's line has come. The owner has it from on_request until
 * cm_exchange_drop; what the request says can be read all that time, also when its connection is gone by
 * then. The loop thread's alone. */
#ifndef CM_CLUSTER_EXCHANGE_H
#define CM_CLUSTER_EXCHANGE_H

#include <microhttpd.h>
#include <stdbool.h>

#include "base/buf.h"
#include "base/list.h"
#include "cluster/head.h"

enum {
    CM_EXCHANGE_MARK_BYTES = 64 << 10, /* of a body: more than this that nobody takes makes its maker wait */
    CM_EXCHANGE_HEAD_MAX_BYTES = 12 << 10, /* of an answer's header fields */
    CM_EXCHANGE_METHOD_BYTES = 24,         /* the longest of those registered has 17 letters */
    CM_EXCHANGE_ADDRESS_BYTES = 64,
};

struct cm_exchange;

struct cm_exchange_events {
    /* A request is there: with its body, or (streamed) when its head has come. The owner may answer now or
     * later. It is called by libmicrohttpd, which must not be left by longjmp. */
    void (*on_request)(struct cm_exchange *exchange);
    /* Somebody who waits for the exchange should look at it again; also, a last time, where it was dropped
     * and its request ends now. */
    void (*on_progress)(struct cm_exchange *exchange);
};

/* What a server's exchanges have in common; part of the server. */
struct cm_exchanges {
    const struct cm_exchange_events *events;
    /* A connection has been resumed, or the last of an exchange is gone while the server closes:
     * libmicrohttpd is to run soon. */
    void (*on_resumed)(struct cm_exchanges *exchanges);
    size_t max_header_bytes;
    size_t max_body_bytes;
    bool placed;   /* libmicrohttpd parses in place: see cluster/head */
    bool streamed; /* bodies are read by the owner, piece by piece */
    bool closing;  /* each answer is the last of its connection */
    struct cm_list spare;
    size_t spares;
    size_t held; /* by the owner */
};

struct cm_exchange {
    struct cm_exchanges *all;
    struct cm_list link;               /* among the spare */
    struct MHD_Connection *connection; /* NULL: it is over */
    int64_t reader, writer;            /* the owner's words, 0 at first */
    char method[CM_EXCHANGE_METHOD_BYTES];
    struct cm_buf target;  /* as it was sent */
    struct cm_buf fields;  /* of the head, once they are collected */
    struct cm_buf body;    /* received and not yet read */
    size_t read;           /* of it, by the owner */
    size_t received_bytes; /* of the whole body */
    struct cm_buf head;    /* of the answer: name NUL value NUL */
    struct cm_buf out;     /* of the answer's body, not yet sent from `sent` on */
    size_t sent;
    unsigned status;
    bool collected;                         /* fields is what it should be */
    bool headed;                            /* the request's head has been looked at */
    bool refused;                           /* an answer without the owner */
    bool asked;                             /* the owner has it, or had */
    bool held;                              /* the owner has it */
    bool complete;                          /* the request's body is there */
    bool discards;                          /* what is left of the request's body is not wanted */
    bool begun;                             /* by a part of the answer's body */
    bool finished;                          /* the whole answer is there */
    bool broken;                            /* the answer will not become whole */
    bool suspended;                         /* libmicrohttpd leaves the connection alone */
    bool queued;                            /* the answer is libmicrohttpd's */
    bool cut;                               /* the connection ended before the request or the answer did */
    bool bodiless;                          /* the answer's body is not sent */
    char remote[CM_EXCHANGE_ADDRESS_BYTES]; /* when it is over */
};

/* --- the server's --- */

void cm_exchanges_init(struct cm_exchanges *exchanges, const struct cm_exchange_events *events);
void cm_exchanges_deinit(struct cm_exchanges *exchanges);

/* A request's line has come. 0 or CM_E_NOMEMORY. */
int cm_exchange_new(struct cm_exchanges *exchanges, struct MHD_Connection *connection, const char *target,
                    struct cm_exchange **exchange);

/* What libmicrohttpd's handler is called with, and returns. */
enum MHD_Result cm_exchange_advance(struct cm_exchange *exchange, const struct cm_head_line *line,
                                    const char *data, size_t *len);

/* libmicrohttpd has done with it: all went well, or the connection is cut. */
void cm_exchange_end(struct cm_exchange *exchange, bool cut);

/* --- the owner's: what the request says --- */

/* Called for each header field, in their order; name and value are valid during the call. */
typedef void (*cm_exchange_field_fn)(void *context, struct cm_bytes name, struct cm_bytes value);
void cm_exchange_each(struct cm_exchange *exchange, cm_exchange_field_fn fn, void *context);

/* "GET"; valid until the exchange is dropped. */
struct cm_bytes cm_exchange_method(const struct cm_exchange *exchange);

/* The peer's address as text, "" where it has none. */
void cm_exchange_remote(const struct cm_exchange *exchange, char address[CM_EXCHANGE_ADDRESS_BYTES]);

/* What has come of the body and was not taken; valid until then. */
struct cm_bytes cm_exchange_unread(const struct cm_exchange *exchange);
/* It is done with. More may come. */
void cm_exchange_take(struct cm_exchange *exchange);

/* --- the owner's: the answer --- */

/* Adds a header field, of a token and a value (cluster/head). 0; CM_E_TOOLARGE; CM_E_NOMEMORY. */
int cm_exchange_field(struct cm_exchange *exchange, struct cm_bytes name, struct cm_bytes value);

/* Appends to the answer's body, whose head is final from now on. What is left of the request's body is thrown
 * away: libmicrohttpd answers behind it. 0; CM_E_CLOSED: nobody will read it; CM_E_NOMEMORY. */
int cm_exchange_write(struct cm_exchange *exchange, struct cm_bytes bytes);

/* Whether so much is unsent that the writer should wait for on_progress. */
bool cm_exchange_is_full(const struct cm_exchange *exchange);

/* The answer is whole. */
void cm_exchange_finish(struct cm_exchange *exchange);

/* The answer cannot be finished: its connection is closed. */
void cm_exchange_break(struct cm_exchange *exchange);

/* Takes back what has been said of an answer that has not begun. */
void cm_exchange_reset(struct cm_exchange *exchange);

/* The owner does not use it any more; it has finished or broken it. */
void cm_exchange_drop(struct cm_exchange *exchange);

#endif
