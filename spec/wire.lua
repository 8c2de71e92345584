--- Servers in clusters of their own, and clients on bare sockets, for specs: what is sent goes out as it is. Each wait
-- has an end.
local uv = require "luv"
local clusters = require "clusters"
local task = require "clustermem.task"

local wire = {}

local LIMIT_MS = 20000

local Socket = {}
Socket.__index = Socket

--- Connects to a port of this machine. @return the socket, which collects what comes in `data`
function wire.connect(port)
  local self = setmetatable({ tcp = uv.new_tcp(), data = "", ended = false }, Socket)
  local err = task.await(function(resume) self.tcp:connect("127.0.0.1", math.tointeger(port), resume) end)
  assert(not err, err)
  self.tcp:nodelay(true)
  self:resume()
  return self
end

--- Reads on; at first it reads.
function Socket:resume()
  self.tcp:read_start(function(err, data)
    if data then self.data = self.data .. data end
    -- Who closes with input unread resets the connection.
    if err or not data then self.ended, self.err = true, err end
  end)
end

--- Reads nothing until it is told to go on.
function Socket:pause()
  self.tcp:read_stop()
end

--- Sends, without waiting for it.
function Socket:send(text)
  self.tcp:write(text, function() end)
  return self
end

--- Sends, and waits until the kernel has it.
function Socket:push(text)
  task.await(function(resume) self.tcp:write(text, resume) end)
end

function Socket:waitUntil(what, fn)
  local deadline = uv.now() + LIMIT_MS
  while true do
    local result = fn()
    if result then return result end
    if uv.now() > deadline then error(("too late: %s; there is: %s"):format(what, self.data:sub(1, 2000)), 3) end
    task.sleep(2)
  end
end

--- Waits until what has come matches, and takes it up to there. @return it
function Socket:waitFor(pattern)
  return self:waitUntil(("'%s'"):format(pattern), function()
    local _, last = self.data:find(pattern)
    if not last and self.ended then error(("it ended without '%s': %s"):format(pattern, self.data), 4) end
    if not last then return nil end
    local taken = self.data:sub(1, last)
    self.data = self.data:sub(last + 1)
    return taken
  end)
end

--- Waits for the other side's end. @return all that is left
function Socket:waitEnd()
  self:waitUntil("the end", function() return self.ended end)
  self:close()
  return self.data
end

function Socket:close()
  if not self.tcp:is_closing() then self.tcp:close() end
end

--- Takes one answer with a Content-Length. @return status, body, head
function Socket:answer()
  local head = self:waitFor("\r\n\r\n")
  local length = tonumber(head:match("\r\nContent%-Length: (%d+)\r\n")) or 0
  self:waitUntil("the body", function() return #self.data >= length end)
  local body = self.data:sub(1, length)
  self.data = self.data:sub(length + 1)
  return tonumber(head:match("^HTTP/1.1 (%d+) ")), body, head
end

--- Sends on a connection of its own, and gives all that comes back until the other side ends it.
function wire.exchange(port, text)
  return wire.connect(port):send(text):waitEnd()
end

--- Sends on a connection of its own. @return status, body, head
function wire.ask(port, text)
  local socket = wire.connect(port):send(text)
  local status, body, head = socket:answer()
  socket:close()
  return status, body, head
end

--- Lines as a head.
function wire.head(...)
  return table.concat({ ... }, "\r\n") .. "\r\n\r\n"
end

--- A request without a body, with further header fields.
function wire.get(path, ...)
  return wire.head("GET " .. path .. " HTTP/1.1", "Host: a", ...)
end

--- A request with a body.
function wire.post(path, body, ...)
  return wire.head("POST " .. path .. " HTTP/1.1", "Host: a", "Content-Length: " .. #body, ...) .. body
end

local prelude = [[
  local http = require "clustermem.http"
  local server
  local function serve(options)
    options.port = options.port or 0
    local handler = options.handler
    options.handler = function(request, response)
      if request.path == "/close" then server:close(function() print "closed" end) return end
      return handler(request, response)
    end
    server = assert(http.serve(options))
    print("port " .. server.port)
  end
]]

--- Starts a cluster whose script has `serve(options)`, which calls http.serve; what is asked for `/close` closes that.
-- @treturn the cluster, and the port
function wire.serve(app, options)
  options = options or {}
  options.app, options.limit = prelude .. app, 60000
  local c = clusters.start(options)
  return c, c:waitFor("port (%d+)\n")
end

--- Closes the server, which lets its cluster end by itself: with what a sanitizer has to say.
function wire.finish(c, port)
  assert(wire.ask(port, wire.get("/close")) == 200)
  local code = c:waitExit()
  if code ~= 0 or not c.out:find("closed\n") then c:fail("it did not end well: exit code " .. code) end
end

return wire
