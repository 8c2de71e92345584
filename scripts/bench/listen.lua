-- One worker sets a key now and then, the other one is told: how long after the call of set its callback began.
-- Usage: clustermem run -w 2 listen.lua [CHANGES]
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local uv = require "luv"

local WARM_UP = 200
local PAUSE_MS = 1
local changes = math.tointeger(tonumber(... or 3000))
local hrtime = uv.hrtime

if cluster.worker.slot == 1 then
  while not memory.get "listening" do task.sleep(PAUSE_MS) end
  for _ = 1, WARM_UP + changes do
    memory.set("key", hrtime())
    task.sleep(PAUSE_MS)
  end
  return
end

local took, count, handle = {}, 0, nil
handle = memory.listen("key", function(sent)
  count = count + 1
  if count > WARM_UP then took[#took + 1] = hrtime() - sent end
  if #took < changes then return end
  memory.unlisten(handle)
  table.sort(took)
  print(("p50_us=%.2f p99_us=%.2f"):format(took[changes // 2 + 1] / 1e3, took[changes * 99 // 100 + 1] / 1e3))
end)
memory.set("listening", true)
