#include "cluster/durable_place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "cluster/durable.h"

enum {
    /* The owner's alone: what scripts keep is nobody else's business until somebody says so with chmod, and a
     * group that may read could also hold the lock for ever. */
    FILE_MODE = 0600,
    MOST_TRIES = 100, /* each of them lost to somebody who replaced the file at that very moment */
};

int cm_durable_refuse(char *text, int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(text, CM_DURABLE_TEXT_BYTES, format, args);
    va_end(args);
    return code;
}

static int refuse_errno(char *text, const char *what, const char *path) {
    int code = -errno;
    return cm_durable_refuse(text, code, "cannot %s %s: %s", what, path, cm_error_text(code));
}

/* Whether the path leads to the open file. */
static bool leads_to(const char *path, int fd) {
    struct stat named;
    struct stat open;
    return stat(path, &named) == 0 && fstat(fd, &open) == 0 && named.st_dev == open.st_dev &&
           named.st_ino == open.st_ino;
}

static int refuse_kind(char *text, const char *filename, mode_t mode) {
    if (S_ISDIR(mode))
        return cm_durable_refuse(text, -EISDIR, "cannot open %s: it is a folder", filename);
    return cm_durable_refuse(text, CM_E_BADVALUE, "cannot open %s: it is no ordinary file", filename);
}

/* Looks before it opens: what is no file could do anything when it is opened. Opens the file, or makes it. */
static int open_file(struct cm_durable_place *place, const char *filename, bool writable, char *text) {
    struct stat found;
    int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    bool there = stat(filename, &found) == 0;
    place->made = !there && errno == ENOENT && writable;
    if (there && !S_ISREG(found.st_mode))
        return refuse_kind(text, filename, found.st_mode);
    if (place->made)
        flags |= O_CREAT;
    place->fd = open(filename, flags, FILE_MODE);
    if (place->fd < 0)
        return refuse_errno(text, place->made ? "create" : "open", filename);
    if (fstat(place->fd, &found) == 0 && S_ISREG(found.st_mode))
        return 0;
    close(place->fd);
    return refuse_kind(text, filename, found.st_mode);
}

static void unlock_and_close(int fd) {
    /* A child between fork and exec has the descriptor too: closing alone would leave it the lock. */
    flock(fd, LOCK_UN);
    close(fd);
}

static int lock_file(struct cm_durable_place *place, const char *filename, bool writable, char *text) {
    if (flock(place->fd, (writable ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return cm_durable_refuse(text, CM_E_BUSY, "%s is open in another cluster", filename);
    return refuse_errno(text, "lock", filename);
}

int cm_durable_place_open(struct cm_durable_place *place, const char *filename, bool writable, char *text) {
    place->draft_fd = -1;
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        int err = open_file(place, filename, writable, text);
        if (err)
            return err;
        err = lock_file(place, filename, writable, text);
        if (!err && !realpath(filename, place->path) && errno != ENOENT)
            err = refuse_errno(text, "open", filename);
        if (err) {
            unlock_and_close(place->fd);
            return err;
        }
        /* Between opening and locking it may have been replaced or removed; the lock is on what it was. */
        if (leads_to(place->path, place->fd) && leads_to(filename, place->fd))
            return 0;
        unlock_and_close(place->fd);
    }
    return cm_durable_refuse(text, CM_E_BUSY, "%s is being opened in other clusters", filename);
}

static bool is_empty(int fd) {
    struct stat found;
    return fstat(fd, &found) == 0 && found.st_size == 0;
}

static int draft_path(const struct cm_durable_place *place, char *path, char *text) {
    if (snprintf(path, PATH_MAX, "%s.new", place->path) < PATH_MAX)
        return 0;
    return cm_durable_refuse(text, -ENAMETOOLONG, "cannot create %s: %s", place->path,
                             cm_error_text(-ENAMETOOLONG));
}

static void discard_draft(struct cm_durable_place *place) {
    char path[PATH_MAX];
    char text[CM_DURABLE_TEXT_BYTES];
    if (draft_path(place, path, text) == 0 && leads_to(path, place->draft_fd))
        unlink(path);
    unlock_and_close(place->draft_fd);
    place->draft_fd = -1;
}

void cm_durable_place_close(struct cm_durable_place *place) {
    if (place->draft_fd >= 0)
        discard_draft(place);
    if (place->made && is_empty(place->fd) && leads_to(place->path, place->fd))
        unlink(place->path);
    unlock_and_close(place->fd);
    place->fd = -1;
}

int cm_durable_place_fd(const struct cm_durable_place *place) {
    return place->draft_fd >= 0 ? place->draft_fd : place->fd;
}

int cm_durable_place_size(const struct cm_durable_place *place, uint64_t *bytes, char *text) {
    struct stat found;
    if (fstat(cm_durable_place_fd(place), &found) < 0)
        return refuse_errno(text, "look at", place->path);
    *bytes = (uint64_t)found.st_size;
    return 0;
}

int cm_durable_place_begin(struct cm_durable_place *place, char *text) {
    char path[PATH_MAX];
    int err = draft_path(place, path, text);
    if (err)
        return err;
    unlink(path);
    place->draft_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
    if (place->draft_fd < 0)
        return refuse_errno(text, "create", path);
    /* Somebody may have made the empty file only to say who may read it. */
    struct stat found;
    if (flock(place->draft_fd, LOCK_EX | LOCK_NB) < 0 || fstat(place->fd, &found) < 0 ||
        (!place->made && fchmod(place->draft_fd, found.st_mode & 0777) < 0)) {
        err = refuse_errno(text, "create", path);
        discard_draft(place);
    }
    return err;
}

/* What a folder says of a file is on disk only when the folder is. */
static int sync_folder(const char *path) {
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    folder[strrchr(folder, '/') - folder + 1] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* Some file systems cannot do that for folders, and say so. */
    int err = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    close(fd);
    return err;
}

int cm_durable_place_adopt(struct cm_durable_place *place, char *text) {
    char path[PATH_MAX];
    int err = draft_path(place, path, text);
    if (err)
        return err;
    if (!leads_to(path, place->draft_fd) || !leads_to(place->path, place->fd))
        return cm_durable_refuse(text, CM_E_BUSY, "cannot create %s: somebody else has removed it",
                                 place->path);
    if (rename(path, place->path) < 0)
        return refuse_errno(text, "create", place->path);
    unlock_and_close(place->fd);
    place->fd = place->draft_fd;
    place->draft_fd = -1;
    place->made = false;
    err = sync_folder(place->path);
    return err ? cm_durable_refuse(text, err, "cannot create %s: %s", place->path, cm_error_text(err)) : 0;
}

int cm_durable_place_remove(struct cm_durable_place *place, char *text) {
    if (!leads_to(place->path, place->fd))
        return 0;
    int err = unlink(place->path) < 0 ? -errno : sync_folder(place->path);
    return err ? cm_durable_refuse(text, err, "cannot remove %s: %s", place->path, cm_error_text(err)) : 0;
}
