#include "cluster/cgroup.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096 };

/* What the file says: a number, or "max". UINT64_MAX where it cannot be read. */
static uint64_t read_limit(const char *path) {
    FILE *file = fopen(path, "re");
    char line[32];
    bool read = file && fgets(line, sizeof line, file);
    if (file)
        fclose(file);
    if (!read || line[0] < '0' || line[0] > '9')
        return UINT64_MAX;
    return strtoull(line, NULL, 10);
}

/* The smallest limit from the group up to the mount's root. Inside a container the path may be the host's, of
 * which only the root is to be seen. */
static uint64_t least_limit(const char *mount, char *group, const char *name) {
    uint64_t least = UINT64_MAX;
    for (;;) {
        char path[PATH_BYTES];
        if (snprintf(path, sizeof path, "%s%s/%s", mount, group, name) < (int)sizeof path) {
            uint64_t limit = read_limit(path);
            least = limit < least ? limit : least;
        }
        char *end = strrchr(group, '/');
        if (!end)
            return least;
        *end = 0;
    }
}

/* Whether the comma-separated controllers have memory among them. */
static bool has_memory(const char *controllers) {
    char copy[256];
    snprintf(copy, sizeof copy, ",%s,", controllers);
    return strstr(copy, ",memory,") != NULL;
}

uint64_t cm_cgroup_memory_bytes(const char *mount, const char *membership) {
    FILE *file = fopen(membership ? membership : "/proc/self/cgroup", "re");
    if (!file)
        return UINT64_MAX;
    if (!mount)
        mount = "/sys/fs/cgroup";
    uint64_t least = UINT64_MAX;
    char line[PATH_BYTES];
    while (fgets(line, sizeof line, file)) {
        /* hierarchy:controllers:path; version 2 is hierarchy 0, without controllers. */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        controllers++;
        uint64_t limit = UINT64_MAX;
        char base[PATH_BYTES];
        if (has_memory(controllers)) {
            snprintf(base, sizeof base, "%s/memory", mount);
            limit = least_limit(base, path, "memory.limit_in_bytes");
        } else if (strncmp(line, "0:", 2) == 0) {
            limit = least_limit(mount, path, "memory.max");
        }
        least = limit < least ? limit : least;
    }
    fclose(file);
    return least;
}
