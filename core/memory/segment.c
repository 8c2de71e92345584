#include "memory/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"

#define MAGIC UINT64_C(0x31306d656d746c63) /* "cltmem01" */

enum {
    CHUNKS_PER_SEAT =
        64, /* at least, so that what open chunks leave unused is at most this part of the cap */
    LOCK_BYTES_PART = 1024, /* of the whole; further locks are kept by the master */
    LOCK_BYTES_MOST = 4 << 20,
    WATCH_BYTES_PART = 4096,
    WATCH_BYTES_MOST = 4 << 20,
    GROUP_BYTES_PART = 20, /* with chains of one entry that is enough for entries of 183 bytes each */
    LEAST_GROUPS = 64,
    LEAST_CHUNKS = 64,
};

static uint64_t pages(uint64_t bytes) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

/* Whole pages of it, but one at least: the smallest memory has to leave 85 % for entries. */
static uint64_t recency_bytes_for(uint64_t bytes) {
    uint64_t page = pages(1), whole = bytes / CM_RECENCY_PART / page * page;
    return whole ? whole : page;
}

/* How many buckets of that size fit, `most` being a power of 2. */
static uint32_t buckets_in(uint64_t bytes, uint64_t bucket_bytes, uint32_t most) {
    uint32_t buckets = most;
    while (buckets * bucket_bytes > pages(bytes))
        buckets /= 2;
    return buckets;
}

/* Pages that a machine does not have are promised all the same; who uses them is killed. */
static bool can_be_backed(uint64_t bytes) {
    return bytes <= (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
}

static uint32_t chunk_bytes_for(uint64_t bytes, uint32_t seats) {
    uint32_t size = CM_CHUNK_MOST_BYTES;
    while (size > CM_CHUNK_LEAST_BYTES && bytes / size < (uint64_t)CHUNKS_PER_SEAT * seats)
        size /= 2;
    return size;
}

/* 0, or CM_E_NOMEMORY when the bookkeeping alone would not fit. */
static int lay_out(struct cm_layout *layout, uint64_t bytes, uint32_t seats) {
    uint32_t chunk_bytes = chunk_bytes_for(bytes, seats);
    uint64_t chunks_at_most = bytes / chunk_bytes;
    if (chunks_at_most > UINT32_MAX || seats == 0 || seats > CM_SEATS_MOST)
        return CM_E_NOMEMORY;
    *layout = (struct cm_layout){.total_bytes = bytes, .seats = seats, .chunk_bytes = chunk_bytes};
    layout->seats_at = pages(sizeof(struct cm_header));
    uint64_t hazard_bytes = (chunks_at_most + 511) / 512 * CM_CACHE_LINE;
    layout->seat_bytes = offsetof(struct cm_seat, hazards) + hazard_bytes;
    layout->chunk_words_at = layout->seats_at + pages(seats * layout->seat_bytes);
    layout->locks_at = layout->chunk_words_at + pages(chunks_at_most * sizeof(struct cm_chunk));
    layout->lock_buckets =
        buckets_in(bytes / LOCK_BYTES_PART, CM_LOCK_BUCKET_BYTES, LOCK_BYTES_MOST / CM_LOCK_BUCKET_BYTES);
    layout->watches_at = layout->locks_at + pages((uint64_t)layout->lock_buckets * CM_LOCK_BUCKET_BYTES);
    layout->watch_buckets =
        buckets_in(bytes / WATCH_BYTES_PART, CM_CACHE_LINE, WATCH_BYTES_MOST / CM_CACHE_LINE);
    layout->recency_at = layout->watches_at + pages((uint64_t)layout->watch_buckets * CM_CACHE_LINE);
    layout->groups_at = layout->recency_at + recency_bytes_for(bytes);
    uint64_t group_bytes = pages(bytes / GROUP_BYTES_PART);
    layout->chunks_at = layout->groups_at + group_bytes;
    uint64_t groups = group_bytes / sizeof(struct cm_group);
    /* A seat's section has 32 bits for them and the lock buckets behind them. */
    layout->groups_most = groups > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)groups;
    if (layout->chunks_at > bytes || (bytes - layout->chunks_at) / chunk_bytes < LEAST_CHUNKS ||
        groups < LEAST_GROUPS)
        return CM_E_NOMEMORY;
    layout->chunks = (uint32_t)((bytes - layout->chunks_at) / chunk_bytes);
    layout->hash_seed = cm_hash_seed();
    return 0;
}

static void point(struct cm_segment *segment) {
    const struct cm_layout *layout = &segment->layout;
    segment->header = (struct cm_header *)(void *)segment->base;
    segment->groups = (struct cm_group *)(void *)(segment->base + layout->groups_at);
    segment->chunks = (struct cm_chunk *)(void *)(segment->base + layout->chunk_words_at);
    segment->chunk_shift = (uint32_t)__builtin_ctz(layout->chunk_bytes);
    segment->chunks_bytes = (uint64_t)layout->chunks << segment->chunk_shift;
    segment->record_most_bytes = layout->chunk_bytes / CM_FRAGMENTS_IN_CHUNK;
}

static int map(struct cm_segment *segment, int fd, uint64_t bytes) {
    if (bytes > SIZE_MAX)
        return -ENOMEM;
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    segment->base = base;
    segment->fd = fd;
    return 0;
}

static int fill(struct cm_segment *segment, const struct cm_layout *layout) {
    int err = ftruncate(segment->fd, (off_t)layout->total_bytes) < 0 ? -errno : 0;
    if (!err)
        err = map(segment, segment->fd, layout->total_bytes);
    if (err)
        return err;
    segment->layout = *layout;
    point(segment);
    /* What is touched without a look at whether it is there; groups and chunks come later. */
    err = cm_segment_back(segment, 0, layout->recency_at);
    uint64_t group_bytes = CM_GROUPS_BACKED * sizeof(struct cm_group);
    uint64_t room = layout->chunks_at - layout->groups_at;
    if (!err)
        err = cm_segment_back(segment, layout->groups_at, group_bytes < room ? group_bytes : room);
    if (err)
        return err;
    segment->header->magic = MAGIC;
    segment->header->layout = *layout;
    atomic_store(&segment->header->groups, LEAST_GROUPS);
    atomic_store(&segment->header->earliest_lease_ms, CM_NEVER);
    atomic_store(&segment->header->free_chunks, (int32_t)layout->chunks);
    return 0;
}

int cm_segment_create(uint64_t bytes, uint32_t seats, struct cm_segment *segment) {
    struct cm_layout layout;
    *segment = (struct cm_segment){.fd = -1};
    int err = bytes > INT64_MAX ? CM_E_NOMEMORY : lay_out(&layout, bytes, seats);
    if (err)
        return err;
    if (!can_be_backed(layout.locks_at))
        return CM_E_NOMEMORY;
    segment->fd = memfd_create("clustermem", MFD_CLOEXEC);
    if (segment->fd < 0)
        return -errno;
    err = fill(segment, &layout);
    if (err)
        cm_segment_close(segment);
    return err;
}

/* Whether the parts lie behind each other within the whole, and are as large as the numbers say. */
static bool whole(const struct cm_layout *layout, uint64_t bytes) {
    struct cm_layout expected;
    if (lay_out(&expected, bytes, layout->seats))
        return false;
    expected.hash_seed = layout->hash_seed;
    return memcmp(&expected, layout, sizeof expected) == 0;
}

int cm_segment_attach(int fd, bool read_only, struct cm_segment *segment) {
    *segment = (struct cm_segment){.fd = -1};
    struct stat file;
    if (fstat(fd, &file) < 0)
        return -errno;
    if (file.st_size < (off_t)sizeof(struct cm_header))
        return CM_E_BADFRAME;
    int err = map(segment, fd, (uint64_t)file.st_size);
    if (err)
        return err;
    const struct cm_header *header = (const struct cm_header *)(const void *)segment->base;
    segment->layout = header->layout;
    if (header->magic != MAGIC || !whole(&segment->layout, (uint64_t)file.st_size)) {
        munmap(segment->base, (size_t)file.st_size);
        *segment = (struct cm_segment){.fd = -1};
        return CM_E_BADFRAME;
    }
    point(segment);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    size_t len = (size_t)(segment->layout.total_bytes - segment->layout.groups_at);
    if (read_only && mprotect(segment->groups, len, PROT_READ) < 0) {
        err = -errno;
        munmap(segment->base, (size_t)file.st_size);
        *segment = (struct cm_segment){.fd = -1};
    }
    return err;
}

void cm_segment_close(struct cm_segment *segment) {
    if (segment->base)
        munmap(segment->base, (size_t)segment->layout.total_bytes);
    if (segment->fd >= 0)
        close(segment->fd);
    *segment = (struct cm_segment){.fd = -1};
}

int cm_segment_back(const struct cm_segment *segment, uint64_t at, uint64_t len) {
    int err;
    do
        err = fallocate(segment->fd, 0, (off_t)at, (off_t)len) < 0 ? errno : 0;
    while (err == EINTR);
    return err ? CM_E_NOMEMORY : 0;
}

int cm_segment_fill(const struct cm_segment *segment, uint64_t at, uint64_t len) {
    static const uint8_t zeroes[1 << 16];
    while (len) {
        size_t part = len < sizeof zeroes ? (size_t)len : sizeof zeroes;
        ssize_t done = pwrite(segment->fd, zeroes, part, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return cm_segment_back(segment, at, len); /* no file may be written so far: RLIMIT_FSIZE */
        at += (uint64_t)done;
        len -= (uint64_t)done;
    }
    return 0;
}

void cm_segment_punch(const struct cm_segment *segment, uint64_t at, uint64_t len) {
    fallocate(segment->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len);
}
