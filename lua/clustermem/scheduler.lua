--- Tasks: coroutines that wait for the loop. This is the mechanism behind clustermem.task and behind every function
-- that waits; it belongs to this project's modules alone.
--
-- A task that waits yields WAIT, through all coroutines the script has put between (clustermem.coroutines passes it
-- on), to the loop; who has what it waits for resumes it. `context` says for each coroutine which task runs in it,
-- or false where something between it and the task cannot yield.
-- @module clustermem.scheduler

local native = require "clustermem.native"
local errors = require "clustermem.errors"

local create, resume, yield = coroutine.create, native.resume, coroutine.yield
local running, isyieldable, status = coroutine.running, coroutine.isyieldable, coroutine.status
local pack, unpack, traceback = table.pack, table.unpack, debug.traceback

local scheduler = {}

--- What a coroutine yields when it is its task that waits.
local WAIT = {}
scheduler.WAIT = WAIT

--- coroutine -> its task, false (a task that cannot wait here), or nil (no task).
local context = {}
scheduler.context = context

local Task = {}
Task.__index = Task
Task.__name = "task"
Task.__tostring = function(task) return ("task %d (%s)"):format(task.id, task.state) end

local lastId = 0

-- What keeps the process alive: unfinished tasks, requests that will call back, cluster listeners.
local holds = 0

function scheduler.hold()
  holds = holds + 1
  if holds == 1 then native.hold(true) end
end

function scheduler.release()
  holds = holds - 1
  if holds == 0 then native.hold(false) end
end

-- Tasks to resume in the next turn of the loop, with what they are resumed with, and what is to begin then.
local queue, first, last = {}, 1, 0

local function enqueue(task, ...)
  -- First the table: making it may run a finalizer, and that may come here too.
  local entry = pack(task, ...)
  last = last + 1
  queue[last] = entry
  if first == last then native.wake() end
end

-- Where errors go that nobody joins; set by clustermem.cluster, for its "error" listeners.
local onUncaught = errors.fatal

function scheduler.setUncaught(fn)
  onUncaught = fn
end

--- Reports an error that nobody catches, which is the end of the process unless somebody listens for such.
-- @tparam table what as scheduler.try gives it
-- @tparam ?table task whose it is
function scheduler.uncaught(what, task)
  onUncaught(what.value, what.traceback, task)
end

local function finish(task, state)
  task.state = state
  local joiners, taken = task.joiners, false
  task.joiners = nil
  for i = 1, #joiners do taken = joiners[i](task) or taken end
  scheduler.release()
  return taken
end

-- What has been raised, and where.
local Failure = {}

--- What has been raised, with its place; for what has it already, itself. A message handler, which Lua does not call
-- when it is out of memory: so who has caught something calls it again.
-- @treturn table `{ value =, traceback = }`
local function failure(value)
  if getmetatable(value) == Failure then return value end
  return setmetatable({ value = value, traceback = traceback(nil, 2) }, Failure)
end
scheduler.failure = failure

local function tried(ok, ...)
  if ok then return false, ... end
  return true, failure((...))
end

--- Calls a function and catches what it raises.
-- @treturn boolean whether it raised
-- @return what it returned, or `{ value =, traceback = }`
function scheduler.try(fn, ...)
  return tried(xpcall(fn, failure, ...))
end

local function fail(task, what)
  task.failure = what
  if not finish(task, "failed") then scheduler.uncaught(what, task) end
end

-- After a task has stopped running: because it waits, or with what scheduler.try gave.
local function settle(task, ok, raised, ...)
  if not ok then
    fail(task, failure(raised)) -- not even the call could be made
  elseif status(task.co) ~= "dead" then
    if raised ~= WAIT then fail(task, failure("a task was suspended by something that is not clustermem")) end
  elseif raised then
    fail(task, (...))
  else
    if raised == false then task.results = pack(...) end -- nobody can join what scheduler.begin has begun
    finish(task, "done")
  end
end

--- Goes on with a waiting task, now. Only from the loop, not from inside another task.
function scheduler.resume(task, ...)
  task.state = "running"
  settle(task, resume(task.co, ...))
end

--- Goes on with a waiting task in the next turn of the loop. Works anywhere.
scheduler.wake = enqueue

--- Has `entry.begins(entry)` called in the next turn of the loop, as begin calls it. Works anywhere.
function scheduler.beginSoon(entry)
  last = last + 1
  queue[last] = entry
  if first == last then native.wake() end
end

--- Runs what is ready; the loop calls it. @treturn boolean whether there is more by now
function scheduler.run()
  for _ = first, last do
    local entry = queue[first]
    queue[first] = nil
    first = first + 1
    local begins = entry.begins
    if begins then
      scheduler.begin(begins, entry)
    else
      scheduler.resume(unpack(entry, 1, entry.n))
    end
  end
  if first > last then first, last = 1, 0 end
  return last > 0
end

-- `joiners`, until the task has ended, are functions to be called with it then; one that returns true takes its error.
local function new(co, state)
  lastId = lastId + 1
  local task = setmetatable({ id = lastId, state = state, joiners = {}, co = co }, Task)
  context[co] = task
  scheduler.hold()
  return task
end

--- A new task that starts in the next turn of the loop.
function scheduler.spawn(...)
  -- Caught inside the task, so that what is to be closed on the way out may wait.
  local task = new(create(scheduler.try), "ready")
  enqueue(task, ...)
  return task
end

--- A new task that starts now and runs until it waits.
function scheduler.start(...)
  local task = new(create(scheduler.try), "running")
  settle(task, resume(task.co, ...))
  return task
end

-- A coroutine that runs and becomes a task when somebody asks for it.
local fresh

setmetatable(context, {
  __mode = "k",
  __index = function(_, co)
    if co ~= fresh then return nil end
    fresh = nil
    return new(co, "running")
  end,
})

-- One that has ended as fresh as it began: nobody knows it, not even by coroutine.running, so it can be used again.
local spare

local function begun(co, ok, ...)
  if ok and fresh == co and status(co) == "dead" then
    fresh, spare = nil, co
  else
    settle(context[co], ok, ...)
  end
end

--- As start, without a task to give: there is one from the moment on that somebody asks for it, which many functions
-- that wait for nothing never do. What fn raises it catches itself; it returns nothing.
function scheduler.begin(fn, ...)
  local co = spare
  spare = nil
  if not co or not native.reuse(co, fn) then co = create(fn) end
  fresh = co
  begun(co, native.begin(co, ...))
end

--- Whether the value is a task.
function scheduler.isTask(value)
  return getmetatable(value) == Task
end

--- The task that runs, or nil.
function scheduler.current()
  return context[running()] or nil
end

--- Raises unless the public function that calls it may wait here: it must be in a task, with nothing between that
-- cannot yield.
-- @tparam string what the function's name, for the message
function scheduler.mayWait(what)
  local task = context[running()]
  if task and isyieldable() then return end
  local why
  if task == nil then
    why = "%s waits, and this is no task: call it in clustermem.task.spawn, or give it a callback as its last argument"
  else
    why = "%s waits, and Lua cannot yield here (inside table.sort, string.gsub, a metamethod called from C, ...): "
      .. "call it outside, or give it a callback as its last argument"
  end
  native.refuse(why:format(what))
end

--- Suspends the current task until it is resumed. @return what it is resumed with
function scheduler.wait()
  context[running()].state = "waiting"
  return yield(WAIT)
end

--- Lets everything else that is ready go first.
function scheduler.rest()
  enqueue(context[running()])
  scheduler.wait()
end

--- Whether one of the tasks waits, through others perhaps, for this one.
function scheduler.waitFor(tasks, target)
  for _, task in ipairs(tasks) do
    if task == target or task.waitsOn and scheduler.waitFor(task.waitsOn, target) then return true end
  end
  return false
end

--- Suspends the current task until others, of which none waits for it, have it woken.
-- @tparam {table,...} tasks
function scheduler.waitOn(tasks)
  local task = context[running()]
  task.waitsOn = tasks
  scheduler.wait()
  task.waitsOn = nil
end

-- Calls back in the next turn, also when there was nothing to wait for.
local function callLater(callback, ...)
  scheduler.spawn(callback, ...)
end

--- The callers of a function that waits, without a callback, get its results; with one, a task of its own calls it
-- with them. For functions that are written in terms of others that wait. What fn issues first is issued now.
-- @tparam string what the function's name
-- @tparam ?function callback
-- @tparam function fn does it, in a task
function scheduler.perform(what, callback, fn, ...)
  if callback then
    scheduler.start(function(...) return callLater(callback, fn(...)) end, ...)
    return
  end
  scheduler.mayWait(what) -- whoever tail-calls this is off the stack
  return fn(...)
end

return scheduler
