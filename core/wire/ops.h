/* The one list of operations that travel as frames between the master and its processes. A request carries an
 * id that is not 0 and gets exactly one reply, with the same operation and id and CM_FRAME_REPLY set; a
 * notice carries id 0 and gets none. Payloads are written with core/wire/message. */
#ifndef CM_WIRE_OPS_H
#define CM_WIRE_OPS_H

/* XX(name, number, name for people). The payloads:
 *   SET      request: key32 value32                    reply: version64
 *   GET      request: key32                            reply: value32 version64
 *   REMOVE   request: key32                            reply: version64
 *   FORK     request: struct cm_script              reply: id32 slot32 pid32      process 0 only
 *   SHUTDOWN request: -                             reply: -                      process 0 only
 *   ONLINE   notice to the master: -                a worker's script runs; process 0's main task has ended
 *   FAILED   notice to the master: text             the uncaught error this process is about to die of
 *   INIT     notice from the master: struct cm_init what the process is and shall run; the first frame
 *   STOP     notice from the master: -              leave gracefully
 *   PROCESS  notice from the master: struct cm_process_event   the process table changed
 * (`key32` is a u32 length and the bytes; the structs are core/wire/control's.) */
#define CM_OPS(XX)               \
    XX(SET, 1, "set")            \
    XX(GET, 2, "get")            \
    XX(REMOVE, 3, "remove")      \
    XX(FORK, 16, "fork")         \
    XX(SHUTDOWN, 17, "shutdown") \
    XX(ONLINE, 32, "online")     \
    XX(FAILED, 33, "failed")     \
    XX(INIT, 48, "init")         \
    XX(STOP, 49, "stop")         \
    XX(PROCESS, 50, "process")

enum cm_op {
#define XX(name, number, word) CM_OP_##name = (number),
    CM_OPS(XX)
#undef XX
};

/* The operation's word, or NULL for a number that is none. */
static inline const char *cm_op_name(unsigned op) {
    switch (op) {
#define XX(name, number, word) \
    case number:               \
        return word;
        CM_OPS(XX)
#undef XX
    default:
        return 0;
    }
}

#endif
