-- What the workers of a measurement have in common, in the language that Lua 5.4 and LuaJIT share: they start at one
-- moment, loop for a time, and print their figures. What they measure is a store; of it this needs
--
-- - `add(key, delta)`: the sum, for the workers to meet
-- - `now()`: nanoseconds, the same in all processes; `sleep(ms)`, milliseconds, whole ones

-- How long before the agreed moment it is agreed on, and the last part of that, which is no sleep but a loop.
local AHEAD_NS, SPIN_NS = 5e7, 2e6

local together = { WARM_UP_NS = 2e8 }

function together.say(format, ...)
  io.stdout:write(format:format(...), "\n")
  io.stdout:flush()
end

-- Returns at the same moment in all workers.
function together.meet(store, workers, name)
  local agreed = name .. ": moment"
  if store.add(name, 1) == workers then store.add(agreed, store.now() + AHEAD_NS) end
  local moment = 0
  while moment == 0 do
    store.sleep(1)
    moment = store.add(agreed, 0)
  end
  local left = moment - SPIN_NS - store.now()
  if left > 0 then store.sleep(math.floor(left / 1e6)) end
  repeat until store.now() >= moment
end

-- Calls batch(first, last), which does an operation for each of these indices, for all of 1 to `count` in turn, `size`
-- of them between two looks at the clock; `count` is a multiple. Returns how many, and the first and the last look.
function together.loopFor(store, ns, count, size, batch)
  local first, ops = 1, 0
  local start = store.now()
  local now
  repeat
    batch(first, first + size - 1)
    ops = ops + size
    first = first + size
    if first > count then first = 1 end
    now = store.now()
  until now - start >= ns
  return ops, start, now
end

return together
