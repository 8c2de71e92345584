#include "data/mailbox.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"

/* What is on its way to one receiver. */
struct parcel {
    struct cm_list link; /* while it is parked */
    struct letter *letter;
    uint32_t to;
};

/* What has been sent and has not ended: a message that is parked somewhere, or a request. */
struct letter {
    struct cm_list sent;
    struct cm_list unanswered;
    struct cm_index_node by_ticket;
    struct cm_heap_node deadline;
    uint32_t seat;
    uint32_t sender;
    uint64_t request;
    uint64_t ticket;    /* 0: a message */
    struct cm_buf body; /* while it is parked */
    size_t bytes;       /* that it takes */
    size_t parked;      /* so many parcels */
    size_t count;
    struct parcel parcels[];
};

/* --- windows --- */

static size_t charge_for(size_t body_len) {
    return body_len + CM_MAIL_CHARGE_BYTES;
}

static bool fits(const struct cm_mailbox *box, size_t body_len) {
    return box->used < CM_MAIL_REPORT_BYTES ||
           (box->used < CM_MAIL_WINDOW_BYTES && charge_for(body_len) <= CM_MAIL_WINDOW_BYTES - box->used);
}

/* Nothing overtakes what is parked. */
static bool may_pass(const struct cm_mailbox *box, size_t body_len) {
    return cm_list_empty(&box->parked) && fits(box, body_len);
}

static void deliver(struct cm_mailboxes *mailboxes, uint32_t to, uint64_t ticket, uint32_t sender,
                    struct cm_bytes body) {
    mailboxes->boxes[to].used += charge_for(body.len);
    mailboxes->deliver(mailboxes->data, to, ticket, sender, body);
}

/* --- letters --- */

/* Fibonacci hashing: Knuth, "The Art of Computer Programming" vol. 3, 6.4. */
static uint64_t hash_of(uint64_t ticket) {
    uint64_t hash = ticket * UINT64_C(0x9e3779b97f4a7c15);
    return hash >> 32 | hash << 32;
}

static struct letter *find(const struct cm_mailboxes *mailboxes, uint64_t ticket) {
    struct cm_index_node *node = cm_index_first(&mailboxes->tickets, hash_of(ticket));
    while (node && CM_LIST_ITEM(node, struct letter, by_ticket)->ticket != ticket)
        node = cm_index_next(node);
    return node ? CM_LIST_ITEM(node, struct letter, by_ticket) : NULL;
}

/* A letter of nobody yet. */
static struct letter *make_letter(const struct cm_mail *mail, const uint32_t *to, size_t count,
                                  bool is_parked) {
    size_t bytes = sizeof(struct letter) + count * sizeof(struct parcel);
    struct letter *letter = calloc(1, bytes);
    if (!letter)
        return NULL;
    if (is_parked && cm_buf_append(&letter->body, mail->body.data, mail->body.len)) {
        free(letter);
        return NULL;
    }
    letter->sender = mail->sender;
    letter->request = mail->request;
    letter->bytes = bytes + letter->body.len;
    letter->count = count;
    cm_list_init(&letter->sent);
    cm_list_init(&letter->unanswered);
    for (size_t i = 0; i < count; i++) {
        letter->parcels[i].letter = letter;
        letter->parcels[i].to = to[i];
        cm_list_init(&letter->parcels[i].link);
    }
    return letter;
}

static void free_letter(struct letter *letter) {
    cm_buf_deinit(&letter->body);
    free(letter);
}

/* Puts it down as sent by whoever has that seat. */
static void book(struct cm_mailboxes *mailboxes, struct letter *letter, uint32_t seat) {
    letter->seat = seat;
    mailboxes->boxes[seat].bytes += letter->bytes;
    cm_list_append(&mailboxes->boxes[seat].sent, &letter->sent);
}

static void unbook(struct cm_mailboxes *mailboxes, struct letter *letter) {
    mailboxes->boxes[letter->seat].bytes -= letter->bytes;
    cm_list_remove(&letter->sent);
}

/* NULL: there is no memory for it, or its sender has taken too much already. */
static struct letter *add_letter(struct cm_mailboxes *mailboxes, const struct cm_mail *mail,
                                 const uint32_t *to, size_t count, bool is_parked) {
    if (mailboxes->boxes[mail->seat].bytes >= CM_MAIL_MOST_BYTES)
        return NULL;
    struct letter *letter = make_letter(mail, to, count, is_parked);
    if (!letter)
        return NULL;
    letter->deadline.key = mailboxes->clock_ms() + mail->timeout_ms;
    if (cm_heap_add(&mailboxes->deadlines, &letter->deadline)) {
        free_letter(letter);
        return NULL;
    }
    if (mail->asks) {
        letter->ticket = ++mailboxes->last_ticket;
        cm_index_add(&mailboxes->tickets, &letter->by_ticket, hash_of(letter->ticket));
    }
    book(mailboxes, letter, mail->seat);
    return letter;
}

static void remove_letter(struct cm_mailboxes *mailboxes, struct letter *letter) {
    unbook(mailboxes, letter);
    cm_list_remove(&letter->unanswered);
    cm_heap_remove(&mailboxes->deadlines, &letter->deadline);
    if (letter->ticket)
        cm_index_remove(&mailboxes->tickets, &letter->by_ticket);
    for (size_t i = 0; i < letter->count; i++)
        cm_list_remove(&letter->parcels[i].link);
    free_letter(letter);
}

static void finish(struct cm_mailboxes *mailboxes, struct letter *letter, int code, struct cm_bytes answer) {
    uint32_t seat = letter->seat;
    uint64_t request = letter->request;
    remove_letter(mailboxes, letter);
    if (seat)
        mailboxes->answer(mailboxes->data, seat, request, code, answer);
}

static void fail(struct cm_mailboxes *mailboxes, struct letter *letter, int code) {
    finish(mailboxes, letter, code, (struct cm_bytes){0});
}

/* --- parked ones --- */

static void park(struct cm_mailboxes *mailboxes, struct parcel *parcel) {
    cm_list_append(&mailboxes->boxes[parcel->to].parked, &parcel->link);
    parcel->letter->parked++;
}

static void unpark(struct parcel *parcel) {
    cm_list_remove(&parcel->link);
    parcel->letter->parked--;
}

static void become_unanswered(struct cm_mailboxes *mailboxes, struct letter *letter) {
    struct cm_mailbox *sender = &mailboxes->boxes[letter->seat];
    sender->bytes -= letter->body.len;
    letter->bytes -= letter->body.len;
    cm_buf_deinit(&letter->body);
    cm_list_append(&mailboxes->boxes[letter->parcels[0].to].unanswered, &letter->unanswered);
}

/* Delivers what has been parked for the seat and fits by now. */
static void flush(struct cm_mailboxes *mailboxes, uint32_t seat) {
    struct cm_mailbox *box = &mailboxes->boxes[seat];
    while (!cm_list_empty(&box->parked)) {
        struct parcel *parcel = CM_LIST_ITEM(box->parked.next, struct parcel, link);
        struct letter *letter = parcel->letter;
        if (!fits(box, letter->body.len))
            return;
        unpark(parcel);
        deliver(mailboxes, seat, letter->ticket, letter->sender, cm_buf_view(&letter->body));
        if (letter->ticket)
            become_unanswered(mailboxes, letter);
        else if (!letter->parked)
            fail(mailboxes, letter, 0);
    }
}

/* --- what participants do --- */

int cm_mailboxes_post(struct cm_mailboxes *mailboxes, const struct cm_mail *mail, const uint32_t *to,
                      size_t count) {
    size_t passing = 0;
    for (size_t i = 0; i < count; i++)
        passing += may_pass(&mailboxes->boxes[to[i]], mail->body.len);
    struct letter *letter = NULL;
    if (mail->asks || passing < count) {
        letter = add_letter(mailboxes, mail, to, count, passing < count);
        if (!letter)
            return CM_E_NOMEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        if (may_pass(&mailboxes->boxes[to[i]], mail->body.len))
            deliver(mailboxes, to[i], letter ? letter->ticket : 0, mail->sender, mail->body);
        else if (letter)
            park(mailboxes, &letter->parcels[i]);
    }
    if (letter && mail->asks && !letter->parked)
        become_unanswered(mailboxes, letter);
    else if (!letter && mail->seat)
        mailboxes->answer(mailboxes->data, mail->seat, mail->request, 0, (struct cm_bytes){0});
    return 0;
}

void cm_mailboxes_answer(struct cm_mailboxes *mailboxes, uint32_t seat, uint64_t ticket,
                         struct cm_bytes answer) {
    struct letter *letter = find(mailboxes, ticket);
    if (letter && !letter->parked && letter->parcels[0].to == seat)
        finish(mailboxes, letter, 0, answer);
}

int cm_mailboxes_done(struct cm_mailboxes *mailboxes, uint32_t seat, uint64_t bytes) {
    struct cm_mailbox *box = &mailboxes->boxes[seat];
    if (bytes > box->used)
        return CM_E_BADFRAME;
    box->used -= (size_t)bytes;
    flush(mailboxes, seat);
    return 0;
}

/* --- time --- */

/* Tells the receiver of a request, or takes what is parked back. */
static void withdraw(struct cm_mailboxes *mailboxes, struct letter *letter) {
    if (!cm_list_empty(&letter->unanswered))
        mailboxes->over(mailboxes->data, letter->parcels[0].to, letter->ticket);
    for (size_t i = 0; i < letter->count; i++) {
        if (cm_list_empty(&letter->parcels[i].link))
            continue;
        unpark(&letter->parcels[i]);
        flush(mailboxes, letter->parcels[i].to);
    }
}

void cm_mailboxes_look(struct cm_mailboxes *mailboxes) {
    struct cm_heap_node *first;
    while ((first = cm_heap_first(&mailboxes->deadlines)) && first->key <= mailboxes->clock_ms()) {
        struct letter *letter = CM_LIST_ITEM(first, struct letter, deadline);
        withdraw(mailboxes, letter);
        fail(mailboxes, letter, CM_E_TIMEOUT);
    }
}

uint64_t cm_mailboxes_next_ms(const struct cm_mailboxes *mailboxes) {
    const struct cm_heap_node *first = cm_heap_first(&mailboxes->deadlines);
    uint64_t now_ms = mailboxes->clock_ms();
    if (!first)
        return UINT64_MAX;
    return first->key > now_ms ? first->key - now_ms : 0;
}

/* --- the dead --- */

/* Leaves a message to be delivered still, if the dead have not left too much already, and drops a request. */
static void leave_behind(struct cm_mailboxes *mailboxes, struct letter *letter) {
    unbook(mailboxes, letter);
    book(mailboxes, letter, 0);
    if (!letter->ticket && mailboxes->boxes[0].bytes - letter->bytes < CM_MAIL_MOST_BYTES)
        return;
    if (!cm_list_empty(&letter->unanswered))
        mailboxes->over(mailboxes->data, letter->parcels[0].to, letter->ticket);
    remove_letter(mailboxes, letter);
}

static void lose(struct cm_mailboxes *mailboxes, struct parcel *parcel) {
    struct letter *letter = parcel->letter;
    unpark(parcel);
    if (letter->count == 1)
        fail(mailboxes, letter, CM_E_CLOSED);
    else if (!letter->parked)
        fail(mailboxes, letter, 0); /* it was for all who are there */
}

void cm_mailboxes_drop(struct cm_mailboxes *mailboxes, uint32_t seat) {
    struct cm_mailbox *box = &mailboxes->boxes[seat];
    CM_LIST_EACH(link, &box->sent) {
        leave_behind(mailboxes, CM_LIST_ITEM(link, struct letter, sent));
    }
    CM_LIST_EACH(link, &box->parked) {
        lose(mailboxes, CM_LIST_ITEM(link, struct parcel, link));
    }
    CM_LIST_EACH(link, &box->unanswered) {
        fail(mailboxes, CM_LIST_ITEM(link, struct letter, unanswered), CM_E_CLOSED);
    }
    box->used = 0;
    for (uint32_t other = 1; other <= mailboxes->seats; other++)
        flush(mailboxes, other); /* what was parked in front may be gone */
}

/* --- beginning and end --- */

int cm_mailboxes_init(struct cm_mailboxes *mailboxes, uint32_t seats) {
    *mailboxes = (struct cm_mailboxes){.clock_ms = cm_clock_ms, .seats = seats};
    mailboxes->boxes = calloc((size_t)seats + 1, sizeof *mailboxes->boxes);
    if (cm_index_init(&mailboxes->tickets) || !mailboxes->boxes) {
        cm_index_deinit(&mailboxes->tickets);
        free(mailboxes->boxes);
        mailboxes->boxes = NULL;
        return CM_E_NOMEMORY;
    }
    for (uint32_t i = 0; i <= seats; i++) {
        cm_list_init(&mailboxes->boxes[i].parked);
        cm_list_init(&mailboxes->boxes[i].unanswered);
        cm_list_init(&mailboxes->boxes[i].sent);
    }
    return 0;
}

void cm_mailboxes_deinit(struct cm_mailboxes *mailboxes) {
    if (!mailboxes->boxes)
        return;
    for (uint32_t i = 0; i <= mailboxes->seats; i++) {
        CM_LIST_EACH(link, &mailboxes->boxes[i].sent) {
            remove_letter(mailboxes, CM_LIST_ITEM(link, struct letter, sent));
        }
    }
    cm_heap_deinit(&mailboxes->deadlines);
    cm_index_deinit(&mailboxes->tickets);
    free(mailboxes->boxes);
    *mailboxes = (struct cm_mailboxes){0};
}
