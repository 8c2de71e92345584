/* Named fault points: places at which a test lets a process die or stand still, to show that the others go
 * on. Compiled out unless CM_FAULTS is defined; then cm_fault_arm picks the point and on which of its
 * passings (1: the first) the fault happens, or CLUSTERMEM_FAULT does in a process that follows its
 * environment. One thread. */
#ifndef CM_BASE_FAULT_H
#define CM_BASE_FAULT_H

#ifdef CM_FAULTS

#include <stdint.h>

enum cm_fault_kind { CM_FAULT_KILL, CM_FAULT_STOP };

/* Lets this process send itself SIGKILL, or SIGSTOP, on the nth passing of the point; NULL: none. */
void cm_fault_arm(const char *name, unsigned nth, enum cm_fault_kind kind);
/* From here on CLUSTERMEM_FAULT in this process's environment does the same, also what is set there later:
 * name=kill[:nth] or name=stop[:nth], counted from then on; empty: none. Anything else aborts. */
void cm_fault_follow_environment(void);
void cm_fault_pass(const char *name);
#define CM_FAULT(name) cm_fault_pass(name)
#define CM_FAULT_FOLLOW_ENVIRONMENT() cm_fault_follow_environment()
/* Sets the number to what the environment of a process that follows it says under the name, once. */
void cm_fault_number(const char *name, uint32_t *number);
#define CM_FAULT_NUMBER(name, number) cm_fault_number(name, number)

#else
#define CM_FAULT(name) ((void)0)
#define CM_FAULT_FOLLOW_ENVIRONMENT() ((void)0)
#define CM_FAULT_NUMBER(name, number) ((void)0)
#endif

#endif
