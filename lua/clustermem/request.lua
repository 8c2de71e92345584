--- Requests to the master: who waits for which reply.
-- @module clustermem.request

local native = require "clustermem.native"
local scheduler = require "clustermem.scheduler"

local request = {}

-- id -> the task that waits, or the function to call back
local pending = {}

--- Completes what `native` has issued: waits for its reply, or has it call back. A tail call of the public function,
-- after scheduler.mayWait where there is no callback.
-- @tparam ?function callback
-- @tparam ?integer id nil: it could not be issued
-- @return the results; nothing with a callback
function request.complete(callback, id, ...)
  if callback then
    scheduler.hold()
    if id then
      pending[id] = callback
      native.throttle()
    else
      scheduler.spawn(callback, nil, ...)
      scheduler.release()
    end
    return
  end
  if not id then return nil, ... end
  pending[id] = scheduler.current()
  return scheduler.wait()
end

--- A reply, or a timer, has come; the loop calls it.
function request.reply(id, ...)
  local waiter = pending[id]
  pending[id] = nil
  if type(waiter) == "function" then
    scheduler.start(waiter, ...)
    scheduler.release()
  elseif waiter then
    scheduler.resume(waiter, ...)
  end
end

return request
