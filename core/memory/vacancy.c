#include "memory/vacancy.h"

#include "base/fault.h"
#include "memory/chunk.h"

static uint32_t chunk_of(const struct cm_segment *segment, const struct cm_vacancy *vacancy) {
    return (uint32_t)cm_segment_chunk_of(segment, vacancy->offset);
}

bool cm_vacancy_suits(const struct cm_segment *segment, struct cm_shape shape) {
    return shape.kind == CM_KIND_BYTES && shape.value_len <= CM_COPIED_MOST_BYTES &&
           cm_shape_bytes(shape) <= segment->record_most_bytes;
}

void cm_vacancy_make(struct cm_participant *participant, struct cm_section *section,
                     const struct cm_place *place, struct cm_vacancy *vacancy) {
    struct cm_segment *segment = participant->segment;
    vacancy->offset = place->offset;
    vacancy->len_bytes = (uint32_t)cm_shape_bytes(place->shape);
    cm_hazard_set(participant, chunk_of(segment, vacancy));
    cm_table_vacate(participant, section, place);
    CM_FAULT("vacated");
}

bool cm_vacancy_write(struct cm_participant *participant, const struct cm_vacancy *vacancy, uint64_t hash,
                      struct cm_bytes key, struct cm_bytes value) {
    struct cm_shape shape = {CM_KIND_BYTES, (uint32_t)key.len, (uint32_t)value.len};
    if (!cm_vacancy_suits(participant->segment, shape) || cm_shape_bytes(shape) != vacancy->len_bytes)
        return false;
    /* As at a claim: a reader that copied one of the words that follow (relaxed) and then fences (acquire)
     * must see the sequence that was moved on when the old entry was unlinked. */
    atomic_thread_fence(memory_order_release);
    cm_record_write(cm_record_at(participant->segment, vacancy->offset), shape, hash, 0, key, value);
    CM_FAULT("vacancy-written");
    return true;
}

/* The section's swap (a full fence: CM_FENCE_AFTER_SWAP) comes after the hash was stored and before this
 * load; the cleaner's swap of the chunk's word, and a full fence, before it loads a hash. */
bool cm_vacancy_stands(const struct cm_participant *participant, const struct cm_vacancy *vacancy) {
    const struct cm_segment *segment = participant->segment;
    struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, chunk_of(segment, vacancy)));
    return word.state == CM_CHUNK_CLOSED || word.state == CM_CHUNK_OPEN;
}

/* Release: in this order with what was done there, for whoever looks after the process has ended. */
static void end(struct cm_participant *participant) {
    atomic_store_explicit(&participant->seat->retiring, 0, memory_order_release);
    cm_hazard_clear(participant);
}

void cm_vacancy_end(struct cm_participant *participant) {
    CM_FAULT("vacancy-filled");
    end(participant);
}

void cm_vacancy_give_up(struct cm_participant *participant, const struct cm_vacancy *vacancy) {
    /* If the chunk is being cleaned, its count is set anew only when the hazard has gone. */
    cm_chunk_release(participant->segment, vacancy->offset, vacancy->len_bytes);
    CM_FAULT("vacancy-given-up");
    end(participant);
}
