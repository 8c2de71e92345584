/* The one list of operations that travel as frames between the master and its processes. A request carries an
 * id that is not 0 and gets exactly one reply, with the same operation and id and CM_FRAME_REPLY set; a
 * notice carries id 0 and gets none. Payloads are written with core/wire/message. */
#ifndef CM_WIRE_OPS_H
#define CM_WIRE_OPS_H

#include <stddef.h>

/* XX(name, number, name for people). The payloads:
 *   SET        request: key value change              reply: version64
 *   REMOVE     request: key change                    reply: version64
 *   INCREMENT  request: key delta initial ttl64       reply: value version64
 *   SET_MANY   request: count32, key value each       reply: -
 *   EXPIRE     request: key ttl64                     reply: -
 *   LOCK       request: key task64 flags8 timeout64 lease64   reply: id abandoned8
 *   UNLOCK     request: key id                        reply: -
 *   RENEW      request: key id lease64                reply: -
 *   LOCK_INFO  request: key                           reply: held8 worker32 task64 lease64 waiting32
 *   LRU_SET    request: key value age64               reply: -
 *   LRU_REMOVE request: key                           reply: -
 *   LRU_CLEAR  request: -                             reply: -
 *   LRU_OPTIONS   request: entries64 bytes64 age32 update8 stale8   reply: -        process 0 only
 *   STORAGE_OPEN   request: name folder gc64          reply: id32 filename folder gc64
 *   STORAGE_SET    request: id32 path value ttl64 flags8 version64   reply: version64
 *   STORAGE_DELETE   request: id32 path flags8 version64   reply: version64
 *   STORAGE_SYNC   request: id32                      reply: -
 *   STORAGE_CLOSE   request: id32                     reply: -
 *   STORAGE_DESTROY   request: id32                   reply: -
 *   BIND       request: host port32                   reply: id32, behind a core/cluster/descriptor
 *   UNBIND     to the master: id32                    this process does not need that socket any more
 *   LISTEN     request: flags8 name                   reply: -
 *   UNLISTEN   to the master: flags8 name             nobody in this process listens for it any more
 *   FORK       request: struct cm_script              reply: id32 slot32 pid32      process 0 only
 *   SHUTDOWN   request: -                             reply: -                      process 0 only
 *   ONLINE     to the master: -                       a worker is online; process 0's main task has ended
 *   FAILED     to the master: text                    the uncaught error this process is about to die of
 *   INIT       from the master: struct cm_init        what the process is and shall run; the first frame
 *   STOP       from the master: -                     leave gracefully
 *   PROCESS    from the master: struct cm_process_event   the process table changed
 *   CHANGED    from the master: cause8 version64 key has8 [value]   of what this process listens for
 *   SHORT      from the master: -                     memory is short: who is idle closes its open chunk
 *   HUB_SEND   request: to8 process32 timeout64 mail   reply: -
 *   HUB_ASK    request: to8 process32 timeout64 mail   reply: outcome
 *   HUB_WORKERS   request: -                          reply: count32, id32 each   all workers but the asker
 *   HUB_ANSWER to the master: ticket64 outcome        of the request that came with this ticket
 *   HUB_DONE   to the master: bytes64                 of its window that this process is done with
 *   HUB_MESSAGE   from the master: ticket64 process32 mail   sent by that process; ticket 0: it asks nothing
 *   HUB_OVER   from the master: ticket64              nobody waits for the answer to that any more
 * Reads travel as nothing, and of the writes only those that need the referee; see core/data/store.
 * key, value, delta and initial are a u32 length and the bytes; the last two are numbers as values. `change`
 * is flags8 (CM_CHANGE_...) version64 ttl64 fence, where the fence is an id or zeros. `id` is a lock's:
 * token64 slot32. Names, paths and folders are a length and the bytes too: a path is core/data/path's steps,
 * a folder an absolute path, or empty for --storage-dir's. The flags of a document's change are
 * CM_CHANGE_IF_VERSION and, of a set, CM_CHANGE_KEEP_TTL. A host is an address in figures; with the port
 * CM_BIND_UNIX, an absolute path. A ttl, a lease and a gc are in ms, 0 for ever; so are a timeout, 0 for not
 * at all and 2^64 - 1 for ever, and an age, 2^64 - 1 for the cache's own. A task is 0 where there is none. A
 * cause is one of core/data/store's; a gap has no version and no value, and without a key means: anything.
 * The structs are core/wire/control's. `mail` is hub type data, each a u32 length and the bytes; the data is
 * a value, or empty for nil. `outcome` is outcome8 (CM_HUB_...) and, as that says: count32 and so many
 * values, likewise; a text; nothing. What counts in a window is said in core/data/mailbox.
 */
#define CM_OPS(XX)                           \
    XX(SET, 1, "set")                        \
    XX(REMOVE, 2, "remove")                  \
    XX(INCREMENT, 3, "increment")            \
    XX(SET_MANY, 4, "setMany")               \
    XX(EXPIRE, 5, "expire")                  \
    XX(LOCK, 6, "getLock")                   \
    XX(UNLOCK, 7, "releaseLock")             \
    XX(RENEW, 8, "renewLock")                \
    XX(LOCK_INFO, 9, "lockInfo")             \
    XX(LRU_SET, 12, "setLRU")                \
    XX(LRU_REMOVE, 13, "removeLRU")          \
    XX(LRU_CLEAR, 14, "clearLRU")            \
    XX(LRU_OPTIONS, 15, "setLRUOptions")     \
    XX(LISTEN, 10, "listen")                 \
    XX(UNLISTEN, 34, "unlisten")             \
    XX(CHANGED, 52, "changed")               \
    XX(BIND, 28, "cluster.bind")             \
    XX(FORK, 16, "fork")                     \
    XX(STORAGE_OPEN, 18, "Storage.new")      \
    XX(STORAGE_SET, 19, "store:set")         \
    XX(STORAGE_DELETE, 20, "store:delete")   \
    XX(STORAGE_SYNC, 21, "store:sync")       \
    XX(STORAGE_CLOSE, 22, "store:close")     \
    XX(STORAGE_DESTROY, 23, "store:destroy") \
    XX(HUB_SEND, 24, "hubSend")              \
    XX(HUB_ASK, 25, "hubAsk")                \
    XX(HUB_WORKERS, 26, "hubWorkers")        \
    XX(HUB_ANSWER, 35, "hubAnswer")          \
    XX(HUB_DONE, 36, "hubDone")              \
    XX(HUB_MESSAGE, 55, "hubMessage")        \
    XX(HUB_OVER, 56, "hubOver")              \
    XX(SHUTDOWN, 17, "shutdown")             \
    XX(UNBIND, 40, "unbind")                 \
    XX(ONLINE, 32, "online")                 \
    XX(FAILED, 33, "failed")                 \
    XX(INIT, 48, "init")                     \
    XX(STOP, 49, "stop")                     \
    XX(PROCESS, 50, "process")               \
    XX(SHORT, 51, "short")

enum cm_op {
#define XX(name, number, word) CM_OP_##name = (number),
    CM_OPS(XX)
#undef XX
};

/* The longest payload of a request, and of a reply: one value of the largest size, and what else there may
 * be: a key and numbers, the arguments of a script, a list of keys. */
static inline size_t cm_request_most_bytes(size_t max_value_bytes) {
    return max_value_bytes + (4 << 20);
}
static inline size_t cm_reply_most_bytes(size_t max_value_bytes) {
    return max_value_bytes + (4 << 20);
}

/* The flags of a change. */
enum {
    CM_CHANGE_IF_ABSENT = 1,
    CM_CHANGE_IF_PRESENT = 2,
    CM_CHANGE_IF_VERSION = 4,
    CM_CHANGE_KEEP_TTL = 8,
    CM_CHANGE_CLEARED = 16, /* removed by a clear */
    CM_CHANGE_FLAGS = 31,
};

/* The flags of what is listened for: a key, or a prefix, which may be empty. */
enum { CM_LISTEN_PREFIX = 1 };

/* Instead of a port: what is bound is a path. */
#define CM_BIND_UNIX UINT32_MAX

/* The flags of a request for a lock. */
enum { CM_LOCK_FAIR = 1 };

/* To whom a hub sends: to that process (0: process 0), to all workers but the sender, to one of these. */
enum { CM_HUB_TO_PROCESS, CM_HUB_TO_ALL, CM_HUB_TO_RANDOM };

/* What has become of a hub's request: its handler has given results, or failed, or there is none. */
enum { CM_HUB_ANSWERED, CM_HUB_FAILED, CM_HUB_NO_HANDLER };

/* Of an answer, so that it fits who asks: Lua has room for a million values on a stack, and they are passed
 * on. */
enum { CM_HUB_MOST_RESULTS = 10000 };

/* Of a hub's name and of a message's type. */
enum { CM_HUB_NAME_MAX_BYTES = 1024, CM_HUB_TYPE_MAX_BYTES = 65535 };

/* A longer ttl than this, in ms, is refused: a Lua number is exact up to here. */
#define CM_TTL_MAX_MS (UINT64_C(1) << 53)

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
