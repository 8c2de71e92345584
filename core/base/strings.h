/* A growing list of C strings that owns its copies; items is always NULL-terminated, as exec wants it. Zeroed
 * is not valid: init first. */
#ifndef CM_BASE_STRINGS_H
#define CM_BASE_STRINGS_H

#include "base/buf.h"

struct cm_strings {
    char **items;
    size_t count;
};

/* 0 or CM_E_NOMEMORY, after which deinit is allowed. */
int cm_strings_init(struct cm_strings *strings);
void cm_strings_deinit(struct cm_strings *strings);

/* Appends a copy. 0; CM_E_BADVALUE for bytes with a NUL inside; CM_E_NOMEMORY. The list is unchanged then. */
int cm_strings_append(struct cm_strings *strings, struct cm_bytes bytes);

/* Appends copies of all of `more`. 0, or CM_E_NOMEMORY with some of them appended. */
int cm_strings_extend(struct cm_strings *strings, char *const *more, size_t count);

#endif
