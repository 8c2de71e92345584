/* Gives every file of the folders named to the fuzz target, without a fuzzer: any compiler can build it.
 * Fails when there is nothing to replay. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int complain(const char *path) {
    perror(path);
    return -1;
}

static int replay_file(const char *path) {
    static uint8_t bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    if (!file)
        return complain(path);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    int bad = ferror(file) || !feof(file);
    fclose(file);
    if (bad) {
        fprintf(stderr, "%s: unreadable, or larger than 1 MiB\n", path);
        return -1;
    }
    /* A copy of exactly its size, so that a sanitizer sees each read beyond it. */
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return complain(path);
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    return 0;
}

/* How many files there were, or -1. */
static int replay_folder(const char *folder) {
    DIR *dir = opendir(folder);
    if (!dir)
        return complain(folder);
    int count = 0;
    for (struct dirent *entry; count >= 0 && (entry = readdir(dir));) {
        char path[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        count = replay_file(path) == 0 ? count + 1 : -1;
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv) {
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int count = replay_folder(argv[i]);
        if (count < 0)
            return 1;
        total += count;
    }
    printf("%d inputs replayed\n", total);
    return total ? 0 : 1;
}
