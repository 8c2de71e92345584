--- Steps that specs of the locks share, in process 0 and, by their text, in the scripts of clusters.
local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local assert = require "luassert"

local locksteps = {}

local LIMIT_MS = 20000
local POLL_MS = 1

local count = 0

--- A lock name that no other spec has: what a lock has been through stays with its name.
function locksteps.name()
  count = count + 1
  return "lock" .. count
end

--- Waits until fn() is true, and gives its results.
function locksteps.waitUntil(what, fn)
  local deadline = uv.hrtime() + LIMIT_MS * 1000000
  while true do
    local results = table.pack(fn())
    if results[1] then return table.unpack(results, 1, results.n) end
    if uv.hrtime() > deadline then error("too late: " .. what, 2) end
    task.sleep(POLL_MS)
  end
end

--- Waits until so many wait for a lock.
function locksteps.waitForQueue(key, waiting)
  locksteps.waitUntil(waiting .. " in the queue", function()
    local info = memory.lockInfo(key)
    return info and info.waiting == waiting
  end)
end

--- A lockId, which is the only result.
function locksteps.taken(...)
  assert.equal(1, select("#", ...), (select(2, ...)))
  assert.matches("^[1-9]%d*$", (...))
  return (...)
end

--- A lockId of a lock whose last owner went without releasing it.
function locksteps.abandoned(...)
  assert.equal(2, select("#", ...))
  assert.matches("^[1-9]%d*$", (...))
  assert.equal("abandoned", (select(2, ...)))
  return (...)
end

--- The lock is had by nobody.
function locksteps.isFree(key)
  local info = table.pack(memory.lockInfo(key))
  assert.same({ n = 1 }, info)
end

--- Whether the first of two lockIds is the smaller number. They may be greater than Lua's integers.
function locksteps.isLess(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

--- In front of a script's first line, so that its line numbers stay.
locksteps.prelude = 'local function waitUntil(fn) local start = uv.hrtime() while not fn() do '
  .. 'assert(uv.hrtime() - start < 25e9, "too late") task.sleep(1) end end '
  .. 'local function waitForQueue(key, waiting) waitUntil(function() local info = memory.lockInfo(key) '
  .. 'return info and info.waiting == waiting end) end '

return locksteps
