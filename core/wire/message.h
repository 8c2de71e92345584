/* What is inside a frame: little-endian integers and length-prefixed bytes. Writing and reading remember
 * their first failure, so that a caller checks once, at the end; after a failure a reader yields zeros and
 * empty bytes. Nothing read is trusted further than the payload reaches. */
#ifndef CM_WIRE_MESSAGE_H
#define CM_WIRE_MESSAGE_H

#include "base/buf.h"

struct cm_writer {
    struct cm_buf *buf; /* the caller's; grows */
    int error;          /* 0, CM_E_NOMEMORY, or CM_E_TOOLARGE for bytes whose length does not fit a u32 */
};

void cm_writer_init(struct cm_writer *writer, struct cm_buf *buf);
void cm_write_u8(struct cm_writer *writer, uint8_t value);
void cm_write_u32(struct cm_writer *writer, uint32_t value);
void cm_write_u64(struct cm_writer *writer, uint64_t value);
/* A u32 length and the bytes. */
void cm_write_bytes(struct cm_writer *writer, struct cm_bytes bytes);

/* Writes a u32 over one written before, at that place in the buffer. */
void cm_rewrite_u32(struct cm_writer *writer, size_t at, uint32_t value);

struct cm_reader {
    const uint8_t *next;
    const uint8_t *end;
    int error; /* 0, or CM_E_BADFRAME once something did not fit */
};

void cm_reader_init(struct cm_reader *reader, struct cm_bytes bytes);
uint8_t cm_read_u8(struct cm_reader *reader);
uint32_t cm_read_u32(struct cm_reader *reader);
uint64_t cm_read_u64(struct cm_reader *reader);
/* A view into the payload, valid as long as that is. */
struct cm_bytes cm_read_bytes(struct cm_reader *reader);
/* A count of items that follow, of which each takes at least item_bytes (>= 1): a count that the rest of the
 * payload cannot hold is a failure, so it is safe to allocate by. */
uint32_t cm_read_count(struct cm_reader *reader, size_t item_bytes);
/* The bytes not read yet. */
size_t cm_reader_left(const struct cm_reader *reader);
/* 0 if all was read, nothing is left over and nothing failed; else CM_E_BADFRAME. */
int cm_reader_end(const struct cm_reader *reader);

/* An error as a payload: its code, and a text for people (NULL: the code's own). */
void cm_write_error(struct cm_writer *writer, int code, const char *text);
/* Fills code (negative, or CM_E_REMOTE for a code that is none) and text, a view. 0 or CM_E_BADFRAME. */
int cm_read_error(struct cm_bytes payload, int *code, struct cm_bytes *text);

#endif
