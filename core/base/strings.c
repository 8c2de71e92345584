#include "base/strings.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

int cm_strings_init(struct cm_strings *strings) {
    *strings = (struct cm_strings){calloc(1, sizeof(char *)), 0};
    return strings->items ? 0 : CM_E_NOMEMORY;
}

void cm_strings_deinit(struct cm_strings *strings) {
    for (size_t i = 0; i < strings->count; i++)
        free(strings->items[i]);
    free(strings->items);
    *strings = (struct cm_strings){0};
}

int cm_strings_append(struct cm_strings *strings, struct cm_bytes bytes) {
    if (bytes.len && memchr(bytes.data, 0, bytes.len))
        return CM_E_BADVALUE;
    char *copy = malloc(bytes.len + 1);
    char **items = strings->items;
    /* There is room for a power of two of items, the last NULL included: it is full when they are as many. */
    size_t used = strings->count + 1;
    if (copy && (used & (used - 1)) == 0)
        items = realloc(items, 2 * used * sizeof *items);
    if (!copy || !items) {
        free(copy);
        return CM_E_NOMEMORY;
    }
    if (bytes.len)
        memcpy(copy, bytes.data, bytes.len);
    copy[bytes.len] = 0;
    items[strings->count++] = copy;
    items[strings->count] = NULL;
    strings->items = items;
    return 0;
}

int cm_strings_extend(struct cm_strings *strings, char *const *more, size_t count) {
    int err = 0;
    for (size_t i = 0; !err && i < count; i++)
        err = cm_strings_append(strings, cm_bytes_of(more[i]));
    return err;
}
