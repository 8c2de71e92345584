#include "cluster/durable_head.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "cluster/durable.h"
#include "cluster/durable_place.h"

enum {
    HEADS = 2,
    HEAD_FLAG = 0x08,
    DATA_FORMAT = 1,
    SMALLEST_PAGE_BYTES = 512,
    LARGEST_PAGE_BYTES = 32768,
    MOST_LEVELS = 32, /* LMDB's own limit */
};
static const uint32_t MAGIC = 0xBEEFC0DE;
static const uint64_t NO_PAGE = UINT64_MAX;

/* A tree as LMDB's data format 1 has it on machines of 64 bits, in their own order of bytes. */
struct tree {
    uint32_t page_bytes; /* of the first tree; of others something else */
    uint16_t flags;
    uint16_t levels;
    uint64_t pages[3];
    uint64_t entries;
    uint64_t root;
};

struct head {
    uint64_t page;
    uint16_t pad;
    uint16_t page_flags;
    uint32_t bounds;
    uint32_t magic;
    uint32_t format;
    uint64_t address;
    uint64_t map_bytes;
    struct tree free;
    struct tree documents;
    uint64_t last_page;
    uint64_t transaction;
};
static_assert(sizeof(struct head) == 152 && sizeof(size_t) == 8, "LMDB's format on 64 bits");

static int refuse_strange(const char *path, char *text) {
    return cm_durable_refuse(text, CM_E_BADVALUE, "%s is no file of documents", path);
}

static int refuse_damaged(const char *path, const char *how, char *text) {
    return cm_durable_refuse(text, CM_E_BADVALUE, "%s is damaged: %s", path, how);
}

/* 0 or an errno; fewer bytes than asked for are zeros behind them. */
static int read_head(int fd, uint64_t at, struct head *head) {
    *head = (struct head){0};
    ssize_t got;
    do
        got = pread(fd, head, sizeof *head, (off_t)at);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : 0;
}

static bool is_head(const struct head *head) {
    return head->page_flags & HEAD_FLAG && head->magic == MAGIC;
}

static bool tree_makes_sense(const struct tree *tree, uint64_t last_page) {
    if (tree->root == NO_PAGE)
        return tree->levels == 0 && tree->entries == 0;
    return tree->root >= HEADS && tree->root <= last_page && tree->levels > 0 && tree->levels <= MOST_LEVELS;
}

static bool is_power_of_2(uint64_t number) {
    return number && (number & (number - 1)) == 0;
}

/* They are written in turns, one for each transaction; else an older state could pass for the newest. */
static bool follow_each_other(const struct head heads[HEADS]) {
    uint64_t even = heads[0].transaction;
    uint64_t odd = heads[1].transaction;
    if (odd == 0)
        return even == 0;
    return even % 2 == 0 && odd % 2 == 1 && (even == odd - 1 || even == odd + 1);
}

static int check_heads(const struct head heads[HEADS], const char *path, uint64_t file_bytes, char *text) {
    uint64_t page_bytes = heads[0].free.page_bytes;
    const struct head *newest = &heads[heads[0].transaction < heads[1].transaction];
    for (int i = 0; i < HEADS; i++)
        if (!is_head(&heads[i]) || heads[i].free.page_bytes != page_bytes)
            return refuse_damaged(path, "its head makes no sense", text);
    if (!follow_each_other(heads) || newest->last_page < HEADS - 1 ||
        newest->last_page >= UINT64_MAX / LARGEST_PAGE_BYTES ||
        !tree_makes_sense(&newest->free, newest->last_page) ||
        !tree_makes_sense(&newest->documents, newest->last_page))
        return refuse_damaged(path, "its head makes no sense", text);
    if (newest->documents.flags)
        return refuse_strange(path, text);
    if (file_bytes < (newest->last_page + 1) * page_bytes)
        return refuse_damaged(path, "its end is missing", text);
    return 0;
}

int cm_durable_head_check(int fd, const char *path, uint64_t file_bytes, char *text) {
    struct head heads[HEADS];
    int err = read_head(fd, 0, &heads[0]);
    uint64_t page_bytes = heads[0].free.page_bytes;
    if (!err && (!is_head(&heads[0]) || heads[0].format != DATA_FORMAT))
        return refuse_strange(path, text);
    if (!err &&
        (page_bytes < SMALLEST_PAGE_BYTES || page_bytes > LARGEST_PAGE_BYTES || !is_power_of_2(page_bytes)))
        return refuse_damaged(path, "its head makes no sense", text);
    if (!err && file_bytes < HEADS * page_bytes)
        return refuse_damaged(path, "its end is missing", text);
    if (!err)
        err = read_head(fd, page_bytes, &heads[1]);
    if (err)
        return cm_durable_refuse(text, err, "cannot read %s: %s", path, cm_error_text(err));
    return check_heads(heads, path, file_bytes, text);
}
