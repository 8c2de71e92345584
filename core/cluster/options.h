/* What the command line says about a cluster; filled by main, read by the master. */
#ifndef CM_CLUSTER_OPTIONS_H
#define CM_CLUSTER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "wire/control.h"

enum cm_restart { CM_RESTART_ON_FAILURE, CM_RESTART_ALWAYS, CM_RESTART_NEVER };

#define CM_LRU_MAX_UNSAID UINT64_MAX
enum { CM_LRU_MAX_DEFAULT = 10000, CM_LRU_MAX_AGE_DEFAULT_MS = 300000 };

struct cm_options {
    unsigned workers;
    struct cm_script worker; /* without args: none given, allowed with 0 workers */
    struct cm_script master; /* process 0's; without args: there is no process 0 */
    bool test;               /* process 0 runs busted, and its exit code is the cluster's */
    uint64_t memory_bytes;
    uint32_t max_value_bytes;
    uint64_t lru_max; /* entries; 0: no bound; CM_LRU_MAX_UNSAID: the default, or what there is room for */
    uint32_t lru_max_age_ms;
    enum cm_restart restart;
    uint32_t grace_ms;
    /* In which a worker must say that it is ready; 0: it need not. */
    uint32_t wait_ready_ms;
    uint32_t watchdog_ms;         /* a process that does not answer for so long is ended; 0: none is */
    uint64_t worker_memory_bytes; /* of each Lua heap; 0: any */
    char *storage_dir;            /* an absolute path */
    enum cm_log_level log_level;
    /* Looks whether the file can be run, without running any of it: 0, or a negative code and one line for
     * people. Given from outside because this layer knows no Lua. */
    int (*check_script)(const char *path, char *line, size_t line_bytes);
};

#endif
