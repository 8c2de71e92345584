/* One end of a frame stream: a socket on the loop, incremental reading, coalesced writing, back-pressure.
 *
 * The owner embeds the struct, opens it with a socket that is the channel's from then on, and gives it back
 * with cm_channel_close. Frames begun in one loop turn leave in one write just before the loop waits. With a
 * mark (the master's end) a peer whose unread output passes it is not read from, and frames already read are
 * not handled, until it has drained; so what a peer can make its other end hold is bounded by the mark, one
 * reply and one frame. Without a mark (a process's end) reading never stops: two ends that both waited would
 * wait for ever. Everything here is the loop thread's. */
#ifndef CM_CLUSTER_CHANNEL_H
#define CM_CLUSTER_CHANNEL_H

#include <stdbool.h>
#include <uv.h>

#include "base/buf.h"
#include "cluster/outbox.h"
#include "wire/frame.h"

enum { CM_CHANNEL_MARK_BYTES = 1 << 20 };

struct cm_channel;

struct cm_channel_events {
    /* A frame has come; its payload is valid during the call. 0, or a negative code that ends the channel. */
    int (*on_frame)(struct cm_channel *channel, const struct cm_frame *frame);
    /* Nothing will come or go any more: CM_E_CLOSED at the peer's end-of-file, CM_E_BADFRAME, what on_frame
     * returned, or an errno. Called once, never from inside a call of the owner's; the owner closes. */
    void (*on_end)(struct cm_channel *channel, int code);
    /* Something has been sent, and no more than the mark is left. NULL: nobody wants to know. */
    void (*on_drained)(struct cm_channel *channel);
};

struct cm_channel {
    uv_poll_t poll;
    struct cm_outbox *outbox;
    struct cm_posted posted;
    struct cm_source source;
    const struct cm_channel_events *events;
    void *owner; /* the owner's word; the channel does not look at it */
    int fd;
    size_t max_payload;
    size_t mark_bytes; /* 0: none */
    int interest;      /* what poll is started with */
    struct cm_buf in;  /* read, not yet a handled frame */
    struct cm_buf out; /* not yet taken by the kernel, from `sent` on */
    size_t sent;
    size_t begun; /* where the frame being written starts in out */
    bool ended;
    void (*on_closed)(struct cm_channel *channel);
};

/* Joins the outbox and its loop. Takes fd over in any case. 0 or a negative code, after which there is
 * nothing to close. */
int cm_channel_open(struct cm_channel *channel, struct cm_outbox *outbox, int fd, size_t max_payload,
                    size_t mark_bytes, const struct cm_channel_events *events, void *owner);

/* Where the peer says on which core it ran last, as in a source. */
void cm_channel_know_core(struct cm_channel *channel, const _Atomic uint32_t *core);

/* Stops everything; on_closed (or NULL) is called in a later turn, when the struct's memory is the owner's
 * again. Unsent frames are dropped. */
void cm_channel_close(struct cm_channel *channel, void (*on_closed)(struct cm_channel *channel));

/* Starts a frame. The caller appends the payload to the buffer returned and then commits or cancels. NULL
 * without memory or on an ended channel. */
struct cm_buf *cm_channel_begin(struct cm_channel *channel, uint8_t op, uint8_t flags, uint32_t id);
/* The bytes of payload appended so far. */
size_t cm_channel_begun(const struct cm_channel *channel);
/* 0, or CM_E_TOOLARGE with the frame taken back. */
int cm_channel_commit(struct cm_channel *channel);
void cm_channel_cancel(struct cm_channel *channel);

/* Bytes committed and not yet taken by the kernel. */
size_t cm_channel_unsent(const struct cm_channel *channel);

/* Writes until at most `left_bytes` are unsent, waiting (the whole process does) for the peer to read for at
 * most timeout_ms, and reads meanwhile, so that two ends cannot wait for each other. What is read is handled
 * in a later turn. 0, CM_E_TIMEOUT, CM_E_CLOSED, CM_E_NOMEMORY or an errno. */
int cm_channel_drain(struct cm_channel *channel, size_t left_bytes, uint64_t timeout_ms);

/* Reads and handles what the peer had sent before it died, regardless of the mark. on_end is not called. */
void cm_channel_finish(struct cm_channel *channel);

#endif
