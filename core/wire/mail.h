/* What processes send each other through hubs, as the master and the receiver read it (core/wire/ops:
 * HUB_...). The master looks at lengths, and never at the values inside. Reading takes any bytes; what is
 * found are views into them. */
#ifndef CM_WIRE_MAIL_H
#define CM_WIRE_MAIL_H

#include <stdbool.h>

#include "base/buf.h"

/* The parts of a mail, in their order. */
enum { CM_MAIL_HUB, CM_MAIL_TYPE, CM_MAIL_DATA, CM_MAIL_PARTS };

/* A mail and where it is to go. */
struct cm_post {
    uint8_t to;       /* CM_HUB_TO_... */
    uint32_t process; /* its id, for CM_HUB_TO_PROCESS */
    uint64_t timeout_ms;
    struct cm_bytes mail;
};

/* These give 0 or CM_E_BADFRAME. */

int cm_mail_split(struct cm_bytes mail, struct cm_bytes parts[CM_MAIL_PARTS]);

/* Of HUB_SEND, or of HUB_ASK where it asks for something. */
int cm_post_read(struct cm_bytes payload, bool asks, struct cm_post *post);

/* Of HUB_ANSWER; the ticket is not 0, and the outcome is one. */
int cm_outcome_read(struct cm_bytes payload, uint64_t *ticket, struct cm_bytes *outcome);

/* Of HUB_DONE. */
int cm_done_read(struct cm_bytes payload, uint64_t *bytes);

/* Of HUB_MESSAGE. */
int cm_delivery_read(struct cm_bytes payload, uint64_t *ticket, uint32_t *sender, struct cm_bytes *mail);

#endif
