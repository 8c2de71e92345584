/* The memory limit that the system has put around this process. Beyond it the kernel kills instead of saying
 * no, so what is to be had must be known before. */
#ifndef CM_CLUSTER_CGROUP_H
#define CM_CLUSTER_CGROUP_H

#include <stdint.h>

/* The smallest limit of the control groups that the process is in, in bytes; UINT64_MAX where there is none,
 * or none can be read. Both versions of cgroups, below the given mount point (NULL: /sys/fs/cgroup) and as
 * the given file says (NULL: /proc/self/cgroup). */
uint64_t cm_cgroup_memory_bytes(const char *mount, const char *membership);

#endif
