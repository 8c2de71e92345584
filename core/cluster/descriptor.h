/* Descriptors on their way from the master to a process: a pipe of its own beside the frames', which the
 * master only writes. (With descriptors among the frames a process could fill the master's table with its
 * own.) One goes before the answer that tells of it, so who has read the answer finds it there. */
#ifndef CM_CLUSTER_DESCRIPTOR_H
#define CM_CLUSTER_DESCRIPTOR_H

#include <stdint.h>

/* Makes such a pipe: ends[0] is the master's, ends[1] the process's. 0 or an errno. */
int cm_descriptor_pipe(int ends[2]);

/* Sends a copy of the descriptor. Does not wait: 0, or an errno (EAGAIN: the process has left many unread).
 */
int cm_descriptor_send(int pipe, int fd);

/* Takes the next one, which is close-on-exec. Does not wait: the descriptor, or an errno. */
int cm_descriptor_take(int pipe);

/* How many storages, and how many sockets, the master may have for its processes: so many that the limit of
 * open files leaves descriptors for each seat's process, without which nobody could be started again. */
uint32_t cm_descriptor_share(uint32_t seats);

/* That the share is used up: "177 storages are open: ...". In a static buffer, valid until the next call. */
const char *cm_descriptor_refusal(uint32_t share, const char *what);

#endif
