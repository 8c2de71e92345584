/* A durable file on a real loop and a real folder: what was synced is there again, in batches, whatever the
 * disk and SIGKILL do meanwhile. */
#include "cluster/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/disk_failure.h"
#include "spec/core/durables.h"
#include "spec/core/test.h"

enum { DEADLINE_MS = 20000, MOST_DOCUMENTS = 20001, MOST_SYNCS = 64, NO_ANSWER = 1 };

/* A document as the owner has it: its value is `bytes` bytes that follow from the number and the version. */
struct document {
    uint32_t version; /* 0: there is none */
    uint32_t bytes;
};

struct world {
    uv_loop_t loop;
    struct cm_durable *durable;
    struct document documents[MOST_DOCUMENTS];
    uint64_t last_loaded;
    unsigned loads;
    size_t turn_bytes; /* that this turn of the loop has brought */
    unsigned turn_loads;
    size_t most_turn_bytes; /* of turns with more than one document */
    unsigned writes;
    uint64_t written[8]; /* the first numbers that were asked for */
    int opens;
    int open_code;
    char open_text[CM_DURABLE_TEXT_BYTES];
    int synced[MOST_SYNCS]; /* code of each ticket */
    char sync_text[CM_DURABLE_TEXT_BYTES];
    unsigned answers;
    uint64_t last_ticket;
    bool closed;
    int load_code;
    int write_code; /* for documents of write_number (0: all) */
    uint64_t write_number;
    void (*during_load)(void);
    void (*during_write)(void);
    void (*during_open)(void);
    void (*during_sync)(void);
};
static struct world world;

static struct cm_bytes name_of(uint64_t number) {
    static char name[32];
    snprintf(name, sizeof name, "document %llu", (unsigned long long)number);
    return cm_bytes_of(name);
}

static uint8_t byte_of(uint64_t number, uint32_t version, size_t at) {
    return (uint8_t)(number * 31 + (uint64_t)version * 7 + at + (at >> 8));
}

/* The version and all bytes that follow from it. */
static int append_value(struct cm_buf *out, uint64_t number, struct document document) {
    int err = cm_buf_append(out, &document, sizeof document);
    if (!err)
        err = cm_buf_reserve(out, document.bytes);
    for (size_t i = 0; !err && i < document.bytes; i++)
        out->data[out->len++] = byte_of(number, document.version, i);
    return err;
}

static struct document check_value(uint64_t number, struct cm_bytes name, struct cm_bytes value) {
    struct document document;
    struct cm_bytes wanted = name_of(number);
    assert_int_equal(name.len, wanted.len);
    assert_memory_equal(name.data, wanted.data, name.len);
    assert_true(value.len >= sizeof document);
    memcpy(&document, value.data, sizeof document);
    assert_int_equal(value.len, sizeof document + document.bytes);
    for (size_t i = 0; i < document.bytes; i++)
        if (value.data[sizeof document + i] != byte_of(number, document.version, i))
            fail_msg("document %d is torn", (int)number);
    return document;
}

static int on_load(void *owner, uint64_t number, struct cm_bytes name, struct cm_bytes value) {
    assert_ptr_equal(owner, &world);
    assert_true(number > world.last_loaded && number < MOST_DOCUMENTS);
    world.last_loaded = number;
    world.loads++;
    world.turn_bytes += name.len + value.len;
    if (++world.turn_loads > 1 && world.turn_bytes > world.most_turn_bytes)
        world.most_turn_bytes = world.turn_bytes;
    world.documents[number] = check_value(number, name, value);
    if (world.during_load)
        world.during_load();
    return world.load_code;
}

static void on_open(void *owner, int code, const char *text) {
    (void)owner;
    world.opens++;
    world.open_code = code;
    snprintf(world.open_text, sizeof world.open_text, "%s", text);
    if (world.during_open)
        world.during_open();
}

static int on_write(void *owner, uint64_t number, struct cm_bytes name, struct cm_buf *out) {
    (void)owner;
    struct cm_bytes wanted = name_of(number);
    assert_int_equal(name.len, wanted.len);
    assert_memory_equal(name.data, wanted.data, name.len);
    if (world.writes < 8)
        world.written[world.writes] = number;
    world.writes++;
    if (world.write_code && (!world.write_number || world.write_number == number)) {
        assert_int_equal(cm_buf_append(out, "what is to be forgotten", 23), 0);
        return world.write_code;
    }
    struct document document = world.documents[number];
    if (world.during_write)
        world.during_write();
    return document.version ? append_value(out, number, document) : CM_E_NOTFOUND;
}

static void on_synced(void *owner, uint64_t ticket, int code, const char *text) {
    (void)owner;
    assert_int_equal(world.synced[ticket], NO_ANSWER);
    world.synced[ticket] = code;
    world.answers++;
    world.last_ticket = ticket;
    snprintf(world.sync_text, sizeof world.sync_text, "%s", text);
    if (world.during_sync)
        world.during_sync();
}

static void on_closed(void *owner) {
    (void)owner;
    assert_false(world.closed);
    world.closed = true;
}

static const struct cm_durable_events events = {.on_load = on_load,
                                                .on_open = on_open,
                                                .on_write = on_write,
                                                .on_synced = on_synced,
                                                .on_closed = on_closed};

static void fresh_world(void) {
    memset(&world, 0, sizeof world);
    for (int i = 0; i < MOST_SYNCS; i++)
        world.synced[i] = NO_ANSWER;
    assert_int_equal(uv_loop_init(&world.loop), 0);
}

static void turn(void) {
    world.turn_bytes = world.turn_loads = 0;
    uv_run(&world.loop, UV_RUN_NOWAIT);
}

/* Turns the loop until the condition holds. */
#define RUN_UNTIL(condition)                                \
    do {                                                    \
        uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS; \
        while (!(condition)) {                              \
            assert_true(cm_clock_ms() < deadline_ms);       \
            turn();                                         \
        }                                                   \
    } while (0)

static int begin(const char *filename) {
    fresh_world();
    return cm_durable_open(&world.loop, filename, &events, &world, &world.durable);
}

static void start(const char *filename) {
    assert_int_equal(begin(filename), 0);
    RUN_UNTIL(world.opens);
    assert_string_equal(world.open_text, "");
    assert_int_equal(world.open_code, 0);
}

static void end(bool remove_file) {
    cm_durable_close(world.durable, remove_file);
    RUN_UNTIL(world.closed);
    assert_int_equal(uv_loop_close(&world.loop), 0);
}

static void mark(uint64_t number, bool fresh, bool gone) {
    assert_int_equal(cm_durable_mark(world.durable, number, name_of(number), fresh, gone), 0);
}

static uint64_t create(uint32_t bytes) {
    uint64_t number = cm_durable_new_number(world.durable);
    world.documents[number] = (struct document){1, bytes};
    mark(number, true, false);
    return number;
}

static void change(uint64_t number) {
    world.documents[number].version++;
    mark(number, false, false);
}

static void drop(uint64_t number) {
    world.documents[number].version = 0;
    mark(number, false, true);
}

/* The answer to a sync with that ticket, which must come in a later turn. */
static int sync_with(uint64_t ticket) {
    world.synced[ticket] = NO_ANSWER;
    assert_int_equal(cm_durable_sync(world.durable, ticket), 0);
    assert_int_equal(world.synced[ticket], NO_ANSWER);
    RUN_UNTIL(world.synced[ticket] != NO_ANSWER);
    return world.synced[ticket];
}

static void sync_all(void) {
    assert_int_equal(sync_with(0), 0);
    assert_string_equal(world.sync_text, "");
}

static void many_documents_come_back_in_their_order(void **state) {
    (void)state;
    const char *path = durables_path("many.db");
    start(path);
    assert_string_equal(cm_durable_filename(world.durable), path);
    assert_int_equal(world.loads, 0);
    for (uint64_t i = 1; i < MOST_DOCUMENTS; i++)
        assert_int_equal(create(i % 5000 == 0 ? 300000 : (uint32_t)(i % 60)), i);
    sync_all();
    assert_int_equal(world.writes, MOST_DOCUMENTS - 1);
    for (uint64_t i = 1; i < MOST_DOCUMENTS; i += 7)
        drop(i);
    for (uint64_t i = 2; i < MOST_DOCUMENTS; i += 7)
        change(i);
    sync_all();
    end(false);

    start(path);
    unsigned there = 0;
    for (uint64_t i = 1; i < MOST_DOCUMENTS; i++) {
        assert_int_equal(world.documents[i].version, i % 7 == 1 ? 0 : i % 7 == 2 ? 2 : 1);
        there += i % 7 != 1;
    }
    assert_int_equal(world.loads, there);
    assert_true(world.most_turn_bytes > 200000 && world.most_turn_bytes <= 256 << 10);
    assert_int_equal(cm_durable_new_number(world.durable), MOST_DOCUMENTS);
    end(false);
}

static void numbers_are_never_used_again(void **state) {
    (void)state;
    const char *path = durables_path("numbers.db");
    start(path);
    for (uint64_t i = 1; i <= 3; i++)
        create(1);
    sync_all();
    drop(3);
    drop(2);
    sync_all();
    end(false);
    start(path);
    assert_int_equal(world.loads, 1);
    assert_int_equal(cm_durable_new_number(world.durable), 4);
    end(false);
}

static void what_is_marked_in_a_turn_is_one_transaction(void **state) {
    (void)state;
    const char *path = durables_path("batch.db");
    start(path);
    end(false);
    uint64_t before = durables_last_transaction(path);
    start(path);
    for (int i = 0; i < 1000; i++)
        create(10);
    for (uint64_t i = 1; i <= 1000; i++)
        change(i);
    uint64_t marked_ms = cm_clock_ms();
    RUN_UNTIL(world.writes);
    assert_true(cm_clock_ms() - marked_ms >= 50);
    sync_all();
    assert_int_equal(world.writes, 1000);
    end(false);
    assert_int_equal(durables_last_transaction(path), before + 1);
    /* One of 1 MiB after the other: a batch takes four or five. */
    start(path);
    for (int i = 0; i < 12; i++)
        create(1 << 20);
    sync_all();
    end(false);
    assert_int_equal(durables_last_transaction(path), before + 1 + 3);
}

static void what_the_file_could_not_give_back_is_not_marked(void **state) {
    (void)state;
    static uint8_t longest[CM_DURABLE_MAX_NAME + 1];
    struct cm_bytes name = {longest, sizeof longest};
    start(durables_path("bad.db"));
    uint64_t number = cm_durable_new_number(world.durable);
    assert_int_equal(cm_durable_mark(world.durable, number, name, true, false), CM_E_BADVALUE);
    name.len = 0;
    assert_int_equal(cm_durable_mark(world.durable, number, name, true, false), CM_E_BADVALUE);
    name.len = 1;
    assert_int_equal(cm_durable_mark(world.durable, 0, name, true, false), CM_E_BADVALUE);
    assert_int_equal(cm_durable_mark(world.durable, number + 1, name, true, false), CM_E_BADVALUE);
    name.len = CM_DURABLE_MAX_NAME;
    assert_int_equal(cm_durable_mark(world.durable, number, name, true, false), 0);
    assert_int_equal(cm_durable_mark(world.durable, number, name, true, true), 0);
    sync_all();
    assert_int_equal(world.writes, 0);
    end(false);
}

/* Without anybody who waits. */
static void marks_are_written_by_themselves(void **state) {
    (void)state;
    const char *path = durables_path("itself.db");
    start(path);
    create(10);
    RUN_UNTIL(world.writes == 1);
    end(false); /* waits for what is being written */
    start(path);
    assert_int_equal(world.documents[1].version, 1);
    end(false);
}

static void close_from_here(void) {
    cm_durable_close(world.durable, false);
}

static void what_is_not_being_written_is_lost_at_close(void **state) {
    (void)state;
    const char *path = durables_path("lost.db");
    start(path);
    create(10);
    end(false);
    start(path);
    assert_int_equal(world.loads, 0);
    end(false);
}

static void a_sync_answers_in_a_later_turn_and_each_once(void **state) {
    (void)state;
    start(durables_path("sync.db"));
    sync_all(); /* nothing is marked */
    assert_int_equal(world.writes, 0);
    create(10);
    for (uint64_t ticket = 1; ticket <= 5; ticket++)
        assert_int_equal(cm_durable_sync(world.durable, ticket), 0);
    RUN_UNTIL(world.writes == 1);
    /* It is being written: who comes now waits for that, and for what is marked now. */
    assert_int_equal(world.answers, 1);
    create(10);
    assert_int_equal(cm_durable_sync(world.durable, 6), 0);
    create(10);
    RUN_UNTIL(world.synced[6] != NO_ANSWER);
    for (int ticket = 0; ticket <= 6; ticket++)
        assert_int_equal(world.synced[ticket], 0);
    assert_int_equal(world.answers, 7);
    assert_int_equal(world.last_ticket, 6);
    end(false);
}

static void mark_again(void) {
    world.during_write = NULL;
    world.documents[1].version = 2;
    mark(1, false, false);
    mark(1, false, false);
}

static void what_changes_while_it_is_written_is_written_again(void **state) {
    (void)state;
    const char *path = durables_path("again.db");
    start(path);
    create(10);
    world.during_write = mark_again;
    sync_all();
    assert_int_equal(world.writes, 1);
    sync_all();
    assert_int_equal(world.writes, 2);
    change(1);
    assert_int_equal(cm_durable_sync(world.durable, 1), 0);
    RUN_UNTIL(world.writes == 3);
    change(1);
    sync_all();
    assert_int_equal(world.writes, 4);
    end(false);
    start(path);
    assert_int_equal(world.documents[1].version, 4);
    end(false);
}

static void what_comes_and_goes_is_never_written(void **state) {
    (void)state;
    const char *path = durables_path("fresh.db");
    start(path);
    end(false);
    uint64_t before = durables_last_transaction(path);
    start(path);
    size_t alive = alloc_failure_alive();
    for (int i = 0; i < 1000; i++)
        drop(create(10));
    mark(cm_durable_new_number(world.durable), true, true); /* nobody has ever heard of it */
    assert_int_equal(alloc_failure_alive(), alive);
    sync_all();
    assert_int_equal(world.writes, 0);
    end(false);
    assert_int_equal(durables_last_transaction(path), before);

    /* While it is being written it is too late for that. */
    start(path);
    uint64_t number = create(10);
    assert_int_equal(cm_durable_sync(world.durable, 1), 0);
    RUN_UNTIL(world.writes == 1);
    drop(number);
    sync_all();
    /* Nor when it has changed meanwhile, and goes before that is written. */
    number = create(10);
    unsigned writes = world.writes;
    assert_int_equal(cm_durable_sync(world.durable, 1), 0);
    RUN_UNTIL(world.writes > writes);
    change(number);
    world.synced[1] = NO_ANSWER;
    RUN_UNTIL(world.synced[1] != NO_ANSWER);
    assert_int_equal(world.writes, writes + 1);
    drop(number);
    sync_all();
    /* The owner has not got it any more, and did not say so. */
    number = create(10);
    sync_all();
    world.documents[number].version = 0;
    mark(number, false, false);
    sync_all();
    end(false);
    start(path);
    assert_int_equal(world.loads, 0);
    end(false);
}

/* The file may not grow beyond so many bytes; RLIM_INFINITY: as it was. */
static void limit_files(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void expect_failure(uint64_t ticket, int code) {
    assert_int_equal(sync_with(ticket), code);
    assert_non_null(strstr(world.sync_text, cm_durable_filename(world.durable)));
    assert_non_null(strstr(world.sync_text, cm_error_text(code)));
}

/* How many of the lines that have been logged to the file have the word. */
static int count_lines(const char *log, const char *word) {
    char line[CM_DURABLE_TEXT_BYTES];
    int count = 0;
    FILE *lines = fopen(log, "re");
    assert_non_null(lines);
    while (fgets(line, sizeof line, lines))
        count += strstr(line, word) != NULL;
    fclose(lines);
    return count;
}

/* Sends standard error to the file, and back where it came from. */
static int log_to(const char *log) {
    int before = dup(STDERR_FILENO);
    int fd = open(log, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(before >= 0 && fd >= 0);
    assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    close(fd);
    cm_log_set_level(CM_LOG_INFO);
    return before;
}

static void log_back(int before) {
    cm_log_set_level(CM_LOG_ERROR);
    assert_int_equal(dup2(before, STDERR_FILENO), STDERR_FILENO);
    close(before);
}

static void a_change_of_the_disks_health_is_one_line(void **state) {
    (void)state;
    const char *log = durables_path("log");
    start(durables_path("health.db"));
    int standard_error = log_to(log);
    for (int i = 1; i <= 2; i++) {
        limit_files(4096);
        create(10);
        for (int j = 0; j < 3; j++)
            expect_failure(1, -EFBIG);
        limit_files(RLIM_INFINITY);
        uint64_t failed_ms = cm_clock_ms();
        unsigned writes = world.writes;
        RUN_UNTIL(world.writes > writes);
        assert_true(cm_clock_ms() - failed_ms >= 500);
        sync_all();
        sync_all();
        assert_int_equal(count_lines(log, "warn "), i);
        assert_int_equal(count_lines(log, "health.db: File too large; it is tried again"), i);
        assert_int_equal(count_lines(log, "info "), i);
        assert_int_equal(count_lines(log, "health.db is written again"), i);
    }
    log_back(standard_error);
    end(false);
}

static void a_full_disk_loses_nothing(void **state) {
    (void)state;
    const char *path = durables_path("full.db");
    start(path);
    uint64_t kept = create(1000);
    uint64_t dropped = create(1000);
    sync_all();
    /* First it cannot grow, then not even be written. */
    rlim_t limits[] = {3 << 19, 4096};
    for (int i = 0; i < 2; i++) {
        limit_files(limits[i]);
        for (int j = 0; j < 3; j++)
            create(1 << 20);
        for (uint64_t ticket = 1; ticket <= 3; ticket++)
            expect_failure(ticket, -EFBIG);
        change(kept);
        drop(dropped);
        expect_failure(1, -EFBIG);
    }
    size_t alive = alloc_failure_alive();
    for (int i = 0; i < 20; i++) {
        uint64_t number = create(10);
        expect_failure(1, -EFBIG);
        drop(number);
    }
    assert_int_equal(alloc_failure_alive(), alive);
    /* It is tried again without being asked. */
    limit_files(RLIM_INFINITY);
    unsigned writes = world.writes;
    RUN_UNTIL(world.writes > writes);
    sync_all();
    end(false);
    start(path);
    assert_int_equal(world.loads, 7);
    assert_int_equal(world.documents[kept].version, 3);
    assert_int_equal(world.documents[dropped].version, 0);
    end(false);
}

/* A transaction of which nobody knows whether it is on disk: what goes then must be removed all the same. */
static void what_may_be_in_the_file_is_removed(void **state) {
    (void)state;
    const char *path = durables_path("perhaps.db");
    int in_the_file = 0;
    size_t failed = 1;
    for (size_t nth = 1; failed; nth++) {
        unlink(path);
        start(path);
        create(10);
        sync_all();
        uint64_t number = create(100000);
        disk_failure_arm(DISK_FAILS_LATE, nth, true);
        int code = sync_with(1);
        failed = disk_failure_arm(DISK_FAILS, 0, false);
        assert_int_equal(code, failed ? -EIO : 0);
        in_the_file += failed && durables_last_transaction(path) == 3;
        unsigned writes = world.writes;
        drop(number);
        sync_all();
        assert_int_equal(world.writes, writes); /* for what is gone nobody is asked */
        end(false);
        start(path);
        assert_int_equal(world.loads, 1);
        end(false);
    }
    assert_true(in_the_file > 0);
}

/* A document of which the owner has no value just now keeps no other one back. */
static void what_cannot_be_had_is_asked_for_again(void **state) {
    (void)state;
    const char *path = durables_path("later.db");
    const int codes[] = {CM_E_NOMEMORY, CM_E_TOOLARGE};
    start(path);
    for (int i = 0; i < 2; i++) {
        uint64_t first = create(10);
        uint64_t second = create(10);
        world.write_code = codes[i];
        world.write_number = second;
        uint64_t third = create(10);
        expect_failure(1, codes[i]);
        expect_failure(2, codes[i]);
        world.write_code = 0;
        sync_all();
        (void)first;
        (void)third;
    }
    world.write_code = CM_E_NOMEMORY;
    world.write_number = 0;
    change(1);
    change(2);
    world.writes = 0;
    expect_failure(1, CM_E_NOMEMORY);
    assert_int_equal(world.writes, 1); /* then it leaves the owner alone */
    world.write_code = 0;
    RUN_UNTIL(world.writes > 1);
    sync_all();
    assert_int_equal(world.written[1], 1);
    assert_int_equal(world.written[2], 2);
    end(false);
    start(path);
    assert_int_equal(world.loads, 6);
    assert_int_equal(world.documents[1].version, 2);
    end(false);
}

static void expect_refusal(const char *filename, int code, const char *part) {
    assert_int_equal(begin(filename), 0);
    RUN_UNTIL(world.opens);
    assert_int_equal(world.open_code, code);
    assert_non_null(strstr(world.open_text, part));
    assert_null(strchr(world.open_text, '\n'));
    /* What is asked of it all the same has an answer. */
    assert_int_equal(sync_with(1), CM_E_CLOSED);
    end(false);
}

static void a_file_that_cannot_be_opened_is_said_so(void **state) {
    (void)state;
    expect_refusal(durables_path("no/folder.db"), -ENOENT, "no/folder.db");
    const char *path = durables_path("twice.db");
    start(path);
    /* The same file twice in one process is no better. */
    struct cm_durable *first = world.durable;
    assert_int_equal(cm_durable_open(&world.loop, path, &events, &world, &world.durable), 0);
    RUN_UNTIL(world.opens == 2);
    assert_int_equal(world.open_code, CM_E_BUSY);
    assert_non_null(strstr(world.open_text, "twice.db is open in another cluster"));
    cm_durable_close(world.durable, false);
    RUN_UNTIL(world.closed);
    world.closed = false;
    world.durable = first;
    create(10);
    sync_all();
    end(false);
}

static void the_owner_may_refuse_a_document(void **state) {
    (void)state;
    const char *path = durables_path("refused.db");
    start(path);
    create(10);
    create(10);
    sync_all();
    end(false);
    assert_int_equal(begin(path), 0);
    world.load_code = CM_E_BADVALUE;
    RUN_UNTIL(world.opens);
    assert_int_equal(world.open_code, CM_E_BADVALUE);
    assert_int_equal(world.loads, 1);
    assert_non_null(strstr(world.open_text, "refused.db: document 1: "));
    end(false);
}

static void it_can_be_closed_at_any_time(void **state) {
    (void)state;
    const char *path = durables_path("closed.db");
    for (int i = 0; i < 2; i++) {
        /* While it is opened, first a new file, then one that is there. */
        assert_int_equal(begin(path), 0);
        end(false);
        assert_int_equal(world.opens, 0);
        start(path);
        end(false);
    }
    start(path);
    for (int i = 0; i < 10; i++)
        create(100000);
    sync_all();
    end(false);
    /* In its callbacks. */
    assert_int_equal(begin(path), 0);
    world.during_load = close_from_here;
    RUN_UNTIL(world.closed);
    assert_int_equal(world.loads, 1);
    assert_int_equal(world.opens, 0);
    assert_int_equal(uv_loop_close(&world.loop), 0);
    assert_int_equal(begin(path), 0);
    world.during_open = close_from_here;
    RUN_UNTIL(world.closed);
    assert_int_equal(uv_loop_close(&world.loop), 0);
    start(path);
    change(1);
    change(2);
    world.during_write = close_from_here;
    assert_int_equal(cm_durable_sync(world.durable, 1), 0);
    RUN_UNTIL(world.closed);
    assert_int_equal(world.writes, 1);
    assert_int_equal(world.synced[1], CM_E_CLOSED);
    assert_int_equal(uv_loop_close(&world.loop), 0);
    start(path);
    assert_int_equal(world.documents[1].version, 1);
    world.during_sync = close_from_here;
    assert_int_equal(cm_durable_sync(world.durable, 1), 0);
    assert_int_equal(cm_durable_sync(world.durable, 2), 0);
    RUN_UNTIL(world.closed);
    assert_int_equal(world.answers, 2);
    assert_int_equal(uv_loop_close(&world.loop), 0);
    /* While it is written, twice, with somebody who waits for more. */
    start(path);
    change(3);
    assert_int_equal(cm_durable_sync(world.durable, 1), 0);
    RUN_UNTIL(world.writes == 1);
    change(4);
    assert_int_equal(cm_durable_sync(world.durable, 2), 0);
    cm_durable_close(world.durable, false);
    assert_int_equal(cm_durable_sync(world.durable, 3), CM_E_CLOSED);
    assert_int_equal(cm_durable_mark(world.durable, 3, name_of(3), false, false), CM_E_CLOSED);
    end(false);
    assert_int_equal(world.synced[1], 0);
    assert_int_equal(world.synced[2], CM_E_CLOSED);
    start(path);
    assert_int_equal(world.documents[3].version, 2);
    assert_int_equal(world.documents[4].version, 1);
    end(false);
}

static void it_can_remove_its_file(void **state) {
    (void)state;
    const char *path = durables_path("removed.db");
    start(path);
    create(10);
    sync_all();
    cm_durable_close(world.durable, false);
    end(true); /* the second call adds that */
    assert_int_equal(access(path, F_OK), -1);
    /* What somebody else has put into its place is not its own. */
    start(path);
    assert_int_equal(rename(path, durables_path("moved.db")), 0);
    durables_store(path, "hello", 5);
    end(true);
    assert_int_equal(durables_size(path), 5);
}

/* Random operations and failures against the owner's array, opened again now and then. */
static void random_operations_match_an_array(void **state) {
    (void)state;
    enum { OPERATIONS = 3000 };
    const char *path = durables_path("random.db");
    static struct document kept[MOST_DOCUMENTS];
    uint64_t random = 1;
    uint64_t last = 0;
    start(path);
    for (int i = 0; i < OPERATIONS; i++) {
        uint64_t number = 1 + random_below(&random, last);
        switch (random_below(&random, 12)) {
        case 0:
        case 1:
        case 2:
            last = create((uint32_t)random_below(&random, i % 50 ? 100 : 200000));
            break;
        case 3:
        case 4:
        case 5:
            if (last && world.documents[number].version) {
                world.documents[number].bytes = (uint32_t)random_below(&random, 5000);
                change(number);
            }
            break;
        case 6:
        case 7:
            if (last && world.documents[number].version)
                drop(number);
            break;
        case 8:
            turn();
            break;
        case 9:
            if (random_below(&random, 5) == 0)
                sync_all();
            break;
        case 10:
            if (random_below(&random, 20) == 0) {
                limit_files(4096);
                int code = sync_with(1);
                assert_true(code == 0 || code == -EFBIG);
                limit_files(RLIM_INFINITY);
            }
            break;
        default:
            if (random_below(&random, 30))
                break;
            sync_all();
            memcpy(kept, world.documents, sizeof kept);
            end(false);
            start(path);
            for (uint64_t j = 0; j < MOST_DOCUMENTS; j++) {
                assert_int_equal(world.documents[j].version, kept[j].version);
                assert_true(!kept[j].version || world.documents[j].bytes == kept[j].bytes);
            }
        }
    }
    end(false);
}

/* The child says through the pipe what it knows to be on disk; it is killed at any moment. */
struct word {
    uint64_t number;
    uint32_t version;
};

static int words;
static uint64_t round_number;

static void write_until_killed(const char *path) {
    uint64_t random = round_number;
    start(path);
    for (;;) {
        struct word told[8];
        int count = 1 + (int)random_below(&random, 8);
        for (int i = 0; i < count; i++) {
            uint64_t number = 1 + random_below(&random, 40);
            if (world.documents[number].version == 0) {
                while (cm_durable_new_number(world.durable) < number)
                    ;
                world.documents[number].version = 1;
            }
            world.documents[number].bytes = (uint32_t)random_below(&random, i == 0 ? 50000 : 500);
            change(number);
            told[i] = (struct word){number, world.documents[number].version};
        }
        sync_all();
        if (write(words, told, sizeof *told * (size_t)count) < 0)
            _exit(1);
    }
}

/* One life and death; what it has said goes into the least versions that there must be. */
static void live_and_die(const char *path, uint32_t *least, uint64_t *random) {
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        words = ends[1];
        close(ends[0]);
        write_until_killed(path);
    }
    close(ends[1]);
    struct timespec life = {0, (long)random_below(random, 60) * 1000000};
    nanosleep(&life, NULL);
    assert_int_equal(kill(pid, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    struct word word;
    while (read(ends[0], &word, sizeof word) == (ssize_t)sizeof word)
        least[word.number] = word.version;
    close(ends[0]);
}

static int visit_least(void *data, uint64_t number, struct cm_bytes name, struct cm_bytes value) {
    uint32_t *least = data;
    struct document document = check_value(number, name, value);
    assert_true(document.version >= least[number]);
    least[number] = 0;
    return 0;
}

static void sigkill_loses_nothing_that_was_synced(void **state) {
    (void)state;
    enum { ROUNDS = 20, NUMBERS = 64 };
    const char *path = durables_path("killed.db");
    static uint32_t least[NUMBERS];
    uint64_t random = cm_clock_ns();
    unsigned told = 0;
    memset(least, 0, sizeof least);
    for (int i = 0; i < ROUNDS; i++) {
        round_number = random_next(&random);
        live_and_die(path, least, &random);
        uint32_t missing[NUMBERS];
        char text[CM_DURABLE_TEXT_BYTES];
        memcpy(missing, least, sizeof least);
        int err = cm_durable_read(path, visit_least, missing, text, sizeof text);
        bool any = false;
        for (int j = 0; j < NUMBERS; j++) {
            assert_int_equal(missing[j] && !err, 0);
            any |= least[j] != 0;
        }
        /* It may have died before there was a file. */
        if (err && any)
            fail_msg("%s", text);
        told += any;
    }
    assert_true(told > 0);
}

static int open_and_write(void *data) {
    const char *path = data;
    int err = begin(path);
    if (err) {
        assert_int_equal(uv_loop_close(&world.loop), 0);
        return err;
    }
    RUN_UNTIL(world.opens);
    err = world.open_code;
    if (!err) {
        uint64_t number = cm_durable_new_number(world.durable);
        world.documents[number] = (struct document){1, 5000};
        err = cm_durable_mark(world.durable, number, name_of(number), true, false);
        if (!err)
            err = cm_durable_sync(world.durable, 1);
        if (!err) {
            RUN_UNTIL(world.synced[1] != NO_ANSWER);
            err = world.synced[1];
        }
    }
    end(false);
    return err;
}

static void without_memory_it_says_so(void **state) {
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s", durables_path("memory.db"));
    start(path);
    create(10);
    sync_all();
    end(false);
    alloc_failure_each(open_and_write, path);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, durables_make_folder, durables_remove_folder)
    const struct CMUnitTest tests[] = {
        /* First: TSan wants no threads where a process forks and the child goes on. */
        TEST(sigkill_loses_nothing_that_was_synced),
        TEST(many_documents_come_back_in_their_order),
        TEST(numbers_are_never_used_again),
        TEST(what_is_marked_in_a_turn_is_one_transaction),
        TEST(what_the_file_could_not_give_back_is_not_marked),
        TEST(marks_are_written_by_themselves),
        TEST(what_is_not_being_written_is_lost_at_close),
        TEST(a_sync_answers_in_a_later_turn_and_each_once),
        TEST(what_changes_while_it_is_written_is_written_again),
        TEST(what_comes_and_goes_is_never_written),
        TEST(a_full_disk_loses_nothing),
        TEST(what_may_be_in_the_file_is_removed),
        TEST(a_change_of_the_disks_health_is_one_line),
        TEST(what_cannot_be_had_is_asked_for_again),
        TEST(a_file_that_cannot_be_opened_is_said_so),
        TEST(the_owner_may_refuse_a_document),
        TEST(it_can_be_closed_at_any_time),
        TEST(it_can_remove_its_file),
        TEST(random_operations_match_an_array),
        TEST(without_memory_it_says_so),
    };
    cm_log_set_level(CM_LOG_ERROR);
    signal(SIGXFSZ, SIG_IGN); /* as in the master */
    return cmocka_run_group_tests_name("durable", tests, NULL, NULL);
}
