/* The heart of a process, where --watchdog is given: its loop raises a number in the shared memory, which the
 * master looks at (core/cluster/watchdog), and a signal of the master's makes it end with a traceback of
 * wherever it is in Lua. The loop thread's. */
#ifndef CM_BIND_HEART_H
#define CM_BIND_HEART_H

#include <uv.h>

struct cm_vm;

struct cm_heart {
    uv_timer_t timer;
};

/* Beats on the vm's loop, which it does not keep alive, until the process ends. The vm has its Lua state and
 * its seat. */
void cm_heart_start(struct cm_vm *vm);

#endif
