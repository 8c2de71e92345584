#include "cluster/head.h"

#include <string.h>
#include <strings.h>

enum { BAD_REQUEST = 400, NOT_IMPLEMENTED = 501 };

bool cm_head_is_word(struct cm_bytes bytes, const char *word) {
    return bytes.len == strlen(word) && strncasecmp((const char *)bytes.data, word, bytes.len) == 0;
}

static bool is_alphanumeric(uint8_t byte) {
    return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z');
}

bool cm_head_is_token(struct cm_bytes bytes) {
    for (size_t i = 0; i < bytes.len; i++)
        if (!is_alphanumeric(bytes.data[i]) && (!bytes.data[i] || !strchr("!#$%&'*+-.^_`|~", bytes.data[i])))
            return false;
    return bytes.len > 0;
}

bool cm_head_is_value(struct cm_bytes bytes) {
    for (size_t i = 0; i < bytes.len; i++)
        if (bytes.data[i] < ' ' || bytes.data[i] == 127)
            return false;
    return bytes.len > 0;
}

/* Without blanks and control characters; other bytes beyond ASCII are for the handler to judge. */
static bool is_visible(struct cm_bytes bytes) {
    for (size_t i = 0; i < bytes.len; i++)
        if (bytes.data[i] <= ' ' || bytes.data[i] == 127)
            return false;
    return bytes.len > 0;
}

/* The first refusal stays. */
static void refuse(struct cm_head *head, int status) {
    if (!head->status)
        head->status = status;
}

static void add_length(struct cm_head *head, struct cm_bytes value) {
    if (head->has_length || head->is_chunked || !value.len) {
        refuse(head, BAD_REQUEST);
        return;
    }
    head->has_length = true;
    for (size_t i = 0; i < value.len; i++) {
        uint8_t digit = (uint8_t)(value.data[i] - '0');
        if (digit > 9 || head->content_length > ((uint64_t)INT64_MAX - digit) / 10) {
            refuse(head, BAD_REQUEST);
            return;
        }
        head->content_length = head->content_length * 10 + digit;
    }
}

static void add_encoding(struct cm_head *head, struct cm_bytes value) {
    if (head->old || head->has_length || head->is_chunked)
        refuse(head, BAD_REQUEST);
    else if (!cm_head_is_word(value, "chunked"))
        refuse(head, NOT_IMPLEMENTED);
    head->is_chunked = true;
}

/* --- the places of the parts --- */

/* What ends here is the line: CR and LF were overwritten. */
static void end_line(struct cm_head *head, const uint8_t *end) {
    if (end[0] || end[1])
        refuse(head, BAD_REQUEST);
    head->at = end + 2;
}

static void place_line(struct cm_head *head, const struct cm_head_line *line) {
    head->start = (const uint8_t *)line->method;
    if (line->path != line->method + strlen(line->method) + 1 ||
        line->version != line->path + line->target.len + 1)
        refuse(head, BAD_REQUEST);
    else
        end_line(head, (const uint8_t *)line->version + strlen(line->version));
}

/* Nothing is read behind a part that is out of its place. */
static void place_field(struct cm_head *head, struct cm_bytes name, struct cm_bytes value) {
    const uint8_t *between = name.data + name.len;
    if (name.data != head->at || value.data <= between || *between) {
        refuse(head, BAD_REQUEST);
        return;
    }
    while (++between < value.data)
        if (*between != ' ' && *between != '\t')
            refuse(head, BAD_REQUEST);
    end_line(head, value.data + value.len);
}

/* --- the head --- */

void cm_head_begin(struct cm_head *head, const struct cm_head_line *line, bool placed) {
    *head = (struct cm_head){.placed = placed, .old = strcmp(line->version, "HTTP/1.1") != 0};
    struct cm_bytes method = cm_bytes_of(line->method);
    if (!cm_head_is_token(method) || !is_visible(line->target))
        refuse(head, BAD_REQUEST);
    else if (strcmp(line->method, "CONNECT") == 0)
        refuse(head, NOT_IMPLEMENTED); /* this is no proxy */
    if (placed)
        place_line(head, line);
}

static bool has_controls(struct cm_bytes bytes) {
    for (size_t i = 0; i < bytes.len; i++)
        if ((bytes.data[i] < ' ' && bytes.data[i] != '\t') || bytes.data[i] == 127)
            return true;
    return false;
}

void cm_head_add(struct cm_head *head, struct cm_bytes name, struct cm_bytes value) {
    if (head->status)
        return;
    if (head->placed)
        place_field(head, name, value);
    /* Above all no blank before the colon, which some take for a part of the name and others do not. */
    if (!cm_head_is_token(name) || has_controls(value)) {
        refuse(head, BAD_REQUEST);
    } else if (cm_head_is_word(name, "content-length")) {
        add_length(head, value);
    } else if (cm_head_is_word(name, "transfer-encoding")) {
        add_encoding(head, value);
    } else if (cm_head_is_word(name, "host")) {
        if (head->has_host)
            refuse(head, BAD_REQUEST);
        head->has_host = true;
    }
}

int cm_head_end(struct cm_head *head, size_t len_bytes) {
    if (!head->old && !head->has_host)
        refuse(head, BAD_REQUEST);
    if (head->placed && !head->status) {
        size_t len = (size_t)(head->at - head->start) + 2;
        /* Empty lines before the first one are no part of it, but may be counted. */
        if (len > len_bytes || (len_bytes - len) % 2)
            refuse(head, BAD_REQUEST);
        else
            end_line(head, head->at);
    }
    return head->status;
}
