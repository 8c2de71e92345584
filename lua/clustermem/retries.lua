--- Turns for those who change a thing again and again until nobody gets in between, where each try goes to the master.
-- The task whose try succeeds is the first to go on, and so would be the first with its next one too, as long as others
-- of this process are at it: it lets those go first whom it got in the way of. For this project's modules.
-- @module clustermem.retries

local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"

local retries = {}

-- What is changed -> how many repeated tries are with the master, and the tasks that let them go first.
local entries = {}

--- Waits as long as there are such. (w) Before a first try.
-- @tparam string what is to be changed; two things of one name would only wait for each other
function retries.letPass(what)
  while entries[what] do
    table.insert(entries[what].waiting, scheduler.current())
    scheduler.wait()
  end
end

--- Waits for a try as request.complete does, and counts it while it is with the master. (w) For all but the first.
-- @tparam string what is to be changed
-- @param ... what `native` has issued
-- @return the results
function retries.complete(what, ...)
  local entry = entries[what] or { count = 0, waiting = {} }
  entries[what] = entry
  entry.count = entry.count + 1
  local value, message, code = request.complete(nil, ...)
  entry.count = entry.count - 1
  if entry.count == 0 then
    entries[what] = nil
    for _, task in ipairs(entry.waiting) do scheduler.wake(task) end
  end
  return value, message, code
end

return retries
