/* The input is a path's text, and then steps from elsewhere. What parses passes the check, and a fault lies
 * within the text; of steps that pass, each can be taken, added and checked again. */
#include "base/error.h"
#include "data/number.h"
#include "data/path.h"
#include "spec/fuzz/fuzz.h"

static void try_text(struct cm_bytes text) {
    struct cm_buf steps = {0};
    struct cm_path_fault fault = {0};
    MUST(cm_buf_append(&steps, "before", 6) == 0);
    int err = cm_path_parse(text, &steps, &fault);
    MUST(err == 0 || err == CM_E_BADVALUE);
    if (err)
        MUST(steps.len == 6 && fault.at >= 1 && fault.at <= text.len + 1 && fault.why);
    else
        MUST(cm_path_check((struct cm_bytes){steps.data + 6, steps.len - 6}) == 0);
    MUST(memcmp(steps.data, "before", 6) == 0);
    cm_buf_deinit(&steps);
}

static void add_step(struct cm_buf *steps, const struct cm_item *step) {
    struct cm_number number;
    if (step->kind == CM_ITEM_STRING) {
        MUST(cm_path_add_string(steps, step->bytes) == 0);
        return;
    }
    MUST(step->kind == CM_ITEM_NUMBER && cm_number_decode(step->bytes, &number) == 0);
    MUST((number.is_float ? cm_path_add_float(steps, number.real)
                          : cm_path_add_integer(steps, number.integer)) == 0);
}

static void try_steps(struct cm_bytes steps) {
    if (cm_path_check(steps))
        return;
    struct cm_buf again = {0};
    struct cm_bytes name, rest = steps;
    MUST(cm_path_split(&rest, &name) == 0 && name.len > 0 && name.len <= CM_PATH_MAX_NAME_BYTES);
    MUST(cm_path_add_string(&again, name) == 0);
    while (rest.len) {
        struct cm_item step;
        MUST(cm_path_next(&rest, &step) == 0);
        add_step(&again, &step);
    }
    MUST(again.len <= steps.len && cm_path_check(cm_buf_view(&again)) == 0);
    cm_buf_deinit(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = exact_copy(data, size);
    try_text((struct cm_bytes){copy, size});
    try_steps((struct cm_bytes){copy, size});
    free(copy);
    return 0;
}
