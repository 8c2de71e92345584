#include "wire/control.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

int cm_script_init(struct cm_script *script) {
    *script = (struct cm_script){0};
    int err = cm_strings_init(&script->args);
    return err ? err : cm_strings_init(&script->env);
}

void cm_script_deinit(struct cm_script *script) {
    cm_strings_deinit(&script->args);
    cm_strings_deinit(&script->env);
}

static void write_strings(struct cm_writer *writer, const struct cm_strings *strings) {
    cm_write_u32(writer, (uint32_t)strings->count);
    for (size_t i = 0; i < strings->count; i++)
        cm_write_bytes(writer, cm_bytes_of(strings->items[i]));
}

static int read_strings(struct cm_reader *reader, struct cm_strings *strings, uint32_t most) {
    uint32_t count = cm_read_count(reader, 4);
    int err = count > most ? CM_E_BADFRAME : 0;
    for (; !err && count; count--)
        err = cm_strings_append(strings, cm_read_bytes(reader));
    return err == CM_E_BADVALUE ? CM_E_BADFRAME : err ? err : reader->error;
}

void cm_script_write(struct cm_writer *writer, const struct cm_script *script) {
    write_strings(writer, &script->args);
    write_strings(writer, &script->env);
}

int cm_script_read(struct cm_reader *reader, struct cm_script *script) {
    int err = read_strings(reader, &script->args, CM_SCRIPT_MAX_ARGS);
    if (!err)
        err = read_strings(reader, &script->env, CM_SCRIPT_MAX_ENV);
    if (err)
        return err;
    for (size_t i = 0; i < script->env.count; i++) {
        const char *line = script->env.items[i];
        if (line[0] == '=' || !strchr(line, '='))
            return CM_E_BADFRAME;
    }
    return script->args.count && script->args.items[0][0] ? 0 : CM_E_BADFRAME;
}

enum { FLAG_TEST = 1, FLAG_WORKERS = 2, FLAG_READY = 4, ROW_BYTES = 13 };

void cm_init_deinit(struct cm_init *init) {
    cm_script_deinit(&init->script);
    free(init->rows);
    *init = (struct cm_init){0};
}

void cm_init_write(struct cm_writer *writer, const struct cm_init *init) {
    cm_write_u32(writer, init->id);
    cm_write_u32(writer, init->slot);
    cm_write_u32(writer, init->seat);
    cm_write_u8(writer, (uint8_t)((init->test ? FLAG_TEST : 0) | (init->has_workers ? FLAG_WORKERS : 0) |
                                  (init->says_ready ? FLAG_READY : 0)));
    cm_write_u32(writer, init->max_value_bytes);
    cm_write_u32(writer, init->exit_ms);
    cm_write_u32(writer, init->watchdog_ms);
    cm_write_u64(writer, init->heap_bytes);
    cm_write_u8(writer, init->log_level);
    cm_script_write(writer, &init->script);
    cm_write_u32(writer, (uint32_t)init->row_count);
    for (size_t i = 0; i < init->row_count; i++) {
        cm_write_u32(writer, init->rows[i].id);
        cm_write_u32(writer, init->rows[i].slot);
        cm_write_u32(writer, init->rows[i].pid);
        cm_write_u8(writer, init->rows[i].online);
    }
}

int cm_init_read(struct cm_bytes payload, struct cm_init *init) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    *init = (struct cm_init){.id = cm_read_u32(&reader)};
    init->slot = cm_read_u32(&reader);
    init->seat = cm_read_u32(&reader);
    uint8_t flags = cm_read_u8(&reader);
    init->test = flags & FLAG_TEST;
    init->has_workers = flags & FLAG_WORKERS;
    init->says_ready = flags & FLAG_READY;
    init->max_value_bytes = cm_read_u32(&reader);
    init->exit_ms = cm_read_u32(&reader);
    init->watchdog_ms = cm_read_u32(&reader);
    init->heap_bytes = cm_read_u64(&reader);
    init->log_level = cm_read_u8(&reader);
    int err = cm_script_init(&init->script);
    if (!err)
        err = cm_script_read(&reader, &init->script);
    if (err)
        return err;
    uint32_t count = cm_read_count(&reader, ROW_BYTES);
    init->rows = calloc(count ? count : 1, sizeof *init->rows);
    if (!init->rows)
        return CM_E_NOMEMORY;
    for (init->row_count = 0; init->row_count < count; init->row_count++) {
        struct cm_worker_row *row = &init->rows[init->row_count];
        row->id = cm_read_u32(&reader);
        row->slot = cm_read_u32(&reader);
        row->pid = cm_read_u32(&reader);
        row->online = cm_read_u8(&reader);
    }
    return cm_reader_end(&reader);
}

void cm_process_event_write(struct cm_writer *writer, const struct cm_process_event *event) {
    cm_write_u8(writer, event->change);
    cm_write_u32(writer, event->id);
    cm_write_u32(writer, event->slot);
    cm_write_u32(writer, event->pid);
    cm_write_u32(writer, (uint32_t)event->code);
    cm_write_u32(writer, (uint32_t)event->signal);
    cm_write_u8(writer, event->more);
}

int cm_process_event_read(struct cm_bytes payload, struct cm_process_event *event) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    event->change = cm_read_u8(&reader);
    event->id = cm_read_u32(&reader);
    event->slot = cm_read_u32(&reader);
    event->pid = cm_read_u32(&reader);
    event->code = (int32_t)cm_read_u32(&reader);
    event->signal = (int32_t)cm_read_u32(&reader);
    event->more = cm_read_u8(&reader);
    int err = cm_reader_end(&reader);
    return err ? err : event->change > CM_PROCESS_EXIT ? CM_E_BADFRAME : 0;
}
