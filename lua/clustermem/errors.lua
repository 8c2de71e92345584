--- Errors that nobody catches: what they look like, and where they go.
-- @module clustermem.errors

local native = require "clustermem.native"

local errors = {}

local name = native.info.id == 0 and "process 0" or "worker " .. native.info.id

--- An error value as text; `tostring` itself may raise, for a table with a bad `__tostring`.
function errors.text(value)
  local ok, text = pcall(tostring, value)
  return ok and text or "an error whose __tostring fails"
end

--- An uncaught error as it is shown. That of a full heap is caught too late to see where it was raised.
function errors.format(value, traceback)
  local full, where
  if type(value) == "string" and value:find("not enough memory$") then full, where = native.full() end
  if full then value, traceback = full, where end
  return ("%s: %s\n%s"):format(name, errors.text(value), traceback)
end

--- Ends this process because of an error: the text goes to standard error, the exit code is 1. Never returns.
-- @param value the error value
-- @tparam string traceback of where it was raised
function errors.fatal(value, traceback)
  native.fail(errors.format(value, traceback))
end

return errors
