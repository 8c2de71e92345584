-- Many tasks have the master store values at once, with setMany, each waiting for its own: what one worker gets through
-- when its requests share writes. Usage: clustermem run -w 1 pipelined.lua [SETS PER TASK [TASKS]]
local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"

local sets, tasks = ...
sets = math.tointeger(tonumber(sets or 2000))
tasks = math.tointeger(tonumber(tasks or 64))

local function setter(index)
  local pairs_ = { ["k" .. index] = string.rep("x", 105) }
  return function()
    for _ = 1, sets do
      assert(memory.setMany(pairs_))
    end
  end
end

local setters = {}
for index = 1, tasks do
  setters[index] = setter(index)
end

local start = uv.hrtime()
task.all(setters)
print(("per_s=%.0f"):format(tasks * sets / ((uv.hrtime() - start) / 1e9)))
