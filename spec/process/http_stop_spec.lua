local clusters = require "clusters"
local wire = require "wire"
local task = require "clustermem.task"
local uv = require "luv"

local get, post, head, connect = wire.get, wire.post, wire.head, wire.connect
local command = clusters.command

local app = [[
  serve {
    handler = function(request, response)
      print("asked " .. request.path)
      if request.path == "/wait" then task.sleep(150) end
      if request.path == "/parts" then
        for i = 1, 5 do
          response:write("part " .. i .. ", ")
          task.sleep(30)
        end
      end
      response:finish(request.path)
    end,
  }
]]

describe("an HTTP server that is closed", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- Asks for it, on a connection that is closed behind the answer.
  local function closing(port)
    assert.matches("\r\nConnection: close\r\n", wire.exchange(port, get("/close")))
  end

  it("finishes what it has, accepts nothing more, and lets its process end", function()
    local c, port = wire.serve(app)
    local waiting = connect(port):send(get("/wait"))
    local parts = connect(port):send(get("/parts"))
    local slow = connect(port)
    slow:push(post("/slow", "hello"):sub(1, -3))
    c:waitUntil("the requests", function() return c:count("asked") == 2 end)
    closing(port)
    c:waitUntil("a refusal", function()
      local socket = uv.new_tcp()
      local err = task.await(function(resume) socket:connect("127.0.0.1", math.tointeger(port), resume) end)
      socket:close()
      return err == "ECONNREFUSED"
    end)
    local answer = waiting:waitEnd()
    assert.matches("\r\nConnection: close\r\n", answer)
    assert.matches("\r\n\r\n/wait$", answer)
    assert.matches("part 5, .*0\r\n\r\n$", parts:waitEnd())
    slow:push("lo")
    assert.matches("\r\n\r\n/slow$", slow:waitEnd())
    assert.equal(0, (c:waitExit()), c.err)
    assert.matches("closed\n", c.out)
  end)

  it("closes connections that rest, but not before a request that may be on its way", function()
    local c, port = wire.serve(app)
    local fresh, used, quick = connect(port), connect(port), connect(port)
    assert.equal(200, (used:send(get("/")):answer()))
    assert.equal(200, (quick:send(get("/")):answer()))
    closing(port)
    local answer = quick:send(get("/quick")):waitEnd()
    assert.matches("\r\nConnection: close\r\n", answer)
    assert.matches("\r\n\r\n/quick$", answer)
    local from = uv.hrtime()
    assert.equal("", fresh:waitEnd())
    assert.equal("", used:waitEnd())
    assert.is_true((uv.hrtime() - from) / 1e6 < 2000)
    assert.equal(0, (c:waitExit()), c.err)
  end)

  it("loses no request of clients that go on asking until they are told to leave", function()
    local c, port = wire.serve(app)
    local stopped = false
    local tasks = {}
    for i = 1, 8 do
      tasks[i] = function()
        local answered = 0
        local socket = connect(port)
        repeat
          local path = "/" .. answered
          local status, body, answerHead = socket:send(get(path)):answer()
          assert(status == 200 and body == path)
          answered = answered + 1
        until answerHead:find("\r\nConnection: close\r\n")
        assert(stopped)
        assert(socket:waitEnd() == "")
        return answered
      end
    end
    tasks[9] = function()
      c:waitUntil("many requests", function() return c:count("asked /%d") > 200 end)
      stopped = true
      closing(port)
    end
    task.all(tasks)
    assert.equal(0, (c:waitExit()), c.err)
  end)

  it("waits for handlers whose clients are gone", function()
    local c, port = wire.serve [[
      serve {
        handler = function(request, response)
          print("asked")
          task.sleep(100)
          local answer, _, code = response:finish()
          print("handled " .. request.headers.host, answer and "answered" or code)
        end,
      }
    ]]
    local socket = connect(port):send(get("/", "Connection: close"))
    c:waitFor("asked\n")
    socket:close()
    closing(port)
    assert.equal(0, (c:waitExit()), c.err)
    assert.matches("handled a\t%w+\nclosed\n", c.out)
  end)

  it("may be closed in a handler, by a callback, and several times", function()
    local c = clusters.run {
      app = [[
        local http = require "clustermem.http"
        local server
        server = assert(http.serve {
          port = 0,
          handler = function(_, response)
            server:close(function(...) print("first", ...) end)
            server:close(function(...) print("second", ...) end)
            response:finish("bye")
          end,
        })
        local socket = uv.new_tcp()
        task.await(function(resume) socket:connect(server.host, server.port, resume) end)
        socket:write("GET / HTTP/1.0\r\n\r\n")
        local text = ""
        task.await(function(resume)
          socket:read_start(function(err, data)
            assert(not err, err)
            if data then text = text .. data else resume() end
          end)
        end)
        socket:close()
        print(text:match "\r\n\r\n(.*)$")
        print("third", server:close())
      ]],
    }
    assert.equal(0, c.code, c.err)
    for _, word in ipairs { "bye", "first\tOK", "second\tOK", "third\tOK" } do assert.matches(word .. "\n", c.out) end
  end)

  it("is closed when its process is asked to stop: what was asked is answered, what rests is closed", function()
    local c, port = wire.serve(app)
    local resting = connect(port):send(get("/first"))
    assert.equal(200, (resting:answer()))
    local waiting = connect(port):send(get("/wait"))
    c:waitFor("asked /wait\n")
    c:kill("sigterm")
    local answer = waiting:waitEnd()
    assert.matches("\r\nConnection: close\r\n", answer)
    assert.matches("\r\n\r\n/wait$", answer)
    assert.equal("", resting:waitEnd())
    assert.equal(0, (c:waitExit()), c.err)
  end)
end)

describe("an HTTP server with TLS", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local function certificate()
    local folder = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/clustermem-cert-XXXXXX"))
    command("openssl", { "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
      "-keyout", folder .. "/key", "-out", folder .. "/cert" }, "")
    local cert, key = clusters.read(folder .. "/cert"), clusters.read(folder .. "/key")
    for _, name in ipairs { "key", "cert" } do os.remove(folder .. "/" .. name) end
    assert(uv.fs_rmdir(folder))
    return { ["server.crt"] = assert(cert), ["server.key"] = assert(key), ["broken.key"] = key:sub(1, 500) }
  end

  it("serves with a certificate, large answers too, and refuses a bad key", function()
    local c, port = wire.serve([[
      print(select(3, http.serve { port = 0, handler = print, cert = "server.crt", key = "broken.key" }))
      serve {
        cert = "server.crt", key = "server.key", headerTimeout = 300,
        handler = function(request, response)
          if request.path == "/wait" then task.sleep(20) end
          for _ = 1, 100 do response:write(("x"):rep(10000)) end
          response:finish(request.body .. " end")
        end,
      }
    ]], { files = certificate() })
    local function ask(text)
      return command("openssl", { "s_client", "-connect", "127.0.0.1:" .. port, "-quiet", "-no_ign_eof" }, text)
    end
    for _, path in ipairs { "/", "/wait" } do
      local answer = ask(post(path, ("y"):rep(50000), "Connection: close"))
      assert.matches("^HTTP/1.1 200 OK\r\n", answer)
      assert.equal(1000000, select(2, answer:gsub("x", "")))
      assert.matches("y end", answer)
    end
    -- Who does not speak TLS, begins a handshake, or says nothing at all; others are served meanwhile.
    local half = connect(port):send("\22\3\1")
    assert.matches("^HTTP/1.1 200 OK\r\n", ask(head("GET / HTTP/1.0")))
    assert.not_matches("HTTP", connect(port):send(get("/")):waitEnd())
    assert.equal("", connect(port):waitEnd())
    assert.equal("", half:waitEnd())
    assert.matches("^HTTP/1.1 200 OK\r\n", ask(head("GET /close HTTP/1.0")))
    assert.equal(0, (c:waitExit()), c.err)
    assert.matches("^badvalue\n", c.out)
  end)
end)
