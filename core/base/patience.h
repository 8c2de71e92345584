/* Whether it pays to look again and again for what is to come, instead of sleeping at once and being woken:
 * to wake a core that sleeps takes longer than most answers do, and on a virtual machine much longer.
 *
 * Looking is paid for out of savings. A wait that was short earns a part of what a look takes at most, one in
 * which looking was in vain pays for it, unless that took very long; so who rarely waits, or long, never
 * looks, and at most that part of each short wait is wasted, whatever the pattern. What is saved is bounded,
 * but enough for a few looks: in a conversation of several, one that goes to sleep makes the others wait
 * long, and go to sleep in their turn. Knows no clock and no system call. */
#ifndef CM_BASE_PATIENCE_H
#define CM_BASE_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

struct cm_patience {
    uint64_t most_ns; /* to look; 0: never */
    int64_t saved_ns;
};

/* Whether to look, for most_ns, in the wait that begins. */
bool cm_patience_has(const struct cm_patience *patience);

/* A wait is over. What it was for came after waited_ns (UINT64_MAX: something else ended it), of which the
 * first looked_ns were spent looking. */
void cm_patience_note(struct cm_patience *patience, uint64_t waited_ns, uint64_t looked_ns);

#endif
