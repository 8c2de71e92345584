/* Messages and requests between participants: who gets what when, and what its sender is told. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/mailbox.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { SEATS = 5, MOST_EVENTS = 10000, MOST_BODY_BYTES = 3 << 20, TIMEOUT_MS = 1000, KIB = 1024 };
enum { FILLING_BYTES = CM_MAIL_WINDOW_BYTES - 2 * KIB + 100 };

enum kind { DELIVERED, ANSWERED, OVER };

struct event {
    enum kind kind;
    uint32_t seat;
    uint64_t number; /* of the mail that is delivered, or of the request; 0 for what is over */
    uint64_t ticket;
    int code;
    size_t len; /* of the body, or the answer */
};

static struct cm_mailboxes boxes;
static struct event events[MOST_EVENTS];
static size_t event_count, events_taken;
static uint64_t now_ms;
static uint8_t body[MOST_BODY_BYTES];

static uint64_t clock_ms(void) {
    return now_ms;
}

static void note(struct event event) {
    assert_true(event_count < MOST_EVENTS);
    events[event_count++] = event;
}

/* A body begins with the number of its mail. */
static void on_deliver(void *data, uint32_t seat, uint64_t ticket, uint32_t sender, struct cm_bytes bytes) {
    assert_ptr_equal(data, &events);
    assert_int_equal(sender, 7);
    uint64_t number;
    assert_true(bytes.len >= sizeof number);
    memcpy(&number, bytes.data, sizeof number);
    note((struct event){DELIVERED, seat, number, ticket, 0, bytes.len});
}

static void on_answer(void *data, uint32_t seat, uint64_t request, int code, struct cm_bytes answer) {
    assert_ptr_equal(data, &events);
    assert_in_range(seat, 1, SEATS);
    note((struct event){ANSWERED, seat, request, 0, code, answer.len});
}

static void on_over(void *data, uint32_t seat, uint64_t ticket) {
    assert_ptr_equal(data, &events);
    note((struct event){OVER, seat, 0, ticket, 0, 0});
}

static int open_all(void) {
    event_count = events_taken = 0;
    now_ms = 1000000;
    int err = cm_mailboxes_init(&boxes, SEATS);
    boxes.clock_ms = clock_ms;
    boxes.deliver = on_deliver;
    boxes.answer = on_answer;
    boxes.over = on_over;
    boxes.data = &events;
    return err;
}

static size_t alive_before;

static int set_up(void **state) {
    (void)state;
    alive_before = alloc_failure_alive();
    return open_all();
}

static int tear_down(void **state) {
    (void)state;
    cm_mailboxes_deinit(&boxes);
    return alloc_failure_alive() != alive_before;
}

static int try_post(struct cm_mail mail, size_t len, const uint32_t *to, size_t count) {
    mail.sender = 7;
    memcpy(body, &mail.request, sizeof mail.request);
    mail.body = (struct cm_bytes){body, len};
    return cm_mailboxes_post(&boxes, &mail, to, count);
}

static void send_to(uint32_t from, uint64_t number, size_t len, uint32_t to) {
    struct cm_mail mail = {.seat = from, .request = number, .timeout_ms = TIMEOUT_MS};
    assert_int_equal(try_post(mail, len, &to, 1), 0);
}

static void ask(uint32_t from, uint64_t number, size_t len, uint32_t to) {
    struct cm_mail mail = {.seat = from, .request = number, .asks = true, .timeout_ms = TIMEOUT_MS};
    assert_int_equal(try_post(mail, len, &to, 1), 0);
}

static void done(uint32_t seat, size_t len) {
    assert_int_equal(cm_mailboxes_done(&boxes, seat, len + CM_MAIL_CHARGE_BYTES), 0);
}

static const struct event *next_event(enum kind kind, uint32_t seat) {
    assert_true(events_taken < event_count);
    const struct event *event = &events[events_taken++];
    assert_int_equal(event->kind, kind);
    assert_int_equal(event->seat, seat);
    return event;
}

static uint64_t assert_delivered(uint32_t seat, uint64_t number, size_t len) {
    const struct event *event = next_event(DELIVERED, seat);
    assert_int_equal(event->number, number);
    assert_int_equal(event->len, len);
    return event->ticket;
}

static void assert_answered(uint32_t seat, uint64_t request, int code) {
    const struct event *event = next_event(ANSWERED, seat);
    assert_int_equal(event->number, request);
    assert_int_equal(event->code, code);
}

static void assert_over(uint32_t seat, uint64_t ticket) {
    assert_int_equal(next_event(OVER, seat)->ticket, ticket);
}

static void assert_no_event(void) {
    assert_int_equal(event_count, events_taken);
}

/* Delivers so much that a further KiB does not fit, but a few bytes would. */
static void fill(uint32_t seat) {
    send_to(5, 99, FILLING_BYTES, seat);
    assert_int_equal(assert_delivered(seat, 99, FILLING_BYTES), 0);
    assert_answered(5, 99, 0);
}

static void empty(uint32_t seat) {
    done(seat, FILLING_BYTES);
}

static void what_fits_is_delivered_at_once(void **state) {
    (void)state;
    send_to(1, 11, 100, 2);
    assert_int_equal(assert_delivered(2, 11, 100), 0);
    assert_answered(1, 11, 0);
    send_to(2, 12, 100, 2);
    assert_delivered(2, 12, 100);
    assert_answered(2, 12, 0);
    assert_no_event();
    assert_int_equal(boxes.boxes[1].bytes, 0);
    assert_int_equal(cm_mailboxes_next_ms(&boxes), UINT64_MAX);
}

static void what_does_not_fit_is_answered_when_it_is_delivered(void **state) {
    (void)state;
    fill(2);
    send_to(1, 11, KIB, 2);
    send_to(1, 12, KIB, 3);
    assert_delivered(3, 12, KIB);
    assert_answered(1, 12, 0);
    assert_no_event();
    assert_true(boxes.boxes[1].bytes > KIB);
    empty(2);
    assert_delivered(2, 11, KIB);
    assert_answered(1, 11, 0);
    assert_no_event();
    assert_int_equal(boxes.boxes[1].bytes, 0);
}

static void nothing_overtakes_what_is_parked(void **state) {
    (void)state;
    fill(2);
    send_to(1, 11, KIB, 2);
    send_to(3, 12, 10, 2); /* it would fit */
    assert_no_event();
    empty(2);
    assert_delivered(2, 11, KIB);
    assert_answered(1, 11, 0);
    assert_delivered(2, 12, 10);
    assert_answered(3, 12, 0);
    assert_no_event();
}

/* Receivers do not report less than a quarter of the window, so that may be all that is ever left in it. */
static void one_larger_than_the_window_passes_behind_what_may_never_be_reported(void **state) {
    (void)state;
    send_to(1, 11, CM_MAIL_REPORT_BYTES - CM_MAIL_CHARGE_BYTES, 2);
    assert_delivered(2, 11, CM_MAIL_REPORT_BYTES - CM_MAIL_CHARGE_BYTES);
    assert_answered(1, 11, 0);
    send_to(1, 12, MOST_BODY_BYTES, 2);
    assert_no_event();
    done(2, 1000 - CM_MAIL_CHARGE_BYTES);
    assert_delivered(2, 12, MOST_BODY_BYTES);
    assert_answered(1, 12, 0);
    send_to(1, 13, 10, 2);
    assert_no_event();
    done(2, MOST_BODY_BYTES);
    assert_delivered(2, 13, 10);
    assert_answered(1, 13, 0);
}

static void small_ones_count_for_more_than_their_length(void **state) {
    (void)state;
    size_t passed = 0;
    for (; event_count == 2 * passed && passed < MOST_EVENTS / 2; passed++)
        send_to(1, passed + 1, sizeof(uint64_t), 2);
    assert_in_range(passed, 1900, 2100);
}

static void a_request_is_answered_by_who_has_got_it_and_once(void **state) {
    (void)state;
    ask(1, 11, 100, 2);
    uint64_t ticket = assert_delivered(2, 11, 100);
    assert_true(ticket);
    assert_no_event();
    cm_mailboxes_answer(&boxes, 3, ticket, cm_bytes_of("not yours"));
    cm_mailboxes_answer(&boxes, 1, ticket, cm_bytes_of("nor yours"));
    cm_mailboxes_answer(&boxes, 2, ticket + 1, cm_bytes_of("there is none"));
    assert_no_event();
    cm_mailboxes_answer(&boxes, 2, ticket, cm_bytes_of("four"));
    assert_answered(1, 11, 0);
    assert_int_equal(events[events_taken - 1].len, 4);
    cm_mailboxes_answer(&boxes, 2, ticket, cm_bytes_of("again"));
    assert_no_event();
    assert_int_equal(boxes.boxes[1].bytes, 0);
    /* Its share of the window is given back by the receiver alone. */
    assert_int_equal(boxes.boxes[2].used, 100 + CM_MAIL_CHARGE_BYTES);
}

static void a_parked_request_cannot_be_answered(void **state) {
    (void)state;
    fill(2);
    ask(1, 11, KIB, 2);
    cm_mailboxes_answer(&boxes, 2, boxes.last_ticket, cm_bytes_of("guessed"));
    assert_no_event();
    empty(2);
    uint64_t ticket = assert_delivered(2, 11, KIB);
    assert_no_event();
    assert_true(boxes.boxes[1].bytes < KIB);
    cm_mailboxes_answer(&boxes, 2, ticket, cm_bytes_of("got"));
    assert_answered(1, 11, 0);
}

static void what_is_not_delivered_in_time_makes_way(void **state) {
    (void)state;
    fill(2);
    send_to(1, 11, KIB, 2);
    now_ms += TIMEOUT_MS / 2;
    send_to(1, 12, 10, 2);
    assert_int_equal(cm_mailboxes_next_ms(&boxes), TIMEOUT_MS / 2);
    now_ms += TIMEOUT_MS / 2 - 1;
    cm_mailboxes_look(&boxes);
    assert_no_event();
    now_ms += 1;
    assert_int_equal(cm_mailboxes_next_ms(&boxes), 0);
    cm_mailboxes_look(&boxes);
    assert_delivered(2, 12, 10);
    assert_answered(1, 12, 0);
    assert_answered(1, 11, CM_E_TIMEOUT);
    assert_no_event();
    assert_int_equal(cm_mailboxes_next_ms(&boxes), UINT64_MAX);
}

static void a_request_that_is_not_answered_in_time_is_over(void **state) {
    (void)state;
    ask(1, 11, 100, 2);
    uint64_t ticket = assert_delivered(2, 11, 100);
    fill(3);
    ask(1, 12, KIB, 3);
    now_ms += TIMEOUT_MS;
    cm_mailboxes_look(&boxes);
    /* The parked one has not come to its receiver, so nothing is said there. Of two at the same time either
     * may be the first. */
    int answered = 0, overs = 0;
    while (events_taken < event_count) {
        const struct event *event = &events[events_taken++];
        assert_true(event->kind == OVER ? event->seat == 2 && event->ticket == ticket
                                        : event->seat == 1 && event->code == CM_E_TIMEOUT);
        answered += event->kind == ANSWERED;
        overs += event->kind == OVER;
    }
    assert_int_equal(answered, 2);
    assert_int_equal(overs, 1);
    cm_mailboxes_answer(&boxes, 2, ticket, cm_bytes_of("late"));
    empty(3);
    assert_no_event();
    assert_int_equal(boxes.boxes[2].used, 100 + CM_MAIL_CHARGE_BYTES);
}

static const uint32_t several[] = {2, 3, 4};

static int try_send_to_several(uint64_t number, size_t len) {
    struct cm_mail mail = {.seat = 1, .request = number, .timeout_ms = TIMEOUT_MS};
    return try_post(mail, len, several, 3);
}

static void a_message_to_several_is_answered_when_all_have_it(void **state) {
    (void)state;
    fill(2);
    fill(4);
    assert_int_equal(try_send_to_several(11, KIB), 0);
    assert_delivered(3, 11, KIB);
    empty(4);
    assert_delivered(4, 11, KIB);
    assert_no_event();
    empty(2);
    assert_delivered(2, 11, KIB);
    assert_answered(1, 11, 0);
    /* To nobody is to all. */
    assert_int_equal(try_post((struct cm_mail){.seat = 1, .request = 12}, 8, several, 0), 0);
    assert_answered(1, 12, 0);
    assert_no_event();
}

static void a_message_to_several_that_some_do_not_take_is_late(void **state) {
    (void)state;
    fill(3);
    assert_int_equal(try_send_to_several(11, KIB), 0);
    assert_delivered(2, 11, KIB);
    assert_delivered(4, 11, KIB);
    now_ms += TIMEOUT_MS;
    cm_mailboxes_look(&boxes);
    assert_answered(1, 11, CM_E_TIMEOUT);
    empty(3);
    assert_no_event();
}

static void a_message_to_several_does_not_wait_for_the_dead(void **state) {
    (void)state;
    fill(3);
    assert_int_equal(try_send_to_several(11, KIB), 0);
    assert_delivered(2, 11, KIB);
    assert_delivered(4, 11, KIB);
    cm_mailboxes_drop(&boxes, 3);
    assert_answered(1, 11, 0);
    assert_no_event();
}

static void who_sends_to_a_dying_one_is_told(void **state) {
    (void)state;
    ask(1, 11, 100, 2);
    uint64_t ticket = assert_delivered(2, 11, 100);
    send_to(5, 99, FILLING_BYTES, 2);
    assert_delivered(2, 99, FILLING_BYTES);
    assert_answered(5, 99, 0);
    send_to(3, 12, KIB, 2);
    ask(4, 13, KIB, 2);
    assert_no_event();
    cm_mailboxes_drop(&boxes, 2);
    assert_answered(3, 12, CM_E_CLOSED);
    assert_answered(4, 13, CM_E_CLOSED);
    assert_answered(1, 11, CM_E_CLOSED);
    assert_no_event();
    /* Whoever has the seat next has a window of his own. */
    cm_mailboxes_answer(&boxes, 2, ticket, cm_bytes_of("not his"));
    assert_no_event();
    fill(2);
}

static void what_the_dead_have_sent_counts_and_what_they_asked_does_not(void **state) {
    (void)state;
    fill(2);
    send_to(1, 11, KIB, 2);
    ask(1, 12, KIB, 2);
    ask(1, 13, KIB, 3);
    uint64_t ticket = assert_delivered(3, 13, KIB);
    cm_mailboxes_drop(&boxes, 1);
    assert_over(3, ticket);
    assert_int_equal(boxes.boxes[1].bytes, 0);
    cm_mailboxes_answer(&boxes, 3, ticket, cm_bytes_of("late"));
    assert_no_event();
    /* The next one in this seat is not answered for him. */
    send_to(1, 14, KIB, 2);
    /* What was handled only after his death is posted for nobody. */
    assert_int_equal(
        try_post((struct cm_mail){.request = 15, .timeout_ms = TIMEOUT_MS}, KIB, (uint32_t[]){2}, 1), 0);
    empty(2);
    assert_delivered(2, 11, KIB);
    assert_delivered(2, 14, KIB);
    assert_answered(1, 14, 0);
    assert_delivered(2, 15, KIB);
    assert_no_event();
    assert_int_equal(boxes.boxes[0].bytes, 0);
}

/* A worker that dies again and again behind a flood must not fill the master. */
static void what_the_dead_leave_behind_is_bounded(void **state) {
    (void)state;
    enum { LEN = 1 << 20 };
    fill(2);
    for (int life = 0; life < 100; life++) {
        send_to(1, 11, LEN, 2);
        cm_mailboxes_drop(&boxes, 1);
    }
    assert_no_event();
    assert_in_range(boxes.boxes[0].bytes, CM_MAIL_MOST_BYTES, CM_MAIL_MOST_BYTES + 2 * LEN);
    cm_mailboxes_drop(&boxes, 2);
    assert_int_equal(boxes.boxes[0].bytes, 0);
    assert_no_event();
}

static void who_has_sent_too_much_is_refused(void **state) {
    (void)state;
    enum { LEN = 1 << 20 };
    fill(2);
    int sent = 0, err = 0;
    for (; !err && sent < 100; sent += !err)
        err = try_post((struct cm_mail){.seat = 1, .request = 11, .timeout_ms = TIMEOUT_MS}, LEN,
                       (uint32_t[]){2}, 1);
    assert_int_equal(err, CM_E_NOMEMORY);
    assert_int_equal(sent, CM_MAIL_MOST_BYTES / LEN);
    assert_no_event();
    /* What need not be kept passes, and others are not refused. */
    send_to(1, 12, LEN / 2, 3);
    assert_delivered(3, 12, LEN / 2);
    assert_answered(1, 12, 0);
    send_to(4, 13, LEN, 2);
    assert_no_event();
    /* Of requests what is kept is little, but it counts. */
    struct cm_mail question = {.seat = 4, .request = 14, .asks = true, .timeout_ms = TIMEOUT_MS};
    size_t asked = 0;
    for (err = 0; !err && asked < 1000000; asked += !err) {
        event_count = events_taken = 0;
        err = try_post(question, 8, (uint32_t[]){3}, 1);
        if (event_count)
            assert_int_equal(cm_mailboxes_done(&boxes, 3, 8 + CM_MAIL_CHARGE_BYTES), 0);
    }
    assert_int_equal(err, CM_E_NOMEMORY);
    assert_in_range(asked, 50000, 500000);
}

static void nobody_is_done_with_more_than_he_has_got(void **state) {
    (void)state;
    assert_int_equal(cm_mailboxes_done(&boxes, 2, 1), CM_E_BADFRAME);
    send_to(1, 11, 100, 2);
    assert_int_equal(cm_mailboxes_done(&boxes, 2, 100 + CM_MAIL_CHARGE_BYTES + 1), CM_E_BADFRAME);
    assert_int_equal(cm_mailboxes_done(&boxes, 2, UINT64_MAX), CM_E_BADFRAME);
    assert_int_equal(cm_mailboxes_done(&boxes, 2, 100 + CM_MAIL_CHARGE_BYTES), 0);
    assert_int_equal(cm_mailboxes_done(&boxes, 2, 0), 0);
}

/* --- allocations that fail --- */

/* Each is done, or refused with nothing delivered. */
static int send_everything(void *data) {
    (void)data;
    int err = open_all();
    if (err)
        return err;
    uint32_t to = 2;
    struct cm_mail message = {.seat = 5, .request = 1, .timeout_ms = TIMEOUT_MS};
    err = try_post(message, CM_MAIL_WINDOW_BYTES, &to, 1); /* needs no memory */
    assert_int_equal(err, 0);
    assert_int_equal(event_count, 2);
    for (uint64_t number = 2; !err && number < 100; number++) {
        size_t before = event_count;
        struct cm_mail mail = {
            .seat = 1, .request = number, .asks = number % 2, .timeout_ms = number % 3 ? TIMEOUT_MS : 10};
        size_t count = number % 2 ? 1 : 3;
        err = number % 5 ? try_post(mail, 16, several, count) : try_post(mail, 16, (uint32_t[]){3}, 1);
        if (err)
            assert_int_equal(event_count, before);
    }
    now_ms += 10;
    cm_mailboxes_look(&boxes);
    cm_mailboxes_drop(&boxes, 1);
    cm_mailboxes_drop(&boxes, 2);
    cm_mailboxes_deinit(&boxes);
    return err;
}

static void without_memory_nothing_is_half_sent(void **state) {
    (void)state;
    alloc_failure_each(send_everything, NULL);
}

/* --- against a model --- */

enum { MOST_MAILS = 4096 };

/* What has been sent. */
struct sent {
    uint64_t deadline_ms;
    uint64_t ticket;
    size_t len;
    uint32_t seat;
    uint32_t to; /* if it is to one */
    int waiting; /* receivers that have not got it */
    bool single;
    bool asks;
    bool over;
};

static struct sent mails[MOST_MAILS]; /* by number - 1 */
static uint64_t mail_count;
static struct {
    uint64_t parked[MOST_MAILS]; /* numbers */
    size_t count;
    size_t used;
    size_t to_report; /* delivered and not reported */
} receivers[SEATS + 1];
static struct event expected[MOST_EVENTS];
static size_t expected_count;

static void expect(struct event event) {
    assert_true(expected_count < MOST_EVENTS);
    expected[expected_count++] = event;
}

static bool model_fits(uint32_t seat, size_t len) {
    size_t used = receivers[seat].used;
    return used < CM_MAIL_REPORT_BYTES || used + len + CM_MAIL_CHARGE_BYTES <= CM_MAIL_WINDOW_BYTES;
}

static void model_end(uint64_t number, int code, size_t answer_len) {
    struct sent *mail = &mails[number - 1];
    assert_false(mail->over);
    mail->over = true;
    if (mail->seat)
        expect((struct event){ANSWERED, mail->seat, number, 0, code, answer_len});
}

static void model_deliver(uint64_t number, uint32_t seat) {
    struct sent *mail = &mails[number - 1];
    receivers[seat].used += mail->len + CM_MAIL_CHARGE_BYTES;
    expect((struct event){DELIVERED, seat, number, mail->ticket, 0, mail->len});
    mail->waiting--;
    if (!mail->asks && !mail->waiting)
        model_end(number, 0, 0);
}

static void model_flush(uint32_t seat) {
    while (receivers[seat].count && model_fits(seat, mails[receivers[seat].parked[0] - 1].len)) {
        uint64_t number = receivers[seat].parked[0];
        memmove(receivers[seat].parked, receivers[seat].parked + 1,
                --receivers[seat].count * sizeof(uint64_t));
        model_deliver(number, seat);
    }
}

/* Takes it out of all queues. */
static void model_unpark(uint64_t number) {
    for (uint32_t seat = 1; seat <= SEATS; seat++) {
        for (size_t i = 0; i < receivers[seat].count; i++) {
            if (receivers[seat].parked[i] != number)
                continue;
            memmove(receivers[seat].parked + i, receivers[seat].parked + i + 1,
                    (--receivers[seat].count - i) * sizeof(uint64_t));
            break;
        }
    }
}

static void model_flush_all(void) {
    for (uint32_t seat = 1; seat <= SEATS; seat++)
        model_flush(seat);
}

static void post_something(uint64_t *random) {
    if (mail_count == MOST_MAILS)
        return;
    uint64_t number = ++mail_count;
    struct sent *mail = &mails[number - 1];
    size_t lens[] = {8 + random_below(random, 100), 8 + random_below(random, MOST_BODY_BYTES / 10),
                     8 + random_below(random, MOST_BODY_BYTES - 8)};
    uint64_t timeout_ms = random_below(random, 3) ? random_below(random, 2000) : 100000;
    *mail = (struct sent){.seat = 1 + (uint32_t)random_below(random, SEATS),
                          .asks = random_below(random, 3) == 0,
                          .deadline_ms = now_ms + timeout_ms,
                          .len = lens[random_below(random, 20) / 9],
                          .to = 1 + (uint32_t)random_below(random, SEATS)};
    mail->single = mail->asks || random_below(random, 4);
    uint32_t to[SEATS];
    size_t count = 0;
    for (uint32_t seat = 1; seat <= SEATS; seat++)
        if (mail->single ? seat == mail->to : seat != mail->seat)
            to[count++] = seat;
    mail->waiting = (int)count;
    mail->ticket = mail->asks ? boxes.last_ticket + 1 : 0;
    struct cm_mail real = {
        .seat = mail->seat, .request = number, .asks = mail->asks, .timeout_ms = timeout_ms};
    assert_int_equal(try_post(real, mail->len, to, count), 0);
    for (size_t i = 0; i < count; i++) {
        if (!receivers[to[i]].count && model_fits(to[i], mail->len))
            model_deliver(number, to[i]);
        else
            receivers[to[i]].parked[receivers[to[i]].count++] = number;
    }
}

static uint64_t some_number(uint64_t *random) {
    size_t recent = mail_count < 50 ? (size_t)mail_count : 50;
    return recent ? mail_count - random_below(random, recent) : 0;
}

static void answer_something(uint64_t *random) {
    uint64_t number = some_number(random);
    if (!number || !mails[number - 1].ticket)
        return;
    const struct sent *mail = &mails[number - 1];
    uint32_t seat = random_below(random, 5) ? mail->to : 1 + (uint32_t)random_below(random, SEATS);
    cm_mailboxes_answer(&boxes, seat, mail->ticket, cm_bytes_of("answer"));
    if (seat == mail->to && !mail->over && !mail->waiting)
        model_end(number, 0, 6);
}

static void report_something(uint64_t *random) {
    uint32_t seat = 1 + (uint32_t)random_below(random, SEATS);
    size_t bytes =
        random_below(random, 2) ? receivers[seat].used : random_below(random, receivers[seat].used + 1);
    assert_int_equal(cm_mailboxes_done(&boxes, seat, bytes), 0);
    receivers[seat].used -= bytes;
    model_flush(seat);
}

static void let_time_pass(uint64_t *random) {
    now_ms += random_below(random, 300);
    cm_mailboxes_look(&boxes);
    for (;;) {
        uint64_t first = 0;
        for (uint64_t number = 1; number <= mail_count; number++) {
            const struct sent *mail = &mails[number - 1];
            if (!mail->over && mail->deadline_ms <= now_ms &&
                (!first || mail->deadline_ms < mails[first - 1].deadline_ms))
                first = number;
        }
        if (!first)
            break;
        const struct sent *mail = &mails[first - 1];
        if (mail->asks && !mail->waiting)
            expect((struct event){OVER, mail->to, 0, mail->ticket, 0, 0});
        model_unpark(first);
        model_flush_all();
        model_end(first, CM_E_TIMEOUT, 0);
    }
    uint64_t next_ms = UINT64_MAX;
    for (uint64_t i = 0; i < mail_count; i++)
        if (!mails[i].over && mails[i].deadline_ms - now_ms < next_ms)
            next_ms = mails[i].deadline_ms - now_ms;
    assert_int_equal(cm_mailboxes_next_ms(&boxes), next_ms);
}

static void drop_somebody(uint64_t *random) {
    uint32_t seat = 1 + (uint32_t)random_below(random, SEATS);
    cm_mailboxes_drop(&boxes, seat);
    for (uint64_t number = 1; number <= mail_count; number++) {
        struct sent *mail = &mails[number - 1];
        if (mail->over || mail->seat != seat)
            continue;
        mail->seat = 0;
        if (!mail->asks)
            continue;
        if (!mail->waiting)
            expect((struct event){OVER, mail->to, 0, mail->ticket, 0, 0});
        model_unpark(number);
        mail->over = true;
    }
    while (receivers[seat].count) {
        uint64_t number = receivers[seat].parked[0];
        memmove(receivers[seat].parked, receivers[seat].parked + 1,
                --receivers[seat].count * sizeof(uint64_t));
        if (mails[number - 1].single)
            model_end(number, CM_E_CLOSED, 0);
        else if (!--mails[number - 1].waiting)
            model_end(number, 0, 0);
    }
    for (uint64_t number = 1; number <= mail_count; number++) {
        const struct sent *mail = &mails[number - 1];
        if (!mail->over && mail->asks && !mail->waiting && mail->to == seat)
            model_end(number, CM_E_CLOSED, 0);
    }
    receivers[seat].used = 0;
    model_flush_all();
}

/* Within one operation only the order of what one receiver gets is given. */
static int compare_events(const void *left_item, const void *right_item) {
    const struct event *left = left_item, *right = right_item;
    if (left->kind != right->kind)
        return left->kind < right->kind ? -1 : 1;
    if (left->seat != right->seat)
        return left->seat < right->seat ? -1 : 1;
    if (left->kind == DELIVERED)
        return left < right ? -1 : left > right;
    if (left->number != right->number)
        return left->number < right->number ? -1 : 1;
    return left->ticket < right->ticket ? -1 : left->ticket > right->ticket;
}

/* An insertion sort: the addresses that the comparison looks at must tell the order. */
static void sort_events(struct event *list, size_t count) {
    static struct event sorted[MOST_EVENTS];
    static const struct event *order[MOST_EVENTS];
    for (size_t i = 0; i < count; i++) {
        size_t at = i;
        for (; at && compare_events(&list[i], order[at - 1]) < 0; at--)
            order[at] = order[at - 1];
        order[at] = &list[i];
    }
    for (size_t i = 0; i < count; i++)
        sorted[i] = *order[i];
    memcpy(list, sorted, count * sizeof *list);
}

static void compare(void) {
    sort_events(events, event_count);
    sort_events(expected, expected_count);
    assert_int_equal(event_count, expected_count);
    for (size_t i = 0; i < event_count; i++) {
        assert_int_equal(events[i].kind, expected[i].kind);
        assert_int_equal(events[i].seat, expected[i].seat);
        assert_int_equal(events[i].number, expected[i].number);
        assert_int_equal(events[i].ticket, expected[i].ticket);
        assert_int_equal(events[i].code, expected[i].code);
        assert_int_equal(events[i].len, expected[i].len);
    }
    event_count = expected_count = 0;
    for (uint32_t seat = 1; seat <= SEATS; seat++)
        assert_int_equal(boxes.boxes[seat].used, receivers[seat].used);
}

static void run_randomly(uint64_t seed) {
    uint64_t random = seed;
    mail_count = 0;
    memset(receivers, 0, sizeof receivers);
    for (int step = 0; step < 4000; step++) {
        switch (random_below(&random, 12)) {
        case 0:
            let_time_pass(&random);
            break;
        case 1:
        case 2:
            answer_something(&random);
            break;
        case 3:
        case 4:
        case 5:
            report_something(&random);
            break;
        case 6:
            if (random_below(&random, 20) == 0)
                drop_somebody(&random);
            break;
        default:
            /* No more than is kept for a sender. */
            if (boxes.boxes[1].bytes + boxes.boxes[2].bytes + boxes.boxes[3].bytes + boxes.boxes[4].bytes +
                    boxes.boxes[5].bytes + boxes.boxes[0].bytes <
                CM_MAIL_MOST_BYTES)
                post_something(&random);
        }
        compare();
    }
    for (uint32_t seat = 1; seat <= SEATS; seat++)
        cm_mailboxes_drop(&boxes, seat);
    for (uint32_t seat = 0; seat <= SEATS; seat++)
        assert_int_equal(boxes.boxes[seat].bytes, 0);
    assert_int_equal(boxes.tickets.count, 0);
    assert_int_equal(cm_mailboxes_next_ms(&boxes), UINT64_MAX);
    event_count = events_taken = 0;
}

static void random_mail_arrives_as_it_should(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++)
        run_randomly(seed);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_fits_is_delivered_at_once),
        TEST(what_does_not_fit_is_answered_when_it_is_delivered),
        TEST(nothing_overtakes_what_is_parked),
        TEST(one_larger_than_the_window_passes_behind_what_may_never_be_reported),
        TEST(small_ones_count_for_more_than_their_length),
        TEST(a_request_is_answered_by_who_has_got_it_and_once),
        TEST(a_parked_request_cannot_be_answered),
        TEST(what_is_not_delivered_in_time_makes_way),
        TEST(a_request_that_is_not_answered_in_time_is_over),
        TEST(a_message_to_several_is_answered_when_all_have_it),
        TEST(a_message_to_several_that_some_do_not_take_is_late),
        TEST(a_message_to_several_does_not_wait_for_the_dead),
        TEST(who_sends_to_a_dying_one_is_told),
        TEST(what_the_dead_have_sent_counts_and_what_they_asked_does_not),
        TEST(what_the_dead_leave_behind_is_bounded),
        TEST(who_has_sent_too_much_is_refused),
        TEST(nobody_is_done_with_more_than_he_has_got),
        cmocka_unit_test(without_memory_nothing_is_half_sent),
        TEST(random_mail_arrives_as_it_should),
    };
    return cmocka_run_group_tests_name("mailbox", tests, NULL, NULL);
}
