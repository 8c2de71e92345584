-- The page of scripts/bench/http that counts its visitors, in nginx: the lock as in scripts/bench/locks_nginx.lua.
-- luacheck: read globals ngx
local FIRST_SLEEP_S, LONGEST_SLEEP_S, EXPIRES_S = 0.001, 0.5, 30

local dict = ngx.shared.bench

local ok, message = dict:add("lock:visitors", true, EXPIRES_S)
local pause_s = FIRST_SLEEP_S
while not ok do
  if message ~= "exists" then error("add: " .. message) end
  ngx.sleep(pause_s)
  pause_s = math.min(2 * pause_s, LONGEST_SLEEP_S)
  ok, message = dict:add("lock:visitors", true, EXPIRES_S)
end
local visitors = (dict:get("visitors") or 0) + 1
dict:set("visitors", visitors)
dict:delete("lock:visitors")
ngx.print("you are visitor ", visitors, "\n")
