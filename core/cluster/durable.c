#include "cluster/durable.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/list.h"
#include "base/log.h"
#include "cluster/durable_file.h"
#include "cluster/durable_marks.h"
#include "cluster/durable_record.h"

enum {
    BATCH_MS = 100, /* at most, from the first mark to the batch that has it */
    BATCH_BYTES = 4 << 20,
    RETRY_MS = 1000,
    KEEP_BYTES = 64 << 10,                         /* a buffer larger than this is given back */
    KEEP_SLICE_BYTES = 2 * CM_DURABLE_SLICE_BYTES, /* likewise while reading */
};

enum state { OPENING, OPEN, FAILED };

struct waiting_sync {
    struct cm_list link;
    uint64_t ticket;
    uint64_t mark; /* the last that it waits for */
};

struct cm_durable {
    uv_loop_t *loop;
    const struct cm_durable_events *events;
    void *owner;
    char *filename;
    uint64_t next_number;

    struct cm_durable_marks marks;
    struct cm_list syncs; /* in their order */
    uint64_t failed_ms;   /* uv_now */
    enum state state;
    bool failing; /* the last batch could not be written, or not all of it */
    bool closing;
    bool remove_file;
    int refused; /* what on_write gave for a document that this batch has to leave out */

    uv_timer_t later;
    uv_idle_t soon; /* a timer of 0 ms would not let the loop turn */
    int open_handles;

    /* The job's while one runs, else the loop's. */
    bool working;
    uv_work_t job;
    struct cm_durable_file file;
    bool file_open;
    struct cm_buf bytes; /* a slice that has been read, or the batch */
    uint64_t from;       /* of the next slice; 0: there is none */
    uint64_t keep_number;
    bool perhaps;
    bool removing;
    int code;
    char text[CM_DURABLE_TEXT_BYTES];
};

static void go_on(struct cm_durable *durable);

static void work(struct cm_durable *durable, uv_work_cb run, uv_after_work_cb done) {
    durable->working = true;
    durable->job.data = durable;
    uv_queue_work(durable->loop, &durable->job, run, done);
}

static void on_soon(uv_idle_t *soon) {
    uv_idle_stop(soon);
    go_on(soon->data);
}

static void on_later(uv_timer_t *later) {
    go_on(later->data);
}

static void go_on_soon(struct cm_durable *durable) {
    uv_idle_start(&durable->soon, on_soon);
}

int cm_durable_mark(struct cm_durable *durable, uint64_t number, struct cm_bytes name, bool fresh,
                    bool gone) {
    if (durable->closing)
        return CM_E_CLOSED;
    /* Written, it would be found damaged when the file is opened again. */
    if (number == 0 || number >= durable->next_number || name.len == 0 || name.len > CM_DURABLE_MAX_NAME)
        return CM_E_BADVALUE;
    int err = cm_durable_marks_add(&durable->marks, number, name, fresh, gone, uv_now(durable->loop));
    if (!err && durable->state == OPEN && !uv_is_active((uv_handle_t *)&durable->later))
        uv_timer_start(&durable->later, on_later, BATCH_MS, 0);
    return err;
}

int cm_durable_sync(struct cm_durable *durable, uint64_t ticket) {
    if (durable->closing)
        return CM_E_CLOSED;
    struct waiting_sync *sync = malloc(sizeof *sync);
    if (!sync)
        return CM_E_NOMEMORY;
    *sync = (struct waiting_sync){.ticket = ticket, .mark = durable->marks.count};
    cm_list_append(&durable->syncs, &sync->link);
    go_on_soon(durable);
    return 0;
}

/* Moves to the list those that wait for no more than so many marks. */
static void take_syncs(struct cm_durable *durable, uint64_t mark, struct cm_list *taken) {
    cm_list_init(taken);
    CM_LIST_EACH(link, &durable->syncs) {
        if (CM_LIST_ITEM(link, struct waiting_sync, link)->mark > mark)
            break;
        cm_list_remove(link);
        cm_list_append(taken, link);
    }
}

/* Of which all is on disk. */
static void take_written(struct cm_durable *durable, struct cm_list *taken) {
    struct cm_durable_mark *first = cm_durable_marks_first(&durable->marks);
    take_syncs(durable, first ? first->order - 1 : UINT64_MAX, taken);
}

/* Gives back what was taken. */
static void answer(struct cm_durable *durable, struct cm_list *taken, int code, const char *text) {
    CM_LIST_EACH(link, taken) {
        struct waiting_sync *sync = CM_LIST_ITEM(link, struct waiting_sync, link);
        uint64_t ticket = sync->ticket;
        free(sync);
        durable->events->on_synced(durable->owner, ticket, code, text);
    }
}

static void answer_all(struct cm_durable *durable, int code) {
    struct cm_list taken;
    take_syncs(durable, UINT64_MAX, &taken);
    answer(durable, &taken, code, durable->text);
}

static void note_failure(struct cm_durable *durable) {
    if (!durable->failing)
        cm_log(CM_LOG_WARN, "%s; it is tried again every second", durable->text);
    durable->failing = true;
    durable->failed_ms = uv_now(durable->loop);
}

static void note_success(struct cm_durable *durable) {
    if (durable->failing)
        cm_log(CM_LOG_INFO, "%s is written again", durable->filename);
    durable->failing = false;
}

static void refuse(struct cm_durable *durable, int code) {
    durable->refused =
        cm_durable_refuse(durable->text, code, "cannot write %s: %s", durable->filename, cm_error_text(code));
}

static int append_value(struct cm_durable *durable, const struct cm_durable_mark *mark) {
    struct cm_bytes name = {mark->name, mark->name_len};
    size_t begun = durable->bytes.len;
    int err = cm_durable_record_begin(&durable->bytes, mark->number, name);
    if (!err)
        err = durable->events->on_write(durable->owner, mark->number, name, &durable->bytes);
    return err ? err : cm_durable_record_end(&durable->bytes, begun);
}

static int append_document(struct cm_durable *durable, const struct cm_durable_mark *mark) {
    size_t begun = durable->bytes.len;
    int err = mark->gone ? CM_E_NOTFOUND : append_value(durable, mark);
    if (err == CM_E_NOTFOUND) {
        durable->bytes.len = begun;
        err = cm_durable_record_remove(&durable->bytes, mark->number);
    }
    if (err)
        durable->bytes.len = begun;
    return err;
}

/* Asks for the values of what is marked, in its order. What cannot be had stays marked, and in front. */
static void collect(struct cm_durable *durable) {
    struct cm_durable_marks *marks = &durable->marks;
    uint64_t last = marks->count; /* what is marked meanwhile is not for this batch */
    struct cm_list left_out;
    cm_list_init(&left_out);
    cm_buf_reset(&durable->bytes, KEEP_BYTES);
    durable->refused = 0;
    for (struct cm_durable_mark *mark; (mark = cm_durable_marks_first(marks)) && !durable->closing;) {
        if (mark->order > last || durable->bytes.len >= BATCH_BYTES || durable->refused == CM_E_NOMEMORY)
            break;
        cm_durable_marks_take_off(marks, mark);
        int err = append_document(durable, mark);
        if (!err)
            continue;
        refuse(durable, err);
        cm_list_remove(&mark->flying_link);
        cm_list_append(&left_out, &mark->flying_link);
    }
    while (!cm_list_empty(&left_out))
        cm_durable_marks_turn_one_back(marks,
                                       CM_LIST_ITEM(left_out.prev, struct cm_durable_mark, flying_link));
}

static void run_write(uv_work_t *job) {
    struct cm_durable *durable = job->data;
    durable->code = cm_durable_file_write(&durable->file, cm_buf_view(&durable->bytes), durable->keep_number,
                                          &durable->perhaps, durable->text);
}

/* The batch has been tried, or there was nothing to try: tells who waits, and how it stands. */
static void report(struct cm_durable *durable, int code) {
    struct cm_list written;
    take_written(durable, &written);
    if (!code) {
        note_success(durable);
        answer(durable, &written, 0, "");
        return;
    }
    struct cm_list unwritten;
    take_syncs(durable, UINT64_MAX, &unwritten);
    note_failure(durable);
    answer(durable, &written, 0, "");
    answer(durable, &unwritten, code, durable->text);
}

static void after_write(uv_work_t *job, int status) {
    (void)status;
    struct cm_durable *durable = job->data;
    durable->working = false;
    cm_buf_reset(&durable->bytes, KEEP_BYTES);
    if (durable->code)
        cm_durable_marks_turn_back(&durable->marks, durable->perhaps);
    else
        cm_durable_marks_land(&durable->marks);
    report(durable, durable->code ? durable->code : durable->refused);
    go_on(durable);
}

static void write_marked(struct cm_durable *durable) {
    collect(durable);
    if (durable->closing) {
        cm_durable_marks_turn_back(&durable->marks, false);
    } else if (!cm_list_empty(&durable->marks.flying)) {
        durable->keep_number = durable->next_number;
        work(durable, run_write, after_write);
        return;
    } else if (durable->refused) {
        report(durable, durable->refused);
    }
    go_on_soon(durable);
}

static void end_opening(struct cm_durable *durable, int code) {
    durable->state = code ? FAILED : OPEN;
    durable->events->on_open(durable->owner, code, durable->text);
}

static void run_read(uv_work_t *job) {
    struct cm_durable *durable = job->data;
    durable->code = cm_durable_file_read(&durable->file, &durable->from, &durable->bytes, durable->text);
}

/* Hands the slice over. 0, or the code that the owner refuses a document with. */
static int deliver(struct cm_durable *durable) {
    struct cm_reader slice;
    uint64_t number;
    struct cm_bytes name;
    struct cm_bytes value;
    int err = 0;
    cm_reader_init(&slice, cm_buf_view(&durable->bytes));
    while (!err && !durable->closing && cm_durable_record_next(&slice, &number, &name, &value))
        err = durable->events->on_load(durable->owner, number, name, value);
    if (err)
        cm_durable_refuse(durable->text, err, "cannot open %s: document %llu: %s", durable->filename,
                          (unsigned long long)number, cm_error_text(err));
    return err;
}

static void after_read(uv_work_t *job, int status) {
    (void)status;
    struct cm_durable *durable = job->data;
    durable->working = false;
    int err = durable->code ? durable->code : deliver(durable);
    cm_buf_reset(&durable->bytes, err || !durable->from ? 0 : KEEP_SLICE_BYTES);
    if (!durable->closing && !err && durable->from) {
        work(durable, run_read, after_read);
        return;
    }
    if (!durable->closing)
        end_opening(durable, err);
    go_on(durable);
}

static void run_open(uv_work_t *job) {
    struct cm_durable *durable = job->data;
    durable->code = cm_durable_file_open(&durable->file, durable->filename, true, durable->text);
    durable->file_open = !durable->code;
}

static void after_open(uv_work_t *job, int status) {
    (void)status;
    struct cm_durable *durable = job->data;
    durable->working = false;
    durable->from = 1;
    if (!durable->code && !durable->closing) {
        durable->next_number = durable->file.next_number;
        work(durable, run_read, after_read);
        return;
    }
    if (!durable->closing)
        end_opening(durable, durable->code);
    go_on(durable);
}

static void on_handle_closed(uv_handle_t *handle);

int cm_durable_open(uv_loop_t *loop, const char *filename, const struct cm_durable_events *events,
                    void *owner, struct cm_durable **durable) {
    struct cm_durable *made = calloc(1, sizeof *made);
    size_t len = strlen(filename) + 1;
    char *copy = malloc(len);
    if (!made || !copy || cm_durable_marks_init(&made->marks)) {
        free(copy);
        free(made);
        return CM_E_NOMEMORY;
    }
    made->loop = loop;
    made->events = events;
    made->owner = owner;
    memcpy(copy, filename, len);
    made->filename = copy;
    cm_list_init(&made->syncs);
    uv_timer_init(loop, &made->later);
    uv_idle_init(loop, &made->soon);
    made->later.data = made->soon.data = made;
    made->open_handles = 2;
    *durable = made;
    work(made, run_open, after_open);
    return 0;
}

const char *cm_durable_filename(const struct cm_durable *durable) {
    return durable->filename;
}

uint64_t cm_durable_new_number(struct cm_durable *durable) {
    return durable->next_number++;
}

static void on_handle_closed(uv_handle_t *handle) {
    struct cm_durable *durable = handle->data;
    if (--durable->open_handles)
        return;
    durable->events->on_closed(durable->owner);
    cm_durable_marks_deinit(&durable->marks);
    cm_buf_deinit(&durable->bytes);
    free(durable->filename);
    free(durable);
}

static void run_close(uv_work_t *job) {
    struct cm_durable *durable = job->data;
    durable->code = 0;
    if (durable->file_open)
        durable->code = cm_durable_file_close(&durable->file, durable->removing, durable->text);
}

static void after_close(uv_work_t *job, int status) {
    (void)status;
    struct cm_durable *durable = job->data;
    if (durable->code)
        cm_log(CM_LOG_WARN, "%s", durable->text);
    cm_durable_refuse(durable->text, CM_E_CLOSED, "%s is closed", durable->filename);
    answer_all(durable, CM_E_CLOSED);
    uv_close((uv_handle_t *)&durable->later, on_handle_closed);
    uv_close((uv_handle_t *)&durable->soon, on_handle_closed);
}

void cm_durable_close(struct cm_durable *durable, bool remove_file) {
    durable->remove_file |= remove_file;
    if (durable->closing)
        return;
    durable->closing = true;
    go_on_soon(durable);
}

/* Begins what is to be done next, if nothing is being done. */
static void go_on(struct cm_durable *durable) {
    if (durable->working)
        return;
    if (durable->closing) {
        durable->removing = durable->remove_file;
        work(durable, run_close, after_close);
        return;
    }
    if (durable->state == FAILED)
        answer_all(durable, CM_E_CLOSED);
    if (durable->state != OPEN)
        return;
    struct cm_list written;
    take_written(durable, &written);
    answer(durable, &written, 0, "");
    struct cm_durable_mark *first = cm_durable_marks_first(&durable->marks);
    if (!first || durable->closing)
        return;
    uint64_t due_ms = durable->failing ? durable->failed_ms + RETRY_MS : first->marked_ms + BATCH_MS;
    uint64_t now_ms = uv_now(durable->loop);
    if (cm_list_empty(&durable->syncs) && now_ms < due_ms)
        uv_timer_start(&durable->later, on_later, due_ms - now_ms, 0);
    else
        write_marked(durable);
}
