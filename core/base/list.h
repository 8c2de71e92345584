/* An intrusive, circular, doubly linked list: the links live inside the items, so linking never allocates and
 * an item leaves in constant time. The list owns nothing. */
#ifndef CM_BASE_LIST_H
#define CM_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct cm_list {
    struct cm_list *next;
    struct cm_list *prev;
};

/* The item that holds this link. */
#define CM_LIST_ITEM(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

/* Visits each item; the body may unlink the item it is at, and no other. */
#define CM_LIST_EACH(link, head)                                                         \
    for (struct cm_list *link = (head)->next, *link##_next = link->next; link != (head); \
         link = link##_next, link##_next = link->next)

static inline void cm_list_init(struct cm_list *head) {
    head->next = head->prev = head;
}

static inline bool cm_list_empty(const struct cm_list *head) {
    return head->next == head;
}

static inline void cm_list_append(struct cm_list *head, struct cm_list *link) {
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

static inline void cm_list_remove(struct cm_list *link) {
    link->prev->next = link->next;
    link->next->prev = link->prev;
    cm_list_init(link);
}

#endif
