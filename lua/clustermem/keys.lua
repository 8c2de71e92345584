--- Shared values under keys.
--
-- What reads never waits and works anywhere. What is marked (w) may wait: call it in a task, or with a callback as the
-- last argument, which then gets the results later in the loop, in a task of its own. Every process may call them. All
-- of them act on the shared memory here and now; a write waits for the master only where the memory is nearly full,
-- or another write of this process is there already, since a process's writes apply in the order of their calls.
-- Durations are milliseconds. A key is a string of 1 to 65,535 bytes; a bad one raises.
-- @module clustermem.keys

local native = require "clustermem.native"
local check = require "clustermem.check"
local request = require "clustermem.request"
local retries = require "clustermem.retries"
local scheduler = require "clustermem.scheduler"

local keys = {}

-- As in core/wire/ops.h.
local IF_ABSENT, IF_PRESENT, IF_VERSION, KEEP_TTL, CLEARED = 1, 2, 4, 8, 16
-- `native.short` makes a C function that does what comes without options or callback at once, where it can be done in
-- this process, and calls the function given for all else.

-- How often `update` tries.
local MOST_TRIES = 1000
local DEFAULT_LIMIT = 1000
local LARGEST_LIMIT = 1 << 31

--- Stores a copy of a value, in place of what was there. (w)
-- @tparam string key
-- @param value anything that is data: boolean, number, string, a table of such to depth 128, cjson.null
-- @tparam[opt] table options
--
-- - `ttl`: milliseconds after which the entry is gone; 0 or nil: never. So a set without ttl clears one.
-- - `ifAbsent`: only where there is nothing (`exists`)
-- - `ifPresent`: only where there is something (`notfound`)
-- - `ifVersion`: only where the entry has this version (`conflict`); 0: where there is nothing
-- - `fence`: a lockId; only while its lock is held under it (`notowner`), whatever the key of the lock
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @treturn integer the entry's new version; a key's versions grow for ever
-- @return nil, message, code: of a condition; `toolarge` (over --max-value), `nomemory` (over --memory). The old value
-- stays.
-- @raise on an unknown option, or a value that is not data, naming where it sits: `cannot share value.handlers[2]:
-- function`
-- @usage memory.set("session:7", { user = "ada" }, { ttl = 60000 })
-- @function set
keys.set = native.short(native.shortSet, function(key, value, options, callback)
  options, callback = check.trailing("set", options, callback)
  check.key("set", key)
  if value == nil then native.refuse("set: the value must not be nil, which is absence: remove(key) makes it") end
  local flags, version, ttl, fence = 0, 0, 0, nil
  if options then
    check.options("set", options, { "ttl", "ifAbsent", "ifPresent", "ifVersion", "fence" })
    check.type("set", "ifAbsent", options.ifAbsent, "boolean", true)
    check.type("set", "ifPresent", options.ifPresent, "boolean", true)
    if options.ifAbsent and options.ifPresent then native.refuse("set: ifAbsent and ifPresent exclude each other") end
    if options.ttl ~= nil then ttl = check.milliseconds("set", "ttl", options.ttl) end
    if options.ifVersion ~= nil then version = check.integer("set", "ifVersion", options.ifVersion, 0) end
    fence = check.type("set", "fence", options.fence, "string", true)
    flags = (options.ifAbsent and IF_ABSENT or 0) | (options.ifPresent and IF_PRESENT or 0)
      | (options.ifVersion and IF_VERSION or 0)
  end
  if not callback then scheduler.mayWait("set") end
  return request.complete(callback, native.set(key, value, flags, version, ttl, fence))
end, scheduler.rest)

--- Gives the caller a copy of its own of the value under the key. A string that this process has read twice is not
-- copied again until it changes, however long it is: up to 4 MiB of such are kept (a 16th of --worker-memory, where
-- that is less).
-- @function get
-- @tparam string key
-- @return the value, or nil when there is none
-- @return nil, message, `nomemory`: no memory for the copy
-- @usage local session = memory.get("session:7")
keys.get = native.get

--- As `get`, with the entry's version.
-- @function getVersioned
-- @tparam string key
-- @return the value, or nil
-- @treturn integer its version, for `ifVersion`; 0 when there is no entry
-- @usage local value, version = memory.getVersioned("config")
keys.getVersioned = native.getVersioned

--- Removes what is under the key. (w)
-- @tparam string key
-- @tparam[opt] table options `ifVersion` and `fence`, as of set
-- @tparam[opt] function callback
-- @treturn string "OK", also when there was nothing
-- @return nil, message, code: `conflict`, `notowner`
-- @raise on an unknown option
-- @usage memory.remove("session:7")
-- @function remove
keys.remove = native.short(native.shortRemove, function(key, options, callback)
  options, callback = check.trailing("remove", options, callback)
  check.key("remove", key)
  check.options("remove", options, { "ifVersion", "fence" })
  local version, fence
  if options then
    if options.ifVersion ~= nil then version = check.integer("remove", "ifVersion", options.ifVersion, 0) end
    fence = check.type("remove", "fence", options.fence, "string", true)
  end
  if not callback then scheduler.mayWait("remove") end
  return request.complete(callback, native.remove(key, version and IF_VERSION or 0, version or 0, fence))
end, scheduler.rest)

-- What the reply to an increment means: the version is left out.
local function added(sum, ...)
  if sum == nil then return nil, ... end
  return sum
end

--- Adds to a number, atomically. (w) Integers stay integers; with a float the sum is one.
-- @tparam string key
-- @tparam[opt=1] number delta
-- @tparam[opt] table options both count only where there is no entry yet: `initial` (default 0), what delta is added
-- to, and `ttl`
-- @tparam[opt] function callback
-- @treturn number the sum
-- @return nil, message, code: `badvalue` (what is there is no number, or an integer would overflow), `nomemory`. The
-- old value stays.
-- @raise on an unknown option
-- @usage local visits = memory.increment("visits")
-- @function increment
keys.increment = native.short(native.shortIncrement, function(key, delta, options, callback)
  if type(delta) == "function" and options == nil then delta, options = nil, delta end
  options, callback = check.trailing("increment", options, callback)
  check.key("increment", key)
  if delta == nil then delta = 1 end
  check.type("increment", "delta", delta, "number")
  local initial, ttl = 0, 0
  if options then
    check.options("increment", options, { "initial", "ttl" })
    check.type("increment", "initial", options.initial, "number", true)
    initial = options.initial or 0
    if options.ttl ~= nil then ttl = check.milliseconds("increment", "ttl", options.ttl) end
  end
  if callback then
    return request.complete(function(...) return callback(added(...)) end, native.increment(key, delta, initial, ttl))
  end
  scheduler.mayWait("increment")
  return added(request.complete(nil, native.increment(key, delta, initial, ttl)))
end, scheduler.rest)

local function issue(key, new, version, ttl)
  if new == nil then return native.remove(key, IF_VERSION, version) end
  return native.set(key, new, ttl and IF_VERSION or IF_VERSION | KEEP_TTL, version, ttl or 0)
end

local function update(key, fn, ttl)
  retries.letPass(key)
  for try = 1, MOST_TRIES do
    local old, version, code = native.getVersioned(key)
    if code then return nil, version, code end
    local new = fn(old)
    local ok, message
    if try == 1 then
      ok, message, code = request.complete(nil, issue(key, new, version, ttl))
    else
      ok, message, code = retries.complete(key, issue(key, new, version, ttl))
    end
    if ok then return new end
    if code ~= "conflict" then return nil, message, code end
  end
  return nil, ("update: others changed '%s' in each of %d tries"):format(key, MOST_TRIES), "conflict"
end

--- Changes a value by a function, again and again until nobody interfered. (w) With a callback, a set that this process
-- issues before it is called back counts as interfering.
-- @tparam string key
-- @tparam function fn `fn(old) -> new`; old is nil where there is nothing, new nil removes. It may run several times,
-- so it should do nothing else.
-- @tparam[opt] table options `ttl`: of the new value; without it the entry keeps the one it has
-- @tparam[opt] function callback
-- @return the new value
-- @return nil, message, code: `conflict` after 1,000 tries; `toolarge`, `nomemory`
-- @raise what fn raises; on an unknown option
-- @usage memory.update("queue", function(queue) queue = queue or {} queue[#queue + 1] = "job" return queue end)
function keys.update(key, fn, options, callback)
  options, callback = check.trailing("update", options, callback)
  check.key("update", key)
  check.type("update", "its second argument", fn, "function")
  check.options("update", options, { "ttl" })
  local ttl
  if options and options.ttl ~= nil then ttl = check.milliseconds("update", "ttl", options.ttl) end
  return scheduler.perform("update", callback, update, key, fn, ttl)
end

--- Gets several values. Each is as it is at some moment meanwhile; together they are no snapshot.
-- @function getMany
-- @tparam {string,...} names keys
-- @treturn table key -> value, of those that are there
-- @usage local both = memory.getMany { "a", "b" }
keys.getMany = native.getMany

--- Stores several values, all or none of them. (w) They have no ttl.
-- @tparam table pairs key -> value
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, code: `nomemory`, `toolarge` (all together are at most --max-value and 4 MiB). Nothing has
-- changed.
-- @raise on a bad key, or a value that is not data
-- @usage memory.setMany { a = 1, b = { 2 } }
function keys.setMany(pairs_, callback)
  check.type("setMany", "its first argument", pairs_, "table")
  for key in next, pairs_ do check.key("setMany", key) end
  check.type("setMany", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("setMany") end
  return request.complete(callback, native.setMany(pairs_))
end

--- How long an entry still has.
-- @function ttl
-- @tparam string key
-- @treturn ?integer milliseconds, at least 1; nil for an entry without a ttl, and where there is none
-- @usage local left = memory.ttl("session:7")
keys.ttl = native.ttl

--- Whether there is an entry.
-- @function has
-- @tparam string key
-- @treturn boolean
-- @usage if memory.has("session:7") then print("known") end
keys.has = native.has

--- Gives an entry a new ttl. (w) This is no change of its value: the version stays.
-- @tparam string key
-- @tparam number ms 0: for ever
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, `notfound`
-- @usage memory.expire("session:7", 60000)
function keys.expire(key, ms, callback)
  check.key("expire", key)
  ms = check.milliseconds("expire", "the time", ms)
  check.type("expire", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("expire") end
  return request.complete(callback, native.expire(key, ms))
end

--- Takes an entry's ttl away. (w) The version stays.
-- @tparam string key
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, `notfound`
-- @usage memory.persist("session:7")
function keys.persist(key, callback)
  check.key("persist", key)
  check.type("persist", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("persist") end
  return request.complete(callback, native.expire(key, 0))
end

local function list(prefix, cursor, limit)
  local names
  while true do
    local more, message, code = native.keys(prefix, cursor, limit - (names and #names or 0))
    if not more then return nil, message, code end
    names = names and table.move(more, 1, #more, #names + 1, names) or more
    cursor = message
    if cursor == 0 then return names end
    if #names >= limit then return names, cursor end
    scheduler.rest()
  end
end

--- Lists keys, in no order. (w) An entry that is there all the time is listed exactly once, whatever else changes.
-- @tparam[opt=""] string prefix of the keys
-- @tparam[opt] table options `limit` (1000): about how many, a few more may come; `cursor`: where the last list ended
-- @tparam[opt] function callback
-- @treturn {string,...} keys
-- @treturn ?integer the cursor for the next list; nil: that was all
-- @raise on an unknown option
-- @usage local names, cursor = memory.keys("session:", { limit = 100 })
function keys.keys(prefix, options, callback)
  if type(prefix) == "function" then prefix, options = nil, prefix end
  options, callback = check.trailing("keys", options, callback)
  prefix = check.prefix("keys", prefix)
  check.options("keys", options, { "limit", "cursor" })
  local limit, cursor = DEFAULT_LIMIT, 0
  if options then
    if options.limit ~= nil then limit = check.integer("keys", "limit", options.limit, 1) end
    if options.cursor ~= nil then cursor = check.integer("keys", "cursor", options.cursor, math.mininteger) end
  end
  return scheduler.perform("keys", callback, list, prefix, cursor, math.min(limit, LARGEST_LIMIT))
end

-- Sums over a walk in slices. What a slice has left to do is `finish`'s, which gives how many more that makes.
local function sum(slice, prefix, mark, finish)
  local total, cursor = 0, 0
  while true do
    local count, next, last = slice(prefix, cursor, mark)
    if not count then return nil, next, last end
    total, cursor = total + count, next
    if finish and last[1] then total = total + finish(last) end
    if cursor == 0 then return total end
    scheduler.rest()
  end
end

-- Has the master remove keys that somebody listens for; those that somebody else removes meanwhile count too. All are
-- issued before any is waited for: so what this process sets meanwhile comes behind them.
local function removeWatched(names)
  local task, left, waits = scheduler.current(), #names, false
  local function done()
    left = left - 1
    if left == 0 and waits then scheduler.wake(task) end
  end
  for _, name in ipairs(names) do
    local id = native.remove(name, CLEARED)
    -- Where it is true, nobody listens any more, and it has been removed here.
    request.onReply(done, id ~= true and id)
    native.throttle()
  end
  if left > 0 then
    waits = true
    scheduler.wait()
  end
  return #names
end

local ending = { __close = native.endClear }

local function clear(prefix)
  -- What this process writes from here on stays.
  local mark = native.beginClear()
  local _ <close> = setmetatable({}, ending)
  -- What it has written before applies first: the master answers in order, so nothing of it is left behind this.
  local ok, message, code = request.complete(nil, native.setMany({}))
  local total
  if ok then total, message, code = sum(native.clear, prefix, mark, removeWatched) end
  if total then return total end
  return nil, message, code
end

--- Counts entries. (w)
-- @tparam[opt=""] string prefix of their keys
-- @tparam[opt] function callback
-- @treturn integer
-- @usage local sessions = memory.count("session:")
function keys.count(prefix, callback)
  prefix, callback = check.trailing("count", prefix, callback)
  prefix = check.prefix("count", prefix)
  return scheduler.perform("count", callback, sum, native.count, prefix)
end

--- Removes the entries that are there when it is called. (w) What this process sets meanwhile stays; what another one
-- does may go too. Of more than a thousand keys, who listens for all of them may be told gaps, as of any changes that
-- come fast.
-- @tparam[opt=""] string prefix of their keys
-- @tparam[opt] function callback
-- @treturn integer how many there were
-- @usage memory.clear("session:")
function keys.clear(prefix, callback)
  prefix, callback = check.trailing("clear", prefix, callback)
  prefix = check.prefix("clear", prefix)
  return scheduler.perform("clear", callback, clear, prefix)
end

--- What the memory holds.
-- @function stats
-- @treturn table `entries`, and in bytes `used` and `free`
-- @usage print(memory.stats().used)
keys.stats = native.stats

return keys
