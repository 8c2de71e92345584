/* The limit of control groups, read from files made for it. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/cgroup.h"
#include "spec/core/test.h"

static char root[64];

static void write_file(const char *path, const char *text) {
    char full[256];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static uint64_t limit(const char *membership) {
    char file[80];
    write_file("self", membership);
    snprintf(file, sizeof file, "%s/self", root);
    return cm_cgroup_memory_bytes(root, file);
}

static int set_up(void **state) {
    (void)state;
    snprintf(root, sizeof root, "%s", "/tmp/clustermem-cgroup-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *file, int kind, struct FTW *place) {
    (void)file;
    (void)kind;
    (void)place;
    return remove(path);
}

static int tear_down(void **state) {
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void version_2_is_read_up_to_the_root(void **state) {
    (void)state;
    write_file("a/b/memory.max", "max\n");
    assert_true(limit("0::/a/b\n") == UINT64_MAX);
    write_file("a/memory.max", "300000000\n");
    assert_int_equal(limit("0::/a/b\n"), 300000000);
    write_file("a/b/memory.max", "200000000\n");
    assert_int_equal(limit("0::/a/b\n"), 200000000);
    /* Inside a container only the mount's root is there, whatever the path says. */
    write_file("memory.max", "100000000\n");
    assert_int_equal(limit("0::/elsewhere/c\n"), 100000000);
    assert_int_equal(limit("0::/\n"), 100000000);
}

static void version_1_is_read_from_its_own_mount(void **state) {
    (void)state;
    write_file("memory/a/memory.limit_in_bytes", "200000000\n");
    write_file("memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(limit("9:name=systemd:/a\n4:cpu,memory:/a\n0::/\n"), 200000000);
    assert_int_equal(limit("4:memory:/b\n"), UINT64_C(9223372036854771712));
    assert_true(limit("4:memoryless:/a\n") == UINT64_MAX);
}

static void what_makes_no_sense_is_no_limit(void **state) {
    (void)state;
    write_file("memory.max", "much\n");
    assert_true(limit("0::/\n") == UINT64_MAX);
    assert_true(limit("") == UINT64_MAX);
    assert_true(limit("0\nfoo\n0:\n::\n") == UINT64_MAX);
    assert_true(cm_cgroup_memory_bytes("/nowhere", "/nowhere/self") == UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(version_2_is_read_up_to_the_root, set_up, tear_down),
        cmocka_unit_test_setup_teardown(version_1_is_read_from_its_own_mount, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_no_limit, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}
