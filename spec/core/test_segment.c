/* The segment: its layout for all sizes, what may be attached, and where its pages come and go. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "spec/core/segments.h"

static const uint64_t mib = UINT64_C(1) << 20;

static size_t descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    size_t count = 0;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

static uint64_t resident(const struct cm_segment *segment) {
    struct stat file;
    assert_int_equal(fstat(segment->fd, &file), 0);
    return (uint64_t)file.st_blocks * 512;
}

static void check_parts(const struct cm_segment *segment, uint64_t bytes, uint32_t seats) {
    const struct cm_layout *layout = &segment->layout;
    assert_int_equal(layout->total_bytes, bytes);
    assert_int_equal(layout->seats, seats);
    const uint64_t starts[] = {layout->seats_at,   layout->chunk_words_at, layout->locks_at,
                               layout->recency_at, layout->groups_at,      layout->chunks_at};
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
        assert_int_equal(starts[i] % 4096, 0);
    assert_true(layout->seats_at >= sizeof(struct cm_header));
    assert_true(layout->seat_bytes % CM_CACHE_LINE == 0);
    assert_true(layout->seat_bytes >=
                offsetof(struct cm_seat, hazards) + (layout->chunks + UINT64_C(63)) / 64 * 8);
    assert_true(layout->chunk_words_at >= layout->seats_at + (uint64_t)seats * layout->seat_bytes);
    assert_true(layout->locks_at >= layout->chunk_words_at + layout->chunks * sizeof(struct cm_chunk));
    assert_true(layout->recency_at > layout->locks_at);
    assert_true(layout->groups_at > layout->recency_at);
    assert_true(layout->chunks_at >= layout->groups_at + layout->groups_most * sizeof(struct cm_group));
    assert_true(layout->chunks_at + (uint64_t)layout->chunks * layout->chunk_bytes <= bytes);
    assert_true(bytes - layout->chunks_at - (uint64_t)layout->chunks * layout->chunk_bytes <
                layout->chunk_bytes);
    assert_int_equal(layout->chunk_bytes & (layout->chunk_bytes - 1), 0);
    assert_in_range(layout->chunk_bytes, CM_CHUNK_LEAST_BYTES, CM_CHUNK_MOST_BYTES);
    /* What open chunks leave unused is a small part of the whole. */
    assert_true(layout->chunk_bytes == CM_CHUNK_LEAST_BYTES || layout->chunk_bytes <= bytes / 64 / seats);
    assert_int_equal(1U << segment->chunk_shift, layout->chunk_bytes);
    assert_true(segment->record_most_bytes < layout->chunk_bytes);
    assert_true(layout->groups_most >= atomic_load(&segment->header->groups));
    assert_int_equal(atomic_load(&segment->header->free_chunks), layout->chunks);
}

static void the_parts_never_overlap(void **state) {
    (void)state;
    const struct {
        uint64_t bytes;
        uint32_t seats;
    } special[] = {{CM_SEGMENT_LEAST_BYTES, 2}, {CM_SEGMENT_LEAST_BYTES, CM_SEATS_MOST},
                   {CM_SEGMENT_LEAST_BYTES, 8}, {64 * mib, 2},
                   {64 * mib - 1, 9},           {64 * mib + 1, 9},
                   {1024 * mib, CM_SEATS_MOST}, {65536 * mib, 3}};
    uint64_t random = 1;
    for (size_t i = 0; i < 400; i++) {
        bool is_special = i < sizeof special / sizeof special[0];
        uint64_t bytes = is_special ? special[i].bytes
                                    : 2 * mib + random_next(&random) % (mib << random_below(&random, 14));
        uint32_t seats = is_special ? special[i].seats : 2 + (uint32_t)random_below(&random, 20);
        struct cm_segment segment;
        assert_int_equal(cm_segment_create(bytes, seats, &segment), 0);
        check_parts(&segment, bytes, seats);
        cm_segment_close(&segment);
    }
}

/* Below the least size too: what is not refused is whole. */
static void a_small_segment_is_whole_or_refused(void **state) {
    (void)state;
    size_t before = descriptors();
    bool refused = false, made = false;
    for (uint64_t bytes = 0; bytes < CM_SEGMENT_LEAST_BYTES * 2; bytes += 4001) {
        struct cm_segment segment;
        uint32_t seats = 1 + (uint32_t)(bytes % 5);
        int err = cm_segment_create(bytes, seats, &segment);
        if (err) {
            assert_int_equal(err, CM_E_NOMEMORY);
            assert_null(segment.base);
            assert_int_equal(segment.fd, -1);
            refused = true;
            continue;
        }
        made = true;
        check_parts(&segment, bytes, seats);
        cm_segment_close(&segment);
    }
    assert_true(refused && made);
    assert_int_equal(descriptors(), before);
}

static void impossible_sizes_and_seats_are_refused(void **state) {
    (void)state;
    size_t before = descriptors();
    struct cm_segment segment;
    const uint64_t sizes[] = {0, 1, 4096, UINT64_MAX, INT64_MAX, UINT64_C(1) << 63, UINT64_C(1) << 52};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_int_equal(cm_segment_create(sizes[i], 2, &segment), CM_E_NOMEMORY);
    const uint32_t seats[] = {0, CM_SEATS_MOST + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof seats / sizeof seats[0]; i++)
        assert_int_equal(cm_segment_create(64 * mib, seats[i], &segment), CM_E_NOMEMORY);
    /* The numbers fit, and no address space does. */
    assert_true(cm_segment_create(UINT64_C(1) << 50, 2, &segment) < 0);
    assert_null(segment.base);
    assert_int_equal(segment.fd, -1);
    cm_segment_close(&segment);
    assert_int_equal(descriptors(), before);
}

/* It would be promised, and whoever comes to use it would be killed. */
static void bookkeeping_that_the_machine_cannot_hold_is_refused(void **state) {
    (void)state;
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    struct cm_segment segment;
    /* Half a kibibyte of hazards for each chunk of 1 MiB: as much as the machine has. */
    assert_int_equal(cm_segment_create(machine * 2048, CM_SEATS_MOST, &segment), CM_E_NOMEMORY);
    assert_null(segment.base);
}

static void what_one_mapping_stores_the_other_reads(void **state) {
    (void)state;
    struct cm_segment segment, other;
    open_segment(&segment, mib, 3);
    assert_int_equal(cm_segment_attach(dup(segment.fd), false, &other), 0);
    assert_ptr_not_equal(segment.base, other.base);
    assert_memory_equal(&segment.layout, &other.layout, sizeof other.layout);
    assert_int_equal(segment.chunk_shift, other.chunk_shift);
    assert_int_equal(segment.record_most_bytes, other.record_most_bytes);
    assert_int_equal(fcntl(segment.fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(other.fd, F_GETFD), FD_CLOEXEC);
    atomic_store(&segment.groups[3].word, 42);
    segment.base[segment.layout.total_bytes - 1] = 43;
    atomic_store(&cm_segment_seat(&segment, 3)->waiting_on, 44);
    assert_int_equal(atomic_load(&other.groups[3].word), 42);
    assert_int_equal(other.base[other.layout.total_bytes - 1], 43);
    assert_int_equal(atomic_load(&cm_segment_seat(&other, 3)->waiting_on), 44);
    cm_segment_close(&segment);
    assert_int_equal(atomic_load(&other.groups[3].word), 42);
    cm_segment_close(&other);
    assert_null(other.base);
    cm_segment_close(&other); /* nothing is left to close */
}

static void check_refused(int fd, int err) {
    struct cm_segment segment;
    assert_int_equal(cm_segment_attach(fd, false, &segment), err);
    assert_null(segment.base);
    assert_int_equal(segment.fd, -1);
    if (fd >= 0)
        assert_true(fcntl(fd, F_GETFD) >= 0); /* the caller's still */
}

static void foreign_files_are_not_attached(void **state) {
    (void)state;
    check_refused(-1, -EBADF);
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    check_refused(pipes[0], CM_E_BADFRAME);
    close(pipes[0]);
    close(pipes[1]);
    int fd = open("/dev/null", O_RDWR);
    check_refused(fd, CM_E_BADFRAME);
    close(fd);
    fd = memfd_create("empty", MFD_CLOEXEC);
    check_refused(fd, CM_E_BADFRAME);
    assert_int_equal(ftruncate(fd, sizeof(struct cm_header) - 1), 0);
    check_refused(fd, CM_E_BADFRAME);
    assert_int_equal(ftruncate(fd, (off_t)mib), 0);
    check_refused(fd, CM_E_BADFRAME); /* zeroes */
    close(fd);
    fd = open("/proc/self/exe", O_RDONLY); /* that cannot be mapped for writing */
    check_refused(fd, -EACCES);
    close(fd);
}

static void a_file_of_another_length_is_not_attached(void **state) {
    (void)state;
    struct cm_segment segment, other;
    open_segment(&segment, mib, 3);
    const off_t lengths[] = {(off_t)mib - 1, (off_t)mib / 2, 4096, (off_t)mib + 1, (off_t)mib * 2};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        assert_int_equal(ftruncate(segment.fd, lengths[i]), 0);
        check_refused(segment.fd, CM_E_BADFRAME);
    }
    assert_int_equal(ftruncate(segment.fd, (off_t)mib), 0);
    assert_int_equal(cm_segment_attach(dup(segment.fd), false, &other), 0);
    cm_segment_close(&other);
    cm_segment_close(&segment);
}

static void a_corrupted_header_is_not_attached(void **state) {
    (void)state;
    struct cm_segment segment, other;
    open_segment(&segment, mib, 3);
    uint64_t random = 2;
    size_t seed_at = offsetof(struct cm_header, layout) + offsetof(struct cm_layout, hash_seed);
    for (size_t at = offsetof(struct cm_header, magic); at < seed_at; at++) {
        uint8_t was = segment.base[at];
        for (int i = 0; i < 4; i++) {
            segment.base[at] = (uint8_t)(was ^ (1 + random_below(&random, 255)));
            check_refused(segment.fd, CM_E_BADFRAME);
        }
        segment.base[at] = was;
    }
    assert_int_equal(cm_segment_attach(dup(segment.fd), false, &other), 0);
    /* Its own copy of the layout: what is written there afterwards moves no bound. */
    segment.header->layout.chunks = UINT32_MAX;
    assert_int_equal(other.layout.chunks, segment.layout.chunks);
    cm_segment_close(&other);
    cm_segment_close(&segment);
}

/* Whether a system call could store there; it stores a zero. */
static bool writable(void *at) {
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    ssize_t got = read(fd, at, 1);
    assert_true(got == 1 || errno == EFAULT);
    close(fd);
    return got == 1;
}

static void a_read_only_mapping_stores_in_no_group_and_no_chunk(void **state) {
    (void)state;
    struct cm_segment segment, reader;
    open_segment(&segment, mib, 3);
    assert_int_equal(cm_segment_attach(dup(segment.fd), true, &reader), 0);
    const struct cm_layout *layout = &reader.layout;
    assert_true(writable((void *)&cm_segment_seat(&reader, 2)->hazards[0]));
    assert_true(writable(&reader.base[layout->groups_at - 1]));
    assert_false(writable(&reader.base[layout->groups_at]));
    assert_false(writable(&reader.base[layout->chunks_at - 1]));
    assert_false(writable(&reader.base[layout->chunks_at]));
    assert_false(writable(&reader.base[layout->total_bytes - 1]));
    assert_true(writable(&segment.base[layout->groups_at]));
    atomic_store(&segment.groups[1].word, 5);
    assert_int_equal(atomic_load(&reader.groups[1].word), 5);
    cm_segment_close(&reader);
    cm_segment_close(&segment);
}

static void the_bookkeeping_has_its_pages_from_the_start(void **state) {
    (void)state;
    struct cm_segment segment;
    open_segment(&segment, 64 * mib, 3);
    uint64_t groups = CM_GROUPS_BACKED * sizeof(struct cm_group);
    uint64_t before = resident(&segment);
    assert_true(before >= segment.layout.recency_at + groups);
    assert_true(before < segment.layout.chunks_at);
    memset(segment.base + segment.layout.seats_at, 0, segment.layout.locks_at - segment.layout.seats_at);
    memset(segment.base + segment.layout.groups_at, 0, groups);
    assert_int_equal(resident(&segment), before);
    cm_segment_close(&segment);
}

static void pages_are_backed_and_given_back(void **state) {
    (void)state;
    struct cm_segment segment;
    open_segment(&segment, 64 * mib, 3);
    uint64_t before = resident(&segment), at = cm_segment_chunk_at(&segment, 5);
    uint32_t len = segment.layout.chunk_bytes;
    assert_int_equal(cm_segment_back(&segment, at, len), 0);
    assert_int_equal(resident(&segment), before + len);
    memset(segment.base + at, 7, len);
    assert_int_equal(cm_segment_back(&segment, at, len), 0);
    assert_int_equal(resident(&segment), before + len);
    assert_int_equal(segment.base[at + len - 1], 7); /* what has pages keeps its bytes */
    cm_segment_punch(&segment, at, len);
    assert_int_equal(resident(&segment), before);
    for (uint32_t i = 0; i < len; i += 512)
        assert_int_equal(segment.base[at + i], 0);
    cm_segment_punch(&segment, at, len);
    struct cm_segment without = segment;
    without.fd = -1;
    assert_int_equal(cm_segment_back(&without, at, len), CM_E_NOMEMORY);
    cm_segment_close(&segment);
}

/* Whether all of these bytes have been written, as the file says: pages that are merely backed count as a
 * hole there. */
static bool are_written(const struct cm_segment *segment, uint64_t at, uint64_t len) {
    return lseek(segment->fd, (off_t)at, SEEK_HOLE) >= (off_t)(at + len);
}

static void a_filled_hole_has_whole_pages(void **state) {
    (void)state;
    struct cm_segment segment;
    open_segment(&segment, 64 * mib, 3);
    uint64_t before = resident(&segment), at = cm_segment_chunk_at(&segment, 5);
    uint32_t len = segment.layout.chunk_bytes;
    assert_int_equal(cm_segment_back(&segment, at, len), 0);
    assert_false(are_written(&segment, at, len));
    cm_segment_punch(&segment, at, len);
    assert_int_equal(cm_segment_fill(&segment, at, len), 0);
    assert_true(are_written(&segment, at, len));
    assert_int_equal(resident(&segment), before + len);
    for (uint32_t i = 0; i < len; i += 512)
        assert_int_equal(segment.base[at + i], 0);
    struct cm_segment without = segment;
    without.fd = -1;
    assert_int_equal(cm_segment_fill(&without, at, len), CM_E_NOMEMORY);
    cm_segment_close(&segment);
}

static void where_files_may_not_be_written_a_hole_is_backed(void **state) {
    (void)state;
    struct cm_segment segment;
    open_segment(&segment, 64 * mib, 3);
    uint64_t before = resident(&segment), at = cm_segment_chunk_at(&segment, 5);
    uint32_t len = segment.layout.chunk_bytes, written = len / 2;
    signal(SIGXFSZ, SIG_IGN); /* as the master does */
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    struct rlimit less = {at + written, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
    int err = cm_segment_fill(&segment, at, len);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(err, 0);
    assert_true(are_written(&segment, at, written));
    assert_int_equal(resident(&segment), before + len);
    cm_segment_close(&segment);
}

static void an_offset_knows_its_chunk(void **state) {
    (void)state;
    struct cm_segment segment;
    open_segment(&segment, mib, 3);
    const struct cm_layout *layout = &segment.layout;
    for (uint32_t i = 0; i < layout->chunks; i++) {
        uint64_t at = cm_segment_chunk_at(&segment, i);
        assert_int_equal(cm_segment_chunk_of(&segment, at), i);
        assert_int_equal(cm_segment_chunk_of(&segment, at + layout->chunk_bytes - 1), i);
    }
    assert_true(cm_segment_chunk_of(&segment, 0) >= layout->chunks);
    assert_true(cm_segment_chunk_of(&segment, layout->chunks_at - 1) >= layout->chunks);
    assert_true(cm_segment_chunk_of(&segment, cm_segment_chunk_at(&segment, layout->chunks)) >=
                layout->chunks);
    assert_true(cm_segment_chunk_of(&segment, UINT64_MAX) >= layout->chunks);
    cm_segment_close(&segment);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_parts_never_overlap),
        cmocka_unit_test(a_small_segment_is_whole_or_refused),
        cmocka_unit_test(impossible_sizes_and_seats_are_refused),
        cmocka_unit_test(bookkeeping_that_the_machine_cannot_hold_is_refused),
        cmocka_unit_test(what_one_mapping_stores_the_other_reads),
        cmocka_unit_test(foreign_files_are_not_attached),
        cmocka_unit_test(a_file_of_another_length_is_not_attached),
        cmocka_unit_test(a_corrupted_header_is_not_attached),
        cmocka_unit_test(a_read_only_mapping_stores_in_no_group_and_no_chunk),
        cmocka_unit_test(the_bookkeeping_has_its_pages_from_the_start),
        cmocka_unit_test(pages_are_backed_and_given_back),
        cmocka_unit_test(a_filled_hole_has_whole_pages),
        cmocka_unit_test(where_files_may_not_be_written_a_hole_is_backed),
        cmocka_unit_test(an_offset_knows_its_chunk),
    };
    return cmocka_run_group_tests_name("segment", tests, NULL, NULL);
}
