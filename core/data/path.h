/* Where a value is in a storage: `user.tags[2].x`, read as steps. The first step is a document's name, a
 * string; the others lead into its value: a string or a float is a key, an integer a key or an array's
 * element. Steps are encoded one behind the other, as core/bind/value encodes such values, and so travel.
 * Any process may use these functions; they keep nothing. */
#ifndef CM_DATA_PATH_H
#define CM_DATA_PATH_H

#include "data/item.h"

enum {
    CM_PATH_MAX_STEPS = 128,       /* the name counted */
    CM_PATH_MAX_BYTES = 128 << 10, /* all steps, as encoded: the longest name, and as much behind it */
    CM_PATH_MAX_NAME_BYTES = 65531,
};

/* Why a text is no path. */
struct cm_path_fault {
    size_t at; /* the byte that it is about, counted from 1; one behind the last where more had to come */
    const char *why; /* static: "a name must come after a dot" */
};

/* Appends the steps of the text.
 *
 *     path = name { "." name | "[" index "]" | string-in-brackets }, or the same beginning with such a string
 *
 * A name is one or more of any bytes but . [ ] and "; digits are a name as well. An index is decimal, from 1
 * to 2^63 - 1, without leading zeros. A string in brackets, ["..."], has any bytes, of which " and \ come
 * behind a \; it may be empty, but not as the path's first step.
 *
 * 0; or, with `steps` holding what it held, CM_E_NOMEMORY, or CM_E_BADVALUE with the fault filled in. */
int cm_path_parse(struct cm_bytes text, struct cm_buf *steps, struct cm_path_fault *fault);

/* --- steps one by one: what makes them of an array of keys; the whole is then to be checked --- */

/* Each appends a step. 0; or, with the buffer as it was, CM_E_NOMEMORY, or CM_E_BADVALUE for what can be no
 * step at all: a string longer than all steps may be, NaN. */
int cm_path_add_string(struct cm_buf *steps, struct cm_bytes string);
int cm_path_add_integer(struct cm_buf *steps, int64_t integer);
/* A float that equals an integer becomes that integer. */
int cm_path_add_float(struct cm_buf *steps, double real);

/* --- reading steps; also those that came from another process --- */

/* Whether the bytes are a path's steps, by the rules of parsing; longer encodings than need be are accepted,
 * a float that equals an integer is not. 0 or CM_E_BADVALUE. */
int cm_path_check(struct cm_bytes steps);

/* Takes the next step off the front, which there must be. 0 or CM_E_BADVALUE. */
int cm_path_next(struct cm_bytes *steps, struct cm_item *step);

/* Takes the document's name off the front: a view of its bytes, without their encoding. 0 or CM_E_BADVALUE.
 */
int cm_path_split(struct cm_bytes *steps, struct cm_bytes *name);

#endif
