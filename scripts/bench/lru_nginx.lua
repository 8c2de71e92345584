-- The side of nginx in scripts/bench/lru, for LuaJIT: init_worker_by_lua calls this file as
-- lru_nginx.lua(FOLDER, ROW, WORKERS, SECONDS) in each worker. Its cache is a dictionary of its own, `lru`, which gives
-- up what was used least recently when its memory is full.
-- luacheck: read globals ngx
local folder, row, workers, seconds = ...
local run = assert(loadfile(folder .. "/lru_harness.lua"))(folder)
local nginx = dofile(folder .. "/nginx_store.lua")

local dict, store = ngx.shared.lru, nginx.store
local MAX_AGE = 300 -- seconds

function store.loop(keys, values, order, first, last)
  local hits = 0
  for i = first, last do
    local index = order[i]
    if dict:get(keys[index]) then
      hits = hits + 1
    elseif not dict:set(keys[index], values[index], MAX_AGE) then
      error("set failed")
    end
  end
  return hits
end

function store.entries() return #dict:get_keys(0) end

nginx.start(function() run(store, row, workers, seconds) end)
