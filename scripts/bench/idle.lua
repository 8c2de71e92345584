-- A worker that only sleeps. It first says after how many milliseconds it came to life, by the clock time (as bash
-- knows it) in CM_BENCH_START, and who it is.
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local uv = require "luv"

local seconds, microseconds = uv.gettimeofday()
local start = tonumber(os.getenv("CM_BENCH_START")) or seconds

cluster.on("shutdown", function()
  cluster.exit(0)
end)
io.stdout:write(("ms=%.2f pid=%d\n"):format((seconds - start) * 1e3 + microseconds / 1e3, cluster.worker.pid)):flush()
task.sleep(3600000)
