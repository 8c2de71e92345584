/* Redis and LMDB in scripts/bench/memory. Usage: memory_peers redis|lmdb PLACE ROW WORKERS SECONDS, PLACE
 * being the socket of a Redis server of its own, or a file that is not there yet. Prints the lines that
 * memory_harness.lua prints. A worker is a process; none sends a request before it has read the reply to the
 * last one. */
#include "memory_peers.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As in memory_harness.lua. */
enum { KEYS = 10000, BATCH = 500, MEMORY_KEYS = 1000000 };
static const double WARM_UP_S = 0.2;
static const char counter[KEY_BYTES + 1] = "counter:00000000";

enum row { ROW_GET, ROW_SET, ROW_INCREMENT, ROW_MIX, ROW_MEMORY, ROWS };
static const char *const row_names[ROWS] = {"get", "set", "increment", "mix", "memory"};

/* Shared by all processes. */
struct run {
    const char *place;
    enum row row;
    double seconds;
    struct {
        long ops, warm_ups;
        uint64_t start_ns, end_ns;
    } workers[CREW_MOST];
};

static const struct peer *peer;
static char keys[KEYS][KEY_BYTES + 1];
static char value[VALUE_BYTES + 1];

void make_key(char *key, long index) {
    uint32_t spread = (uint32_t)index * 2654435761u;
    snprintf(key, KEY_BYTES + 1, "%08x%08x", spread, (unsigned)index);
}

double resident_bytes(long pid) {
    char path[64];
    char line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%ld/smaps_rollup", pid);
    FILE *file = fopen(path, "re");
    if (file) {
        while (kib < 0 && fgets(line, sizeof line, file)) {
            if (strncmp(line, "Pss:", 4) == 0)
                kib = strtol(line + 4, NULL, 10);
        }
        fclose(file);
        if (kib < 0)
            fail(path, "no Pss");
    } else {
        fail(path, NULL);
    }
    return (double)kib * 1024;
}

static void shuffle_keys(unsigned seed) {
    uint64_t state = seed + 1;
    for (size_t i = KEYS - 1; i > 0; i--) {
        char key[KEY_BYTES + 1];
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t other = (size_t)(state >> 33) % (i + 1);
        memcpy(key, keys[i], sizeof key);
        memcpy(keys[i], keys[other], sizeof key);
        memcpy(keys[other], key, sizeof key);
    }
}

static void do_batch(enum row row, size_t first) {
    char copy[VALUE_BYTES];
    switch (row) {
    case ROW_GET:
        for (size_t i = first; i < first + BATCH; i++)
            peer->get(keys[i], copy);
        break;
    case ROW_SET:
        for (size_t i = first; i < first + BATCH; i++)
            peer->set(keys[i], value);
        break;
    case ROW_INCREMENT:
        for (size_t i = first; i < first + BATCH; i++)
            peer->increment(counter, 1);
        break;
    default:
        for (size_t i = first; i < first + BATCH; i++) {
            if (i % 10 == 0)
                peer->set(keys[i], value);
            else
                peer->get(keys[i], copy);
        }
    }
}

static long loop_for(enum row row, double seconds, uint64_t *start_ns, uint64_t *end_ns) {
    uint64_t length_ns = (uint64_t)(seconds * 1e9);
    size_t first = 0;
    long ops = 0;
    *start_ns = now_ns();
    do {
        do_batch(row, first);
        ops += BATCH;
        first = (first + BATCH) % KEYS;
        *end_ns = now_ns();
    } while (*end_ns - *start_ns < length_ns);
    return ops;
}

static void work(int index, void *shared) {
    struct run *run = shared;
    uint64_t start_ns;
    uint64_t end_ns;
    peer->open(run->place);
    shuffle_keys((unsigned)index);
    crew_meet();
    run->workers[index].warm_ups =
        loop_for(run->row, run->seconds < WARM_UP_S ? run->seconds : WARM_UP_S, &start_ns, &end_ns);
    crew_meet();
    run->workers[index].ops = loop_for(run->row, run->seconds, &start_ns, &end_ns);
    run->workers[index].start_ns = start_ns;
    run->workers[index].end_ns = end_ns;
    peer->close();
}

static void measure_throughput(const char *place, enum row row, int workers, double seconds) {
    struct run *run = crew_memory(sizeof *run);
    run->place = place;
    run->row = row;
    run->seconds = seconds;

    peer->open(place);
    peer->fill(KEYS, value);
    peer->close();
    crew_run(workers, work, run);
    long long all = 0;
    for (int i = 0; i < workers; i++) {
        printf("ops=%ld start_ns=%llu end_ns=%llu\n", run->workers[i].ops,
               (unsigned long long)run->workers[i].start_ns, (unsigned long long)run->workers[i].end_ns);
        all += run->workers[i].ops + run->workers[i].warm_ups;
    }
    if (row == ROW_INCREMENT) {
        peer->open(place);
        if (peer->increment(counter, 0) != all)
            fail("the counter", "increments were lost");
        peer->close();
    }
}

static void measure_memory(const char *place) {
    double counted_before;
    double counted;
    double resident_before;
    double resident;
    peer->open(place);
    peer->used(&counted_before, &resident_before);
    peer->fill(MEMORY_KEYS, value);
    peer->used(&counted, &resident);
    peer->close();
    printf("counted=%.1f resident=%.1f\n", (counted - counted_before) / MEMORY_KEYS,
           (resident - resident_before) / MEMORY_KEYS);
}

int main(int argc, char **argv) {
    int row = 0;
    if (argc == 6) {
        peer = strcmp(argv[1], redis_peer.name) == 0  ? &redis_peer
               : strcmp(argv[1], lmdb_peer.name) == 0 ? &lmdb_peer
                                                      : NULL;
        while (row < ROWS && strcmp(argv[3], row_names[row]) != 0)
            row++;
    }
    long workers = argc == 6 ? strtol(argv[4], NULL, 10) : 0;
    double seconds = argc == 6 ? strtod(argv[5], NULL) : 0;
    if (!peer || row == ROWS || workers < 1 || workers > CREW_MOST || !(seconds > 0)) {
        fprintf(stderr, "usage: memory_peers redis|lmdb PLACE ROW WORKERS SECONDS\n");
        return 2;
    }
    for (long i = 0; i < KEYS; i++)
        make_key(keys[i], i);
    memset(value, 'x', VALUE_BYTES);
    if (row == ROW_MEMORY)
        measure_memory(argv[2]);
    else
        measure_throughput(argv[2], (enum row)row, (int)workers, seconds);
    return 0;
}
