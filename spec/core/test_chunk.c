/* Chunk words: every transition, the hints, hazards, and what they count. */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"

enum { BYTES = 1 << 20, SEATS = 6 };

static struct cm_segment segment;
static struct cm_participant master, one, other;

static int open_one(void **state) {
    (void)state;
    open_segment(&segment, BYTES, SEATS);
    cm_participant_init(&master, &segment, CM_MASTER_SEAT);
    join(&one, &segment);
    join(&other, &segment);
    return 0;
}

static int close_one(void **state) {
    (void)state;
    part(&one);
    part(&other);
    cm_participant_deinit(&master);
    cm_segment_close(&segment);
    return 0;
}

static int nothing_is_left(void **state) {
    (void)state;
    return alloc_failure_alive() != 0;
}

static uint32_t claim(struct cm_participant *participant) {
    uint32_t index = CM_NO_CHUNK;
    assert_int_equal(cm_chunk_claim(participant, &index), 0);
    assert_true(index < segment.layout.chunks);
    return index;
}

static struct cm_chunk_census census(void) {
    struct cm_chunk_census result;
    cm_chunk_count(&segment, &result);
    return result;
}

static bool is_free(uint32_t index) {
    struct cm_chunk_word word = chunk_word(&segment, index);
    return cm_chunk_is_free(&word);
}

static uint64_t resident(void) {
    struct stat file;
    assert_int_equal(fstat(segment.fd, &file), 0);
    return (uint64_t)file.st_blocks * 512;
}

/* --- the word */

static void packing_and_unpacking_are_inverse(void **state) {
    (void)state;
    uint64_t random = 1;
    for (int i = 0; i < 100000; i++) {
        uint64_t packed = random_next(&random) >> random_below(&random, 64);
        assert_int_equal(cm_chunk_pack(cm_chunk_unpack(packed)), packed);
        struct cm_chunk_word word = {.live_bytes = (uint32_t)random_below(&random, 1 << 18) * 8,
                                     .state = (enum cm_chunk_state)random_below(&random, 4),
                                     .hole = random_below(&random, 2),
                                     .owner = (uint32_t)random_below(&random, 1 << 16),
                                     .generation = (uint32_t)random_below(&random, 1 << 27)};
        struct cm_chunk_word again = cm_chunk_unpack(cm_chunk_pack(word));
        assert_int_equal(again.live_bytes, word.live_bytes);
        assert_int_equal(again.state, word.state);
        assert_int_equal(again.hole, word.hole);
        assert_int_equal(again.owner, word.owner);
        assert_int_equal(again.generation, word.generation);
    }
    /* The whole of the largest chunk can be counted, and a generation goes round without touching the rest.
     */
    struct cm_chunk_word most = {.live_bytes = CM_CHUNK_MOST_BYTES, .generation = UINT32_C(1) << 27};
    assert_int_equal(cm_chunk_unpack(cm_chunk_pack(most)).live_bytes, CM_CHUNK_MOST_BYTES);
    assert_int_equal(cm_chunk_unpack(cm_chunk_pack(most)).generation, 0);
}

static void a_new_segment_is_of_free_holes(void **state) {
    (void)state;
    struct cm_chunk_word word = cm_chunk_unpack(0);
    assert_true(word.hole && cm_chunk_is_free(&word));
    assert_int_equal(census().free, segment.layout.chunks);
    assert_int_equal(census().free_backed, 0);
    assert_int_equal(census().open, 0);
    assert_int_equal(census().live_bytes, 0);
    assert_true(cm_chunk_limit_bytes(&segment) < (uint64_t)segment.layout.chunks << segment.chunk_shift);
    assert_true(cm_chunk_limit_bytes(&segment) >
                ((uint64_t)segment.layout.chunks << segment.chunk_shift) / 10 * 9);
}

/* --- claiming */

static void a_claim_opens_a_chunk_with_pages(void **state) {
    (void)state;
    uint64_t before = resident();
    segment.chunks[0].used = 77;
    segment.chunks[0].earliest_ms = 78;
    assert_int_equal(claim(&one), 0);
    struct cm_chunk_word word = chunk_word(&segment, 0);
    assert_int_equal(word.state, CM_CHUNK_OPEN);
    assert_int_equal(word.owner, one.id);
    assert_int_equal(word.live_bytes, segment.layout.chunk_bytes);
    assert_int_equal(word.generation, 1);
    assert_false(word.hole);
    assert_int_equal(segment.chunks[0].used, 0);
    assert_int_equal(segment.chunks[0].earliest_ms, CM_NEVER);
    assert_int_equal(resident(), before + segment.layout.chunk_bytes);
    cm_chunk_close(&segment, 0, 0);
    assert_int_equal(claim(&one), 0);
    assert_int_equal(resident(), before + segment.layout.chunk_bytes);
}

static void a_claim_takes_the_lowest(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(claim(i % 2 ? &one : &other), i);
    const uint32_t freed[] = {7, 2, 5};
    for (size_t i = 0; i < 3; i++)
        cm_chunk_close(&segment, freed[i], 0);
    assert_int_equal(claim(&one), 2);
    assert_int_equal(claim(&one), 5);
    assert_int_equal(claim(&other), 7);
    assert_int_equal(claim(&other), 10);
    /* What is freed by its last record, too. */
    cm_chunk_close(&segment, 3, 64);
    assert_int_equal(claim(&one), 11);
    cm_chunk_release(&segment, cm_segment_chunk_at(&segment, 3), 64);
    assert_int_equal(claim(&one), 3);
}

static void a_claim_prefers_what_has_pages_to_a_hole(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        claim(&one);
    for (uint32_t i = 0; i < 3; i++)
        cm_chunk_close(&segment, i, 0);
    assert_true(cm_chunk_punch(&segment, 0));
    assert_true(cm_chunk_punch(&segment, 1));
    assert_int_equal(claim(&one), 2);
    assert_int_equal(claim(&one), 0);
    assert_int_equal(cm_chunk_back(&segment, 20), 0);
    assert_int_equal(claim(&one), 20);
    assert_int_equal(claim(&one), 1);
}

/* A hint that is wrong costs a search and no chunk. */
static void a_wrong_hint_hides_no_chunk(void **state) {
    (void)state;
    atomic_store(&segment.header->lowest_free, segment.layout.chunks);
    assert_int_equal(claim(&one), 0);
    atomic_store(&segment.header->lowest_free, UINT32_MAX);
    cm_chunk_close(&segment, 0, 0);
    atomic_store(&segment.header->lowest_free, UINT32_MAX);
    assert_int_equal(claim(&one), 0);
}

static void the_last_chunks_are_the_masters(void **state) {
    (void)state;
    uint32_t floor = cm_chunk_floor(&segment), index;
    assert_true(floor > 0);
    one.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (uint32_t i = 0; i < segment.layout.chunks - floor; i++)
        claim(&one);
    atomic_store(&segment.header->rung, 0);
    assert_int_equal(cm_chunk_claim(&one, &index), CM_E_NOMEMORY);
    assert_int_equal(atomic_load(&segment.header->rung), 1); /* the master is told */
    assert_int_equal(cm_chunk_claim(&other, &index), CM_E_NOMEMORY);
    assert_int_equal(census().free, floor);
    for (uint32_t i = 0; i < floor; i++)
        claim(&master);
    assert_int_equal(cm_chunk_claim(&master, &index), CM_E_NOMEMORY);
    assert_int_equal(census().free, 0);
    /* One more than the floor is for everybody again. */
    for (uint32_t i = 0; i <= floor; i++)
        cm_chunk_close(&segment, i, 0);
    assert_int_equal(claim(&one), 0);
    assert_int_equal(cm_chunk_claim(&one, &index), CM_E_NOMEMORY);
    close(one.bell);
    one.bell = -1;
}

/* --- counting */

static void closing_takes_off_what_was_not_used(void **state) {
    (void)state;
    uint32_t index = claim(&one);
    cm_chunk_release(&segment, cm_segment_chunk_at(&segment, index), 48);
    assert_int_equal(chunk_word(&segment, index).live_bytes, segment.layout.chunk_bytes - 48);
    struct cm_chunk_word before = chunk_word(&segment, index);
    cm_chunk_close(&segment, index, 1000);
    struct cm_chunk_word word = chunk_word(&segment, index);
    assert_int_equal(word.state, CM_CHUNK_CLOSED);
    assert_int_equal(word.live_bytes, 1000 - 48);
    assert_int_equal(word.owner, 0);
    assert_int_equal(word.generation, before.generation);
    assert_false(word.hole);
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks - 1);
}

static void the_last_release_frees(void **state) {
    (void)state;
    uint32_t index = claim(&one);
    uint64_t at = cm_segment_chunk_at(&segment, index);
    cm_chunk_release(&segment, at, 104);
    cm_chunk_close(&segment, index, 104 + 56 + 40);
    assert_false(is_free(index));
    cm_chunk_release(&segment, at + 104, 56);
    assert_false(is_free(index));
    cm_chunk_release(&segment, at + 104 + 56, 40);
    assert_true(is_free(index));
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks);
    /* All of it released while it was open. */
    assert_int_equal(claim(&one), index);
    cm_chunk_release(&segment, at, segment.layout.chunk_bytes);
    assert_false(is_free(index));
    assert_int_equal(chunk_word(&segment, index).live_bytes, 0);
    cm_chunk_close(&segment, index, segment.layout.chunk_bytes);
    assert_true(is_free(index));
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks);
}

/* Releases every second piece of each chunk that is told to it, while another thread closes the chunk. */
enum { ROUNDS = 1000, PIECES = 32, PIECE_BYTES = 64 };
struct releasing {
    _Atomic uint64_t round; /* that may begin */
    _Atomic uint64_t done;
    uint32_t chunk;
    uint32_t first;
};

static const char *release_pieces(void *data) {
    struct releasing *releasing = data;
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        if (!becomes(&releasing->round, round))
            return "no round began";
        uint64_t at = cm_segment_chunk_at(&segment, releasing->chunk);
        for (uint32_t i = releasing->first; i < PIECES; i += 2)
            cm_chunk_release(&segment, at + (uint64_t)i * PIECE_BYTES, PIECE_BYTES);
        atomic_store(&releasing->done, round);
    }
    return NULL;
}

static void live_is_never_negative_and_one_of_all_frees(void **state) {
    (void)state;
    static struct releasing releasing[2];
    struct running running[2];
    for (uint32_t i = 0; i < 2; i++) {
        releasing[i] = (struct releasing){.first = i};
        start_thread(&running[i], release_pieces, &releasing[i]);
    }
    uint32_t most = segment.layout.chunk_bytes;
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    bool good = true;
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        uint32_t index = claim(&one);
        for (int i = 0; i < 2; i++) {
            releasing[i].chunk = index;
            atomic_store(&releasing[i].round, round);
        }
        for (uint32_t i = 0; i < round % 64; i++)
            good = good && chunk_word(&segment, index).live_bytes <= most;
        cm_chunk_close(&segment, index, PIECES * PIECE_BYTES);
        while (good && !is_free(index)) {
            good =
                chunk_word(&segment, index).live_bytes <= PIECES * PIECE_BYTES && cm_clock_ms() < deadline_ms;
            sched_yield();
        }
        good = good && becomes(&releasing[0].done, round) && becomes(&releasing[1].done, round);
        /* Each chunk that became free was counted once. */
        good = good && atomic_load(&segment.header->free_chunks) == (int32_t)segment.layout.chunks;
        if (!good)
            break;
    }
    for (int i = 0; i < 2; i++) {
        if (!good)
            pthread_cancel(running[i].thread);
        else
            end_thread(&running[i]);
    }
    assert_true(good);
}

/* Claims, writes its number in, looks whether it stays, and gives back; some it keeps for a while. */
struct claiming {
    struct cm_participant *participant;
    uint64_t seed;
};

static const char *claim_and_close(void *data) {
    struct claiming *claiming = data;
    uint32_t kept[4];
    for (int i = 0; i < 3000; i++) {
        size_t count = 1 + random_below(&claiming->seed, 4);
        for (size_t k = 0; k < count; k++) {
            if (cm_chunk_claim(claiming->participant, &kept[k]))
                return "there were free chunks";
            uint64_t *plain = (uint64_t *)(void *)(segment.base + cm_segment_chunk_at(&segment, kept[k]));
            plain[0] = claiming->participant->id;
        }
        for (size_t k = 0; k < count; k++) {
            uint64_t *plain = (uint64_t *)(void *)(segment.base + cm_segment_chunk_at(&segment, kept[k]));
            if (plain[0] != claiming->participant->id)
                return "a chunk that two have claimed";
            cm_chunk_close(&segment, kept[k], 0);
        }
    }
    return NULL;
}

static void a_chunk_is_open_to_one(void **state) {
    (void)state;
    struct claiming claiming[] = {{&one, 1}, {&other, 2}, {&master, 3}};
    struct running running[3];
    for (int i = 0; i < 3; i++)
        start_thread(&running[i], claim_and_close, &claiming[i]);
    for (int i = 0; i < 3; i++)
        end_thread(&running[i]);
    assert_int_equal(census().free, segment.layout.chunks);
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks);
}

static void the_census_counts_what_there_is(void **state) {
    (void)state;
    uint64_t random = 5;
    uint32_t chunks = segment.layout.chunks;
    uint32_t open[40], opened = 0;
    uint64_t *live = calloc(chunks, sizeof *live); /* of the closed ones */
    assert_non_null(live);
    for (int i = 0; i < 2000; i++) {
        size_t dice = random_below(&random, 4);
        uint32_t chunk = (uint32_t)random_below(&random, chunks);
        if (dice == 0 && opened < 40 && atomic_load(&segment.header->free_chunks) > 0) {
            open[opened] = claim(&master);
            uint64_t used = random_below(&random, segment.layout.chunk_bytes / 8 + 1) * 8;
            atomic_store(&segment.chunks[open[opened++]].used, used);
        } else if (dice == 1 && opened) {
            size_t which = random_below(&random, opened);
            uint64_t used = atomic_load(&segment.chunks[open[which]].used);
            cm_chunk_close(&segment, open[which], (uint32_t)used);
            live[open[which]] = used;
            open[which] = open[--opened];
        } else if (dice == 2 && live[chunk]) {
            uint64_t bytes = random_below(&random, 4) ? live[chunk] : 8;
            cm_chunk_release(&segment, cm_segment_chunk_at(&segment, chunk), (uint32_t)bytes);
            live[chunk] -= bytes;
        } else if (dice == 3 && is_free(chunk) && chunk_word(&segment, chunk).hole) {
            assert_int_equal(cm_chunk_back(&segment, chunk), 0);
        }
        struct cm_chunk_census expected = {.open = opened};
        for (uint32_t c = 0; c < chunks; c++) {
            expected.live_bytes += live[c];
            expected.free += is_free(c);
            expected.free_backed += is_free(c) && !chunk_word(&segment, c).hole;
            if (live[c]) {
                uint64_t rest = segment.layout.chunk_bytes - atomic_load(&segment.chunks[c].used);
                expected.lost_bytes += rest < segment.record_most_bytes ? rest : segment.record_most_bytes;
            }
        }
        for (uint32_t o = 0; o < opened; o++)
            expected.live_bytes += atomic_load(&segment.chunks[open[o]].used);
        struct cm_chunk_census got = census();
        assert_memory_equal(&got, &expected, sizeof got);
        assert_int_equal(atomic_load(&segment.header->free_chunks), got.free);
    }
    free(live);
}

/* --- generations and hazards */

static void the_generation_grows_with_each_claim_and_punch(void **state) {
    (void)state;
    uint32_t generation = 0;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(claim(&one), 0);
        uint32_t claimed = chunk_word(&segment, 0).generation;
        assert_true(claimed > generation);
        cm_chunk_close(&segment, 0, 0);
        assert_int_equal(chunk_word(&segment, 0).generation, claimed);
        assert_true(cm_chunk_punch(&segment, 0));
        uint32_t punched = chunk_word(&segment, 0).generation;
        assert_true(punched > claimed);
        assert_int_equal(cm_chunk_back(&segment, 0), 0);
        generation = chunk_word(&segment, 0).generation;
        assert_true(generation >= punched);
    }
}

/* Whoever names it, and whatever is tried: the chunk is what it was. */
static void no_generation_changes_under_a_hazard(void **state) {
    (void)state;
    for (uint32_t id = CM_MASTER_SEAT; id <= SEATS; id++) {
        struct cm_participant reader;
        cm_participant_init(&reader, &segment, id);
        assert_int_equal(claim(&one), 0); /* chunk 0 has pages, 1 is a hole */
        cm_chunk_close(&segment, 0, 0);
        cm_hazard_set(&reader, 0);
        cm_hazard_set(&reader, 1);
        uint64_t backed = cm_chunk_load(&segment, 0), hole = cm_chunk_load(&segment, 1);
        assert_true(cm_chunk_unpack(hole).hole && !cm_chunk_unpack(backed).hole);
        uint32_t claimed = claim(&one);
        assert_true(claimed > 1);
        uint32_t master_claimed = claim(&master);
        assert_true(master_claimed > 1);
        assert_false(cm_chunk_punch(&segment, 0));
        assert_int_equal(cm_chunk_back(&segment, 1), CM_E_BUSY);
        struct cm_chunk_word to = cm_chunk_unpack(backed);
        to.generation++;
        assert_false(cm_chunk_swap(&segment, 0, backed, to, true));
        assert_int_equal(cm_chunk_load(&segment, 0), backed);
        assert_int_equal(cm_chunk_load(&segment, 1), hole);
        cm_hazard_clear(&reader);
        cm_chunk_close(&segment, claimed, 0);
        cm_chunk_close(&segment, master_claimed, 0);
        assert_true(cm_chunk_punch(&segment, 0));
        assert_int_equal(cm_chunk_back(&segment, 1), 0);
        assert_true(cm_chunk_punch(&segment, 1));
        assert_int_equal(cm_chunk_back(&segment, 0), 0);
    }
}

static void where_all_is_named_nothing_is_claimed(void **state) {
    (void)state;
    for (uint32_t i = 0; i < segment.layout.chunks; i++)
        cm_hazard_set(&other, i);
    uint32_t index;
    assert_int_equal(cm_chunk_claim(&one, &index), CM_E_NOMEMORY);
    assert_int_equal(cm_chunk_claim(&master, &index), CM_E_NOMEMORY);
    assert_int_equal(census().free, segment.layout.chunks);
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks);
    cm_hazard_clear(&other);
    assert_int_equal(claim(&one), 0);
}

/* The cleaner may take a chunk that is being copied from, as long as it does not use it anew. */
static void a_swap_that_does_not_use_it_anew_heeds_no_hazard(void **state) {
    (void)state;
    uint32_t index = claim(&one);
    cm_chunk_close(&segment, index, 64);
    cm_hazard_set(&other, index);
    uint64_t from = cm_chunk_load(&segment, index);
    struct cm_chunk_word to = cm_chunk_unpack(from);
    to.state = CM_CHUNK_CLEANING;
    assert_true(cm_chunk_swap(&segment, index, from, to, false));
    assert_int_equal(chunk_word(&segment, index).state, CM_CHUNK_CLEANING);
    from = cm_chunk_load(&segment, index);
    to.state = CM_CHUNK_OPEN;
    assert_false(cm_chunk_swap(&segment, index, from, to, true));
    cm_hazard_clear(&other);
    assert_true(cm_chunk_swap(&segment, index, from, to, true));
}

static void a_release_between_load_and_swap_makes_the_swap_fail(void **state) {
    (void)state;
    uint32_t index = claim(&one);
    cm_chunk_close(&segment, index, 128);
    uint64_t from = cm_chunk_load(&segment, index);
    struct cm_chunk_word to = cm_chunk_unpack(from);
    to.state = CM_CHUNK_CLEANING;
    cm_chunk_release(&segment, cm_segment_chunk_at(&segment, index), 64);
    for (int exclusive = 0; exclusive <= 1; exclusive++) {
        assert_false(cm_chunk_swap(&segment, index, from, to, exclusive));
        assert_int_equal(chunk_word(&segment, index).state, CM_CHUNK_CLOSED);
        assert_int_equal(chunk_word(&segment, index).live_bytes, 64);
    }
    /* Another life of the chunk, in which all but the generation is the same. */
    cm_chunk_release(&segment, cm_segment_chunk_at(&segment, index), 64);
    from = cm_chunk_load(&segment, index);
    assert_int_equal(claim(&one), index);
    cm_chunk_close(&segment, index, 0);
    assert_false(cm_chunk_swap(&segment, index, from, to, true));
    assert_true(is_free(index));
}

/* --- pages */

static void a_free_chunks_pages_come_and_go(void **state) {
    (void)state;
    uint64_t before = resident();
    uint32_t len = segment.layout.chunk_bytes;
    assert_int_equal(cm_chunk_back(&segment, 4), 0);
    assert_int_equal(resident(), before + len);
    assert_true(is_free(4));
    assert_false(chunk_word(&segment, 4).hole);
    assert_int_equal(cm_chunk_back(&segment, 4), CM_E_BUSY); /* it has them */
    memset(segment.base + cm_segment_chunk_at(&segment, 4), 1, len);
    assert_true(cm_chunk_punch(&segment, 4));
    assert_int_equal(resident(), before);
    assert_true(is_free(4) && chunk_word(&segment, 4).hole);
    assert_false(cm_chunk_punch(&segment, 4)); /* it has none */
    assert_int_equal(chunk_word(&segment, 4).owner, 0);
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks);
}

static void only_free_chunks_are_punched_or_backed(void **state) {
    (void)state;
    uint32_t index = claim(&one);
    assert_false(cm_chunk_punch(&segment, index));
    assert_int_equal(cm_chunk_back(&segment, index), CM_E_BUSY);
    cm_chunk_close(&segment, index, 64);
    uint64_t word = cm_chunk_load(&segment, index);
    assert_false(cm_chunk_punch(&segment, index));
    assert_int_equal(cm_chunk_back(&segment, index), CM_E_BUSY);
    assert_int_equal(cm_chunk_load(&segment, index), word);
    cm_chunk_release(&segment, cm_segment_chunk_at(&segment, index), 64);
    assert_true(cm_chunk_punch(&segment, index));
}

static void a_chunk_without_pages_stays_a_hole(void **state) {
    (void)state;
    assert_int_equal(claim(&one), 0);
    cm_chunk_close(&segment, 0, 0);
    uint32_t index;
    int fd = segment.fd;
    segment.fd = -1; /* no page comes through this */
    assert_int_equal(cm_chunk_back(&segment, 5), CM_E_NOMEMORY);
    assert_int_equal(claim(&one), 0); /* one that has its pages needs none */
    assert_int_equal(cm_chunk_claim(&one, &index), CM_E_NOMEMORY);
    assert_int_equal(cm_chunk_claim(&master, &index), CM_E_NOMEMORY);
    segment.fd = fd;
    for (uint32_t i = 1; i < segment.layout.chunks; i++) {
        assert_true(is_free(i));
        assert_true(chunk_word(&segment, i).hole);
        assert_int_equal(chunk_word(&segment, i).owner, 0);
    }
    assert_int_equal(census().free, segment.layout.chunks - 1);
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks - 1);
    assert_int_equal(claim(&one), 1);
}

/* Where no chunk was ever used none is looked at: a search costs what is used, not what could be. */
static void what_was_never_used_is_not_looked_at(void **state) {
    (void)state;
    assert_int_equal(cm_chunk_reached(&segment), 0);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(claim(&one), i);
    assert_int_equal(cm_chunk_reached(&segment), 5);
    cm_chunk_close(&segment, 2, 0);
    assert_int_equal(claim(&one), 2);
    assert_int_equal(cm_chunk_back(&segment, 9), 0);
    assert_int_equal(cm_chunk_reached(&segment), 10);
    assert_int_equal(claim(&one), 9); /* before any hole, though they are lower */
    assert_int_equal(claim(&one), 5);
    /* What cannot be there is not seen. */
    struct cm_chunk_word word = {.live_bytes = 8, .state = CM_CHUNK_OPEN};
    struct cm_chunk_census before = census();
    atomic_store(&segment.chunks[20].word, cm_chunk_pack(word));
    assert_int_equal(census().free, before.free);
    assert_int_equal(census().open, before.open);
    atomic_store(&segment.chunks[20].word, 0);
    for (uint32_t i = 0; i < 10; i++) {
        word = chunk_word(&segment, i);
        assert_int_equal(word.state, i < 6 || i == 9 ? CM_CHUNK_OPEN : CM_CHUNK_CLOSED);
    }
}

/* --- expiry */

static const char *note_expiries(void *data) {
    uint64_t random = *(uint64_t *)data;
    for (int i = 0; i < 20000; i++)
        cm_chunk_note_expiry(&segment, cm_segment_chunk_at(&segment, 3) + 8,
                             1000 + random_below(&random, 1 << 20));
    return NULL;
}

static void the_earliest_expiry_is_kept(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        claim(&one);
    _Atomic uint64_t *earliest = &segment.chunks[3].earliest_ms;
    assert_int_equal(*earliest, CM_NEVER);
    cm_chunk_note_expiry(&segment, cm_segment_chunk_at(&segment, 3), 1 << 30);
    cm_chunk_note_expiry(&segment, cm_segment_chunk_at(&segment, 4) - 8, UINT64_C(1) << 31);
    assert_int_equal(*earliest, 1 << 30);
    uint64_t seeds[] = {1, 2};
    struct running running[2];
    for (int i = 0; i < 2; i++)
        start_thread(&running[i], note_expiries, &seeds[i]);
    for (int i = 0; i < 2; i++)
        end_thread(&running[i]);
    assert_in_range(*earliest, 1000, 1 << 20);
    cm_chunk_note_expiry(&segment, cm_segment_chunk_at(&segment, 3), 5);
    assert_int_equal(*earliest, 5);
    assert_int_equal(segment.chunks[2].earliest_ms, CM_NEVER);
    cm_chunk_close(&segment, 3, 0);
    assert_int_equal(claim(&one), 3);
    assert_int_equal(*earliest, CM_NEVER);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_one, close_one)
    const struct CMUnitTest tests[] = {
        TEST(packing_and_unpacking_are_inverse),
        TEST(a_new_segment_is_of_free_holes),
        TEST(a_claim_opens_a_chunk_with_pages),
        TEST(a_claim_takes_the_lowest),
        TEST(a_claim_prefers_what_has_pages_to_a_hole),
        TEST(a_wrong_hint_hides_no_chunk),
        TEST(the_last_chunks_are_the_masters),
        TEST(closing_takes_off_what_was_not_used),
        TEST(the_last_release_frees),
        TEST(live_is_never_negative_and_one_of_all_frees),
        TEST(a_chunk_is_open_to_one),
        TEST(the_census_counts_what_there_is),
        TEST(the_generation_grows_with_each_claim_and_punch),
        TEST(no_generation_changes_under_a_hazard),
        TEST(where_all_is_named_nothing_is_claimed),
        TEST(a_swap_that_does_not_use_it_anew_heeds_no_hazard),
        TEST(a_release_between_load_and_swap_makes_the_swap_fail),
        TEST(a_free_chunks_pages_come_and_go),
        TEST(only_free_chunks_are_punched_or_backed),
        TEST(a_chunk_without_pages_stays_a_hole),
        TEST(what_was_never_used_is_not_looked_at),
        TEST(the_earliest_expiry_is_kept),
    };
#undef TEST
    return cmocka_run_group_tests_name("chunk", tests, NULL, nothing_is_left);
}
