-- Two workers hand one fair lock to and fro, and each tells how long after the other's release it had the lock. It is
-- held for a while, so that the other one surely waits when it is released.
-- Usage: clustermem run -w 2 handoff.lua [ROUNDS]
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local uv = require "luv"

local HOLD_NS = 50000
local WARM_UP = 200
local rounds = math.tointeger(tonumber(... or 5000))
local get, set, getLock, releaseLock, hrtime = memory.get, memory.set, memory.getLock, memory.releaseLock, uv.hrtime
local me = cluster.worker.slot - 1
local fair = { fair = true }
local took = {}

-- The moment of the last release, and in its lowest bit who released.
for i = 1, WARM_UP + rounds do
  local lockId = assert(getLock("handoff", fair))
  local now = hrtime()
  local last = get("released")
  if i > WARM_UP and last and last & 1 ~= me then took[#took + 1] = now - (last >> 1) end
  repeat until hrtime() - now >= HOLD_NS
  assert(set("released", hrtime() << 1 | me))
  assert(releaseLock("handoff", lockId))
end

-- Where they did not start together, the first and the last are one worker's alone.
if #took < rounds // 2 then error(("only %d of %d times was the lock handed over"):format(#took, rounds)) end
table.sort(took)
print(("p50_us=%.2f p99_us=%.2f"):format(took[#took // 2 + 1] / 1e3, took[#took * 99 // 100 + 1] / 1e3))
