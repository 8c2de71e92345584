/* The cleaner, step by step and beside others: what it counts, what it moves, what it must leave alone. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spec/core/alloc_failure.h"
#include "spec/core/stores.h"

enum { KEYS = 120, MOST_BYTES = 40000, KEY_BYTES = 1200 };

static struct stores stores;
static uint64_t chance;

/* --- entries: a value is its length of one byte, so that a mixture shows --- */

static struct {
    bool there;
    uint8_t byte;
    size_t len;
    uint64_t version;
    uint64_t expires_ms;
} expected[KEYS];

/* Some keys are so long that they lie in fragments, with a rest that is no whole word. */
static struct cm_bytes key_of(size_t n, uint8_t space[KEY_BYTES]) {
    size_t len = n % 5 == 0 ? 600 + n : 8 + n % 9;
    memset(space, 'k', len);
    memcpy(space, &n, sizeof n);
    return (struct cm_bytes){space, len};
}

static struct cm_participant *seat(uint32_t i) {
    return &stores.seats[i].participant;
}

static int append(uint32_t i, struct cm_key key, struct cm_bytes value, uint64_t expires_ms,
                  uint64_t *offset) {
    cm_append_begin(seat(i));
    int err = cm_append_entry(seat(i), CM_KIND_BYTES, key.hash, key.bytes, value, expires_ms, offset);
    if (err)
        cm_append_rewind(seat(i));
    return err;
}

static int put(uint32_t i, size_t n, size_t len, uint8_t byte, uint64_t expires_ms) {
    static _Thread_local uint8_t bytes[MOST_BYTES];
    uint8_t space[KEY_BYTES];
    struct cm_key key = cm_table_key(&stores.segment, key_of(n, space));
    uint64_t offset;
    memset(bytes, byte, len);
    int err = append(i, key, (struct cm_bytes){bytes, len}, expires_ms, &offset);
    if (err)
        return err;
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(seat(i), key.hash, &section);
    cm_table_find(seat(i), &section, &key, &place);
    uint64_t version = cm_table_link(seat(i), &section, &place, offset);
    cm_append_commit(seat(i));
    expected[n].there = true;
    expected[n].byte = byte;
    expected[n].len = len;
    expected[n].version = version;
    expected[n].expires_ms = expires_ms;
    return 0;
}

static void drop(uint32_t i, size_t n) {
    uint8_t space[KEY_BYTES];
    struct cm_key key = cm_table_key(&stores.segment, key_of(n, space));
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(seat(i), key.hash, &section);
    bool there = cm_table_find(seat(i), &section, &key, &place);
    if (there)
        cm_table_unlink(seat(i), &section, &place);
    else
        cm_section_leave(&section);
    assert_int_equal(there, expected[n].there);
    expected[n].there = false;
}

static bool is_one_value(const struct cm_buf *buf) {
    for (size_t i = 1; i < buf->len; i++) {
        if (buf->data[i] != buf->data[0])
            return false;
    }
    return true;
}

static void check(size_t n) {
    static struct cm_buf buf;
    uint8_t space[KEY_BYTES];
    struct cm_found found;
    int err = cm_table_get(seat(1), (struct cm_key[]){cm_table_key(&stores.segment, key_of(n, space))}, &buf,
                           &found);
    assert_int_equal(err, expected[n].there ? 0 : CM_E_NOTFOUND);
    if (err)
        return;
    assert_int_equal(found.version, expected[n].version);
    assert_int_equal(found.expires_ms, expected[n].expires_ms);
    assert_int_equal(buf.len, expected[n].len);
    assert_true(is_one_value(&buf));
    assert_true(buf.len == 0 || buf.data[0] == expected[n].byte);
    cm_buf_deinit(&buf);
}

static void check_all(void) {
    for (size_t n = 0; n < KEYS; n++)
        check(n);
    stores_check_counts(&stores.segment, true);
}

static size_t some_len(void) {
    const size_t most[] = {0, 20, 300, 900, 5000, MOST_BYTES};
    return random_below(&chance, most[random_below(&chance, sizeof most / sizeof most[0])] + 1);
}

static void begin(uint64_t total_bytes, uint32_t seats, uint32_t count) {
    assert_int_equal(stores_open_memory(&stores, total_bytes, seats, count), 0);
    memset(expected, 0, sizeof expected);
    chance = 1;
}

/* Puts, with the master's help where there is no room. */
static void put_surely(uint32_t i, size_t n, size_t len, uint8_t byte) {
    for (int tries = 0; put(i, n, len, byte, random_below(&chance, 3) ? 0 : 1000 + random_below(&chance, 9));
         tries++) {
        assert_true(tries < 100);
        assert_int_equal(cm_cleaner_make_room(&stores.cleaner, len + KEY_BYTES, 0), 0);
        i = 0;
    }
}

static void fill(void) {
    for (size_t n = 0; n < KEYS; n++)
        put_surely(1, n, some_len() / 8, (uint8_t)n);
}

static void mark_closed(void) {
    for (uint32_t i = 0; i < stores.segment.layout.chunks; i++) {
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(&stores.segment, i));
        if (word.state == CM_CHUNK_CLOSED && word.live_bytes)
            cm_cleaner_mark(&stores.cleaner, i);
    }
}

static enum cm_cleaned clean(void) {
    enum cm_cleaned done;
    int slices = 0;
    while ((done = cm_cleaner_run(&stores.cleaner)) == CM_CLEANED_MORE)
        assert_true(++slices < 1000000);
    return done;
}

static uint64_t offset_of(size_t n) {
    uint8_t space[KEY_BYTES];
    struct cm_key key = cm_table_key(&stores.segment, key_of(n, space));
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(seat(0), key.hash, &section);
    assert_true(cm_table_find(seat(0), &section, &key, &place));
    cm_section_leave(&section);
    return place.offset;
}

static uint32_t chunk_of(size_t n) {
    return (uint32_t)cm_segment_chunk_of(&stores.segment, offset_of(n));
}

static struct cm_chunk_word word_of(uint32_t chunk) {
    return cm_chunk_unpack(cm_chunk_load(&stores.segment, chunk));
}

/* --- what it moves --- */

static void evacuating_every_chunk_changes_nothing(void **state) {
    (void)state;
    begin(4 << 20, 4, 3);
    fill();
    for (int round = 0; round < 20; round++) {
        cm_append_close(seat(1));
        mark_closed();
        assert_int_equal(clean(), CM_CLEANED_ENOUGH);
        assert_int_equal(stores.cleaner.marked, 0);
        check_all();
        for (int i = 0; i < 10; i++)
            put_surely(1, random_below(&chance, KEYS), some_len(), (uint8_t)i);
        cm_table_grow(seat(0), 3);
    }
    assert_true(stores.cleaner.copied_bytes > 1000000);
    stores_close_memory(&stores);
}

static void counts_hold_at_every_step(void **state) {
    (void)state;
    begin(4 << 20, 4, 3);
    for (int i = 0; i < 6000; i++) {
        uint32_t by = (uint32_t)random_below(&chance, 3);
        size_t n = random_below(&chance, KEYS);
        switch (random_below(&chance, 6)) {
        case 0:
        case 1:
            put_surely(by, n, some_len(), (uint8_t)i);
            break;
        case 2:
            drop(by, n);
            break;
        case 3: {
            /* Appended and not linked: counted, and not reachable. */
            static const uint8_t zeroes[MOST_BYTES];
            uint8_t space[KEY_BYTES];
            uint64_t offset;
            struct cm_key key = cm_table_key(&stores.segment, key_of(n, space));
            if (append(by, key, (struct cm_bytes){zeroes, some_len()}, 0, &offset) == 0) {
                stores_check_counts(&stores.segment, false);
                cm_cleaner_run(&stores.cleaner);
                stores_check_counts(&stores.segment, false);
                cm_append_rewind(seat(by));
            }
            break;
        }
        case 4:
            if (random_below(&chance, 20) == 0)
                mark_closed();
            if (random_below(&chance, 20) == 0)
                cm_append_close(seat(by));
            cm_cleaner_run(&stores.cleaner);
            break;
        default:
            if (random_below(&chance, 10) == 0)
                cm_cleaner_stock(&stores.segment, random_below(&chance, 2));
            cm_table_grow(seat(0), 1);
        }
        stores_check_counts(&stores.segment, true);
        check(n);
        assert_true(stores.cleaner.reserve_count + (stores.cleaner.victim != CM_NO_CHUNK) >=
                    CM_CHUNK_RESERVE - 1);
    }
    check_all();
    stores_close_memory(&stores);
}

/* What a death leaves behind: records in a chunk that count and are not reachable. */
static void a_marked_chunk_counts_right_afterwards(void **state) {
    (void)state;
    begin(4 << 20, 4, 3);
    fill();
    uint8_t space[KEY_BYTES];
    uint64_t offset;
    struct cm_key key = cm_table_key(&stores.segment, key_of(1, space));
    assert_int_equal(append(2, key, (struct cm_bytes){space, 700}, 0, &offset), 0);
    cm_append_commit(seat(2));
    cm_append_close(seat(2));
    uint32_t chunk = (uint32_t)cm_segment_chunk_of(&stores.segment, offset);
    stores_check_counts(&stores.segment, false);
    assert_true(word_of(chunk).live_bytes > stores_reachable[chunk]);
    cm_cleaner_mark(&stores.cleaner, chunk);
    cm_cleaner_mark(&stores.cleaner, chunk);
    cm_cleaner_mark(&stores.cleaner, UINT32_MAX);
    assert_int_equal(stores.cleaner.marked, 1);
    assert_int_equal(clean(), CM_CLEANED_ENOUGH);
    assert_int_equal(stores.cleaner.marked, 0);
    check_all();
    stores_close_memory(&stores);
}

static void a_marked_chunk_that_is_free_or_open_is_left_alone(void **state) {
    (void)state;
    begin(4 << 20, 4, 3);
    assert_int_equal(put(1, 1, 10, 1, 0), 0);
    uint32_t open = chunk_of(1), last = stores.segment.layout.chunks - 1;
    cm_cleaner_mark(&stores.cleaner, open);
    cm_cleaner_mark(&stores.cleaner, last);
    clean();
    assert_int_equal(stores.cleaner.marked, 1);
    assert_int_equal(word_of(open).state, CM_CHUNK_OPEN);
    assert_true(word_of(last).hole);
    cm_append_close(seat(1));
    assert_int_equal(clean(), CM_CLEANED_ENOUGH);
    check_all();
    stores_close_memory(&stores);
}

/* Puts the last chunk on top of the reserve, if it is free. */
static void reserve_last(void) {
    uint32_t last = stores.segment.layout.chunks - 1, taken[256], count = 0;
    struct cm_chunk_word word = word_of(last);
    if (!cm_chunk_is_free(&word))
        return;
    while (cm_chunk_claim(seat(0), &taken[count]) == 0)
        assert_in_range(++count, 1, 255);
    assert_int_equal(taken[count - 1], last);
    uint32_t top = stores.cleaner.reserve_count - 1;
    taken[count - 1] = stores.cleaner.reserve[top];
    stores.cleaner.reserve[top] = last;
    while (count)
        cm_chunk_close(&stores.segment, taken[--count], 0);
}

/* Fragments of few bytes are as short as an entry's head: they may come to lie at the very end of the
 * segment.
 */
static void short_fragments_may_end_the_segment(void **state) {
    (void)state;
    begin(1 << 20, 2, 2);
    uint32_t last = stores.segment.layout.chunks - 1, chunk_bytes = stores.segment.layout.chunk_bytes;
    unsigned nearly_full = 0;
    for (int i = 0; i < 20000; i++) {
        /* Keys that lie in fragments, each with a last one of a few words. */
        put_surely(1, 5 * random_below(&chance, KEYS / 5), random_below(&chance, 60), (uint8_t)i);
        if (i % 20)
            continue;
        cm_append_close(seat(1));
        reserve_last();
        mark_closed();
        clean();
        nearly_full += atomic_load(&stores.segment.chunks[last].used) > chunk_bytes - CM_HEAD_BYTES;
    }
    assert_true(nearly_full > 0);
    check_all();
    stores_close_memory(&stores);
}

/* --- what is being copied --- */

static void a_hazard_keeps_a_cleaned_chunk_from_use(void **state) {
    (void)state;
    begin(1 << 20, 4, 3);
    fill();
    cm_append_close(seat(1));
    uint32_t chunk = chunk_of(7);
    uint32_t generation = word_of(chunk).generation, len = stores.segment.layout.chunk_bytes;
    uint8_t *before = malloc(len);
    assert_non_null(before);
    cm_hazard_set(seat(2), chunk);
    cm_cleaner_mark(&stores.cleaner, chunk);
    assert_int_equal(clean(), CM_CLEANED_LATER);
    memcpy(before, stores.segment.base + cm_segment_chunk_at(&stores.segment, chunk), len);
    assert_int_equal(stores.cleaner.parked_count, 1);
    assert_int_not_equal(chunk_of(7), chunk);
    /* Whatever goes on meanwhile. */
    for (int i = 0; i < 2000; i++) {
        put_surely(1, random_below(&chance, KEYS), some_len() / 8, (uint8_t)i);
        cm_cleaner_run(&stores.cleaner);
        cm_cleaner_stock(&stores.segment, i % 2);
    }
    assert_int_equal(word_of(chunk).state, CM_CHUNK_CLEANING);
    assert_int_equal(word_of(chunk).generation, generation);
    assert_memory_equal(stores.segment.base + cm_segment_chunk_at(&stores.segment, chunk), before, len);
    stores_check_counts(&stores.segment, true);
    cm_hazard_clear(seat(2));
    assert_int_equal(clean(), CM_CLEANED_ENOUGH);
    assert_int_equal(stores.cleaner.parked_count, 0);
    assert_int_not_equal(word_of(chunk).generation, generation);
    assert_int_equal(stores.cleaner.reserve_count, CM_CHUNK_RESERVE);
    check_all();
    free(before);
    stores_close_memory(&stores);
}

static void a_hazard_keeps_a_free_chunk_from_use(void **state) {
    (void)state;
    begin(1 << 20, 4, 3);
    fill();
    cm_append_close(seat(1));
    uint32_t chunk = chunk_of(7), generation = word_of(chunk).generation;
    cm_hazard_set(seat(2), chunk);
    for (size_t n = 0; n < KEYS; n++)
        drop(0, n);
    struct cm_chunk_word word = word_of(chunk);
    assert_true(cm_chunk_is_free(&word));
    assert_false(cm_chunk_punch(&stores.segment, chunk));
    uint32_t taken[512], count = 0;
    while (count < 512 && cm_chunk_claim(seat(0), &taken[count]) == 0)
        assert_int_not_equal(taken[count++], chunk);
    assert_int_equal(word_of(chunk).generation, generation);
    cm_hazard_clear(seat(2));
    assert_int_equal(cm_chunk_claim(seat(0), &taken[0]), 0);
    assert_int_equal(taken[0], chunk);
    stores_close_memory(&stores);
}

/* A process may be stopped for as long as somebody likes while it copies; that must cost its chunks, no more.
 */
static void parked_chunks_do_not_stop_the_cleaner(void **state) {
    (void)state;
    begin(4 << 20, 4, 3);
    for (size_t n = 0; n < KEYS; n++)
        put_surely(1, n, some_len(), (uint8_t)n);
    cm_append_close(seat(1));
    uint32_t count = 0;
    for (uint32_t i = 0; i < stores.segment.layout.chunks && count < 2 * CM_CHUNK_RESERVE; i++) {
        struct cm_chunk_word word = word_of(i);
        if (word.state != CM_CHUNK_CLOSED || !word.live_bytes)
            continue;
        cm_hazard_set(seat(2), i);
        cm_cleaner_mark(&stores.cleaner, i);
        count++;
    }
    assert_int_equal(count, 2 * CM_CHUNK_RESERVE);
    assert_int_equal(clean(), CM_CLEANED_LATER);
    mark_closed();
    for (int i = 0; i < 100; i++)
        clean();
    /* There are free chunks in plenty. */
    struct cm_chunk_census census;
    cm_chunk_count(&stores.segment, &census);
    assert_true(census.free > 20);
    for (uint32_t i = 0; i < stores.segment.layout.chunks; i++) {
        struct cm_chunk_word word = word_of(i);
        if (word.state == CM_CHUNK_CLOSED && word.live_bytes && (stores.cleaner.marks[i / 64] >> i % 64 & 1))
            fail_msg("chunk %u is not cleaned: %u parked, %u in reserve, victim %d", i,
                     stores.cleaner.parked_count, stores.cleaner.reserve_count, (int)stores.cleaner.victim);
    }
    cm_hazard_clear(seat(2));
    assert_int_equal(clean(), CM_CLEANED_ENOUGH);
    assert_int_equal(stores.cleaner.reserve_count, CM_CHUNK_RESERVE);
    check_all();
    stores_close_memory(&stores);
}

/* The reader is stopped in the midst of its copy by a page of its buffer that is not there; what may happen
 * meanwhile happens in the signal's handler, and then it goes on. */
static uint8_t *pages;
static void (*meanwhile)(void);
static long page_bytes;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    uint8_t *at = info->si_addr;
    if (at < pages || at >= pages + MOST_BYTES || !meanwhile) {
        sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        return;
    }
    mprotect(pages, MOST_BYTES, PROT_READ | PROT_WRITE);
    void (*happen)(void) = meanwhile;
    meanwhile = NULL;
    happen();
}

/* Reads the key, and lets the event happen when so many bytes have been copied. Whether it is one value. */
static bool read_and_meanwhile(size_t n, size_t after_bytes, void (*event)(void)) {
    page_bytes = sysconf(_SC_PAGESIZE);
    pages = mmap(NULL, MOST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(pages, MAP_FAILED);
    struct sigaction was;
    sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER},
              &was);
    size_t from = after_bytes / (size_t)page_bytes * (size_t)page_bytes;
    mprotect(pages + from, MOST_BYTES - from, PROT_NONE);
    meanwhile = event;
    struct cm_buf buf = {pages, 0, MOST_BYTES};
    struct cm_found found;
    uint8_t space[KEY_BYTES];
    int err = cm_table_get(seat(2), (struct cm_key[]){cm_table_key(&stores.segment, key_of(n, space))}, &buf,
                           &found);
    sigaction(SIGSEGV, &was, NULL);
    assert_null(meanwhile);
    assert_int_equal(err, 0);
    bool one = is_one_value(&buf);
    munmap(pages, MOST_BYTES);
    return one;
}

enum { READ_KEY = 1, READ_BYTES = 30000 };

/* Overwriting it and all else, for as long as chunks take to come back into use. */
static void everything_is_overwritten(void) {
    for (int i = 0; i < 600; i++)
        put_surely(1, i % 3 ? 1 + random_below(&chance, 3) : READ_KEY, READ_BYTES, (uint8_t)(100 + i % 50));
    for (int i = 0; i < 10; i++) {
        cm_append_close(seat(1));
        mark_closed();
        clean();
    }
}

static void a_value_is_copied_whole_while_it_is_overwritten(void **state) {
    (void)state;
    begin(1 << 20, 4, 3);
    for (size_t after = 0; after < READ_BYTES; after += 4096) {
        put_surely(1, READ_KEY, READ_BYTES, 1);
        assert_true(read_and_meanwhile(READ_KEY, after, everything_is_overwritten));
        stores_check_counts(&stores.segment, true);
    }
    stores_close_memory(&stores);
}

static uint32_t read_chunks[64], read_chunk_count;

/* Moves the later fragments only: those before them now lead to where they have gone. */
static void its_rest_is_moved_and_then_overwritten(void) {
    for (uint32_t i = read_chunk_count / 2; i < read_chunk_count; i++)
        cm_cleaner_mark(&stores.cleaner, read_chunks[i]);
    clean();
    everything_is_overwritten();
}

static void a_value_is_copied_whole_while_its_fragments_move(void **state) {
    (void)state;
    begin(1 << 20, 4, 3);
    for (size_t round = 0; round < 40; round++) {
        put_surely(1, READ_KEY, READ_BYTES, 1);
        cm_append_close(seat(1));
        uint64_t offset = offset_of(READ_KEY);
        read_chunk_count = 0;
        struct cm_payload payload;
        assert_true(cm_payload_open(&payload, &stores.segment, offset));
        do {
            uint32_t chunk = (uint32_t)cm_segment_chunk_of(&stores.segment, payload.at);
            if (read_chunk_count == 0 || read_chunks[read_chunk_count - 1] != chunk)
                read_chunks[read_chunk_count++] = chunk;
        } while (cm_payload_read(&payload, NULL, cm_words(payload.left)) && cm_payload_more(&payload));
        assert_true(read_chunk_count > 2);
        if (!read_and_meanwhile(READ_KEY, 4096, its_rest_is_moved_and_then_overwritten))
            fail_msg("a mixture of values in round %zu", round);
        stores_check_counts(&stores.segment, true);
    }
    stores_close_memory(&stores);
}

/* --- who is in the way --- */

static void a_held_group_is_waited_for(void **state) {
    (void)state;
    begin(1 << 20, 4, 3);
    fill();
    cm_append_close(seat(1));
    cm_cleaner_mark(&stores.cleaner, chunk_of(7));
    uint8_t space[KEY_BYTES];
    struct cm_section section;
    cm_table_enter(seat(2), cm_table_key(&stores.segment, key_of(7, space)).hash, &section);
    assert_int_equal(clean(), CM_CLEANED_LATER);
    assert_int_equal(clean(), CM_CLEANED_LATER);
    cm_section_leave(&section);
    assert_int_equal(clean(), CM_CLEANED_ENOUGH);
    check_all();
    stores_close_memory(&stores);
}

static struct cm_section held_section;

static void let_go(void *data, uint32_t owner) {
    (void)data;
    assert_int_equal(owner, seat(2)->id);
    if (held_section.word)
        cm_section_leave(&held_section);
    held_section.word = NULL;
}

/* One entry whose group a stopped process holds does not keep all the rest from being won: the master waits
 * for it, and looks while it waits. */
static void a_held_group_does_not_make_the_memory_full(void **state) {
    (void)state;
    begin(4 << 20, 4, 3);
    fill();
    uint8_t space[KEY_BYTES];
    static const uint8_t zeroes[600];
    /* Every chunk half full of entries that are gone. */
    for (uint64_t n = UINT64_C(1) << 40;; n++) {
        struct cm_key key = cm_table_key(&stores.segment, (struct cm_bytes){(uint8_t *)&n, sizeof n});
        struct cm_section section;
        struct cm_place place;
        uint64_t offset;
        if (append(0, key, (struct cm_bytes){zeroes, n % 2 ? 100 : 80}, 0, &offset))
            break;
        cm_table_enter(seat(0), key.hash, &section);
        cm_table_find(seat(0), &section, &key, &place);
        cm_table_link(seat(0), &section, &place, offset);
        cm_append_commit(seat(0));
        if (n % 2 == 0)
            continue;
        cm_table_enter(seat(0), key.hash, &section);
        assert_true(cm_table_find(seat(0), &section, &key, &place));
        cm_table_unlink(seat(0), &section, &place);
    }
    cm_append_close(seat(0));
    stores_check_counts(&stores.segment, true);
    /* The emptiest chunk is cleaned first. */
    size_t n = 7;
    uint32_t chunk = chunk_of(n);
    for (size_t other = 0; other < KEYS; other++) {
        if (other != n && expected[other].there && chunk_of(other) == chunk)
            drop(0, other);
    }
    cm_table_enter(seat(2), cm_table_key(&stores.segment, key_of(n, space)).hash, &held_section);
    stores.cleaner.mover.on_wait = let_go;
    assert_int_equal(cm_cleaner_make_room(&stores.cleaner, 200000, 0), 0);
    stores_close_memory(&stores);
}

/* --- beside others --- */

static _Atomic bool over;
static _Atomic uint32_t broken;

static void *write_on(void *data) {
    uint32_t i = *(const uint32_t *)data;
    uint64_t random = i;
    while (!atomic_load(&over)) {
        /* Keys of its own. */
        size_t n = random_below(&random, KEYS / 2) * 2 + i % 2;
        size_t len = random_below(&random, random_below(&random, 4) ? 300 : 20000);
        if (random_below(&random, 5))
            put(i, n, len, (uint8_t)random, 0);
        else
            drop(i, n);
    }
    return NULL;
}

static void *read_on(void *data) {
    uint32_t i = *(const uint32_t *)data;
    uint64_t random = i;
    struct cm_buf buf = {0};
    while (!atomic_load(&over)) {
        uint8_t space[KEY_BYTES];
        struct cm_found found;
        struct cm_key key = cm_table_key(&stores.segment, key_of(random_below(&random, KEYS), space));
        int err = cm_table_get(seat(i), &key, &buf, &found);
        if (err ? err != CM_E_NOTFOUND : buf.len != found.value_len || !is_one_value(&buf))
            atomic_fetch_add(&broken, 1);
    }
    cm_buf_deinit(&buf);
    return NULL;
}

static void cleaning_goes_on_beside_writers_and_readers(void **state) {
    (void)state;
    begin(4 << 20, 6, 5);
    atomic_store(&over, false);
    atomic_store(&broken, 0);
    pthread_t threads[4];
    uint32_t ids[] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i < 2 ? write_on : read_on, &ids[i]), 0);
    double until = stores_seconds() + 1;
    for (int i = 0; stores_seconds() < until; i++) {
        if (i % 50 == 0)
            mark_closed();
        for (int slice = 0; slice < 100 && cm_cleaner_run(&stores.cleaner) == CM_CLEANED_MORE; slice++) {
        }
        cm_cleaner_stock(&stores.segment, i % 4);
        cm_table_grow(seat(0), 1);
    }
    atomic_store(&over, true);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&broken), 0);
    assert_true(stores.cleaner.cleaned_chunks > 100);
    check_all();
    mark_closed();
    clean();
    check_all();
    stores_close_memory(&stores);
}

/* --- pages --- */

static uint64_t backed_bytes(void) {
    struct stat file;
    assert_int_equal(fstat(stores.segment.fd, &file), 0);
    return (uint64_t)file.st_blocks * 512;
}

/* Who takes a chunk of the stock has no page to clear: the file says that all its bytes have been written. */
static void check_stock_is_written(void) {
    for (uint32_t i = 0; i < stores.segment.layout.chunks; i++) {
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(&stores.segment, i));
        if (!cm_chunk_is_free(&word) || word.hole)
            continue;
        off_t at = (off_t)cm_segment_chunk_at(&stores.segment, i);
        assert_true(lseek(stores.segment.fd, at, SEEK_HOLE) >= at + stores.segment.layout.chunk_bytes);
    }
}

static void the_stock_is_backed_and_the_rest_given_back(void **state) {
    (void)state;
    begin(64 << 20, 4, 2);
    uint32_t chunk_bytes = stores.segment.layout.chunk_bytes;
    uint64_t at_first = backed_bytes();
    while (cm_cleaner_stock(&stores.segment, true)) {
    }
    struct cm_chunk_census census;
    cm_chunk_count(&stores.segment, &census);
    assert_int_equal(census.free_backed, 16);
    check_stock_is_written();
    assert_int_equal(backed_bytes(), at_first + 16 * (uint64_t)chunk_bytes);
    assert_int_equal(census.free, stores.segment.layout.chunks - CM_CHUNK_RESERVE);
    assert_int_equal(atomic_load(&stores.segment.header->free_chunks), census.free);
    /* Everything used, and given back. */
    uint32_t count = stores.segment.layout.chunks - CM_CHUNK_RESERVE, *taken = calloc(count, sizeof *taken);
    assert_non_null(taken);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(cm_chunk_claim(seat(0), &taken[i]), 0);
    assert_true(backed_bytes() > (uint64_t)stores.segment.layout.chunks * chunk_bytes);
    assert_false(cm_cleaner_stock(&stores.segment, false));
    for (uint32_t i = 0; i < count; i++)
        cm_chunk_close(&stores.segment, taken[i], 0);
    uint64_t full = backed_bytes();
    assert_false(cm_cleaner_stock(&stores.segment, true));
    assert_int_equal(backed_bytes(), full);
    uint32_t slices = 0;
    for (; cm_cleaner_stock(&stores.segment, false); slices++)
        assert_true(backed_bytes() + 4 * (uint64_t)chunk_bytes * (slices + 1) >= full);
    cm_chunk_count(&stores.segment, &census);
    uint32_t kept = stores.segment.layout.chunks / 32 > 16 ? stores.segment.layout.chunks / 32 : 16;
    assert_int_equal(census.free_backed, kept);
    assert_int_equal(backed_bytes(), full - (uint64_t)(count - kept) * chunk_bytes);
    free(taken);
    stores_close_memory(&stores);
}

static int with_failing_allocations(void *data) {
    (void)data;
    int err = stores_open_memory(&stores, 4 << 20, 4, 3);
    if (err)
        return err;
    memset(expected, 0, sizeof expected);
    chance = 1;
    int failed = 0;
    for (int i = 0; i < 300; i++) {
        size_t n = random_below(&chance, KEYS);
        err = put(1, n, some_len(), (uint8_t)i, 0);
        failed = err ? err : failed;
        stores_check_counts(&stores.segment, true);
    }
    /* Those that somebody copies from are noted in memory. */
    for (uint32_t i = 0; i < 2; i++)
        cm_hazard_set(seat(2), i);
    cm_append_close(seat(1));
    mark_closed();
    clean();
    stores_check_counts(&stores.segment, true);
    cm_hazard_clear(seat(2));
    clean();
    stores_check_counts(&stores.segment, true);
    stores_close_memory(&stores);
    return failed;
}

static void failed_allocations_lose_nothing(void **state) {
    (void)state;
    alloc_failure_each(with_failing_allocations, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evacuating_every_chunk_changes_nothing),
        cmocka_unit_test(counts_hold_at_every_step),
        cmocka_unit_test(a_marked_chunk_counts_right_afterwards),
        cmocka_unit_test(a_marked_chunk_that_is_free_or_open_is_left_alone),
        cmocka_unit_test(a_hazard_keeps_a_cleaned_chunk_from_use),
        cmocka_unit_test(a_hazard_keeps_a_free_chunk_from_use),
        cmocka_unit_test(parked_chunks_do_not_stop_the_cleaner),
        cmocka_unit_test(a_value_is_copied_whole_while_it_is_overwritten),
        cmocka_unit_test(a_value_is_copied_whole_while_its_fragments_move),
        cmocka_unit_test(a_held_group_is_waited_for),
        cmocka_unit_test(a_held_group_does_not_make_the_memory_full),
        cmocka_unit_test(cleaning_goes_on_beside_writers_and_readers),
        cmocka_unit_test(the_stock_is_backed_and_the_rest_given_back),
        cmocka_unit_test(failed_allocations_lose_nothing),
        cmocka_unit_test(short_fragments_may_end_the_segment),
    };
    return cmocka_run_group_tests_name("cleaner", tests, NULL, NULL);
}
