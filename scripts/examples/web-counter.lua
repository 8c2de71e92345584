-- Every worker serves: they count visits under a mutex, share a cached page, and hear of each other's visits.
--
--   clustermem -w 4 web-counter.lua 8080
--
-- Without a port each worker visits the server itself a few times, and ends.
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local http = require "clustermem.http"
local task = require "clustermem.task"
local uv = require "luv"

local VISITS = 3
local me, port = cluster.worker, tonumber((...))

local function count(lockId)
  local visits = memory.get "visits" or { count = 0 }
  visits = { count = visits.count + 1, by = me.id }
  assert(memory.set("visits", visits, { fence = lockId }))
  return visits.count
end

local function makePage()
  print(("worker %d makes the page"):format(me.id))
  task.sleep(10)
  return "Welcome, visitor %d\n"
end

local function handler(request, response)
  if request.path ~= "/" then
    response:status(404):finish("there is only /\n")
    return
  end
  local number = assert(memory.mutex("visits", count))
  local page = assert(memory.fetchLRU("page", makePage, { maxAge = 60000 }))
  response:header("Content-Type", "text/plain"):finish(page:format(number))
end

memory.listen("visits", function(visits)
  print(("worker %d hears of visit %d, of worker %d"):format(me.id, visits.count, visits.by))
end)
local server = assert(http.serve { port = port or 0, handler = handler })
print(("worker %d serves port %d"):format(me.id, server.port))
if port then return end

local function visit()
  local socket, parts = uv.new_tcp(), {}
  assert(not task.await(function(resume) socket:connect(server.host, server.port, resume) end))
  socket:write("GET / HTTP/1.0\r\n\r\n")
  task.await(function(resume)
    socket:read_start(function(_, part) if part then parts[#parts + 1] = part else resume() end end)
  end)
  socket:close()
  return table.concat(parts):match("\r\n\r\n(.*)")
end

for _ = 1, VISITS do io.write(("worker %d: %s"):format(me.id, visit())) end
server:close()
cluster.exit(0) -- who listens for changes would stay
