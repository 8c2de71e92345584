/* What memory_peers.c measures: a store beside ours that is reached from C. One connection or environment for
 * each process, so there are no handles. Every function ends the process with a message when something fails.
 */
#ifndef MEMORY_PEERS_H
#define MEMORY_PEERS_H

#include "crew.h"

enum { KEY_BYTES = 16, VALUE_BYTES = 100 };

struct peer {
    const char *name;
    /* By each process for itself, after the fork. `place` is a socket's path, or that of a file. */
    void (*open)(const char *place);
    void (*close)(void);
    /* The value is copied to `value`, which has VALUE_BYTES. */
    void (*get)(const char *key, char *value);
    void (*set)(const char *key, const char *value);
    /* Returns the sum; where there was nothing it is `delta`. */
    long long (*increment)(const char *key, long long delta);
    /* Sets so many keys, not measured, so it may do better than one at a time. */
    void (*fill)(long count, const char *value);
    /* Bytes in use as the store counts them, and as the system does. */
    void (*used)(double *counted, double *resident);
};

extern const struct peer redis_peer;
extern const struct peer lmdb_peer;

/* Writes the index-th key, KEY_BYTES and a zero: in no order of their bytes, as in memory_harness.lua. */
void make_key(char *key, long index);
/* What a process holds in memory, what it shares counted in part (Pss). */
double resident_bytes(long pid);

#endif
