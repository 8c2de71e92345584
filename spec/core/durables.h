/* What the tests of durable files share: a folder that is made for each test and removed after it, paths in
 * it, and LMDB itself for what only it can make or tell. */
#ifndef CM_SPEC_CORE_DURABLES_H
#define CM_SPEC_CORE_DURABLES_H

#include <stdint.h>

#include "base/buf.h"

/* cmocka's set-up and tear-down. */
int durables_make_folder(void **state);
int durables_remove_folder(void **state);

/* The path of a name in the folder, valid until the test ends. */
const char *durables_path(const char *name);

/* Of the file, which nobody writes at that time. */
uint64_t durables_size(const char *path);
uint64_t durables_last_transaction(const char *path);
uint64_t durables_last_page(const char *path);

/* Puts a record into the file with LMDB itself, which makes the file if there is none; a record of 0 bytes is
 * removed. key: of key_len bytes. */
void durables_put(const char *path, const void *key, size_t key_len, const void *record, size_t record_len);

/* Puts a large record, and one that is removed in the same transaction. */
void durables_put_and_remove(const char *path);

/* The file's bytes, to be freed; and back. */
uint8_t *durables_load(const char *path, size_t *len);
void durables_store(const char *path, const void *bytes, size_t len);

#endif
