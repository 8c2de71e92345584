/* The bare limit of "grow" in scripts/bench/memory: what the machine lets nobody have. A process that does
 * nothing but write records of the same length, one behind the other, into shared memory whose pages are
 * there already, and looks at the clock until the time of an operation is over. What is slower than that was
 * taken by the first touch of a page, the system's timer, other processes, or the machine's own host. Usage:
 * memory_bare OPERATION_NS. Prints the line that memory_harness.lua prints. */
#include "crew.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* As in memory_harness.lua; and what an entry takes with us. */
enum { GROWN_KEYS = 2000000, ENTRY_BYTES = 160, MIB = 1 << 20 };

/* Pages that are written but not mapped, as what another process has written. */
static char *written_memory(size_t len) {
    static const char zeroes[MIB];
    int fd = memfd_create("memory_bare", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)len))
        fail("memory", NULL);
    for (size_t at = 0; at < len; at += MIB) {
        if (pwrite(fd, zeroes, MIB, (off_t)at) != MIB)
            fail("memory", "cannot be written");
    }
    void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail("memory", NULL);
    close(fd);
    return memory;
}

static uint32_t timed(char *record, uint64_t operation_ns) {
    char entry[ENTRY_BYTES];
    uint64_t start_ns = now_ns(), end_ns;
    memset(entry, 'x', sizeof entry);
    memcpy(record, entry, sizeof entry);
    do
        end_ns = now_ns();
    while (end_ns - start_ns < operation_ns);
    uint64_t took_ns = end_ns - start_ns;
    return took_ns < UINT32_MAX ? (uint32_t)took_ns : UINT32_MAX;
}

static int compare(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    static uint32_t took[GROWN_KEYS];
    unsigned long operation_ns = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    if (operation_ns == 0) {
        fprintf(stderr, "usage: memory_bare OPERATION_NS\n");
        return 2;
    }
    char *memory = written_memory(((size_t)GROWN_KEYS * ENTRY_BYTES / MIB + 1) * MIB);
    memset(took, 1, sizeof took);
    for (size_t i = 0; i < GROWN_KEYS; i++)
        took[i] = timed(memory + i * ENTRY_BYTES, operation_ns);
    qsort(took, GROWN_KEYS, sizeof took[0], compare);
    static const struct {
        const char *name;
        size_t rank;
    } figures[] = {{"p50", GROWN_KEYS / 2},
                   {"p99", GROWN_KEYS - GROWN_KEYS / 100},
                   {"p999", GROWN_KEYS - GROWN_KEYS / 1000},
                   {"p9999", GROWN_KEYS - GROWN_KEYS / 10000},
                   {"max", GROWN_KEYS}};
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++)
        printf("%s%s_us=%.2f", i ? " " : "", figures[i].name, took[figures[i].rank - 1] / 1e3);
    printf("\n");
    return 0;
}
