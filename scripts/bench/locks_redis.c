/* The Redis lock in scripts/bench/locks. Usage: locks_redis PLACE one|many WORKERS SECONDS, PLACE being the
 * socket of a Redis server of its own. Prints the lines that locks_harness.lua prints, with the same keys;
 * beside a round trip a look at the clock is nothing, so rate and waits are of one loop.
 *
 * The lock is the one that Redis documents for a single server: SET NX with a random token and a time to
 * live, and a script that deletes the token if it is still the own one. While it is taken the worker tries
 * again after 0.5 to 1.5 ms, by chance. (Clients' defaults are 100 to 200 ms.) */
#include "crew.h"
#include "redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { KEYS = 64, KEY_BYTES = 10, TOKEN_BYTES = 16, NUMBER_BYTES = 15, SHA_BYTES = 40 };
static const uint64_t WARM_UP_NS = 200000000;
static const char release_script[] =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

struct run {
    const char *place;
    bool one_key;
    uint64_t length_ns;
    struct figures {
        long ops;
        uint64_t start_ns, end_ns, wait_ns;
    } warm_ups[CREW_MOST], workers[CREW_MOST];
};

static char request[512];
static char release_sha[SHA_BYTES + 1];
static uint64_t chance;

static uint64_t next_chance(void) {
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    return chance >> 33;
}

static void load_release(void) {
    static const char head[] = "$40\r\n";
    size_t len =
        (size_t)snprintf(request, sizeof request, "*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%zu\r\n%s\r\n",
                         sizeof release_script - 1, release_script);
    redis_ask(request, len);
    redis_answer(0, sizeof head - 1 + SHA_BYTES + 2);
    memcpy(release_sha, redis_reply + sizeof head - 1, SHA_BYTES);
}

static void take(const char *key, char *token) {
    snprintf(token, TOKEN_BYTES + 1, "%08x%08x", (unsigned)next_chance(), (unsigned)next_chance());
    size_t len = (size_t)snprintf(
        request, sizeof request,
        "*6\r\n$3\r\nSET\r\n$%d\r\nlock:%s\r\n$%d\r\n%s\r\n$2\r\nNX\r\n$2\r\nPX\r\n$5\r\n30000\r\n",
        KEY_BYTES + 5, key, TOKEN_BYTES, token);
    for (;;) {
        redis_ask(request, len);
        redis_answer(0, strlen("+OK\r\n"));
        if (!redis_is_nil())
            return;
        struct timespec pause = {.tv_nsec = 500000 + (long)(next_chance() % 1000000)};
        nanosleep(&pause, NULL);
    }
}

static void release(const char *key, const char *token) {
    size_t have;
    size_t len =
        (size_t)snprintf(request, sizeof request,
                         "*5\r\n$7\r\nEVALSHA\r\n$%d\r\n%s\r\n$1\r\n1\r\n$%d\r\nlock:%s\r\n$%d\r\n%s\r\n",
                         SHA_BYTES, release_sha, KEY_BYTES + 5, key, TOKEN_BYTES, token);
    redis_ask(request, len);
    if (redis_answer_number(&have) != 1)
        fail("release", "the lock was somebody else's");
}

/* Numbers have a fixed width, so that the length of the reply is known. */
static long get(const char *key) {
    static const char head[] = "$15\r\n";
    _Static_assert(NUMBER_BYTES == 15, "the head of the reply");
    redis_ask(request,
              (size_t)snprintf(request, sizeof request, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", KEY_BYTES, key));
    redis_answer(0, sizeof head - 1 + NUMBER_BYTES + 2);
    if (redis_is_nil())
        fail(key, "nothing there");
    return strtol(redis_reply + sizeof head - 1, NULL, 10);
}

static void set(const char *key, long number) {
    redis_ask(request,
              (size_t)snprintf(request, sizeof request, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%0*ld\r\n",
                               KEY_BYTES, key, NUMBER_BYTES, NUMBER_BYTES, number));
    redis_answer(0, strlen("+OK\r\n"));
}

static void make_key(char *key, unsigned index) {
    snprintf(key, KEY_BYTES + 1, "counter:%02u", index % KEYS);
}

static void loop_for(const struct run *run, int worker, uint64_t length_ns, struct figures *figures) {
    unsigned step = run->one_key ? 0 : 2 * (unsigned)worker + 1;
    figures->start_ns = figures->end_ns = now_ns();
    do {
        char key[KEY_BYTES + 1];
        char token[TOKEN_BYTES + 1];
        make_key(key, ((unsigned)figures->ops + 1) * step);
        take(key, token);
        /* It asked when it was done with the last one. */
        uint64_t waited_ns = now_ns() - figures->end_ns;
        if (waited_ns > figures->wait_ns)
            figures->wait_ns = waited_ns;
        set(key, get(key) + 1);
        release(key, token);
        figures->ops++;
        figures->end_ns = now_ns();
    } while (figures->end_ns - figures->start_ns < length_ns);
}

static void work(int index, void *shared) {
    struct run *run = shared;
    redis_open(run->place);
    load_release();
    if (getrandom(&chance, sizeof chance, 0) != sizeof chance)
        fail("chance", NULL);
    crew_meet();
    loop_for(run, index, run->length_ns < WARM_UP_NS ? run->length_ns : WARM_UP_NS, &run->warm_ups[index]);
    crew_meet();
    loop_for(run, index, run->length_ns, &run->workers[index]);
    redis_close();
}

int main(int argc, char **argv) {
    bool one_key = argc == 5 && strcmp(argv[2], "one") == 0;
    bool many_keys = argc == 5 && strcmp(argv[2], "many") == 0;
    long workers = argc == 5 ? strtol(argv[3], NULL, 10) : 0;
    double seconds = argc == 5 ? strtod(argv[4], NULL) : 0;
    if ((!one_key && !many_keys) || workers < 1 || workers > CREW_MOST || !(seconds > 0)) {
        fprintf(stderr, "usage: locks_redis PLACE one|many WORKERS SECONDS\n");
        return 2;
    }
    struct run *run = crew_memory(sizeof *run);
    char key[KEY_BYTES + 1];
    run->place = argv[1];
    run->one_key = one_key;
    run->length_ns = (uint64_t)(seconds * 1e9);

    redis_open(run->place);
    for (unsigned i = 0; i < KEYS; i++) {
        make_key(key, i);
        set(key, 0);
    }
    crew_run((int)workers, work, run);
    long all = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        make_key(key, i);
        all += get(key);
    }
    for (long i = 0; i < workers; i++) {
        const struct figures *figures = &run->workers[i];
        printf("ops=%ld start_ns=%llu end_ns=%llu wait_ms=%.3f\n", figures->ops,
               (unsigned long long)figures->start_ns, (unsigned long long)figures->end_ns,
               (double)figures->wait_ns / 1e6);
        all -= figures->ops + run->warm_ups[i].ops;
    }
    if (all != 0)
        fail("the counters", "increments were lost");
    redis_close();
    return 0;
}
