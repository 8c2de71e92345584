--- Real clusters for specs: started from this very binary in a folder of their own, watched, and cleared away.
--
-- A spec file says `before_each(clusters.watch)` and `after_each(clusters.finish)`. Whatever waits here polls to a
-- deadline: a cluster's is LIMIT_MS after its start, a spec's is SPEC_LIMIT_MS.
local uv = require "luv"
local task = require "clustermem.task"

local clusters = {}

local LIMIT_MS = 30000
local SPEC_LIMIT_MS = 90000
local POLL_MS = 3
-- A process of a cluster whose master was killed is killed in its turn, by the kernel.
local ORPHAN_MS = 5000

local binary = assert(uv.exepath())
-- The same with named points at which its processes die or stand still: see core/base/fault.h.
local faulty = binary:match("^(.*/)") .. "spec/clustermem_faulty"

-- In front of a script's first line, so that its line numbers stay.
local prelude = 'local memory, task, cluster = require "clustermem", require "clustermem.task", '
  .. 'require "clustermem.cluster"; local uv, null = require "luv", require("cjson").null; '

local Cluster = {}
Cluster.__index = Cluster

local started, count = {}, 0

--- A path's whole text, or nil; also of files without a length, as in /proc.
function clusters.read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

local function write(path, text)
  local parent = path:match("^(.*)/")
  if not uv.fs_stat(parent) then assert(uv.fs_mkdir(parent, 448)) end
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function removeFolder(path)
  local scan = uv.fs_scandir(path)
  while scan do
    local name, kind = uv.fs_scandir_next(scan)
    if not name then break end
    if kind == "directory" then removeFolder(path .. "/" .. name) else uv.fs_unlink(path .. "/" .. name) end
  end
  uv.fs_rmdir(path)
end

-- The processes whose environment has the mark: pid -> command line, words separated by blanks. A zombie has neither.
local function marked(mark)
  local found = {}
  local scan = assert(uv.fs_scandir("/proc"))
  for name in function() return (uv.fs_scandir_next(scan)) end do
    local environment = name:find("^%d+$") and clusters.read("/proc/" .. name .. "/environ")
    if environment and environment:find(mark, 1, true) then
      found[math.tointeger(name)] = (clusters.read("/proc/" .. name .. "/cmdline") or ""):gsub("%z", " ")
    end
  end
  return found
end

local function commandLine(options)
  if options.args then return options.args end
  local args = { "run", "-w", tostring(options.workers or 1) }
  for _, arg in ipairs(options) do args[#args + 1] = arg end
  if options.boot then table.move({ "--master", "boot.lua" }, 1, 2, #args + 1, args) end
  if options.app then args[#args + 1] = "app.lua" end
  return args
end

local function environment(options, mark)
  local env = {}
  for name, value in pairs(uv.os_environ()) do
    local replaced = name == "CM_SPEC" or options.env and options.env[name]
    if not replaced then env[#env + 1] = name .. "=" .. value end
  end
  for name, value in pairs(options.env or {}) do env[#env + 1] = name .. "=" .. value end
  env[#env + 1] = mark
  return env
end

--- Starts a cluster.
--
-- - `app`, `boot`: text of the worker script app.lua and the master script boot.lua, behind the usual requires
-- - `files`: name -> text of other files in the cluster's folder, as they are
-- - `workers` (1) and the options in the array part make the command line; or `args`, which is all of it
-- - `env`: name -> value, added to the environment
-- - `faulty`: lets CLUSTERMEM_FAULT in a process's environment strike it, see core/base/fault.h
-- - `shell`: commands of a shell that becomes the cluster when they are done, to set limits for instance
-- - `limit`: milliseconds in which it must come to its end
function clusters.start(options)
  count = count + 1
  local mark = ("CM_SPEC=%d.%d"):format(uv.os_getpid(), count)
  local folder = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/clustermem-spec-XXXXXX"))
  local self = setmetatable({ folder = folder, mark = mark .. "\0", out = "", err = "" }, Cluster)
  for name, text in pairs(options.files or {}) do self:write(name, text) end
  if options.app then self:write("app.lua", prelude .. options.app) end
  if options.boot then self:write("boot.lua", prelude .. options.boot) end

  local file, args = options.faulty and faulty or binary, commandLine(options)
  if options.shell then
    file, args = "/bin/sh", { "-c", options.shell .. '; exec "$0" "$@"', file, table.unpack(args) }
  end
  local streams = { out = uv.new_pipe(false), err = uv.new_pipe(false) }
  self.open = 2
  self.handle, self.pid = uv.spawn(file, {
    args = args,
    cwd = folder,
    env = environment(options, mark),
    stdio = { nil, streams.out, streams.err },
  }, function(code, signal)
    -- What ends by itself has waited for its children.
    self.left = signal == 0 and marked(self.mark) or {}
    self.code, self.signal = code, signal
    self.handle:close()
  end)
  assert(self.handle, self.pid)
  started[#started + 1] = self
  for name, pipe in pairs(streams) do
    pipe:read_start(function(err, data)
      if data then
        self[name] = self[name] .. data
      else
        self.open = self.open - 1
        pipe:close()
      end
      assert(not err, err)
    end)
  end
  self.deadline = uv.now() + (options.limit or LIMIT_MS)
  return self
end

--- Starts a cluster and waits for its end.
function clusters.run(options)
  local self = clusters.start(options)
  self:waitExit()
  return self
end

--- Starts one worker with this script and waits for the cluster's end, which must be good; gives standard output.
function clusters.output(app)
  local self = clusters.run { app = app }
  if self.code ~= 0 then self:fail("exit code " .. self.code .. " instead of 0", 1) end
  return self.out
end

--- Makes a file of the cluster's folder.
function Cluster:write(name, text)
  write(self.folder .. "/" .. name, text)
end

--- Replaces the worker script.
function Cluster:writeApp(text)
  self:write("app.lua", prelude .. text)
end

--- Raises, with what the cluster has printed.
function Cluster:fail(message, level)
  error(("%s\n-- standard output:\n%s-- standard error:\n%s--"):format(message, self.out, self.err), (level or 1) + 2)
end

--- Waits until fn() is true and gives its results; `what` is what is waited for.
function Cluster:waitUntil(what, fn, level)
  while true do
    local results = table.pack(fn())
    if results[1] then return table.unpack(results, 1, results.n) end
    if uv.now() > self.deadline then self:fail("too late: " .. what, (level or 1) + 1) end
    task.sleep(POLL_MS)
  end
end

--- Waits until standard output ("out") or standard error ("err") matches, and gives the captures.
function Cluster:waitFor(pattern, stream)
  stream = stream or "out"
  return self:waitUntil(("'%s' on standard %s"):format(pattern, stream), function()
    local over = self.code and self.open == 0
    if over and not self[stream]:find(pattern) then
      self:fail(("the cluster has ended without '%s' on standard %s"):format(pattern, stream), 4)
    end
    return self[stream]:match(pattern)
  end, 2)
end

--- How often a stream matches so far.
function Cluster:count(pattern, stream)
  return select(2, self[stream or "out"]:gsub(pattern, ""))
end

--- Whether this very program is built with a sanitizer, whose own memory fits no limit.
function clusters.isSanitized()
  return clusters.read("/proc/self/maps"):find("san.so", 1, true) ~= nil
end

--- Waits for the master's end. @return its exit code, or 0 and the number of the signal that killed it
function Cluster:waitExit()
  self:waitUntil("the end of the cluster", function() return self.code and self.open == 0 end, 2)
  return self.code, self.signal
end

--- Sends a signal to the master, or to the process of this id.
function Cluster:kill(signal, pid)
  assert(uv.kill(pid and math.tointeger(pid) or self.pid, signal))
end

--- The living processes but the master: pid -> command line.
function Cluster:processes()
  local found = marked(self.mark)
  found[self.pid] = nil
  return found
end

--- Waits until a process of the cluster stands still, and lets it go on.
function Cluster:continue()
  local stopped = self:waitUntil("a process that stands still", function()
    for pid in pairs(self:processes()) do
      local stat = io.open(("/proc/%d/stat"):format(pid))
      local state = stat and stat:read("a"):match("%) (%a)")
      if stat then stat:close() end
      if state == "T" then return pid end
    end
  end)
  self:kill("sigcont", stopped)
end

--- Waits until no process of the cluster is left, the master included.
function Cluster:waitGone()
  self:waitUntil("the end of all processes", function() return next(marked(self.mark)) == nil end, 2)
end

local function list(processes)
  local lines = {}
  for pid, line in pairs(processes) do lines[#lines + 1] = ("%d %s"):format(pid, line) end
  return table.concat(lines, "; ")
end

-- Ends the cluster in any case; adds what is wrong with it to the complaints.
local function clear(self, complaints)
  local function complain(format, ...) complaints[#complaints + 1] = format:format(...) end
  if not self.code then uv.kill(self.pid, "sigkill") end
  local deadline = uv.now() + ORPHAN_MS
  while uv.now() < deadline and (not self.code or next(marked(self.mark))) do task.sleep(POLL_MS) end
  local left = next(self.left or {}) and self.left or marked(self.mark)
  if next(left) then complain("processes are left over: %s", list(left)) end
  for pid in pairs(marked(self.mark)) do uv.kill(pid, "sigkill") end
  if self.err:find("Sanitizer") or self.err:find("runtime error: ", 1, true) then complain("%s", self.err) end
  removeFolder(self.folder)
end

--- Runs a command of the system to its end, while this process's loop goes on.
-- @tparam string command
-- @tparam {string,...} args
-- @tparam[opt] string input
-- @treturn string its standard output
-- @treturn integer its exit code
function clusters.command(command, args, input)
  local stdin, stdout = uv.new_pipe(false), uv.new_pipe(false)
  local text, left, code = "", 2, nil
  task.await(function(resume)
    local function over()
      left = left - 1
      if left == 0 then resume() end
    end
    local process, message
    process, message = uv.spawn(command, { args = args, stdio = { stdin, stdout, nil } }, function(exit)
      code = exit
      process:close()
      over()
    end)
    assert(process, command .. ": " .. tostring(message))
    stdout:read_start(function(_, data)
      text = text .. (data or "")
      if not data then over() end
    end)
    if input then stdin:write(input) else stdin:shutdown() end
  end)
  stdin:close()
  stdout:close()
  return text, code
end

--- Ends what is left of the clusters, and raises if that was not as it should be.
function clusters.finish()
  if clusters.watchdog then clusters.watchdog:close() end
  clusters.watchdog = nil
  local complaints = {}
  for _, cluster in ipairs(started) do clear(cluster, complaints) end
  started = {}
  if #complaints > 0 then error(table.concat(complaints, "\n"), 0) end
end

--- Ends the run of the specs if this spec takes too long.
function clusters.watch()
  local main = coroutine.running()
  clusters.watchdog = uv.new_timer()
  clusters.watchdog:start(SPEC_LIMIT_MS, 0, function()
    for _, cluster in ipairs(started) do uv.kill(cluster.pid, "sigkill") end
    io.stderr:write(debug.traceback(main, ("a spec takes more than %d ms"):format(SPEC_LIMIT_MS)), "\n")
    os.exit(1)
  end)
end

return clusters
