--- Sockets to listen on, bound once by the master and shared by all processes; for clustermem.cluster and
-- clustermem.http.
-- @module clustermem.sockets

local native = require "clustermem.native"
local request = require "clustermem.request"
local await = require("clustermem.task").await

local sockets = {}

-- What the system has room for.
local MOST_PATH_BYTES = 107

-- The host's address in figures. @return nil, message, code
local function resolve(what, host)
  local uv = require "luv"
  local err, found = await(function(resume)
    local pending, message, code = uv.getaddrinfo(host, nil, { socktype = "stream" }, resume)
    if not pending then resume(code or message) end
  end)
  if err then
    return nil, ("%s: the host '%s' is not known: %s"):format(what, host, err), err:match("^[%u_]+$") or "EAI_NONAME"
  end
  return found[1].addr
end

-- The whole path: the master's working directory need not be this process's. @return nil, message, code
local function locate(what, path)
  local above, name = path:match("^(.*/)([^/]+)$")
  local folder, message, code = native.folder(above or ".")
  if not folder then return nil, ("%s: %s: %s"):format(what, path, message), code end
  local whole = folder .. "/" .. (name or path)
  if #whole <= MOST_PATH_BYTES then return whole end
  return nil, ("%s: %s: a socket's path has at most %d bytes"):format(what, whole, MOST_PATH_BYTES), "ENAMETOOLONG"
end

--- Gives a descriptor of the socket of this address, which is closed by `sockets.close`. (w), in a task
-- @tparam string what the public function's name, for messages
-- @tparam string host a name or an address; a path where there is no port
-- @tparam ?integer port 0 to 65535; 0: one that is free, the same for all who ask for 0
-- @treturn integer the descriptor
-- @treturn integer its number, for `sockets.close`
-- @return nil, message, code: an errno name (`EADDRINUSE`, `EACCES`), or `EAI_NONAME` for a host that is not known
function sockets.bind(what, host, port)
  local address, message, code = (port and resolve or locate)(what, host)
  if not address then return nil, message, code end
  local fd, id, reason = request.complete(nil, native.bind(address, port))
  if fd then return fd, id end
  return nil, ("%s: %s: %s"):format(what, port and host .. ":" .. port or host, id), reason
end

--- Closes the descriptor, if it is given, and says that this process does not need the socket any more. Never waits.
function sockets.close(id, fd)
  if fd then native.closeDescriptor(fd) end
  native.unbind(id)
end

-- luv's handles that have such a socket: what to do when one is closed.
local onClose = setmetatable({}, { __mode = "k" })

local function watching(close)
  return function(handle, ...)
    close(handle, ...)
    local fn = onClose[handle]
    onClose[handle] = nil
    if fn then fn() end
  end
end

local watched = {}

-- Puts a function that sees the call in the place of the table's `close`, once.
local function watch(functions)
  if watched[functions] then return end
  watched[functions] = true
  functions.close = watching(functions.close)
end

--- Has `fn` called when luv's handle is closed.
function sockets.onClose(handle, fn)
  watch(require "luv")
  watch(getmetatable(handle).__index)
  onClose[handle] = fn
end

return sockets
