/* The intrusive list against an array of numbers. */
#include <string.h>

#include "base/list.h"
#include "spec/core/test.h"

enum { ITEMS = 50 };

struct item {
    int number;
    bool linked;
    struct cm_list link; /* not the first, so that its offset counts */
};

static struct item items[ITEMS];
static struct cm_list head;
static int order[ITEMS];
static size_t count;

static void check(void) {
    assert_int_equal(cm_list_empty(&head), count == 0);
    size_t i = 0;
    CM_LIST_EACH(link, &head) {
        assert_true(i < count);
        assert_int_equal(CM_LIST_ITEM(link, struct item, link)->number, order[i++]);
    }
    assert_int_equal(i, count);
    for (struct cm_list *link = head.prev; link != &head; link = link->prev)
        assert_int_equal(CM_LIST_ITEM(link, struct item, link)->number, order[--i]);
    assert_int_equal(i, 0);
}

static void forget(int number) {
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (order[i] != number)
            order[kept++] = order[i];
    count = kept;
}

static void start(void) {
    cm_list_init(&head);
    count = 0;
    for (int i = 0; i < ITEMS; i++) {
        items[i] = (struct item){.number = i};
        cm_list_init(&items[i].link);
    }
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    uint64_t random = 2;
    start();
    for (int i = 0; i < 20000; i++) {
        struct item *item = &items[random_below(&random, ITEMS)];
        if (item->linked) {
            cm_list_remove(&item->link);
            forget(item->number);
            assert_true(cm_list_empty(&item->link));
        } else {
            cm_list_append(&head, &item->link);
            order[count++] = item->number;
        }
        item->linked = !item->linked;
        check();
    }
}

static void the_body_of_each_may_remove_its_item(void **state) {
    (void)state;
    for (int keep = 1; keep <= 3; keep++) {
        start();
        for (int i = 0; i < ITEMS; i++) {
            cm_list_append(&head, &items[i].link);
            order[count++] = i;
        }
        int visits = 0;
        CM_LIST_EACH(link, &head) {
            struct item *item = CM_LIST_ITEM(link, struct item, link);
            assert_int_equal(item->number, visits++);
            if (item->number % keep == 0) {
                cm_list_remove(link);
                forget(item->number);
            }
        }
        assert_int_equal(visits, ITEMS);
        check();
    }
}

static void removing_twice_is_harmless(void **state) {
    (void)state;
    start();
    cm_list_append(&head, &items[0].link);
    cm_list_append(&head, &items[1].link);
    order[count++] = 1;
    cm_list_remove(&items[0].link);
    cm_list_remove(&items[0].link);
    check();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(the_body_of_each_may_remove_its_item),
        cmocka_unit_test(removing_twice_is_harmless),
    };
    return cmocka_run_group_tests_name("list", tests, NULL, NULL);
}
