#include "base/fault.h"

#ifdef CM_FAULTS

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char armed_name[64];
static unsigned passings_left; /* until the fault; 0: none is armed */
static enum cm_fault_kind armed_kind;

void cm_fault_arm(const char *name, unsigned nth, enum cm_fault_kind kind) {
    passings_left = name ? nth : 0;
    snprintf(armed_name, sizeof armed_name, "%s", name ? name : "");
    armed_kind = kind;
}

/* CM_FAULT_POINT=name, name:nth or name:nth:stop. */
static void arm_from_environment(void) {
    const char *text = getenv("CM_FAULT_POINT");
    if (!text)
        return;
    char name[sizeof armed_name];
    size_t len = strcspn(text, ":");
    if (len >= sizeof name)
        return;
    memcpy(name, text, len);
    name[len] = 0;
    const char *nth = text[len] ? text + len + 1 : "1";
    cm_fault_arm(name, (unsigned)strtoul(nth, NULL, 10),
                 strstr(nth, ":stop") ? CM_FAULT_STOP : CM_FAULT_KILL);
}

void cm_fault_pass(const char *name) {
    static bool asked;
    if (!asked) {
        asked = true;
        if (!passings_left)
            arm_from_environment();
    }
    if (passings_left && strcmp(name, armed_name) == 0 && --passings_left == 0)
        kill(getpid(), armed_kind == CM_FAULT_STOP ? SIGSTOP : SIGKILL);
}

#else
/* ISO C wants a translation unit to hold something. */
typedef int cm_fault_none;
#endif
