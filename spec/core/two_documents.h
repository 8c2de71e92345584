/* A memory with documents in it, as the master has them and as a process that reads. */
#ifndef CM_SPEC_CORE_TWO_DOCUMENTS_H
#define CM_SPEC_CORE_TWO_DOCUMENTS_H

#include "data/documents.h"
#include "spec/core/stores.h"

static struct stores stores;
static struct cm_documents master, reader;

static int open_documents(uint64_t total_bytes) {
    int err = stores_open(&stores, total_bytes, 4, 2);
    if (err)
        return err;
    cm_documents_init(&master, &stores.seats[0].participant, stores_make_room, &stores);
    cm_documents_init(&reader, &stores.seats[1].participant, NULL, NULL);
    master.store.clock_ms = reader.store.clock_ms = stores_clock;
    return 0;
}

static void close_documents(void) {
    cm_documents_deinit(&master);
    cm_documents_deinit(&reader);
    stores_close(&stores);
}

#endif
