/* The Lua modules that travel inside the binary; the table is made by the build from lua/. */
#ifndef CM_BIND_MODULES_H
#define CM_BIND_MODULES_H

#include <stddef.h>

struct cm_module {
    const char *name;            /* "clustermem.task" */
    const char *chunk;           /* "=clustermem/task.lua": no file of a user has such a name */
    const unsigned char *source; /* its text */
    size_t source_len;
};

extern const struct cm_module cm_modules[];
extern const size_t cm_module_count;

#endif
