/* What a request's head must be for the request's end to be beyond doubt: two servers in a row that disagree
 * about it take one request for two (request smuggling). Fed with the line and the header fields in their
 * order, as a parser gives them; knows no socket, allocates nothing. Any process.
 *
 * libmicrohttpd before 0.9.77 parses in place: it puts a NUL for the end of each part and gives pointers into
 * the bytes that were sent. It takes a folded line for a part of the name before it, a line that begins with
 * a colon for the head's end, and what is behind a NUL for nothing. With `placed` such a head is refused,
 * because its parts are not one behind the other then, with the right number of bytes between them. */
#ifndef CM_CLUSTER_HEAD_H
#define CM_CLUSTER_HEAD_H

#include <stdbool.h>

#include "base/buf.h"

struct cm_head_line {
    const char *method;
    const char *path; /* where the target begins; the parser may have put NULs into it */
    const char *version;
    struct cm_bytes target; /* as it was sent */
};

struct cm_head {
    uint64_t content_length; /* 0 where there is none */
    bool placed;
    bool old; /* of HTTP/1.0, which knows no transfer encoding and needs no host */
    bool has_length;
    bool is_chunked;
    bool has_host;
    int status;           /* see cm_head_end */
    const uint8_t *start; /* of the line */
    const uint8_t *at;    /* where the next line should begin */
};

/* Begins a head with its line. The parts stay where they are until the end. */
void cm_head_begin(struct cm_head *head, const struct cm_head_line *line, bool placed);

/* Notes a field. */
void cm_head_add(struct cm_head *head, struct cm_bytes name, struct cm_bytes value);

/* The HTTP status that the request is to be refused with before its body is read, or 0. `len_bytes`: what the
 * parser has taken for the head. */
int cm_head_end(struct cm_head *head, size_t len_bytes);

/* Whether the bytes are a token of HTTP (a method, a field's name): not empty, no separators, no controls. */
bool cm_head_is_token(struct cm_bytes bytes);

/* Whether the bytes may be a field's value in an answer: not empty, without control characters. */
bool cm_head_is_value(struct cm_bytes bytes);

/* Whether the bytes are this word of lower-case letters, in any case. */
bool cm_head_is_word(struct cm_bytes bytes, const char *word);

#endif
