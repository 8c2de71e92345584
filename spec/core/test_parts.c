/* Parts of documents that lie in many fragments, or in one piece, against the same documents in the reader's
 * own memory: every path, every offset, bytes that are no document; what is touched on the way; and beside a
 * writer. */
#include "data/documents.h"

#include <pthread.h>
#include <sys/mman.h>

#include "data/document.h"
#include "data/path.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"
#include "spec/core/two_documents.h"

enum { STORAGE = 7, PATHS_MOST = 400, PAGE = 4096 };

/* Puts the bytes there as they are, document or not. */
static uint64_t put_raw(struct cm_bytes body) {
    static const uint32_t key[] = {STORAGE, 'd'};
    struct cm_buf entry = {0};
    uint64_t number = 1, version;
    assert_int_equal(cm_buf_append(&entry, &number, sizeof number), 0);
    assert_int_equal(cm_buf_append(&entry, body.data, body.len), 0);
    int err =
        cm_store_set(&master.store, (struct cm_bytes){(const uint8_t *)key, 5},
                     &(struct cm_value){.bytes = cm_buf_view(&entry)}, &(struct cm_change){0}, &version);
    assert_int_equal(err, 0);
    cm_buf_deinit(&entry);
    return version;
}

/* --- documents at random, with the paths that lead into them --- */

struct random_document {
    uint64_t random;
    struct cm_buf body;
    struct cm_buf paths[PATHS_MOST]; /* the name first */
    size_t count;
};

static void note_path(struct random_document *document, struct cm_bytes path) {
    if (document->count < PATHS_MOST)
        assert_int_equal(cm_buf_append(&document->paths[document->count++], path.data, path.len), 0);
}

static struct cm_bytes random_string(struct random_document *document) {
    static uint8_t bytes[3000];
    size_t kind = random_below(&document->random, 8);
    size_t len = random_below(&document->random, kind == 0 ? sizeof bytes : kind < 3 ? 300 : 20);
    fill_bytes(bytes, len, random_next(&document->random));
    return (struct cm_bytes){bytes, len};
}

static void write_at_random(struct random_document *document, unsigned depth, struct cm_buf *path);

/* The key goes behind the path, and into the body unless it is NULL. */
static void write_key(struct random_document *document, struct cm_buf *path) {
    size_t start = path->len;
    if (random_below(&document->random, 4))
        assert_int_equal(cm_path_add_string(path, random_string(document)), 0);
    else if (random_below(&document->random, 2))
        assert_int_equal(cm_path_add_integer(path, (int64_t)random_next(&document->random)), 0);
    else
        assert_int_equal(cm_path_add_float(path, 0.5 + (double)random_below(&document->random, 1000)), 0);
    assert_int_equal(cm_buf_append(&document->body, path->data + start, path->len - start), 0);
}

static void write_table(struct random_document *document, unsigned depth, struct cm_buf *path) {
    bool is_map = random_below(&document->random, 2);
    size_t count = random_below(&document->random, depth == 4 ? 60 : 20);
    size_t start = path->len;
    assert_int_equal(cm_item_write_table(&document->body, is_map ? CM_ITEM_MAP : CM_ITEM_ARRAY, count), 0);
    for (size_t i = 1; i <= count; i++) {
        if (is_map)
            write_key(document, path);
        else
            assert_int_equal(cm_path_add_integer(path, (int64_t)i), 0);
        if (random_below(&document->random, 8) == 0)
            assert_int_equal(
                cm_item_write_mark(&document->body, 1 + random_below(&document->random, 2) * 2000), 0);
        write_at_random(document, depth - 1, path);
        path->len = start;
    }
}

static void write_at_random(struct random_document *document, unsigned depth, struct cm_buf *path) {
    struct cm_buf *body = &document->body;
    note_path(document, cm_buf_view(path));
    size_t kind = random_below(&document->random, 8);
    if (depth == 4 || (depth && kind < 3))
        write_table(document, depth, path);
    else if (kind < 6)
        assert_int_equal(cm_item_write_string(body, random_string(document)), 0);
    else if (kind == 6)
        assert_int_equal(cm_item_write_integer(body, (int64_t)random_next(&document->random)), 0);
    else
        assert_int_equal(cm_item_write_float(body, 0.25), 0);
}

static void write_document(struct random_document *document) {
    struct cm_buf path = {0};
    document->body.len = 0;
    while (document->count)
        document->paths[--document->count].len = 0;
    assert_int_equal(cm_path_add_string(&path, cm_bytes_of("d")), 0);
    write_at_random(document, 4, &path);
    /* And some that lead nowhere, or on from what is no table. */
    for (size_t i = 0, count = document->count; i < count; i++) {
        path.len = 0;
        assert_int_equal(cm_buf_append(&path, document->paths[i].data, document->paths[i].len), 0);
        if (random_below(&document->random, 2))
            assert_int_equal(cm_path_add_integer(&path, 1 + (int64_t)random_below(&document->random, 70)), 0);
        else if (path.len > 2) /* which is the name alone */
            path.data[path.len - 1] ^= 1;
        if (!cm_path_check(cm_buf_view(&path)))
            note_path(document, cm_buf_view(&path));
    }
    cm_buf_deinit(&path);
}

static void free_document(struct random_document *document) {
    cm_buf_deinit(&document->body);
    for (size_t i = 0; i < PATHS_MOST; i++)
        cm_buf_deinit(&document->paths[i]);
}

/* --- what a reader is given, and what it should be --- */

static int expected_of(struct cm_bytes body, struct cm_bytes path, struct cm_bytes *value) {
    struct cm_bytes name;
    assert_int_equal(cm_path_split(&path, &name), 0);
    return body.len ? cm_document_find(body, path, stores_clock(), value) : CM_E_BADVALUE;
}

static void check_path(struct cm_bytes body, struct cm_bytes path, uint64_t version) {
    struct cm_buf buf = {0};
    struct cm_bytes value, expected;
    uint64_t got;
    int err = expected_of(body, path, &expected);
    assert_int_equal(cm_documents_get(&reader, STORAGE, path, &buf, &value, &got), err);
    assert_int_equal(got, version);
    assert_int_equal(reader.store.participant->tries, 1);
    if (!err) {
        assert_int_equal(value.len, expected.len);
        assert_memory_equal(value.data, expected.data, value.len);
    }
    /* Without its value it is not looked into. */
    int has = cm_documents_get(&reader, STORAGE, path, &buf, NULL, NULL);
    assert_true(has == err || (!has && err == CM_E_BADVALUE));
    assert_int_equal(reader.store.participant->tries, 1);
    cm_buf_deinit(&buf);
}

static void check_paths(uint64_t total_bytes, unsigned rounds) {
    static struct random_document document;
    assert_int_equal(open_documents(total_bytes), 0);
    document = (struct random_document){.random = 5};
    for (unsigned i = 0; i < rounds; i++) {
        do
            write_document(&document);
        while (document.body.len > 100000);
        assert_int_equal(cm_document_check_body(cm_buf_view(&document.body)), 0);
        uint64_t version = put_raw(cm_buf_view(&document.body));
        for (size_t n = 0; n < document.count; n++)
            check_path(cm_buf_view(&document.body), cm_buf_view(&document.paths[n]), version);
    }
    free_document(&document);
    close_documents();
}

/* Chunks of 4 KiB, so fragments of at most 256 bytes. */
static void every_path_leads_to_the_same_in_fragments(void **state) {
    (void)state;
    check_paths(UINT64_C(1) << 20, 150);
}

/* Most of them lie in one piece, the others in a few. */
static void and_in_one_piece(void **state) {
    (void)state;
    check_paths(UINT64_C(64) << 20, 150);
}

/* Whatever begins where a fragment ends: heads, keys, numbers, marks and the part itself. */
static void a_part_may_lie_at_any_offset(void **state) {
    (void)state;
    static uint8_t pad[6000], name[400];
    static const char *paths[] = {"d.half",     "d[\"long key\"]", "d.table.x",
                                  "d.table[2]", "d.none",          "d.half.x"};
    assert_int_equal(open_documents(UINT64_C(1) << 20), 0);
    memset(pad, 'p', sizeof pad);
    memset(name, 'n', sizeof name);
    for (size_t i = 0; i < 600; i++) {
        struct cm_buf body = {0}, path = {0};
        struct cm_path_fault fault;
        cm_item_write_table(&body, CM_ITEM_MAP, 5);
        cm_item_write_string(&body, cm_bytes_of("pad"));
        cm_item_write_string(&body, (struct cm_bytes){pad, 4200 + i});
        cm_item_write_string(&body, (struct cm_bytes){name, sizeof name});
        cm_item_write_float(&body, 1.5);
        cm_item_write_string(&body, cm_bytes_of("half"));
        cm_item_write_mark(&body, 5000);
        cm_item_write_string(&body, (struct cm_bytes){pad, 250 + i});
        cm_item_write_string(&body, cm_bytes_of("long key"));
        cm_item_write_integer(&body, INT64_MIN);
        cm_item_write_string(&body, cm_bytes_of("table"));
        cm_item_write_table(&body, CM_ITEM_MAP, 20);
        for (int64_t n = 1; n < 20; n++) {
            cm_item_write_integer(&body, n);
            cm_item_write_integer(&body, n << n);
        }
        cm_item_write_string(&body, cm_bytes_of("x"));
        cm_item_write_float(&body, 2.5);
        assert_int_equal(cm_document_check_body(cm_buf_view(&body)), 0);
        uint64_t version = put_raw(cm_buf_view(&body));
        for (size_t n = 0; n < sizeof paths / sizeof paths[0]; n++) {
            path.len = 0;
            assert_int_equal(cm_path_parse(cm_bytes_of(paths[n]), &path, &fault), 0);
            check_path(cm_buf_view(&body), cm_buf_view(&path), version);
        }
        /* A name longer than what is looked at at once, and one that differs in its last byte alone. */
        for (unsigned last = 'm'; last <= 'n'; last++) {
            path.len = 0;
            assert_int_equal(cm_path_add_string(&path, cm_bytes_of("d")), 0);
            assert_int_equal(cm_path_add_string(&path, (struct cm_bytes){name, sizeof name}), 0);
            path.data[path.len - 1] = (uint8_t)last;
            check_path(cm_buf_view(&body), cm_buf_view(&path), version);
        }
        cm_buf_deinit(&body);
        cm_buf_deinit(&path);
    }
    close_documents();
}

/* --- what is no document --- */

static void what_is_cut_or_corrupted_is_refused_as_in_memory(void **state) {
    (void)state;
    static struct random_document document;
    assert_int_equal(open_documents(UINT64_C(1) << 20), 0);
    document = (struct random_document){.random = 11};
    do
        write_document(&document);
    while (document.body.len < 5000 || document.body.len > 12000);
    struct cm_bytes whole = cm_buf_view(&document.body);
    for (size_t i = 0; i < 3000; i++) {
        size_t len = i % 2 ? whole.len : random_below(&document.random, whole.len + 1);
        size_t at = random_below(&document.random, whole.len);
        uint8_t was = document.body.data[at];
        if (i % 3)
            document.body.data[at] = (uint8_t)random_next(&document.random);
        uint64_t version = put_raw((struct cm_bytes){whole.data, len});
        for (int n = 0; n < 5; n++) {
            const struct cm_buf *path = &document.paths[random_below(&document.random, document.count)];
            check_path((struct cm_bytes){whole.data, len}, cm_buf_view(path), version);
        }
        document.body.data[at] = was;
    }
    free_document(&document);
    close_documents();
}

/* An array of a number, `count` strings of `len` bytes that are `byte`, and the number again. */
static void write_strings(struct cm_buf *body, size_t count, size_t len, uint8_t byte) {
    uint8_t *string = malloc(len);
    assert_non_null(string);
    memset(string, byte, len);
    body->len = 0;
    assert_int_equal(cm_item_write_table(body, CM_ITEM_ARRAY, count + 2), 0);
    assert_int_equal(cm_item_write_integer(body, byte), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(cm_item_write_string(body, (struct cm_bytes){string, len}), 0);
    assert_int_equal(cm_item_write_integer(body, byte), 0);
    free(string);
}

static int get_element(struct cm_documents *documents, int64_t index, struct cm_buf *buf,
                       struct cm_bytes *value, uint64_t *version) {
    struct cm_buf path = {0};
    int err = cm_path_add_string(&path, cm_bytes_of("d"));
    if (!err)
        err = cm_path_add_integer(&path, index);
    if (!err)
        err = cm_documents_get(documents, STORAGE, cm_buf_view(&path), buf, value, version);
    cm_buf_deinit(&path);
    return err;
}

static struct cm_record *first_fragment(void) {
    static const uint32_t bytes[] = {STORAGE, 'd'};
    struct cm_key key = cm_store_key(&master.store, (struct cm_bytes){(const uint8_t *)bytes, 5});
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(master.store.participant, key.hash, &section);
    assert_true(cm_table_find(master.store.participant, &section, &key, &place));
    cm_section_leave(&section);
    assert_int_equal(place.shape.kind, CM_KIND_LONG);
    return cm_record_at(&stores.segment, atomic_load(place.record->payload));
}

/* Links and lengths that lead astray are no way out of the segment, and what lies before them is found. */
static void broken_fragments_are_refused(void **state) {
    (void)state;
    assert_int_equal(open_documents(UINT64_C(1) << 20), 0);
    struct cm_buf body = {0}, buf = {0};
    struct cm_bytes value = {0};
    write_strings(&body, 20, 500, 9);
    const uint64_t links[] = {0,
                              1,
                              8,
                              UINT64_MAX,
                              UINT64_MAX - 7,
                              stores.segment.layout.total_bytes,
                              stores.segment.layout.total_bytes - 8,
                              stores.segment.layout.chunks_at + 4};
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        put_raw(cm_buf_view(&body));
        struct cm_record *fragment = first_fragment();
        uint64_t link = atomic_load(&fragment->next);
        atomic_store(&fragment->next, links[i]);
        if (cm_record_shape(fragment).value_len >= 40) { /* the rest of a chunk can be less */
            assert_int_equal(get_element(&reader, 1, &buf, &value, NULL), 0);
            assert_memory_equal(value.data, "\x09", 1);
        }
        assert_int_equal(get_element(&reader, 22, &buf, &value, NULL), CM_E_CONFLICT);
        atomic_store(&fragment->next, link);
        struct cm_record *second = cm_record_at(&stores.segment, link);
        uint64_t shape = atomic_load(&second->shape);
        atomic_store(&second->shape, shape | UINT64_C(0xffffff00) << 32);
        assert_int_equal(get_element(&reader, 22, &buf, &value, NULL), CM_E_CONFLICT);
        atomic_store(&second->shape, shape);
        /* In a circle it comes to an end as well. */
        atomic_store(&second->next, atomic_load(&second->before));
        int err = get_element(&reader, 22, &buf, &value, NULL);
        assert_true(err == 0 || err == CM_E_NOTFOUND || err == CM_E_BADVALUE || err == CM_E_CONFLICT);
        atomic_store(&second->next, 0);
        put_raw(cm_bytes_of("\xc3"));
    }
    cm_buf_deinit(&body);
    cm_buf_deinit(&buf);
    close_documents();
}

/* --- what it costs --- */

/* Takes away (or gives back) the pages in the midst of fragments, where no head of one begins. */
static unsigned protect_insides(int protection) {
    unsigned pages = 0;
    const struct cm_record *fragment = first_fragment();
    for (size_t i = 0; fragment; i++) {
        uint8_t *from = (uint8_t *)fragment->payload, *to = from + cm_record_shape(fragment).value_len;
        uint64_t next = atomic_load((_Atomic uint64_t *)&fragment->next);
        from += i ? PAGE : 2 * PAGE; /* the first one begins with what is read */
        from -= (uintptr_t)from % PAGE;
        to -= (uintptr_t)to % PAGE;
        if (next && from < to) {
            assert_int_equal(mprotect(from, (size_t)(to - from), protection), 0);
            pages += (unsigned)((to - from) / PAGE);
        }
        fragment = next ? cm_record_at(&stores.segment, next) : NULL;
    }
    return pages;
}

static void strings_that_are_passed_over_are_not_touched(void **state) {
    (void)state;
    assert_int_equal(open_documents(UINT64_C(256) << 20), 0);
    struct cm_buf body = {0}, buf = {0};
    struct cm_bytes value = {0};
    write_strings(&body, 1, 10 << 20, 5);
    put_raw(cm_buf_view(&body));
    assert_true(protect_insides(PROT_NONE) > 1500);
    for (int64_t index = 1; index <= 3; index += 2) {
        assert_int_equal(get_element(&reader, index, &buf, &value, NULL), 0);
        assert_int_equal(value.len, 1);
        assert_memory_equal(value.data, "\x05", 1);
        assert_true(buf.cap <= 4096);
    }
    assert_int_equal(get_element(&reader, 2, &buf, NULL, NULL), 0);
    assert_true(buf.cap <= 4096);
    protect_insides(PROT_READ | PROT_WRITE);
    assert_int_equal(get_element(&reader, 2, &buf, &value, NULL), 0);
    assert_int_equal(value.len, (10 << 20) + 5);
    cm_buf_deinit(&body);
    cm_buf_deinit(&buf);
    close_documents();
}

/* --- beside a writer --- */

static _Atomic bool over;

/* What is wrong with an element, or NULL: an element has a byte that is the document's. */
static const char *read_element(uint64_t *random, struct cm_buf *buf, uint64_t *last_version) {
    struct cm_bytes value = {0};
    struct cm_item item;
    uint64_t version = 0;
    int err = get_element(&reader, 1 + (int64_t)random_below(random, 30), buf, &value, &version);
    if (err && err != CM_E_NOTFOUND)
        return "it cannot be read";
    if (version < *last_version)
        return "its version went back";
    *last_version = version;
    if (err)
        return NULL;
    if (cm_item_take(&value, &item) || value.len)
        return "it is torn";
    if (item.kind != CM_ITEM_STRING)
        return item.kind == CM_ITEM_NUMBER ? NULL : "it is none of the document's";
    for (size_t i = 0; i < item.bytes.len; i++)
        if (item.bytes.data[i] != item.bytes.data[0])
            return "it is mixed";
    return item.bytes.len % 64 == item.bytes.data[0] % 64 ? NULL : "it has another length";
}

static void *read_on(void *data) {
    const char **wrong = data;
    struct cm_buf buf = {0};
    uint64_t last_version = 0, count = 0, random = 17;
    for (; !*wrong && (!atomic_load(&over) || count == 0); count++)
        *wrong = read_element(&random, &buf, &last_version);
    cm_buf_deinit(&buf);
    return NULL;
}

static void a_part_is_whole_beside_the_writer(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    atomic_store(&over, false);
    const char *wrong = NULL;
    pthread_t thread;
    struct cm_buf body = {0};
    assert_int_equal(pthread_create(&thread, NULL, read_on, &wrong), 0);
    uint64_t random = 1;
    double until = stores_seconds() + 0.7;
    while (stores_seconds() < until) {
        uint8_t byte = (uint8_t)random_below(&random, 128);
        write_strings(&body, random_below(&random, 30), 64 * (1 + random_below(&random, 30)) + byte % 64,
                      byte);
        put_raw(cm_buf_view(&body));
        if (random_below(&random, 100) == 0)
            stores_tend(&stores, true);
    }
    atomic_store(&over, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (wrong)
        fail_msg("%s", wrong);
    cm_buf_deinit(&body);
    close_documents();
}

/* --- allocations that fail --- */

static int operate(void *data) {
    int err = open_documents(4 << 20);
    if (err)
        return err;
    struct cm_document_change change;
    struct cm_buf buf = {0};
    struct cm_bytes value = {0};
    static const uint8_t path[] = {0xa1, 'd'};
    struct cm_document_put put = {
        .path = {path, sizeof path}, .value = *(struct cm_bytes *)data, .number = 1, .max_bytes = 1 << 20};
    err = cm_documents_set(&master, STORAGE, &put, &change);
    for (int64_t index = 2; !err && index <= 82; index += 80) {
        err = get_element(&reader, index, &buf, &value, NULL);
        if (!err)
            assert_int_equal(value.len, index == 2 ? 1003 : 1);
    }
    for (uint32_t i = 0; i < stores.segment.layout.chunks; i++)
        assert_false(cm_hazard_any(&stores.segment, i));
    cm_buf_deinit(&buf);
    close_documents();
    return err;
}

static void failed_allocations_leave_no_hazard(void **state) {
    (void)state;
    struct cm_buf body = {0};
    write_strings(&body, 80, 1000, 3);
    struct cm_bytes bytes = cm_buf_view(&body);
    alloc_failure_each(operate, &bytes);
    cm_buf_deinit(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_leads_to_the_same_in_fragments),
        cmocka_unit_test(and_in_one_piece),
        cmocka_unit_test(a_part_may_lie_at_any_offset),
        cmocka_unit_test(what_is_cut_or_corrupted_is_refused_as_in_memory),
        cmocka_unit_test(broken_fragments_are_refused),
        cmocka_unit_test(strings_that_are_passed_over_are_not_touched),
        cmocka_unit_test(a_part_is_whole_beside_the_writer),
        cmocka_unit_test(failed_allocations_leave_no_hazard),
    };
    return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
