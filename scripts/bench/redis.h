/* A connection to a Redis server on a unix socket: blocking calls, the protocol written out by the callers.
 * One for each process, so there are no handles. Every function ends the process with a message when
 * something fails, or when Redis reports an error. */
#ifndef REDIS_H
#define REDIS_H

#include <stdbool.h>
#include <stddef.h>

/* What redis_answer has read, a zero behind it. */
extern char redis_reply[16384];

void redis_open(const char *place);
void redis_close(void);
void redis_ask(const char *request, size_t len);
/* Reads on after `have` bytes of the reply until it has at least `want`, or until it is nil; returns how
 * many. */
size_t redis_answer(size_t have, size_t want);
/* What is in the first line after its sign; `have`: how many bytes are there, more than the line maybe. */
long long redis_answer_number(size_t *have);
bool redis_is_nil(void);
/* The server. */
long redis_pid(void);

#endif
