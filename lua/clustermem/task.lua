--- Tasks: concurrent activities of one process that wait without blocking each other.
--
-- A script's main chunk is a task, and so is everything that clustermem calls (callbacks, listeners, handlers); only
-- luv's own callbacks are not: `await` and `spawn` are the bridge. Only one task runs at a time, and it runs until it
-- waits. A process lives as long as a task of it is unfinished.
-- @module clustermem.task

local native = require "clustermem.native"
local check = require "clustermem.check"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"

local task = {}

--- Starts a task, in the next turn of the loop. Never waits; works anywhere.
-- An error in it that no `join` waits for is uncaught: it ends the process with a traceback and exit code 1, or goes to
-- the listeners of cluster.on("error").
-- @tparam function fn
-- @param ... its arguments
-- @return the task, for `join`
-- @usage task.spawn(function(name) print("hello", name) end, "world")
function task.spawn(fn, ...)
  check.type("task.spawn", "its first argument", fn, "function")
  return scheduler.spawn(fn, ...)
end

local function sleep(ms)
  local current = scheduler.current()
  -- Woken, not resumed: a task that sleeps shorter than it computes would keep the loop at its timers for ever.
  request.onReply(function() scheduler.wake(current) end, native.sleep(ms))
  scheduler.wait()
end

--- Waits. (w)
-- @tparam number ms milliseconds; 0 lets others run
-- @tparam[opt] function callback
-- @usage task.sleep(100)
function task.sleep(ms, callback)
  ms = check.milliseconds("task.sleep", "the time", ms)
  check.type("task.sleep", "the callback", callback, "function", true)
  return scheduler.perform("task.sleep", callback, sleep, ms)
end

-- Has a function called when the task ends; see scheduler's joiners.
local function onEnd(joined, fn)
  table.insert(joined.joiners, fn)
end

local function join(joined)
  if joined.joiners then
    local current = scheduler.current()
    if scheduler.waitFor({ joined }, current) then
      error("task.join would wait for ever: the tasks wait for each other", 0)
    end
    onEnd(joined, function()
      scheduler.wake(current)
      return true
    end)
    scheduler.waitOn { joined }
  end
  if joined.failure then error(joined.failure.value, 0) end
  return table.unpack(joined.results, 1, joined.results.n)
end

--- Waits for a task to end. (w)
-- @param joined the task
-- @tparam[opt] function callback
-- @return what its function returned
-- @raise the error that its function raised, the same value; also when tasks would wait for each other
-- @usage local sum = task.join(task.spawn(function() return 1 + 2 end))
function task.join(joined, callback)
  if not scheduler.isTask(joined) then
    error(("task.join: a task is needed, not a %s"):format(type(joined)), 2)
  end
  check.type("task.join", "the callback", callback, "function", true)
  return scheduler.perform("task.join", callback, join, joined)
end

local function all(fns)
  local current = scheduler.current()
  local left, failure, over = #fns, nil, false
  local function ended(each)
    if over then return false end
    left, failure = left - 1, each.failure
    if failure or left == 0 then
      over = true
      scheduler.wake(current)
    end
    return true
  end
  local tasks = {}
  for i, fn in ipairs(fns) do
    tasks[i] = scheduler.spawn(fn)
    onEnd(tasks[i], ended)
  end
  if left > 0 then scheduler.waitOn(tasks) end -- they are new: none of them waits for anybody yet
  if failure then error(failure.value, 0) end
  local firsts = {}
  for i, each in ipairs(tasks) do firsts[i] = each.results[1] end
  return table.unpack(firsts, 1, #fns)
end

--- Runs functions as tasks side by side and waits for all of them. (w)
-- @tparam {function,...} fns
-- @tparam[opt] function callback
-- @return the first result of each, in their order
-- @raise the first error that one of them raises, at once; the others go on, and a further error of theirs is uncaught
-- @usage local a, b = task.all { function() return memory.get("a") end, function() return memory.get("b") end }
function task.all(fns, callback)
  check.type("task.all", "its first argument", fns, "table")
  for i = 1, #fns do check.type("task.all", ("function %d"):format(i), fns[i], "function") end
  check.type("task.all", "the callback", callback, "function", true)
  return scheduler.perform("task.all", callback, all, fns)
end

local function await(fn)
  local current = scheduler.current()
  local results, waiting, done
  fn(function(...)
    if done then return false end
    done = true
    if waiting then
      scheduler.wake(current, ...)
    else
      results = table.pack(...)
    end
    return true
  end)
  if done then return table.unpack(results, 1, results.n) end
  waiting = true
  return scheduler.wait()
end

--- Waits for a function that takes a callback, of luv for example. (w)
-- @tparam function fn called at once with `resume`, which is to be called once with the results; it returns true, and
-- false when it is called again
-- @tparam[opt] function callback
-- @return what resume was called with
-- @raise what fn raises
-- @usage local err, stat = task.await(function(resume) uv.fs_stat("/tmp", resume) end)
function task.await(fn, callback)
  check.type("task.await", "its first argument", fn, "function")
  check.type("task.await", "the callback", callback, "function", true)
  return scheduler.perform("task.await", callback, await, fn)
end

return task
