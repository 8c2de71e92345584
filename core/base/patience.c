#include "base/patience.h"

enum {
    SHARE = 8,    /* so many short waits pay for one look in vain */
    LOOKS = 8,    /* in vain, one after the other, that may have been paid for before */
    WOKEN_IN = 3, /* a wait that was slept through is short up to so many times what a look takes */
    DEBT = 100,   /* looks: who was stopped in the midst of one need not make good for all of that */
};

bool cm_patience_has(const struct cm_patience *patience) {
    return patience->most_ns && patience->saved_ns >= (int64_t)patience->most_ns;
}

void cm_patience_note(struct cm_patience *patience, uint64_t waited_ns, uint64_t looked_ns) {
    int64_t most_ns = (int64_t)patience->most_ns;
    /* With who sleeps the others' answers take longer too: they have to be woken in their turn. */
    if (waited_ns > patience->most_ns * (looked_ns ? 1 : WOKEN_IN)) {
        uint64_t debt_ns = patience->most_ns * DEBT;
        patience->saved_ns -= (int64_t)(looked_ns < debt_ns ? looked_ns : debt_ns);
        return;
    }
    patience->saved_ns += most_ns / SHARE;
    if (patience->saved_ns > most_ns * LOOKS)
        patience->saved_ns = most_ns * LOOKS;
}
