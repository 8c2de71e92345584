--- The functions of `coroutine` for a process whose tasks wait: a wait inside a script's own coroutine passes through
-- coroutine.resume and coroutine.wrap up to the task, and the coroutine goes on where it was.
-- @module clustermem.coroutines

local native = require "clustermem.native"
local scheduler = require "clustermem.scheduler"

local WAIT, context = scheduler.WAIT, scheduler.context
local create, resume, yield, close = coroutine.create, native.resume, coroutine.yield, coroutine.close
local running, isyieldable, status = coroutine.running, coroutine.isyieldable, coroutine.status

local coroutines = {}

-- Coroutines in which a task waits: for everybody else they are neither suspended nor running.
local waiting = setmetatable({}, { __mode = "k" })

local function isTasks(co)
  local task = context[co]
  return task and task.co == co
end

-- The coroutine is entered: it belongs to the task that enters it, as long as that can be suspended here.
local function resumeAs(co, ...)
  local task = context[running()]
  if task then task = isyieldable() and task end
  context[co] = task
  return resume(co, ...)
end

local function again(co, ...)
  waiting[co] = nil
  return resume(co, ...)
end

-- The coroutine has stopped. If its task waits, so does the coroutine that resumed it.
local function settle(co, ok, ...)
  if ok and ... == WAIT then
    waiting[co] = true
    return settle(co, again(co, yield(WAIT)))
  end
  return ok, ...
end

-- Lua's own message, at the caller of the function that calls this.
local function checkArgument(name, value, expected, word)
  if type(value) == expected then return end
  local got = value == nil and "no value" or type(value)
  error(("bad argument #1 to '%s' (%s expected, got %s)"):format(name, word, got), 3)
end

function coroutines.running()
  local co, isMain = running()
  local _ = context[co] -- who knows a coroutine may keep it: see scheduler.begin
  return co, isMain
end

function coroutines.resume(co, ...)
  checkArgument("resume", co, "thread", "coroutine")
  if waiting[co] or isTasks(co) then return false, "cannot resume non-suspended coroutine" end
  return settle(co, resumeAs(co, ...))
end

-- For an error that passes through: a message gets a position, but not that there is no memory.
local function level(value)
  return value == "not enough memory" and 0 or 2
end

-- As Lua's own wrap: the coroutine is closed, and a message gets the position of who called the wrapped function.
local function unwrap(co, ok, ...)
  if ok then return ... end
  if status(co) == "dead" then
    local closed, why = close(co) -- where a __close raises too, that is the error
    if not closed then error(why, level(why)) end
  end
  error(..., level((...)))
end

function coroutines.wrap(fn)
  checkArgument("wrap", fn, "function", "function")
  local co = create(fn)
  return function(...)
    if waiting[co] then error("cannot resume non-suspended coroutine", 2) end
    return unwrap(co, settle(co, resumeAs(co, ...)))
  end
end

function coroutines.yield(...)
  if isTasks((running())) then
    error("nobody would resume a task that yields: clustermem.task.sleep(0) lets others run", 2)
  end
  return yield(...)
end

function coroutines.status(co)
  checkArgument("status", co, "thread", "coroutine")
  return waiting[co] and "normal" or status(co)
end

function coroutines.close(co)
  checkArgument("close", co, "thread", "coroutine")
  if waiting[co] or isTasks(co) then error("cannot close a normal coroutine", 2) end
  return close(co)
end

--- Puts them in the place of Lua's own.
function coroutines.install()
  for _, name in ipairs { "running", "resume", "wrap", "yield", "status", "close" } do
    coroutine[name] = coroutines[name]
  end
end

return coroutines
