-- What scripts/bench/http asks for: "/hello", and "/counter", a page whose visitors are counted under a lock.
-- Usage: clustermem run -w N http.lua PORT
local memory = require "clustermem"
local http = require "clustermem.http"

local function count()
  local visitors = (memory.get("visitors") or 0) + 1
  memory.set("visitors", visitors)
  return visitors
end

assert(http.serve { host = "127.0.0.1", port = math.tointeger(tonumber((...))), handler = function(request, response)
  response:header("Content-Type", "text/plain")
  if request.path == "/hello" then return response:finish("hello\n") end
  response:finish(("you are visitor %d\n"):format(memory.mutex("visitors", count)))
end })
