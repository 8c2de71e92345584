-- Each worker counts under a key of its own and watches the others count: one memory, seen by all.
--
--   clustermem -w 4 counter.lua
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"

local GOAL = 5
local me = cluster.worker

local function key(slot)
  return "counter:" .. slot
end

local function count()
  for number = 1, GOAL do
    memory.set(key(me.slot), { number = number, writer = me.id })
    task.sleep(20)
  end
end

-- Follows another worker's counter to its end. Listening for changes will make the polling superfluous.
local function watch(slot)
  local seen = 0
  while seen < GOAL do
    local counter = memory.get(key(slot))
    if counter and counter.number > seen then
      seen = counter.number
      print(("worker %d reads: worker %d wrote %d"):format(me.id, counter.writer, seen))
    end
    task.sleep(5)
  end
end

-- Tasks run side by side: this one counts while the main task watches.
local counting = task.spawn(count)

task.sleep(10) -- by then each worker has heard of the others
local watches = {}
for _, worker in ipairs(cluster.workers()) do
  if worker.id ~= me.id then watches[#watches + 1] = function() watch(worker.slot) end end
end
task.all(watches)
task.join(counting)
print(("worker %d has counted to %d and seen %d others do so"):format(me.id, GOAL, #watches))
