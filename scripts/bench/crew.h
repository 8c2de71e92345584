/* What the measured C programs have in common: workers that are processes, start at one moment, and leave
 * their figures in memory that all of them share. Every function ends the process with a message when
 * something fails.
 */
#ifndef CREW_H
#define CREW_H

#include <stddef.h>
#include <stdint.h>

enum { CREW_MOST = 64 };

/* Zeroed, shared with the processes that are forked later, never given back. */
void *crew_memory(size_t len);
/* Forks the workers; each calls work(index, shared), index from 0. Returns when all have returned from it. */
void crew_run(int workers, void (*work)(int index, void *shared), void *shared);
/* In a worker: returns at the same moment in all of them. */
void crew_meet(void);

/* Nanoseconds, the same in all processes. */
uint64_t now_ns(void);
/* Prints the middle one of these times and the one that 99 of 100 do not exceed, in a part of a line; sorts
 * them. There is one at least. */
void say_times(uint64_t *times_ns, size_t count);
/* One line with the reason, and the end; `reason` NULL: that of errno. */
_Noreturn void fail(const char *what, const char *reason);

#endif
