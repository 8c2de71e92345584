#include "wire/mail.h"

#include "base/error.h"
#include "wire/message.h"
#include "wire/ops.h"

static struct cm_bytes rest(const struct cm_reader *reader) {
    return (struct cm_bytes){reader->next, cm_reader_left(reader)};
}

int cm_mail_split(struct cm_bytes mail, struct cm_bytes parts[CM_MAIL_PARTS]) {
    struct cm_reader reader;
    cm_reader_init(&reader, mail);
    for (int i = 0; i < CM_MAIL_PARTS; i++)
        parts[i] = cm_read_bytes(&reader);
    return cm_reader_end(&reader);
}

int cm_post_read(struct cm_bytes payload, bool asks, struct cm_post *post) {
    struct cm_reader reader;
    struct cm_bytes parts[CM_MAIL_PARTS];
    cm_reader_init(&reader, payload);
    post->to = cm_read_u8(&reader);
    post->process = cm_read_u32(&reader);
    post->timeout_ms = cm_read_u64(&reader);
    post->mail = rest(&reader);
    bool good = !reader.error && cm_mail_split(post->mail, parts) == 0 && post->to <= CM_HUB_TO_RANDOM &&
                post->timeout_ms <= CM_TTL_MAX_MS && parts[CM_MAIL_HUB].len <= CM_HUB_NAME_MAX_BYTES &&
                parts[CM_MAIL_TYPE].len <= CM_HUB_TYPE_MAX_BYTES && !(asks && post->to == CM_HUB_TO_ALL);
    return good ? 0 : CM_E_BADFRAME;
}

/* Whether it is one. The asker decodes the values, or finds that they are none. */
static bool is_outcome(struct cm_bytes bytes) {
    struct cm_reader reader;
    cm_reader_init(&reader, bytes);
    uint32_t left;
    switch (cm_read_u8(&reader)) {
    case CM_HUB_ANSWERED:
        left = cm_read_count(&reader, 4);
        if (left > CM_HUB_MOST_RESULTS)
            return false;
        while (left--)
            cm_read_bytes(&reader);
        break;
    case CM_HUB_FAILED:
        cm_read_bytes(&reader);
        break;
    case CM_HUB_NO_HANDLER:
        break;
    default:
        return false;
    }
    return cm_reader_end(&reader) == 0;
}

int cm_outcome_read(struct cm_bytes payload, uint64_t *ticket, struct cm_bytes *outcome) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    *ticket = cm_read_u64(&reader);
    *outcome = rest(&reader);
    return *ticket && is_outcome(*outcome) ? 0 : CM_E_BADFRAME;
}

int cm_done_read(struct cm_bytes payload, uint64_t *bytes) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    *bytes = cm_read_u64(&reader);
    return cm_reader_end(&reader);
}

int cm_delivery_read(struct cm_bytes payload, uint64_t *ticket, uint32_t *sender, struct cm_bytes *mail) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    *ticket = cm_read_u64(&reader);
    *sender = cm_read_u32(&reader);
    *mail = rest(&reader);
    return reader.error;
}
