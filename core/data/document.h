/* Documents: a body is a whole encoded value, as core/bind/value writes it; no bytes at all are no document.
 * A ttl of a path is a mark directly before the value there: 0xd7 0x01 and the time of expiry in ms, a
 * big-endian u64 that is not 0. It may stand before the whole, an array's element or a map's value. From then
 * on what it governs is absent: the value and all that is in it. As marks stand inside, a change needs no
 * lengths of what is around it: it is a splice.
 *
 * Pure functions: now_ms is passed in, bodies are the caller's. No bytes are trusted: what is malformed in
 * the way of an operation is CM_E_BADVALUE, and what it only passes over is not looked into; of a body that
 * is well-formed each makes one that is. `out` gets appended to, may not be where the arguments are, and
 * holds what it held after a failure. `steps` are those behind the document's name (core/data/path). */
#ifndef CM_DATA_DOCUMENT_H
#define CM_DATA_DOCUMENT_H

#include "data/item.h"

/* Whether the bytes are exactly one value, without marks, nested at most to CM_ITEM_MAX_DEPTH: what to ask of
 * a process's bytes. 0, with the depth (a scalar's is 0), or CM_E_BADVALUE. Equal keys in a map are not
 * found. */
int cm_document_check(struct cm_bytes value, unsigned *depth);

/* The same of a body with marks, as from a file. */
int cm_document_check_body(struct cm_bytes body);

/* Finds the living value at the steps: a view into the body, without its own mark and with those inside. 0;
 * CM_E_NOTFOUND when it, or a table that it would be in, is absent or expired; CM_E_BADVALUE. */
int cm_document_find(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, struct cm_bytes *value);

/* The same in a stream whose next byte is the body's first and whose end is the body's: where it begins in
 * the body, and its length. Without `len` (NULL) the value is not passed over: the next it is. Or what the
 * stream says. */
int cm_document_seek(struct cm_stream *body, struct cm_bytes steps, uint64_t now_ms, uint64_t *at,
                     uint64_t *len);

/* When the living value there expires by its own mark; 0: never, or there is none. 0 or CM_E_BADVALUE. */
int cm_document_expiry(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, uint64_t *expires_ms);

/* Appends the body with `value` at the steps, to expire at expires_ms (0: never): in place of what is there
 * and of its mark. Where a table is missing on the way, expired or a scalar, there will be one; the mark
 * before a living scalar stays, as a path's ttl is not its value's. An array gets its next element, with any
 * other new key it becomes a map; without entries, a map that gets the key 1 becomes an array.
 *
 * 0; CM_E_TOOLARGE when it would nest deeper than CM_ITEM_MAX_DEPTH, or have more entries in a table than 32
 * bits count; CM_E_NOMEMORY; CM_E_BADVALUE, also when the value does not pass cm_document_check. */
int cm_document_set(struct cm_bytes body, struct cm_bytes steps, struct cm_bytes value, uint64_t expires_ms,
                    uint64_t now_ms, struct cm_buf *out);

/* Appends the body without what is at the steps; without steps, nothing. An array whose last element goes is
 * shorter, another becomes a map; a table that becomes empty stays. 0, CM_E_NOTFOUND when nothing living was
 * there, CM_E_NOMEMORY, CM_E_BADVALUE. */
int cm_document_delete(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, struct cm_buf *out);

/* --- core/data/purge --- */

/* Appends the body without all that is expired, as if deleted; nothing if it is the whole. Takes time in
 * proportion to the bytes. 0, CM_E_NOMEMORY, CM_E_BADVALUE. */
int cm_document_purge(struct cm_bytes body, uint64_t now_ms, struct cm_buf *out);

/* The least time of expiry of its marks; 0: it has none. 0 or CM_E_BADVALUE. */
int cm_document_earliest(struct cm_bytes body, uint64_t *expires_ms);

/* Moves all times of expiry, in place: another run has another clock. They stop at 1 and at UINT64_MAX. 0, or
 * CM_E_BADVALUE with some of them moved. */
int cm_document_shift(uint8_t *body, size_t len, int64_t by_ms);

#endif
