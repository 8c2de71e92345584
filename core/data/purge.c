/* What core/data/document does with all marks of a body, wherever they are. */
#include <stdlib.h>

#include "base/error.h"
#include "data/document.h"

/* A step of a walk that passes over what is expired. */
struct visit {
    const uint8_t *at;   /* the item */
    const uint8_t *next; /* behind it, or behind the whole value if that is gone */
    struct cm_item item;
    unsigned depth; /* tables that it is in */
    bool is_entry;  /* it begins an entry: a map's key, an array's element or its mark */
    bool is_gone;   /* it is an expired value, mark and all */
};

static int visit_next(struct cm_item_walk *walk, uint64_t now_ms, struct visit *visit) {
    visit->at = walk->rest.data;
    visit->depth = walk->depth;
    bool in_map = walk->depth && walk->levels[walk->depth - 1].is_map;
    visit->is_entry = !walk->marked && (walk->is_key || !in_map);
    int err = cm_item_walk_next(walk, &visit->item);
    visit->is_gone = !err && visit->item.kind == CM_ITEM_MARK && visit->item.count <= now_ms;
    if (visit->is_gone)
        err = cm_item_walk_skip(walk);
    visit->next = walk->rest.data;
    return err;
}

static bool is_table(const struct cm_item *item) {
    return item->kind == CM_ITEM_ARRAY || item->kind == CM_ITEM_MAP;
}

/* --- what is lost --- */

/* A table that loses entries. Its head comes before them, so they are found first. */
struct loss {
    const uint8_t *head;
    uint64_t left;          /* entries that stay */
    enum cm_item_kind kind; /* what it will be: an array that loses elements before its last is a map */
};

struct losses {
    struct cm_buf items;              /* struct loss */
    size_t levels[CM_ITEM_MAX_DEPTH]; /* which is that of the table at each level, counted from 1; 0: none */
    struct loss tables[CM_ITEM_MAX_DEPTH]; /* the tables themselves, as they are */
    bool whole;
};

static struct loss *loss_at(const struct losses *losses, size_t i) {
    return (struct loss *)(void *)losses->items.data + i;
}

static size_t count_losses(const struct losses *losses) {
    return losses->items.len / sizeof(struct loss);
}

/* An entry of the table at that level is gone. */
static int lose_entry(struct losses *losses, unsigned level) {
    if (!losses->levels[level]) {
        int err = cm_buf_append(&losses->items, &losses->tables[level], sizeof(struct loss));
        if (err)
            return err;
        losses->levels[level] = count_losses(losses);
    }
    loss_at(losses, losses->levels[level] - 1)->left--;
    return 0;
}

static int note_visit(struct losses *losses, const struct visit *visit) {
    unsigned depth = visit->depth;
    if (visit->is_gone) {
        losses->whole = !depth;
        return depth ? lose_entry(losses, depth - 1) : 0;
    }
    if (visit->is_entry && depth && losses->levels[depth - 1])
        loss_at(losses, losses->levels[depth - 1] - 1)->kind = CM_ITEM_MAP;
    if (is_table(&visit->item)) {
        losses->levels[depth] = 0;
        losses->tables[depth] = (struct loss){visit->at, visit->item.count, visit->item.kind};
    }
    return 0;
}

/* Inner tables may have lost entries before outer ones do. */
static int compare_losses(const void *one, const void *other) {
    const struct loss *a = one, *b = other;
    return (a->head > b->head) - (a->head < b->head);
}

static int find_losses(struct cm_bytes body, uint64_t now_ms, struct losses *losses) {
    struct cm_item_walk walk;
    cm_item_walk_init(&walk, body);
    while (!walk.done) {
        struct visit visit;
        int err = visit_next(&walk, now_ms, &visit);
        if (!err)
            err = note_visit(losses, &visit);
        if (err)
            return err;
    }
    size_t count = count_losses(losses);
    if (count)
        qsort(losses->items.data, count, sizeof(struct loss), compare_losses);
    return 0;
}

/* --- writing without that --- */

struct rewrite {
    const struct losses *losses;
    size_t next; /* of the losses */
    struct cm_buf *out;
    const uint8_t *copied; /* all before this has been written, or is gone */
    const uint8_t *entry;  /* where the last entry began */
    struct {
        bool renamed; /* an array that becomes a map */
        int64_t index;
    } levels[CM_ITEM_MAX_DEPTH];
};

/* Writes the bytes up to `to`, and goes on at `from`. */
static int flush(struct rewrite *rewrite, const uint8_t *to, const uint8_t *from) {
    int err = cm_buf_append(rewrite->out, rewrite->copied, (size_t)(to - rewrite->copied));
    rewrite->copied = from;
    return err;
}

static int rewrite_table(struct rewrite *rewrite, const struct visit *visit) {
    const struct loss *loss =
        rewrite->next < count_losses(rewrite->losses) ? loss_at(rewrite->losses, rewrite->next) : NULL;
    bool loses = loss && loss->head == visit->at;
    rewrite->levels[visit->depth].renamed = loses && loss->kind != visit->item.kind;
    rewrite->levels[visit->depth].index = 0;
    if (!loses)
        return 0;
    rewrite->next++;
    int err = flush(rewrite, visit->at, visit->next);
    return err ? err : cm_item_write_table(rewrite->out, loss->kind, loss->left);
}

static int rewrite_visit(struct rewrite *rewrite, const struct visit *visit) {
    int err = 0;
    if (visit->is_entry) {
        rewrite->entry = visit->at;
        if (visit->depth)
            rewrite->levels[visit->depth - 1].index++;
    }
    if (visit->is_gone)
        return flush(rewrite, rewrite->entry, visit->next);
    if (visit->is_entry && visit->depth && rewrite->levels[visit->depth - 1].renamed) {
        err = flush(rewrite, visit->at, visit->at);
        if (!err)
            err = cm_item_write_integer(rewrite->out, rewrite->levels[visit->depth - 1].index);
    }
    return err || !is_table(&visit->item) ? err : rewrite_table(rewrite, visit);
}

static int append_rest(struct cm_bytes body, uint64_t now_ms, const struct losses *losses,
                       struct cm_buf *out) {
    struct rewrite rewrite = {.losses = losses, .out = out, .copied = body.data};
    struct cm_item_walk walk;
    cm_item_walk_init(&walk, body);
    while (!walk.done) {
        struct visit visit;
        int err = visit_next(&walk, now_ms, &visit);
        if (!err)
            err = rewrite_visit(&rewrite, &visit);
        if (err)
            return err;
    }
    return flush(&rewrite, walk.rest.data, NULL);
}

int cm_document_purge(struct cm_bytes body, uint64_t now_ms, struct cm_buf *out) {
    if (!body.len)
        return 0;
    struct losses losses = {.whole = false};
    size_t start = out->len;
    int err = find_losses(body, now_ms, &losses);
    if (!err && !losses.whole)
        err = losses.items.len ? append_rest(body, now_ms, &losses, out)
                               : cm_buf_append(out, body.data, body.len);
    cm_buf_deinit(&losses.items);
    if (err)
        out->len = start;
    return err;
}

/* --- the times of expiry --- */

int cm_document_earliest(struct cm_bytes body, uint64_t *expires_ms) {
    struct cm_item_walk walk;
    cm_item_walk_init(&walk, body);
    *expires_ms = 0;
    while (body.len && !walk.done) {
        struct cm_item item;
        int err = cm_item_walk_next(&walk, &item);
        if (err)
            return err;
        if (item.kind == CM_ITEM_MARK && (!*expires_ms || item.count < *expires_ms))
            *expires_ms = item.count;
    }
    return 0;
}

static uint64_t moved(uint64_t expires_ms, int64_t by_ms) {
    uint64_t sum;
    if (by_ms >= 0)
        return __builtin_add_overflow(expires_ms, (uint64_t)by_ms, &sum) ? UINT64_MAX : sum;
    uint64_t back = 0 - (uint64_t)by_ms;
    return expires_ms > back ? expires_ms - back : 1;
}

int cm_document_shift(uint8_t *body, size_t len, int64_t by_ms) {
    struct cm_item_walk walk;
    cm_item_walk_init(&walk, (struct cm_bytes){body, len});
    while (len && !walk.done) {
        struct cm_item item;
        int err = cm_item_walk_next(&walk, &item);
        if (err)
            return err;
        if (item.kind == CM_ITEM_MARK)
            cm_item_place_mark(body + (walk.rest.data - body) - CM_ITEM_MARK_BYTES, moved(item.count, by_ms));
    }
    return 0;
}
