/* The one list of error codes. Functions return 0 or a negative code: one of these, or -errno for what the
 * operating system refused. Lua callers see the name as the third result ("timeout", "EADDRINUSE"). */
#ifndef CM_BASE_ERROR_H
#define CM_BASE_ERROR_H

#define CM_ERRORS(XX)                                                                                 \
    XX(TIMEOUT, "timeout", "the time was up")                                                         \
    XX(DEADLOCK, "deadlock", "the request could never be granted")                                    \
    XX(BUSY, "busy", "somebody else has it")                                                          \
    XX(NOTOWNER, "notowner", "it belongs to somebody else")                                           \
    XX(CLOSED, "closed", "the other side is closed")                                                  \
    XX(CONFLICT, "conflict", "somebody else changed it meanwhile")                                    \
    XX(EXISTS, "exists", "it exists already")                                                         \
    XX(NOTFOUND, "notfound", "there is no such entry")                                                \
    XX(NOMEMORY, "nomemory", "the memory is full")                                                    \
    XX(TOOLARGE, "toolarge", "the value is larger than --max-value, or the cache's maxBytes, allows") \
    XX(BADVALUE, "badvalue", "the value is not of the kind that this needs")                          \
    XX(REMOTE, "remote", "the other side failed")                                                     \
    XX(NOHANDLER, "nohandler", "nobody handles this")                                                 \
    XX(NOPEER, "nopeer", "there is no such process")                                                  \
    XX(BADFRAME, "badframe", "the frame is malformed")

/* Below every -errno, so that the two never meet. */
enum { CM_ERROR_BASE = -10000 };

enum cm_error {
#define XX(name, word, text) CM_ERROR_INDEX_##name,
    CM_ERRORS(XX)
#undef XX
#define XX(name, word, text) CM_E_##name = CM_ERROR_BASE - CM_ERROR_INDEX_##name,
        CM_ERRORS(XX)
#undef XX
};

/* The stable word for a code: "timeout", or the errno's name; "UNKNOWN" for a number that is neither.
 * The string is static. */
const char *cm_error_name(int code);

/* One sentence for people. The string is static. */
const char *cm_error_text(int code);

#endif
