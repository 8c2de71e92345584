--- Messages and requests between the processes of the cluster: from any of them to any other, workers among each other
-- and process 0 included (the master script, `--master`; without one there is no process 0: `nopeer`). They go by way
-- of the master, which does not look into them.
--
-- A hub has a name, its messageKey: hubs of one name hear each other, in all processes, and no others. Handlers are
-- registered by type, which is any string. Each is called in a task of its own, so it may wait; those of one sender's
-- messages begin in the order in which they were sent, and may overlap. Each gets a copy of the data of its own. A
-- process that has handlers stays alive.
--
-- What is sent is `"OK"` when it has been delivered to the other process, whether or not that has a handler for it. Of
-- what its handlers have not ended with a process gets no more than about 1 MiB: what comes further waits, and so does
-- its sender, at most its `timeout`. A request ends in any case: with what the handler answers, or nil, message, code:
--
-- - `remote`: the handler raised an error (which is not uncaught then), or returned nil and a message
-- - `nohandler`: the process has no handler for that type
-- - `nopeer`: there is no such process, or it is being killed
-- - `closed`: it has died before it answered
-- - `timeout`: it has not answered in time
-- - `nomemory`: this process has so many requests under way that the master keeps no more, or does not read its
--   answers; also of a message, where so much that has been sent with callbacks waits for those who do not keep up
--   that this process keeps no more (32 MiB): a task that sends is slowed instead
-- - `toolarge`: the data are larger than --max-value
--
-- What is marked (w) may wait: call it in a task, or with a callback as the last argument. Every process may call all
-- of it. A worker is named by its id, or by anything that has one: the `sender` of a handler, what `cluster.workers`
-- and `getRandomWorker` give; the id 0 is process 0. Data is whatever can be shared, and nil.
-- @module clustermem.hub

local native = require "clustermem.native"
local check = require "clustermem.check"
local cluster = require "clustermem.cluster"
local mail = require "clustermem.mail"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"

local Hub = {}
Hub.__index = Hub
Hub.__name = "hub"

-- As in core/wire/ops.h.
local MOST_NAME_BYTES, MOST_TYPE_BYTES = 1024, 65535
-- Of a lock's name, which has the hub's in front.
local MOST_LOCK_BYTES = 64000
local DEFAULT_TIMEOUT_MS = 30000
-- Of an id.
local MOST_ID = (1 << 32) - 1

local me = native.info.id

-- --- checks ---

local function checkHub(what, hub)
  if getmetatable(hub) ~= Hub then native.refuse(what .. ": it is a method, so it is called with a colon, on a hub") end
end

local function checkText(what, name, value, least, most)
  check.type(what, name, value, "string")
  if #value < least or #value > most then
    native.refuse(("%s: %s must have %d to %d bytes, not %d"):format(what, name, least, most, #value))
  end
  return value
end

local function checkHandler(what, hub, type, fn)
  checkHub(what, hub)
  checkText(what, "the type", type, 0, MOST_TYPE_BYTES)
  check.type(what, "the handler", fn, "function")
end

local function idOf(what, worker)
  local id = worker
  if type(worker) == "table" then id = worker.id end
  if math.type(id) ~= "integer" or id < 0 or id > MOST_ID then
    native.refuse(("%s: the worker must be an id, or something with an id, not %s"):format(what,
      type(id) == "number" and tostring(id) or "a " .. type(worker)))
  end
  return id
end

-- Checks what all sends and requests have. @return timeout, callback
local function checkSending(what, hub, type, options, callback)
  checkHub(what, hub)
  checkText(what, "the type", type, 0, MOST_TYPE_BYTES)
  options, callback = check.trailing(what, options, callback)
  check.options(what, options, { "timeout" })
  local timeout = options and options.timeout
  if timeout == nil then return DEFAULT_TIMEOUT_MS, callback end
  return check.milliseconds(what, "timeout", timeout), callback
end

-- --- handlers ---

--- A hub.
-- @tparam[opt="cluster"] string messageKey its name, of at most 1,024 bytes; it has handlers of its own, also where
-- there are other hubs of this name in the process, which hear the same
-- @treturn Hub
-- @usage
-- local hub = Hub.new "chat"
function Hub.new(messageKey)
  if messageKey == nil then messageKey = "cluster" end
  checkText("Hub.new", "the messageKey", messageKey, 0, MOST_NAME_BYTES)
  return setmetatable({ messageKey = messageKey, handlers = {}, count = 0 }, Hub)
end

--- Calls a function with each message and request of a type. Never waits; works anywhere.
-- @tparam string type any string of at most 65,535 bytes
-- @tparam function fn `fn(data, sender, reply)`. The sender is `{ id, isMaster }`, and can be sent to as it is. What
-- the function returns answers a request: its values, at most 10,000, or nil and a string, which the asker gets as a
-- failure, `remote`.
-- Returning nothing it answers later: `reply(nil, values...)`, or `reply("what went wrong")`, from anywhere; reply
-- returns whether this was the answer. With several handlers all are called, and the first to answer answers. Answering
-- a message does nothing. An error answers a request (`remote`); in the handler of a message it is uncaught.
-- @usage
-- hub:on("sum", function(numbers, sender) return numbers[1] + numbers[2] end)
function Hub:on(type, fn)
  checkHandler("hub:on", self, type, fn)
  mail.add(self, type, { fn = fn })
end

--- As on, but for the next message or request of the type only.
-- @tparam string type
-- @tparam function fn
-- @usage hub:once("ready", function(data, sender) print(sender.id .. " is ready") end)
function Hub:once(type, fn)
  checkHandler("hub:once", self, type, fn)
  mail.add(self, type, { fn = fn, once = true })
end

--- Takes a handler out; of several registrations of it the first one. Never waits. No call of it begins any more; one
-- that is under way goes on.
-- @tparam string type
-- @tparam function fn
-- @treturn boolean whether it was in
-- @usage hub:off("sum", sum)
function Hub:off(type, fn)
  checkHandler("hub:off", self, type, fn)
  for _, handler in ipairs(self.handlers[type] or {}) do
    if handler.fn == fn then
      handler.off = true
      mail.remove(self, type, handler)
      return true
    end
  end
  return false
end

--- Takes all handlers out, or all of a type. Never waits.
-- @tparam[opt] string type
-- @usage hub:removeAllListeners()
function Hub:removeAllListeners(type)
  checkHub("hub:removeAllListeners", self)
  if type == nil then
    for each in pairs(self.handlers) do self:removeAllListeners(each) end
    return
  end
  checkText("hub:removeAllListeners", "the type", type, 0, MOST_TYPE_BYTES)
  for _, handler in ipairs(self.handlers[type] or {}) do
    handler.off = true
    mail.remove(self, type, handler)
  end
end

--- Calls the handlers of this process, and no others, as if it had sent itself a message. Never waits; works anywhere.
-- @tparam string type
-- @param[opt] data
-- @treturn boolean whether there are any
-- @return nil, message, code: `toolarge`, `nomemory`
-- @raise when the data cannot be shared
-- @usage hub:emit("refresh", { page = "/" })
function Hub:emit(type, data)
  checkHub("hub:emit", self)
  checkText("hub:emit", "the type", type, 0, MOST_TYPE_BYTES)
  local bytes, message, code = native.hubPack(self.messageKey, type, data)
  if not bytes then return nil, message, code end
  local header = 3 * 4 + #self.messageKey + #type
  return mail.deliver(0, me, 0, self.messageKey, type, bytes:sub(header + 1))
end

-- --- workers ---

--- Calls a function with each living worker, as this process knows them, this one included, in the order of their ids.
-- Never waits by itself.
-- @tparam function fn `fn(worker)`, `{ id, slot, pid, online }` as `cluster.workers` gives it
-- @usage hub:eachWorker(function(worker) print(worker.id) end)
function Hub:eachWorker(fn)
  checkHub("hub:eachWorker", self)
  check.type("hub:eachWorker", "its argument", fn, "function")
  for _, worker in ipairs(cluster.workers()) do fn(worker) end
end

--- One of the living workers but this one, as this process knows them, by chance. Never waits.
-- @treturn ?table `{ id, slot, pid, online }`; nil: there is no other
-- @usage local worker = hub:getRandomWorker()
function Hub:getRandomWorker()
  checkHub("hub:getRandomWorker", self)
  local list = {}
  for _, worker in ipairs(cluster.workers()) do
    if worker.id ~= me then list[#list + 1] = worker end
  end
  return list[1] and list[math.random(#list)]
end

-- --- messages and requests ---

local function post(what, hub, asks, to, id, type, data, options, callback)
  local timeout
  timeout, callback = checkSending(what, hub, type, options, callback)
  return scheduler.perform(what, callback, mail.post, callback ~= nil, asks, to, id, timeout,
    native.hubPack(hub.messageKey, type, data))
end

--- Sends a message to process 0. (w)
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options `timeout` (30000): milliseconds to wait while the other process does not keep up
-- @tparam[opt] function callback
-- @treturn string "OK": it has been delivered
-- @return nil, message, code: `nopeer`, `closed`, `timeout`, `nomemory`, `toolarge`
-- @raise on an unknown option, and when the data cannot be shared
-- @usage hub:sendToMaster("progress", { done = 7 })
function Hub:sendToMaster(type, data, options, callback)
  return post("hub:sendToMaster", self, false, mail.PROCESS, 0, type, data, options, callback)
end

--- Sends a message to a worker. (w) As sendToMaster.
-- @param worker an id, or anything that has one
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, code
-- @usage hub:sendToWorker(sender, "thanks")
function Hub:sendToWorker(worker, type, data, options, callback)
  local id = idOf("hub:sendToWorker", worker)
  return post("hub:sendToWorker", self, false, mail.PROCESS, id, type, data, options, callback)
end

--- Sends a message to all workers but this one. (w) As sendToMaster.
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options
-- @tparam[opt] function callback
-- @treturn string "OK": all of them have got it that did not die meanwhile; also when there is none
-- @return nil, message, code: `timeout` (those that keep up have got it), `nomemory`, `toolarge`
-- @usage hub:sendToWorkers("refresh")
function Hub:sendToWorkers(type, data, options, callback)
  return post("hub:sendToWorkers", self, false, mail.ALL, 0, type, data, options, callback)
end

--- Sends a message to one of the workers but this one, by chance. (w) As sendToMaster.
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, code: `nopeer`: there is no other
-- @usage hub:sendToRandomWorker("job", { id = 4711 })
function Hub:sendToRandomWorker(type, data, options, callback)
  return post("hub:sendToRandomWorker", self, false, mail.RANDOM, 0, type, data, options, callback)
end

--- Asks process 0. (w)
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options `timeout` (30000): milliseconds to wait for the answer
-- @tparam[opt] function callback
-- @return what the handler answered, copies of its own
-- @return nil, message, code: `remote`, `nohandler`, `nopeer`, `closed`, `timeout`, `nomemory`, `toolarge`
-- @raise on an unknown option, and when the data cannot be shared
-- @usage local config = hub:requestMaster("config")
function Hub:requestMaster(type, data, options, callback)
  return post("hub:requestMaster", self, true, mail.PROCESS, 0, type, data, options, callback)
end

--- Asks a worker. (w) As requestMaster.
-- @param worker an id, or anything that has one
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options
-- @tparam[opt] function callback
-- @return what the handler answered; or nil, message, code
-- @usage local sum = hub:requestWorker(2, "sum", { 1, 2 }, { timeout = 1000 })
function Hub:requestWorker(worker, type, data, options, callback)
  local id = idOf("hub:requestWorker", worker)
  return post("hub:requestWorker", self, true, mail.PROCESS, id, type, data, options, callback)
end

--- Asks one of the workers but this one, by chance. (w) As requestMaster.
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options
-- @tparam[opt] function callback
-- @return what the handler answered; or nil, message, code: `nopeer`: there is no other
-- @usage local page, message = hub:requestRandomWorker("render", { path = "/" })
function Hub:requestRandomWorker(type, data, options, callback)
  return post("hub:requestRandomWorker", self, true, mail.RANDOM, 0, type, data, options, callback)
end

-- The master knows who is there; this process learns of others only when its loop turns.
local function requestAll(timeout, bytes, message, code)
  if not bytes then return nil, message, code end
  local ids
  ids, message, code = request.complete(nil, native.hubWorkers())
  if not ids then return nil, message, code end
  local task, results, left = scheduler.current(), {}, #ids
  for _, id in ipairs(ids) do
    mail.send(true, mail.PROCESS, id, timeout, bytes, function(...)
      results[id] = table.pack(...)
      left = left - 1
      if left == 0 then scheduler.wake(task) end
    end)
  end
  if #ids > 0 then scheduler.wait() end
  return results
end

--- Asks all workers but this one, and waits for all answers. (w) The master says first who they are; what is sent
-- before it has may come before this.
-- @tparam string type
-- @param[opt] data
-- @tparam[opt] table options `timeout` (30000): milliseconds to wait for each answer
-- @tparam[opt] function callback
-- @treturn table id -> `table.pack` of what requestWorker would have given: the results, or nil, message, code
-- @return nil, message, code: `toolarge`, `nomemory`: nobody was asked
-- @raise on an unknown option, and when the data cannot be shared
-- @usage
-- for id, results in pairs(hub:requestAllWorkers "memory") do print(id, table.unpack(results, 1, results.n)) end
function Hub:requestAllWorkers(type, data, options, callback)
  local timeout
  timeout, callback = checkSending("hub:requestAllWorkers", self, type, options, callback)
  return scheduler.perform("hub:requestAllWorkers", callback, requestAll, timeout,
    native.hubPack(self.messageKey, type, data))
end

-- --- locks ---

-- No two hubs' locks have one name: the length says where the messageKey ends. A script's own locks would have to begin
-- with these very bytes.
local function nameOf(hub, key)
  return ("\0clustermem.hub\0%d\0%s%s"):format(#hub.messageKey, hub.messageKey, key)
end

local function nothing() end

local function newLock(name, key, lockId)
  local lock = { held = true }
  function lock.unlock()
    if not lock.held then native.refuse(("unlock: the lock '%s' has been released already"):format(key)) end
    lock.held = false
    request.onReply(nothing, native.unlock(name, lockId))
  end
  return lock
end

-- A timeout that never comes, as `native.lock` takes it.
local FOR_EVER = -1

local function lockAndCall(name, key, fn)
  local lockId, message, code = request.complete(nil, native.lock(name, scheduler.current().id, FOR_EVER, 0, false))
  if not lockId then
    fn(nil, message, code)
    return
  end
  local lock = newLock(name, key, lockId)
  local raised, failure = scheduler.try(fn, lock.unlock)
  if not raised then return end
  if lock.held then lock.unlock() end
  scheduler.uncaught(failure, scheduler.current())
end

--- Calls a function when a lock is had, which all hubs of this messageKey in the cluster share. Never waits; works
-- anywhere. These are the locks of `memory.getLock`, with all that holds for them (first come, first served; freed by
-- the death of their owner), under names of the hub's own.
-- @tparam string key 1 to 64,000 bytes
-- @tparam function fn `fn(unlock)`, called later, as a task. Until `unlock()` is called, also behind the function's
-- end, the lock is held; calling it again raises. If the function raises before, the lock is released, and the error is
-- uncaught. `fn(nil, message, code)`: the lock cannot be had (`nomemory`: so much of this process waits for locks).
-- @usage
-- hub:lock("report", function(unlock) writeReport() unlock() end)
function Hub:lock(key, fn)
  checkHub("hub:lock", self)
  checkText("hub:lock", "the key", key, 1, MOST_LOCK_BYTES)
  check.type("hub:lock", "its second argument", fn, "function")
  scheduler.spawn(lockAndCall, nameOf(self, key), key, fn)
end

return Hub
