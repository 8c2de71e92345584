/* The input begins with three bytes: the time, and the lengths of the steps and of the value that follow
 * them; the rest is the body. Whatever they are, operations end within their bytes, and of a body that is
 * well-formed they make one that is. What has been set is found, what has been deleted is not; and by a
 * stream the same is found. */
#include "base/error.h"
#include "data/document.h"
#include "data/json.h"
#include "spec/core/trickle.h"
#include "spec/fuzz/fuzz.h"

struct input {
    uint64_t now_ms;
    struct cm_bytes steps, value, body;
    int well_formed; /* of the body: 0 or CM_E_BADVALUE */
};

/* An error has appended nothing and is one that there is; a result of what is well-formed is so too. */
static int check_result(const struct input *input, const struct cm_buf *out, int err) {
    MUST(err == 0 || err == CM_E_NOTFOUND || err == CM_E_BADVALUE || err == CM_E_TOOLARGE);
    MUST(!err || out->len == 0);
    if (!err && !input->well_formed && out->len)
        MUST(cm_document_check_body(cm_buf_view(out)) == 0);
    return err;
}

static int find(const struct input *input, struct cm_bytes body, struct cm_bytes *value) {
    uint8_t *copy = exact_copy(body.data, body.len);
    int err = cm_document_find((struct cm_bytes){copy, body.len}, input->steps, input->now_ms, value);
    MUST(err == 0 || err == CM_E_NOTFOUND || err == CM_E_BADVALUE);
    struct trickle trickle;
    uint64_t at = 0, len = 0;
    trickle_init(&trickle, (struct cm_bytes){copy, body.len});
    MUST(cm_document_seek(&trickle.stream, input->steps, input->now_ms, &at, &len) == err);
    trickle_deinit(&trickle);
    if (!err) {
        MUST(copy + at == value->data && len == value->len);
        MUST(value->data >= copy && value->len <= body.len - (size_t)(value->data - copy));
        value->data = body.data + (value->data - copy);
    }
    free(copy);
    return err;
}

static void try_set(const struct input *input, uint64_t expires_ms) {
    struct cm_buf out = {0};
    struct cm_bytes found;
    int err = cm_document_set(input->body, input->steps, input->value, expires_ms, input->now_ms, &out);
    if (check_result(input, &out, err) == 0 && !input->well_formed) {
        err = find(input, cm_buf_view(&out), &found);
        MUST(err == (expires_ms && expires_ms <= input->now_ms ? CM_E_NOTFOUND : 0));
        MUST(err || (found.len == input->value.len && memcmp(found.data, input->value.data, found.len) == 0));
    }
    cm_buf_deinit(&out);
}

static void try_delete(const struct input *input) {
    struct cm_buf out = {0};
    struct cm_bytes found;
    int found_err = find(input, input->body, &found);
    int err = cm_document_delete(input->body, input->steps, input->now_ms, &out);
    MUST(check_result(input, &out, err) == 0 ? !found_err || input->well_formed
                                             : err == found_err || input->well_formed);
    cm_buf_deinit(&out);
}

static void try_marks(const struct input *input) {
    struct cm_buf out = {0}, again = {0};
    uint64_t earliest_ms;
    int err = cm_document_purge(input->body, input->now_ms, &out);
    if (check_result(input, &out, err) == 0 && !input->well_formed && out.len) {
        MUST(cm_document_earliest(cm_buf_view(&out), &earliest_ms) == 0);
        MUST(!earliest_ms || earliest_ms > input->now_ms);
        MUST(cm_document_purge(cm_buf_view(&out), input->now_ms, &again) == 0);
        MUST(again.len == out.len && memcmp(again.data, out.data, out.len) == 0);
        MUST(cm_document_shift(out.data, out.len, -(int64_t)input->now_ms) == 0);
        MUST(cm_document_check_body(cm_buf_view(&out)) == 0);
    }
    cm_buf_deinit(&out);
    cm_buf_deinit(&again);
}

static void try_json(const struct input *input) {
    struct cm_buf out = {0};
    int err = cm_json_write(input->body, input->now_ms, true, &out);
    MUST(!err == (out.len > 0));
    MUST(input->well_formed ? err == CM_E_BADVALUE : err == 0 || err == CM_E_NOTFOUND);
    cm_buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3)
        return 0;
    size_t left = size - 3;
    size_t steps_len = data[1] < left ? data[1] : left;
    left -= steps_len;
    size_t value_len = data[2] < left ? data[2] : left;
    left -= value_len;
    const uint8_t *at = data + 3;
    uint8_t *steps = exact_copy(at, steps_len);
    uint8_t *value = exact_copy(at + steps_len, value_len);
    uint8_t *body = exact_copy(at + steps_len + value_len, left);
    struct input input = {data[0], {steps, steps_len}, {value, value_len}, {body, left}, 0};
    input.well_formed = left ? cm_document_check_body(input.body) : 0;
    try_set(&input, 0);
    try_set(&input, 100);
    try_delete(&input);
    try_marks(&input);
    if (left)
        try_json(&input);
    free(steps);
    free(value);
    free(body);
    return 0;
}
