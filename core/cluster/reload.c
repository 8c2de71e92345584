#include "cluster/reload.h"

#include <string.h>

#include "base/error.h"
#include "base/log.h"

static void end(struct cm_reload *reload) {
    bool told = reload->active && !reload->closed;
    reload->active = reload->again = false;
    CM_LIST_EACH(link, reload->slots) {
        cm_slot_at(link)->due = false;
    }
    if (told)
        reload->events->on_active(reload->owner, false);
}

/* Whether a slot has a successor coming or a predecessor going. */
static bool changing(const struct cm_reload *reload) {
    CM_LIST_EACH(link, reload->slots) {
        if (cm_slot_at(link)->next || cm_slot_at(link)->old)
            return true;
    }
    return false;
}

static struct cm_slot *next_due(const struct cm_reload *reload) {
    CM_LIST_EACH(link, reload->slots) {
        if (cm_slot_at(link)->due)
            return cm_slot_at(link);
    }
    return NULL;
}

static void replace(struct cm_reload *reload, struct cm_slot *slot) {
    slot->due = false;
    slot->waiting = false;
    uv_timer_stop(&slot->timer);
    int err = reload->events->on_start(reload->owner, slot);
    if (!err)
        return;
    cm_log(CM_LOG_ERROR, "the reload ends here: slot %u cannot start a worker: %s", slot->number,
           cm_error_text(err));
    end(reload);
    if (!slot->current)
        reload->events->on_empty(reload->owner, slot);
}

void cm_reload_step(struct cm_reload *reload) {
    if (!reload->active || changing(reload))
        return;
    struct cm_slot *slot = next_due(reload);
    if (slot) {
        replace(reload, slot);
        return;
    }
    bool again = reload->again;
    cm_log(CM_LOG_INFO, "reload: done");
    end(reload);
    if (again)
        cm_reload_begin(reload);
}

/* Whether a slot before this one has the same script. */
static bool checked_before(const struct cm_reload *reload, const struct cm_slot *slot) {
    CM_LIST_EACH(link, reload->slots) {
        if (cm_slot_at(link) == slot)
            break;
        if (strcmp(cm_slot_at(link)->script.args.items[0], slot->script.args.items[0]) == 0)
            return true;
    }
    return false;
}

void cm_reload_begin(struct cm_reload *reload) {
    if (reload->closed)
        return;
    if (reload->active) {
        reload->again = true;
        return;
    }
    reload->active = true;
    reload->events->on_active(reload->owner, true);
    CM_LIST_EACH(link, reload->slots) {
        struct cm_slot *slot = cm_slot_at(link);
        char line[512];
        if (!checked_before(reload, slot) &&
            reload->check_script(slot->script.args.items[0], line, sizeof line)) {
            cm_log(CM_LOG_ERROR, "no reload, the workers stay: %s", line);
            end(reload);
            return;
        }
        slot->due = slot->current || slot->waiting;
    }
    cm_log(CM_LOG_INFO, "reload: one worker at a time");
    reload->after_id = *reload->last_id;
    cm_reload_step(reload);
}

void cm_reload_note_online(struct cm_reload *reload, struct cm_slot *slot, struct cm_process *process) {
    if (process != slot->next)
        return;
    slot->next = NULL;
    slot->old = slot->current;
    slot->current = process;
    if (slot->old)
        cm_process_stop(slot->old);
    else
        cm_reload_step(reload);
}

bool cm_reload_note_exit(struct cm_reload *reload, struct cm_slot *slot, const struct cm_process *process) {
    if (process == slot->old) {
        slot->old = NULL;
        return false;
    }
    if (process == slot->next) {
        slot->next = NULL;
        if (!reload->closed)
            cm_log(CM_LOG_ERROR, "the reload ends here: the new worker of slot %u did not come online: %s",
                   slot->number, cm_process_reason(process));
        end(reload);
        return !slot->current;
    }
    slot->current = NULL;
    if (reload->active && cm_process_failed(process) && process->id > reload->after_id) {
        cm_log(CM_LOG_ERROR, "the reload ends here: the new worker of slot %u failed: %s", slot->number,
               cm_process_reason(process));
        end(reload);
    }
    return !slot->next;
}

void cm_reload_close(struct cm_reload *reload) {
    reload->closed = true;
    end(reload);
}
