--- Shared values under keys.
--
-- All functions here wait (w): call them in a task, or with a callback as the last argument, which then gets the
-- results later in the loop, in a task of its own. Every process may call them.
-- @module clustermem.keys

local native = require "clustermem.native"
local check = require "clustermem.check"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"

local keys = {}

--- Stores a copy of a value, in place of what was there. (w)
-- @tparam string key 1 to 65,535 bytes
-- @param value anything that is data: boolean, number, string, a table of such to depth 128, cjson.null
-- @tparam[opt] table options none yet
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @treturn integer the entry's new version; a key's versions grow for ever
-- @return nil, message, code: `toolarge` (over --max-value), `nomemory` (over --memory; the old value stays)
-- @raise on a bad key, an unknown option, or a value that is not data, naming where it sits: `cannot share
-- value.handlers[2]: function`
-- @usage memory.set("greeting", { text = "hello", from = cluster.worker.id })
function keys.set(key, value, options, callback)
  options, callback = check.trailing("set", options, callback)
  check.key("set", key)
  check.options("set", options, {})
  if value == nil then error("set: the value must not be nil, which is absence: remove(key) makes it", 2) end
  if not callback then scheduler.mayWait("set") end
  return request.complete(callback, native.set(key, value))
end

--- Gives the caller a copy of its own of the value under the key. (w)
-- @tparam string key
-- @tparam[opt] function callback
-- @return the value, or nil when there is none
-- @return nil, message, `nomemory`: no memory for the copy
-- @raise on a bad key
-- @usage local greeting = memory.get("greeting")
function keys.get(key, callback)
  check.key("get", key)
  local _, fn = check.trailing("get", nil, callback)
  if not fn then scheduler.mayWait("get") end
  return request.complete(fn, native.get(key))
end

--- Removes what is under the key. (w)
-- @tparam string key
-- @tparam[opt] table options none yet
-- @tparam[opt] function callback
-- @treturn string "OK", also when there was nothing
-- @raise on a bad key or an unknown option
-- @usage memory.remove("greeting")
function keys.remove(key, options, callback)
  options, callback = check.trailing("remove", options, callback)
  check.key("remove", key)
  check.options("remove", options, {})
  if not callback then scheduler.mayWait("remove") end
  return request.complete(callback, native.remove(key))
end

return keys
