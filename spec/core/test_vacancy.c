/* Entries in the place of others: what is counted meanwhile, and what the cleaner does beside it. */
#include "memory/vacancy.h"
#include "spec/core/stores.h"

enum { LEN = 100 };

static struct stores stores;

static struct cm_participant *me(void) {
    return &stores.seats[1].participant;
}

static struct cm_key key_of(const char *name) {
    return cm_table_key(&stores.segment, (struct cm_bytes){(const uint8_t *)name, strlen(name)});
}

static struct cm_bytes value_of(size_t len) {
    static uint8_t bytes[2 * CM_COPIED_MOST_BYTES];
    assert_true(len <= sizeof bytes);
    memset(bytes, 'v', sizeof bytes);
    return (struct cm_bytes){bytes, len};
}

static void link_at(const char *name, uint64_t offset) {
    struct cm_key key = key_of(name);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(me(), key.hash, &section);
    cm_table_find(me(), &section, &key, &place);
    cm_table_link(me(), &section, &place, offset);
}

static void put(const char *name, size_t len) {
    struct cm_key key = key_of(name);
    uint64_t offset;
    cm_append_begin(me());
    assert_int_equal(cm_append_entry(me(), CM_KIND_BYTES, key.hash, key.bytes, value_of(len), 0, &offset), 0);
    link_at(name, offset);
    cm_append_commit(me());
}

static void find(const char *name, struct cm_section *section, struct cm_place *place) {
    struct cm_key key = key_of(name);
    cm_table_enter(me(), key.hash, section);
    assert_true(cm_table_find(me(), section, &key, place));
}

static struct cm_vacancy vacate(const char *name) {
    struct cm_section section;
    struct cm_place place;
    struct cm_vacancy vacancy = {0};
    find(name, &section, &place);
    assert_true(cm_vacancy_suits(&stores.segment, place.shape));
    cm_vacancy_make(me(), &section, &place, &vacancy);
    assert_int_equal(vacancy.offset, place.offset);
    return vacancy;
}

static bool write_entry(const struct cm_vacancy *vacancy, const char *name, size_t len) {
    struct cm_key key = key_of(name);
    return cm_vacancy_write(me(), vacancy, key.hash, key.bytes, value_of(len));
}

static bool fill(const struct cm_vacancy *vacancy, const char *name) {
    struct cm_key key = key_of(name);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(me(), key.hash, &section);
    if (!cm_vacancy_stands(me(), vacancy)) {
        cm_section_leave(&section);
        return false;
    }
    assert_false(cm_table_find(me(), &section, &key, &place));
    cm_table_link(me(), &section, &place, vacancy->offset);
    cm_vacancy_end(me());
    return true;
}

static bool is_there(const char *name, uint64_t *offset) {
    struct cm_key key = key_of(name);
    struct cm_found found;
    struct cm_buf buf = {0};
    int err = cm_table_get(me(), &key, &buf, &found);
    *offset = err ? 0 : found.offset;
    assert_true(err || (buf.len == LEN && buf.data[0] == 'v' && buf.data[LEN - 1] == 'v'));
    cm_buf_deinit(&buf);
    return !err;
}

static struct cm_chunk_word word_at(uint64_t offset) {
    uint32_t chunk = (uint32_t)cm_segment_chunk_of(&stores.segment, offset);
    return cm_chunk_unpack(cm_chunk_load(&stores.segment, chunk));
}

static void clean_chunk_at(uint64_t offset) {
    cm_cleaner_mark(&stores.cleaner, (uint32_t)cm_segment_chunk_of(&stores.segment, offset));
    for (int i = 0; i < 1000 && cm_cleaner_run(&stores.cleaner) == CM_CLEANED_MORE; i++) {
    }
}

static int open_world(void **state) {
    (void)state;
    stores_turn(1000);
    return stores_open_memory(&stores, UINT64_C(4) << 20, 4, 2);
}

static int close_world(void **state) {
    (void)state;
    stores_close_memory(&stores);
    return 0;
}

static void takes_the_same_bytes(void **state) {
    (void)state;
    put("old", LEN);
    uint64_t offset;
    assert_true(is_there("old", &offset));
    struct cm_chunk_word before = word_at(offset);
    uint32_t at = me()->appender.at;
    struct cm_vacancy vacancy = vacate("old");
    assert_false(is_there("old", &offset));
    assert_int_equal(me()->seat->retiring, vacancy.offset);
    assert_true(write_entry(&vacancy, "new", LEN));
    assert_false(is_there("new", &offset));
    assert_true(fill(&vacancy, "new"));
    assert_true(is_there("new", &offset));
    assert_int_equal(offset, vacancy.offset);
    assert_int_equal(me()->seat->retiring, 0);
    assert_int_equal(me()->appender.at, at);
    assert_int_equal(word_at(offset).live_bytes, before.live_bytes);
    assert_false(cm_hazard_any(&stores.segment, (uint32_t)cm_segment_chunk_of(&stores.segment, offset)));
    assert_int_equal(cm_table_entries(&stores.segment), 1);
}

static void another_size_has_no_place(void **state) {
    (void)state;
    put("old", LEN);
    cm_append_close(me());
    struct cm_vacancy vacancy = vacate("old");
    assert_false(write_entry(&vacancy, "new", LEN + 8));
    assert_false(write_entry(&vacancy, "a longer name than that", LEN));
    assert_true(word_at(vacancy.offset).live_bytes > 0);
    cm_vacancy_give_up(me(), &vacancy);
    struct cm_chunk_word word = word_at(vacancy.offset);
    assert_true(cm_chunk_is_free(&word));
    assert_int_equal(me()->seat->retiring, 0);
    stores_check_counts(&stores.segment, true);
}

static void only_small_entries_are_suited(void **state) {
    (void)state;
    const struct cm_segment *segment = &stores.segment;
    assert_true(cm_vacancy_suits(segment, (struct cm_shape){CM_KIND_BYTES, 8, 0}));
    assert_false(cm_vacancy_suits(segment, (struct cm_shape){CM_KIND_BYTES, 8, CM_COPIED_MOST_BYTES + 1}));
    assert_false(cm_vacancy_suits(segment, (struct cm_shape){CM_KIND_INTEGER, 8, 0}));
    assert_false(cm_vacancy_suits(segment, (struct cm_shape){CM_KIND_LONG, 8, 100}));
    assert_false(
        cm_vacancy_suits(segment, (struct cm_shape){CM_KIND_BYTES, (uint16_t)segment->record_most_bytes, 8}));
}

/* The cleaner takes what lies there for garbage; but it does not give the chunk to anybody. */
static void a_chunk_that_was_cleaned_meanwhile_is_left_alone(void **state) {
    (void)state;
    put("old", LEN);
    put("beside", LEN);
    cm_append_close(me());
    struct cm_vacancy vacancy = vacate("old");
    uint32_t generation = word_at(vacancy.offset).generation;
    clean_chunk_at(vacancy.offset);
    assert_int_equal(word_at(vacancy.offset).state, CM_CHUNK_CLEANING);
    assert_int_equal(word_at(vacancy.offset).generation, generation);
    assert_true(write_entry(&vacancy, "new", LEN));
    assert_false(fill(&vacancy, "new"));
    cm_vacancy_give_up(me(), &vacancy);
    uint64_t offset;
    assert_false(is_there("new", &offset));
    assert_true(is_there("beside", &offset));
    clean_chunk_at(vacancy.offset);
    assert_int_not_equal(word_at(vacancy.offset).generation, generation);
    cm_append_close(&stores.cleaner.mover);
    stores_check_counts(&stores.segment, true);
}

/* What has been linked is moved like any other. */
static void what_fills_it_is_moved(void **state) {
    (void)state;
    put("old", LEN);
    cm_append_close(me());
    struct cm_vacancy vacancy = vacate("old");
    assert_true(write_entry(&vacancy, "new", LEN));
    assert_true(fill(&vacancy, "new"));
    clean_chunk_at(vacancy.offset);
    uint64_t offset;
    assert_true(is_there("new", &offset));
    assert_int_not_equal(offset, vacancy.offset);
    cm_append_close(&stores.cleaner.mover);
    stores_check_counts(&stores.segment, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_the_same_bytes, open_world, close_world),
        cmocka_unit_test_setup_teardown(another_size_has_no_place, open_world, close_world),
        cmocka_unit_test_setup_teardown(only_small_entries_are_suited, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_chunk_that_was_cleaned_meanwhile_is_left_alone, open_world,
                                        close_world),
        cmocka_unit_test_setup_teardown(what_fills_it_is_moved, open_world, close_world),
    };
    return cmocka_run_group_tests_name("vacancy", tests, NULL, NULL);
}
