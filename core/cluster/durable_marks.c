#include "cluster/durable_marks.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static struct cm_durable_mark *find(const struct cm_durable_marks *marks, uint64_t number) {
    struct cm_index_node *node = cm_index_first(&marks->by_number, number);
    return node ? CM_LIST_ITEM(node, struct cm_durable_mark, node) : NULL;
}

static struct cm_durable_mark *make(struct cm_durable_marks *marks, uint64_t number, struct cm_bytes name,
                                    bool fresh) {
    struct cm_durable_mark *mark = malloc(sizeof *mark + name.len);
    if (!mark)
        return NULL;
    *mark = (struct cm_durable_mark){.number = number, .fresh = fresh, .name_len = name.len};
    memcpy(mark->name, name.data, name.len);
    /* Numbers in a row are as good as hashes. */
    cm_index_add(&marks->by_number, &mark->node, number);
    return mark;
}

static void forget(struct cm_durable_marks *marks, struct cm_durable_mark *mark) {
    if (mark->marked)
        cm_list_remove(&mark->marked_link);
    if (mark->flying)
        cm_list_remove(&mark->flying_link);
    cm_index_remove(&marks->by_number, &mark->node);
    free(mark);
}

/* The file has nothing of it, and is to have nothing. */
static bool is_needless(const struct cm_durable_mark *mark) {
    return mark->gone && mark->fresh && !mark->flying;
}

int cm_durable_marks_init(struct cm_durable_marks *marks) {
    *marks = (struct cm_durable_marks){0};
    cm_list_init(&marks->marked);
    cm_list_init(&marks->flying);
    return cm_index_init(&marks->by_number);
}

void cm_durable_marks_deinit(struct cm_durable_marks *marks) {
    cm_durable_marks_land(marks);
    for (struct cm_durable_mark *mark; (mark = cm_durable_marks_first(marks));)
        forget(marks, mark);
    cm_index_deinit(&marks->by_number);
}

int cm_durable_marks_add(struct cm_durable_marks *marks, uint64_t number, struct cm_bytes name, bool fresh,
                         bool gone, uint64_t now_ms) {
    struct cm_durable_mark *mark = find(marks, number);
    if (!mark && fresh && gone)
        return 0;
    if (!mark)
        mark = make(marks, number, name, fresh);
    if (!mark)
        return CM_E_NOMEMORY;
    marks->count++;
    mark->gone = gone;
    if (is_needless(mark)) {
        forget(marks, mark);
    } else if (!mark->marked) {
        mark->marked = true;
        mark->order = marks->count;
        mark->marked_ms = now_ms;
        cm_list_append(&marks->marked, &mark->marked_link);
    }
    return 0;
}

struct cm_durable_mark *cm_durable_marks_first(const struct cm_durable_marks *marks) {
    return cm_list_empty(&marks->marked)
               ? NULL
               : CM_LIST_ITEM(marks->marked.next, struct cm_durable_mark, marked_link);
}

void cm_durable_marks_take_off(struct cm_durable_marks *marks, struct cm_durable_mark *mark) {
    cm_list_remove(&mark->marked_link);
    mark->marked = false;
    mark->flying = true;
    cm_list_append(&marks->flying, &mark->flying_link);
}

void cm_durable_marks_land(struct cm_durable_marks *marks) {
    while (!cm_list_empty(&marks->flying)) {
        struct cm_durable_mark *mark = CM_LIST_ITEM(marks->flying.next, struct cm_durable_mark, flying_link);
        cm_list_remove(&mark->flying_link);
        mark->flying = mark->fresh = false;
        if (!mark->marked)
            forget(marks, mark);
    }
}

void cm_durable_marks_turn_one_back(struct cm_durable_marks *marks, struct cm_durable_mark *mark) {
    cm_list_remove(&mark->flying_link);
    mark->flying = false;
    if (mark->marked)
        cm_list_remove(&mark->marked_link);
    mark->marked = true;
    cm_list_append(marks->marked.next, &mark->marked_link); /* before the first */
    if (is_needless(mark))
        forget(marks, mark);
}

void cm_durable_marks_turn_back(struct cm_durable_marks *marks, bool perhaps) {
    while (!cm_list_empty(&marks->flying)) {
        struct cm_durable_mark *last = CM_LIST_ITEM(marks->flying.prev, struct cm_durable_mark, flying_link);
        last->fresh = last->fresh && !perhaps;
        cm_durable_marks_turn_one_back(marks, last);
    }
}
