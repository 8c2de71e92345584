--- Requests to the master: who waits for which reply.
-- @module clustermem.request

local native = require "clustermem.native"
local scheduler = require "clustermem.scheduler"

local request = {}

-- id -> the function to call with the results
local pending = {}

--- Has a function called with the results of what `native` has issued, from the loop, in no task: it must not wait.
-- @tparam function fn
-- @tparam ?integer id nil: it could not be issued, and fn is called at once
function request.onReply(fn, id, ...)
  if id then
    pending[id] = fn
  else
    fn(nil, ...)
  end
end

--- Completes what `native` has issued: waits for its reply, or has it call back. A tail call of the public function,
-- after scheduler.mayWait where there is no callback.
-- @tparam ?function callback
-- @tparam ?integer id nil: it could not be issued
-- @return the results; nothing with a callback
function request.complete(callback, id, ...)
  if callback then
    scheduler.hold()
    if id then
      pending[id] = function(...)
        scheduler.start(callback, ...)
        scheduler.release()
      end
      native.throttle()
    else
      scheduler.spawn(callback, nil, ...)
      scheduler.release()
    end
    return
  end
  if not id then return nil, ... end
  local task = scheduler.current()
  pending[id] = function(...) scheduler.resume(task, ...) end
  return scheduler.wait()
end

--- A reply, or a timer, has come; the loop calls it.
function request.reply(id, ...)
  local fn = pending[id]
  pending[id] = nil
  if fn then fn(...) end
end

return request
