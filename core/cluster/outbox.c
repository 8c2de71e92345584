#include "cluster/outbox.h"

#include <poll.h>
#include <sched.h>

enum {
    RECENT_MOST = 4,     /* to look at each takes a system call */
    TAKEN_MOST = 16,     /* then the loop goes round: a script may have handles for each turn */
    CONCEDED_MOST = 2,   /* in a turn: to who was heard, and to who is told first */
    CONCEDED_NS = 50000, /* more than it takes to handle a message and to go to sleep */
};

/* While an idle handle is active the loop does not wait, whoever posts: also another prepare handle that is
 * called after ours. */
static void on_awake(uv_idle_t *awake) {
    (void)awake;
}

/* --- cores --- */

/* 0: nobody knows. */
static uint32_t this_core(void) {
    return (uint32_t)sched_getcpu() + 1;
}

static uint32_t core_of(const struct cm_source *source) {
    return source && source->core ? atomic_load_explicit(source->core, memory_order_relaxed) : 0;
}

static void say_core(const struct cm_outbox *outbox, bool sleeps) {
    if (!outbox->core)
        return;
    uint32_t core = this_core();
    if (core && sleeps)
        core |= CM_CORE_SLEEPS;
    if (atomic_load_explicit(outbox->core, memory_order_relaxed) != core)
        atomic_store_explicit(outbox->core, core, memory_order_relaxed);
}

static bool would_look(const struct cm_outbox *outbox) {
    if (!cm_patience_has(&outbox->patience))
        return false;
    uint32_t core = core_of(outbox->asked) & ~CM_CORE_SLEEPS;
    return !core || core != this_core();
}

/* Before one that sleeps is woken: lets those go first that want this core for a moment. They are who was
 * heard, if our waking has stopped it there in the midst of sending, and whoever was woken just now. Paid for
 * like looking, because it takes long where others want the core too; and not for each of many, who had
 * better run on many cores. */
static void concede(struct cm_outbox *outbox, const struct cm_source *to) {
    if (!outbox->core || !(core_of(to) & CM_CORE_SLEEPS))
        return;
    bool wanted =
        outbox->woke || (outbox->heard != to && core_of(outbox->heard) == (this_core() | CM_CORE_SLEEPS));
    outbox->woke = true;
    if (!wanted || outbox->conceded == CONCEDED_MOST)
        return;
    outbox->conceded++;
    uint64_t took_ns = 0;
    if (cm_patience_has(&outbox->courtesy)) {
        uint64_t since_ns = uv_hrtime();
        sched_yield();
        took_ns = uv_hrtime() - since_ns;
    }
    cm_patience_note(&outbox->courtesy, took_ns, took_ns);
}

/* --- the end of a turn --- */

/* Sending may make others post, whose turn comes at once too. */
static void send_all(struct cm_outbox *outbox) {
    if (!cm_list_empty(&outbox->posted))
        say_core(outbox, !would_look(outbox)); /* before it is stopped in the midst of sending */
    while (!cm_list_empty(&outbox->posted)) {
        struct cm_posted *posted = CM_LIST_ITEM(outbox->posted.next, struct cm_posted, link);
        cm_list_remove(&posted->link);
        concede(outbox, posted->to);
        if (posted->to)
            outbox->asked = posted->to;
        posted->send(posted);
    }
    outbox->heard = NULL;
    outbox->woke = false;
    outbox->conceded = 0;
    uv_idle_stop(&outbox->awake);
}

static void end_wait(struct cm_outbox *outbox) {
    if (!outbox->waits_ns)
        return;
    uint64_t waited_ns = outbox->heard_ns ? outbox->heard_ns - outbox->waits_ns : UINT64_MAX;
    cm_patience_note(&outbox->patience, waited_ns, outbox->looked_ns);
    outbox->waits_ns = outbox->heard_ns = outbox->looked_ns = 0;
}

/* True: something had come, and is handled. */
static bool take(const struct cm_outbox *outbox) {
    /* Where several converse it is the turn of who has been silent longest. */
    for (struct cm_list *link = outbox->recent.prev; link != &outbox->recent; link = link->prev) {
        struct cm_source *source = CM_LIST_ITEM(link, struct cm_source, link);
        if (source->take(source))
            return true; /* with other sources there, perhaps */
    }
    return false;
}

/* Whether the loop has something to do. With poll, which takes no event away: one that libuv has asked to be
 * told of once would be lost to it. */
static bool is_called(const struct cm_outbox *outbox) {
    struct pollfd backend = {.fd = uv_backend_fd(outbox->loop), .events = POLLIN};
    return poll(&backend, 1, 0) != 0;
}

/* Until something has come (true) or the loop has to go on. What is there already is the loop's to take,
 * which is fair to all. Then others on this core go first: who is waited for may be among them. */
static bool look(struct cm_outbox *outbox) {
    if (is_called(outbox))
        return false;
    while (outbox->looked_ns < outbox->patience.most_ns) {
        sched_yield();
        outbox->looked_ns = uv_hrtime() - outbox->waits_ns;
        if (take(outbox))
            return true;
        if (is_called(outbox))
            return take(outbox);
    }
    return false;
}

/* Timers are due by the time it is, and what is taken sees that too. */
static bool would_sleep(const struct cm_outbox *outbox) {
    uv_update_time(outbox->loop);
    return uv_backend_timeout(outbox->loop) != 0;
}

static void on_before_wait(uv_prepare_t *before_wait) {
    struct cm_outbox *outbox = CM_LIST_ITEM(before_wait, struct cm_outbox, before_wait);
    for (int taken = 0;; taken++) {
        send_all(outbox);
        end_wait(outbox);
        if (!outbox->patience.most_ns || !would_sleep(outbox))
            return;
        if (taken == TAKEN_MOST) {
            uv_idle_start(&outbox->awake, on_awake);
            return;
        }
        outbox->waits_ns = uv_hrtime();
        if (would_look(outbox)) {
            say_core(outbox, false);
            if (look(outbox))
                continue;
        }
        say_core(outbox, true);
        return;
    }
}

void cm_outbox_open(struct cm_outbox *outbox, uv_loop_t *loop, uint64_t look_ns, _Atomic uint32_t *core) {
    *outbox = (struct cm_outbox){
        .loop = loop, .patience = {.most_ns = look_ns}, .courtesy = {.most_ns = CONCEDED_NS}, .core = core};
    cm_list_init(&outbox->posted);
    cm_list_init(&outbox->recent);
    uv_prepare_init(loop, &outbox->before_wait);
    uv_idle_init(loop, &outbox->awake);
    /* What waits to be sent keeps no loop alive by itself: who leaves drains. */
    uv_unref((uv_handle_t *)&outbox->before_wait);
    uv_unref((uv_handle_t *)&outbox->awake);
    /* Handles that are not luv's are known by data that is not luv's. */
    outbox->before_wait.data = outbox->awake.data = NULL;
    uv_prepare_start(&outbox->before_wait, on_before_wait);
}

void cm_outbox_close(struct cm_outbox *outbox) {
    uv_close((uv_handle_t *)&outbox->before_wait, NULL);
    uv_close((uv_handle_t *)&outbox->awake, NULL);
}

void cm_outbox_stop_looking(struct cm_outbox *outbox) {
    outbox->patience.most_ns = 0;
    outbox->core = NULL;
}

void cm_outbox_post(struct cm_outbox *outbox, struct cm_posted *posted) {
    if (!cm_list_empty(&posted->link))
        return;
    cm_list_append(&outbox->posted, &posted->link);
    uv_idle_start(&outbox->awake, on_awake);
}

void cm_outbox_withdraw(struct cm_posted *posted) {
    cm_list_remove(&posted->link);
}

static void leave_recent(struct cm_outbox *outbox, struct cm_source *source) {
    if (cm_list_empty(&source->link))
        return;
    cm_list_remove(&source->link);
    outbox->recents--;
}

void cm_outbox_hear(struct cm_outbox *outbox, struct cm_source *source) {
    if (outbox->waits_ns && !outbox->heard_ns)
        outbox->heard_ns = uv_hrtime();
    outbox->heard = source;
    say_core(outbox, false);
    leave_recent(outbox, source);
    cm_list_append(outbox->recent.next, &source->link);
    if (++outbox->recents > RECENT_MOST)
        leave_recent(outbox, CM_LIST_ITEM(outbox->recent.prev, struct cm_source, link));
}

void cm_outbox_forget(struct cm_outbox *outbox, struct cm_source *source) {
    leave_recent(outbox, source);
    if (outbox->heard == source)
        outbox->heard = NULL;
    if (outbox->asked == source)
        outbox->asked = NULL;
}
