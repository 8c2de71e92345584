/* The master's mailboxes: messages and requests between participants, from when one has handed them over
 * until they are delivered, and answered. The master's alone; no input or output, it waits for nobody, and it
 * does not look into what it carries.
 *
 * Back-pressure: a receiver has a window of what is delivered to it and not done with yet. What does not fit
 * is parked in the receiver's queue, and its sender is answered when it has been delivered. A sender is not
 * kept from being read for what he has parked: he paces himself (lua/clustermem/mail.lua), and is refused
 * beyond CM_MAIL_MOST_BYTES if he does not. For behind his messages come his answers, what he reports as
 * done, and the locks that he gives back, and those whom he floods may wait for just that: two that flood
 * each other would stand still until their messages' time is up.
 *
 * Every wait ends. A parked message is delivered, or its time is up, or its receiver dies; so is a request
 * answered, or ended. A window is freed when handlers end, and what is reported of that is read as soon as
 * the reporter reads himself, which he never stops doing (core/cluster/channel). Handlers that wait for each
 * other's processes behind floods wait for their own requests, and those have a time-out. */
#ifndef CM_DATA_MAILBOX_H
#define CM_DATA_MAILBOX_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/heap.h"
#include "base/index.h"
#include "base/list.h"

enum {
    CM_MAIL_WINDOW_BYTES = 1 << 20,
    /* Receivers sum up what they are done with, and report it when it is so much. So as long as less than
     * this is in a window there may be nothing that will ever be reported, and everything fits. */
    CM_MAIL_REPORT_BYTES = CM_MAIL_WINDOW_BYTES / 4,
    /* What a body counts for in a window, beside its length: for small ones cost their receiver more than
     * that. */
    CM_MAIL_CHARGE_BYTES = 512,
    /* Of the master's memory, for what one participant has sent: who has so much there already is refused.
     * What the dead have left behind is bounded likewise, all together. */
    CM_MAIL_MOST_BYTES = 32 << 20,
};

/* What somebody sends. */
struct cm_mail {
    uint32_t seat;    /* whose answer it is; 0: he is dead, and gets none */
    uint64_t request; /* the caller's number for it */
    uint32_t sender;  /* what receivers know him by */
    bool asks;        /* a request: it waits to be answered */
    uint64_t timeout_ms;
    struct cm_bytes body;
};

/* A participant's. Seat 0 stands for the dead, who have sent and receive nothing. */
struct cm_mailbox {
    size_t used;               /* of the window */
    struct cm_list parked;     /* for it, the oldest first */
    struct cm_list unanswered; /* requests that have been delivered to it */
    struct cm_list sent;       /* by it, and not ended yet */
    size_t bytes;              /* that those take */
};

struct cm_mailboxes {
    uint64_t (*clock_ms)(void); /* cm_clock_ms but in tests */
    /* The participant gets it; ticket 0: it is a message. These three must not call back into the mailboxes.
     */
    void (*deliver)(void *data, uint32_t seat, uint64_t ticket, uint32_t sender, struct cm_bytes body);
    /* What it has sent is delivered, or answered (with that, a view), or has failed with the code. */
    void (*answer)(void *data, uint32_t seat, uint64_t request, int code, struct cm_bytes answer);
    /* Nobody waits any more for its answer to this request. */
    void (*over)(void *data, uint32_t seat, uint64_t ticket);
    void *data;
    struct cm_mailbox *boxes;
    uint32_t seats;
    struct cm_index tickets; /* requests that have not ended */
    struct cm_heap deadlines;
    uint64_t last_ticket;
};

/* For seats 1 to `seats`. 0 or CM_E_NOMEMORY. */
int cm_mailboxes_init(struct cm_mailboxes *mailboxes, uint32_t seats);
void cm_mailboxes_deinit(struct cm_mailboxes *mailboxes);

/* Delivers to each of those seats, now or later: a request to one, a message to any number, each named once.
 * Answers when it is delivered everywhere, or when the request is answered; with CM_E_TIMEOUT when that has
 * not happened in time (some may have got it), with CM_E_CLOSED when the only receiver has died. 0, or
 * CM_E_NOMEMORY without an answer and with nothing delivered. */
int cm_mailboxes_post(struct cm_mailboxes *mailboxes, const struct cm_mail *mail, const uint32_t *to,
                      size_t count);

/* The participant answers a request. Does nothing if that is not its to answer, or not waited for any more.
 */
void cm_mailboxes_answer(struct cm_mailboxes *mailboxes, uint32_t seat, uint64_t ticket,
                         struct cm_bytes answer);

/* The participant is done with so much of its window. 0, or CM_E_BADFRAME: it has not got so much. */
int cm_mailboxes_done(struct cm_mailboxes *mailboxes, uint32_t seat, uint64_t bytes);

/* Ends what has run out of time. When cm_mailboxes_next_ms says. */
void cm_mailboxes_look(struct cm_mailboxes *mailboxes);
/* In how many ms to look; UINT64_MAX: not at all. */
uint64_t cm_mailboxes_next_ms(const struct cm_mailboxes *mailboxes);

/* The participant is gone, and all that it had sent has been posted. That is delivered still; its requests
 * are dropped. */
void cm_mailboxes_drop(struct cm_mailboxes *mailboxes, uint32_t seat);

#endif
