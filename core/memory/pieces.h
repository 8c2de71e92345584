/* A value above 4 KiB where it lies: its pieces, which are the entry itself or the fragments of a long one,
 * and a stream over its bytes. A piece is named before it is read: a hazard for its chunk, a full fence, and
 * a look at the group's sequence; what is named stays whole until the hazards are cleared, which is the
 * caller's to do. Of core/memory/read alone; a participant reads one value at a time. */
#ifndef CM_MEMORY_PIECES_H
#define CM_MEMORY_PIECES_H

#include "base/stream.h"
#include "memory/participant.h"
#include "memory/record.h"

struct cm_pieces {
    struct cm_stream stream;
    struct cm_participant *participant; /* has the list of what is named */
    const struct cm_group *group;       /* NULL: it is owned until all are named */
    uint64_t sequence;
    uint64_t offset; /* of the entry */
    struct cm_shape shape;
    size_t count; /* named so far */
    size_t opened;
    struct cm_payload payload; /* in the one opened last: what comes behind what is ready */
    uint8_t window[2 * CM_STREAM_LOOK_BYTES];
};

/* Begins with nothing named but the entry's chunk. */
void cm_pieces_init(struct cm_pieces *pieces, struct cm_participant *participant, uint64_t offset,
                    struct cm_shape shape, const struct cm_group *group, uint64_t sequence);

/* Names all. 0; CM_E_CONFLICT where the group has changed, or links lead nowhere; CM_E_NOMEMORY where the
 * list is full and cannot grow, which it does not try in a group that is owned. */
int cm_pieces_name(struct cm_pieces *pieces);
/* More room in the list. 0 or CM_E_NOMEMORY. */
int cm_pieces_grow(struct cm_participant *participant);

/* Goes to the value's first byte: then the stream can be read. It names pieces as it comes to them, and fails
 * as above. */
int cm_pieces_begin(struct cm_pieces *pieces);

/* Replaces what the buffer holds by so many of the value's bytes, all of them in what is named. 0,
 * CM_E_NOMEMORY, CM_E_CONFLICT where they are not there. */
int cm_pieces_copy(const struct cm_pieces *pieces, uint64_t at, uint64_t len, struct cm_buf *to,
                   struct cm_bytes *copy);

#endif
