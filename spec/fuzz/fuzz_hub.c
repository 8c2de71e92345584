/* The input is what processes send for hubs, step by step: a byte says whose step it is and which, then comes
 * what it takes. Payloads go the way that they go in the master: read, and handed to the mailboxes. Who sends
 * a malformed one is gone then. Nothing is delivered beyond its receiver's window, every answer is one that
 * is waited for, and in the end nobody waits and nothing is left. */
#include <stdbool.h>

#include "base/error.h"
#include "data/mailbox.h"
#include "spec/fuzz/fuzz.h"
#include "wire/mail.h"
#include "wire/ops.h"

enum { SEATS = 3, MOST_REQUESTS = 1 << 13, PAD_BYTES = 16 << 10 };
enum what { SEND, ASK, ANSWER, DONE, PASS_TIME, DIE, KINDS };

enum state { UNKNOWN, WAITING, ASKED, DELIVERED };

/* What has been sent. Its number is its request's, and it is known by its body's first bytes. */
struct sent {
    enum state state; /* UNKNOWN: it is over */
    bool asks;
    uint32_t from, to; /* seats; to: of a request that is delivered */
    uint64_t ticket;
};

struct input {
    const uint8_t *at, *end;
};

static struct cm_mailboxes boxes;
static struct sent sent[MOST_REQUESTS];
static uint32_t count;
static size_t used[SEATS + 1];
static uint64_t now_ms, last_ticket;

static uint64_t clock_ms(void) {
    return now_ms;
}

/* --- what the mailboxes say --- */

static struct sent *find_ticket(uint64_t ticket) {
    for (uint32_t i = 0; i < count; i++) {
        if (sent[i].ticket == ticket)
            return &sent[i];
    }
    return NULL;
}

static void on_deliver(void *data, uint32_t seat, uint64_t ticket, uint32_t sender, struct cm_bytes body) {
    size_t charge = body.len + CM_MAIL_CHARGE_BYTES;
    MUST(data == &boxes && seat >= 1 && seat <= SEATS && sender < count);
    MUST(used[seat] < CM_MAIL_REPORT_BYTES || used[seat] + charge <= CM_MAIL_WINDOW_BYTES);
    used[seat] += charge;
    struct sent *letter = &sent[sender];
    MUST(letter->asks == (ticket != 0));
    if (!ticket)
        return;
    MUST(letter->state == ASKED && !letter->ticket && ticket <= last_ticket + MOST_REQUESTS);
    last_ticket = ticket > last_ticket ? ticket : last_ticket;
    letter->state = DELIVERED;
    letter->ticket = ticket;
    letter->to = seat;
}

static void on_answer(void *data, uint32_t seat, uint64_t request, int code, struct cm_bytes answer) {
    MUST(data == &boxes && seat >= 1 && seat <= SEATS && request < count);
    struct sent *letter = &sent[request];
    MUST(letter->state != UNKNOWN && letter->from == seat);
    MUST(code == 0 || code == CM_E_TIMEOUT || code == CM_E_CLOSED);
    MUST(answer.len == 0 || (code == 0 && letter->state == DELIVERED));
    letter->state = UNKNOWN;
}

static void on_over(void *data, uint32_t seat, uint64_t ticket) {
    const struct sent *letter = find_ticket(ticket);
    MUST(data == &boxes && letter && letter->state == DELIVERED && letter->to == seat);
}

/* --- steps --- */

static uint8_t take_byte(struct input *input) {
    return input->at < input->end ? *input->at++ : 0;
}

/* So many bytes as the next two say, if there are; to be freed. */
static struct cm_bytes take_payload(struct input *input) {
    size_t len = take_byte(input);
    len |= (size_t)take_byte(input) << 8;
    size_t left = (size_t)(input->end - input->at);
    struct cm_bytes payload = {NULL, len < left ? len : left};
    payload.data = exact_copy(input->at, payload.len);
    input->at += payload.len;
    return payload;
}

/* Its requests are dropped; of a request to it others are told. */
static void die(uint32_t seat) {
    for (uint32_t i = 0; seat && i < count; i++) {
        if (sent[i].from == seat && !(sent[i].asks && sent[i].state == DELIVERED))
            sent[i].state = UNKNOWN;
    }
    if (seat)
        cm_mailboxes_drop(&boxes, seat);
    for (uint32_t i = 0; seat && i < count; i++) {
        if (sent[i].from == seat)
            sent[i].state = UNKNOWN;
    }
    used[seat] = 0;
}

static size_t find_receivers(const struct cm_post *post, uint32_t seat, uint32_t *receivers) {
    if (post->to == CM_HUB_TO_PROCESS) {
        receivers[0] = post->process;
        return post->process >= 1 && post->process <= SEATS;
    }
    size_t found = 0;
    for (uint32_t other = 1; other <= SEATS; other++) {
        if (other != seat)
            receivers[found++] = other;
    }
    return post->to == CM_HUB_TO_ALL ? found : 1;
}

/* A mail as long as a small input cannot be. */
static void post(uint32_t seat, bool asks, const struct cm_post *post, size_t pad) {
    uint32_t receivers[SEATS];
    size_t receivers_count = find_receivers(post, seat, receivers);
    if (receivers_count == 0 || count == MOST_REQUESTS)
        return;
    size_t len = post->mail.len + pad;
    uint8_t *body = calloc(1, len);
    MUST(body);
    memcpy(body, post->mail.data, post->mail.len);
    struct cm_mail mail = {seat, count, count, asks, post->timeout_ms, {body, len}};
    struct sent *letter = &sent[count++];
    *letter = (struct sent){.state = asks ? ASKED : WAITING, .asks = asks, .from = seat};
    int err = cm_mailboxes_post(&boxes, &mail, receivers, receivers_count);
    MUST(err == 0 || (err == CM_E_NOMEMORY && boxes.boxes[seat].bytes >= CM_MAIL_MOST_BYTES));
    if (err || !seat)
        letter->state = UNKNOWN;
    free(body);
}

static int send_payload(uint32_t seat, bool asks, struct cm_bytes payload, size_t pad) {
    struct cm_post read;
    struct cm_bytes parts[CM_MAIL_PARTS];
    int err = cm_post_read(payload, asks, &read);
    if (err || (asks && !seat))
        return err;
    MUST(cm_mail_split(read.mail, parts) == 0);
    post(seat, asks, &read, pad);
    return 0;
}

static int answer_payload(uint32_t seat, struct cm_bytes payload) {
    uint64_t ticket;
    struct cm_bytes outcome;
    int err = cm_outcome_read(payload, &ticket, &outcome);
    if (err || !seat)
        return err;
    const struct sent *letter = find_ticket(ticket);
    bool counts = letter && letter->state == DELIVERED && letter->to == seat;
    cm_mailboxes_answer(&boxes, seat, ticket, outcome);
    MUST(!counts || letter->state == UNKNOWN);
    return 0;
}

static int done_payload(uint32_t seat, struct cm_bytes payload) {
    uint64_t bytes;
    int err = cm_done_read(payload, &bytes);
    if (err || !seat)
        return err;
    size_t before = used[seat];
    used[seat] -= bytes <= before ? (size_t)bytes : 0; /* what is delivered in its place counts from here */
    err = cm_mailboxes_done(&boxes, seat, bytes);
    MUST(err == (bytes <= before ? 0 : CM_E_BADFRAME));
    return err;
}

static void step(struct input *input) {
    uint8_t first = take_byte(input);
    uint32_t seat = first % (SEATS + 1);
    enum what what = (enum what)(first / (SEATS + 1) % KINDS);
    if (what == PASS_TIME) {
        now_ms += (uint64_t)take_byte(input) << take_byte(input) % 48;
        cm_mailboxes_look(&boxes);
        MUST(cm_mailboxes_next_ms(&boxes) > 0);
        return;
    }
    if (what == DIE) {
        die(seat);
        return;
    }
    size_t pad = what == SEND || what == ASK ? take_byte(input) * (size_t)PAD_BYTES : 0;
    struct cm_bytes payload = take_payload(input);
    int err = what == ANSWER ? answer_payload(seat, payload)
              : what == DONE ? done_payload(seat, payload)
                             : send_payload(seat, what == ASK, payload, pad);
    MUST(err == 0 || err == CM_E_BADFRAME);
    free((void *)payload.data);
    if (err)
        die(seat);
    for (uint32_t i = 0; i <= SEATS; i++)
        MUST(boxes.boxes[i].used == used[i]);
}

static void end_all(void) {
    now_ms = UINT64_MAX / 2;
    cm_mailboxes_look(&boxes);
    MUST(cm_mailboxes_next_ms(&boxes) == UINT64_MAX);
    for (uint32_t i = 0; i < count; i++)
        MUST(sent[i].state == UNKNOWN);
    for (uint32_t i = 0; i <= SEATS; i++) {
        MUST(boxes.boxes[i].bytes == 0 && cm_list_empty(&boxes.boxes[i].sent));
        MUST(cm_list_empty(&boxes.boxes[i].parked) && cm_list_empty(&boxes.boxes[i].unanswered));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, data + size};
    count = 0;
    last_ticket = 0;
    now_ms = 1;
    memset(used, 0, sizeof used);
    MUST(cm_mailboxes_init(&boxes, SEATS) == 0);
    boxes.clock_ms = clock_ms;
    boxes.deliver = on_deliver;
    boxes.answer = on_answer;
    boxes.over = on_over;
    boxes.data = &boxes;
    while (input.at < input.end)
        step(&input);
    end_all();
    cm_mailboxes_deinit(&boxes);
    return 0;
}
