-- A counter that all workers increment by a read and a write: a mutex keeps the others out in between.
--
--   clustermem -w 4 mutex.lua
local memory = require "clustermem"
local cluster = require "clustermem.cluster"

local ROUNDS = 1000
local me = cluster.worker

local function increment(lockId)
  local counter = memory.get "counter" or { value = 0 }
  counter.value = counter.value + 1
  counter["worker " .. me.id] = (counter["worker " .. me.id] or 0) + 1
  -- The lockId as a fence: if the lock were somebody else's by now, the write would be refused.
  assert(memory.set("counter", counter, { fence = lockId }))
  return counter
end

local counter
for _ = 1, ROUNDS do
  counter = assert(memory.mutex("counter", increment))
end
-- The last to say so has seen the increments of all.
print(("worker %d: the counter is at %d, and %d of that are mine"):format(me.id, counter.value,
  counter["worker " .. me.id]))
