#include "spec/core/alloc_failure.h"

#include <stdlib.h>

#include "base/error.h"
#include "spec/core/test.h"

static volatile size_t countdown, failures, alive; /* the wrapped functions are known to the compiler */
static volatile bool persistent;

/* The linker gives the names. NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c) */
void *__real_malloc(size_t size);
void *__real_calloc(size_t items, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t items, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __wrap_free(void *memory);

static bool fails(void) {
    if (!countdown || --countdown)
        return false;
    if (persistent)
        countdown = 1;
    failures++;
    return true;
}

static void *count(void *memory) {
    alive += memory != NULL;
    return memory;
}

void *__wrap_malloc(size_t size) {
    return fails() ? NULL : count(__real_malloc(size));
}

void *__wrap_calloc(size_t items, size_t size) {
    return fails() ? NULL : count(__real_calloc(items, size));
}

void *__wrap_realloc(void *memory, size_t size) {
    if (fails())
        return NULL;
    return memory ? __real_realloc(memory, size) : count(__real_realloc(NULL, size));
}

void __wrap_free(void *memory) {
    alive -= memory != NULL;
    __real_free(memory);
}

/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c) */

size_t alloc_failure_arm(size_t nth, int all) {
    size_t failed = failures;
    countdown = nth;
    persistent = all;
    failures = 0;
    return failed;
}

void *alloc_failure_lua(void *data, void *memory, size_t from, size_t to) {
    (void)data;
    (void)from;
    if (to)
        return realloc(memory, to);
    free(memory);
    return NULL;
}

size_t alloc_failure_alive(void) {
    return alive;
}

void alloc_failure_each(alloc_failure_fn run, void *data) {
    for (int all = 0; all <= 1; all++) {
        size_t failed = 1;
        for (size_t nth = 1; failed; nth++) {
            size_t before = alive;
            alloc_failure_arm(nth, all);
            int err = run(data);
            failed = alloc_failure_arm(0, 0);
            if (err && err != CM_E_NOMEMORY)
                fail_msg("allocation %zu failed: %s", nth, cm_error_name(err));
            if (err && !failed)
                fail_msg("out of memory, and no allocation failed");
            if (alive != before)
                fail_msg("allocation %zu failed: %zu left over", nth, alive - before);
            if (nth == 1 && !failed)
                fail_msg("nothing was allocated");
            if (nth > 100000)
                fail_msg("no end of allocations");
        }
    }
}
