/* The master's side of storages: which are open, in which processes, and what these ask for. Their documents
 * lie in the shared memory (core/data/documents) and, written behind everybody's back, in a file for each
 * storage (core/cluster/durable).
 *
 * A storage is opened by the first process that wants it, and closed when the last one says that it does not
 * any more; a process that dies says nothing, and its storages stay open, until there are too many. What has
 * been acknowledged when the cluster ends is written then. */
#ifndef CM_CLUSTER_STORAGES_H
#define CM_CLUSTER_STORAGES_H

#include <uv.h>

#include "cluster/supervisor.h"
#include "data/documents.h"

struct cm_storages {
    struct cm_documents documents;
    struct cm_supervisor *supervisor;
    uv_loop_t *loop;
    const char *folder; /* of storages that name none */
    size_t max_value_bytes;
    struct cm_list open; /* struct storage: all that are not quite closed */
    uint32_t count, most;
    uint32_t last_id;
    uint32_t *waiting; /* requests of each seat that wait for the disk */
    bool stopping;
    bool lost; /* at the end, documents could not be written */
    struct cm_buf body;
    struct cm_buf reply;
};

/* 0 or CM_E_NOMEMORY. The folder is an absolute path, which stays the caller's. */
int cm_storages_init(struct cm_storages *storages, struct cm_store *store, struct cm_supervisor *supervisor,
                     const char *folder, size_t max_value_bytes);
void cm_storages_deinit(struct cm_storages *storages);

/* Works on the loop until stop, which writes what is not written, says what could not be, and closes all; no
 * process may be left. */
void cm_storages_start(struct cm_storages *storages, uv_loop_t *loop);
void cm_storages_stop(struct cm_storages *storages);

/* Whether the operation is one of these. */
bool cm_storages_does(uint8_t op);
/* Does what a process asks for; it is answered, now or later. 0; CM_E_BADFRAME or CM_E_NOMEMORY, which end
 * the sender's session. */
int cm_storages_do(struct cm_storages *storages, struct cm_process *process, const struct cm_frame *frame);

/* A process is gone. */
void cm_storages_on_gone(struct cm_storages *storages, uint32_t seat);

/* Something in the document under that key of the table has expired. */
void cm_storages_on_due(struct cm_storages *storages, struct cm_bytes key);

#endif
