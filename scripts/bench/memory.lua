-- Our side of scripts/bench/memory. Usage: clustermem run -w WORKERS memory.lua FOLDER ROW WORKERS SECONDS, FOLDER
-- being the one of this file.
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local uv = require "luv"

local folder, row, workers, seconds = ...
local run = assert(loadfile(folder .. "/memory_harness.lua"))(folder)

local get, set, increment, hrtime = memory.get, memory.set, memory.increment, uv.hrtime
local counter = "counter:00000000"
local loops = {}

function loops.get(keys, _, first, last)
  for i = first, last do
    if not get(keys[i]) then error("get: nothing there") end
  end
end

function loops.set(keys, values, first, last)
  for i = first, last do
    if not set(keys[i], values[i]) then error("set failed") end
  end
end

function loops.increment(_, _, first, last)
  for _ = first, last do
    if not increment(counter) then error("increment failed") end
  end
end

function loops.mix(keys, values, first, last)
  for i = first, last do
    if i % 10 == 0 then
      if not set(keys[i], values[i]) then error("set failed") end
    else
      if not get(keys[i]) then error("get: nothing there") end
    end
  end
end

-- A table is a value like others here.
loops["get-object"], loops["set-object"] = loops.get, loops.set

local function timed(keys, values, took)
  for i = 1, #keys do
    local start = hrtime()
    local ok = set(keys[i], values[i])
    took[i] = hrtime() - start
    if not ok then error("set failed") end
  end
end

run({
  id = cluster.worker.slot,
  loops = loops,
  timed = timed,
  counter = counter,
  -- Sums are whole: an integer's increment is what the row measures.
  add = function(key, delta) return assert(increment(key, math.tointeger(delta))) end,
  now = hrtime,
  sleep = task.sleep,
  used = function() return memory.stats().used end,
  pids = { uv.os_getppid(), uv.os_getpid() },
}, row, tonumber(workers), tonumber(seconds))
