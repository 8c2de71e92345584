-- Our side of scripts/bench/storage. Usage: clustermem run -w WORKERS storage.lua FOLDER ROW WORKERS SECONDS PLACE
-- DOCUMENTS, FOLDER being the one of this file and PLACE that of the storage's file.
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local uv = require "luv"
local Storage = require "clustermem.storage"

local folder, row, workers, seconds, place, documents = ...
workers, seconds, documents = tonumber(workers), tonumber(seconds), math.tointeger(tonumber(documents))
local together = dofile(folder .. "/together.lua")
local say = together.say

-- KEYS as in storage_lmdb.c and storage_node.js; TASKS in each worker, as in the latter.
local KEYS, VALUE_BYTES, TASKS, BATCH = 10000, 100, 50, 500

local hrtime = uv.hrtime
local harness = {
  add = function(key, delta) return assert(memory.increment(key, math.tointeger(delta))) end,
  now = hrtime,
  sleep = task.sleep,
}

local function open()
  local opened = hrtime()
  local store, message = Storage.new("bench", { path = place })
  assert(store, message)
  return store, (hrtime() - opened) / 1e6
end

-- A document as small as they come, and one that a part is taken of.
local filler = ("x"):rep(VALUE_BYTES - 10)
local function small(index)
  return ("%010d"):format(index) .. filler
end
local function large(index)
  local doc = { user = { id = index, name = "Ada Lovelace " .. index }, tags = {}, log = {} }
  for i = 1, 20 do
    doc.tags[i] = "tag " .. i
    doc.log["entry" .. i] = { at = i, what = "something that has happened" }
  end
  return doc
end

-- Does it in many tasks until the time is up. Returns as together.loopFor.
local function tasksFor(ns, operate)
  local start, ops, finish = hrtime(), 0, 0
  local function work()
    local at = math.random(KEYS)
    repeat
      operate(at)
      ops, at, finish = ops + 1, at % KEYS + 1, hrtime()
    until finish - start >= ns
  end
  local works = {}
  for i = 1, TASKS do works[i] = work end
  task.all(works)
  return ops, start, finish
end

local function loopFor(ns, operate)
  return together.loopFor(harness, ns, KEYS, BATCH, function(first, last)
    for i = first, last do operate(i) end
  end)
end

local function throughput(loop, operate)
  math.randomseed(cluster.worker.slot)
  together.meet(harness, workers, "warm up")
  loop(math.min(together.WARM_UP_NS, seconds * 1e9), operate)
  collectgarbage()
  together.meet(harness, workers, "start")
  local ops, start, finish = loop(seconds * 1e9, operate)
  say("ops=%d start_ns=%.0f end_ns=%.0f wait_ms=0", ops, start, finish)
end

local names = {}
for i = 1, KEYS do names[i] = { ("doc%013d"):format(i) } end

local rows = {}

function rows.set()
  local store = open()
  throughput(tasksFor, function(at) assert(store:set(names[at], small(at))) end)
end

function rows.sync()
  local store = open()
  throughput(tasksFor, function(at)
    assert(store:set(names[at], small(at)))
    assert(store:sync())
  end)
end

function rows.part()
  local store = open()
  for i = 1, KEYS do store:set(names[i], large(i), nil, function() end) end
  assert(store:sync())
  local paths = {}
  for i = 1, KEYS do paths[i] = names[i][1] .. ".user.name" end
  throughput(loopFor, function(at)
    if not store:get(paths[at]) then error("get: nothing there") end
  end)
end

function rows.memory()
  local keys = {}
  for i = 1, KEYS do
    keys[i] = names[i][1]
    memory.set(keys[i], large(i).user.name)
  end
  throughput(loopFor, function(at)
    if not memory.get(keys[at]) then error("get: nothing there") end
  end)
end

-- Makes the file that `start` opens.
function rows.fill()
  local store = open()
  local next = 0
  local function work()
    while next < documents do
      next = next + 1
      assert(store:set({ "doc" .. next }, small(next)))
    end
  end
  local works = {}
  for i = 1, TASKS do works[i] = work end
  task.all(works)
  assert(store:sync())
  say("documents=%d", documents)
end

function rows.start()
  local store, ms = open()
  assert(store:get { "doc1" } == small(1) and store:get { "doc" .. documents } == small(documents))
  say("ms=%.1f documents=%d", ms, documents)
end

rows[row]()
