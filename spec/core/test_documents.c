/* Documents of several storages in one memory against trees: the master changes them and a reader looks, on a
 * clock that the test turns. */
#include "data/documents.h"

#include <pthread.h>

#include "data/document.h"
#include "data/path.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/trees.h"
#include "spec/core/two_documents.h"

enum { STORAGES = 3, NAMES = 10, MOST_STEPS = 4, OPERATIONS = 40000, MAX_BYTES = 1 << 20 };

/* A mark of an expiry below 256 ms, and literals as bytes. */
#define MARK(ms) "\xd7\x01\0\0\0\0\0\0\0" ms
#define BYTES(literal) ((struct cm_bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

/* --- who is in the memory --- */

/* Of keys: what is neither a document nor a storage's mark. */
static uint64_t entries(void) {
    struct cm_store_stats stats;
    cm_store_stats(stores_master(&stores), &stats);
    return stats.entries;
}

static uint64_t used_bytes(void) {
    struct cm_store_stats stats;
    cm_store_stats(stores_master(&stores), &stats);
    return stats.used_bytes;
}

static void sweep(void) {
    /* From wherever it stands to the end of a whole round. */
    for (int round = 0; round < 2; round++) {
        while (cm_expiry_sweep(&stores.sweep, &stores.seats[0].participant, stores_clock(), 100)) {
        }
    }
}

/* The steps of a path, valid until the next call. */
static struct cm_bytes path_of(const char *text) {
    static uint8_t space[256];
    struct cm_buf steps = {0};
    struct cm_path_fault fault;
    assert_int_equal(cm_path_parse(cm_bytes_of(text), &steps, &fault), 0);
    assert_true(steps.len <= sizeof space);
    memcpy(space, steps.data, steps.len);
    struct cm_bytes path = {space, steps.len};
    cm_buf_deinit(&steps);
    return path;
}

static struct cm_document_put put_of(const char *path, struct cm_bytes value) {
    return (struct cm_document_put){
        .path = path_of(path), .value = value, .number = 1, .max_bytes = MAX_BYTES};
}

static int set(uint32_t storage, const char *path, struct cm_bytes value, struct cm_document_change *change) {
    struct cm_document_put put = put_of(path, value);
    return cm_documents_set(&master, storage, &put, change);
}

static void must_set(uint32_t storage, const char *path, struct cm_bytes value, uint64_t expires_ms) {
    struct cm_document_put put = put_of(path, value);
    struct cm_document_change change;
    put.expires_ms = expires_ms;
    assert_int_equal(cm_documents_set(&master, storage, &put, &change), 0);
}

static int drop(uint32_t storage, const char *path, const uint64_t *version,
                struct cm_document_change *change) {
    return cm_documents_delete(&master, storage, path_of(path), version, change);
}

/* What everybody finds there; no bytes: nothing. */
static void expect(uint32_t storage, const char *path, struct cm_bytes expected) {
    struct cm_documents *both[] = {&master, &reader};
    for (int i = 0; i < 2; i++) {
        struct cm_buf buf = {0};
        struct cm_bytes value;
        int err = cm_documents_get(both[i], storage, path_of(path), &buf, &value, NULL);
        assert_int_equal(err, expected.len ? 0 : CM_E_NOTFOUND);
        if (!err) {
            assert_int_equal(value.len, expected.len);
            assert_memory_equal(value.data, expected.data, expected.len);
        }
        cm_buf_deinit(&buf);
    }
}

/* --- random operations --- */

struct expected {
    bool there;        /* in the memory, also when all that is in it has expired */
    struct tree *tree; /* what lives of it */
    uint64_t number;
    uint64_t version; /* also the last one of a document that is gone */
};

static struct world {
    struct expected expected[STORAGES][NAMES];
    uint64_t random;
    uint64_t last_number;
    uint64_t keys; /* set beside the documents */
    /* The document at hand, and a path into it. */
    size_t storage, name;
    unsigned steps[MOST_STEPS];
    unsigned count;
    struct cm_buf path;
    /* Of before_change. */
    int refusal;
    unsigned told;
    struct cm_document_change change;
} world;

static uint32_t id_of(size_t storage) {
    static const uint32_t ids[STORAGES] = {1, 0x61616161, UINT32_MAX};
    return ids[storage];
}

/* Bytes of any kind; the last one is as long as can be. */
static struct cm_bytes name_of(size_t n) {
    static uint8_t longest[CM_DOCUMENT_NAME_MAX_BYTES];
    static const struct cm_bytes names[NAMES - 1] = {
        {(const uint8_t *)"a", 1},    {(const uint8_t *)"aa", 2},       {(const uint8_t *)"\0", 1},
        {(const uint8_t *)"\0\0", 2}, {(const uint8_t *)"aaaaa", 5},    {(const uint8_t *)"x.y[1]", 6},
        {(const uint8_t *)"\xff", 1}, {(const uint8_t *)"\1\0\0\0", 4}, {(const uint8_t *)"\"\\", 2},
    };
    memset(longest, 'n', sizeof longest);
    return n < NAMES - 1 ? names[n] : (struct cm_bytes){longest, sizeof longest};
}

static struct expected *at_hand(void) {
    return &world.expected[world.storage][world.name];
}

static void pick_document(void) {
    world.storage = random_below(&world.random, STORAGES);
    world.name = random_below(&world.random, NAMES - 1 + (random_below(&world.random, 20) == 0));
}

static void pick_path(void) {
    world.count = (unsigned)random_below(&world.random, MOST_STEPS);
    world.path.len = 0;
    assert_int_equal(cm_path_add_string(&world.path, name_of(world.name)), 0);
    for (unsigned i = 0; i < world.count; i++) {
        world.steps[i] =
            (unsigned)random_below(&world.random, random_below(&world.random, 2) ? 3 : TREE_KEYS);
        tree_write_key(world.steps[i], &world.path);
    }
}

static void turn(uint64_t by_ms) {
    stores_turn(stores_clock() + by_ms);
    for (size_t storage = 0; storage < STORAGES; storage++) {
        for (size_t n = 0; n < NAMES; n++) {
            struct expected *expected = &world.expected[storage][n];
            expected->tree = tree_expire(expected->tree, stores_clock());
        }
    }
}

static int before_change(void *data, uint32_t storage, const struct cm_document_change *change) {
    assert_ptr_equal(data, &world);
    assert_int_equal(storage, id_of(world.storage));
    world.told++;
    world.change = *change;
    return world.refusal;
}

/* What must be true of a change that was made, beside what was told before it. */
static void check_change(const struct cm_document_change *change, bool gone) {
    struct expected *expected = at_hand();
    struct cm_bytes name = name_of(world.name);
    assert_int_equal(world.told, 1);
    assert_int_equal(change->name.len, name.len);
    assert_memory_equal(change->name.data, name.data, name.len);
    assert_int_equal(change->fresh, !expected->there);
    assert_int_equal(change->gone, gone);
    assert_int_equal(change->number, expected->there ? expected->number : world.last_number);
    assert_true(change->version > expected->version);
    assert_int_equal(world.change.number, change->number);
    assert_int_equal(world.change.fresh, change->fresh);
    assert_int_equal(world.change.gone, change->gone);
    assert_int_equal(world.change.name.len, name.len);
    expected->number = change->number;
    expected->version = change->version;
    expected->there = !gone;
}

/* The version that a change asks for, or NULL; *fits: whether it is the one there is. */
static const uint64_t *some_version(bool *fits) {
    static uint64_t version;
    const struct expected *expected = at_hand();
    uint64_t present = expected->there ? expected->version : 0;
    const uint64_t versions[] = {0, present, present, expected->version, present + 1};
    version = versions[random_below(&world.random, 5)];
    bool any = random_below(&world.random, 3) != 0;
    *fits = any || version == present;
    return any ? NULL : &version;
}

static void begin_change(void) {
    world.told = 0;
    world.refusal = random_below(&world.random, 12) ? 0 : CM_E_NOMEMORY;
}

static uint64_t some_expiry(struct cm_document_put *put, const struct tree *old) {
    if (random_below(&world.random, 2))
        put->expires_ms = stores_clock() + random_below(&world.random, 60);
    put->keep_expiry = random_below(&world.random, 4) == 0;
    if (!put->keep_expiry)
        return put->expires_ms;
    return old ? old->expires_ms : 0;
}

static void set_at_random(void) {
    struct expected *expected = at_hand();
    struct cm_buf value = {0};
    struct tree *tree = tree_random(&world.random, (unsigned)random_below(&world.random, 4), false, 0);
    tree_encode(tree, random_below(&world.random, 3) == 0, &world.random, &value);
    bool fits;
    struct cm_document_put put = {.path = cm_buf_view(&world.path),
                                  .value = cm_buf_view(&value),
                                  .version = some_version(&fits),
                                  .number = ++world.last_number,
                                  .max_bytes = MAX_BYTES};
    tree->expires_ms = some_expiry(&put, tree_find(expected->tree, world.steps, world.count));
    struct cm_document_change change;
    begin_change();
    int err = cm_documents_set(&master, id_of(world.storage), &put, &change);
    assert_int_equal(err, fits ? world.refusal : CM_E_CONFLICT);
    assert_int_equal(world.told, fits);
    if (err) {
        tree_free(tree);
    } else {
        check_change(&change, false);
        expected->tree = tree_set(expected->tree, world.steps, world.count, tree);
        expected->tree = tree_expire(expected->tree, stores_clock());
    }
    cm_buf_deinit(&value);
}

static void delete_at_random(void) {
    struct expected *expected = at_hand();
    bool is_there = tree_find(expected->tree, world.steps, world.count), fits;
    const uint64_t *version = some_version(&fits);
    struct cm_document_change change;
    begin_change();
    int err = cm_documents_delete(&master, id_of(world.storage), cm_buf_view(&world.path), version, &change);
    if (fits && !is_there) {
        assert_int_equal(err, 0);
        assert_int_equal(change.version, 0);
        assert_int_equal(world.told, 0);
        return;
    }
    assert_int_equal(err, fits ? world.refusal : CM_E_CONFLICT);
    if (err)
        return;
    check_change(&change, world.count == 0);
    expected->tree = tree_delete(expected->tree, world.steps, world.count);
}

static void purge_at_random(void) {
    struct expected *expected = at_hand();
    struct cm_document_change change;
    begin_change();
    int err = cm_documents_purge(&master, id_of(world.storage), name_of(world.name), &change);
    assert_int_equal(err, expected->there ? world.refusal : CM_E_NOTFOUND);
    if (err)
        return;
    check_change(&change, expected->tree == NULL);
    assert_false(cm_documents_is_due(&master, id_of(world.storage), name_of(world.name)));
}

/* As a file brings it: under a number of its own, in the place of whatever has the name. */
static void put_at_random(void) {
    struct expected *expected = at_hand();
    struct cm_buf body = {0};
    struct tree *tree = tree_random(&world.random, 3, true, stores_clock() + 1);
    tree_encode(tree, false, &world.random, &body);
    uint64_t replaced, number = ++world.last_number;
    world.told = 0;
    assert_int_equal(cm_documents_put(&master, id_of(world.storage), name_of(world.name), number,
                                      cm_buf_view(&body), &replaced),
                     0);
    assert_int_equal(world.told, 0);
    assert_int_equal(replaced, expected->there ? expected->number : 0);
    tree_free(expected->tree);
    expected->tree = tree;
    expected->there = true;
    expected->number = number;
    uint64_t version;
    cm_documents_get(&reader, id_of(world.storage), cm_buf_view(&world.path), &body, NULL, &version);
    assert_true(version > expected->version);
    expected->version = version;
    cm_buf_deinit(&body);
}

static void clear_at_random(void) {
    uint64_t cursor = 0;
    do
        assert_int_equal(cm_documents_clear(&master, id_of(world.storage), &cursor,
                                            1 + (unsigned)random_below(&world.random, 40)),
                         0);
    while (cursor);
    for (size_t n = 0; n < NAMES; n++) {
        struct expected *expected = &world.expected[world.storage][n];
        tree_free(expected->tree);
        expected->tree = NULL;
        expected->there = false;
    }
}

static int meet(void *data, struct cm_bytes name) {
    unsigned *met = data;
    for (size_t n = 0; n < NAMES; n++) {
        struct cm_bytes other = name_of(n);
        if (other.len == name.len && memcmp(other.data, name.data, name.len) == 0) {
            met[n]++;
            return 0;
        }
    }
    fail_msg("a name that nobody has given");
    return 0;
}

static void walk(void) {
    unsigned met[NAMES] = {0};
    uint64_t cursor = 0;
    do
        assert_int_equal(cm_documents_walk(&reader, id_of(world.storage), &cursor,
                                           1 + (unsigned)random_below(&world.random, 40), meet, met),
                         0);
    while (cursor);
    for (size_t n = 0; n < NAMES; n++)
        assert_int_equal(met[n], world.expected[world.storage][n].there);
}

/* --- checks --- */

static void check_part(void) {
    const struct expected *expected = at_hand();
    const struct tree *part = tree_find(expected->tree, world.steps, world.count);
    struct cm_buf buf = {0};
    struct cm_bytes value;
    uint64_t version = 99;
    int err =
        cm_documents_get(&reader, id_of(world.storage), cm_buf_view(&world.path), &buf, &value, &version);
    assert_int_equal(err, part ? 0 : CM_E_NOTFOUND);
    assert_int_equal(version, expected->there ? expected->version : 0);
    if (!err) {
        struct tree *found = tree_expire(tree_decode(value), stores_clock());
        found->expires_ms = part->expires_ms; /* a view is without its mark */
        assert_true(tree_equal(found, part));
        tree_free(found);
    }
    cm_buf_deinit(&buf);
}

static void check_whole(void) {
    const struct expected *expected = at_hand();
    uint32_t storage = id_of(world.storage);
    struct cm_bytes name = name_of(world.name), body;
    assert_int_equal(cm_documents_take(&master, storage, name, expected->number + 1, &body), CM_E_NOTFOUND);
    int err = cm_documents_take(&master, storage, name, expected->number, &body);
    assert_int_equal(err, expected->there ? 0 : CM_E_NOTFOUND);
    if (err)
        return;
    uint64_t earliest_ms;
    assert_int_equal(cm_document_check_body(body), 0);
    assert_int_equal(cm_document_earliest(body, &earliest_ms), 0);
    assert_int_equal(cm_documents_is_due(&master, storage, name),
                     earliest_ms && earliest_ms <= stores_clock());
    struct tree *decoded = tree_expire(tree_decode(body), stores_clock());
    assert_true(tree_equal(decoded, expected->tree));
    tree_free(decoded);
}

static void check_all(void) {
    for (world.storage = 0; world.storage < STORAGES; world.storage++) {
        walk();
        for (world.name = 0; world.name < NAMES; world.name++)
            check_whole();
    }
    stores_check_counts(&stores.segment, true);
    assert_int_equal(entries(), world.keys);
}

static void tend(void) {
    char space[24];
    uint64_t version;
    switch (random_below(&world.random, 4)) {
    case 0:
        stores_tend(&stores, random_below(&world.random, 2));
        break;
    case 1:
        cm_cleaner_mark(&stores.cleaner, (uint32_t)random_below(&world.random, stores.segment.layout.chunks));
        break;
    case 2:
        sweep();
        break;
    default:
        /* A key like any other, among them. */
        snprintf(space, sizeof space, "key%u", (unsigned)random_below(&world.random, 50));
        struct cm_value value = {.bytes = cm_bytes_of(space)};
        int err = cm_store_set(&stores.seats[1].store, cm_bytes_of(space), &value,
                               &(struct cm_change){.if_absent = true}, &version);
        assert_true(!err || err == CM_E_EXISTS);
        world.keys += !err;
    }
}

static void act(void) {
    pick_document();
    pick_path();
    size_t what = random_below(&world.random, 24);
    if (what < 9)
        set_at_random();
    else if (what < 14)
        delete_at_random();
    else if (what < 17)
        purge_at_random();
    else if (what < 18)
        put_at_random();
    else if (what < 20)
        turn(random_below(&world.random, 20));
    else if (what < 23)
        tend();
    else if (random_below(&world.random, 50) == 0)
        clear_at_random();
    check_part();
    check_whole();
}

static void random_operations_match_trees(void **state) {
    (void)state;
    world = (struct world){.random = 1};
    assert_int_equal(open_documents(8 << 20), 0);
    master.before_change = before_change;
    master.data = &world;
    for (int i = 0; i < OPERATIONS; i++) {
        act();
        if (i % 500 == 0)
            check_all();
    }
    check_all();
    assert_true(world.keys > 0);
    for (world.storage = 0; world.storage < STORAGES; world.storage++)
        clear_at_random();
    check_all();
    assert_int_equal(atomic_load(&stores.segment.header->documents), 0);
    cm_buf_deinit(&world.path);
    close_documents();
}

/* --- what chance may miss --- */

static void a_version_is_the_whole_documents(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    struct cm_document_change change;
    const uint64_t absent = 0;
    struct cm_document_put put = put_of("d.a", BYTES("\x01"));
    put.version = &absent;
    put.number = 7;
    assert_int_equal(cm_documents_set(&master, 1, &put, &change), 0);
    assert_true(change.fresh && change.number == 7);
    uint64_t first = change.version;
    assert_int_equal(cm_documents_set(&master, 1, &put, &change), CM_E_CONFLICT);
    put.path = path_of("d.b");
    put.version = &first;
    put.number = 8;
    assert_int_equal(cm_documents_set(&master, 1, &put, &change), 0);
    assert_true(!change.fresh && change.number == 7 && change.version > first);
    uint64_t second = change.version;
    assert_int_equal(drop(1, "d.b", &first, &change), CM_E_CONFLICT);
    /* The same name elsewhere is another document. */
    assert_int_equal(drop(2, "d", &absent, &change), 0);
    assert_int_equal(change.version, 0);
    assert_int_equal(drop(1, "d", &second, &change), 0);
    assert_true(change.gone && change.number == 7 && change.version > second);
    put.path = path_of("d");
    put.version = &absent;
    assert_int_equal(cm_documents_set(&master, 1, &put, &change), 0);
    assert_true(change.fresh && change.number == 8 && change.version > second);
    expect(1, "d", BYTES("\x01"));
    close_documents();
}

static void what_is_no_path_or_value_changes_nothing(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    struct cm_document_change change;
    must_set(1, "d", BYTES("\x05"), 0);
    const struct cm_bytes values[] = {BYTES(""),
                                      BYTES("\xc1"),
                                      BYTES("\x91"),
                                      BYTES("\x01\x01"),
                                      BYTES(MARK("\x09") "\x01"),
                                      BYTES("\x91" MARK("\x09") "\x01")};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        assert_int_equal(set(1, "d", values[i], &change), CM_E_BADVALUE);
    const struct cm_bytes paths[] = {BYTES(""), BYTES("\x01"), BYTES("\xa0"), BYTES("\xa1"),
                                     BYTES("\xa1"
                                           "d\x80")};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct cm_document_put put = {.path = paths[i], .value = BYTES("\x01"), .max_bytes = MAX_BYTES};
        assert_int_equal(cm_documents_set(&master, 1, &put, &change), CM_E_BADVALUE);
        assert_int_equal(cm_documents_delete(&master, 1, paths[i], NULL, &change), CM_E_BADVALUE);
    }
    uint64_t replaced;
    assert_int_equal(cm_documents_put(&master, 1, BYTES("d"), 1, BYTES("\x91"), &replaced), CM_E_BADVALUE);
    expect(1, "d", BYTES("\x05"));
    close_documents();
}

static void a_document_has_bounds(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    struct cm_document_change change;
    static const uint8_t big[1000] = {0xda, 0x03, 0xe5}; /* a string of 997 bytes */
    struct cm_bytes value = {big, sizeof big};
    struct cm_document_put put = put_of("d", value);
    put.max_bytes = sizeof big;
    assert_int_equal(cm_documents_set(&master, 1, &put, &change), 0);
    put.max_bytes--;
    put.path = path_of("other");
    assert_int_equal(cm_documents_set(&master, 1, &put, &change), CM_E_TOOLARGE);
    expect(1, "other", (struct cm_bytes){0});
    /* The whole counts, not what is added. */
    put = put_of("d.more", BYTES("\x01"));
    put.max_bytes = 5;
    assert_int_equal(cm_documents_set(&master, 1, &put, &change), CM_E_TOOLARGE);
    expect(1, "d", value);
    uint8_t deep[CM_ITEM_MAX_DEPTH + 1];
    memset(deep, 0x91, sizeof deep);
    deep[CM_ITEM_MAX_DEPTH] = 1;
    assert_int_equal(set(1, "deep", (struct cm_bytes){deep, sizeof deep}, &change), 0);
    assert_int_equal(set(1, "deep.x", (struct cm_bytes){deep, sizeof deep}, &change), CM_E_TOOLARGE);
    expect(1, "deep", (struct cm_bytes){deep, sizeof deep});
    close_documents();
}

static int refuse_change(void *data, uint32_t storage, const struct cm_document_change *change) {
    (void)storage;
    (void)change;
    return *(const int *)data;
}

static void a_refused_change_leaves_all_as_it_was(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    int refusal = 0;
    master.before_change = refuse_change;
    master.data = &refusal;
    must_set(1, "d",
             BYTES("\x92\x01"
                   "\x02"),
             0);
    must_set(1, "d[2]", BYTES("\x03"), 2000);
    refusal = CM_E_CLOSED;
    struct cm_document_change change;
    uint64_t used = used_bytes();
    stores_turn(2000);
    assert_int_equal(set(1, "d[1]", BYTES("\x07"), &change), CM_E_CLOSED);
    assert_int_equal(set(1, "new", BYTES("\x07"), &change), CM_E_CLOSED);
    assert_int_equal(drop(1, "d", NULL, &change), CM_E_CLOSED);
    assert_int_equal(cm_documents_purge(&master, 1, BYTES("d"), &change), CM_E_CLOSED);
    expect(1, "d[1]", BYTES("\x01"));
    expect(1, "d[2]", (struct cm_bytes){0});
    expect(1, "new", (struct cm_bytes){0});
    assert_true(cm_documents_is_due(&master, 1, BYTES("d")));
    assert_int_equal(used_bytes(), used);
    stores_check_counts(&stores.segment, true);
    close_documents();
}

/* Numbers that have been announced as fresh and not as gone. */
static int count_fresh(void *data, uint32_t storage, const struct cm_document_change *change) {
    (void)storage;
    *(int *)data += change->fresh - change->gone;
    return 0;
}

static void at_the_cap_the_old_document_stays(void **state) {
    (void)state;
    assert_int_equal(open_documents(1 << 20), 0);
    static const uint8_t big[30000] = {0xda, 0x75, 0x2d}; /* a string of 29,997 bytes */
    struct cm_bytes value = {big, sizeof big};
    struct cm_document_change change;
    int announced = 0;
    master.before_change = count_fresh;
    master.data = &announced;
    must_set(1, "small",
             BYTES("\x81\xa1"
                   "a\x05"),
             0);
    char name[24];
    unsigned n = 0;
    int err;
    do {
        snprintf(name, sizeof name, "fill%u", n++);
        err = set(1, name, value, &change);
    } while (!err);
    assert_int_equal(err, CM_E_NOMEMORY);
    assert_in_range(n, 15, 40);
    expect(1, name, (struct cm_bytes){0});
    /* Whoever was told of it is told that there is none after all, so that nothing is kept of it. */
    assert_int_equal(announced, n);
    assert_int_equal(set(1, "small.b", value, &change), CM_E_NOMEMORY);
    expect(1, "small",
           BYTES("\x81\xa1"
                 "a\x05"));
    for (unsigned i = 0; i + 1 < n; i++) {
        snprintf(name, sizeof name, "fill%u", i);
        expect(1, name, value);
    }
    /* To remove a whole one takes no memory. */
    assert_int_equal(drop(1, "fill0", NULL, &change), 0);
    assert_int_equal(drop(1, "fill1", NULL, &change), 0);
    assert_int_equal(set(1, "small.b", value, &change), 0);
    expect(1, "small.b", value);
    assert_int_equal(announced, n - 2);
    stores_check_counts(&stores.segment, true);
    close_documents();
}

static void a_storage_is_open_between_begin_and_end(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    uint64_t one = 0, other = 0;
    assert_false(cm_documents_is_open(&reader, 1, &one));
    assert_int_equal(cm_documents_begin(&master, 1), 0);
    assert_int_equal(cm_documents_begin(&master, 2), 0);
    assert_int_equal(entries(), 0);
    assert_true(cm_documents_is_open(&reader, 1, &one) && cm_documents_is_open(&reader, 2, &other));
    assert_true(one && one == other);
    /* While nothing is closed, what was seen is not looked at again; what never was, is. */
    assert_true(cm_documents_is_open(&reader, 1, &one));
    uint64_t never = 0;
    assert_false(cm_documents_is_open(&reader, 3, &never));
    assert_int_equal(never, 0);
    cm_documents_end(&master, 2);
    assert_true(cm_documents_is_open(&reader, 1, &one));
    assert_false(cm_documents_is_open(&reader, 2, &other));
    assert_true(one > other);
    /* A mark is no document, and a document no mark. */
    must_set(2, "d", BYTES("\x01"), 0);
    assert_false(cm_documents_is_open(&reader, 2, &other));
    unsigned met[NAMES] = {0};
    uint64_t cursor = 0;
    assert_int_equal(cm_documents_walk(&reader, 1, &cursor, UINT32_MAX, meet, met), 0);
    cm_documents_end(&master, 1);
    assert_false(cm_documents_is_open(&reader, 1, &one));
    assert_int_equal(entries(), 0);
    cursor = 0;
    assert_int_equal(cm_documents_clear(&master, 2, &cursor, UINT32_MAX), 0);
    assert_int_equal(used_bytes(), 0);
    assert_int_equal(atomic_load(&stores.segment.header->documents), 0);
    close_documents();
}

struct heard {
    unsigned count;
    unsigned times[100];
};

static void hear(void *data, struct cm_bytes key) {
    struct heard *heard = data;
    struct cm_bytes name;
    assert_int_equal(cm_documents_storage_of(key, &name), 5);
    assert_int_equal(name.len, 2);
    unsigned n = (name.data[0] - '0') * 10u + (name.data[1] - '0');
    heard->times[n]++;
    heard->count++;
}

static void the_sweep_tells_what_is_due_and_removes_nothing(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    struct heard heard = {0};
    stores.sweep.on_document = hear;
    stores.sweep.data = &heard;
    char name[24];
    /* Of a hundred, every second one is over at 2000, half of those as a whole and half in a part. */
    for (unsigned n = 0; n < 100; n++) {
        snprintf(name, sizeof name, n % 4 == 2 ? "[\"%02u\"].part" : "[\"%02u\"]", n);
        must_set(5, name, BYTES("\x01"), n % 2 ? 0 : 2000);
    }
    stores_turn(1999);
    sweep();
    assert_int_equal(heard.count, 0);
    stores_turn(2000);
    uint64_t used = used_bytes();
    sweep();
    sweep();
    assert_int_equal(heard.count, 50);
    for (unsigned n = 0; n < 100; n++)
        assert_int_equal(heard.times[n], n % 2 == 0);
    assert_int_equal(used_bytes(), used);
    assert_int_equal(atomic_load(&stores.segment.header->documents), 100);
    /* What is purged and gets a new time is told again. */
    struct cm_document_change change;
    assert_int_equal(cm_documents_purge(&master, 5, BYTES("02"), &change), 0);
    assert_false(change.gone);
    assert_int_equal(cm_documents_purge(&master, 5, BYTES("04"), &change), 0);
    assert_true(change.gone);
    must_set(5, "[\"02\"].part", BYTES("\x01"), 3000);
    stores_turn(3000);
    sweep();
    assert_int_equal(heard.times[2], 2);
    assert_int_equal(heard.times[4], 1);
    /* What has not been purged may be told again with that; what is never over is not. */
    for (unsigned n = 0; n < 100; n++)
        assert_in_range(heard.times[n], n % 2 == 0, n % 2 ? 0 : 2);
    stores_check_counts(&stores.segment, true);
    close_documents();
}

/* --- beside each other --- */

static _Atomic bool over;

/* What is wrong with what a reader finds, or NULL: an array has its own length in each of its elements, and a
 * document's versions grow. */
static const char *read_once(struct cm_buf *buf, uint64_t *last_version) {
    struct cm_bytes value;
    struct cm_item item;
    uint64_t version;
    static const uint8_t path[] = {0xa1, 'd'};
    int err = cm_documents_get(&reader, 1, (struct cm_bytes){path, sizeof path}, buf, &value, &version);
    if (err)
        return err == CM_E_NOTFOUND && version == 0 ? NULL : "it cannot be read";
    if (version < *last_version)
        return "its version went back";
    *last_version = version;
    if (cm_item_take(&value, &item) || item.kind != CM_ITEM_ARRAY || item.count != value.len)
        return "it is torn";
    for (size_t i = 0; i < value.len; i++)
        if (value.data[i] != value.len)
            return "it is mixed";
    return NULL;
}

static void *read_on(void *data) {
    const char **wrong = data;
    struct cm_buf buf = {0};
    uint64_t last_version = 0, count = 0;
    for (; !*wrong && (!atomic_load(&over) || count == 0); count++)
        *wrong = read_once(&buf, &last_version);
    cm_buf_deinit(&buf);
    return NULL;
}

static void a_reader_sees_whole_documents_beside_the_writer(void **state) {
    (void)state;
    assert_int_equal(open_documents(4 << 20), 0);
    atomic_store(&over, false);
    const char *wrong = NULL;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_on, &wrong), 0);
    uint64_t random = 1;
    double until = stores_seconds() + 0.5;
    while (stores_seconds() < until) {
        uint8_t bytes[128];
        struct cm_document_change change;
        uint8_t len = (uint8_t)(1 + random_below(&random, 100));
        memcpy(bytes, (uint8_t[]){0xdc, 0, len}, 3);
        memset(bytes + 3, len, len);
        assert_int_equal(set(1, "d", (struct cm_bytes){bytes, len + 3u}, &change), 0);
        if (random_below(&random, 50) == 0)
            assert_int_equal(drop(1, "d", NULL, &change), 0);
        if (random_below(&random, 100) == 0)
            stores_tend(&stores, true);
    }
    atomic_store(&over, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (wrong)
        fail_msg("%s", wrong);
    close_documents();
}

/* --- allocations that fail --- */

/* Each operation is tried once; what failed has changed nothing. Returns whether one did. */
static int operate(void *data) {
    (void)data;
    int err = open_documents(4 << 20);
    if (err)
        return err;
    struct cm_document_change change;
    struct cm_buf buf = {0};
    struct cm_bytes value, body;
    static const uint8_t path[] = "\xa1"
                                  "a\xa1"
                                  "b";
    struct cm_bytes name = {path + 1, 1}, whole = {path, 2}, part = {path, 4};
    struct cm_document_put put = {
        .path = part, .value = BYTES("\x05"), .expires_ms = 2000, .number = 1, .max_bytes = MAX_BYTES};
    uint64_t replaced, version, cursor = 0;
    unsigned met[NAMES] = {0};
    err = cm_documents_begin(&master, 1);
    int set = cm_documents_set(&master, 1, &put, &change);
    int got = cm_documents_get(&reader, 1, part, &buf, &value, &version);
    assert_true(got == CM_E_NOMEMORY || got == (set ? CM_E_NOTFOUND : 0));
    err = err ? err : set ? set : got;
    put =
        (struct cm_document_put){.path = whole, .value = BYTES("\xc3"), .number = 1, .max_bytes = MAX_BYTES};
    int again = set ? set : cm_documents_set(&master, 1, &put, &change);
    got = cm_documents_get(&reader, 1, whole, &buf, &value, NULL);
    if (!got && !again)
        assert_memory_equal(value.data, "\xc3", 1);
    else if (!got)
        assert_int_equal(value.data[0], 0x81);
    else
        assert_true(got == CM_E_NOMEMORY || (set && got == CM_E_NOTFOUND));
    err = err ? err : again ? again : got;
    if (!err)
        err = cm_documents_take(&master, 1, name, 1, &body);
    if (!err)
        err = cm_documents_put(&master, 1, name, 2, BYTES("\x81\x01" MARK("\x09") "\x01"), &replaced);
    if (!err)
        err = cm_documents_walk(&reader, 1, &cursor, UINT32_MAX, meet, met);
    if (!err)
        err = cm_documents_purge(&master, 1, name, &change);
    if (!err)
        err = cm_documents_delete(&master, 1, whole, NULL, &change);
    if (!err)
        err = cm_documents_clear(&master, 1, &cursor, UINT32_MAX);
    if (!err)
        assert_int_equal(used_bytes(), 0);
    stores_check_counts(&stores.segment, true);
    cm_buf_deinit(&buf);
    close_documents();
    return err;
}

static void failed_allocations_change_nothing(void **state) {
    (void)state;
    alloc_failure_each(operate, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_version_is_the_whole_documents),
        cmocka_unit_test(what_is_no_path_or_value_changes_nothing),
        cmocka_unit_test(a_document_has_bounds),
        cmocka_unit_test(a_refused_change_leaves_all_as_it_was),
        cmocka_unit_test(at_the_cap_the_old_document_stays),
        cmocka_unit_test(a_storage_is_open_between_begin_and_end),
        cmocka_unit_test(the_sweep_tells_what_is_due_and_removes_nothing),
        cmocka_unit_test(random_operations_match_trees),
        cmocka_unit_test(a_reader_sees_whole_documents_beside_the_writer),
        cmocka_unit_test(failed_allocations_change_nothing),
    };
    return cmocka_run_group_tests_name("documents", tests, NULL, NULL);
}
