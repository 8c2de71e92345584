/* The file under a durable one: what it is, what is refused and why, what damage does, and the reader. */
#include "cluster/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "cluster/durable.h"
#include "cluster/durable_record.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/disk_failure.h"
#include "spec/core/durables.h"
#include "spec/core/test.h"

enum { DOCUMENTS = 300, MORE_DOCUMENTS = 1300, VALUE_BYTES = 5000 };
static const uint64_t PAGE_BYTES = 4096;
static const uint64_t NOBODY = 65534;

static struct cm_durable_file file;
static char text[CM_DURABLE_TEXT_BYTES];

static void add(struct cm_buf *batch, uint64_t number, size_t value_bytes) {
    size_t begun = batch->len;
    assert_int_equal(cm_durable_record_begin(batch, number, cm_bytes_of("name")), 0);
    assert_int_equal(cm_buf_reserve(batch, value_bytes), 0);
    memset(batch->data + batch->len, (int)(number % 251), value_bytes);
    batch->len += value_bytes;
    assert_int_equal(cm_durable_record_end(batch, begun), 0);
}

static int open_writable(const char *path) {
    text[0] = 0;
    return cm_durable_file_open(&file, path, true, text);
}

static void close_file(void) {
    assert_int_equal(cm_durable_file_close(&file, false, text), 0);
}

static int write_batch(struct cm_buf *batch, uint64_t next_number) {
    bool perhaps;
    int err = cm_durable_file_write(&file, cm_buf_view(batch), next_number, &perhaps, text);
    cm_buf_deinit(batch);
    return err;
}

/* Writes the documents up to that number, some of them of several pages. */
static int write_up_to(uint64_t last, bool *perhaps) {
    struct cm_buf batch = {0};
    for (uint64_t i = 1; i <= last; i++)
        add(&batch, i, i % 10 ? i : VALUE_BYTES);
    int err = cm_durable_file_write(&file, cm_buf_view(&batch), last + 1, perhaps, text);
    cm_buf_deinit(&batch);
    return err;
}

static const char *make_file(const char *name) {
    const char *path = durables_path(name);
    bool perhaps;
    assert_int_equal(open_writable(path), 0);
    assert_int_equal(write_up_to(DOCUMENTS, &perhaps), 0);
    close_file();
    return path;
}

struct visits {
    uint64_t count;
    uint64_t last;
    int code;
};

static int visit(void *data, uint64_t number, struct cm_bytes name, struct cm_bytes value) {
    struct visits *visits = data;
    assert_true(number > visits->last);
    visits->last = number;
    visits->count++;
    assert_int_equal(name.len, 4);
    assert_int_equal(value.len, number % 10 ? number : VALUE_BYTES);
    for (size_t i = 0; i < value.len; i++)
        assert_int_equal(value.data[i], number % 251);
    return visits->code;
}

static int read_file(const char *path, struct visits *visits) {
    *visits = (struct visits){0};
    return cm_durable_read(path, visit, visits, text, sizeof text);
}

/* Neither way it can be opened, for a reason that names the file, in one line; and it stays as it was. */
static void expect_refusal(const char *path, int code, const char *part) {
    struct stat before;
    struct stat after;
    struct visits visits;
    bool there = stat(path, &before) == 0;
    assert_int_equal(open_writable(path), code);
    assert_non_null(strstr(text, part));
    assert_non_null(strstr(text, path));
    assert_null(strchr(text, '\n'));
    if (!there) {
        assert_int_equal(stat(path, &after), -1);
        return;
    }
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    assert_memory_equal(&after.st_mtim, &before.st_mtim, sizeof after.st_mtim);
    assert_int_equal(read_file(path, &visits), code);
    assert_non_null(strstr(text, path));
}

static void put_zero(const char *path, const void *record, size_t len) {
    durables_put(path, "\0\0\0\0\0\0\0\0", 8, record, len);
}

static void what_is_not_ours_is_refused(void **state) {
    (void)state;
    const char *path = durables_path("strange.db");
    durables_store(path, "These are my letters.\n", 22);
    expect_refusal(path, CM_E_BADVALUE, "is no file of documents");
    static uint8_t zeros[1 << 16];
    durables_store(path, zeros, sizeof zeros);
    expect_refusal(path, CM_E_BADVALUE, "is no file of documents");
    memset(zeros, 0xa5, sizeof zeros);
    durables_store(path, zeros, sizeof zeros);
    expect_refusal(path, CM_E_BADVALUE, "is no file of documents");

    /* LMDB's, and somebody else's. */
    const char *foreign = durables_path("foreign.db");
    durables_put(foreign, "key", 3, "value", 5);
    expect_refusal(foreign, CM_E_BADVALUE, "is no file of documents");
    put_zero(foreign, "\5\0\0\0hello", 9);
    expect_refusal(foreign, CM_E_BADVALUE, "is no file of documents");
    put_zero(foreign, "\xff\xff\xff\xffhello", 9);
    expect_refusal(foreign, CM_E_BADVALUE, "is no file of documents");
    const char *empty = durables_path("nothing.db");
    durables_put(empty, "key", 3, "value", 5);
    durables_put(empty, "key", 3, NULL, 0);
    expect_refusal(empty, CM_E_BADVALUE, "is no file of documents");
    const char *future = durables_path("future.db");
    put_zero(future, "\26\0\0\0clustermem documents 2\1\0\0\0\0\0\0\0", 34);
    expect_refusal(future, CM_E_BADVALUE, "has the format \"clustermem documents 2\"");
    put_zero(future, "\27\0\0\0clustermem documents 12\1\0\0\0\0\0\0\0", 35);
    expect_refusal(future, CM_E_BADVALUE, "has the format \"clustermem documents 12\"");
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    const char *path = durables_path("thing");
    assert_int_equal(mkdir(path, 0700), 0);
    expect_refusal(path, -EISDIR, "is a folder");
    const char *link = durables_path("link");
    assert_int_equal(symlink(path, link), 0);
    expect_refusal(link, -EISDIR, "is a folder");
    const char *fifo = durables_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_refusal(fifo, CM_E_BADVALUE, "is no ordinary file");
    expect_refusal("/dev/null", CM_E_BADVALUE, "is no ordinary file");
    expect_refusal(durables_path("no/folder.db"), -ENOENT, "cannot create");
    const char *loop = durables_path("loop");
    assert_int_equal(symlink(loop, loop), 0);
    expect_refusal(loop, -ELOOP, "cannot open");
    char longest[300];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    expect_refusal(durables_path(longest), -ENAMETOOLONG, "cannot open");
    /* The draft's name is longer by four. */
    longest[253] = 0;
    expect_refusal(durables_path(longest), -ENAMETOOLONG, "cannot create");
    struct visits visits;
    assert_int_equal(read_file(durables_path("absent.db"), &visits), -ENOENT);
    assert_non_null(strstr(text, "absent.db"));
}

/* Runs it in a child, as nobody; whether it was as expected there. */
static void as_nobody(void (*check)(const char *path), const char *path) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && (setgid((gid_t)NOBODY) || setuid((uid_t)NOBODY)))
            _exit(2);
        check(path);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void expect_no_access(const char *path) {
    struct visits visits;
    if (open_writable(path) != -EACCES || !strstr(text, path) || read_file(path, &visits) != -EACCES)
        _exit(1);
}

static void expect_no_creation(const char *path) {
    if (open_writable(path) != -EACCES || !strstr(text, "cannot create"))
        _exit(1);
}

static void who_has_no_permission_is_told(void **state) {
    (void)state;
    const char *path = make_file("mine.db");
    struct stat found;
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0600);
    assert_int_equal(chmod(durables_path(""), 0755), 0);
    assert_int_equal(chmod(path, 0), 0);
    as_nobody(expect_no_access, path);
    if (geteuid() != 0)
        assert_int_equal(chmod(durables_path(""), 0555), 0);
    as_nobody(expect_no_creation, durables_path("new.db"));
    assert_int_equal(chmod(durables_path(""), 0700), 0);
}

static void an_empty_file_becomes_ours(void **state) {
    (void)state;
    struct visits visits;
    const char *path = durables_path("empty.db");
    const char *link = durables_path("link.db");
    durables_store(path, "", 0);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(symlink("empty.db", link), 0);
    assert_int_equal(read_file(path, &visits), CM_E_BADVALUE);
    assert_non_null(strstr(text, "empty"));
    assert_int_equal(durables_size(path), 0);
    assert_int_equal(open_writable(link), 0);
    assert_int_equal(file.next_number, 1);
    close_file();
    struct stat found;
    assert_int_equal(lstat(link, &found), 0);
    assert_true(S_ISLNK(found.st_mode));
    assert_int_equal(lstat(path, &found), 0);
    assert_true(S_ISREG(found.st_mode));
    assert_int_equal(found.st_mode & 0777, 0640);
    assert_int_equal(read_file(path, &visits), 0);
    assert_int_equal(visits.count, 0);
}

/* A crash while a file was made leaves a draft, and perhaps an empty file: neither is in the way. */
static void what_a_crash_leaves_is_cleared_away(void **state) {
    (void)state;
    const char *path = durables_path("crash.db");
    durables_store(durables_path("crash.db.new"), "half of", 7);
    durables_store(path, "", 0);
    assert_int_equal(open_writable(path), 0);
    close_file();
    assert_int_equal(access(durables_path("crash.db.new"), F_OK), -1);
    assert_true(durables_size(path) >= 1 << 20);
}

static int limited_open(const char *path, rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int err = open_writable(path);
    limit.rlim_cur = before;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    return err;
}

/* Where a file cannot be made whole nothing is left of it. */
static void a_file_is_made_whole_or_not_at_all(void **state) {
    (void)state;
    const char *path = durables_path("whole.db");
    for (rlim_t bytes = 0; bytes < 1 << 20; bytes += bytes < 3 * PAGE_BYTES ? PAGE_BYTES / 2 : 1 << 18) {
        int err = limited_open(path, bytes);
        assert_true(err == -EFBIG || err == -ENOSPC); /* LMDB's word for a short write of its heads */
        assert_non_null(strstr(text, path));
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(access(durables_path("whole.db.new"), F_OK), -1);
    }
    assert_int_equal(limited_open(path, 1 << 20), 0);
    close_file();
}

static int open_and_read(const char *path) {
    int err = open_writable(path);
    if (err)
        return err;
    struct cm_buf slice = {0};
    char unheard[CM_DURABLE_TEXT_BYTES];
    for (uint64_t from = 1; !err && from;)
        err = cm_durable_file_read(&file, &from, &slice, text);
    cm_buf_deinit(&slice);
    assert_int_equal(cm_durable_file_close(&file, false, unheard), 0);
    return err;
}

static void a_record_that_makes_no_sense_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *key;
        size_t key_len;
        const char *record;
        size_t record_len;
    } wrong[] = {
        {"\0\0\0\0\0\0\0\5", 8, "\0\0\0\0value", 9},         /* no name */
        {"\0\0\0\0\0\0\0\5", 8, "\6\0\0\0value", 9},         /* a name beyond the record */
        {"\0\0\0\0\0\0\0\5", 8, "\xff\xff\xff\xffvalue", 9}, /* far beyond */
        {"\0\0\0\0\0\0\0\5", 8, "\1\0", 2},                  /* no length */
        {"\0\0\0\0\5", 5, "\1\0\0\0value", 9},               /* no number */
    };
    const char *path = durables_path("record.db");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        unlink(path);
        make_file("record.db");
        durables_put(path, wrong[i].key, wrong[i].key_len, wrong[i].record, wrong[i].record_len);
        size_t len;
        size_t len_after;
        uint8_t *before = durables_load(path, &len);
        struct visits visits;
        assert_int_equal(read_file(path, &visits), CM_E_BADVALUE);
        assert_non_null(strstr(text, "record.db is damaged"));
        /* Opening to write finds it now or when it reads, and nothing is lost. */
        assert_int_equal(open_and_read(path), CM_E_BADVALUE);
        assert_non_null(strstr(text, "record.db is damaged"));
        uint8_t *after = durables_load(path, &len_after);
        assert_int_equal(len, len_after);
        assert_memory_equal(before, after, len);
        free(before);
        free(after);
    }
    /* A number that the file has not given yet; a record 0 without the next one. */
    durables_put(path, "\0\0\0\0\0\0\xff\0", 8, "\1\0\0\0value", 9);
    expect_refusal(path, CM_E_BADVALUE, "is damaged");
    unlink(path);
    put_zero(path, "\26\0\0\0clustermem documents 1\1\0\0\0\0\0\0", 33);
    expect_refusal(path, CM_E_BADVALUE, "is damaged");
    put_zero(path, "\26\0\0\0clustermem documents 1\0\0\0\0\0\0\0\0", 34);
    expect_refusal(path, CM_E_BADVALUE, "is damaged");
}

/* At every size: refused, or all there; never a crash. */
static void a_file_that_is_cut_off_is_refused(void **state) {
    (void)state;
    const char *path = make_file("cut.db");
    uint64_t needed = (durables_last_page(path) + 1) * PAGE_BYTES;
    uint64_t size = durables_size(path);
    assert_int_equal(size, 1 << 20); /* as long as its map, though it needs less */
    assert_true(needed > PAGE_BYTES * 50 && needed < size);
    for (; size > 0; size -= 512) {
        struct visits visits;
        assert_int_equal(truncate(path, (off_t)size), 0);
        int err = read_file(path, &visits);
        assert_int_equal(err, size >= needed ? 0 : CM_E_BADVALUE);
        assert_int_equal(visits.count, err ? 0 : DOCUMENTS);
        assert_int_equal(open_writable(path), err);
        if (err) {
            assert_non_null(strstr(text, path));
            assert_non_null(strstr(text, size < 512 ? "is" : "cut.db is damaged"));
        } else {
            close_file();
        }
        assert_int_equal(durables_size(path), size);
    }
}

/* Why the size of the file must be ours: LMDB alone takes pages at the end and gives them back without ever
 * having written them, and counts them all the same. */
static void lmdb_alone_leaves_out_pages_at_the_end(void **state) {
    (void)state;
    const char *path = durables_path("alone.db");
    for (int i = 0; i < 3; i++) /* only once there are free pages of before */
        durables_put_and_remove(path);
    assert_true(durables_size(path) < (durables_last_page(path) + 1) * PAGE_BYTES);
}

static void the_file_is_as_long_as_its_map(void **state) {
    (void)state;
    const char *path = durables_path("long.db");
    assert_int_equal(open_writable(path), 0);
    uint64_t random = 1;
    for (int i = 0; i < 100; i++) {
        struct cm_buf batch = {0};
        for (int j = 0; j < 5; j++) {
            uint64_t number = 1 + random_below(&random, 60);
            if (random_below(&random, 3))
                add(&batch, number, random_below(&random, 200000));
            else
                assert_int_equal(cm_durable_record_remove(&batch, number), 0);
        }
        assert_int_equal(write_batch(&batch, 100), 0);
        assert_int_equal(durables_size(path), file.map_bytes);
        assert_true((durables_last_page(path) + 1) * PAGE_BYTES <= file.map_bytes);
    }
    uint64_t map_bytes = file.map_bytes;
    assert_true(map_bytes > 1 << 20);
    close_file();
    /* Opened anew its map has the same size. A copy that is shorter, and whole, becomes as long again. */
    assert_int_equal(truncate(path, (off_t)((durables_last_page(path) + 1) * PAGE_BYTES)), 0);
    assert_int_equal(open_writable(path), 0);
    struct cm_buf batch = {0};
    add(&batch, 1, 1);
    assert_int_equal(write_batch(&batch, 100), 0);
    assert_int_equal(durables_size(path), file.map_bytes);
    assert_true(file.map_bytes <= map_bytes);
    close_file();
}

/* A file that has been made longer, before a crash kept its map from growing, is as good as another. */
static void a_crash_while_it_grows_does_no_harm(void **state) {
    (void)state;
    const char *path = make_file("grown.db");
    struct visits visits;
    for (uint64_t size = 1 << 20; size <= 1 << 24; size = size * 3 / 2 + 1) {
        assert_int_equal(truncate(path, (off_t)size), 0);
        assert_int_equal(open_writable(path), 0);
        assert_true(file.map_bytes >= size && file.map_bytes < 2 * size);
        struct cm_buf batch = {0};
        add(&batch, 1, 1);
        assert_int_equal(write_batch(&batch, 1), 0);
        close_file();
        assert_int_equal(read_file(path, &visits), 0);
        assert_int_equal(visits.count, DOCUMENTS);
    }
}

/* What a child finds in the file, read and then opened: all is there (0), or it is refused (1). */
static int look_in_child(const char *path) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct visits visits;
        int err = read_file(path, &visits);
        int opened = open_writable(path); /* that reads less, and may find less */
        _exit(!err && (opened || visits.count != DOCUMENTS) ? 2 : err != 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
        fail_msg("%s ended with status %x", path, status);
    return WEXITSTATUS(status);
}

static void a_damaged_head_is_refused(void **state) {
    (void)state;
    const char *path = make_file("head.db");
    size_t len;
    uint8_t *good = durables_load(path, &len);
    uint8_t *bad = malloc(len);
    assert_non_null(bad);
    uint64_t random = 1;
    int refused = 0;
    for (int i = 0; i < 200; i++) {
        memcpy(bad, good, len);
        size_t at = i == 0 ? 0 : random_below(&random, 2 * PAGE_BYTES);
        size_t bytes = i == 0 ? 2 * PAGE_BYTES : 1 + random_below(&random, 2 * PAGE_BYTES - at);
        /* The heads use the first 152 bytes of their pages: mostly there. */
        if (i % 4) {
            at = at % 152 + (i % 2 ? PAGE_BYTES : 0);
            bytes = 1 + random_below(&random, 16);
        }
        for (size_t j = 0; j < bytes; j++)
            bad[at + j] = i == 0 ? 0 : (uint8_t)random_next(&random);
        durables_store(path, bad, len);
        refused += look_in_child(path);
        size_t len_after;
        uint8_t *after = durables_load(path, &len_after);
        assert_int_equal(len, len_after);
        assert_memory_equal(bad, after, len);
        free(after);
    }
    assert_true(refused > 25);
    free(good);
    free(bad);
}

static void the_reader_shares_with_readers_alone(void **state) {
    (void)state;
    const char *path = make_file("shared.db");
    struct visits visits;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), 0); /* another reader */
    assert_int_equal(read_file(path, &visits), 0);
    assert_int_equal(visits.count, DOCUMENTS);
    assert_string_equal(text, "");
    assert_int_equal(open_writable(path), CM_E_BUSY);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0); /* a cluster */
    assert_int_equal(read_file(path, &visits), CM_E_BUSY);
    assert_non_null(strstr(text, "shared.db is open in another cluster"));
    assert_int_equal(visits.count, 0);
    close(fd);
    visits = (struct visits){.code = CM_E_CONFLICT};
    assert_int_equal(cm_durable_read(path, visit, &visits, text, 4), CM_E_CONFLICT);
    assert_int_equal(visits.count, 1);
    assert_int_equal(cm_durable_read(durables_path("absent.db"), visit, &visits, text, 4), -ENOENT);
    assert_int_equal(strlen(text), 3);
}

/* What somebody else does between opening and locking; NULL: nothing. */
static void (*before_lock)(void);

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): libc's names are its own business */
int flock(int fd, int operation) {
    void (*act)(void) = before_lock;
    before_lock = NULL;
    if (act)
        act();
    return (int)syscall(SYS_flock, fd, operation);
}

static void replace_it(void) {
    assert_int_equal(rename(durables_path("other.db"), durables_path("race.db")), 0);
}

static void remove_it(void) {
    assert_int_equal(unlink(durables_path("race.db")), 0);
}

/* The lock is worth nothing on a file that is not there any more. */
static void what_is_locked_is_what_the_name_leads_to(void **state) {
    (void)state;
    const char *path = make_file("race.db");
    struct visits visits;
    assert_int_equal(open_writable(durables_path("other.db")), 0);
    close_file();
    before_lock = replace_it;
    assert_int_equal(open_writable(path), 0);
    assert_null(before_lock);
    assert_int_equal(file.next_number, 1);
    assert_int_equal(read_file(path, &visits), CM_E_BUSY);
    close_file();
    unlink(path);
    make_file("race.db");
    before_lock = remove_it;
    assert_int_equal(open_writable(path), 0);
    assert_int_equal(file.next_number, 1);
    assert_int_equal(read_file(path, &visits), CM_E_BUSY);
    close_file();
    before_lock = remove_it;
    assert_int_equal(read_file(path, &visits), -ENOENT);
}

/* A child without the lock, between fork and exec, keeps nobody out; and nothing of the file survives exec.
 */
static void the_lock_ends_with_the_file(void **state) {
    (void)state;
    const char *path = make_file("lock.db");
    assert_int_equal(open_writable(path), 0);
    struct cm_buf batch = {0};
    add(&batch, 1, 1);
    assert_int_equal(write_batch(&batch, 1), 0);
    int open_fds = 0;
    for (int fd = 3; fd < 100; fd++) {
        char link[64];
        char target[512];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(link, target, sizeof target - 1);
        if (len < 0)
            continue;
        target[len] = 0;
        if (strcmp(target, path) != 0)
            continue;
        open_fds++;
        assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
    assert_int_equal(open_fds, 3); /* ours, and LMDB's two */
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char byte;
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
    }
    close_file();
    assert_int_equal(open_writable(path), 0);
    close_file();
    close(ends[0]);
    close(ends[1]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* After a failure LMDB is opened anew, from the same file, wherever its name leads by then. */
static void a_failed_batch_leaves_the_file_as_it_was(void **state) {
    (void)state;
    const char *path = make_file("failed.db");
    struct visits visits;
    size_t len;
    assert_int_equal(open_writable(path), 0);
    assert_int_equal(rename(path, durables_path("elsewhere.db")), 0);
    durables_store(path, "hello", 5);
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    /* The heads could be written in each case, pages in some. */
    for (rlim_t pages = 2; pages < 120; pages += 7) {
        limit.rlim_cur = pages * PAGE_BYTES;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        struct cm_buf batch = {0};
        for (uint64_t i = 1; i <= DOCUMENTS; i++)
            add(&batch, i, (size_t)3 * VALUE_BYTES);
        bool perhaps = true;
        int err = cm_durable_file_write(&file, cm_buf_view(&batch), 1, &perhaps, text);
        assert_true(err == -EFBIG || err == -EIO); /* LMDB's word for a short write */
        assert_false(perhaps);
        cm_buf_deinit(&batch);
        limit.rlim_cur = before;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    }
    struct cm_buf batch = {0};
    add(&batch, DOCUMENTS + 1, DOCUMENTS + 1);
    assert_int_equal(write_batch(&batch, DOCUMENTS + 2), 0);
    assert_int_equal(cm_durable_file_close(&file, true, text), 0);
    free(durables_load(path, &len));
    assert_int_equal(len, 5);
    assert_int_equal(read_file(durables_path("elsewhere.db"), &visits), 0);
    assert_int_equal(visits.count, DOCUMENTS + 1);
}

/* The file has all documents of before the batch, or all of after it. */
static void expect_whole(const char *path, bool before, bool after) {
    struct visits visits;
    if (read_file(path, &visits))
        fail_msg("%s", text);
    assert_true((before && visits.count == DOCUMENTS) || (after && visits.count == MORE_DOCUMENTS));
}

/* Lets each call in turn fail that changes the file, in a batch for which it grows. */
static void fail_each_call(const char *path, struct cm_bytes start, enum disk_failure kind, bool all,
                           bool again) {
    size_t failed = 1;
    for (size_t nth = 1; failed; nth++) {
        bool perhaps = false;
        durables_store(path, start.data, start.len);
        assert_int_equal(open_writable(path), 0);
        disk_failure_arm(kind, nth, all);
        int err = write_up_to(MORE_DOCUMENTS, &perhaps);
        failed = disk_failure_arm(DISK_FAILS, 0, false);
        assert_int_equal(err, failed ? -EIO : 0);
        assert_true(failed || nth > 10);
        if (failed)
            assert_non_null(strstr(text, path));
        if (again)
            assert_int_equal(write_up_to(MORE_DOCUMENTS, &perhaps), 0);
        close_file();
        expect_whole(path, failed && !again, !failed || again || perhaps);
    }
}

static void a_failing_disk_leaves_the_file_whole(void **state) {
    (void)state;
    const char *path = make_file("disk.db");
    size_t len;
    uint8_t *start = durables_load(path, &len);
    for (int again = 0; again <= 1; again++)
        for (int all = 0; all <= 1; all++)
            for (int kind = DISK_FAILS; kind <= DISK_WRITES_HALF; kind++)
                fail_each_call(path, (struct cm_bytes){start, len}, (enum disk_failure)kind, all, again);
    free(start);
}

/* A new one is there whole, or it is not there. */
static void a_failing_disk_makes_no_half_file(void **state) {
    (void)state;
    const char *path = durables_path("new.db");
    for (int kind = DISK_FAILS; kind <= DISK_WRITES_HALF; kind++) {
        size_t failed = 1;
        for (size_t nth = 1; failed; nth++) {
            struct visits visits;
            unlink(path);
            disk_failure_arm((enum disk_failure)kind, nth, false);
            int err = open_writable(path);
            failed = disk_failure_arm(DISK_FAILS, 0, false);
            assert_true(failed ? err == -EIO || err == -ENOSPC : err == 0 && nth > 5);
            if (!err)
                close_file();
            assert_true(read_file(path, &visits) == (access(path, F_OK) ? -ENOENT : 0));
            assert_int_equal(access(durables_path("new.db.new"), F_OK), -1);
        }
    }
}

/* Opens the file and writes the batch in a child that is killed at the nth call. Whether it was. */
static bool die_at(const char *path, enum disk_failure kind, size_t nth) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        bool perhaps;
        disk_failure_arm(kind, nth, false);
        _exit(open_writable(path) || write_up_to(MORE_DOCUMENTS, &perhaps));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        assert_int_equal(WTERMSIG(status), SIGKILL);
    else
        assert_int_equal(status, 0);
    return WIFSIGNALED(status);
}

/* The file can be opened and written; what it had before was all or nothing. */
static void go_on_after_death(const char *path) {
    bool perhaps;
    struct visits visits;
    int err = read_file(path, &visits);
    assert_true(err == 0 || err == -ENOENT || durables_size(path) == 0);
    assert_true(visits.count == 0 || visits.count == DOCUMENTS || visits.count == MORE_DOCUMENTS);
    assert_int_equal(open_writable(path), 0);
    assert_int_equal(write_up_to(MORE_DOCUMENTS, &perhaps), 0);
    close_file();
    expect_whole(path, false, true);
}

/* From a file that is there, and from none. */
static void a_file_outlives_a_crash_at_each_call(void **state) {
    (void)state;
    const char *path = make_file("dies.db");
    size_t len;
    uint8_t *start = durables_load(path, &len);
    for (int kind = DISK_KILLS; kind <= DISK_KILLS_HALF; kind++) {
        for (int there = 0; there <= 1; there++) {
            bool died = true;
            for (size_t nth = 1; died; nth++) {
                if (there)
                    durables_store(path, start, len);
                else
                    unlink(path);
                died = die_at(path, (enum disk_failure)kind, nth);
                assert_true(died || nth > 10);
                if (there)
                    expect_whole(path, died, true);
                go_on_after_death(path);
                assert_int_equal(access(durables_path("dies.db.new"), F_OK), -1);
            }
        }
    }
    free(start);
}

static int read_without_memory(void *data) {
    struct visits visits;
    int err = read_file(data, &visits);
    assert_true(err || visits.count == DOCUMENTS);
    return err;
}

static void without_memory_the_reader_says_so(void **state) {
    (void)state;
    alloc_failure_each(read_without_memory, (void *)make_file("memory.db"));
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, durables_make_folder, durables_remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(what_is_not_ours_is_refused),
        TEST(what_is_no_file_is_refused),
        TEST(who_has_no_permission_is_told),
        TEST(an_empty_file_becomes_ours),
        TEST(what_a_crash_leaves_is_cleared_away),
        TEST(a_file_is_made_whole_or_not_at_all),
        TEST(a_record_that_makes_no_sense_is_refused),
        TEST(a_file_that_is_cut_off_is_refused),
        TEST(lmdb_alone_leaves_out_pages_at_the_end),
        TEST(the_file_is_as_long_as_its_map),
        TEST(a_crash_while_it_grows_does_no_harm),
        TEST(a_damaged_head_is_refused),
        TEST(the_reader_shares_with_readers_alone),
        TEST(what_is_locked_is_what_the_name_leads_to),
        TEST(the_lock_ends_with_the_file),
        TEST(a_failed_batch_leaves_the_file_as_it_was),
        TEST(a_failing_disk_leaves_the_file_whole),
        TEST(a_failing_disk_makes_no_half_file),
        TEST(a_file_outlives_a_crash_at_each_call),
        TEST(without_memory_the_reader_says_so),
    };
    signal(SIGXFSZ, SIG_IGN); /* as in the master */
    return cmocka_run_group_tests_name("durable_file", tests, NULL, NULL);
}
