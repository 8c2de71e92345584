-- What memory_nginx.lua and locks_nginx.lua share, for LuaJIT in init_worker_by_lua: what together.lua needs of a
-- store, and the start.
-- luacheck: read globals ngx
local ffi = require "ffi"
require "resty.core"

ffi.cdef [[
  typedef struct { long s; long ns; } bench_time;
  int clock_gettime(int clock, bench_time *time);
]]

local C, tonumber = ffi.C, tonumber
local dict = ngx.shared.bench
local time = ffi.new("bench_time")
local CLOCK_MONOTONIC = 1

local store = { id = ngx.worker.id() + 1 }

function store.now()
  C.clock_gettime(CLOCK_MONOTONIC, time)
  return tonumber(time.s) * 1e9 + tonumber(time.ns)
end

function store.add(key, delta) return assert(dict:incr(key, delta, 0)) end

function store.sleep(ms) ngx.sleep(ms / 1e3) end

-- In a timer, because the init_worker phase may not sleep. An error would only be logged: the script that waits for
-- the figures gets it instead.
local function start(fn)
  assert(ngx.timer.at(0, function()
    local ok, message = pcall(fn)
    if not ok then
      io.stdout:write("error: ", tostring(message), "\n")
      io.stdout:flush()
    end
  end))
end

return { store = store, start = start }
