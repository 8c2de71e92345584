--- Locks by name, for the whole cluster.
--
-- A lock that is free is taken and given back in the shared memory, without a message; one that is taken is waited for
-- in the master's queue, in the order of the requests. A newcomer may take a lock that is free at that moment past a
-- waiter; once the first waiter has waited a millisecond, or while one with `fair` waits, every release hands the lock
-- over instead. A lock needs no entry of its name: locks and keys are two name spaces.
--
-- The lockId is a fencing token: a decimal number, as a string, which grows with each owner of a lock for ever. Whoever
-- has it may release the lock, and may write under its protection (`fence` of set and remove); only the process that
-- took the lock can renew its lease. The death of that process frees the lock, and so does the end of its lease; the
-- next owner is told `"abandoned"`. The end of a task frees nothing: `mutex` does.
--
-- What is marked (w) may wait: call it in a task, or with a callback as the last argument. Every process may call it.
-- A request with a callback belongs to no task. Durations are milliseconds. A key is a string of 1 to 65,535 bytes.
-- @module clustermem.locks

local native = require "clustermem.native"
local check = require "clustermem.check"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"

local locks = {}

-- A timeout that never comes, as `native.lock` takes it.
local FOR_EVER = -1
local NO_TASK = 0

-- Lease in milliseconds, 0: none.
local function leaseOf(what, options)
  return options and options.lease ~= nil and check.milliseconds(what, "lease", options.lease) or 0
end

-- Timeout and lease, and whether it is fair.
local function checkWaiting(what, options)
  check.options(what, options, { "timeout", "lease", "fair" })
  if not options then return FOR_EVER, 0, false end
  check.type(what, "fair", options.fair, "boolean", true)
  local timeout = options.timeout ~= nil and check.milliseconds(what, "timeout", options.timeout) or FOR_EVER
  return timeout, leaseOf(what, options), options.fair == true
end

local function take(what, callback, key, timeout, lease, fair)
  if callback then return request.complete(callback, native.lock(key, NO_TASK, timeout, lease, fair)) end
  scheduler.mayWait(what)
  return request.complete(nil, native.lock(key, scheduler.current().id, timeout, lease, fair))
end

--- Takes a lock, and waits for it if need be. (w)
-- @tparam string key
-- @tparam[opt] table options
--
-- - `timeout`: how long to wait; nil: for ever; 0: not at all
-- - `lease`: how long the lock is had unless it is renewed; nil or 0: until it is released
-- - `fair`: while this request waits, every release hands the lock over to who waits
-- @tparam[opt] function callback
-- @treturn string lockId
-- @treturn ?string "abandoned": the last owner died, or lost its lease, without having released it
-- @return nil, message, code: `timeout`; `busy` (a timeout of 0); `deadlock` (it is this task's own, or its owner
-- waits, through others perhaps, for this task; the message names the cycle); `nomemory` (this process waits for so
-- much, or has so many locks at once, that the master keeps no more)
-- @raise on an unknown option
-- @usage local lockId = memory.getLock("report", { timeout = 1000 })
-- @function getLock
locks.getLock = native.short(native.shortGetLock, function(key, options, callback)
  options, callback = check.trailing("getLock", options, callback)
  check.key("getLock", key)
  return take("getLock", callback, key, checkWaiting("getLock", options))
end, scheduler.rest)

--- Takes a lock if it is free. (w)
-- @tparam string key
-- @tparam[opt] table options `lease`, as of getLock
-- @tparam[opt] function callback
-- @treturn string lockId
-- @treturn ?string "abandoned", as of getLock
-- @return nil, message, code: `busy` (somebody has it, be it this task); `nomemory`, as of getLock
-- @raise on an unknown option
-- @usage local lockId = memory.tryLock("report")
function locks.tryLock(key, options, callback)
  options, callback = check.trailing("tryLock", options, callback)
  check.key("tryLock", key)
  check.options("tryLock", options, { "lease" })
  return take("tryLock", callback, key, 0, leaseOf("tryLock", options), false)
end

--- Gives a lock that this process took a new lease, from now on. (w)
-- @tparam string key
-- @tparam string lockId
-- @tparam number lease milliseconds; 0: until it is released
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, `notowner`: it is not, or no longer, held under this lockId, or another process took it
-- @usage memory.renewLock("report", lockId, 5000)
function locks.renewLock(key, lockId, lease, callback)
  check.key("renewLock", key)
  check.type("renewLock", "the lockId", lockId, "string")
  lease = check.milliseconds("renewLock", "the lease", lease)
  check.type("renewLock", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("renewLock") end
  return request.complete(callback, native.renew(key, lockId, lease))
end

--- Releases a lock, whoever took it. (w)
-- @tparam string key
-- @tparam string lockId
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, `notowner`: it is not, or no longer, held under this lockId. It stays whose it is.
-- @usage memory.releaseLock("report", lockId)
-- @function releaseLock
locks.releaseLock = native.short(native.shortReleaseLock, function(key, lockId, callback)
  check.key("releaseLock", key)
  check.type("releaseLock", "the lockId", lockId, "string")
  check.type("releaseLock", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("releaseLock") end
  return request.complete(callback, native.unlock(key, lockId))
end, scheduler.rest)

-- A lock that is had until the end of a block, however that ends.
local Guard = {}

local function nothing() end

-- In the midst of an error, or where a coroutine is closed: nobody waits for the answer, if it is the master's.
function Guard.__close(guard)
  local lockId = guard.lockId
  guard.lockId = nil
  if lockId then request.onReply(nothing, native.unlock(guard.key, lockId)) end
end

-- Releases a lock, and gives the results of what was done if it has been had all the time.
local function settle(key, lockId, ...)
  local ok, message, code = request.complete(nil, native.unlock(key, lockId))
  if ok then return ... end
  if code == "notowner" then message = ("mutex: the lock '%s' was taken away meanwhile"):format(key) end
  return nil, message, code
end

local function give(guard, ...)
  local lockId = guard.lockId
  guard.lockId = nil
  return settle(guard.key, lockId, ...)
end

local function giveOrRaise(guard, ok, ...)
  if ok then return give(guard, ...) end
  Guard.__close(guard)
  error((...), 0)
end

-- Lua closes what a coroutine has open when it raises only if somebody closes the coroutine; so in the script's own
-- ones the error is caught on its way. In a task's it is not, for the sake of the traceback.
local function mutex(key, fn, timeout, lease, fair)
  local task = scheduler.current()
  local lockId, how, code = request.complete(nil, native.lock(key, task.id, timeout, lease, fair))
  if not lockId then return nil, how, code end
  local guard <close> = setmetatable({ key = key, lockId = lockId }, Guard)
  if task.co ~= coroutine.running() then return giveOrRaise(guard, pcall(fn, lockId, how)) end
  return give(guard, fn(lockId, how))
end

--- Runs a function while it has a lock. (w) The lock is released also when the function raises.
-- @tparam string key
-- @tparam function fn `fn(lockId, how)`, as getLock gives them; it may wait
-- @tparam[opt] table options as of getLock
-- @tparam[opt] function callback
-- @return what fn returns
-- @return nil, message, code: as of getLock; `notowner`: fn has run, but the lock was lost meanwhile
-- @raise what fn raises, the same value; on an unknown option
-- @usage memory.mutex("report", function() memory.set("report", build()) end)
-- @function mutex
locks.mutex = native.mutex(function(key, fn, options, callback)
  options, callback = check.trailing("mutex", options, callback)
  check.key("mutex", key)
  check.type("mutex", "its second argument", fn, "function")
  return scheduler.perform("mutex", callback, mutex, key, fn, checkWaiting("mutex", options))
end, scheduler.rest, settle)

--- Who has a lock. (w)
-- @tparam string key
-- @tparam[opt] function callback
-- @treturn ?table `worker`, the id of the process that took it; `task`, the number of its task, nil for a request with
-- a callback; `lease`, the milliseconds that are left, nil without a lease; `waiting`, how many wait. nil: it is free.
-- @usage local info = memory.lockInfo("report")
function locks.lockInfo(key, callback)
  check.key("lockInfo", key)
  check.type("lockInfo", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("lockInfo") end
  return request.complete(callback, native.lockInfo(key))
end

return locks
