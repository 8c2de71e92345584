/* Lets allocations fail on purpose, and counts those alive. The executable is linked with --wrap for malloc,
 * calloc, realloc and free, so this sees the calls of core/ and of the test, and not those of shared
 * libraries. One thread. */
#ifndef CM_SPEC_CORE_ALLOC_FAILURE_H
#define CM_SPEC_CORE_ALLOC_FAILURE_H

#include <stddef.h>

/* Does something that allocates, checks that all is whole also where it failed, and gives everything back.
 * Returns what the operation returned: 0, or CM_E_NOMEMORY after a failed allocation. */
typedef int (*alloc_failure_fn)(void *data);

/* Runs it with the first allocation failing, then with the second, and so on until a run is through before
 * its failure; then again with all allocations failing from the first on, from the second on, and so on.
 * Fails the test when memory is left over, when a run returns another error or one without a reason, or when
 * it allocates nothing. */
void alloc_failure_each(alloc_failure_fn run, void *data);

/* The nth allocation from now on fails (1: the next one; 0: none), and with `all` those after it, too. Gives
 * the number of failures since the last call. */
size_t alloc_failure_arm(size_t nth, int all);

/* A lua_Alloc that is seen too, which Lua's own is not. */
void *alloc_failure_lua(void *data, void *memory, size_t from, size_t to);

/* Allocations made and not yet given back. */
size_t alloc_failure_alive(void);

#endif
