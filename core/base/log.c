#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum cm_log_level highest = CM_LOG_INFO;

static const char *const words[] = {
#define XX(name, word) word,
    CM_LOG_LEVELS(XX)
#undef XX
};

int cm_log_level_of(const char *word) {
    for (int level = 0; level <= CM_LOG_DEBUG; level++)
        if (strcmp(words[level], word) == 0)
            return level;
    return -1;
}

void cm_log_set_level(enum cm_log_level level) {
    highest = level;
}

void cm_log(enum cm_log_level level, const char *format, ...) {
    if (level > highest)
        return;
    int saved = errno;
    char line[2048];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t start = strftime(line, sizeof line, "%FT%T", &utc);
    start += (size_t)snprintf(line + start, sizeof line - start, ".%03ldZ %-5s ", now.tv_nsec / 1000000,
                              words[level]);

    va_list args;
    va_start(args, format);
    int wrote = vsnprintf(line + start, sizeof line - start - 1, format, args);
    va_end(args);
    size_t len = wrote < 0 ? start : start + (size_t)wrote;
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    for (size_t i = start; i < len; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 127)
            line[i] = '?';
    line[len++] = '\n';
    /* Nobody is left to be told when standard error is gone. */
    ssize_t unheard = write(STDERR_FILENO, line, len);
    (void)unheard;
    errno = saved;
}
