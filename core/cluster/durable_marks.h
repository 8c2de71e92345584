/* The documents that have changed: which are to be written, in the order of their first marks, and which are
 * just being written. A document can be both. Belongs to a durable file; its loop's thread only. */
#ifndef CM_CLUSTER_DURABLE_MARKS_H
#define CM_CLUSTER_DURABLE_MARKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/index.h"
#include "base/list.h"

struct cm_durable_mark {
    struct cm_index_node node;
    struct cm_list marked_link;
    struct cm_list flying_link;
    uint64_t number;
    uint64_t order;     /* how many marks there had been with this one */
    uint64_t marked_ms; /* as the caller has it */
    bool marked;
    bool flying; /* it is being written, as it was before it was marked again */
    bool fresh;  /* the file knows nothing of it */
    bool gone;
    size_t name_len;
    uint8_t name[];
};

struct cm_durable_marks {
    struct cm_index by_number;
    struct cm_list marked;
    struct cm_list flying;
    uint64_t count; /* of all marks ever made */
};

/* 0 or CM_E_NOMEMORY. */
int cm_durable_marks_init(struct cm_durable_marks *marks);
void cm_durable_marks_deinit(struct cm_durable_marks *marks);

/* See cm_durable_mark. 0 or CM_E_NOMEMORY. */
int cm_durable_marks_add(struct cm_durable_marks *marks, uint64_t number, struct cm_bytes name, bool fresh,
                         bool gone, uint64_t now_ms);

/* The first that is marked, or NULL. */
struct cm_durable_mark *cm_durable_marks_first(const struct cm_durable_marks *marks);

/* Its value is taken for a batch. */
void cm_durable_marks_take_off(struct cm_durable_marks *marks, struct cm_durable_mark *mark);

/* All that fly are on disk. */
void cm_durable_marks_land(struct cm_durable_marks *marks);

/* None that flies is: they are marked again, and first, as they were; only those are forgotten that the file
 * need not hear of. perhaps: it may have some of them all the same. */
void cm_durable_marks_turn_back(struct cm_durable_marks *marks, bool perhaps);

/* The same for one. */
void cm_durable_marks_turn_one_back(struct cm_durable_marks *marks, struct cm_durable_mark *mark);

#endif
