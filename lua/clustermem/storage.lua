--- Storages: documents addressed by path, shared by all processes, that survive restarts and crashes.
--
-- A storage is a set of documents, each a name and a value, in a file of its own. A path leads to a document, or into
-- one: `user`, `user.tags[1]`, `a["x.y"].b`, or as an array of steps, `{ "user", "tags", 1 }`. A name after a dot is a
-- string, also when it has digits only; `[n]` is an integer, counted from 1 as in Lua.
--
-- The documents are in the shared memory, under the cluster's cap: to read one costs what `memory.get` costs, and to
-- read a part of it what the part costs, and a step for each value that comes before it in the tables on its way, with
-- all that is in that; how long a string is that is passed over does not count. A write goes to the master; when it
-- returns, it has been applied and everybody sees it. It reaches the disk a moment later, together with others; `sync`
-- waits for that. After a crash the file has everything that a `sync` has covered, and each document is whole.
--
-- A ttl belongs to the path that it was set on and governs everything under it.
--
-- What reads never waits and works anywhere. What is marked (w) may wait: call it in a task, or with a callback as the
-- last argument, which then gets the results later in the loop, in a task of its own. Every process may call all of it.
-- Durations are milliseconds.
-- @module clustermem.storage
-- @usage local Storage = require "clustermem.storage"

local native = require "clustermem.native"
local check = require "clustermem.check"
local request = require "clustermem.request"
local retries = require "clustermem.retries"
local scheduler = require "clustermem.scheduler"

local DEFAULT_GC_INTERVAL = 120000
local MOST_TRIES = 1000
-- As in core/wire/ops.h.
local IF_VERSION, KEEP_TTL = 4, 8

local Storage = {}

local methods = {}
-- Where a handle has its number, and whether it has been closed itself.
local ID, CLOSED = {}, {}

local function isClosed(store)
  return rawget(store, CLOSED) or not native.storageIsOpen(rawget(store, ID))
end

local Store = { __name = "storage" }

function Store.__index(store, name)
  local method = methods[name]
  if method then return method end
  if name == "closed" then return isClosed(store) end
  if name == "connected" then return not isClosed(store) end
  return nil
end

function Store.__tostring(store)
  return ("storage '%s' (%s)"):format(store.name, isClosed(store) and "closed" or store.filename)
end

-- The number of the handle's storage.
local function idOf(what, store)
  local id = type(store) == "table" and rawget(store, ID)
  if not id then native.refuse(("%s: call it as a method of a storage, with a colon"):format(what)) end
  if rawget(store, CLOSED) then native.refuse(("%s: the storage is closed"):format(what)) end
  return id
end

local function open(name, path, gcInterval)
  local folder = ""
  if path then
    local message, code
    folder, message, code = native.folder(path)
    if not folder then return nil, ("Storage.new: %s: %s"):format(path, message), code end
  end
  local id, filename, where, gc = request.complete(nil, native.storageOpen(name, folder, gcInterval))
  if not id then return nil, filename, where end
  return setmetatable({ [ID] = id, name = name, path = where, filename = filename, gcInterval = gc }, Store)
end

--- Opens a storage, or joins those who have it open. (w)
-- @tparam string name of 1 to 128 letters, digits, `.`, `_`, `-`; it does not begin with a dot
-- @tparam[opt] table options
--
-- - `path`: the folder with its file, `<name>.db`, which is made where there is none; by default `--storage-dir`, or
--   else the working directory. Whoever opens a storage that is open must name the same one.
-- - `gcInterval` (120000): milliseconds between two looks for what has expired, to give its memory back; 0: never. Who
--   opens it first decides.
-- @tparam[opt] function callback
-- @treturn table the storage: `name`, `path`, `filename`, `gcInterval`; `connected` and `closed` tell whether it can be
-- used
-- @return nil, message, code: an errno name (`ENOENT`: no such folder; `EACCES`; `EMFILE`: as many storages are open as
-- the cluster's limit of open files allows, or 1,024), `busy` (another cluster has the file open), `exists` (it is open
-- with another path), `badvalue` (the file is damaged, or not a storage's), `nomemory` (its documents do not fit into
-- --memory)
-- @raise on a bad name, an unknown option or one of the wrong type
-- @usage local store = Storage.new("sessions", { path = "/var/lib/app" })
function Storage.new(name, options, callback)
  options, callback = check.trailing("Storage.new", options, callback)
  check.type("Storage.new", "the name", name, "string")
  if #name > 128 or not name:find("^[%w_-][%w._-]*$") then
    native.refuse(("Storage.new: the name must be 1 to 128 letters, digits, '.', '_' or '-', the first one no dot, "
      .. "not '%s'"):format(name))
  end
  check.options("Storage.new", options, { "path", "gcInterval" })
  options = options or {}
  local path = check.type("Storage.new", "path", options.path, "string", true)
  if path and (path == "" or path:find("\0", 1, true)) then
    native.refuse("Storage.new: path must be the name of a folder")
  end
  local gcInterval = DEFAULT_GC_INTERVAL
  if options.gcInterval ~= nil then
    gcInterval = check.milliseconds("Storage.new", "gcInterval", options.gcInterval)
  end
  return scheduler.perform("Storage.new", callback, open, name, path, gcInterval)
end

-- What the reply to a set means: the value, as it was given.
local function stored(value, ok, ...)
  if ok then return value end
  return nil, ...
end

--- Puts a copy of a value under a path. (w) Tables that are missing on the way are made; a value on the way that is no
-- table gives place to one.
-- @function store:set
-- @param path
-- @param value anything that is data, but nil
-- @tparam[opt=0] number ttl milliseconds after which it, and all that is in it by then, is gone; 0: never
-- @tparam[opt] function callback
-- @return the value
-- @return nil, message, code: `toolarge` (the document would be larger than --max-value, or have more than 128 tables
-- inside tables), `nomemory`. Nothing has changed then.
-- @raise on a bad path, a value that is not data, a closed storage
-- @usage store:set("user.ada", { visits = 1 }, 60000)
function methods.set(store, path, value, ttl, callback)
  ttl, callback = check.trailing("store:set", ttl, callback)
  local id = idOf("store:set", store)
  if value == nil then
    native.refuse("store:set: the value must not be nil, which is absence: delete(path) makes it")
  end
  ttl = ttl == nil and 0 or check.milliseconds("store:set", "the ttl", ttl)
  if callback then
    return request.complete(function(...) return callback(stored(value, ...)) end,
      native.storageSet(id, path, value, ttl))
  end
  scheduler.mayWait("store:set")
  return stored(value, request.complete(nil, native.storageSet(id, path, value, ttl)))
end

--- Gives the caller a copy of its own of what is under a path.
-- @function store:get
-- @param path
-- @return the value, or nil when there is none
-- @return nil, message, `nomemory`: no memory for the copy
-- @raise on a bad path, a closed storage
-- @usage local visits = store:get("user.ada.visits")
function methods.get(store, path)
  return native.storageGet(idOf("store:get", store), path)
end

--- Whether there is something under a path.
-- @function store:has
-- @param path
-- @treturn boolean
-- @raise on a bad path, a closed storage
-- @usage if store:has("user.ada") then print("known") end
function methods.has(store, path)
  return native.storageHas(idOf("store:has", store), path)
end

--- Removes what is under a path. (w) The last element of an array leaves a shorter one; another one leaves a hole, as
-- in Lua.
-- @function store:delete
-- @param path
-- @tparam[opt] function callback
-- @treturn string "OK", also when there was nothing
-- @return nil, message, `nomemory`: even what is smaller has to be written anew
-- @raise on a bad path, a closed storage
-- @usage store:delete("user.ada")
function methods.delete(store, path, callback)
  check.type("store:delete", "the callback", callback, "function", true)
  local id = idOf("store:delete", store)
  if not callback then scheduler.mayWait("store:delete") end
  return request.complete(callback, native.storageDelete(id, path, 0, 0))
end

local function issue(id, path, new, version)
  if new == nil then return native.storageDelete(id, path, IF_VERSION, version) end
  return native.storageSet(id, path, new, 0, IF_VERSION | KEEP_TTL, version)
end

local function update(store, path, fn)
  local document = ("storage %d %s"):format(idOf("store:update", store), native.storageDocument(path))
  retries.letPass(document)
  for try = 1, MOST_TRIES do
    local id = idOf("store:update", store)
    local old, version, code = native.storageRead(id, path)
    if code then return nil, version, code end
    local new = fn(old)
    local ok, message
    if try == 1 then
      ok, message, code = request.complete(nil, issue(id, path, new, version))
    else
      ok, message, code = retries.complete(document, issue(id, path, new, version))
    end
    if ok then return new end
    if code ~= "conflict" then return nil, message, code end
  end
  return nil, ("store:update: others changed the document in each of %d tries"):format(MOST_TRIES), "conflict"
end

--- Changes what is under a path by a function, again and again until nobody has changed the document meanwhile. (w)
-- @function store:update
-- @param path
-- @tparam function fn `fn(old) -> new`; old is nil where there is nothing, new nil deletes. It may run several times,
-- so it should do nothing else. The path keeps its ttl.
-- @tparam[opt] function callback
-- @return the new value
-- @return nil, message, code: `conflict` after 1,000 tries; `toolarge`, `nomemory`
-- @raise what fn raises; on a bad path, a value that is not data, a closed storage
-- @usage store:update("user.ada.visits", function(visits) return (visits or 0) + 1 end)
function methods.update(store, path, fn, callback)
  check.type("store:update", "its second argument", fn, "function")
  check.type("store:update", "the callback", callback, "function", true)
  idOf("store:update", store)
  return scheduler.perform("store:update", callback, update, store, path, fn)
end

--- Waits until everything that was acknowledged before, to any process, is on the disk. (w)
-- @function store:sync
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, code: an errno name (`ENOSPC`: the disk is full). What could not be written stays in the memory
-- and is tried again every second.
-- @raise on a closed storage
-- @usage store:sync()
function methods.sync(store, callback)
  check.type("store:sync", "the callback", callback, "function", true)
  local id = idOf("store:sync", store)
  if not callback then scheduler.mayWait("store:sync") end
  return request.complete(callback, native.storageSync(id))
end

local function close(store, id)
  store[CLOSED] = true
  local ok, message, code = request.complete(nil, native.storageClose(id))
  if ok then return ok end
  if code ~= "closed" then store[CLOSED] = nil end -- it is to be tried again
  return nil, message, code
end

--- Syncs, and gives this handle up; every later use of it raises. (w) When nobody has the storage open any more, its
-- memory is given back and the file is free.
-- @function store:close
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @return nil, message, code: as of `sync`; it stays open then
-- @raise on a closed storage
-- @usage store:close()
function methods.close(store, callback)
  check.type("store:close", "the callback", callback, "function", true)
  local id = idOf("store:close", store)
  return scheduler.perform("store:close", callback, close, store, id)
end

--- Removes all documents and the file, and closes every handle of the storage in every process. (w) What waits for it
-- elsewhere gets `nil, message, "closed"`.
-- @function store:destroy
-- @tparam[opt] function callback
-- @treturn string "OK"
-- @raise on a closed storage
-- @usage store:destroy()
function methods.destroy(store, callback)
  check.type("store:destroy", "the callback", callback, "function", true)
  local id = idOf("store:destroy", store)
  if not callback then scheduler.mayWait("store:destroy") end
  return request.complete(callback, native.storageDestroy(id))
end

local function export(store)
  local names, cursor = {}, 0
  repeat
    local more, next, code = native.documents(idOf("store:export", store), cursor)
    if not more then return nil, next, code end
    table.move(more, 1, #more, #names + 1, names)
    cursor = next
    if cursor ~= 0 then scheduler.rest() end
  until cursor == 0
  table.sort(names)
  local lines = {}
  for i, name in ipairs(names) do
    local line, message, code = native.storageJson(idOf("store:export", store), name)
    if message then return nil, message, code end
    lines[#lines + 1] = line
    if i % 1000 == 0 then scheduler.rest() end
  end
  return #lines == 0 and "{}\n" or "{\n" .. table.concat(lines, ",\n") .. "\n}\n"
end

--- Gives all documents as JSON text. (w) Each is whole; what is changed meanwhile may be there or not.
-- @function store:export
-- @tparam[opt] function callback
-- @treturn string an object, a document a line, in the order of their names. Integers are whole; NaN and the infinities
-- are null; bytes that are not UTF-8 become U+FFFD.
-- @return nil, message, `nomemory`
-- @raise on a closed storage
-- @usage print(store:export())
function methods.export(store, callback)
  check.type("store:export", "the callback", callback, "function", true)
  idOf("store:export", store)
  return scheduler.perform("store:export", callback, export, store)
end

return Storage
