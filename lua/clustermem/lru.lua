--- A cache that all processes share: the least recently used entries make room for new ones.
--
-- The order is exact across all processes: what anybody has got or set last goes last. Its entries are a name space of
-- their own, under the same memory: `get` does not see what `setLRU` has put in, `keys`, `count` and `clear` do not
-- meet it, `stats` counts its bytes and not its entries. When the memory is full the cache gives up its oldest
-- entries before a `set` fails.
--
-- What reads never waits and works anywhere. What is marked (w) may wait: call it in a task, or with a callback as the
-- last argument, which then gets the results later in the loop, in a task of its own. It acts here and now; it waits
-- for the master only as `set` does. Every process may call all of it, but `setLRUOptions`. Durations are milliseconds.
-- @module clustermem.lru

local native = require "clustermem.native"
local check = require "clustermem.check"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"
local locks = require "clustermem.locks"

local lru = {}

local DEFAULT_MAX, DEFAULT_MAX_AGE = 10000, 300000
-- The age has 32 bits in an entry.
local LARGEST_AGE = (1 << 32) - 1

local function checkAge(what, value)
  local age = check.milliseconds(what, "maxAge", value)
  if age > LARGEST_AGE then
    native.refuse(("%s: maxAge must be at most %d milliseconds (seven weeks), or 0 for ever, not %s"):format(what,
      LARGEST_AGE, value))
  end
  return age
end

--- Puts a copy of a value into the cache, in place of what was under the key, as the entry used last. (w)
-- @tparam string key
-- @param value anything that is data, as for `set`
-- @tparam[opt] table options `maxAge`: milliseconds after which the entry is gone, at most seven weeks; 0: never; by
-- default the cache's own
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, code: `toolarge` (over --max-value, or over maxBytes by itself), `nomemory`. What was there
-- stays.
-- @raise on an unknown option, or a value that is not data
-- @usage memory.setLRU("page:/", "<html>", { maxAge = 5000 })
-- @function setLRU
lru.setLRU = native.short(native.shortSetLRU, function(key, value, options, callback)
  options, callback = check.trailing("setLRU", options, callback)
  check.key("setLRU", key)
  if value == nil then
    native.refuse("setLRU: the value must not be nil, which is absence: removeLRU(key) makes it")
  end
  check.options("setLRU", options, { "maxAge" })
  local age = options and options.maxAge
  if age ~= nil then age = checkAge("setLRU", age) end
  if not callback then scheduler.mayWait("setLRU") end
  return request.complete(callback, native.setLRU(key, value, age))
end, scheduler.rest)

--- Gives the caller a copy of its own of a cached value, and makes its entry the one used last.
-- @function getLRU
-- @tparam string key
-- @return the value, or nil: it never was there, has expired, or has given way
-- @return nil, message, `nomemory`: no memory for the copy
-- @usage local page = memory.getLRU("page:/")
lru.getLRU = native.getLRU

-- The lock of those who miss a key. A name that would be too long is cut: who misses such a key waits for those of the
-- others that begin alike, too.
local function nameOf(key)
  return ("clustermem.fetchLRU:" .. key):sub(1, check.KEY_MAX_BYTES)
end

-- Gives what fn gave, once it is cached; what cannot be, the caller gets all the same.
local function keep(key, options, value, ...)
  if value ~= nil then lru.setLRU(key, value, options) end
  return value, ...
end

local function fetch(key, fn, options)
  local value, message, code = native.getLRU(key)
  if value ~= nil or code then return value, message, code end
  return locks.mutex(nameOf(key), function()
    -- Whoever had the lock before has put it there.
    value, message, code = native.getLRU(key)
    if value ~= nil or code then return value, message, code end
    return keep(key, options, fn())
  end)
end

--- Gives a cached value, or makes it. (w) Of all who miss it at the same time, in whatever process, one runs the
-- function and the others wait for its result. If that one raises or dies, the next of them runs it.
-- @tparam string key
-- @tparam function fn `fn() -> value`; it may wait. A value that is nil is not cached, nor one that the cache refuses
-- (setLRU): the caller gets it, and the next one runs the function again.
-- @tparam[opt] table options `maxAge`, as of setLRU
-- @tparam[opt] function callback
-- @return the value; if fn was run, what it returned, as it was
-- @return nil, message, code: what fn returned; `deadlock`: fn waits for its own result
-- @raise what fn raises, to the caller whose function it is; on an unknown option
-- @usage local user = memory.fetchLRU("user:7", function() return load(7) end, { maxAge = 60000 })
function lru.fetchLRU(key, fn, options, callback)
  options, callback = check.trailing("fetchLRU", options, callback)
  check.key("fetchLRU", key)
  check.type("fetchLRU", "its second argument", fn, "function")
  check.options("fetchLRU", options, { "maxAge" })
  if options and options.maxAge ~= nil then options = { maxAge = checkAge("fetchLRU", options.maxAge) } end
  return scheduler.perform("fetchLRU", callback, fetch, key, fn, options)
end

--- Removes an entry from the cache. (w)
-- @tparam string key
-- @tparam[opt] function callback
-- @treturn string "OK", also when there was none
-- @usage memory.removeLRU("page:/")
-- @function removeLRU
lru.removeLRU = native.short(native.shortRemoveLRU, function(key, callback)
  check.key("removeLRU", key)
  check.type("removeLRU", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("removeLRU") end
  return request.complete(callback, native.removeLRU(key))
end, scheduler.rest)

--- Removes all entries from the cache. (w) Its options and counts stay.
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @usage memory.clearLRU()
function lru.clearLRU(callback)
  check.type("clearLRU", "the callback", callback, "function", true)
  if not callback then scheduler.mayWait("clearLRU") end
  return request.complete(callback, native.clearLRU())
end

-- A whole number from 0 on.
local function bound(options, name, default)
  local value = options[name]
  if value == nil then return default end
  return check.integer("setLRUOptions", name, value, 0)
end

--- Starts a new, empty cache, for all processes. (w) In the master script only.
-- @tparam table options each has its default again where it is not given
--
-- - `max` (10,000): entries at the most; 0: as many as the memory has room for
-- - `maxAge` (300,000): milliseconds from `setLRU` after which an entry is gone, at most seven weeks; 0: never
-- - `maxBytes` (0): of all entries, as `getLRUStats` counts them; 0: no bound
-- - `updateAgeOnGet` (false): `getLRU` begins an entry's age anew
-- - `stale` (false): `getLRU` gives an expired entry once, to one caller; then it is gone
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @raise in a worker; on an unknown option; on more entries than this memory (--memory) has slots for, a 170th of it
-- at 48 bytes each
-- @usage memory.setLRUOptions { max = 500, maxAge = 60000 }
function lru.setLRUOptions(options, callback)
  if native.info.id ~= 0 then native.refuse("setLRUOptions: only the master script may set the options") end
  check.type("setLRUOptions", "its first argument", options, "table")
  check.options("setLRUOptions", options, { "max", "maxAge", "maxBytes", "updateAgeOnGet", "stale" })
  check.type("setLRUOptions", "updateAgeOnGet", options.updateAgeOnGet, "boolean", true)
  check.type("setLRUOptions", "stale", options.stale, "boolean", true)
  check.type("setLRUOptions", "the callback", callback, "function", true)
  local capacity = native.capacityLRU()
  local max = bound(options, "max", math.min(DEFAULT_MAX, capacity))
  if max > capacity then
    native.refuse(("setLRUOptions: max must be at most %d with this --memory, not %d"):format(capacity, max))
  end
  local age = options.maxAge == nil and DEFAULT_MAX_AGE or checkAge("setLRUOptions", options.maxAge)
  local bytes = bound(options, "maxBytes", 0)
  if not callback then scheduler.mayWait("setLRUOptions") end
  return request.complete(callback,
    native.setLRUOptions(max, age, bytes, options.updateAgeOnGet, options.stale))
end

--- What the cache holds, and what it has done since it was started.
-- @function getLRUStats
-- @treturn table `entries` and their `bytes` (of keys and values, in whole words, and 40 for each entry), expired ones
-- included until they have been removed, within a second; `hits` and `misses` of getLRU; `evictions`, to make room;
-- `expirations`, of entries removed for their age
-- @usage local stats = memory.getLRUStats() print(stats.hits / (stats.hits + stats.misses))
lru.getLRUStats = native.getLRUStats

return lru
