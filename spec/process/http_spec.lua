local clusters = require "clusters"
local wire = require "wire"
local task = require "clustermem.task"
local cjson = require "cjson"

local ask, get, post, head, connect = wire.ask, wire.get, wire.post, wire.head, wire.connect

-- Answers with what it was asked.
local mirror = [[
  serve {
    handler = function(request, response)
      if request.path == "/wait" then task.sleep(30) end
      response:header("X-Method", request.method)
      response:finish(("%s %s %s"):format(request.path, request.headers["x-tag"] or "-", request.body))
    end,
  }
]]

describe("an HTTP server", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("answers a request however it is cut in two", function()
    local c, port = wire.serve(mirror)
    local text = head("POST /a%20b?c=d HTTP/1.1", "Host: a", "X-Tag: t", "Transfer-Encoding: chunked")
      .. "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n" .. get("/next")
    for cut = 1, #text - 1 do
      local socket = connect(port)
      socket:push(text:sub(1, cut))
      task.sleep(1)
      socket:push(text:sub(cut + 1))
      assert.equal("/a b t hello world", (select(2, socket:answer())))
      assert.equal("/next - ", (select(2, socket:answer())))
      socket:close()
    end
    wire.finish(c, port)
  end)

  it("answers a request that comes a byte at a time", function()
    local c, port = wire.serve(mirror)
    local socket = connect(port)
    for byte in post("/slow", "hello"):gmatch(".") do
      socket:push(byte)
      task.sleep(0)
    end
    assert.equal("/slow - hello", (select(2, socket:answer())))
    socket:close()
    wire.finish(c, port)
  end)

  it("answers what was sent at once in its order, also when some answers wait", function()
    local c, port = wire.serve(mirror)
    local parts = {}
    for i = 1, 40 do parts[i] = get(i % 7 == 0 and "/wait" or "/" .. i, "X-Tag: " .. i) end
    local socket = connect(port):send(table.concat(parts))
    for i = 1, 40 do
      local status, body = socket:answer()
      assert.equal(200, status)
      assert.equal(("%s %d "):format(i % 7 == 0 and "/wait" or "/" .. i, i), body)
    end
    socket:close()
    wire.finish(c, port)
  end)

  it("lets other requests run while one waits", function()
    local c, port = wire.serve [[
      local waiting
      serve {
        handler = function(request, response)
          if request.path == "/first" then task.await(function(resume) waiting = resume end) end
          if request.path == "/second" then waiting() end
          response:finish(request.path)
        end,
      }
    ]]
    local first = connect(port):send(get("/first"))
    local second = connect(port)
    repeat -- until the first one waits
      local status = second:send(get("/second")):answer()
    until status == 200
    assert.equal("/first", (select(2, first:answer())))
    first:close()
    second:close()
    c:waitUntil("no more", function() return true end)
    wire.finish(c, port)
  end)

  it("keeps a connection as HTTP says", function()
    local c, port = wire.serve(mirror)
    local socket = connect(port)
    for _ = 1, 3 do assert.equal(200, (socket:send(get("/")):answer())) end
    socket:send(get("/", "Connection: close"))
    assert.matches("\r\nConnection: close\r\n", select(3, socket:answer()))
    assert.equal("", socket:waitEnd())
    assert.matches("^HTTP/1.1 200 OK\r\n.*\r\n\r\n/ %- $", wire.exchange(port, head("GET / HTTP/1.0")))
    socket = connect(port)
    for _ = 1, 2 do
      socket:send(head("GET / HTTP/1.0", "Connection: keep-alive"))
      assert.matches("\r\nConnection: Keep%-Alive\r\n", select(3, socket:answer()))
    end
    socket:close()
    wire.finish(c, port)
  end)

  it("answers a client that has closed its half", function()
    local c, port = wire.serve(mirror)
    for _, path in ipairs { "/", "/wait" } do
      local socket = connect(port):send(post(path, "hello"))
      task.await(function(resume) socket.tcp:shutdown(resume) end)
      assert.matches("^HTTP/1.1 200 OK\r\n.*\r\n\r\n" .. path .. " %- hello$", socket:waitEnd())
    end
    wire.finish(c, port)
  end)

  it("answers HEAD like GET, without the body", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          if request.path == "/whole" then return response:finish(("x"):rep(1000)) end
          for _ = 1, 100 do
            response:write(("x"):rep(10000))
            task.sleep(0)
          end
        end,
      }
    ]]
    local socket = connect(port):send(head("HEAD /whole HTTP/1.1", "Host: a"))
    assert.matches("\r\nContent%-Length: 1000\r\n", socket:waitFor("\r\n\r\n"))
    socket:send(head("HEAD /parts HTTP/1.1", "Host: a"))
    assert.matches("^HTTP/1.1 200 OK\r\n[^\r]*\r\nConnection: close\r\n\r\n$", socket:waitEnd())
    wire.finish(c, port)
  end)

  it("sends no body with a status that has none", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          response:status(tonumber(request.path:match("%d+")))
          if request.path:find "whole" then return response:finish("body") end
          for _ = 1, 3 do
            response:write("body")
            task.sleep(1)
          end
        end,
      }
    ]]
    for _, status in ipairs { 204, 304 } do
      for _, way in ipairs { "whole", "parts" } do
        local socket = connect(port):send(get("/" .. status .. way, "Connection: close"))
        assert.matches(("^HTTP/1.1 %d [^\r]+\r\n.*\r\n\r\n$"):format(status), socket:waitEnd())
      end
    end
    wire.finish(c, port)
  end)

  it("tells who waits for it to go on with the body", function()
    local c, port = wire.serve(mirror)
    local socket = connect(port):send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Expect: 100-continue"))
    assert.equal("HTTP/1.1 100 Continue\r\n\r\n", socket:waitFor("\r\n\r\n"))
    socket:send("hello")
    assert.equal("/ - hello", (select(2, socket:answer())))
    socket:close()
    wire.finish(c, port)
  end)

  it("gives the handler all of a request", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          response:json {
            method = request.method, target = request.target, path = request.path, query = request.query,
            headers = request.headers, body = request.body, remote = request.remoteAddress, other = request.other,
          }
        end,
      }
    ]]
    local target = "/a%2Fb%00%zz?x=1&y=%20+%C3%BC&x=2&flag&=n&a=b=c"
    local _, body, answerHead = ask(port, head("PUT " .. target .. " HTTP/1.1", "hOST: a",
      "Cookie: a=1", "X-List: one", "Cookie: b=2", "X-List:two", "X-Empty:", "Content-Length: 4") .. "a\0b\255")
    assert.matches("\r\nContent%-Type: application/json\r\n", answerHead)
    assert.same({
      method = "PUT", target = target, path = "/a/b\0%zz",
      query = { x = "2", y = "  ü", flag = "", [""] = "n", a = "b=c" },
      headers = {
        host = "a", cookie = "a=1; b=2", ["x-list"] = "one, two", ["x-empty"] = "", ["content-length"] = "4",
      },
      body = "a\0b\u{FFFD}", remote = "127.0.0.1",
    }, cjson.decode(body))
    wire.finish(c, port)
  end)

  it("knows the path in a target that names scheme and host", function()
    local c, port = wire.serve(mirror)
    for target, path in pairs {
      ["http://a/b%20c?d"] = "/b c", ["HTTP://a:80"] = "/", ["http://a?b/c"] = "/", ["/http://a/b"] = "/http://a/b",
      ["*"] = "*", ["//a/b"] = "//a/b",
    } do
      assert.equal(path .. " - ", (select(2, ask(port, get(target)))))
    end
    wire.finish(c, port)
  end)

  it("writes JSON exactly and reads it", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          local value, message, code = request:json()
          if message then
            print(code)
            response:status(400):finish(message)
            return
          end
          if value == "bad" then
            print(pcall(response.json, response, { f = print }))
            print(pcall(response.json, response, 0 / 0))
            print(pcall(response.json, response, nil))
          end
          response:json { 9007199254740993, 0.1, 10, -1.5e300, null, true, "\u{e4}\n", { a = {} } }
        end,
      }
    ]]
    local status, body = ask(port, post("/", "[1,"))
    assert.equal(400, status)
    assert.matches("^request:json: ", body)
    status, body = ask(port, post("/", '"bad"'))
    assert.equal(200, status)
    assert.equal('[9007199254740993,0.1,10,-1.5e+300,null,true,"ä\\n",{"a":{}}]', body)
    wire.finish(c, port)
    assert.matches("badvalue\n", c.out)
    assert.matches("false\tapp.lua:%d+: cannot share value.f: function\n", c.out)
    assert.matches("false\tapp.lua:%d+: response:json: NaN", c.out)
    assert.matches("false\tapp.lua:%d+: response:json: the value must not be nil", c.out)
  end)

  it("has methods of an answer that chain, to its end", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          if request.path == "/json" then
            return print(response:status(201):json { 1 } == response)
          end
          print(response:header("X-One", 1):write("a"):write("b"):finish("c") == response)
        end,
      }
    ]]
    assert.matches("^HTTP/1.1 201 .*%[1%]$", wire.exchange(port, get("/json", "Connection: close\r\n")))
    assert.matches("X%-One: 1\r\n.*\r\n\r\nabc$", wire.exchange(port, get("/", "Connection: close\r\n")))
    wire.finish(c, port)
    assert.equal(2, c:count("true\n"), c.err)
  end)

  it("sends status and header fields, several of one name too", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          response:status(404):header("Set-Cookie", "a=1"):header("Set-Cookie", "b=2"):header("X-Number", 5)
            :header("Connection", "close"):finish("none")
        end,
      }
    ]]
    local answer = wire.exchange(port, get("/"))
    assert.matches("^HTTP/1.1 404 Not Found\r\n", answer)
    assert.matches("\r\nSet%-Cookie: a=1\r\n.*Set%-Cookie: b=2\r\n", answer)
    assert.matches("\r\nX%-Number: 5\r\n", answer)
    assert.matches("\r\n\r\nnone$", answer)
    wire.finish(c, port)
  end)

  it("lets nothing from outside into a header, and refuses what is not the handler's to say", function()
    local c, port = wire.serve [[
      local function refused(...) print(select(2, pcall(...))) end
      serve {
        handler = function(request, response)
          for _, value in ipairs { "a\r\nX: b", "a\nb", "a\rb", "a\0b", "", "\127", "a\tb" } do
            refused(response.header, response, "X-Value", value)
          end
          for _, name in ipairs { "X Y", "X:", "X\r\nY", "", "X\0", "ü" } do
            refused(response.header, response, name, "value")
          end
          refused(response.header, response, "X", nil)
          refused(response.header, response, nil, "x")
          for _, name in ipairs { "Content-Length", "transfer-encoding" } do
            refused(response.header, response, name, "5")
          end
          refused(response.header, response, "Connection", "upgrade")
          for _, status in ipairs { 100, 199, 600, 200.5, "200", -1 } do refused(response.status, response, status) end
          refused(function() for i = 1, 20000 do response:header("X", "y") end end)
        end,
      }
    ]]
    assert.equal(200, (ask(port, get("/"))))
    wire.finish(c, port)
    assert.equal(7 + 1, c:count("app.lua:%d+: response:header: the value must be"))
    assert.equal(6 + 1, c:count("app.lua:%d+: response:header: the name must be"))
    assert.equal(3, c:count("app.lua:%d+: response:header: [%a-]+ is the server's to say\n"))
    assert.equal(6, c:count("app.lua:%d+: response:status: the status must be an integer from 200 to 599\n"))
    assert.equal(1, c:count("app.lua:%d+: response:header: the fields of an answer must be less than 12 KiB\n"))
  end)

  it("sends header fields up to their limit, behind a request of the largest header", function()
    local c, port = wire.serve [[
      serve {
        maxHeader = 8192,
        handler = function(request, response)
          for _ = 1, 12 do response:header("X", ("y"):rep(1020)) end
          response:finish("whole")
        end,
      }
    ]]
    local status, body = ask(port, get("/", "X: " .. ("z"):rep(8000)))
    assert.equal(200, status)
    assert.equal("whole", body)
    wire.finish(c, port)
  end)

  it("finishes for a handler that returns without, and raises on what comes after the end", function()
    local c, port = wire.serve [[
      local kept = {}
      serve {
        handler = function(request, response)
          if request.path == "/nothing" then return end
          if request.path == "/late" then
            for _, object in ipairs(kept) do
              print(pcall(function() return object.headers or object:finish() end))
              print(pcall(function() return object:json() end))
            end
            return
          end
          kept[1], kept[2] = request, response
          response:finish("done")
          for _, name in ipairs { "finish", "write", "status", "header", "json" } do
            print(pcall(response[name], response, "x", name == "header" and "y" or nil))
          end
        end,
      }
    ]]
    assert.equal("", (select(2, ask(port, get("/nothing")))))
    assert.equal("done", (select(2, ask(port, get("/")))))
    ask(port, get("/late"))
    wire.finish(c, port)
    for _, name in ipairs { "finish", "write", "status", "header", "json" } do
      assert.matches(("false\tapp.lua:%%d+: response:%s: the answer is finished\n"):format(name), c.out)
    end
    assert.equal(2, c:count("false\tapp.lua:%d+: request[%.:]%a+: the handler has returned"))
  end)

  it("has a handler find a new coroutine, without the traces of one before it", function()
    local c, port = wire.serve [[
      local known = {}
      serve {
        handler = function(request, response)
          if request.path == "/hook" then debug.sethook(error, "", 1000000) end
          if request.path ~= "/look" then return response:finish(request.path) end
          local co = coroutine.running()
          response:json { known = known[co] or false, hooked = debug.gethook() ~= nil, task = coroutine.status(co) }
          known[co] = true
        end,
      }
    ]]
    local socket = connect(port)
    for _, path in ipairs { "/plain", "/look", "/look", "/plain", "/plain", "/look", "/hook", "/look", "/look" } do
      local _, body = socket:send(get(path)):answer()
      assert.same(path == "/look" and { known = false, hooked = false, task = "running" } or path,
        path == "/look" and cjson.decode(body) or body)
    end
    socket:close()
    wire.finish(c, port)
  end)

  it("answers 500 also where there is no standard error any more to say it on", function()
    local c, port = wire.serve [[
      io.stderr = nil
      serve { handler = function() error "on purpose" end }
    ]]
    for _ = 1, 2 do assert.equal(500, (wire.ask(port, get("/")))) end
    wire.finish(c, port)
  end)

  it("makes a task of a handler only when it waits, or asks what it is", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          if request.path == "/id" then
            response:finish(tostring(task.spawn(function() end)):match("%d+"))
          elseif request.path == "/lock" then
            memory.releaseLock("l", memory.getLock("l"))
          else
            memory.set("k", request.path)
            memory.increment("n")
            response:finish(memory.get("k"))
          end
        end,
      }
    ]]
    local function id() return tonumber((select(2, ask(port, get("/id"))))) end
    local first = id()
    for i = 1, 5 do assert.equal("/" .. i, (select(2, ask(port, get("/" .. i))))) end
    assert.equal(first + 1, id())
    assert.equal(200, (ask(port, get("/lock"))))
    assert.equal(first + 3, id()) -- a lock is a task's
    wire.finish(c, port)
  end)

  it("answers 500 for a handler that raises, says where on standard error, and lives on", function()
    local c, port = wire.serve [[
      cluster.on("error", function() print "listener" end)
      local function deep() error("broken " .. 1) end
      serve {
        handler = function(request, response)
          if request.path == "/fine" then return response:finish("fine") end
          response:status(201):header("X-Mine", "x")
          if request.path == "/later" then task.sleep(1) end
          if request.path == "/begun" then
            response:write("begun")
            task.sleep(20)
          end
          if request.path == "/table" then error { } end
          if request.path == "/finished" then response:finish("whole") end
          deep()
        end,
      }
    ]]
    for _, path in ipairs { "/", "/later", "/table" } do
      local status, body, answerHead = ask(port, get(path))
      assert.equal(500, status)
      assert.equal("internal server error\n", body)
      assert.not_matches("X%-Mine", answerHead)
    end
    local answer = wire.exchange(port, get("/begun"))
    assert.matches("^HTTP/1.1 201 Created\r\n.*5\r\nbegun\r\n$", answer) -- no last chunk: it is not whole
    assert.equal("whole", (select(2, ask(port, get("/finished")))))
    assert.equal("fine", (select(2, ask(port, get("/fine")))))
    wire.finish(c, port)
    assert.equal(4, c:count("worker 1: app.lua:%d+: broken 1\nstack traceback:\n.-in upvalue 'deep'", "err"))
    assert.matches("worker 1: table: 0x", c.err)
    assert.not_matches("listener", c.out)
  end)

  it("listens on a unix socket, too", function()
    assert.equal("server (./app.sock)\tnil\tnil\nhello /there nil\nfalse\n", clusters.output [[
      local http = require "clustermem.http"
      local server = assert(http.serve { path = "./app.sock", handler = function(request, response)
        response:finish(("hello %s %s"):format(request.path, request.remoteAddress))
      end })
      print(server, server.host, server.port)
      local pipe, text = uv.new_pipe(false), ""
      assert(not task.await(function(resume) pipe:connect("app.sock", resume) end))
      pipe:write("GET /there HTTP/1.0\r\n\r\n")
      task.await(function(resume)
        pipe:read_start(function(_, part) if part then text = text .. part else resume() end end)
      end)
      pipe:close()
      print(text:match("\r\n\r\n(.*)"))
      server:close()
      while uv.fs_stat("app.sock") do task.sleep(1) end
      print((pcall(http.serve, { path = "x", port = 80, handler = print })))
    ]])
  end)

  it("says why it cannot have an address", function()
    local out = clusters.output [[
      local http = require "clustermem.http"
      local taken = uv.new_tcp()
      taken:bind("127.0.0.1", 0)
      taken:listen(1, print)
      print(http.serve { port = taken:getsockname().port, handler = print })
      print(http.serve { host = "no host", port = 0, handler = print })
      http.serve({ host = "127.0.0.2", port = taken:getsockname().port, handler = print }, function(server)
        print(server.host, server.port == taken:getsockname().port, server:close())
        taken:close()
      end)
    ]]
    assert.matches("^nil\thttp.serve: [^\n]+\tEADDRINUSE\nnil\thttp.serve: [^\n]+\t[%w_]+\n127.0.0.2\ttrue\tOK\n$", out)
  end)

  it("refuses what it is not to be started with", function()
    local out = clusters.output [[
      local http = require "clustermem.http"
      local function handler() end
      for _, options in ipairs {
        {}, { handler = handler }, { port = 1 }, { handler = handler, port = 70000 },
        { handler = handler, port = 0, cert = "x" }, { handler = handler, port = 0, what = 1 },
        { handler = handler, port = 0, maxHeader = 10 }, { handler = handler, port = 0, idleTimeout = -1 },
        { handler = handler, port = 0, maxConnections = 0 }, { handler = handler, port = 0, stream = 1 },
      } do
        print(select(2, pcall(http.serve, options)))
      end
      print(select(2, pcall(http.serve)))
      local server = assert(http.serve { handler = handler, port = 0 })
      print(select(2, pcall(server.close)))
      uv.new_timer():start(0, 0, function() print(select(2, pcall(server.close, server))) end)
      print(http.serve { handler = handler, port = 0, cert = "none", key = "none" })
      print(http.serve { handler = handler, port = 0, cert = "app.lua", key = "app.lua" })
      task.sleep(20)
      print(server, server:close(), server:close())
    ]]
    local _, refused = out:gsub("app.lua:%d+: http.serve: [^\n]+\n", "")
    assert.equal(11, refused, out)
    assert.matches("app.lua:%d+: server:close: call it as a method", out)
    assert.matches("server:close waits, and this is no task", out)
    assert.matches("\nnil\thttp.serve: cert: none: No such file or directory\tENOENT\n", out)
    assert.matches("\nnil\thttp.serve: [^\n]+\tbadvalue\n", out)
    assert.matches("\nserver %(127.0.0.1:%d+%)\tOK\tOK\n$", out)
  end)
end)
