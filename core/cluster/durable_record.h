/* Documents as bytes: what a slice that was read, and a batch that is to be written, consist of. One after
 * the other: u64 number, u32 length of the record, the record: u32 length of the name, the name, the value.
 * Without a record it is to be removed. */
#ifndef CM_CLUSTER_DURABLE_RECORD_H
#define CM_CLUSTER_DURABLE_RECORD_H

#include <stdbool.h>

#include "base/buf.h"
#include "wire/message.h"

/* Sets name and value, views into the record. False for what is no record. */
bool cm_durable_record_parse(struct cm_bytes record, struct cm_bytes *name, struct cm_bytes *value);

/* Takes the next document from a slice. False: that was the last. */
bool cm_durable_record_next(struct cm_reader *slice, uint64_t *number, struct cm_bytes *name,
                            struct cm_bytes *value);

/* Appends a document's begin; the caller appends its value and then ends what begins there. 0, CM_E_NOMEMORY,
 * or CM_E_TOOLARGE for what no record can hold; the caller then cuts the batch to what it was. */
int cm_durable_record_begin(struct cm_buf *batch, uint64_t number, struct cm_bytes name);
int cm_durable_record_end(struct cm_buf *batch, size_t begun);

/* Appends that it is to be removed. 0 or CM_E_NOMEMORY. */
int cm_durable_record_remove(struct cm_buf *batch, uint64_t number);

#endif
