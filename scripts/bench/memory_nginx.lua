-- The side of nginx in scripts/bench/memory, for LuaJIT: init_worker_by_lua calls this file as
-- memory_nginx.lua(FOLDER, ROW, WORKERS, SECONDS) in each worker.
-- luacheck: read globals ngx
local cjson = require "cjson"
local ffi = require "ffi"
require "resty.core"

ffi.cdef [[
  typedef struct { long s; long ns; } bench_time;
  int clock_gettime(int clock, bench_time *time);
  int getppid(void);
]]

local folder, row, workers, seconds = ...
local run = dofile(folder .. "/memory_harness.lua")

local C, tonumber = ffi.C, tonumber
local encode, decode = cjson.encode, cjson.decode
local dict = ngx.shared.bench
local counter = "counter:00000000"
local loops = {}

function loops.get(keys, _, first, last)
  for i = first, last do
    if not dict:get(keys[i]) then error("get: nothing there") end
  end
end

-- The third result says that another entry had to go for this one, which would make the figures worthless.
function loops.set(keys, values, first, last)
  for i = first, last do
    local ok, _, evicted = dict:set(keys[i], values[i])
    if not ok or evicted then error("set failed") end
  end
end

function loops.increment(_, _, first, last)
  for _ = first, last do
    if not dict:incr(counter, 1) then error("incr failed") end
  end
end

function loops.mix(keys, values, first, last)
  for i = first, last do
    if i % 10 == 0 then
      if not dict:set(keys[i], values[i]) then error("set failed") end
    else
      if not dict:get(keys[i]) then error("get: nothing there") end
    end
  end
end

loops["get-object"] = function(keys, _, first, last)
  for i = first, last do
    if not decode(dict:get(keys[i])) then error("get: nothing there") end
  end
end

loops["set-object"] = function(keys, values, first, last)
  for i = first, last do
    local ok, _, evicted = dict:set(keys[i], encode(values[i]))
    if not ok or evicted then error("set failed") end
  end
end

local time = ffi.new("bench_time")
local CLOCK_MONOTONIC = 1

local function now()
  C.clock_gettime(CLOCK_MONOTONIC, time)
  return tonumber(time.s) * 1e9 + tonumber(time.ns)
end

local function timed(keys, values, took)
  for i = 1, #keys do
    local start = now()
    local ok, _, evicted = dict:set(keys[i], values[i])
    took[i] = now() - start
    if not ok or evicted then error("set failed") end
  end
end

local store = {
  id = ngx.worker.id() + 1,
  loops = loops,
  timed = timed,
  counter = counter,
  add = function(key, delta) return assert(dict:incr(key, delta, 0)) end,
  now = now,
  sleep = function(ms) ngx.sleep(ms / 1e3) end,
  used = function() return dict:capacity() - dict:free_space() end,
  pids = { C.getppid(), ngx.worker.pid() },
}

-- In a timer, because the init_worker phase may not sleep. An error would only be logged: the script that waits for
-- the figures gets it instead.
assert(ngx.timer.at(0, function()
  dict:add(counter, 0)
  local ok, message = pcall(run, store, row, workers, seconds)
  if not ok then
    io.stdout:write("error: ", tostring(message), "\n")
    io.stdout:flush()
  end
end))
