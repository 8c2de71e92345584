/* What a request's head must be for its body's end to be beyond doubt: two servers in a row that disagree
 * about it would take one request for two (request smuggling). Fed with the header fields one after the
 * other; knows no socket, allocates nothing. Any process. */
#ifndef CM_CLUSTER_HEAD_H
#define CM_CLUSTER_HEAD_H

#include <stdbool.h>

#include "base/buf.h"

/* Zeroed is a head without fields; the rest is private. */
struct cm_head {
    uint64_t content_length; /* when it has_length */
    bool has_length;
    bool is_chunked;
    bool has_host;
    int status; /* what the request is to be refused with, or 0 */
};

/* Notes a field. `old` says that the request is of HTTP/1.0, which knows no transfer encoding. */
void cm_head_add(struct cm_head *head, bool old, struct cm_bytes name, struct cm_bytes value);

/* The HTTP status that the request is to be refused with before its body is read, or 0. */
int cm_head_status(const struct cm_head *head);

/* Whether the bytes are a token of HTTP (a method, a field's name): not empty, no separators, no controls. */
bool cm_head_is_token(struct cm_bytes bytes);

/* Whether the bytes may be a field's value in an answer: not empty, without control characters. */
bool cm_head_is_value(struct cm_bytes bytes);

/* Whether the bytes are this word of lower-case letters, in any case. */
bool cm_head_is_word(struct cm_bytes bytes, const char *word);

#endif
