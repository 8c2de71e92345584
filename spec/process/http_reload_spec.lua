local uv = require "luv"
local clusters = require "clusters"
local task = require "clustermem.task"
local wire = require "wire"

local connect, get = wire.connect, wire.get

-- Two workers, and wrk with this many connections that ask one question after the other; and so many answers before
-- each reload.
local CONNECTIONS = 16
local ANSWERS = 100
local RELOADS = clusters.isSanitized() and 5 or 20

local app = [[
  local http = require "clustermem.http"
  local server = assert(http.serve { port = 0, handler = function(request, response)
    if request.path == "/wait" then task.sleep(5) end
    local asked = request.path == "/asked" and memory.get("asked") or memory.increment("asked")
    response:finish(asked .. "\n")
  end })
  print("port", server.port)
]]

describe("a reload under load", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- Runs wrk until it is told to stop. @return a function that stops it and gives what it says
  local function load(port, path, ...)
    local stdout = uv.new_pipe(false)
    local text, over, code = "", 0, nil
    local args = { "-t", "1", "-c", tostring(CONNECTIONS), "-d", "80s", ... }
    args[#args + 1] = ("http://127.0.0.1:%s%s"):format(port, path)
    local handle, message
    handle, message = uv.spawn("wrk", { args = args, stdio = { nil, stdout, nil } }, function(exit)
      code, over = exit, over + 1
      handle:close()
    end)
    assert(handle, message)
    stdout:read_start(function(_, data)
      if data then text = text .. data return end
      over = over + 1
      stdout:close()
    end)
    return function(c)
      handle:kill("sigint") -- then it sums up
      c:waitUntil("the end of wrk", function() return over == 2 end)
      assert.equal(0, code)
      return text
    end
  end

  for name, options in pairs {
    ["that keep their connections"] = { "/" },
    ["that keep their connections, and whose answers take a while"] = { "/wait" },
    ["that connect for each request"] = { "/", "-H", "Connection: close" },
  } do
    it("loses no request of clients " .. name, function()
      local c = clusters.start { workers = 2, app = app, limit = 85000 }
      c:waitUntil("both workers", function() return c:count("port\t%d+\n") == 2 end)
      local port = c:waitFor("port\t(%d+)\n")
      local stop = load(port, table.unpack(options))
      for i = 1, RELOADS do
        c:waitUntil("some load", function()
          local _, answer = connect(port):send(get("/asked", "Connection: close")):answer()
          return tonumber(answer) >= ANSWERS * i
        end)
        c:kill("sighup")
        -- Each brings two new workers, and the end of two old ones.
        c:waitUntil("reload " .. i, function()
          return c:count("port\t%d+\n") == 2 + 2 * i and c:count(" exited with code 0\n", "err") == 2 * i
        end)
      end
      local text = stop(c)
      assert.not_matches("Socket errors", text)
      assert.not_matches("Non%-2xx", text)
      assert.is_true(tonumber(text:match("(%d+) requests in")) >= ANSWERS * RELOADS, text)
      c:kill("sigterm")
      assert.equal(0, c:waitExit(), c.err)
      assert.not_matches("killed", c.err)
    end)
  end

  it("goes on with the other worker when one is killed, and with its successor", function()
    local c = clusters.start { workers = 2, app = app, limit = 60000 }
    c:waitUntil("both workers", function() return c:count("port\t%d+\n") == 2 end)
    local stop = load(c:waitFor("port\t(%d+)\n"), "/wait")
    for i = 1, 3 do -- five in a row of one slot would be a crash loop
      c:kill("sigkill", (next(c:processes())))
      c:waitUntil("a successor", function() return c:count("port\t%d+\n") == 2 + i end)
      task.sleep(20)
    end
    local text = stop(c)
    -- What the killed ones had been asked is lost, if anything; no connection is refused, and none waits for nothing.
    local refused, late = text:match("connect (%d+), read %d+, write %d+, timeout (%d+)")
    assert.is_true(refused == nil or refused == "0" and late == "0", text)
    assert.is_true(tonumber(text:match("(%d+) requests in")) > 100, text)
    c:kill("sigterm")
    assert.equal(0, c:waitExit(), c.err)
  end)
end)
