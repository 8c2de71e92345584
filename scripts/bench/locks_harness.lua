-- What locks.lua and locks_nginx.lua have in common, in the language that Lua 5.4 and LuaJIT share: the keys, what is
-- measured, the sum at the end. The loops are each store's own. Called with this folder.
--
-- A store has, besides what together.lua needs:
--
-- - `id`: this worker, from 1
-- - `get(key)`, `set(key, number)`
-- - `increments(keys, first, last)`: increments each of these counters under its lock
-- - `waits(keys, first, last)`: does so too, and returns how many ns it waited at most for a lock

local together = dofile((...) .. "/together.lua")
local meet, loopFor = together.meet, together.loopFor

local KEYS = 64

local function key(index)
  return ("counter:%02d"):format(index)
end

-- In "many" an odd step, another one for each worker, goes over all of them: no worker walks behind another one.
local function keysOf(row, id)
  local keys = {}
  for i = 1, KEYS do keys[i] = key(row == "one" and 0 or i * (2 * id - 1) % KEYS) end
  return keys
end

local function sum(store)
  local all = 0
  for i = 0, KEYS - 1 do all = all + store.get(key(i)) end
  return all
end

-- The clock is a good part of an increment that does not wait, so what it has to tell comes from a loop of its own.
return function(store, row, workers, seconds)
  local keys = keysOf(row, store.id)
  local longest = 0
  local function increments(first, last) store.increments(keys, first, last) end
  local function waits(first, last) longest = math.max(longest, store.waits(keys, first, last)) end
  if store.id == 1 then
    for i = 0, KEYS - 1 do store.set(key(i), 0) end
  end

  meet(store, workers, "warm up")
  local others = loopFor(store, math.min(together.WARM_UP_NS, seconds * 1e9), KEYS, KEYS, increments)
  collectgarbage()
  meet(store, workers, "start")
  local ops, start, finish = loopFor(store, seconds * 1e9, KEYS, KEYS, increments)
  meet(store, workers, "waits")
  others = others + loopFor(store, seconds * 1e9, KEYS, KEYS, waits)

  store.add("operations", others + ops)
  meet(store, workers, "end")
  if sum(store) ~= store.add("operations", 0) then error("increments were lost") end
  together.say("ops=%d start_ns=%.0f end_ns=%.0f wait_ms=%.3f", ops, start, finish, longest / 1e6)
end
