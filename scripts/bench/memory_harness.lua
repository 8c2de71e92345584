-- What memory.lua and memory_nginx.lua have in common, in the language that Lua 5.4 and LuaJIT share: keys and values,
-- what is measured, the figures. The loops over the operations are each store's own, because a call of a function for
-- each operation costs Lua 5.4 much and LuaJIT nothing. Called with this folder.
--
-- A store has, besides what together.lua needs:
--
-- - `id`: this worker, from 1
-- - `loops`: row -> fn(keys, values, first, last), which does one operation for each of these indices
-- - `timed(keys, values, took)`: sets each key and writes down how many ns it took
-- - `counter`: the key that the loop of `increment` increments
-- - `used()`: bytes in use as the store counts them; `pids`, of the processes that hold them

local together = dofile((...) .. "/together.lua")
local meet, say = together.meet, together.say

local KEYS, VALUE_BYTES = 10000, 100
-- How many operations there are between two looks at the clock; KEYS is a multiple.
local BATCH = 500
-- A store of this many keys is filled in blocks of BLOCK.
local MEMORY_KEYS, GROWN_KEYS, BLOCK = 1000000, 2000000, 1000

-- 16 bytes, in no order of their bytes: sorted ones would be the best case of a tree.
local function key(index)
  return ("%08x%08x"):format(index * 2654435761 % 2 ^ 32, index)
end

local function keysFrom(first, count)
  local keys = {}
  for i = 1, count do keys[i] = key(first + i - 1) end
  return keys
end

local function shuffle(list)
  for i = #list, 2, -1 do
    local other = math.random(i)
    list[i], list[other] = list[other], list[i]
  end
  return list
end

-- Different ones: LuaJIT keeps equal strings once, and would find all that it reads to be there already.
local function strings()
  local letters = {}
  for i = 1, KEYS + VALUE_BYTES do letters[i] = string.char(math.random(97, 122)) end
  local pool, values = table.concat(letters), {}
  for i = 1, KEYS do values[i] = pool:sub(i, i + VALUE_BYTES - 1) end
  return values
end

local function object(index)
  return {
    id = index, name = "Ada Lovelace " .. index, email = ("ada.%d@example.org"):format(index), age = 20 + index % 60,
    balance = index + 0.25, active = index % 2 == 0, city = "London", visits = index * 7, role = "editor",
    note = "likes engines",
  }
end

-- Few different ones: what lives beside the loop makes the collector's work in it longer.
local function objects()
  local few, values = {}, {}
  for i = 1, 100 do few[i] = object(i) end
  for i = 1, KEYS do values[i] = few[i % #few + 1] end
  return values
end

local function throughput(store, row, workers, seconds)
  local ofObjects = row:find("object") ~= nil
  local makeValues = ofObjects and objects or strings
  if store.id == 1 then
    store.loops[ofObjects and "set-object" or "set"](keysFrom(1, KEYS), makeValues(), 1, KEYS)
  end
  math.randomseed(store.id)
  local keys, loop = shuffle(keysFrom(1, KEYS)), store.loops[row]
  local values = (row:find("set") or row == "mix") and makeValues() or {}

  local function batch(first, last) loop(keys, values, first, last) end

  meet(store, workers, "warm up")
  local warmUps = together.loopFor(store, math.min(together.WARM_UP_NS, seconds * 1e9), KEYS, BATCH, batch)
  collectgarbage()
  meet(store, workers, "start")
  local ops, start, finish = together.loopFor(store, seconds * 1e9, KEYS, BATCH, batch)

  store.add("operations", warmUps + ops)
  meet(store, workers, "end")
  if row == "increment" and store.add(store.counter, 0) ~= store.add("operations", 0) then
    error("increments were lost")
  end
  say("ops=%d start_ns=%.0f end_ns=%.0f", ops, start, finish)
end

-- Calls fn(keys, values) with blocks of new keys. The keys are made, and the garbage of that is collected, between the
-- calls: neither is an operation's.
local function fill(count, fn)
  local values = strings()
  for first = 1, count, BLOCK do
    local keys = keysFrom(first, BLOCK)
    collectgarbage()
    fn(keys, values)
  end
  collectgarbage()
end

-- What these processes hold in memory, what they share counted once.
local function resident(pids)
  local bytes = 0
  for _, pid in ipairs(pids) do
    local file = assert(io.open(("/proc/%d/smaps_rollup"):format(pid)))
    bytes = bytes + 1024 * tonumber(file:read("*a"):match("\nPss:%s*(%d+)"))
    file:close()
  end
  return bytes
end

local function memory(store)
  local set = store.loops.set
  collectgarbage()
  local used, held = store.used(), resident(store.pids)
  fill(MEMORY_KEYS, function(keys, values) set(keys, values, 1, BLOCK) end)
  say("counted=%.1f resident=%.1f", (store.used() - used) / MEMORY_KEYS, (resident(store.pids) - held) / MEMORY_KEYS)
end

-- To two or three digits: the two million durations themselves would be a large table, and the collector's work on it
-- part of what is measured.
local function rounded(ns)
  local unit = 10
  while ns >= unit * 1000 do unit = unit * 10 end
  return ns - ns % unit
end

local function grow(store)
  local counts, slowest, took = {}, 0, {}
  local function take(keys, values)
    store.timed(keys, values, took)
    for i = 1, BLOCK do
      local ns = rounded(took[i])
      counts[ns] = (counts[ns] or 0) + 1
      slowest = math.max(slowest, took[i])
    end
  end
  fill(GROWN_KEYS, take)

  local sorted = {}
  for ns in pairs(counts) do sorted[#sorted + 1] = ns end
  table.sort(sorted)
  local function percentile(part)
    local seen = 0
    for _, ns in ipairs(sorted) do
      seen = seen + counts[ns]
      if seen >= part * GROWN_KEYS then return ns / 1e3 end
    end
  end
  say("p50_us=%.2f p99_us=%.2f p999_us=%.2f p9999_us=%.2f max_us=%.2f", percentile(0.5), percentile(0.99),
    percentile(0.999), percentile(0.9999), slowest / 1e3)
end

return function(store, row, workers, seconds)
  if row == "memory" then return memory(store) end
  if row == "grow" then return grow(store) end
  return throughput(store, row, workers, seconds)
end
