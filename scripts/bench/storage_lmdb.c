/* LMDB alone in scripts/bench/storage: the limit of a disk, and of reading a file.
 *
 *   storage_lmdb commit PLACE BATCH SECONDS   puts documents, BATCH in a transaction, each with its fsync;
 * prints the line that storage.lua prints storage_lmdb read PLACE                   reads all of a file, each
 * byte of it; prints "ms=... documents=..."
 */
#include "crew.h"

/* The linters also run where the packages of the benchmarks are not installed. */
#if __has_include(<lmdb.h>)
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As in storage.lua; a document is a number, as the key, and its name and value. */
enum { DOCUMENTS = 10000, RECORD_BYTES = 128, MODE = 0600 };
static const size_t MAP_BYTES = (size_t)4 << 30;
static const double WARM_UP_S = 0.2;

static MDB_env *env;
static MDB_dbi dbi;

static void check(const char *what, int rc) {
    if (rc != 0)
        fail(what, mdb_strerror(rc));
}

static void open_file(const char *place, unsigned flags) {
    MDB_txn *txn;
    check("mdb_env_create", mdb_env_create(&env));
    check("mdb_env_set_mapsize", mdb_env_set_mapsize(env, MAP_BYTES));
    check(place, mdb_env_open(env, place, MDB_NOSUBDIR | MDB_NOLOCK | flags, MODE));
    check("mdb_txn_begin", mdb_txn_begin(env, NULL, flags & MDB_RDONLY, &txn));
    check("mdb_dbi_open", mdb_dbi_open(txn, NULL, 0, &dbi));
    check("mdb_txn_commit", mdb_txn_commit(txn));
}

/* --- writing --- */

static void put_batch(long batch, long *at) {
    static char record[RECORD_BYTES];
    MDB_txn *txn;
    memset(record, 'x', sizeof record);
    check("mdb_txn_begin", mdb_txn_begin(env, NULL, 0, &txn));
    for (long i = 0; i < batch; i++) {
        uint8_t number[8] = {0};
        *at = (*at * 21 + 3) % DOCUMENTS; /* all of them, in no order */
        for (int byte = 0; byte < 8; byte++)
            number[byte] = (uint8_t)((uint64_t)*at >> (56 - 8 * byte));
        MDB_val key = {sizeof number, number}, value = {sizeof record, record};
        check("mdb_put", mdb_put(txn, dbi, &key, &value, 0));
    }
    check("mdb_txn_commit", mdb_txn_commit(txn));
}

static long commit_for(double seconds, long batch, uint64_t *start_ns, uint64_t *end_ns) {
    long ops = 0, at = 0;
    *start_ns = now_ns();
    do {
        put_batch(batch, &at);
        ops += batch;
        *end_ns = now_ns();
    } while (*end_ns - *start_ns < (uint64_t)(seconds * 1e9));
    return ops;
}

static void measure_commits(const char *place, long batch, double seconds) {
    uint64_t start_ns, end_ns;
    open_file(place, 0);
    commit_for(seconds < WARM_UP_S ? seconds : WARM_UP_S, batch, &start_ns, &end_ns);
    long ops = commit_for(seconds, batch, &start_ns, &end_ns);
    mdb_env_close(env);
    printf("ops=%ld start_ns=%llu end_ns=%llu wait_ms=0\n", ops, (unsigned long long)start_ns,
           (unsigned long long)end_ns);
}

/* --- reading --- */

static void measure_reading(const char *place) {
    static volatile unsigned sum; /* so that the bytes are read */
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    long documents = 0;
    int rc;
    uint64_t start_ns = now_ns();
    open_file(place, MDB_RDONLY);
    check("mdb_txn_begin", mdb_txn_begin(env, NULL, MDB_RDONLY, &txn));
    check("mdb_cursor_open", mdb_cursor_open(txn, dbi, &cursor));
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        unsigned bytes = 0;
        for (size_t i = 0; i < value.mv_size; i++)
            bytes += ((const uint8_t *)value.mv_data)[i];
        sum += bytes;
        documents++;
    }
    if (rc != MDB_NOTFOUND)
        check("mdb_cursor_get", rc);
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    printf("ms=%.1f documents=%ld\n", (double)(now_ns() - start_ns) / 1e6,
           documents - 1); /* one is the head */
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "commit") == 0) {
        long batch = strtol(argv[3], NULL, 10);
        double seconds = strtod(argv[4], NULL);
        if (batch > 0 && seconds > 0) {
            measure_commits(argv[2], batch, seconds);
            return 0;
        }
    } else if (argc == 3 && strcmp(argv[1], "read") == 0) {
        measure_reading(argv[2]);
        return 0;
    }
    fprintf(stderr, "usage: storage_lmdb commit PLACE BATCH SECONDS, or: storage_lmdb read PLACE\n");
    return 2;
}
#endif
