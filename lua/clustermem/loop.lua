--- luv on this process's own loop, without what would take the loop out of our hands.
-- @module clustermem.loop

local native = require "clustermem.native"
local scheduler = require "clustermem.scheduler"

local loop = {}

local function settle(raised, ...)
  if raised then
    scheduler.uncaught((...))
  else
    return ...
  end
end

--- Calls a callback of luv's, with what it raises uncaught; the loop calls it.
function loop.guard(fn, ...)
  return settle(scheduler.try(fn, ...))
end

local function walk(callback)
  if type(callback) ~= "function" then error("uv.walk: a function is needed", 2) end
  for _, handle in ipairs(native.handles()) do callback(handle) end
end

--- Makes `require "luv"` give luv for this loop: `run` raises, `walk` shows the script's handles only.
function loop.install()
  local open = package.preload.luv
  package.preload.luv = function(...)
    local uv = open(...)
    uv.run = function() error("uv.run: the loop of a clustermem process runs already", 2) end
    uv.loop_close = function() error("uv.loop_close: the loop is the process's own", 2) end
    uv.walk = walk
    return uv
  end
end

return loop
