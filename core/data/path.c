#include "data/path.h"

#include <string.h>

#include "base/error.h"
#include "data/number.h"

/* --- steps one by one --- */

int cm_path_add_string(struct cm_buf *steps, struct cm_bytes string) {
    return string.len > CM_PATH_MAX_BYTES ? CM_E_BADVALUE : cm_item_write_string(steps, string);
}

int cm_path_add_integer(struct cm_buf *steps, int64_t integer) {
    return cm_item_write_integer(steps, integer);
}

int cm_path_add_float(struct cm_buf *steps, double real) {
    uint8_t space[CM_NUMBER_BYTES];
    struct cm_number number = {.is_float = true, .real = real};
    struct cm_item key = {.kind = CM_ITEM_NUMBER, .bytes = cm_number_encode(number, space)};
    return cm_item_is_key(&key) ? cm_item_write_key(steps, &key) : CM_E_BADVALUE;
}

/* --- reading steps --- */

int cm_path_next(struct cm_bytes *steps, struct cm_item *step) {
    struct cm_bytes ahead = *steps;
    int64_t integer;
    if (cm_item_take(&ahead, step) || !cm_item_is_key(step))
        return CM_E_BADVALUE;
    /* The other end writes such a key as an integer: two forms of one path would be two paths. */
    struct cm_number number;
    if (step->kind == CM_ITEM_NUMBER && !cm_number_decode(step->bytes, &number) && number.is_float &&
        cm_item_integer(step, &integer))
        return CM_E_BADVALUE;
    *steps = ahead;
    return 0;
}

int cm_path_split(struct cm_bytes *steps, struct cm_bytes *name) {
    struct cm_bytes ahead = *steps;
    struct cm_item first;
    if (cm_path_next(&ahead, &first) || first.kind != CM_ITEM_STRING || !first.bytes.len ||
        first.bytes.len > CM_PATH_MAX_NAME_BYTES)
        return CM_E_BADVALUE;
    *name = first.bytes;
    *steps = ahead;
    return 0;
}

int cm_path_check(struct cm_bytes steps) {
    struct cm_bytes name;
    if (steps.len > CM_PATH_MAX_BYTES)
        return CM_E_BADVALUE;
    int err = cm_path_split(&steps, &name);
    for (int count = 1; !err && steps.len; count++) {
        struct cm_item step;
        err = count < CM_PATH_MAX_STEPS ? cm_path_next(&steps, &step) : CM_E_BADVALUE;
    }
    return err;
}

/* --- parsing --- */

struct parser {
    struct cm_bytes text;
    size_t next; /* <= text.len */
    struct cm_buf *steps;
    size_t start; /* of this path in `steps` */
    int count;
    struct cm_path_fault *fault;
};

static int complain(const struct parser *parser, size_t index, const char *why) {
    *parser->fault = (struct cm_path_fault){index + 1, why};
    return CM_E_BADVALUE;
}

/* The byte that comes next; 0 at the end, which none of those asked for is. */
static uint8_t peek(const struct parser *parser) {
    return parser->next < parser->text.len ? parser->text.data[parser->next] : 0;
}

static bool accept(struct parser *parser, char byte) {
    bool is_next = peek(parser) == (uint8_t)byte;
    parser->next += is_next;
    return is_next;
}

/* Behind a step that was added, from the text at `index` on. */
static int count_step(struct parser *parser, size_t index) {
    if (++parser->count > CM_PATH_MAX_STEPS)
        return complain(parser, index, "a path has 128 steps at most");
    if (parser->steps->len - parser->start > CM_PATH_MAX_BYTES)
        return complain(parser, index, "a path's steps have 128 KiB at most");
    return 0;
}

/* A string of `len` bytes, of which the text at `index` may have more: a backslash before some. */
static int add_string(struct parser *parser, size_t index, size_t len) {
    if (!parser->count && !len)
        return complain(parser, index, "a document's name must not be empty");
    if (!parser->count && len > CM_PATH_MAX_NAME_BYTES)
        return complain(parser, index, "a document's name has 65531 bytes at most");
    struct cm_bytes string = {parser->text.data + index, len};
    int err = cm_path_add_string(parser->steps, string);
    return err == CM_E_BADVALUE ? complain(parser, index, "a path's steps have 128 KiB at most")
           : err                ? err
                                : count_step(parser, index);
}

static bool ends_name(uint8_t byte) {
    return byte == '.' || byte == '[' || byte == ']' || byte == '"';
}

static int parse_name(struct parser *parser, const char *missing) {
    size_t first = parser->next;
    while (parser->next < parser->text.len && !ends_name(peek(parser)))
        parser->next++;
    if (parser->next == first)
        return complain(parser, first, missing);
    return add_string(parser, first, parser->next - first);
}

static int parse_index(struct parser *parser) {
    size_t first = parser->next;
    int64_t index = 0;
    if (peek(parser) == '-')
        return complain(parser, first, "an index counts from 1");
    for (; peek(parser) >= '0' && peek(parser) <= '9'; parser->next++)
        if (__builtin_mul_overflow(index, 10, &index) ||
            __builtin_add_overflow(index, peek(parser) - '0', &index))
            return complain(parser, first, "an index is 9223372036854775807 at most");
    if (parser->next == first)
        return complain(parser, first, "an index or a string in double quotes must come in brackets");
    if (!index)
        return complain(parser, first, "an index counts from 1");
    if (parser->text.data[first] == '0')
        return complain(parser, first, "an index has no leading zeros");
    if (!parser->count)
        return complain(parser, first, "the first step must be a document's name");
    int err = cm_path_add_integer(parser->steps, index);
    return err ? err : count_step(parser, first);
}

/* Finds the closing quote, and how many bytes come before it without the backslashes. */
static int measure_quoted(const struct parser *parser, size_t *end, size_t *len) {
    struct cm_bytes text = parser->text;
    size_t i = parser->next;
    for (*len = 0; i < text.len && text.data[i] != '"'; i++, ++*len)
        if (text.data[i] == '\\' && ++i < text.len && text.data[i] != '"' && text.data[i] != '\\')
            return complain(parser, i, "\" or \\ must come after a backslash");
    if (i >= text.len)
        return complain(parser, text.len, "a quote is not closed");
    *end = i;
    return 0;
}

/* Behind the opening quote. */
static int parse_quoted(struct parser *parser) {
    size_t end, len, first = parser->next;
    int err = measure_quoted(parser, &end, &len);
    if (!err)
        err = add_string(parser, first, len);
    if (err)
        return err;
    uint8_t *to = parser->steps->data + parser->steps->len - len;
    for (size_t i = first; i < end; i++) {
        i += parser->text.data[i] == '\\';
        *to++ = parser->text.data[i];
    }
    parser->next = end + 1;
    return 0;
}

/* Behind the opening bracket. */
static int parse_brackets(struct parser *parser) {
    bool quoted = accept(parser, '"');
    int err = quoted ? parse_quoted(parser) : parse_index(parser);
    if (!err && !accept(parser, ']'))
        err = complain(parser, parser->next,
                       quoted ? "a bracket must close after the string"
                              : "a bracket must close after the index");
    return err;
}

static int parse_step(struct parser *parser) {
    bool after_bracket = parser->text.data[parser->next - 1] == ']';
    if (accept(parser, '.'))
        return parse_name(parser, "a name must come after a dot");
    if (accept(parser, '['))
        return parse_brackets(parser);
    if (peek(parser) == ']')
        return complain(parser, parser->next, "there is no bracket to close");
    return complain(parser, parser->next,
                    after_bracket ? "a dot, a bracket or the end must come after a bracket"
                                  : "a quote must come after a bracket");
}

int cm_path_parse(struct cm_bytes text, struct cm_buf *steps, struct cm_path_fault *fault) {
    struct parser parser = {.text = text, .steps = steps, .start = steps->len, .fault = fault};
    int err = accept(&parser, '[') ? parse_brackets(&parser)
                                   : parse_name(&parser, "a path must begin with a document's name");
    while (!err && parser.next < text.len)
        err = parse_step(&parser);
    if (err)
        steps->len = parser.start;
    return err;
}
