/* The master: one event loop that referees a cluster from its start to its exit code. Runs no user code. */
#ifndef CM_CLUSTER_MASTER_H
#define CM_CLUSTER_MASTER_H

#include "cluster/options.h"

/* Runs a cluster in this process until it is over. Takes SIGINT, SIGTERM, SIGHUP and SIGCHLD over. Returns
 * the exit code. */
int cm_master_run(const struct cm_options *options);

#endif
