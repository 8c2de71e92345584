/* Heads as the parser in place leaves them, against what was sent; fields against a count of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cluster/head.h"
#include "spec/core/test.h"

enum { MOST_FIELDS = 64, ROUNDS = 200000 };

static const uint64_t CHUNKED = UINT64_MAX;

struct field {
    const char *name;
    const char *value;
};

static struct cm_bytes bytes_of(const char *text) {
    return cm_bytes_of(text);
}

/* --- fields that are nowhere --- */

static int status_of(const char *version, const struct field *fields, size_t count, uint64_t *length) {
    struct cm_head head;
    struct cm_head_line line = {"POST", "/", version, bytes_of("/")};
    cm_head_begin(&head, &line, false);
    for (size_t i = 0; i < count; i++)
        cm_head_add(&head, bytes_of(fields[i].name), bytes_of(fields[i].value));
    if (length)
        *length = head.content_length;
    return cm_head_end(&head, 0);
}

static void lengths_are_numbers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t length;
        int status;
    } cases[] = {
        {"0", 0, 0},
        {"5", 5, 0},
        {"0012", 12, 0},
        {"9223372036854775807", INT64_MAX, 0},
        {"9223372036854775808", 0, 400},
        {"18446744073709551616", 0, 400},
        {"99999999999999999999999999", 0, 400},
        {"", 0, 400},
        {"-1", 0, 400},
        {"+1", 0, 400},
        {" 1", 0, 400},
        {"1 ", 0, 400},
        {"1,1", 0, 400},
        {"0x1", 0, 400},
        {"1e3", 0, 400},
        {"\xb2", 0, 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct field fields[] = {{"Host", "a"}, {"CONTENT-length", cases[i].text}};
        uint64_t length;
        assert_int_equal(status_of("HTTP/1.1", fields, 2, &length), cases[i].status);
        if (!cases[i].status)
            assert_int_equal(length, cases[i].length);
    }
}

static const struct field vocabulary[] = {
    {"Host", "a"},
    {"Accept", "x, y"},
    {"X-Tab", "a\tb"},
    {"Content-Length", "5"},
    {"Transfer-Encoding", "chunked"},
    {"transfer-encoding", "CHUNKED"},
    {"Transfer-Encoding", "gzip"},
    {"Transfer-Encoding ", "chunked"},
    {"", "x"},
    {"X", "a\rb"},
};

/* What is wrong with these fields, counted. */
static bool is_doubtful(const char *version, const size_t *picks, size_t count) {
    size_t of[sizeof vocabulary / sizeof *vocabulary] = {0};
    for (size_t i = 0; i < count; i++)
        of[picks[i]]++;
    bool is_old = strcmp(version, "HTTP/1.1") != 0;
    size_t encodings = of[4] + of[5] + of[6];
    return of[0] > 1 || (!is_old && of[0] == 0) || of[3] + encodings > 1 || of[6] || of[7] || of[8] ||
           of[9] || (is_old && encodings);
}

static void random_fields_match_a_count_of_them(void **state) {
    (void)state;
    uint64_t random = 1;
    int refused = 0;
    for (int i = 0; i < ROUNDS; i++) {
        struct field fields[8];
        size_t picks[8], count = random_below(&random, 8);
        for (size_t j = 0; j < count; j++) {
            picks[j] =
                random_below(&random, random_below(&random, 2) ? 6 : sizeof vocabulary / sizeof *vocabulary);
            fields[j] = vocabulary[picks[j]];
        }
        const char *version = random_below(&random, 4) ? "HTTP/1.1" : "HTTP/1.0";
        int status = status_of(version, fields, count, NULL);
        assert_int_equal(status != 0, is_doubtful(version, picks, count));
        assert_true(status == 0 || status == 400 || status == 501);
        refused += status != 0;
    }
    assert_in_range(refused, ROUNDS / 10, ROUNDS - ROUNDS / 10);
}

static void the_first_refusal_stays(void **state) {
    (void)state;
    const struct field fields[] = {{"Host", "a"}, {"Transfer-Encoding", "gzip"}, {"X ", "y"}};
    assert_int_equal(status_of("HTTP/1.1", fields, 2, NULL), 501);
    assert_int_equal(status_of("HTTP/1.1", fields, 3, NULL), 501);
}

static void words_are_what_they_should_be(void **state) {
    (void)state;
    assert_true(cm_head_is_token(bytes_of("Content-Type")));
    assert_true(cm_head_is_token(bytes_of("!#$%&'*+-.^_`|~09azAZ")));
    for (int byte = 0; byte < 256; byte++) {
        uint8_t text[] = {'a', (uint8_t)byte};
        bool is_token = byte > ' ' && byte < 127 && !strchr("\"(),/:;<=>?@[\\]{}", byte);
        assert_int_equal(cm_head_is_token((struct cm_bytes){text, 2}), is_token);
        assert_int_equal(cm_head_is_value((struct cm_bytes){text, 2}), byte >= ' ' && byte != 127);
    }
    assert_false(cm_head_is_token(bytes_of("")));
    assert_false(cm_head_is_value(bytes_of("")));
    assert_true(cm_head_is_word(bytes_of("ChUnKeD"), "chunked"));
    assert_false(cm_head_is_word(bytes_of("chunke"), "chunked"));
    assert_false(cm_head_is_word(bytes_of("chunkedd"), "chunked"));
    assert_false(cm_head_is_word(bytes_of(""), "chunked"));
}

/* --- heads in their places --- */

/* Parses as libmicrohttpd 0.9.75 does: NULs in the place of separators, and its mistakes. `text` is a whole
 * request's head, of which it takes what it thinks to be one. */
struct parse {
    char *bytes;
    size_t len;
    struct cm_head_line line;
    struct field fields[MOST_FIELDS];
    size_t count;
    size_t taken;
    bool failed;
    char *made; /* the name that a folded line has made; one at most */
};

/* The line at `at`, ended; the next one's place. */
static size_t cut_line(struct parse *parse, size_t at) {
    while (at < parse->len && parse->bytes[at] != '\n')
        at++;
    if (at == parse->len)
        return 0;
    parse->bytes[at] = 0;
    if (at && parse->bytes[at - 1] == '\r')
        parse->bytes[at - 1] = 0;
    return at + 1;
}

static void fold(struct parse *parse, const char *rest) {
    struct field *field = &parse->fields[parse->count - 1];
    if (parse->made) {
        parse->failed = true;
        return;
    }
    rest += strspn(rest, " \t");
    size_t size = strlen(field->name) + strlen(rest) + 1;
    parse->made = malloc(size);
    snprintf(parse->made, size, "%s%s", field->name, rest);
    field->name = parse->made;
}

static void parse_fields(struct parse *parse, size_t at) {
    while (!parse->failed) {
        size_t next = cut_line(parse, at);
        char *line = parse->bytes + at;
        parse->taken = next;
        if (!next || parse->count == MOST_FIELDS) {
            parse->failed = true;
        } else if (!*line) {
            return;
        } else if ((*line == ' ' || *line == '\t') && parse->count) {
            fold(parse, line);
        } else {
            char *colon = strchr(line, ':');
            if (!colon) {
                parse->failed = true;
                return;
            }
            *colon++ = 0;
            if (!*line)
                return; /* an empty name ends the head */
            parse->fields[parse->count++] = (struct field){line, colon + strspn(colon, " \t")};
        }
        at = next;
    }
}

static void parse_head(struct parse *parse, const char *text, size_t len) {
    *parse = (struct parse){.bytes = malloc(len + 1), .len = len};
    memcpy(parse->bytes, text, len);
    parse->bytes[len] = 'x'; /* of the next request */
    size_t at = 0;
    while (at + 1 < len && parse->bytes[at] == '\r' && parse->bytes[at + 1] == '\n')
        at += 2;
    size_t next = cut_line(parse, at);
    char *method = parse->bytes + at, *blank = next ? strchr(method, ' ') : NULL;
    char *last = blank ? strrchr(blank, ' ') : NULL;
    if (!last || last == blank || strcmp(last + 1, "HTTP/1.1") != 0) {
        parse->failed = true;
        return;
    }
    *blank = *last = 0;
    char *path = blank + 1 + strspn(blank + 1, " ");
    parse->line = (struct cm_head_line){
        method, path, last + 1, {(const uint8_t *)text + (path - parse->bytes), strlen(path)}};
    parse_fields(parse, next);
}

/* As text goes through parser and checks: 0, a status, or -1 when the parser refuses it. */
static int judge(const char *text, size_t len, uint64_t *length) {
    struct parse parse;
    parse_head(&parse, text, len);
    int status = -1;
    if (!parse.failed) {
        struct cm_head head;
        cm_head_begin(&head, &parse.line, true);
        for (size_t i = 0; i < parse.count; i++)
            cm_head_add(&head, bytes_of(parse.fields[i].name), bytes_of(parse.fields[i].value));
        *length = head.is_chunked ? CHUNKED : head.content_length;
        status = cm_head_end(&head, parse.taken);
    }
    free(parse.made);
    free(parse.bytes);
    return status;
}

static void heads_in_their_places_pass(void **state) {
    (void)state;
    static const char *const texts[] = {
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /a?b=c HTTP/1.1\r\nHost:a\r\nX:\r\nY: \t b c \r\nContent-Length:   7\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        uint64_t length;
        assert_int_equal(judge(texts[i], strlen(texts[i]), &length), 0);
        assert_int_equal(length, i == 2 ? 7 : 0);
    }
}

/* Whether a strict reader takes the text for one head, and what it says of the body: CRLF alone ends lines,
 * nothing is folded, no byte but a tab below a blank. Written another way than what it is to judge. */
static bool read_strictly(const char *text, size_t len, uint64_t *length) {
    size_t at = 0;
    bool first = true, has_host = false, has_length = false;
    *length = 0;
    while (len - at >= 2 && memcmp(text + at, "\r\n", 2) == 0)
        at += 2;
    for (;; first = false) {
        const char *end = memmem(text + at, len - at, "\r\n", 2);
        if (!end)
            return false;
        size_t line_len = (size_t)(end - text) - at;
        char line[512] = {0};
        if (line_len >= sizeof line)
            return false;
        memcpy(line, text + at, line_len);
        at += line_len + 2;
        if (strlen(line) != line_len || strpbrk(line, "\r\n\1\2\37\177"))
            return false;
        if (!line_len)
            return !first && has_host && at == len;
        char name[64] = {0}, value[512] = {0};
        int used = 0;
        if (first) {
            if (sscanf(line, "%*[-A-Za-z0-9!#$%&'*+.^_`|~] %*[^ \t] HTTP/1.1%n", &used) != 0 ||
                (size_t)used != line_len)
                return false;
            continue;
        }
        if (sscanf(line, "%63[-A-Za-z0-9!#$%&'*+.^_`|~]:%n", name, &used) != 1 || !used)
            return false;
        snprintf(value, sizeof value, "%s", line + used + strspn(line + used, " \t"));
        if (strcasecmp(name, "host") == 0) {
            if (has_host)
                return false;
            has_host = true;
        } else if (strcasecmp(name, "transfer-encoding") == 0) {
            if (has_length || strcasecmp(value, "chunked") != 0)
                return false;
            has_length = true;
            *length = CHUNKED;
        } else if (strcasecmp(name, "content-length") == 0) {
            if (has_length || !*value || strspn(value, "0123456789") != strlen(value) || strlen(value) > 9)
                return false;
            has_length = true;
            *length = strtoull(value, NULL, 10);
        }
    }
}

/* Bytes that the parser overwrites, one behind the other and as many as CRLF or two of them have, but others:
 * each is a NUL by now, and nobody can tell. It takes two mistakes side by side, which no proxy lets pass. */
static bool is_beyond_telling(const char *text, size_t len) {
    size_t run = 0, proper = 0;
    for (size_t at = 0; at < len; at++) {
        bool is_colon = run && text[at] == ':' && text[at - 1] == '\n';
        if (is_colon || text[at] == 0 || text[at] == '\r' || text[at] == '\n') {
            run++;
            proper += at && text[at] == '\n' && text[at - 1] == '\r' ? 2 : 0;
            if (run == 4 && proper < run)
                return true;
        } else {
            if (run == 2 && proper < run)
                return true;
            run = proper = 0;
        }
    }
    return run == 2 && proper < run;
}

static void what_passes_is_read_alike_by_a_strict_reader(void **state) {
    (void)state;
    static const char seed[] = "POST /a HTTP/1.1\r\nHost: a\r\nX: b\r\nContent-Length: 5\r\nY: c d\r\n\r\n";
    static const char *const pieces[] = {"\r",
                                         "\n",
                                         "\r\n",
                                         " ",
                                         ":",
                                         "\t",
                                         "\r\n ",
                                         "\n:",
                                         "\r\n:\r\n",
                                         "\n\n",
                                         "0",
                                         "Transfer-Encoding: chunked\r\n",
                                         "Host: b\r\n",
                                         "Content-Length: 0\r\n",
                                         "x"};
    uint64_t random = 7;
    int passed = 0, refused = 0;
    for (int i = 0; i < ROUNDS; i++) {
        char text[512];
        size_t len = sizeof seed - 1;
        memcpy(text, seed, len);
        for (size_t changes = random_below(&random, 3); changes > 0; changes--) {
            size_t at = random_below(&random, len);
            if (random_below(&random, 4) == 0) {
                memmove(text + at, text + at + 1, --len - at);
                continue;
            }
            const char *piece = pieces[random_below(&random, sizeof pieces / sizeof *pieces)];
            size_t piece_len = random_below(&random, 8) ? strlen(piece) : 1;
            if (piece_len == 1 && random_below(&random, 8) == 0)
                piece = ""; /* a NUL */
            memmove(text + at + piece_len, text + at, len - at);
            for (size_t j = 0; j < piece_len; j++)
                text[at + j] = piece[j];
            len += piece_len;
        }
        uint64_t length, strict_length;
        int status = judge(text, len, &length);
        /* What is taken for less than the text has the rest taken for the next request. */
        bool is_strict = read_strictly(text, len, &strict_length);
        if (status == 0 && is_strict)
            assert_int_equal(length, strict_length);
        if (status == 0 && !is_strict && !is_beyond_telling(text, len)) {
            /* It must be a head of its own, with something behind it that the reader takes for the body or
             * more. */
            const char *end = memmem(text, len, "\r\n\r\n", 4);
            while (end == text) /* empty lines before */
                end = memmem(end + 2, len - 2, "\r\n\r\n", 4);
            assert_non_null(end);
            assert_true(read_strictly(text, (size_t)(end - text) + 4, &strict_length));
            assert_int_equal(length, strict_length);
        }
        passed += status == 0;
        refused += status != 0;
    }
    assert_in_range(passed, ROUNDS / 20, ROUNDS);
    assert_in_range(refused, ROUNDS / 20, ROUNDS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_are_numbers),
        cmocka_unit_test(random_fields_match_a_count_of_them),
        cmocka_unit_test(the_first_refusal_stays),
        cmocka_unit_test(words_are_what_they_should_be),
        cmocka_unit_test(heads_in_their_places_pass),
        cmocka_unit_test(what_passes_is_read_alike_by_a_strict_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
