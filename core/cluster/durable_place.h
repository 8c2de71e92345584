/* Where a durable file is: the descriptor that holds the lock on it, and a new file that becomes it in one
 * step. The lock is flock's, on the file itself, so it ends with the process, however that ends. Blocks; one
 * thread at a time. */
#ifndef CM_CLUSTER_DURABLE_PLACE_H
#define CM_CLUSTER_DURABLE_PLACE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct cm_durable_place {
    int fd;              /* has the lock */
    int draft_fd;        /* the new file, until it is adopted; else -1 */
    bool made;           /* the file was not there, and is empty yet */
    char path[PATH_MAX]; /* without links, from the root on */
};

/* Writes the text, of at most CM_DURABLE_TEXT_BYTES, and returns the code. */
int cm_durable_refuse(char *text, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Opens and locks the file: writable, alone, and made with 0 bytes where there is none; else to read, beside
 * other readers. The bytes are not looked at. 0; CM_E_BUSY: it is locked; CM_E_BADVALUE: it is no file; or an
 * errno. There is something to close only after 0. */
int cm_durable_place_open(struct cm_durable_place *place, const char *filename, bool writable, char *text);

/* Unlocks it, and removes what was begun: a draft, and the empty file that open made. */
void cm_durable_place_close(struct cm_durable_place *place);

/* The draft if there is one, else the file. */
int cm_durable_place_fd(const struct cm_durable_place *place);

/* 0 or an errno. */
int cm_durable_place_size(const struct cm_durable_place *place, uint64_t *bytes, char *text);

/* A draft: an empty, locked file beside the place, with ".new" to its name; one that a crash has left there
 * is replaced. 0 or an errno. */
int cm_durable_place_begin(struct cm_durable_place *place, char *text);

/* The draft, which is whole and on disk, becomes the file. 0 or an errno. */
int cm_durable_place_adopt(struct cm_durable_place *place, char *text);

/* Removes the file's name, if that is still the file's. 0 or an errno. */
int cm_durable_place_remove(struct cm_durable_place *place, char *text);

#endif
