/* Growing the table, of core/memory/table.h: the master's. */
#include "memory/chains.h"

/* Deals a chain's entries out to itself and to the child's, in their order. Both groups are shut. */
static void deal(const struct cm_segment *segment, _Atomic uint64_t *parent, _Atomic uint64_t *child,
                 uint32_t mask, uint32_t child_index) {
    for (uint64_t offset = load(parent); offset;) {
        struct cm_record *record = cm_record_at(segment, offset);
        if (!record)
            break;
        uint64_t next = load(&record->next);
        _Atomic uint64_t **tail = ((uint32_t)load(&record->hash) & mask) == child_index ? &child : &parent;
        store(*tail, offset);
        *tail = &record->next;
        offset = next;
    }
    store(parent, 0);
    store(child, 0);
}

static bool split(struct cm_participant *master) {
    struct cm_segment *segment = master->segment;
    uint32_t groups = load_groups(segment);
    if (groups >= segment->layout.groups_most)
        return false;
    uint64_t at = segment->layout.groups_at + (uint64_t)groups * sizeof(struct cm_group);
    uint64_t end =
        segment->layout.groups_at + (uint64_t)segment->layout.groups_most * sizeof(struct cm_group);
    uint64_t len = CM_GROUPS_BACKED * sizeof(struct cm_group);
    /* Before the section: there is no waiting in it. The first groups came with the segment. */
    if (groups % CM_GROUPS_BACKED == 0 && cm_segment_fill(segment, at, len < end - at ? len : end - at))
        return false;
    uint32_t mask = mask_of(groups + 1);
    struct cm_section section;
    if (!cm_section_try(master, groups & mask >> 1, &section))
        return false;
    struct cm_group *parent = &segment->groups[section.line];
    struct cm_group *child = &segment->groups[groups];
    cm_section_shut(master, &section);
    store(&child->word, cm_word(section.sequence + 1, master->id));
    for (int i = 0; i < CM_GROUP_CHAINS; i++)
        deal(segment, &parent->chains[i], &child->chains[i], mask, groups);
    /* Release: who loads the number sees the child shut at least; who loads either even sequence behind it
     * sees the number too. */
    atomic_store_explicit(&segment->header->groups, groups + 1, memory_order_release);
    atomic_store_explicit(&child->word, cm_word(section.sequence + 2, 0), memory_order_release);
    cm_section_finish(&section);
    return true;
}

bool cm_table_grow(struct cm_participant *master, unsigned most) {
    uint64_t entries = cm_table_entries(master->segment);
    for (unsigned i = 0; i < most; i++) {
        if (cm_table_is_roomy(load_groups(master->segment), entries) || !split(master))
            return false;
    }
    return true;
}
