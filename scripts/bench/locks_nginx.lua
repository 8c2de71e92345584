-- The side of nginx in scripts/bench/locks, for LuaJIT: init_worker_by_lua calls this file as
-- locks_nginx.lua(FOLDER, ROW, WORKERS, SECONDS) in each worker. The lock is that of lua-resty-lock, with its defaults:
-- add() takes it; while it is taken, sleeps of 1 ms, 2 ms, 4 ms and so on to 500 ms.
-- luacheck: read globals ngx
local folder, row, workers, seconds = ...
local run = assert(loadfile(folder .. "/locks_harness.lua"))(folder)
local nginx = dofile(folder .. "/nginx_store.lua")

local FIRST_SLEEP_S, LONGEST_SLEEP_S, EXPIRES_S = 0.001, 0.5, 30

local dict, store = ngx.shared.bench, nginx.store
local now = store.now

-- Made once: in LuaJIT joining strings would cost as much as an operation.
local lockOf = setmetatable({}, { __index = function(names, key)
  names[key] = "lock:" .. key
  return names[key]
end })

local function lock(name)
  local ok, message = dict:add(name, true, EXPIRES_S)
  local pause_s = FIRST_SLEEP_S
  while not ok do
    if message ~= "exists" then error("add: " .. message) end
    ngx.sleep(pause_s)
    pause_s = math.min(2 * pause_s, LONGEST_SLEEP_S)
    ok, message = dict:add(name, true, EXPIRES_S)
  end
end

local function increment(key)
  if not dict:set(key, dict:get(key) + 1) then error("set failed") end
end

function store.get(key) return dict:get(key) end

function store.set(key, number) assert(dict:set(key, number)) end

function store.increments(keys, first, last)
  for i = first, last do
    local key = keys[i]
    local name = lockOf[key]
    lock(name)
    increment(key)
    dict:delete(name)
  end
end

function store.waits(keys, first, last)
  local longest = 0
  for i = first, last do
    local key = keys[i]
    local name = lockOf[key]
    local asked = now()
    lock(name)
    longest = math.max(longest, now() - asked)
    increment(key)
    dict:delete(name)
  end
  return longest
end

nginx.start(function() run(store, row, workers, seconds) end)
