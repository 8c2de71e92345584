-- Our side of scripts/bench/lru. Usage: clustermem run -w WORKERS --lru-max N lru.lua FOLDER ROW WORKERS SECONDS,
-- FOLDER being the one of this file.
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local uv = require "luv"

local folder, row, workers, seconds = ...
local run = assert(loadfile(folder .. "/lru_harness.lua"))(folder)

local get, set = memory.getLRU, memory.setLRU

local function loop(keys, values, order, first, last)
  local hits = 0
  for i = first, last do
    local index = order[i]
    if get(keys[index]) then
      hits = hits + 1
    elseif not set(keys[index], values[index]) then
      error("set failed")
    end
  end
  return hits
end

run({
  id = cluster.worker.slot,
  loop = loop,
  add = function(key, delta) return assert(memory.increment(key, math.tointeger(delta))) end,
  now = uv.hrtime,
  sleep = task.sleep,
  entries = function() return memory.getLRUStats().entries end,
}, row, tonumber(workers), tonumber(seconds))
