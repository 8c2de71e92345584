-- One worker asks process 0, then the other worker, one request after the other: how long from the call to the answer.
-- Usage: clustermem run -w 2 --master hub.lua hub.lua [REQUESTS]
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local Hub = require "clustermem.hub"
local uv = require "luv"

local WARM_UP = 200
local requests = math.tointeger(tonumber(... or 3000))
local hrtime = uv.hrtime
local hub = Hub.new()

local function sum(numbers) return numbers.a + numbers.b end

local function measure(what, ask)
  local took = {}
  for i = 1, WARM_UP + requests do
    local before = hrtime()
    assert(ask("sum", { a = i, b = 1 }) == i + 1)
    if i > WARM_UP then took[i - WARM_UP] = hrtime() - before end
  end
  table.sort(took)
  return ("%s_p50_us=%.2f %s_p99_us=%.2f"):format(what, took[requests // 2 + 1] / 1e3, what,
    took[requests * 99 // 100 + 1] / 1e3)
end

if cluster.isMaster or cluster.worker.slot == 2 then
  hub:on("sum", sum)
  hub:once("enough", function() hub:removeAllListeners() end)
  if cluster.isWorker then memory.set("worker", cluster.worker.id) end
  return
end

while not memory.get "worker" do task.sleep(1) end
local other = memory.get "worker"
local master = measure("master", function(...) return hub:requestMaster(...) end)
local worker = measure("worker", function(...) return hub:requestWorker(other, ...) end)
print(master .. " " .. worker)
hub:sendToMaster("enough")
hub:sendToWorkers("enough")
