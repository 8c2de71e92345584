-- What lru.lua and lru_nginx.lua have in common, in the language that Lua 5.4 and LuaJIT share: which keys are looked
-- up, and the figures. The loop is each store's own, as in memory_harness.lua. Called with this folder.
--
-- A store has, besides what together.lua needs:
--
-- - `id`: this worker, from 1
-- - `loop(keys, values, order, first, last)`: gets keys[order[i]] for each of these indices, and sets what it misses;
--   returns how often it was there
-- - `entries()`: how many it holds

local together = dofile((...) .. "/together.lua")
local meet, say = together.meet, together.say

local KEYS, CAPACITY, VALUE_BYTES = 100000, 10000, 100
-- Four fifths of the look-ups are of a fifth of the keys.
local HOT_KEYS, HOT_PART = KEYS / 5, 0.8
local LOOKUPS, BATCH = 1000000, 500

local function makeKeys()
  local keys = {}
  for i = 1, KEYS do keys[i] = ("%08x%08x"):format(i * 2654435761 % 2 ^ 32, i) end
  return keys
end

-- Different ones: LuaJIT keeps equal strings once.
local function makeValues()
  local letters = {}
  for i = 1, KEYS + VALUE_BYTES do letters[i] = string.char(math.random(97, 122)) end
  local pool, values = table.concat(letters), {}
  for i = 1, KEYS do values[i] = pool:sub(i, i + VALUE_BYTES - 1) end
  return values
end

local function makeOrder(seed)
  math.randomseed(seed)
  local order = {}
  for i = 1, LOOKUPS do
    order[i] = math.random() < HOT_PART and math.random(HOT_KEYS) or math.random(HOT_KEYS + 1, KEYS)
  end
  return order
end

-- The part of these look-ups that an exact cache of that capacity answers once it is full: a list of its keys in the
-- order of their use.
local function exact()
  local order = makeOrder(1)
  local before, after, entries, hits = { [0] = 0 }, { [0] = 0 }, 0, 0
  local function unlink(key)
    after[before[key]], before[after[key]] = after[key], before[key]
    before[key] = nil
  end
  for _ = 1, 2 do
    hits = 0
    for i = 1, LOOKUPS do
      local key = order[i]
      if before[key] then
        hits = hits + 1
        unlink(key)
      elseif entries == CAPACITY then
        unlink(before[0])
      else
        entries = entries + 1
      end
      after[key], before[key], before[after[0]], after[0] = after[0], 0, key, key
    end
  end
  say("hit_part=%.4f", hits / LOOKUPS)
end

return function(store, row, workers, seconds)
  if row == "exact" then return exact() end
  local keys, values, order = makeKeys(), makeValues(), makeOrder(store.id)
  local hits = 0
  local function batch(first, last) hits = hits + store.loop(keys, values, order, first, last) end

  meet(store, workers, "warm up")
  -- Each has been full for a while, however slow it is.
  for _ = 1, 2 do
    for first = 1, LOOKUPS / 4, BATCH do batch(first, first + BATCH - 1) end
  end
  collectgarbage()
  hits = 0
  meet(store, workers, "start")
  local ops, start, finish = together.loopFor(store, seconds * 1e9, LOOKUPS, BATCH, batch)
  meet(store, workers, "end")
  say("ops=%d start_ns=%.0f end_ns=%.0f wait_ms=0 hits=%d entries=%d", ops, start, finish, hits, store.entries())
end
