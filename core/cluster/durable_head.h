/* What must be known of a file before LMDB may map it. LMDB believes what stands in the first two pages, and
 * reads a map beyond the end of a file by SIGBUS; so both are looked at here first. */
#ifndef CM_CLUSTER_DURABLE_HEAD_H
#define CM_CLUSTER_DURABLE_HEAD_H

#include <stdint.h>

/* Checks that the file, of so many bytes (> 0), has two heads of LMDB's format that make sense, and reaches
 * as far as its last page. Changes nothing; blocks. 0; CM_E_BADVALUE: it is none, or it is damaged; or an
 * errno; with a line in text that names it by path. */
int cm_durable_head_check(int fd, const char *path, uint64_t file_bytes, char *text);

#endif
