#include "spec/core/hunt.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum hunt_request_state { IDLE, ASKED, DONE };

enum {
    SHORT_SECONDS = 110, /* below CTest's limit */
    LONG_SECONDS = 7200,
    LOOK_MS = 250,
    WAIT_MS = 20000,
    GROW_SLICE = 64,
    CLEAN_SLICES = 8,
    STOCK_TURNS = 16,
    SWEEP_RECORDS = 500,
    REQUEST_TRIES = 10000,
    MARKED_MOST = 64, /* chunks at a time, where all is to be cleaned always */
    JITTER_US = 1000,
    EXIT_FAILED = 9,
};

bool hunt_is_long;
static pid_t master_pid;

void hunt_main(int argc, char **argv) {
    const char *text = getenv("CM_LONG");
    hunt_is_long = (text && strcmp(text, "0") != 0) || (argc > 1 && strcmp(argv[1], "--long") == 0);
    master_pid = getpid();
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(hunt_is_long ? LONG_SECONDS : SHORT_SECONDS);
}

uint64_t hunt_now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void hunt_pause(void) {
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

void *hunt_share(size_t len) {
    void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

void hunt_fail(const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (getpid() != master_pid) {
        fprintf(stderr, "worker %d: %s\n", (int)getpid(), text);
        _exit(EXIT_FAILED);
    }
    fail_msg("%s", text);
    abort(); /* fail_msg does not return */
}

/* --- the master --- */

static int make_room(void *data, uint64_t bytes, uint64_t freed_bytes) {
    struct hunt *hunt = data;
    return cm_cleaner_make_room(&hunt->cleaner, bytes, freed_bytes);
}

void hunt_open(struct hunt *hunt, uint64_t bytes, uint32_t seats) {
    *hunt = (struct hunt){.shared = hunt_share(sizeof *hunt->shared)};
    assert_int_equal(cm_segment_create(bytes, seats, &hunt->segment), 0);
    assert_int_equal(cm_cleaner_init(&hunt->cleaner, &hunt->segment), 0);
    assert_int_equal(cm_reaper_init(&hunt->reaper, &hunt->segment, &hunt->cleaner), 0);
    cm_participant_init(&hunt->participant, &hunt->segment, CM_MASTER_SEAT);
    hunt->participant.on_wait = cm_reaper_on_wait;
    hunt->participant.on_wait_data = &hunt->reaper;
    hunt->cleaner.mover.on_wait = cm_reaper_on_wait;
    hunt->cleaner.mover.on_wait_data = &hunt->reaper;
    cm_store_init(&hunt->store, &hunt->participant);
    hunt->store.make_room = make_room;
    hunt->store.data = hunt;
}

void hunt_close(struct hunt *hunt) {
    for (unsigned i = 0; i < HUNT_WORKERS_MOST; i++) {
        if (hunt->workers[i].pid) {
            kill(hunt->workers[i].pid, SIGKILL);
            waitpid(hunt->workers[i].pid, NULL, 0);
        }
    }
    cm_store_deinit(&hunt->store);
    cm_participant_deinit(&hunt->participant);
    cm_reaper_deinit(&hunt->reaper);
    cm_cleaner_deinit(&hunt->cleaner);
    cm_segment_close(&hunt->segment);
    munmap(hunt->shared, sizeof *hunt->shared);
}

/* Whether that much would have fitted, with a chunk's worth of doubt for each participant. */
static bool has_room(struct hunt *hunt, uint64_t bytes) {
    struct cm_chunk_census census;
    cm_chunk_count(&hunt->segment, &census);
    uint64_t doubt = (uint64_t)hunt->segment.layout.chunk_bytes * hunt->segment.layout.seats;
    return census.live_bytes + bytes * 17 / 16 + doubt < cm_chunk_limit_bytes(&hunt->segment);
}

static bool serve(struct hunt *hunt) {
    bool any = false;
    for (unsigned i = 0; i < HUNT_WORKERS_MOST; i++) {
        struct hunt_request *request = &hunt->shared->workers[i].request;
        if (atomic_load_explicit(&request->state, memory_order_acquire) != ASKED)
            continue;
        struct cm_bytes key = {request->key, request->key_len};
        struct cm_value value = {request->is_number, request->number, {request->value, request->value_len}};
        struct cm_number zero = {0}, sum;
        request->result =
            request->is_increment
                ? cm_store_increment(&hunt->store, key, request->number, zero, 0, &sum, &request->version)
                : cm_store_set(&hunt->store, key, &value, &request->change, &request->version);
        hunt->served++;
        hunt->refused += request->result == CM_E_NOMEMORY && has_room(hunt, request->value_len);
        atomic_store_explicit(&request->state, DONE, memory_order_release);
        any = true;
    }
    return any;
}

static bool clean_some(struct hunt *hunt) {
    if (hunt->always_cleaning && hunt->cleaner.marked < MARKED_MOST) {
        /* What lies in the master's own open chunks is to be moved too. */
        cm_append_close(&hunt->cleaner.mover);
        cm_append_close(&hunt->participant);
        for (uint32_t i = 0; i < hunt->segment.layout.chunks && hunt->cleaner.marked < MARKED_MOST; i++) {
            hunt->next_evacuated = (hunt->next_evacuated + 1) % hunt->segment.layout.chunks;
            struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(&hunt->segment, hunt->next_evacuated));
            if (word.state == CM_CHUNK_CLOSED && word.live_bytes)
                cm_cleaner_mark(&hunt->cleaner, hunt->next_evacuated);
        }
    }
    enum cm_cleaned done = CM_CLEANED_MORE;
    for (int i = 0; done == CM_CLEANED_MORE && i < CLEAN_SLICES; i++)
        done = cm_cleaner_run(&hunt->cleaner);
    return done == CM_CLEANED_MORE;
}

bool hunt_turn(struct hunt *hunt) {
    bool busy = serve(hunt);
    busy |= cm_table_grow(&hunt->participant, GROW_SLICE);
    busy |= clean_some(hunt);
    if (hunt->turns++ % STOCK_TURNS == 0)
        cm_cleaner_stock(&hunt->segment, hunt->turns / STOCK_TURNS % 2 == 0);
    uint64_t now_ms = cm_clock_ms();
    if (now_ms - hunt->looked_ms >= LOOK_MS) {
        hunt->looked_ms = now_ms;
        cm_reaper_look(&hunt->reaper, now_ms);
        cm_expiry_sweep(&hunt->sweep, &hunt->participant, now_ms, SWEEP_RECORDS);
    }
    return busy;
}

void hunt_run(struct hunt *hunt, uint64_t for_us) {
    for (uint64_t start = hunt_now_us(); hunt_now_us() - start < for_us;) {
        hunt_turn(hunt);
        sched_yield();
    }
}

/* --- workers --- */

static void on_jitter(int signal) {
    (void)signal;
    int saved = errno;
    sched_yield();
    errno = saved;
}

/* Takes the worker off the processor at any instruction, a thousand times a second: where there are fewer
 * processors than workers they would meet once in each time slice only. */
static void jitter(unsigned number) {
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_jitter, .sa_flags = SA_RESTART}, NULL);
    suseconds_t us = JITTER_US + 70 * (suseconds_t)number;
    setitimer(ITIMER_REAL, &(struct itimerval){{0, us}, {0, us}}, NULL);
}

static void be_worker(struct hunt *hunt, unsigned number, uint32_t seat, hunt_work_fn work, void *data) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    jitter(number);
    if (getppid() != master_pid)
        _exit(0);
    cm_seat_assign(&hunt->segment, seat, getpid());
    struct hunt_self self = {
        .hunt = hunt, .number = number, .random = (uint64_t)getpid() * 1000003 + number, .data = data};
    cm_participant_init(&self.participant, &hunt->segment, seat);
    cm_store_init(&self.store, &self.participant);
    work(&self);
    cm_append_close(&self.participant);
    _exit(0);
}

void hunt_start(struct hunt *hunt, unsigned number, hunt_work_fn work, void *data) {
    struct hunt_worker *worker = &hunt->workers[number];
    assert_int_equal(worker->pid, 0);
    assert_int_equal(cm_seat_take(&hunt->segment, &worker->seat), 0);
    atomic_store(&hunt->shared->workers[number].request.state, IDLE);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        be_worker(hunt, number, worker->seat, work, data);
    worker->pid = pid;
    cm_seat_assign(&hunt->segment, worker->seat, pid);
}

bool hunt_is(const struct hunt *hunt, unsigned number, int options) {
    siginfo_t info = {0};
    pid_t pid = hunt->workers[number].pid;
    return waitid(P_PID, (id_t)pid, &info, options | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

void hunt_until(struct hunt *hunt, unsigned number, int options) {
    uint64_t deadline_ms = cm_clock_ms() + (hunt_is_long ? LONG_SECONDS * 1000 : WAIT_MS);
    while (!hunt_is(hunt, number, options)) {
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "worker %u does not come to its end", number);
        if (hunt_turn(hunt))
            sched_yield();
        else
            hunt_pause();
    }
}

int hunt_take(struct hunt *hunt, unsigned number) {
    siginfo_t info = {0};
    assert_int_equal(waitid(P_PID, (id_t)hunt->workers[number].pid, &info, WEXITED), 0);
    hunt->workers[number].pid = 0;
    if (info.si_code != CLD_EXITED)
        return info.si_status;
    HUNT_CHECK(info.si_status == 0, "worker %u has failed, exit status %d", number, info.si_status);
    for (uint32_t i = 0; i < hunt->segment.layout.chunks; i++) {
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(&hunt->segment, i));
        HUNT_CHECK(word.owner != hunt->workers[number].seat, "worker %u has ended and left chunk %u open",
                   number, i);
    }
    return 0;
}

void hunt_bury(struct hunt *hunt, unsigned number) {
    cm_reaper_repair(&hunt->reaper, hunt->workers[number].seat);
    cm_reaper_bury(&hunt->reaper, hunt->workers[number].seat);
}

void hunt_finish(struct hunt *hunt) {
    atomic_store(&hunt->shared->stop, 1);
    for (unsigned i = 0; i < HUNT_WORKERS_MOST; i++) {
        if (!hunt->workers[i].pid)
            continue;
        hunt_until(hunt, i, WEXITED);
        int signal = hunt_take(hunt, i);
        HUNT_CHECK(signal == 0, "worker %u was killed by signal %d", i, signal);
        hunt_bury(hunt, i);
    }
    atomic_store(&hunt->shared->stop, 0);
}

/* Nomemory is asked again: whether the master was right to say so is counted there. */
static int ask(struct hunt_self *self, uint64_t *version) {
    struct hunt_request *request = &self->hunt->shared->workers[self->number].request;
    for (int i = 0; i < REQUEST_TRIES; i++) {
        atomic_store_explicit(&request->state, ASKED, memory_order_release);
        while (atomic_load_explicit(&request->state, memory_order_acquire) != DONE)
            hunt_pause();
        if (request->result != CM_E_NOMEMORY)
            break;
    }
    *version = request->version;
    return request->result;
}

static struct hunt_request *new_request(struct hunt_self *self, struct cm_bytes key) {
    struct hunt_request *request = &self->hunt->shared->workers[self->number].request;
    request->key_len = key.len;
    memcpy(request->key, key.data, key.len);
    return request;
}

int hunt_set(struct hunt_self *self, struct cm_bytes key, const struct cm_value *value,
             const struct cm_change *change, uint64_t *version) {
    int err = cm_store_set(&self->store, key, value, change, version);
    if (err != CM_E_NOMEMORY)
        return err;
    struct hunt_request *request = new_request(self, key);
    request->is_increment = false;
    request->change = *change;
    request->is_number = value->is_number;
    request->number = value->number;
    request->value_len = value->is_number ? 0 : value->bytes.len;
    if (request->value_len)
        memcpy(request->value, value->bytes.data, value->bytes.len);
    return ask(self, version);
}

int hunt_increment(struct hunt_self *self, struct cm_bytes key, struct cm_number delta, uint64_t *version) {
    struct cm_number zero = {0}, sum;
    int err = cm_store_increment(&self->store, key, delta, zero, 0, &sum, version);
    if (err != CM_E_NOMEMORY)
        return err;
    struct hunt_request *request = new_request(self, key);
    request->is_increment = true;
    request->number = delta;
    request->value_len = 0;
    return ask(self, version);
}

bool hunt_told_to_stop(struct hunt_self *self) {
    atomic_fetch_add_explicit(&self->hunt->shared->workers[self->number].operations, 1, memory_order_relaxed);
    return atomic_load_explicit(&self->hunt->shared->stop, memory_order_relaxed);
}

/* --- keys and values --- */

struct cm_bytes hunt_key(struct hunt_key *key, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int len = vsnprintf(key->text, sizeof key->text, format, list);
    va_end(list);
    return key->bytes = (struct cm_bytes){(const uint8_t *)key->text, (size_t)len};
}

static uint64_t pattern(uint64_t key, uint32_t seed, size_t len, uint64_t at) {
    uint64_t word = (key * 0x9e3779b97f4a7c15 + ((uint64_t)seed << 32 | len) + at) * 0xbf58476d1ce4e5b9;
    return word ^ word >> 29;
}

/* {seed 32, length 32}, then words of the pattern; one shorter than that has bytes of it. */
void hunt_fill(uint8_t *value, size_t len, uint64_t key, uint32_t seed) {
    if (len < 8) {
        for (size_t i = 0; i < len; i++)
            value[i] = (uint8_t)pattern(key, 0, len, i);
        return;
    }
    uint64_t word = (uint64_t)seed << 32 | len;
    for (size_t i = 0; i < len; i += 8) {
        memcpy(value + i, &word, len - i < 8 ? len - i : 8);
        word = pattern(key, seed, len, i);
    }
}

const char *hunt_check_value(struct cm_bytes value, uint64_t key, uint32_t *seed) {
    *seed = 0;
    if (value.len == 0)
        return "empty";
    if (value.len < 8) {
        for (size_t i = 0; i < value.len; i++) {
            if (value.data[i] != (uint8_t)pattern(key, 0, value.len, i))
                return "a short value's bytes";
        }
        return NULL;
    }
    uint64_t word;
    memcpy(&word, value.data, 8);
    if ((uint32_t)word != value.len)
        return "the length in it is another";
    *seed = (uint32_t)(word >> 32);
    return hunt_check_part((struct cm_bytes){value.data + 8, value.len - 8}, 8, value.len, key, *seed);
}

const char *hunt_check_part(struct cm_bytes part, size_t at, size_t len, uint64_t key, uint32_t seed) {
    for (size_t i = 0; i < part.len; i += 8) {
        uint64_t expected = pattern(key, seed, len, at + i - 8);
        if (memcmp(part.data + i, &expected, part.len - i < 8 ? part.len - i : 8) != 0)
            return "bytes in the midst of it";
    }
    return NULL;
}

uint64_t hunt_put(struct hunt *hunt, struct cm_bytes key, uint64_t number, size_t len, uint32_t seed) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    uint64_t version;
    hunt_fill(bytes, len, number, seed);
    struct cm_value value = {.bytes = {bytes, len}};
    int err = cm_store_set(&hunt->store, key, &value, &(struct cm_change){0}, &version);
    HUNT_CHECK(err == 0, "set: %s", cm_error_name(err));
    return version;
}

static uint32_t group_of(const struct hunt *hunt, uint64_t hash) {
    uint32_t groups = atomic_load(&hunt->segment.header->groups);
    uint32_t mask = UINT32_MAX >> __builtin_clz(groups - 1);
    uint32_t index = (uint32_t)hash & mask;
    return index < groups ? index : index & mask >> 1;
}

uint32_t hunt_group(const struct hunt *hunt, struct cm_bytes key) {
    return group_of(hunt, cm_table_key(&hunt->segment, key).hash);
}

struct cm_bytes hunt_key_in(const struct hunt *hunt, uint32_t group, const char *prefix,
                            struct hunt_key *key) {
    for (unsigned i = 0;; i++) {
        if (hunt_group(hunt, hunt_key(key, "%s %u", prefix, i)) == group)
            return key->bytes;
    }
}

/* --- the audit --- */

static void count_record(struct hunt *hunt, uint64_t *reachable, uint64_t offset, struct hunt_audit *audit) {
    struct cm_record *record = cm_record_at(&hunt->segment, offset);
    HUNT_CHECK(record, "a link leads to %#lx", (unsigned long)offset);
    uint64_t len_bytes = cm_shape_bytes(cm_record_shape(record));
    HUNT_CHECK(len_bytes, "a record of no shape at %#lx", (unsigned long)offset);
    uint32_t chunk = (uint32_t)cm_segment_chunk_of(&hunt->segment, offset);
    uint64_t at = offset - cm_segment_chunk_at(&hunt->segment, chunk);
    uint64_t used = atomic_load(&hunt->segment.chunks[chunk].used);
    HUNT_CHECK(at + len_bytes <= used, "a record ends at %lu in chunk %u, which uses %lu",
               (unsigned long)(at + len_bytes), chunk, (unsigned long)used);
    reachable[chunk] += len_bytes;
    audit->reachable_bytes += len_bytes;
}

static void count_entry(struct hunt *hunt, uint32_t group, uint64_t *reachable, uint64_t offset,
                        struct hunt_audit *audit) {
    count_record(hunt, reachable, offset, audit);
    struct cm_record *record = cm_record_at(&hunt->segment, offset);
    uint64_t hash = atomic_load(&record->hash);
    HUNT_CHECK(group_of(hunt, hash) == group, "an entry of group %u in group %u", group_of(hunt, hash),
               group);
    HUNT_CHECK(hash & CM_SPACE_CACHE || cm_record_version(record) <=
                                            cm_word_sequence(atomic_load(&hunt->segment.groups[group].word)),
               "an entry's version is above its group's sequence");
    audit->entries++;
    struct cm_shape shape = cm_record_shape(record);
    if (shape.kind != CM_KIND_LONG)
        return;
    const uint64_t whole = cm_words(shape.key_len) + cm_words(shape.value_len);
    uint64_t left = whole, before = offset, list = 0;
    for (offset = atomic_load(record->payload); offset; offset = atomic_load(&record->next)) {
        count_record(hunt, reachable, offset, audit);
        record = cm_record_at(&hunt->segment, offset);
        HUNT_CHECK(atomic_load(&record->before) == before, "a fragment names another one before it");
        HUNT_CHECK(left == whole || atomic_load(&record->list) == list, "a fragment of another list");
        list = atomic_load(&record->list);
        before = offset;
        HUNT_CHECK(cm_record_shape(record).kind == CM_KIND_FRAGMENT, "a fragment that is none");
        left -= cm_words(cm_record_shape(record).value_len);
    }
    HUNT_CHECK(left == 0, "a long value lacks %ld bytes", (long)left);
}

static void audit_chunk(struct hunt *hunt, uint32_t index, uint64_t reachable, struct hunt_audit *audit) {
    struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(&hunt->segment, index));
    uint64_t live = word.live_bytes;
    if (word.state == CM_CHUNK_OPEN) {
        HUNT_CHECK(word.owner && atomic_load(&cm_segment_seat(&hunt->segment, word.owner)->pid) > 0
                       ? true
                       : word.owner == CM_MASTER_SEAT,
                   "chunk %u is open to seat %u, where nobody sits", index, word.owner);
        uint64_t unused = hunt->segment.layout.chunk_bytes - atomic_load(&hunt->segment.chunks[index].used);
        HUNT_CHECK(live >= unused, "open chunk %u: live %lu below its rest %lu", index, (unsigned long)live,
                   (unsigned long)unused);
        live -= unused;
    } else {
        HUNT_CHECK(word.state != CM_CHUNK_PUNCHING, "chunk %u is being punched", index);
        HUNT_CHECK(word.state == CM_CHUNK_CLEANING || word.owner == 0, "closed chunk %u has owner %u", index,
                   word.owner);
        HUNT_CHECK(!reachable || !cm_chunk_is_free(&word), "reachable entries in free chunk %u", index);
    }
    HUNT_CHECK(live >= reachable, "chunk %u (state %d): live %lu below reachable %lu", index, (int)word.state,
               (unsigned long)live, (unsigned long)reachable);
    audit->lost_bytes += live - reachable;
}

/* What the words say has pages behind it has. Others that were read by mistake may have some too. */
static void audit_pages(const struct hunt *hunt) {
    const struct cm_layout *layout = &hunt->segment.layout;
    struct stat file;
    assert_int_equal(fstat(hunt->segment.fd, &file), 0);
    uint64_t room = layout->chunks_at - layout->groups_at;
    uint64_t groups = CM_GROUPS_BACKED * sizeof(struct cm_group);
    uint64_t expected = layout->recency_at + (groups < room ? groups : room);
    for (uint32_t i = 0; i < layout->chunks; i++)
        expected += cm_chunk_unpack(cm_chunk_load(&hunt->segment, i)).hole ? 0 : layout->chunk_bytes;
    uint64_t present = (uint64_t)file.st_blocks * 512;
    HUNT_CHECK(present >= expected, "%lu bytes of pages, and %lu that are said to be there",
               (unsigned long)present, (unsigned long)expected);
}

void hunt_audit(struct hunt *hunt, bool exact, struct hunt_audit *audit) {
    const struct cm_segment *segment = &hunt->segment;
    *audit = (struct hunt_audit){0};
    uint64_t *reachable = calloc(segment->layout.chunks, sizeof *reachable);
    assert_non_null(reachable);
    uint32_t groups = atomic_load(&segment->header->groups);
    for (uint32_t i = 0; i < groups; i++) {
        struct cm_group *group = &segment->groups[i];
        uint64_t word = atomic_load(&group->word);
        HUNT_CHECK(cm_word_owner(word) == 0, "group %u is owned by seat %u", i, cm_word_owner(word));
        HUNT_CHECK((cm_word_sequence(word) & 1) == 0, "group %u is shut", i);
        for (int chain = 0; chain < CM_GROUP_CHAINS; chain++) {
            for (uint64_t offset = atomic_load(&group->chains[chain]); offset;
                 offset = atomic_load(&cm_record_at(segment, offset)->next))
                count_entry(hunt, i, reachable, offset, audit);
        }
    }
    for (uint32_t i = 0; i < segment->layout.chunks; i++)
        audit_chunk(hunt, i, reachable[i], audit);
    audit_pages(hunt);
    free(reachable);
    uint64_t counted = cm_table_entries(segment);
    HUNT_CHECK(audit->entries == counted, "%lu entries, counted as %lu", (unsigned long)audit->entries,
               (unsigned long)counted);
    HUNT_CHECK(!exact || audit->lost_bytes == 0, "%lu bytes are lost (reachable: %lu)",
               (unsigned long)audit->lost_bytes, (unsigned long)audit->reachable_bytes);
}

bool hunt_clean(struct hunt *hunt) {
    uint64_t deadline_ms = cm_clock_ms() + WAIT_MS;
    for (;;) {
        enum cm_cleaned done = cm_cleaner_run(&hunt->cleaner);
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "cleaning does not end: %u marked, %u parked",
                   hunt->cleaner.marked, hunt->cleaner.parked_count);
        if (done == CM_CLEANED_MORE)
            continue;
        if (hunt->cleaner.marked == 0 && done == CM_CLEANED_ENOUGH)
            return true;
        /* What is marked may lie in chunks that are the master's own, and stay open for as long as it is
         * idle. */
        bool was_open = hunt->participant.appender.chunk != CM_NO_CHUNK ||
                        hunt->cleaner.mover.appender.chunk != CM_NO_CHUNK;
        cm_append_close(&hunt->participant);
        cm_append_close(&hunt->cleaner.mover);
        if (!was_open && done == CM_CLEANED_ENOUGH)
            return false;
    }
}

void hunt_check_unnamed(const struct hunt *hunt, uint32_t id) {
    const struct cm_segment *segment = &hunt->segment;
    const struct cm_seat *seat = cm_segment_seat(segment, id);
    uint32_t groups = atomic_load(&segment->header->groups);
    for (uint32_t i = 0; i < groups; i++)
        HUNT_CHECK(cm_word_owner(atomic_load(&segment->groups[i].word)) != id,
                   "group %u is owned by seat %u, which has been buried", i, id);
    for (uint32_t i = 0; i < segment->layout.chunks; i++) {
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, i));
        HUNT_CHECK(word.owner != id, "chunk %u belongs to seat %u, which has been buried", i, id);
        HUNT_CHECK(!(atomic_load(&seat->hazards[i / 64]) >> i % 64 & 1), "a hazard of buried seat %u", id);
    }
    HUNT_CHECK(!atomic_load(&seat->pid) && !atomic_load(&seat->retiring) &&
                   !atomic_load(&seat->retiring_rest) && !atomic_load(&seat->waiting_on),
               "seat %u is not empty after its burial", id);
}

uint64_t hunt_generations(const struct hunt *hunt) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < hunt->segment.layout.chunks; i++)
        sum += cm_chunk_unpack(cm_chunk_load(&hunt->segment, i)).generation;
    return sum;
}
