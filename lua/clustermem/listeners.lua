--- Being told of changes.
--
-- Somebody listens for a key, or for all keys that begin with a prefix, in any process; the callback gets each change
-- that any process makes after `listen` has returned, this one's own included: the changes of a key in the order of
-- its versions, one callback of a listener at a time, each in a task of its own, so it may wait. `set`, `remove`,
-- expiry and `clear` are changes; `expire` and `persist` are none.
--
-- Who falls behind is not told everything: where more is waiting than the master keeps for a process that does not
-- read, or this process for a callback that is slow, the later changes of a key become one, which says `gap` and comes
-- with the value that is there by then.
-- @module clustermem.listeners

local native = require "clustermem.native"
local check = require "clustermem.check"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"

local listeners = {}

-- Changes that may wait for a callback before further ones of their keys become gaps.
local MOST_WAITING = 1024
-- Of a walk over the present entries.
local SLICE = 1000

local Listener = {}
Listener.__index = Listener
Listener.__name = "listener"

-- What this process listens for, by prefix (true, false) and name: the listeners, and who waits until the first of
-- them is registered.
local names = { [true] = {}, [false] = {} }

-- The next change to be told, or nil.
local function take(listener)
  local queue = listener.queue
  local item = queue[listener.first]
  if not item then
    listener.first, listener.last = 1, 0
    return nil
  end
  queue[listener.first] = nil
  listener.first = listener.first + 1
  if listener.latest[item.key] == item then listener.latest[item.key] = nil end
  return item
end

-- The value, its version and the cause that the callback gets; no cause: nothing is to be told.
local function read(listener, item)
  local known = listener.known[item.key] or 0
  if item.cause ~= "gap" and not item.present then
    if item.version <= known then return nil end
    return item.bytes and native.decode(item.bytes), item.version, item.cause
  end
  if listener.prefix and item.key == listener.name and item.all then return nil, 0, "gap" end
  local value, version = native.getVersioned(item.key)
  if item.present and version == 0 or version ~= 0 and version <= known then return nil end
  -- What is on its way still, and older than this, is not told any more.
  if version ~= 0 then listener.known[item.key] = version end
  return value, version, item.present and "set" or "gap"
end

local pump

local function tell(listener, item)
  if listener.gone then return end
  local value, version, cause = read(listener, item)
  if cause then listener.fn(value, { key = item.key, version = version, cause = cause }) end
end

-- Has the next change told, if none is being told.
function pump(listener)
  if listener.busy or listener.gone then return end
  local item = take(listener)
  if not item then return end
  listener.busy = true
  local task = scheduler.spawn(tell, listener, item)
  table.insert(task.joiners, function()
    listener.busy = false
    pump(listener)
    return false -- an error is not this one's to take
  end)
end

local function push(listener, item)
  local waiting = listener.latest[item.key]
  if waiting and listener.last - listener.first + 1 >= MOST_WAITING then
    waiting.cause, waiting.bytes, waiting.present = "gap", nil, nil
    return
  end
  listener.last = listener.last + 1
  listener.queue[listener.last] = item
  listener.latest[item.key] = item
  pump(listener)
end

local function pushAll(name, item)
  for _, listener in ipairs(name.listeners) do
    push(listener, { key = item.key, version = item.version, cause = item.cause, bytes = item.bytes, all = item.all })
  end
end

--- A change has come; the loop calls it.
-- @tparam string key "" for a gap: anything may have changed
-- @tparam integer version
-- @tparam string cause
-- @tparam ?string bytes the value, encoded
function listeners.changed(key, version, cause, bytes)
  if key == "" then
    for _, byName in pairs(names) do
      for each, name in pairs(byName) do pushAll(name, { key = each, version = 0, cause = "gap", all = true }) end
    end
    return
  end
  local item = { key = key, version = version, cause = cause, bytes = bytes }
  local exact = names[false][key]
  if exact then pushAll(exact, item) end
  for prefix, name in pairs(names[true]) do
    if key:sub(1, #prefix) == prefix then pushAll(name, item) end
  end
end

-- Registers the name with the master, once for all who listen for it here. @return the name | nil, message, code
local function register(key, prefix)
  local name = names[prefix][key]
  if not name then
    name = { listeners = {}, ready = false }
    names[prefix][key] = name
  end
  if name.ready then return name end
  local current = scheduler.current()
  if name.waiting then
    table.insert(name.waiting, current)
    local ok, message, code = scheduler.wait()
    if not ok then return nil, message, code end
    return register(key, prefix) -- the others may have ended listening by now
  end
  name.waiting = {}
  local ok, message, code = request.complete(nil, native.listen(key, prefix))
  name.ready = ok ~= nil
  if not ok then names[prefix][key] = nil end
  for _, task in ipairs(name.waiting) do scheduler.wake(task, ok and true, message, code) end
  name.waiting = nil
  if not ok then return nil, message, code end
  return name
end

-- The keys that are there now come first; what is changed meanwhile waits.
local function pushPresent(listener)
  if not listener.prefix then
    push(listener, { key = listener.name, present = true })
    return true
  end
  local cursor = 0
  repeat
    local keys, next, code = native.keys(listener.name, cursor, SLICE)
    if not keys then return nil, next, code end
    for _, key in ipairs(keys) do push(listener, { key = key, present = true }) end
    cursor = next
    if cursor ~= 0 then scheduler.rest() end
  until cursor == 0
  return true
end

local function listen(key, fn, prefix, initial)
  local name, message, code = register(key, prefix)
  if not name then return nil, message, code end
  local listener = setmetatable({
    name = key, prefix = prefix, fn = fn, queue = {}, first = 1, last = 0, latest = {}, known = {},
    busy = false, gone = false,
  }, Listener)
  table.insert(name.listeners, listener)
  scheduler.hold()
  if initial then
    local ok
    ok, message, code = pushPresent(listener)
    if not ok then
      listeners.unlisten(listener)
      return nil, message, code
    end
  end
  return listener
end

--- Has a function called for each change of a key. (w) When it has returned, no later change is missed.
-- @tparam string key
-- @tparam function fn `fn(value, info)`: a copy of the new value, nil where there is none any more; info is `{ key,
-- version, cause }` with the cause `"set"`, `"remove"`, `"expire"`, `"clear"` or `"gap"`: after a gap the value and its
-- version are those of now, and version 0 is absence. It may wait. An error in it is uncaught.
-- @tparam[opt] table options
--
-- - `prefix`: true: listens for every key that begins with `key`, which may be empty then. A gap whose key is the
--   prefix itself says that any key that begins with it may have changed.
-- - `initial`: true: first the present value is told, or each of those under the prefix, with the cause `"set"`
-- @tparam[opt] function callback
-- @return the listener, for `unlisten`
-- @return nil, message, `nomemory`
-- @raise on an unknown option
-- @usage local handle = memory.listen("config", function(value, info) print(info.cause, value) end)
function listeners.listen(key, fn, options, callback)
  options, callback = check.trailing("listen", options, callback)
  check.options("listen", options, { "prefix", "initial" })
  local prefix, initial = false, false
  if options then
    prefix = check.type("listen", "prefix", options.prefix, "boolean", true) or false
    initial = check.type("listen", "initial", options.initial, "boolean", true) or false
  end
  if prefix then check.prefix("listen", key) else check.key("listen", key) end
  check.type("listen", "its second argument", fn, "function")
  return scheduler.perform("listen", callback, listen, key or "", fn, prefix, initial)
end

--- Ends it. Never waits. No callback begins after it has returned; one that runs goes on.
-- @param handle what `listen` gave
-- @treturn boolean true; false when it was ended before
-- @raise when the handle is none
-- @usage memory.unlisten(handle)
function listeners.unlisten(handle)
  if getmetatable(handle) ~= Listener then
    native.refuse(("unlisten: a handle from listen is needed, not a %s"):format(type(handle)))
  end
  if handle.gone then return false end
  handle.gone, handle.queue, handle.latest = true, {}, {}
  local name = names[handle.prefix][handle.name]
  for i, listener in ipairs(name.listeners) do
    if listener == handle then
      table.remove(name.listeners, i)
      break
    end
  end
  if #name.listeners == 0 then
    names[handle.prefix][handle.name] = nil
    native.unlisten(handle.name, handle.prefix)
  end
  scheduler.release()
  return true
end

return listeners
