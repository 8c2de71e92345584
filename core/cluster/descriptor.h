/* Descriptors on their way from the master to a process: a pipe of its own beside the frames', which the
 * master only writes. (With descriptors among the frames a process could fill the master's table with its
 * own.) One goes before the answer that tells of it, so who has read the answer finds it there. */
#ifndef CM_CLUSTER_DESCRIPTOR_H
#define CM_CLUSTER_DESCRIPTOR_H

/* Makes such a pipe: ends[0] is the master's, ends[1] the process's. 0 or an errno. */
int cm_descriptor_pipe(int ends[2]);

/* Sends a copy of the descriptor. Does not wait: 0, or an errno (EAGAIN: the process has left many unread).
 */
int cm_descriptor_send(int pipe, int fd);

/* Takes the next one, which is close-on-exec. Does not wait: the descriptor, or an errno. */
int cm_descriptor_take(int pipe);

#endif
