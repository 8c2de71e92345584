/* LMDB for memory_peers.c: a transaction for each set, one that is renewed for each get, and no write to a
 * disk. */
#include "memory_peers.h"

/* The linters also run where the packages of the benchmarks are not installed. */
#if __has_include(<lmdb.h>)
#include <lmdb.h>
#include <string.h>
#include <unistd.h>

enum { MODE = 0600 };
static const size_t MAP_BYTES = (size_t)1 << 30;

static MDB_env *env;
static MDB_dbi dbi;
static MDB_txn *reading;

static void check(const char *what, int rc) {
    if (rc != 0)
        fail(what, mdb_strerror(rc));
}

static void lmdb_open(const char *place) {
    check("mdb_env_create", mdb_env_create(&env));
    check("mdb_env_set_mapsize", mdb_env_set_mapsize(env, MAP_BYTES));
    check(place, mdb_env_open(env, place, MDB_NOSUBDIR | MDB_NOSYNC | MDB_WRITEMAP, MODE));
    check("mdb_txn_begin", mdb_txn_begin(env, NULL, MDB_RDONLY, &reading));
    check("mdb_dbi_open", mdb_dbi_open(reading, NULL, 0, &dbi));
    mdb_txn_reset(reading);
}

static void lmdb_close(void) {
    mdb_txn_abort(reading);
    mdb_env_close(env);
}

static void lmdb_get(const char *key, char *value) {
    MDB_val name = {KEY_BYTES, (void *)key};
    MDB_val found;
    check("mdb_txn_renew", mdb_txn_renew(reading));
    check("mdb_get", mdb_get(reading, dbi, &name, &found));
    memcpy(value, found.mv_data, VALUE_BYTES);
    mdb_txn_reset(reading);
}

static void lmdb_set(const char *key, const char *value) {
    MDB_val name = {KEY_BYTES, (void *)key};
    MDB_val data = {VALUE_BYTES, (void *)value};
    MDB_txn *writing;
    check("mdb_txn_begin", mdb_txn_begin(env, NULL, 0, &writing));
    check("mdb_put", mdb_put(writing, dbi, &name, &data, 0));
    check("mdb_txn_commit", mdb_txn_commit(writing));
}

static long long lmdb_increment(const char *key, long long delta) {
    MDB_val name = {KEY_BYTES, (void *)key};
    MDB_val data;
    MDB_txn *writing;
    long long sum = 0;
    check("mdb_txn_begin", mdb_txn_begin(env, NULL, 0, &writing));
    int rc = mdb_get(writing, dbi, &name, &data);
    if (rc == 0)
        memcpy(&sum, data.mv_data, sizeof sum);
    else if (rc != MDB_NOTFOUND)
        check("mdb_get", rc);
    sum += delta;
    data.mv_size = sizeof sum;
    data.mv_data = &sum;
    check("mdb_put", mdb_put(writing, dbi, &name, &data, 0));
    check("mdb_txn_commit", mdb_txn_commit(writing));
    return sum;
}

static void lmdb_fill(long count, const char *value) {
    for (long i = 0; i < count; i++) {
        char key[KEY_BYTES + 1];
        make_key(key, i);
        lmdb_set(key, value);
    }
}

/* All pages that were ever taken: those that are free again stay in the file. */
static void lmdb_used(double *counted, double *resident) {
    MDB_envinfo info;
    MDB_stat stat;
    check("mdb_env_info", mdb_env_info(env, &info));
    check("mdb_env_stat", mdb_env_stat(env, &stat));
    *counted = (double)(info.me_last_pgno + 1) * stat.ms_psize;
    *resident = resident_bytes(getpid());
}

const struct peer lmdb_peer = {
    .name = "lmdb",
    .open = lmdb_open,
    .close = lmdb_close,
    .get = lmdb_get,
    .set = lmdb_set,
    .increment = lmdb_increment,
    .fill = lmdb_fill,
    .used = lmdb_used,
};
#endif
