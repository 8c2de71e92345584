/* One line per event on standard error, written in one piece, so that lines of several processes do not mix.
 * Any process; async-signal-unsafe. */
#ifndef CM_BASE_LOG_H
#define CM_BASE_LOG_H

#define CM_LOG_LEVELS(XX) XX(ERROR, "error") XX(WARN, "warn") XX(INFO, "info") XX(DEBUG, "debug")

enum cm_log_level {
#define XX(name, word) CM_LOG_##name,
    CM_LOG_LEVELS(XX)
#undef XX
};

/* The level by its word, or -1. */
int cm_log_level_of(const char *word);

/* What is above this level is not written. At first: info. */
void cm_log_set_level(enum cm_log_level level);

/* Writes "<time> <level> <text>". Control characters in the text become '?'; what is longer than 2 KiB is
 * cut. errno is kept. */
void cm_log(enum cm_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
