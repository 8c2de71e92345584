--- Requests to the master: who waits for which reply.
-- @module clustermem.request

local native = require "clustermem.native"
local scheduler = require "clustermem.scheduler"

local request = {}

-- id -> the function to call with the results
local pending = {}
request.pending = pending

--- Has a function called with the results of what `native` has issued, from the loop, in no task: it must not wait.
-- @tparam function fn
-- @param id integer; false: it is done already, or could not be issued, and fn is called at once with the results
function request.onReply(fn, id, ...)
  if id then
    pending[id] = fn
  else
    fn(...)
  end
end

--- Completes what `native` has done or issued: gives the results, waits for the reply with them, or has it call back.
-- A tail call of the public function, after scheduler.mayWait where there is no callback.
-- @tparam ?function callback
-- @param id integer; false: it is done already, or could not be issued; true: likewise, and the caller has done so much
-- without waiting that it is others' turn
-- @param ... the results, where it is false
-- @return the results; nothing with a callback
function request.complete(callback, id, ...)
  if callback then
    scheduler.hold()
    if not id or id == true then
      scheduler.spawn(callback, ...)
      scheduler.release()
    else
      pending[id] = function(...)
        scheduler.spawn(callback, ...)
        scheduler.release()
      end
      native.throttle()
    end
    return
  end
  if not id then return ... end
  if id == true then
    scheduler.rest()
    return ...
  end
  local task = scheduler.current()
  -- Not at once: all replies that have come together are to be noted first, or the next write of this task would go the
  -- long way only because those of others are not counted as answered yet.
  pending[id] = function(...) scheduler.wake(task, ...) end
  return scheduler.wait()
end

--- A reply, or a timer, has come; the loop calls it.
function request.reply(id, ...)
  local fn = pending[id]
  pending[id] = nil
  if fn then fn(...) end
end

return request
