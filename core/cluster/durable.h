/* One durable file of documents: read when it is opened, then written behind its owner's back, in batches.
 *
 * A document is a number, a name and a value of bytes. The file has the last word on disk only; the owner has
 * the documents in memory, marks those that have changed, and is asked for their present values when a batch
 * is made. A batch is one transaction of LMDB, in the file wholly or not at all, and begins at most 100 ms
 * after the first mark, or at once when somebody waits for it. All input and output is done in jobs on
 * libuv's threads, one at a time for each file; everything here is the loop thread's, and so are the
 * callbacks.
 *
 * A file that cannot be written is tried again each second. What is marked stays marked meanwhile: no more
 * than there are documents, and removed ones that the file has still. */
#ifndef CM_CLUSTER_DURABLE_H
#define CM_CLUSTER_DURABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/buf.h"

enum {
    CM_DURABLE_MAX_NAME = 65531,        /* bytes */
    CM_DURABLE_TEXT_BYTES = 4096 + 256, /* room for any text below: a path and a sentence */
};

struct cm_durable;

/* Callbacks come from the loop, never from inside a call of the owner's. Each may mark, sync and close. Bytes
 * and texts are valid during the call. After cm_durable_close there is on_synced for those that wait, then
 * on_closed, and nothing else. */
struct cm_durable_events {
    /* While opening: a document of the file, in the order of their numbers; a turn brings 256 KiB or one
     * document. 0, or a code that the opening then fails with. */
    int (*on_load)(void *owner, uint64_t number, struct cm_bytes name, struct cm_bytes value);
    /* The opening has ended, with code 0, or with the reason and a line for people that names the file. After
     * a failure there is nothing to do but to close. */
    void (*on_open)(void *owner, int code, const char *text);
    /* Appends the document's present value. 0; CM_E_NOTFOUND: it is gone, and its record is removed. Another
     * code: it stays marked, and is tried again later; to who waits that is a failure to write. */
    int (*on_write)(void *owner, uint64_t number, struct cm_bytes name, struct cm_buf *out);
    /* The answer to a sync, once for each: code 0, or why not all is on disk (text names the file). */
    void (*on_synced)(void *owner, uint64_t ticket, int code, const char *text);
    /* All is over: neither the file nor the struct is there any more. */
    void (*on_closed)(void *owner);
};

/* Begins to open the file, which is created where there is none, in a folder that there must be; its name is
 * copied. on_open says what became of it. The caller closes it in any case. 0 or CM_E_NOMEMORY. */
int cm_durable_open(uv_loop_t *loop, const char *filename, const struct cm_durable_events *events,
                    void *owner, struct cm_durable **durable);

/* As it was given. */
const char *cm_durable_filename(const struct cm_durable *durable);

/* A number for a new document, larger than all that the file has ever had. From the first on_load on, or
 * from on_open on. */
uint64_t cm_durable_new_number(struct cm_durable *durable);

/* The document has changed, and is to be written. name: of 1 to CM_DURABLE_MAX_NAME bytes, the same in each
 * call for the number; copied. fresh: the first mark of a new number, of which the file knows nothing yet.
 * gone: it is there no more; one that the file does not have is forgotten at once. After a gone one its
 * number is not marked again. 0; CM_E_NOMEMORY: nothing has been noted; CM_E_BADVALUE: a number that was
 * never given, or a name of another length; CM_E_CLOSED after cm_durable_close. */
int cm_durable_mark(struct cm_durable *durable, uint64_t number, struct cm_bytes name, bool fresh, bool gone);

/* Answers with on_synced in a later turn: when everything that has been marked before is on disk, or as soon
 * as writing some of it has failed (it is tried at once, also where the next try was to be later; and it
 * stays marked). While opening it waits for that, and after a failed opening the answer is CM_E_CLOSED. 0,
 * CM_E_NOMEMORY, or CM_E_CLOSED after cm_durable_close. */
int cm_durable_sync(struct cm_durable *durable, uint64_t ticket);

/* Ends it, when what is being written has been: what is marked beyond that is not written. Syncs that still
 * wait are answered CM_E_CLOSED. on_closed comes in a later turn. remove_file: the file is removed, before
 * another cluster can open it. A second call adds nothing but remove_file, if that is still to come. */
void cm_durable_close(struct cm_durable *durable, bool remove_file);

/* 0, or a code that ends the reading. */
typedef int (*cm_durable_visit_fn)(void *data, uint64_t number, struct cm_bytes name, struct cm_bytes value);

/* Reads a file without a loop, for a command line tool, and changes nothing in it: each document in the order
 * of their numbers. 0; what visit returned; or a code, with a line for people that names the file in text,
 * which has text_bytes (at most CM_DURABLE_TEXT_BYTES are used). CM_E_BUSY: a cluster has it open. Blocks. */
int cm_durable_read(const char *filename, cm_durable_visit_fn visit, void *data, char *text,
                    size_t text_bytes);

#endif
