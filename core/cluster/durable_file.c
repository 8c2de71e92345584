#include "cluster/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cluster/durable.h"
#include "cluster/durable_head.h"
#include "cluster/durable_record.h"

enum {
    KEY_BYTES = 8,
    NEXT_BYTES = 8, /* the value of the record with number 0 */
};
static const uint64_t FIRST_MAP_BYTES = 1 << 20;
static const uint64_t MOST_MAP_BYTES = UINT64_C(1) << 62;
#define FORMAT_FAMILY "clustermem documents "
#define FORMAT FORMAT_FAMILY "1"

struct key {
    uint8_t bytes[KEY_BYTES];
};

static struct key key_of(uint64_t number) {
    struct key key;
    for (int i = 0; i < KEY_BYTES; i++)
        key.bytes[i] = (uint8_t)(number >> (8 * (KEY_BYTES - 1 - i)));
    return key;
}

static uint64_t number_of(const MDB_val *key) {
    uint64_t number = 0;
    for (int i = 0; i < KEY_BYTES; i++)
        number = number << 8 | ((const uint8_t *)key->mv_data)[i];
    return number;
}

/* What LMDB answers, as a code and a text; 0 for 0. */
static int refuse_lmdb(const struct cm_durable_file *file, int err, const char *what, char *text) {
    if (err == 0)
        return 0;
    int code = err == ENOMEM                                   ? CM_E_NOMEMORY
               : err > 0                                       ? -err
               : err == MDB_TXN_FULL || err == MDB_BAD_VALSIZE ? CM_E_TOOLARGE
                                                               : CM_E_BADVALUE;
    return cm_durable_refuse(text, code, "cannot %s %s: %s", what, file->place.path,
                             err > 0 ? cm_error_text(code) : mdb_strerror(err));
}

static int refuse_damaged(const struct cm_durable_file *file, uint64_t number, char *text) {
    return cm_durable_refuse(text, CM_E_BADVALUE, "%s is damaged: record %llu makes no sense",
                             file->place.path, (unsigned long long)number);
}

static int refuse_count(const struct cm_durable_file *file, char *text) {
    return cm_durable_refuse(text, CM_E_BADVALUE,
                             "%s is damaged: it does not have the documents that it says", file->place.path);
}

static void drop_env(struct cm_durable_file *file) {
    if (file->env)
        mdb_env_close(file->env);
    file->env = NULL;
}

/* Opens the locked file and no other one, whatever has become of its name. */
static int open_locked(struct cm_durable_file *file) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", cm_durable_place_fd(&file->place));
    unsigned flags = MDB_NOSUBDIR | MDB_NOLOCK | (file->writable ? 0 : MDB_RDONLY);
    int err = mdb_env_create(&file->env);
    if (err) {
        file->env = NULL;
        return err;
    }
    err = mdb_env_set_mapsize(file->env, file->map_bytes);
    if (!err)
        err = mdb_env_open(file->env, path, flags, 0);
    int fd = -1;
    if (!err)
        err = mdb_env_get_fd(file->env, &fd);
    /* A child that is forked before has it without the lock, and can do nothing but keep it open. */
    if (!err && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        err = errno;
    return err;
}

/* Begins to read; sets the handle of the one tree too. */
static int begin_reading(struct cm_durable_file *file, MDB_txn **txn) {
    int err = mdb_txn_begin(file->env, NULL, MDB_RDONLY, txn);
    if (err)
        return err;
    err = mdb_dbi_open(*txn, NULL, 0, &file->dbi);
    if (err)
        mdb_txn_abort(*txn);
    return err;
}

static int open_env(struct cm_durable_file *file, char *text) {
    uint64_t bytes;
    int err = cm_durable_place_size(&file->place, &bytes, text);
    if (!err && bytes) /* an empty one is a draft */
        err = cm_durable_head_check(cm_durable_place_fd(&file->place), file->place.path, bytes, text);
    if (err)
        return err;
    file->settled = false;
    file->map_bytes = FIRST_MAP_BYTES;
    while (file->map_bytes < bytes && file->map_bytes < MOST_MAP_BYTES)
        file->map_bytes *= 2;
    err = open_locked(file);
    MDB_txn *txn;
    if (!err)
        err = begin_reading(file, &txn);
    if (err) {
        drop_env(file);
        return refuse_lmdb(file, err, "open", text);
    }
    mdb_txn_abort(txn);
    return 0;
}

static bool begins_with(struct cm_bytes bytes, const char *start) {
    return bytes.len >= strlen(start) && memcmp(bytes.data, start, strlen(start)) == 0;
}

/* The record that says whose the file is. */
static int read_format(struct cm_durable_file *file, const MDB_val *found, char *text) {
    struct cm_bytes name;
    struct cm_bytes value;
    if (!cm_durable_record_parse((struct cm_bytes){found->mv_data, found->mv_size}, &name, &value) ||
        !begins_with(name, FORMAT_FAMILY))
        return cm_durable_refuse(text, CM_E_BADVALUE, "%s is no file of documents", file->place.path);
    if (name.len != strlen(FORMAT) || !begins_with(name, FORMAT))
        return cm_durable_refuse(text, CM_E_BADVALUE, "%s has the format \"%.*s\", and this is for \"%s\"",
                                 file->place.path, (int)(name.len < 64 ? name.len : 64),
                                 (const char *)name.data, FORMAT);
    struct cm_reader reader;
    cm_reader_init(&reader, value);
    file->next_number = cm_read_u64(&reader);
    return cm_reader_end(&reader) || file->next_number == 0 ? refuse_damaged(file, 0, text) : 0;
}

static int read_last(struct cm_durable_file *file, MDB_txn *txn, char *text) {
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val found;
    int err = mdb_cursor_open(txn, file->dbi, &cursor);
    if (err)
        return refuse_lmdb(file, err, "read", text);
    err = mdb_cursor_get(cursor, &key, &found, MDB_LAST);
    mdb_cursor_close(cursor);
    if (err)
        return refuse_lmdb(file, err, "read", text);
    return key.mv_size == KEY_BYTES && number_of(&key) < file->next_number ? 0
                                                                           : refuse_damaged(file, 0, text);
}

static int check_contents(struct cm_durable_file *file, char *text) {
    MDB_txn *txn;
    int err = begin_reading(file, &txn);
    if (err)
        return refuse_lmdb(file, err, "read", text);
    struct key zero = key_of(0);
    MDB_val key = {KEY_BYTES, &zero};
    MDB_val found;
    err = mdb_get(txn, file->dbi, &key, &found);
    if (err == MDB_NOTFOUND)
        err = cm_durable_refuse(text, CM_E_BADVALUE, "%s is no file of documents", file->place.path);
    else if (err)
        err = refuse_lmdb(file, err, "read", text);
    else
        err = read_format(file, &found, text);
    if (!err)
        err = read_last(file, txn, text);
    MDB_stat stat;
    mdb_stat(txn, file->dbi, &stat);
    file->unread = stat.ms_entries - 1;
    mdb_txn_abort(txn);
    return err;
}

static int create(struct cm_durable_file *file, char *text) {
    bool perhaps;
    int err = cm_durable_place_begin(&file->place, text);
    if (!err)
        err = cm_durable_file_write(file, (struct cm_bytes){0}, 1, &perhaps, text);
    return err ? err : cm_durable_place_adopt(&file->place, text);
}

int cm_durable_file_open(struct cm_durable_file *file, const char *filename, bool writable, char *text) {
    file->env = NULL;
    file->writable = writable;
    file->next_number = 0;
    int err = cm_durable_place_open(&file->place, filename, writable, text);
    if (err)
        return err;
    uint64_t bytes;
    err = cm_durable_place_size(&file->place, &bytes, text);
    if (!err && bytes == 0 && !writable)
        err = cm_durable_refuse(text, CM_E_BADVALUE, "%s is no file of documents: it is empty", filename);
    else if (!err && bytes == 0)
        err = create(file, text);
    else if (!err)
        err = open_env(file, text);
    if (!err)
        err = check_contents(file, text);
    if (err) {
        drop_env(file);
        cm_durable_place_close(&file->place);
    }
    return err;
}

int cm_durable_file_close(struct cm_durable_file *file, bool remove_file, char *text) {
    drop_env(file);
    int err = remove_file ? cm_durable_place_remove(&file->place, text) : 0;
    cm_durable_place_close(&file->place);
    return err;
}

static int read_slice(struct cm_durable_file *file, MDB_cursor *cursor, uint64_t *from, struct cm_buf *slice,
                      char *text) {
    struct key start = key_of(*from);
    MDB_val key = {KEY_BYTES, &start};
    MDB_val found;
    size_t begun = slice->len;
    struct cm_writer writer;
    cm_writer_init(&writer, slice);
    int err = mdb_cursor_get(cursor, &key, &found, MDB_SET_RANGE);
    for (; !err; err = mdb_cursor_get(cursor, &key, &found, MDB_NEXT)) {
        struct cm_bytes name;
        struct cm_bytes value;
        struct cm_bytes record = {found.mv_data, found.mv_size};
        if (key.mv_size != KEY_BYTES || found.mv_size > file->map_bytes)
            return refuse_damaged(file, *from, text);
        uint64_t number = number_of(&key);
        if (!cm_durable_record_parse(record, &name, &value))
            return refuse_damaged(file, number, text);
        *from = number;
        if (slice->len > begun && slice->len - begun + record.len > CM_DURABLE_SLICE_BYTES)
            return 0;
        cm_write_u64(&writer, number);
        cm_write_bytes(&writer, record);
        file->unread--;
        if (writer.error)
            return cm_durable_refuse(text, writer.error, "cannot read %s: %s", file->place.path,
                                     cm_error_text(writer.error));
    }
    *from = 0;
    if (err != MDB_NOTFOUND)
        return refuse_lmdb(file, err, "read", text);
    return file->unread ? refuse_count(file, text) : 0;
}

int cm_durable_file_read(struct cm_durable_file *file, uint64_t *from, struct cm_buf *slice, char *text) {
    MDB_txn *txn;
    MDB_cursor *cursor;
    int err = begin_reading(file, &txn);
    if (err)
        return refuse_lmdb(file, err, "read", text);
    err = mdb_cursor_open(txn, file->dbi, &cursor);
    if (err) {
        mdb_txn_abort(txn);
        return refuse_lmdb(file, err, "read", text);
    }
    err = read_slice(file, cursor, from, slice, text);
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return err;
}

/* Makes the file as long as its map, before anything is written that reaches that far: a crash at any moment
 * leaves a file that is longer than it needs to be, and no shorter one. */
static int settle(struct cm_durable_file *file, char *text) {
    if (file->settled)
        return 0;
    uint64_t bytes;
    int err = cm_durable_place_size(&file->place, &bytes, text);
    if (err)
        return err;
    int fd = cm_durable_place_fd(&file->place);
    if ((bytes < file->map_bytes && ftruncate(fd, (off_t)file->map_bytes) < 0) || fsync(fd) < 0)
        return refuse_lmdb(file, errno, "write", text);
    file->settled = true;
    return 0;
}

static int grow(struct cm_durable_file *file, char *text) {
    if (file->map_bytes >= MOST_MAP_BYTES)
        return refuse_lmdb(file, EFBIG, "write", text);
    file->map_bytes *= 2;
    file->settled = false;
    int err = settle(file, text);
    return err ? err : refuse_lmdb(file, mdb_env_set_mapsize(file->env, file->map_bytes), "write", text);
}

/* One thing of the batch. */
static int put(struct cm_durable_file *file, MDB_txn *txn, uint64_t number, struct cm_bytes record) {
    struct key name = key_of(number);
    MDB_val key = {KEY_BYTES, &name};
    if (record.len == 0) {
        int err = mdb_del(txn, file->dbi, &key, NULL);
        return err == MDB_NOTFOUND ? 0 : err;
    }
    MDB_val value = {record.len, (void *)record.data};
    return mdb_put(txn, file->dbi, &key, &value, 0);
}

static int put_format(struct cm_durable_file *file, MDB_txn *txn, uint64_t next_number) {
    uint8_t record[sizeof(uint32_t) + sizeof FORMAT - 1 + NEXT_BYTES];
    static const uint8_t start[] = {sizeof FORMAT - 1, 0, 0, 0};
    memcpy(record, start, sizeof start);
    memcpy(record + sizeof start, FORMAT, sizeof FORMAT - 1);
    for (int i = 0; i < NEXT_BYTES; i++)
        record[sizeof record - NEXT_BYTES + i] = (uint8_t)(next_number >> (8 * i));
    return put(file, txn, 0, (struct cm_bytes){record, sizeof record});
}

static int put_all(struct cm_durable_file *file, MDB_txn *txn, struct cm_bytes batch, uint64_t next_number) {
    struct cm_reader reader;
    cm_reader_init(&reader, batch);
    int err = next_number > file->next_number ? put_format(file, txn, next_number) : 0;
    while (!err && cm_reader_left(&reader)) {
        uint64_t number = cm_read_u64(&reader);
        err = put(file, txn, number, cm_read_bytes(&reader));
    }
    return err ? err : reader.error ? EINVAL : 0;
}

/* *late: it got so far that something of it may be in the file. */
static int write_batch(struct cm_durable_file *file, struct cm_bytes batch, uint64_t next_number,
                       bool *late) {
    MDB_txn *txn;
    int err = mdb_txn_begin(file->env, NULL, 0, &txn);
    if (err)
        return err;
    err = put_all(file, txn, batch, next_number);
    if (err) {
        mdb_txn_abort(txn);
        return err;
    }
    *late = true;
    err = mdb_txn_commit(txn);
    if (err == MDB_MAP_FULL)
        *late = false;
    return err;
}

static uint64_t last_transaction(const struct cm_durable_file *file) {
    MDB_envinfo info;
    mdb_env_info(file->env, &info);
    return info.me_last_txnid;
}

int cm_durable_file_write(struct cm_durable_file *file, struct cm_bytes batch, uint64_t next_number,
                          bool *perhaps, char *text) {
    char unheard[CM_DURABLE_TEXT_BYTES];
    uint64_t before = 0;
    bool late = false;
    *perhaps = false;
    int err = file->env ? 0 : open_env(file, text);
    if (!err)
        err = settle(file, text);
    if (!err)
        before = last_transaction(file);
    while (!err) {
        int refused = write_batch(file, batch, next_number, &late);
        if (refused == 0) {
            if (next_number > file->next_number)
                file->next_number = next_number;
            return 0;
        }
        err = refused == MDB_MAP_FULL ? grow(file, text) : refuse_lmdb(file, refused, "write", text);
    }
    /* LMDB may be of no use any more, which it does not always say. */
    drop_env(file);
    *perhaps = late && (open_env(file, unheard) || last_transaction(file) != before);
    return err;
}
