/* The place of an entry that is taken out, for another one of the same size: where something goes out for
 * each thing that is put in, nothing needs to be appended, and the memory that is written stays as small as
 * what is in it.
 *
 * The bytes stay counted in their chunk, which so does not become free; the seat names them (`retiring`)
 * until they are linked anew, so the chunk is cleaned should the process die before; and a hazard names the
 * chunk, so that it is not used anew when it has been cleaned meanwhile. Both are stored before the old
 * entry's group is left, which the cleaner has to own before it passes that entry over.
 *
 * To the cleaner, what lies there is garbage. So who links there looks, in the section, whether the chunk is
 * being cleaned. By then the new entry's hash has been written: either that look sees the cleaner, or the
 * cleaner, which has seized the chunk before it looks at any of its records, sees the new hash and waits for
 * its group.
 *
 * Small entries only: nobody copies from them at leisure. One at a time for each participant, which reads no
 * long value meanwhile. */
#ifndef CM_MEMORY_VACANCY_H
#define CM_MEMORY_VACANCY_H

#include "memory/table.h"

struct cm_vacancy {
    uint64_t offset; /* 0: none */
    uint32_t len_bytes;
};

/* Whether an entry of that shape can be in such a place. */
bool cm_vacancy_suits(const struct cm_segment *segment, struct cm_shape shape);

/* Unlinks the entry, which is suited, and leaves, as cm_table_unlink. Its place is the caller's then, until
 * it is filled or given up. */
void cm_vacancy_make(struct cm_participant *participant, struct cm_section *section,
                     const struct cm_place *place, struct cm_vacancy *vacancy);

/* Writes an entry there. No section is held. False: it has another size, or is not suited. */
bool cm_vacancy_write(struct cm_participant *participant, const struct cm_vacancy *vacancy, uint64_t hash,
                      struct cm_bytes key, struct cm_bytes value);

/* In the section of the group in which it is to be linked: whether it can be. False: the chunk is being
 * cleaned. What is linked is filled, which cm_vacancy_end says. */
bool cm_vacancy_stands(const struct cm_participant *participant, const struct cm_vacancy *vacancy);
void cm_vacancy_end(struct cm_participant *participant);

/* Nothing is linked there: the bytes leave their chunk's count. Instead of cm_vacancy_end. */
void cm_vacancy_give_up(struct cm_participant *participant, const struct cm_vacancy *vacancy);

#endif
