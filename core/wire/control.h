/* The payloads by which the master and its processes speak about processes: what a process is (INIT), how the
 * process table changes (PROCESS), which script to start (FORK). */
#ifndef CM_WIRE_CONTROL_H
#define CM_WIRE_CONTROL_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/strings.h"
#include "wire/message.h"

/* More arguments or environment lines than this are refused: nobody shall keep the master busy copying them.
 */
enum { CM_SCRIPT_MAX_ARGS = 65536, CM_SCRIPT_MAX_ENV = 1024 };

/* A script to run: its file, its arguments, and NAME=value lines to add to the environment. Owns its strings.
 */
struct cm_script {
    struct cm_strings args; /* the first is the file */
    struct cm_strings env;
};

int cm_script_init(struct cm_script *script);
void cm_script_deinit(struct cm_script *script);
void cm_script_write(struct cm_writer *writer, const struct cm_script *script);
/* Fills an initialised script. 0; CM_E_BADFRAME for a payload that does not fit, has no file or an
 * environment line without a name; CM_E_NOMEMORY. */
int cm_script_read(struct cm_reader *reader, struct cm_script *script);

/* A worker in the process table. */
struct cm_worker_row {
    uint32_t id;   /* counts up from 1, never used twice */
    uint32_t slot; /* kept by a worker's successor */
    uint32_t pid;
    bool online;
};

/* What a process is told first: who it is and what it shall run. */
struct cm_init {
    uint32_t id; /* 0: process 0, the master script's */
    uint32_t slot;
    uint32_t seat;    /* its place in the shared memory */
    bool test;        /* process 0 runs busted */
    bool has_workers; /* workers come without anybody forking them */
    bool says_ready;  /* a worker is online when its script says so */
    uint32_t max_value_bytes;
    uint32_t exit_ms;     /* how long a leaving process may wait for the master to take its last frames */
    uint32_t watchdog_ms; /* in which its loop must come round; 0: any */
    uint64_t heap_bytes;  /* that its Lua heap may have; 0: any */
    uint8_t log_level;
    struct cm_script script;
    struct cm_worker_row *rows; /* the process table as it is; owned */
    size_t row_count;
};

void cm_init_deinit(struct cm_init *init);
void cm_init_write(struct cm_writer *writer, const struct cm_init *init);
/* 0, CM_E_BADFRAME or CM_E_NOMEMORY; deinit is due in each case. */
int cm_init_read(struct cm_bytes payload, struct cm_init *init);

enum cm_process_change { CM_PROCESS_FORK, CM_PROCESS_ONLINE, CM_PROCESS_EXIT };

/* A change of the process table. */
struct cm_process_event {
    uint8_t change; /* enum cm_process_change */
    uint32_t id;
    uint32_t slot;
    uint32_t pid;
    int32_t code;   /* at exit: the exit code, or -1 when a signal ended it */
    int32_t signal; /* at exit: the signal's number, or 0 */
    bool more;      /* at exit: other workers run, or are going to be started again */
};

void cm_process_event_write(struct cm_writer *writer, const struct cm_process_event *event);
/* 0 or CM_E_BADFRAME. */
int cm_process_event_read(struct cm_bytes payload, struct cm_process_event *event);

#endif
