-- Our side of scripts/bench/locks. Usage: clustermem run -w WORKERS locks.lua FOLDER ROW WORKERS SECONDS, FOLDER being
-- the one of this file.
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local uv = require "luv"

local folder, row, workers, seconds = ...
local run = assert(loadfile(folder .. "/locks_harness.lua"))(folder)

local get, set, mutex, hrtime = memory.get, memory.set, memory.mutex, uv.hrtime

local function increments(keys, first, last)
  for i = first, last do
    local key = keys[i]
    assert(mutex(key, function() return set(key, get(key) + 1) end))
  end
end

local function waits(keys, first, last)
  local longest = 0
  for i = first, last do
    local key = keys[i]
    local entered
    local asked = hrtime()
    assert(mutex(key, function()
      entered = hrtime()
      return set(key, get(key) + 1)
    end))
    if entered - asked > longest then longest = entered - asked end
  end
  return longest
end

run({
  id = cluster.worker.slot,
  get = get,
  set = function(key, number) assert(set(key, number)) end,
  increments = increments,
  waits = waits,
  add = function(key, delta) return assert(memory.increment(key, math.tointeger(delta))) end,
  now = hrtime,
  sleep = task.sleep,
}, row, tonumber(workers), tonumber(seconds))
