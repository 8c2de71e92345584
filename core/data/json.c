#include "data/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/document.h"
#include "data/number.h"

static int append(struct cm_buf *out, const char *text) {
    return cm_buf_append(out, text, strlen(text));
}

/* --- strings --- */

static bool continues(struct cm_bytes bytes, size_t at) {
    return at < bytes.len && (bytes.data[at] & 0xc0) == 0x80;
}

/* How many bytes at the front are one character in UTF-8; 0: none are. */
static size_t character_len(struct cm_bytes bytes) {
    uint8_t first = bytes.data[0];
    uint8_t second = bytes.len > 1 ? bytes.data[1] : 0;
    if (first < 0x80)
        return 1;
    if (first < 0xc2 || first > 0xf4 || !continues(bytes, 1)) /* c0 and c1 begin what is too long */
        return 0;
    if (first < 0xe0)
        return 2;
    if (!continues(bytes, 2))
        return 0;
    if (first < 0xf0) /* too long, and surrogates */
        return (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ? 0 : 3;
    /* too long, and beyond U+10FFFF */
    bool is_outside = (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
    return is_outside || !continues(bytes, 3) ? 0 : 4;
}

/* What stands for a character of one byte that may not stand for itself, or for a byte that is in none. */
static int append_escape(struct cm_buf *out, uint8_t byte) {
    static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    char text[8];
    if (byte >= 0x80)
        return append(out, "\xef\xbf\xbd");
    for (const char *letter = letters; *letter; letter += 2)
        if (byte == (uint8_t)*letter) {
            snprintf(text, sizeof text, "\\%c", letter[1]);
            return append(out, text);
        }
    snprintf(text, sizeof text, "\\u%04x", byte);
    return append(out, text);
}

static int append_characters(struct cm_buf *out, struct cm_bytes bytes) {
    size_t copied = 0;
    int err = 0;
    for (size_t i = 0; !err && i < bytes.len;) {
        size_t len = character_len((struct cm_bytes){bytes.data + i, bytes.len - i});
        uint8_t byte = bytes.data[i];
        if (len && byte >= ' ' && byte != '"' && byte != '\\') {
            i += len;
            continue;
        }
        err = cm_buf_append(out, bytes.data + copied, i - copied);
        err = err ? err : append_escape(out, byte);
        copied = ++i;
    }
    return err || copied == bytes.len ? err : cm_buf_append(out, bytes.data + copied, bytes.len - copied);
}

int cm_json_string(struct cm_bytes bytes, struct cm_buf *out) {
    size_t start = out->len;
    int err = append(out, "\"");
    err = err ? err : append_characters(out, bytes);
    err = err ? err : append(out, "\"");
    if (err)
        out->len = start;
    return err;
}

/* --- numbers --- */

enum { NUMBER_ROOM = 40 };

/* A script may have set another locale, with another decimal point. */
static void put_point(char *text) {
    size_t point = strspn(text, "-0123456789");
    size_t len = strcspn(text + point, "-+0123456789e");
    if (len) {
        text[point] = '.';
        memmove(text + point + 1, text + point + len, strlen(text + point + len) + 1);
    }
}

/* As few digits as read back as the same number. */
static void write_float(char text[NUMBER_ROOM], double real) {
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, NUMBER_ROOM, "%.*g", digits, real);
        if (strtod(text, NULL) == real)
            break;
    }
    put_point(text);
    if (!strpbrk(text, ".e"))
        memcpy(text + strlen(text), ".0", sizeof ".0");
}

static int write_number(struct cm_bytes bytes, char text[NUMBER_ROOM], bool *is_finite) {
    struct cm_number number;
    int err = cm_number_decode(bytes, &number);
    if (err)
        return err;
    *is_finite = !number.is_float || isfinite(number.real);
    if (!number.is_float)
        snprintf(text, NUMBER_ROOM, "%lld", (long long)number.integer);
    else if (*is_finite)
        write_float(text, number.real);
    else
        snprintf(text, NUMBER_ROOM, "%s", isnan(number.real) ? "nan" : number.real > 0 ? "inf" : "-inf");
    return 0;
}

/* --- tables --- */

struct writer {
    uint64_t now_ms;
    bool any_gone; /* something in the whole is expired */
    bool lenient;
    struct cm_buf *out;
};

/* The entries of a table that are still to come, and at `rest` what follows them. */
struct entries {
    struct cm_bytes rest;
    uint64_t left;
    bool is_map;
    struct cm_item key; /* of the last one, if it is a map's */
    int64_t index;      /* of the last one, if it is an array's */
};

/* Takes a value's mark off. An expired value is gone as a whole. */
static int take_mark(const struct writer *writer, struct cm_bytes *rest, bool *is_gone) {
    struct cm_bytes ahead = *rest;
    struct cm_item item;
    int err = cm_item_take(&ahead, &item);
    *is_gone = !err && item.kind == CM_ITEM_MARK && item.count <= writer->now_ms;
    if (*is_gone)
        return cm_item_skip(rest);
    if (!err && item.kind == CM_ITEM_MARK)
        *rest = ahead;
    return err;
}

/* Goes to the next living entry; its value is then to be taken off `rest`. Not found: they are all through.
 */
static int next_entry(const struct writer *writer, struct entries *entries, bool *found) {
    int err = 0;
    for (*found = false; !err && !*found && entries->left; entries->left--) {
        bool is_gone = false;
        entries->index++;
        err = entries->is_map ? cm_item_take(&entries->rest, &entries->key) : 0;
        err = err ? err : take_mark(writer, &entries->rest, &is_gone);
        *found = !err && !is_gone;
    }
    return err;
}

/* The integer that the last entry's key is; 0 if it is none from 1 on. */
static uint64_t index_of(const struct entries *entries) {
    int64_t index = entries->index;
    if (entries->is_map && !cm_item_integer(&entries->key, &index))
        return 0;
    return index < 1 ? 0 : (uint64_t)index;
}

/* The n of a table whose keys are from 1..n and as many, or 0. */
static int measure_array(const struct writer *writer, struct entries entries, uint64_t *len) {
    uint64_t count = 0, most = 0;
    *len = entries.is_map || writer->any_gone ? 0 : entries.left;
    if (*len)
        return 0;
    for (bool found = true; found;) {
        int err = next_entry(writer, &entries, &found);
        if (err)
            return err;
        if (!found)
            break;
        uint64_t index = index_of(&entries);
        if (!index)
            return 0;
        most = index > most ? index : most;
        count++;
        err = cm_item_skip(&entries.rest);
        if (err)
            return err;
    }
    *len = most == count ? count : 0;
    return 0;
}

/* Where each value of such a map is; NULL for a key that is not there, as another one is there twice. */
static int place_values(const struct writer *writer, struct entries entries, uint64_t len,
                        const uint8_t **places) {
    for (bool found = true; found;) {
        int err = next_entry(writer, &entries, &found);
        uint64_t index = index_of(&entries);
        if (!err && found && index >= 1 && index <= len)
            places[index - 1] = entries.rest.data;
        if (!err && found)
            err = cm_item_skip(&entries.rest);
        if (err)
            return err;
    }
    return 0;
}

static int append_value(const struct writer *writer, struct cm_bytes *rest);

static int append_number(const struct writer *writer, struct cm_bytes bytes) {
    char text[NUMBER_ROOM];
    bool is_finite;
    int err = write_number(bytes, text, &is_finite);
    if (!err && !is_finite && !writer->lenient)
        err = CM_E_BADVALUE;
    return err ? err : append(writer->out, is_finite ? text : "null");
}

static int append_key(const struct writer *writer, const struct entries *entries) {
    char text[NUMBER_ROOM];
    bool is_finite = true;
    int err = 0;
    if (entries->is_map && entries->key.kind == CM_ITEM_STRING)
        return cm_json_string(entries->key.bytes, writer->out);
    if (entries->is_map)
        err = write_number(entries->key.bytes, text, &is_finite);
    else
        snprintf(text, sizeof text, "%lld", (long long)entries->index);
    if (!err && !is_finite && !writer->lenient)
        err = CM_E_BADVALUE;
    return err ? err : cm_json_string(cm_bytes_of(text), writer->out);
}

/* All living entries, of an array without their keys. */
static int append_entries(const struct writer *writer, struct entries *entries, bool as_array) {
    int err = append(writer->out, as_array ? "[" : "{");
    const char *comma = "";
    for (bool found = true; !err && found; comma = ",") {
        err = next_entry(writer, entries, &found);
        if (err || !found)
            break;
        err = append(writer->out, comma);
        if (!err && !as_array) {
            err = append_key(writer, entries);
            err = err ? err : append(writer->out, ":");
        }
        err = err ? err : append_value(writer, &entries->rest);
    }
    return err ? err : append(writer->out, as_array ? "]" : "}");
}

static int append_places(const struct writer *writer, const uint8_t **places, uint64_t len,
                         const uint8_t *end) {
    int err = append(writer->out, "[");
    for (uint64_t i = 0; !err && i < len; i++) {
        struct cm_bytes rest = {places[i], (size_t)(end - places[i])};
        err = i ? append(writer->out, ",") : 0;
        err = err ? err : append_value(writer, &rest);
    }
    return err ? err : append(writer->out, "]");
}

/* A map of that many living entries, which are an array unless a key is there twice. */
static int append_map_as_array(const struct writer *writer, struct entries *entries, uint64_t len) {
    const uint8_t **places = calloc(len, sizeof *places);
    if (!places)
        return CM_E_NOMEMORY;
    int err = place_values(writer, *entries, len, places);
    uint64_t placed = 0;
    while (placed < len && places[placed])
        placed++;
    if (!err && placed == len) {
        err = append_places(writer, places, len, entries->rest.data + entries->rest.len);
        for (; !err && entries->left; entries->left--) {
            err = cm_item_skip(&entries->rest);
            err = err ? err : cm_item_skip(&entries->rest);
        }
    } else if (!err)
        err = append_entries(writer, entries, false);
    free(places);
    return err;
}

static int append_table(const struct writer *writer, const struct cm_item *table, struct cm_bytes *rest) {
    struct entries entries = {.rest = *rest, .left = table->count, .is_map = table->kind == CM_ITEM_MAP};
    uint64_t len;
    int err = measure_array(writer, entries, &len);
    if (!err && len && entries.is_map)
        err = append_map_as_array(writer, &entries, len);
    else if (!err)
        err = append_entries(writer, &entries, len);
    *rest = entries.rest;
    return err;
}

/* Takes a value whose mark has been taken. Its depth was looked at before. */
static int append_value(const struct writer *writer, struct cm_bytes *rest) {
    struct cm_item item;
    int err = cm_item_take(rest, &item);
    if (err)
        return err;
    switch (item.kind) {
    case CM_ITEM_NULL:
        return append(writer->out, "null");
    case CM_ITEM_FALSE:
        return append(writer->out, "false");
    case CM_ITEM_TRUE:
        return append(writer->out, "true");
    case CM_ITEM_NUMBER:
        return append_number(writer, item.bytes);
    case CM_ITEM_STRING:
        return cm_json_string(item.bytes, writer->out);
    case CM_ITEM_ARRAY:
    case CM_ITEM_MAP:
        return append_table(writer, &item, rest);
    default:
        return CM_E_BADVALUE;
    }
}

int cm_json_write(struct cm_bytes value, uint64_t now_ms, bool lenient, struct cm_buf *out) {
    uint64_t earliest_ms;
    size_t start = out->len;
    bool is_gone;
    /* This looks at all of it: what follows finds a value that is well-formed, nested not too deep. */
    int err = value.len ? cm_document_earliest(value, &earliest_ms) : CM_E_BADVALUE;
    if (err)
        return err;
    struct writer writer = {
        .now_ms = now_ms, .any_gone = earliest_ms && earliest_ms <= now_ms, .lenient = lenient, .out = out};
    err = take_mark(&writer, &value, &is_gone);
    if (!err)
        err = is_gone ? CM_E_NOTFOUND : append_value(&writer, &value);
    if (err)
        out->len = start;
    return err;
}
