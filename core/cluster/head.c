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

static void add_encoding(struct cm_head *head, bool old, struct cm_bytes value) {
    if (old || head->has_length || head->is_chunked)
        refuse(head, BAD_REQUEST);
    else if (!cm_head_is_word(value, "chunked"))
        refuse(head, NOT_IMPLEMENTED);
    head->is_chunked = true;
}

void cm_head_add(struct cm_head *head, bool old, struct cm_bytes name, struct cm_bytes value) {
    /* Above all no blank before the colon, which some take for a part of the name and others do not. */
    if (!cm_head_is_token(name)) {
        refuse(head, BAD_REQUEST);
    } else if (cm_head_is_word(name, "content-length")) {
        add_length(head, value);
    } else if (cm_head_is_word(name, "transfer-encoding")) {
        add_encoding(head, old, value);
    } else if (cm_head_is_word(name, "host")) {
        if (head->has_host)
            refuse(head, BAD_REQUEST);
        head->has_host = true;
    }
}

int cm_head_status(const struct cm_head *head) {
    return head->status;
}
