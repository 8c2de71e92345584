/* What a document is in its file: the encoded value, whose times of expiry are of a clock that ends with the
 * machine's being up, and how far the time of day was ahead of that clock. */
#ifndef CM_CLUSTER_STORED_H
#define CM_CLUSTER_STORED_H

#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"

/* Appends it, the two clocks being at those times. 0 or CM_E_NOMEMORY. */
int cm_stored_write(struct cm_bytes body, uint64_t now_ms, uint64_t wall_ms, struct cm_buf *out);

/* Gives the value, a view, and what its own clock would say at that time of day. 0, or CM_E_BADVALUE for
 * bytes that are too few; whether the value is one is not looked at. */
int cm_stored_read(struct cm_bytes bytes, uint64_t wall_ms, uint64_t *now_ms, struct cm_bytes *body);

/* Writes a whole file as JSON, one document a line, for people and other programs; no cluster is needed, and
 * none may have it open. 0, or a negative code with one line for people in `text`, whose first bytes are
 * used.
 */
int cm_stored_export(const char *filename, FILE *out, char *text, size_t text_bytes);

#endif
