#include "bind/heart.h"

#include <signal.h>
#include <stdio.h>

#include "base/list.h"
#include "bind/vm.h"
#include "cluster/watchdog.h"

/* A signal says nothing of whom it is for. */
static struct cm_vm *asked;

/* Relaxed: the number stands for nothing but itself. */
static void beat(struct cm_vm *vm) {
    if (!vm->detached) /* a child that a script has forked has no seat */
        atomic_fetch_add_explicit(&vm->participant.seat->beat, 1, memory_order_relaxed);
}

static void on_timer(uv_timer_t *timer) {
    beat(CM_LIST_ITEM(timer, struct cm_vm, heart.timer));
}

/* Lua is between two instructions here, so that everything is whole. */
static void on_hook(lua_State *L, lua_Debug *about) {
    (void)about;
    struct cm_vm *vm = cm_vm_of(L);
    char what[64];
    static char trace[CM_TRACE_BYTES];
    snprintf(what, sizeof what, "has not answered for %u ms (--watchdog)", vm->session.init.watchdog_ms);
    cm_stacks_trace(&vm->stacks, trace);
    cm_vm_fail_at(vm, what, trace);
}

static void on_ask(int number) {
    (void)number;
    if (!asked->detached)
        cm_stacks_hook(&asked->stacks, on_hook, false);
}

void cm_heart_start(struct cm_vm *vm) {
    uint32_t interval_ms = cm_watchdog_beat_ms(vm->session.init.watchdog_ms);
    struct sigaction action = {.sa_handler = on_ask, .sa_flags = SA_RESTART};
    asked = vm;
    sigaction(CM_WATCHDOG_SIGNAL, &action, NULL);
    uv_timer_init(&vm->loop, &vm->heart.timer);
    uv_unref((uv_handle_t *)&vm->heart.timer);
    uv_timer_start(&vm->heart.timer, on_timer, interval_ms, interval_ms);
    beat(vm); /* the script's main chunk is watched too */
}
