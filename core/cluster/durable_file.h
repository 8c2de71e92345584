/* A durable file itself, as LMDB has it: opened, checked, read in slices, written in batches. Blocks; one
 * thread at a time, whichever that is.
 *
 * The number, as 8 bytes from the highest on, leads to the record: u32 length of the name, the name, the
 * value. Number 0 has a record of the same kind: its name says whose the file is and in which format, its
 * value (u64) is the next number. The file is always as long as its map, so that one that ends before its
 * last page is a damaged one; LMDB alone leaves out pages at the end that it has taken and given back. */
#ifndef CM_CLUSTER_DURABLE_FILE_H
#define CM_CLUSTER_DURABLE_FILE_H

#include "base/buf.h"
#include "cluster/durable_place.h"

enum { CM_DURABLE_SLICE_BYTES = 256 << 10 };

struct cm_durable_file {
    struct cm_durable_place place;
    struct MDB_env *env; /* NULL: to be opened again, after a failure that may have left it unusable */
    unsigned dbi;
    bool writable;
    bool settled;         /* the file is as long as its map, and that is on disk */
    uint64_t map_bytes;   /* a power of 2 */
    uint64_t next_number; /* as the file has it */
    uint64_t unread;      /* documents that reading has still to come by */
};

/* All of them: 0, or a code with a line for people in text (CM_DURABLE_TEXT_BYTES) that names the file. */

/* Opens and locks it: see cm_durable_open and cm_durable_read, as which it is writable or not. Nothing is
 * written to a file that is not ours. There is something to close only after 0. */
int cm_durable_file_open(struct cm_durable_file *file, const char *filename, bool writable, char *text);

/* Gives everything back, and removes the file before that if it is told to. */
int cm_durable_file_close(struct cm_durable_file *file, bool remove_file, char *text);

/* Appends the documents from that number on to the slice: about CM_DURABLE_SLICE_BYTES of them, and at least
 * one. Sets from to where the next slice begins; to 0 when there is none. From 1 on, once, and before
 * anything is written. */
int cm_durable_file_read(struct cm_durable_file *file, uint64_t *from, struct cm_buf *slice, char *text);

/* Writes a batch of records: all of it, on disk on return, or nothing. next_number is kept in the file. What
 * fails may be tried again. *perhaps: it has failed so late that it may be in the file all the same. */
int cm_durable_file_write(struct cm_durable_file *file, struct cm_bytes batch, uint64_t next_number,
                          bool *perhaps, char *text);

#endif
