-- The side of nginx in scripts/bench/memory, for LuaJIT: init_worker_by_lua calls this file as
-- memory_nginx.lua(FOLDER, ROW, WORKERS, SECONDS) in each worker.
-- luacheck: read globals ngx
local cjson = require "cjson"
local ffi = require "ffi"

ffi.cdef "int getppid(void);"

local folder, row, workers, seconds = ...
local run = assert(loadfile(folder .. "/memory_harness.lua"))(folder)
local nginx = dofile(folder .. "/nginx_store.lua")

local encode, decode = cjson.encode, cjson.decode
local dict, store = ngx.shared.bench, nginx.store
local now = store.now
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

local function timed(keys, values, took)
  for i = 1, #keys do
    local start = now()
    local ok, _, evicted = dict:set(keys[i], values[i])
    took[i] = now() - start
    if not ok or evicted then error("set failed") end
  end
end

store.loops = loops
store.timed = timed
store.counter = counter
store.used = function() return dict:capacity() - dict:free_space() end
store.pids = { ffi.C.getppid(), ngx.worker.pid() }

nginx.start(function()
  dict:add(counter, 0)
  run(store, row, workers, seconds)
end)
