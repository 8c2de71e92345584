/* Named fault points: places at which a test lets a process die or stand still, to show that the others go
 * on. Compiled out unless CM_FAULTS is defined; then CM_FAULT_POINT=name[:count] in the environment, or
 * cm_fault_arm, picks the point and on which of its passings (1: the first) the fault happens. One thread. */
#ifndef CM_BASE_FAULT_H
#define CM_BASE_FAULT_H

#ifdef CM_FAULTS

enum cm_fault_kind { CM_FAULT_KILL, CM_FAULT_STOP };

/* Lets this process send itself SIGKILL, or SIGSTOP, on the nth passing of the point; NULL: none. */
void cm_fault_arm(const char *name, unsigned nth, enum cm_fault_kind kind);
void cm_fault_pass(const char *name);
#define CM_FAULT(name) cm_fault_pass(name)

#else
#define CM_FAULT(name) ((void)0)
#endif

#endif
