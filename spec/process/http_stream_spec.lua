local clusters = require "clusters"
local wire = require "wire"
local task = require "clustermem.task"
local uv = require "luv"

local get, post, head, connect = wire.get, wire.post, wire.head, wire.connect

-- What chunks say, and whether there is a last one.
local function unchunk(text)
  local parts, at = {}, 1
  while true do
    local size, first = text:match("^(%x+)\r\n()", at)
    if not size then return table.concat(parts), false end
    size = tonumber(size, 16)
    parts[#parts + 1] = text:sub(first, first + size - 1)
    at = first + size + 2
    if size == 0 then return table.concat(parts), true end
  end
end

-- A process's resident memory in KiB.
local function resident(pid)
  return tonumber(clusters.read(("/proc/%d/status"):format(pid)):match("\nVmRSS:%s*(%d+) kB"))
end

describe("a streamed answer", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local parts = [[
    serve {
      handler = function(_, response)
        for i = 1, 5 do
          assert(response:write("part " .. i .. ", ") == response)
          task.sleep(2)
        end
        response:finish("end")
      end,
    }
  ]]
  local WHOLE = "part 1, part 2, part 3, part 4, part 5, end"

  it("is in chunks, and the connection stays", function()
    local c, port = wire.serve(parts)
    local socket = connect(port)
    for _ = 1, 2 do
      socket:send(get("/"))
      assert.matches("\r\nTransfer%-Encoding: chunked\r\n", socket:waitFor("\r\n\r\n"))
      assert.same({ WHOLE, true }, { unchunk(socket:waitFor("\r\n0\r\n\r\n")) })
    end
    socket:close()
    wire.finish(c, port)
  end)

  it("ends with the connection for HTTP/1.0", function()
    local c, port = wire.serve(parts)
    local answer = wire.exchange(port, head("GET / HTTP/1.0", "Connection: keep-alive"))
    assert.not_matches("chunked", answer)
    assert.matches("\r\n\r\n" .. WHOLE .. "$", answer)
    wire.finish(c, port)
  end)

  it("that is whole before it leaves has a length", function()
    local c, port = wire.serve [[
      serve { handler = function(_, response) response:write("one, "):write("two"):finish(", three") end }
    ]]
    assert.equal("one, two, three", (select(2, wire.ask(port, get("/")))))
    wire.finish(c, port)
  end)

  it("comes whole to a slow reader, and takes little memory meanwhile", function()
    local c, port = wire.serve [[
      print("pid " .. cluster.worker.pid)
      local chunk = ("0123456789abcdef"):rep(2048)
      serve {
        idleTimeout = 30000,
        handler = function(_, response)
          for i = 1, 4096 do -- 128 MiB
            response:write(chunk)
            if i % 16 == 0 then print("wrote " .. i) end
          end
        end,
      }
    ]]
    local pid = c:waitFor("pid (%d+)\n")
    local before = resident(pid)
    local socket = connect(port)
    socket:pause()
    socket:send(get("/", "Connection: close"))
    local wrote, still = 0, 0
    c:waitUntil("the writer's rest", function() -- which is when it writes nothing for a while
      local now = c:count("wrote %d+\n")
      still = now == wrote and wrote > 0 and still + 1 or 0
      wrote = now
      return still > 60
    end)
    assert.is_true(wrote < 200, "it has written " .. wrote)
    local grown = resident(pid) - before
    assert.is_true(clusters.isSanitized() or grown < 6000, "it has grown by " .. grown .. " KiB")
    local size, tail = 0, ""
    socket.tcp:read_start(function(_, data)
      if not data then socket.ended = true return end
      size, tail = size + #data, (tail .. data):sub(-5)
    end)
    socket:waitUntil("the end", function() return socket.ended end)
    socket:close()
    assert.equal("0\r\n\r\n", tail)
    assert.is_true(size > 128 * 1048576 and size < 129 * 1048576, size)
    grown = resident(pid) - before
    assert.is_true(clusters.isSanitized() or grown < 6000, "it has grown by " .. grown .. " KiB")
    wire.finish(c, port)
  end)

  it("is given up when its client reads nothing for too long", function()
    local c, port = wire.serve [[
      serve {
        idleTimeout = 1000,
        handler = function(_, response)
          local written, message, code
          repeat
            written, message, code = response:write(("x"):rep(100000))
          until not written
          print(message and code)
        end,
      }
    ]]
    local socket = connect(port)
    socket:pause()
    socket:send(get("/"))
    c:waitFor("closed\n")
    socket:close()
    wire.finish(c, port)
  end)

  it("ends quietly when its client is gone, and so does what waits", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          print("asked")
          if request.path == "/wait" then
            task.sleep(100)
            print("headers", request.headers.host, request.method, request.target, request.remoteAddress)
            print("finish", (select(3, response:finish(("x"):rep(1000000)))))
            return
          end
          local code
          repeat
            local written, _, why = response:write("x")
            code = why
            task.sleep(5)
          until not written
          print("write", code, response:write("y"))
          print("headers", request.headers.host, request.method, request.target, request.remoteAddress)
          print("finish", select(3, response:finish()))
        end,
      }
    ]]
    local socket = connect(port):send(get("/parts?x"))
    socket:waitFor("x\r\n")
    socket:close()
    c:waitFor("write\tclosed\tnil\t[^\n]*\tclosed\nheaders\ta\tGET\t/parts%?x\t127.0.0.1\nfinish\tclosed\n")
    socket = connect(port):send(get("/wait"))
    c:waitFor("asked\nwrite.*asked\n")
    socket:close()
    c:waitFor("headers\ta\tGET\t/wait\t127.0.0.1\nfinish")
    wire.finish(c, port)
    assert.not_matches("traceback", c.err)
  end)

  it("can be written by several tasks that wait for its reader", function()
    local c, port = wire.serve [[
      serve {
        handler = function(_, response)
          local tasks = {}
          for i = 1, 8 do
            tasks[i] = task.spawn(function()
              for _ = 1, 10 do assert(response:write(tostring(i):rep(100000))) end
            end)
          end
          for i = 1, 8 do task.join(tasks[i]) end
          response:finish("end")
        end,
      }
    ]]
    local socket = connect(port)
    socket:pause()
    socket:send(get("/"))
    task.sleep(30)
    socket:resume()
    socket:waitFor("\r\n\r\n")
    local text, whole = unchunk(socket:waitFor("\r\n0\r\n\r\n"))
    assert.is_true(whole)
    for i = 1, 8 do assert.equal(1000000, select(2, text:gsub(tostring(i), ""))) end
    socket:close()
    wire.finish(c, port)
  end)

  it("takes a callback", function()
    local c, port = wire.serve [[
      serve {
        handler = function(_, response)
          task.await(function(resume)
            response:write(("x"):rep(1000000), function(...) print(... == response, select("#", ...)) resume() end)
          end)
        end,
      }
    ]]
    local socket = connect(port):send(get("/"))
    socket:waitFor("0\r\n\r\n")
    socket:close()
    wire.finish(c, port)
    assert.matches("true\t1\n", c.out)
  end)
end)

describe("a streamed request", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local reading = [[
    serve {
      stream = true, maxBody = 100000000, idleTimeout = 1000,
      handler = function(request, response)
        print("head " .. request.path)
        if request.path == "/ignore" then return response:finish("ignored") end
        if request.path == "/early" then
          print("first", #request:read())
          response:write("answer")
          print("rest", select(3, request:read()))
          return
        end
        if request.path == "/body" then
          print(pcall(function() return request.body end))
          print(pcall(request.json, request))
          return
        end
        if request.path == "/error" then error "on purpose" end
        local size, pieces, message, code = 0, 0
        while true do
          local chunk
          chunk, message, code = request:read()
          if not chunk then break end
          size, pieces = size + #chunk, pieces + 1
          if request.path == "/slowly" then task.sleep(2) end
        end
        print("read", size, pieces > 0, code)
        response:finish(tostring(size))
      end,
    }
  ]]

  it("is read piece by piece, whichever way it comes", function()
    local c, port = wire.serve(reading)
    assert.equal("5", (select(2, wire.ask(port, post("/", "hello")))))
    assert.equal("0", (select(2, wire.ask(port, get("/")))))
    assert.equal("10", (select(2, wire.ask(port, head("PUT / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
      .. "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"))))
    local socket = connect(port):send(head("POST /parts HTTP/1.1", "Host: a", "Content-Length: 10"))
    c:waitFor("head /parts\n") -- before the body has come
    for _ = 1, 10 do
      socket:push("x")
      task.sleep(1)
    end
    assert.equal("10", (select(2, socket:answer())))
    socket:close()
    wire.finish(c, port)
  end)

  it("is taken no faster than it is read", function()
    local c, port = wire.serve(reading)
    local socket = connect(port):send(post("/slowly", ("x"):rep(20000000)))
    assert.equal("20000000", (select(2, socket:answer())))
    assert.equal("ignored", (select(2, socket:send(post("/ignore", ("x"):rep(3000000))):answer())))
    assert.equal("0", (select(2, socket:send(get("/")):answer())))
    socket:close()
    wire.finish(c, port)
  end)

  it("loses what is left of it when the answer begins", function()
    local c, port = wire.serve(reading)
    local socket = connect(port):send(post("/early", ("x"):rep(5000000)))
    assert.equal("answer", (select(2, socket:answer())))
    socket:close()
    wire.finish(c, port)
    assert.matches("rest\tclosed\n", c.out)
  end)

  it("has no body as a whole, and an error in its handler is a 500", function()
    local c, port = wire.serve(reading)
    assert.equal(200, (wire.ask(port, post("/body", "hello"))))
    assert.equal(500, (wire.ask(port, post("/error", "hello"))))
    wire.finish(c, port)
    assert.equal(2, c:count("false\tapp.lua:%d+: request.body: with the option stream"))
  end)

  it("ends with closed when its client is gone or stops sending", function()
    local c, port = wire.serve(reading)
    local socket = connect(port)
    socket:push(post("/", "hello"):sub(1, -2))
    c:waitFor("head /\n")
    socket:close()
    c:waitFor("read\t4\ttrue\tclosed\n")
    local from = uv.hrtime()
    socket = connect(port)
    socket:push(post("/", "hello"):sub(1, -3))
    c:waitFor("read\t3\ttrue\tclosed\n")
    assert.is_true((uv.hrtime() - from) / 1e6 > 900)
    socket:close()
    wire.finish(c, port)
  end)

  it("wakes what its handler has left waiting, when the client is gone", function()
    local c, port = wire.serve [[
      serve {
        stream = true,
        handler = function(request, response)
          if request.path == "/read" then
            request:read(function(...) print("read", (select(3, ...))) end)
          else
            response:write(("x"):rep(10000000), function(...) print("written", ... == response) end)
          end
          print("returned")
        end,
      }
    ]]
    local socket = connect(port)
    socket:push(post("/read", "hello"):sub(1, -6))
    c:waitFor("returned\n")
    socket:close()
    c:waitFor("read\tclosed\n")
    socket = connect(port)
    socket:pause()
    socket:send(get("/write"))
    c:waitFor("returned\n.*returned\n")
    socket:close()
    c:waitFor("written\ttrue\n")
    wire.finish(c, port)
  end)
end)
