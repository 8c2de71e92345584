/* Appending: whole entries, written outside any section into chunks that are the participant's alone.
 *
 * An operation begins, appends records, and ends with a commit when its entry has been linked, or a rewind
 * when not, which takes everything back. Chunks that it fills stay open until then: a closed chunk may be
 * cleaned, and what is not linked yet would be taken for garbage. */
#ifndef CM_MEMORY_APPEND_H
#define CM_MEMORY_APPEND_H

#include "memory/participant.h"
#include "memory/record.h"

/* Of records of the operation; without a chunk for them, CM_E_NOMEMORY, after which a rewind is due. */
void cm_append_begin(struct cm_participant *participant);

/* Appends an entry of the key and the value: in one piece, or as fragments. The offset is what is to be
 * linked. A number's value is stored later, in the section; under a key too long for that (cm_append_fits) a
 * number must come as bytes. */
int cm_append_entry(struct cm_participant *participant, enum cm_kind kind, uint64_t hash, struct cm_bytes key,
                    struct cm_bytes value, uint64_t expires_ms, uint64_t *offset);

static inline bool cm_append_fits(const struct cm_segment *segment, struct cm_shape shape) {
    return cm_shape_bytes(shape) <= segment->record_most_bytes;
}

/* What an entry of bytes takes in all at the most, with its fragments if it is long. */
uint64_t cm_append_bytes(const struct cm_segment *segment, uint64_t key_len, uint64_t value_len);

/* Room for a record that the caller writes at once; then it says so. For the cleaner. */
int cm_append_room(struct cm_participant *participant, uint64_t len_bytes, uint64_t *offset);
void cm_append_written(struct cm_participant *participant, uint64_t len_bytes);

/* Tells the processor that a record of about that many bytes will be appended next. */
void cm_append_prefetch(const struct cm_participant *participant, uint64_t len_bytes);

void cm_append_commit(struct cm_participant *participant);
void cm_append_rewind(struct cm_participant *participant);

/* Closes the open chunk, when there is no operation. */
void cm_append_close(struct cm_participant *participant);

#endif
