#include "base/fault.h"

#ifdef CM_FAULTS

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME_BYTES = 64 };

static char armed_name[NAME_BYTES];
static unsigned passings_left; /* until the fault; 0: none is armed */
static enum cm_fault_kind armed_kind;
static bool follows;
static char followed[2 * NAME_BYTES]; /* what the environment said at the last passing */

void cm_fault_arm(const char *name, unsigned nth, enum cm_fault_kind kind) {
    passings_left = name ? nth : 0;
    snprintf(armed_name, sizeof armed_name, "%s", name ? name : "");
    armed_kind = kind;
}

/* Arms what name=kill[:nth] or name=stop[:nth] says. False: it is not so. */
static bool arm_from(const char *text) {
    size_t len = strcspn(text, "=");
    char name[NAME_BYTES];
    if (len == 0 || len >= sizeof name || !text[len])
        return false;
    snprintf(name, sizeof name, "%.*s", (int)len, text);
    const char *kind = text + len + 1, *nth = kind + strcspn(kind, ":");
    bool kills = strncmp(kind, "kill", 4) == 0, stops = strncmp(kind, "stop", 4) == 0;
    if (nth != kind + 4 || !(kills || stops))
        return false;
    char *end = NULL;
    unsigned long count = *nth ? strtoul(nth + 1, &end, 10) : 1;
    if (count == 0 || count > UINT_MAX || (end && *end))
        return false;
    cm_fault_arm(name, (unsigned)count, stops ? CM_FAULT_STOP : CM_FAULT_KILL);
    return true;
}

/* A misspelt fault would be a test that tests nothing. */
static void follow(void) {
    const char *text = getenv("CLUSTERMEM_FAULT");
    if (!text)
        text = "";
    if (strcmp(text, followed) == 0)
        return;
    snprintf(followed, sizeof followed, "%s", text);
    cm_fault_arm(NULL, 0, CM_FAULT_KILL);
    if (*text && (strlen(text) >= sizeof followed || !arm_from(text))) {
        fprintf(stderr, "CLUSTERMEM_FAULT must be name=kill[:nth] or name=stop[:nth], not '%s'\n", text);
        abort();
    }
}

void cm_fault_follow_environment(void) {
    follows = true;
}

void cm_fault_pass(const char *name) {
    if (follows)
        follow();
    if (passings_left && strcmp(name, armed_name) == 0 && --passings_left == 0)
        kill(getpid(), armed_kind == CM_FAULT_STOP ? SIGSTOP : SIGKILL);
}

void cm_fault_number(const char *name, uint32_t *number) {
    const char *text = follows ? getenv(name) : NULL;
    if (!text)
        return;
    *number = (uint32_t)strtoul(text, NULL, 10);
    unsetenv(name);
}

#else
/* ISO C wants a translation unit to hold something. */
typedef int cm_fault_none;
#endif
