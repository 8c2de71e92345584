#include "cluster/slot.h"

#include <stdlib.h>

#include "base/error.h"

enum {
    FIRST_DELAY_MS = 100,
    LONGEST_DELAY_MS = 10000,
    HEALTHY_MS = 10000, /* after a life this long the delays start from the first again */
    LIFE_MS = 1000,     /* less is no life */
    MOST_FAILURES = 5,  /* in a row without a life */
};

int cm_slot_add(struct cm_list *slots, uv_loop_t *loop, uint32_t number, const struct cm_script *script,
                void *owner, struct cm_slot **slot) {
    struct cm_slot *made = calloc(1, sizeof *made);
    if (!made)
        return CM_E_NOMEMORY;
    int err = cm_script_init(&made->script);
    if (!err)
        err = cm_strings_extend(&made->script.args, script->args.items, script->args.count);
    if (!err)
        err = cm_strings_extend(&made->script.env, script->env.items, script->env.count);
    if (err) {
        cm_script_deinit(&made->script);
        free(made);
        return err;
    }
    made->owner = owner;
    made->number = number;
    made->delay_ms = FIRST_DELAY_MS;
    uv_timer_init(loop, &made->timer);
    made->timer.data = made;
    cm_list_append(slots, &made->link);
    *slot = made;
    return 0;
}

static void on_closed(uv_handle_t *timer) {
    struct cm_slot *slot = timer->data;
    cm_script_deinit(&slot->script);
    free(slot);
}

void cm_slot_remove(struct cm_slot *slot) {
    cm_list_remove(&slot->link);
    uv_close((uv_handle_t *)&slot->timer, on_closed);
}

struct cm_slot *cm_slot_at(struct cm_list *link) {
    return CM_LIST_ITEM(link, struct cm_slot, link);
}

struct cm_slot *cm_slot_find(struct cm_list *slots, uint32_t number) {
    CM_LIST_EACH(link, slots) {
        if (cm_slot_at(link)->number == number)
            return cm_slot_at(link);
    }
    return NULL;
}

bool cm_slot_used(const struct cm_slot *slot) {
    return slot->current || slot->next || slot->old || slot->waiting;
}

void cm_slot_note_life(struct cm_slot *slot, uint64_t lived_ms) {
    if (lived_ms >= HEALTHY_MS)
        slot->delay_ms = FIRST_DELAY_MS;
    if (lived_ms >= LIFE_MS) {
        slot->proven = true;
        slot->failures = 0;
    }
}

bool cm_slot_note_failure(struct cm_slot *slot, uint64_t lived_ms) {
    return lived_ms < LIFE_MS && ++slot->failures >= MOST_FAILURES && !slot->proven;
}

uint64_t cm_slot_take_delay(struct cm_slot *slot) {
    uint64_t delay_ms = slot->delay_ms;
    slot->delay_ms = delay_ms * 2 < LONGEST_DELAY_MS ? delay_ms * 2 : LONGEST_DELAY_MS;
    return delay_ms;
}
