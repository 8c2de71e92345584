-- The master script beside idle.lua: says when the fourth worker was online, and ends the cluster.
local cluster = require "clustermem.cluster"
local uv = require "luv"

local expected = 4
local start = tonumber(os.getenv("CM_BENCH_START"))

local online = 0
cluster.on("online", function()
  online = online + 1
  if online == expected then
    local seconds, microseconds = uv.gettimeofday()
    io.stdout:write(("all_ms=%.2f\n"):format((seconds - start) * 1e3 + microseconds / 1e3)):flush()
    cluster.shutdown()
  end
end)
