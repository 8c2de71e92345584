--- The cluster: which process this is, which others there are, and their life.
-- @module clustermem.cluster

local native = require "clustermem.native"
local check = require "clustermem.check"
local errors = require "clustermem.errors"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"
local join = require("clustermem.task").join

local info = native.info

-- As in core/wire/control.h.
local MOST_ARGS, MOST_ENV = 65535, 1024

local cluster = {}

--- Whether this is process 0, which runs the `--master` script (or busted).
cluster.isMaster = info.id == 0
--- Whether this is a worker.
cluster.isWorker = info.id ~= 0
--- This process: `id` (counts up from 1, never used twice; 0 for process 0), `pid`, and `slot`, the place it keeps for
-- its successor.
cluster.worker = { id = info.id, pid = info.pid, slot = info.slot }

-- id -> row of a living worker
local rows = {}
for _, row in ipairs(info.workers) do rows[row.id] = row end
if cluster.isWorker then rows[info.id] = { id = info.id, slot = info.slot, pid = info.pid, online = false } end

local function copy(row)
  return { id = row.id, slot = row.slot, pid = row.pid, online = row.online }
end

--- The living workers, as this process knows them. Never waits; works anywhere, in every process.
-- @treturn {table,...} `{id =, slot =, pid =, online =}`, in the order of their ids
function cluster.workers()
  local list = {}
  for _, row in pairs(rows) do list[#list + 1] = copy(row) end
  table.sort(list, function(a, b) return a.id < b.id end)
  return list
end

-- event -> its listeners; those of the first three are process 0's alone
local listeners = { fork = {}, online = {}, exit = {}, shutdown = {}, error = {} }
local ofMaster = { fork = true, online = true, exit = true }

-- Listeners for workers keep process 0 alive as long as there is a worker to come or to go.
local workersLeft = info.hasWorkers
local listening, held = false, false

local function updateHold()
  local hold = listening and workersLeft
  if hold == held then return end
  held = hold
  if hold then scheduler.hold() else scheduler.release() end
end

--- Calls a function, as a task, whenever something happens. Never waits; works anywhere.
--
-- - `fork`, `online`: fn(worker), worker as in `workers`; process 0 only
-- - `exit`: fn(worker, code, signal), the code nil when a signal ended it ("SIGKILL"); process 0 only
-- - `shutdown`: fn(), when this process is asked to stop; what it does is waited for, up to `--grace`
-- - `error`: fn(value, traceback), for an error that nobody caught, which then does not end the process
-- @tparam string event
-- @tparam function fn
-- @raise on an unknown event, or one that is process 0's in a worker
-- @usage cluster.on("shutdown", function() print("leaving") end)
function cluster.on(event, fn)
  if not listeners[event] then
    error(("cluster.on: unknown event '%s' (there are fork, online, exit, shutdown, error)"):format(tostring(event)), 2)
  end
  check.type("cluster.on", "the listener", fn, "function")
  if ofMaster[event] and not cluster.isMaster then
    error(("cluster.on: '%s' is for process 0 only"):format(event), 2)
  end
  table.insert(listeners[event], fn)
  listening = listening or ofMaster[event] or false
  updateHold()
end

-- Tasks of listeners for workers, until they have ended: to be waited for when this process stops.
local telling = {}

local function tell(fn, ...)
  local task = scheduler.start(fn, ...)
  if not task.joiners then return end
  telling[task] = true
  table.insert(task.joiners, function() telling[task] = nil end)
end

--- The process table has changed; the loop calls it.
function cluster.processChanged(change, row, more, code, signal)
  local known = rows[row.id] or row
  known.online = row.online
  rows[row.id] = change ~= "exit" and known or nil
  workersLeft = info.hasWorkers or more
  local current = listeners[change]
  for i = 1, #current do -- not those added meanwhile
    if change == "exit" then
      tell(current[i], copy(row), code, signal)
    else
      tell(current[i], copy(row))
    end
  end
  updateHold()
end

local function requireMaster(what)
  if not cluster.isMaster then error(("%s: only process 0 (--master) may call it"):format(what), 3) end
end

local function text(what, name, value)
  if type(value) == "number" then value = tostring(value) end
  if type(value) ~= "string" or value:find("\0", 1, true) then
    error(("%s: %s must be a string without NUL bytes"):format(what, name), 3)
  end
  return value
end

--- Starts a worker in a slot of its own, supervised like the others. (w) Process 0 only.
-- @tparam[opt] table options `script` (its file; default: this process's own script), `args` (an array of strings),
-- `env` (name -> string, added to the environment)
-- @tparam[opt] function callback
-- @treturn table the worker: `id`, `slot`, `pid`
-- @return nil, message, code: `badvalue` (a mistake in the script), `closed` (the cluster is stopping), an errno name
-- (`ENOENT`: no such file)
-- @raise in a worker, on an unknown option or one of the wrong type
-- @usage local worker = cluster.fork { script = "worker.lua", args = { "blue" } }
function cluster.fork(options, callback)
  options, callback = check.trailing("cluster.fork", options, callback)
  requireMaster("cluster.fork")
  check.options("cluster.fork", options, { "script", "args", "env" })
  options = options or {}
  if options.script == nil and info.test then error("cluster.fork: in a test the script must be named", 2) end
  local args = { text("cluster.fork", "script", options.script or info.args[1]) }
  check.type("cluster.fork", "args", options.args, "table", true)
  check.type("cluster.fork", "env", options.env, "table", true)
  if options.args and #options.args > MOST_ARGS then
    error(("cluster.fork: there are more than %d args"):format(MOST_ARGS), 2)
  end
  for i, arg in ipairs(options.args or {}) do args[i + 1] = text("cluster.fork", ("args[%d]"):format(i), arg) end
  local env = {}
  for name, value in pairs(options.env or {}) do
    if type(name) ~= "string" or not name:find("^[^=%z]+$") then
      error("cluster.fork: env must have names of variables as its keys", 2)
    end
    env[#env + 1] = name .. "=" .. text("cluster.fork", "env." .. name, value)
  end
  if #env > MOST_ENV then error(("cluster.fork: there are more than %d variables in env"):format(MOST_ENV), 2) end
  if not callback then scheduler.mayWait("cluster.fork") end
  return request.complete(callback, native.fork(args, env))
end

-- The shutdown has begun.
local stopping = false

local function bind(host, port)
  local sockets = require "clustermem.sockets"
  local fd, id, code = sockets.bind("cluster.bind", host, port)
  if not fd then return nil, id, code end
  local uv = require "luv"
  local handle = port and uv.new_tcp() or uv.new_pipe(false)
  local ok, message
  ok, message, code = handle:open(fd)
  if ok then
    -- Who is leaving may be started again, and finds it bound still.
    sockets.onClose(handle, function() if not stopping then sockets.close(id) end end)
    return handle
  end
  handle:close()
  sockets.close(id, fd)
  return nil, message, code
end

--- Gives a socket to listen on, bound once by the master and shared by all processes that ask for the same address: who
-- connects is served by one of them. (w) It stays bound while workers are started again or replaced, and until each
-- process has closed its handle, or no process has had it for 15 seconds.
-- @tparam string host a name or an address, `"0.0.0.0"` for all; or, without a port, the path of a unix socket. A path
-- that was left behind by somebody who does not listen any more is taken over.
-- @tparam[opt] integer port 0 to 65535; 0: a free one, the same for all who ask for 0 (`handle:getsockname().port`)
-- @tparam[opt] function callback
-- @return a luv handle, `uv_tcp_t` or `uv_pipe_t`, for `handle:listen(backlog, fn)`
-- @return nil, message, code: an errno name (`EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`; `EMFILE`: the cluster has as
-- many sockets as its limit of open files allows, or 1,024); `EAI_NONAME` for a host that is not known
-- @raise on a port that is none
-- @usage cluster.bind("127.0.0.1", 8080):listen(128, function(err) print(err or "somebody has come") end)
function cluster.bind(host, port, callback)
  port, callback = check.trailing("cluster.bind", port, callback)
  check.type("cluster.bind", port and "the host" or "the path", host, "string")
  if host == "" or host:find("\0", 1, true) then
    error("cluster.bind: a host and a port are needed, or the path of a unix socket", 2)
  end
  if port ~= nil then
    port = check.integer("cluster.bind", "the port", port, 0)
    if port > 65535 then error(("cluster.bind: the port must be at most 65535, not %d"):format(port), 2) end
  end
  return scheduler.perform("cluster.bind", callback, bind, host, port)
end

local ready = cluster.isMaster or not info.saysReady

--- Says that this worker is ready for what it is there for. With `--wait-ready` a worker is online from here on: a
-- reload asks its predecessor to stop only then, and one that does not call this in time is killed. A second call does
-- nothing, nor does the first without that option, or in process 0. Never waits; works anywhere, in every process.
-- @usage cluster.ready()
function cluster.ready()
  if ready then return end
  ready = true
  native.online()
end

--- Ends this process. Does not return. What it has issued goes out first; waiting tasks are given up, and `shutdown`
-- listeners are not called. Works anywhere, in every process.
-- @tparam[opt=0] integer code
function cluster.exit(code)
  if code == nil then code = 0 end
  if math.type(code) ~= "integer" or code < 0 or code > 255 then
    error("cluster.exit: the code must be an integer from 0 to 255", 2)
  end
  native.exit(code)
end

--- Stops the whole cluster gracefully. (w) Process 0 only.
-- @tparam[opt] function callback
-- @treturn string "OK" when the master has begun
-- @raise in a worker
function cluster.shutdown(callback)
  check.type("cluster.shutdown", "the callback", callback, "function", true)
  requireMaster("cluster.shutdown")
  if not callback then scheduler.mayWait("cluster.shutdown") end
  return request.complete(callback, native.shutdown())
end

-- Tasks that handle an error; an error of theirs is not handled again.
local handling = setmetatable({}, { __mode = "k" })

-- Hands an error that nobody caught to the listeners. Returns their tasks, or nil: there is nobody to take it.
local function handle(value, traceback, task)
  if #listeners.error == 0 or task and handling[task] then return nil end
  local tasks = {}
  for i, fn in ipairs(listeners.error) do
    tasks[i] = scheduler.spawn(fn, value, traceback)
    handling[tasks[i]] = true
  end
  return tasks
end

scheduler.setUncaught(function(value, traceback, task)
  if not handle(value, traceback, task) then errors.fatal(value, traceback) end
end)

-- Runs a shutdown listener. An error of its own does not keep the others from finishing. @return whether all went well
local function runShutdown(fn)
  local raised, failure = scheduler.try(fn)
  if not raised then return true end
  local handlers = handle(failure.value, failure.traceback)
  if handlers then
    for _, each in ipairs(handlers) do join(each) end
    return true
  end
  io.stderr:write(errors.format(failure.value, failure.traceback), "\n")
  return false
end

-- What is to be told of a stop before the listeners, in the order in which it came: { begin =, drain = }.
local stops = {}

-- The tasks that a stop waits for.
local leaving = {}

local function leave(start, fn)
  leaving[#leaving + 1] = start(runShutdown, fn)
end

--- Registers what is to come to rest when this process is asked to stop. For this project's modules, not for scripts.
-- Never waits; works anywhere. An error of either function is reported, and keeps nobody else from finishing.
-- @tparam function begin takes on nothing new from here on; called before everything else, once
-- @tparam function drain returns when all is done that was taken on; called behind it as a task, beside the shutdown
-- listeners, and waited for up to `--grace`
-- @treturn function forgets both, if the stop has not begun
function cluster.atStop(begin, drain)
  if stopping then
    leave(scheduler.spawn, begin)
    leave(scheduler.spawn, drain)
    return function() end
  end
  local entry = { begin = begin, drain = drain }
  table.insert(stops, entry)
  return function()
    for i, each in ipairs(stops) do
      if each == entry then table.remove(stops, i) break end
    end
  end
end

--- This process is asked to stop; the loop calls it. What serves takes on nothing more, the listeners run, and when
-- they and what was taken on are done the process ends, whatever other tasks are at.
function cluster.stop()
  if stopping then return end
  stopping = true
  local begun = table.move(stops, 1, #stops, 1, {})
  for _, each in ipairs(begun) do leave(scheduler.start, each.begin) end
  for _, each in ipairs(begun) do leave(scheduler.spawn, each.drain) end
  for _, fn in ipairs(listeners.shutdown) do leave(scheduler.spawn, fn) end
  scheduler.spawn(function()
    while next(telling) do join((next(telling))) end
    local well = true
    for _, each in ipairs(leaving) do well = join(each) and well end
    native.exit(well and 0 or 1)
  end)
end

return cluster
