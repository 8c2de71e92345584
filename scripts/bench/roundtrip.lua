-- One task has the master store one value again and again, with setMany, which travels, and waits each time: the round
-- trip of an operation. The value makes the frame as long as the messages of pingpong.c.
-- Usage: clustermem run -w 1 roundtrip.lua [ROUNDS]
local memory = require "clustermem"
local uv = require "luv"

local rounds = math.tointeger(tonumber(... or 100000))
local warmUp = 1000
local pairs_ = { k = string.rep("x", 105) }

for _ = 1, warmUp do
  assert(memory.setMany(pairs_))
end

local took = {}
local start = uv.hrtime()
for i = 1, rounds do
  local sent = uv.hrtime()
  assert(memory.setMany(pairs_))
  took[i] = uv.hrtime() - sent
end
local seconds = (uv.hrtime() - start) / 1e9

table.sort(took)
print(("p50_us=%.2f p99_us=%.2f per_s=%.0f"):format(
  took[rounds // 2 + 1] / 1e3, took[rounds * 99 // 100 + 1] / 1e3, rounds / seconds))
