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

-- What may wait for a callback before further changes become gaps: so many of them, and the bytes of their keys and
-- values.
local MOST_WAITING, MOST_BYTES = 1024, 1 << 20
-- And before gaps of single keys become one of all: of these, and of the bytes with their keys.
local MOST_GAPS, MOST_GAP_BYTES = 16384, 2 << 20
-- Versions that a listener has read itself, until it has the master tell where they are in the stream of changes.
local MOST_KNOWN = 1024
-- Of a walk over the present entries.
local SLICE = 1000

local Listener = {}
Listener.__index = Listener
Listener.__name = "listener"

-- What this process listens for, by prefix (true, false) and name: the listeners, and who waits until the first of
-- them is registered. Finalizers may listen and unlisten in the midst of whatever allocates, so what is walked over
-- here is either replaced as a whole or only appended to.
local names = { [true] = {}, [false] = {} }
-- The lengths of the prefixes, and how many there are of each.
local lengths, counts = {}, {}
-- All listeners. An end moves the last one to the place that is free: walked over from the last to the first, each is
-- met.
local everyone = {}

local function countPrefix(prefix, by)
  local len = #prefix
  local count = (counts[len] or 0) + by
  counts[len] = count > 0 and count or nil
  if count > 1 or by < 0 and count > 0 then return end
  local now = {}
  for each in pairs(counts) do now[#now + 1] = each end
  lengths = now
end

-- Makes a name known, or forgets it.
local function put(key, prefix, name)
  if prefix and not name ~= not names[prefix][key] then countPrefix(key, name and 1 or -1) end
  names[prefix][key] = name
end

-- The next change to be told, or nil.
local function take(listener)
  local item = listener.queue[listener.first]
  if not item then return nil end
  listener.queue[listener.first] = nil
  listener.first = listener.first + 1
  if listener.first > listener.last then listener.first, listener.last = 1, 0 end
  listener.bytes = listener.bytes - #item.key - (item.bytes and #item.bytes or 0)
  if listener.latest[item.key] == item then listener.latest[item.key] = nil end
  if item.all then listener.all = false end
  return item
end

local function append(listener, item)
  listener.last = listener.last + 1
  listener.queue[listener.last] = item
  listener.bytes = listener.bytes + #item.key + (item.bytes and #item.bytes or 0)
end

local function makeGap(listener, item)
  listener.bytes = listener.bytes - (item.bytes and #item.bytes or 0)
  item.cause, item.bytes = "gap", nil
end

-- Anything may have changed: it says so for all that would come behind it, until it is told.
local function appendAll(listener)
  if listener.all then return end
  listener.all = true
  append(listener, { key = listener.name, cause = "gap", all = true })
end

-- The versions that the listener knows are needed only for what was on its way when it read them. All of that has come
-- before an answer of the master's, so they are forgotten behind one.
local function forgetLater(listener)
  if listener.count < MOST_KNOWN or listener.older or listener.present then return end
  listener.older, listener.known, listener.count = listener.known, {}, 0
  request.onReply(function(ok)
    if not ok then return end -- they stay
    append(listener, { key = "", forget = true })
    listener.pump()
  end, native.listen(listener.name, listener.prefix))
end

-- Notes that what is on its way still, and no newer than this, is not to be told any more.
local function note(listener, key, version)
  if not listener.known[key] then listener.count = listener.count + 1 end
  listener.known[key] = version
  forgetLater(listener)
end

-- Of the keys that were there at the beginning, one after the other; nil at the end.
local function nextPresent(listener)
  local present = listener.present
  if not present then return nil end
  local key = present[#present]
  present[#present] = nil
  if key then return { key = key, present = true } end
  listener.present = nil
  forgetLater(listener)
  return nil
end

local function isKnown(listener, key, version)
  local older = listener.older
  return version <= (listener.known[key] or 0) or older ~= nil and version <= (older[key] or 0)
end

-- The value, its version and the cause that the callback gets; no cause: nothing is to be told.
local function read(listener, item)
  local key = item.key
  if item.forget then
    listener.older = nil
    return nil
  end
  if item.cause ~= "gap" and not item.present then
    if isKnown(listener, key, item.version) then return nil end
    if not listener.prefix then note(listener, key, item.version) end
    return item.bytes and native.decode(item.bytes), item.version, item.cause
  end
  if item.all and listener.prefix then return nil, 0, "gap" end
  local value, version, code = native.getVersioned(key)
  if code then error(version, 0) end
  -- Another version than at the beginning comes as a change.
  if item.present then return value, version, version ~= 0 and version == listener.known[key] and "set" or nil end
  if version == 0 then return nil, 0, "gap" end
  if isKnown(listener, key, version) then return nil end
  note(listener, key, version)
  return value, version, "gap"
end

-- Tells the next change that is to be told, if there is one.
local function tell(listener)
  while not listener.gone do
    local item = nextPresent(listener) or take(listener)
    if not item then return end
    local value, version, cause = read(listener, item)
    if cause then
      -- Nobody else knows the item any more.
      item.version, item.cause, item.bytes, item.present, item.all = version, cause, nil, nil, nil
      return listener.fn(value, item)
    end
  end
end

-- Has the next change told, if none is being told.
local function pump(listener)
  if listener.busy or listener.gone or not listener.present and listener.first > listener.last then return end
  listener.busy = true
  scheduler.beginSoon(listener)
end

-- What a listener begins. It goes on also where not even the error can be described, for want of memory.
local function run(listener)
  local ok, raised = xpcall(tell, scheduler.failure, listener)
  listener.busy = false
  pump(listener)
  if not ok then scheduler.uncaught(scheduler.failure(raised)) end
end

local function push(listener, item)
  if listener.all then return end
  local waiting = listener.latest[item.key]
  local count = listener.last - listener.first + 1
  local full = count > 0 and (count >= MOST_WAITING or listener.bytes + (item.bytes and #item.bytes or 0) > MOST_BYTES)
  if full and waiting then
    makeGap(listener, waiting)
    return
  end
  if full then item.cause, item.bytes = "gap", nil end
  if full and (count >= MOST_GAPS or listener.bytes + #item.key > MOST_GAP_BYTES) then
    appendAll(listener)
  else
    append(listener, item)
    listener.latest[item.key] = item
  end
  pump(listener)
end

local function pushAll(name, key, version, cause, bytes)
  local list = name.listeners
  for i = 1, #list do push(list[i], { key = key, version = version, cause = cause, bytes = bytes }) end
end

--- A change has come; the loop calls it.
-- @tparam string key "" for a gap: anything may have changed
-- @tparam integer version
-- @tparam string cause
-- @tparam ?string bytes the value, encoded
function listeners.changed(key, version, cause, bytes)
  if key == "" then
    for i = #everyone, 1, -1 do
      local listener = everyone[i]
      if listener then
        appendAll(listener)
        pump(listener)
      end
    end
    return
  end
  local exact = names[false][key]
  if exact then pushAll(exact, key, version, cause, bytes) end
  local present = lengths
  for i = 1, #present do
    local len = present[i]
    local name = len <= #key and names[true][key:sub(1, len)]
    if name then pushAll(name, key, version, cause, bytes) end
  end
end

-- Registers the name with the master, once for all who listen for it here. @return the name | nil, message, code
local function register(key, prefix)
  local name = names[prefix][key]
  if not name then
    name = { listeners = {}, ready = false }
    put(key, prefix, name)
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
  if not ok then put(key, prefix, nil) end
  for _, task in ipairs(name.waiting) do scheduler.wake(task, ok and true, message, code) end
  name.waiting = nil
  if not ok then return nil, message, code end
  return name
end

-- Notes which versions are there now: those are told first, what is changed meanwhile waits.
local function notePresent(listener)
  local present, known = {}, listener.known
  local cursor = 0
  repeat
    local keys, next, code = { listener.name }, 0, nil
    if listener.prefix then keys, next, code = native.keys(listener.name, cursor, SLICE) end
    if not keys then return nil, next, code end
    for _, key in ipairs(keys) do
      local version = native.version(key)
      if version ~= 0 then present[#present + 1], known[key] = key, version end
    end
    cursor = next
    if cursor ~= 0 then scheduler.rest() end
  until cursor == 0
  listener.present, listener.count = present, #present
  return true
end

local function listen(key, fn, prefix, initial)
  local listener = setmetatable({
    name = key, prefix = prefix, fn = fn, queue = {}, first = 1, last = 0, bytes = 0, latest = {}, all = false,
    known = {}, count = 0, busy = initial, gone = false, begins = run,
  }, Listener)
  listener.pump = function() pump(listener) end
  local name, message, code = register(key, prefix)
  if not name then return nil, message, code end
  -- Nothing is made between the two: a finalizer could end the name's other listeners, and with them the name.
  name.listeners[#name.listeners + 1] = listener
  everyone[#everyone + 1] = listener
  listener.place = #everyone
  scheduler.hold()
  if not initial then return listener end
  local ok
  ok, message, code = notePresent(listener)
  listener.busy = false
  if not ok then
    listeners.unlisten(listener)
    return nil, message, code
  end
  pump(listener)
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
-- - `initial`: true: first the present value is told, or each of those under the prefix, with the cause `"set"`; one
--   that is changed before that is told as changed
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
  handle.gone, handle.queue, handle.latest, handle.known, handle.older = true, {}, {}, {}, nil
  local last = everyone[#everyone]
  everyone[handle.place], last.place = last, handle.place
  everyone[#everyone] = nil
  local name = names[handle.prefix][handle.name]
  local left = {}
  for _, listener in ipairs(name.listeners) do
    if listener ~= handle then left[#left + 1] = listener end
  end
  name.listeners = left
  if #left == 0 then
    put(handle.name, handle.prefix, nil)
    native.unlisten(handle.name, handle.prefix)
  end
  scheduler.release()
  return true
end

return listeners
