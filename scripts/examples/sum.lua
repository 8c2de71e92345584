-- One worker has all the others add up a part each of a long sum, and adds up what they answer.
--
--   scripts/run -w 4 scripts/examples/sum.lua [N]
--
-- A request ends in any case: a worker that fails or dies, or takes too long, is missing from the sum, and it is said
-- why.
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local Hub = require "clustermem.hub"

local N = math.tointeger(tonumber((...) or 1000000))
local hub = Hub.new "sums"

hub:on("sum", function(part)
  local sum = 0
  for n = part.first, part.last, part.step do sum = sum + n end
  return sum
end)
hub:once("done", function() hub:removeAllListeners() end) -- handlers keep a process alive

if cluster.worker.slot ~= 1 then return end

-- The others have to be there, with their handlers.
local others
local tries = 0
repeat
  task.sleep(1)
  tries = tries + 1
  assert(tries < 5000, "there is nobody to ask: it takes two workers at least (-w 2)")
  others = {}
  hub:eachWorker(function(worker)
    if worker.online and worker.id ~= cluster.worker.id then others[#others + 1] = worker end
  end)
until #others > 0

local requests = {}
for i, worker in ipairs(others) do
  requests[i] = function()
    local sum, message = hub:requestWorker(worker, "sum", { first = i, last = N, step = #others }, { timeout = 5000 })
    if not sum then print(("worker %d: %s"):format(worker.id, message)) end
    return sum or 0
  end
end
local total = 0
for _, sum in ipairs { task.all(requests) } do total = total + sum end
print(("the sum of 1 to %d, by %d others: %d"):format(N, #others, total))
hub:sendToWorkers "done"
hub:emit "done"
