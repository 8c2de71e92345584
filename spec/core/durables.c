#include "spec/core/durables.h"

#include <fcntl.h>
#include <ftw.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spec/core/test.h"

enum { MOST_PATHS = 16, PATH_BYTES = 512 };

static char folder[64];
static char paths[MOST_PATHS][PATH_BYTES];
static size_t path_count;

int durables_make_folder(void **state) {
    (void)state;
    path_count = 0;
    snprintf(folder, sizeof folder, "%s", "/tmp/clustermem-durable-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *file, int kind, struct FTW *place) {
    (void)file;
    (void)kind;
    (void)place;
    return remove(path);
}

int durables_remove_folder(void **state) {
    (void)state;
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *durables_path(const char *name) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    size_t i = 0;
    while (i < path_count && strcmp(paths[i], path) != 0)
        i++;
    assert_true(i < MOST_PATHS);
    if (i == path_count)
        memcpy(paths[path_count++], path, sizeof path);
    return paths[i];
}

uint64_t durables_size(const char *path) {
    struct stat found;
    assert_int_equal(stat(path, &found), 0);
    return (uint64_t)found.st_size;
}

static MDB_envinfo info_of(const char *path) {
    MDB_env *env;
    MDB_envinfo info;
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_RDONLY, 0), 0);
    mdb_env_info(env, &info);
    mdb_env_close(env);
    return info;
}

uint64_t durables_last_transaction(const char *path) {
    return info_of(path).me_last_txnid;
}

uint64_t durables_last_page(const char *path) {
    return info_of(path).me_last_pgno;
}

struct lmdb {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
};

static struct lmdb begin(const char *path) {
    struct lmdb lmdb;
    assert_int_equal(mdb_env_create(&lmdb.env), 0);
    assert_int_equal(mdb_env_open(lmdb.env, path, MDB_NOSUBDIR | MDB_NOLOCK, 0600), 0);
    assert_int_equal(mdb_txn_begin(lmdb.env, NULL, 0, &lmdb.txn), 0);
    assert_int_equal(mdb_dbi_open(lmdb.txn, NULL, 0, &lmdb.dbi), 0);
    return lmdb;
}

static void end(struct lmdb *lmdb) {
    assert_int_equal(mdb_txn_commit(lmdb->txn), 0);
    mdb_env_close(lmdb->env);
}

static void put(struct lmdb *lmdb, const void *key, size_t key_len, const void *record, size_t record_len) {
    MDB_val name = {key_len, (void *)key};
    MDB_val value = {record_len, (void *)record};
    assert_int_equal(record_len ? mdb_put(lmdb->txn, lmdb->dbi, &name, &value, 0)
                                : mdb_del(lmdb->txn, lmdb->dbi, &name, NULL),
                     0);
}

void durables_put(const char *path, const void *key, size_t key_len, const void *record, size_t record_len) {
    struct lmdb lmdb = begin(path);
    put(&lmdb, key, key_len, record, record_len);
    end(&lmdb);
}

void durables_put_and_remove(const char *path) {
    static char record[190000];
    struct lmdb lmdb = begin(path);
    put(&lmdb, "kept", 4, record, 20000);
    put(&lmdb, "not kept", 8, record, sizeof record);
    put(&lmdb, "not kept", 8, NULL, 0);
    end(&lmdb);
}

uint8_t *durables_load(const char *path, size_t *len) {
    *len = durables_size(path);
    uint8_t *bytes = malloc(*len + 1);
    FILE *file = fopen(path, "re");
    assert_non_null(bytes);
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, *len, file), *len);
    fclose(file);
    return bytes;
}

void durables_store(const char *path, const void *bytes, size_t len) {
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}
