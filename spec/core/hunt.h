/* What the hunts share. The test process is the master: it owns the segment, the cleaner and the reaper, and
 * serves requests for what needs memory that a worker could not get. Workers are forked: each has a seat, a
 * participant and a store on the inherited mapping.
 *
 * A hunt looks for what happens rarely, so it runs a short form by default and a long one with CM_LONG=1 or
 * --long. An alarm ends it, and the workers with it, whatever hangs. */
#ifndef CM_SPEC_CORE_HUNT_H
#define CM_SPEC_CORE_HUNT_H

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "data/expiry.h"
#include "data/store.h"
#include "memory/append.h"
#include "memory/reaper.h"
#include "spec/core/test.h"

enum {
    HUNT_WORKERS_MOST = 12,
    HUNT_KEY_MOST_BYTES = 1024,
    HUNT_VALUE_MOST_BYTES = 1 << 20,
};

/* What a worker asks the master for. */
struct hunt_request {
    _Atomic uint32_t state; /* of hunt_request_state: the worker publishes ASKED, the master DONE */
    bool is_increment;
    bool is_number;          /* what is set; else bytes */
    struct cm_number number; /* that, or what is added */
    struct cm_change change;
    int result;
    uint64_t version;
    size_t key_len;
    size_t value_len;
    uint8_t key[HUNT_KEY_MOST_BYTES];
    uint8_t value[HUNT_VALUE_MOST_BYTES];
};

struct hunt_shared {
    _Atomic uint32_t stop; /* workers that run until told look at it */
    struct {
        _Atomic uint64_t operations;
        struct hunt_request request;
    } workers[HUNT_WORKERS_MOST];
};

struct hunt_worker {
    pid_t pid; /* 0: there is none */
    uint32_t seat;
};

struct hunt {
    struct cm_segment segment;
    struct cm_cleaner cleaner;
    struct cm_reaper reaper;
    struct cm_participant participant;
    struct cm_store store;
    struct cm_sweep sweep;
    struct hunt_shared *shared;
    struct hunt_worker workers[HUNT_WORKERS_MOST];
    bool always_cleaning; /* some chunk is being evacuated all the time */
    uint32_t next_evacuated;
    uint64_t looked_ms;
    uint64_t turns;
    uint64_t served;
    uint64_t refused; /* requests answered with nomemory though there was room for them */
};

extern bool hunt_is_long;

/* Reads the arguments and sets the alarm. */
void hunt_main(int argc, char **argv);
uint64_t hunt_now_us(void);
void hunt_pause(void); /* a moment off the processor, between two looks at something */

/* Memory that forked processes share, zeroed. */
void *hunt_share(size_t len);

void hunt_open(struct hunt *hunt, uint64_t bytes, uint32_t seats);
/* Kills what workers are left, and closes everything. */
void hunt_close(struct hunt *hunt);

/* One round of the master's loop. True when there was something to do. */
bool hunt_turn(struct hunt *hunt);
/* Turns for so long. */
void hunt_run(struct hunt *hunt, uint64_t for_us);

/* --- workers --- */

struct hunt_self {
    struct hunt *hunt;
    unsigned number;
    struct cm_participant participant;
    struct cm_store store;
    struct cm_buf buf;
    uint64_t random;
    void *data;
};
typedef void (*hunt_work_fn)(struct hunt_self *self);

/* Forks worker `number` on a seat of its own. When the work is done it closes its chunk and exits with 0. */
void hunt_start(struct hunt *hunt, unsigned number, hunt_work_fn work, void *data);
/* Whether it has ended (options WEXITED) or stopped (WSTOPPED), without waiting and without taking it. */
bool hunt_is(const struct hunt *hunt, unsigned number, int options);
/* Turns until that is so, 20 seconds at most; then the test fails. */
void hunt_until(struct hunt *hunt, unsigned number, int options);
/* Takes the ended worker as waitpid does; what killed it, or 0 for an exit with 0; an exit with another code
 * fails the test. No repairs. */
int hunt_take(struct hunt *hunt, unsigned number);
/* The repairs, both at once. */
void hunt_bury(struct hunt *hunt, unsigned number);
/* Tells all workers to stop, waits for them, and buries them. */
void hunt_finish(struct hunt *hunt);

/* In a worker: says what is wrong and ends it; in the master: fails the test. */
void hunt_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
#define HUNT_CHECK(condition, ...)  \
    do {                            \
        if (!(condition))           \
            hunt_fail(__VA_ARGS__); \
    } while (0)

/* As cm_store_set and cm_store_increment by one, with the master's help where memory has run out. */
int hunt_set(struct hunt_self *self, struct cm_bytes key, const struct cm_value *value,
             const struct cm_change *change, uint64_t *version);
int hunt_increment(struct hunt_self *self, struct cm_bytes key, struct cm_number delta, uint64_t *version);
bool hunt_told_to_stop(struct hunt_self *self);

/* --- keys and values --- */

struct hunt_key {
    char text[HUNT_KEY_MOST_BYTES];
    struct cm_bytes bytes;
};
struct cm_bytes hunt_key(struct hunt_key *key, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Fills the value with what only this key, length and seed give. */
void hunt_fill(uint8_t *value, size_t len, uint64_t key, uint32_t seed);
/* NULL for a whole value, else what is wrong with it. *seed: what it was filled from, 0 for a short one. */
const char *hunt_check_value(struct cm_bytes value, uint64_t key, uint32_t *seed);

/* NULL where the bytes are those of such a value of that length from `at` on, a multiple of 8 and not 0. */
const char *hunt_check_part(struct cm_bytes part, size_t at, size_t len, uint64_t key, uint32_t seed);

/* Sets such a value, as the master, and gives its version. */
uint64_t hunt_put(struct hunt *hunt, struct cm_bytes key, uint64_t number, size_t len, uint32_t seed);

/* The group that a key lies in now. */
uint32_t hunt_group(const struct hunt *hunt, struct cm_bytes key);
/* A key in that group, of that prefix. */
struct cm_bytes hunt_key_in(const struct hunt *hunt, uint32_t group, const char *prefix,
                            struct hunt_key *key);

/* --- the state of things, while nobody writes --- */

struct hunt_audit {
    uint64_t entries;
    uint64_t reachable_bytes;
    uint64_t lost_bytes; /* that count as live and are not reachable */
};
/* Walks every chain. Fails on an entry in a wrong group, in a chunk that is free, or beyond what the chunk
 * uses; on a live count below what is reachable; on a group's owner; and on an open chunk of a seat without a
 * process; on a chunk that lacks its pages. `exact`: on any lost byte. */
void hunt_audit(struct hunt *hunt, bool exact, struct hunt_audit *audit);
/* Cleans all that is marked. False where something stays marked that the cleaner cannot come to, while nobody
 * keeps a chunk open: it would be marked for ever. */
bool hunt_clean(struct hunt *hunt);
/* Fails if a word names the seat, which has been buried. */
void hunt_check_unnamed(const struct hunt *hunt, uint32_t id);
/* Claims and punches so far. */
uint64_t hunt_generations(const struct hunt *hunt);

#endif
