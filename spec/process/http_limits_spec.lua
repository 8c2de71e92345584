local clusters = require "clusters"
local wire = require "wire"
local task = require "clustermem.task"
local uv = require "luv"

local ask, get, post, head, connect = wire.ask, wire.get, wire.post, wire.head, wire.connect

-- Says what it took for a request, by its body's length.
local counting = [[
  serve {
    maxHeader = 4096, maxBody = 10000, headerTimeout = 150, idleTimeout = 1000,
    handler = function(request, response)
      print(("request %s %d"):format(request.path, #request.body))
      if request.path == "/wait" then task.sleep(1500) end
      response:finish(request.path)
    end,
  }
]]

-- A request behind each smuggling attempt; no server may ever take it for one.
local HIDDEN = get("/hidden")

describe("an HTTP server", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("refuses what leaves in doubt where a request ends, and closes", function()
    local c, port = wire.serve(counting)
    local function to(...) return head("POST /open HTTP/1.1", "Host: a", ...) end
    local chunks = "0\r\n\r\n"
    for name, text in pairs {
      both = to("Content-Length: 5", "Transfer-Encoding: chunked") .. chunks,
      bothTheOtherWay = to("Transfer-Encoding: chunked", "Content-Length: 5") .. chunks,
      bothInOtherCase = to("CONTENT-LENGTH: 5", "transfer-ENCODING: CHUNKED") .. chunks,
      twoLengths = to("Content-Length: 0", "Content-Length: " .. #HIDDEN),
      sameLengths = to("Content-Length: 0", "Content-Length: 0"),
      listOfLengths = to("Content-Length: 0, 0"),
      signedLength = to("Content-Length: +0"),
      emptyLength = to("Content-Length:"),
      hexLength = to("Content-Length: 0x0"),
      blankInLength = to("Content-Length: 0 0"),
      tabBehindLength = to("Content-Length: 0\t"),
      lengthWithNul = to("Content-Length: 0\0"),
      hugeLength = to("Content-Length: 18446744073709551616"),
      blankBeforeColon = to("Transfer-Encoding : chunked") .. chunks,
      tabBeforeColon = to("Transfer-Encoding\t: chunked") .. chunks,
      blankBeforeLengthsColon = to("Content-Length : 0"),
      twoEncodings = to("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") .. chunks,
      otherEncoding = to("Transfer-Encoding: gzip, chunked") .. chunks,
      identity = to("Transfer-Encoding: identity") .. chunks,
      quotedEncoding = to('Transfer-Encoding: "chunked"') .. chunks,
      verticalTab = to("Transfer-Encoding: \vchunked") .. chunks,
      encodingWithComma = to("Transfer-Encoding: chunked,") .. chunks,
      oldEncoding = head("POST /open HTTP/1.0", "Host: a", "Transfer-Encoding: chunked") .. chunks,
      foldedName = to("Transfer-Encodin: chunked\r\n g") .. chunks,
      foldedValue = to("Transfer-Encoding:\r\n chunked") .. chunks,
      foldedLength = to("Content-Length: 0\r\n 1"),
      foldBeforeFirst = head("POST /open HTTP/1.1", " Transfer-Encoding: chunked", "Host: a") .. chunks,
      loneReturn = to("X: a\rTransfer-Encoding: chunked") .. chunks,
      returnBeforeColon = to("Transfer-Encoding\r: chunked") .. chunks,
      loneNewline = to("X: a\nTransfer-Encoding: chunked") .. chunks,
      newlinesOnly = (to():gsub("\r", "")),
      newlineAtTheEnd = to():sub(1, -3) .. "\n",
      colonFirst = to(": x"),
      colonAlone = to(":"),
      nulInValue = to("X: a\0b"),
      nulInName = to("X\0: a"),
      nulInTarget = head("POST /open\0/ HTTP/1.1", "Host: a"),
      twoBlanks = head("POST  /open HTTP/1.1", "Host: a"),
      blankInTarget = head("POST /open /x HTTP/1.1", "Host: a"),
      blankBehindTarget = head("POST /open  HTTP/1.1", "Host: a"),
      twoHosts = to("Host: b"),
      noHost = head("POST /open HTTP/1.1"),
      noColon = to("nothing"),
      badMethod = head("PO(ST /open HTTP/1.1", "Host: a"),
      longMethod = head(("P"):rep(30) .. " /open HTTP/1.1", "Host: a"),
      connect = head("CONNECT a:80 HTTP/1.1", "Host: a"),
      version = head("POST /open HTTP/2.0", "Host: a"),
      noVersion = "GET /open\r\n\r\n",
    } do
      local answer = wire.exchange(port, text .. HIDDEN .. HIDDEN)
      assert.is_truthy(answer == "" or answer:find("^HTTP/1.1 [45]%d%d "), name .. ": " .. answer)
      assert.equal("", c.out:match("request[^\n]*") or "", name)
    end
    wire.finish(c, port)
  end)

  it("takes the requests that those resemble", function()
    local c, port = wire.serve(counting)
    for _, text in ipairs {
      head("POST / HTTP/1.1", "Host: a", "Content-Length: 5") .. "hello",
      head("POST / HTTP/1.1", "Host:a", "Content-Length:5") .. "hello",
      head("POST / HTTP/1.1", "HOST: \ta", "content-length: \t 5") .. "hello",
      head("POST /?a=b&c HTTP/1.1", "Host: a", "Transfer-Encoding: CHUNKED") .. "5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n",
      head("POST / HTTP/1.1", "Host: a", "X:", "Y: ", "Z: a b\tc", "Content-Length: 5", "U: \u{fc}") .. "hello",
      head("POST / HTTP/1.0", "Connection: keep-alive", "Content-Length: 5") .. "hello",
      head("\r\nPOST / HTTP/1.1", "Host: a", "Content-Length: 0000000005") .. "hello",
    } do
      assert.equal(200, (ask(port, text)), text)
    end
    wire.finish(c, port)
    assert.equal(7, c:count("request / 5\n"))
  end)

  it("refuses chunks that are none, and a body that is cut off", function()
    local c, port = wire.serve(counting)
    local open = head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
    for _, chunks in ipairs {
      "x\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n", "5\r\nhelloX0\r\n\r\n",
      "ffffffffffffffffff\r\nhello\r\n", "5 \0\r\nhello\r\n0\r\n\r\n",
    } do
      local socket = connect(port):send(open .. chunks .. HIDDEN)
      local answer = socket:waitEnd()
      assert.is_truthy(answer == "" or answer:find("^HTTP/1.1 4%d%d "), chunks .. ": " .. answer)
    end
    for _, text in ipairs { open .. "5\r\nhel", open, post("/", "hello"):sub(1, -2), get("/"):sub(1, -2), "", "G" } do
      local socket = connect(port)
      socket:push(text)
      task.await(function(resume) socket.tcp:shutdown(resume) end)
      assert.equal("", socket:waitEnd())
    end
    wire.finish(c, port)
    assert.equal(0, c:count("request"))
  end)

  it("lives through any bytes", function()
    local c, port = wire.serve(counting)
    math.randomseed(1)
    local text = head("POST /a?b=c HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") .. "5\r\nhello\r\n0\r\n\r\n"
      .. get("/")
    for round = 1, 300 do
      local bytes = { text:byte(1, -1) }
      for _ = 1, math.random(1, 6) do
        local way, at = math.random(4), math.random(#bytes)
        if way == 1 then
          bytes[at] = math.random(0, 255)
        elseif way == 2 then
          table.remove(bytes, at)
        elseif way == 3 then
          table.insert(bytes, at, ({ 0, 10, 13, 32, 58 })[math.random(5)])
        else
          table.move(bytes, at, #bytes, math.random(at))
        end
      end
      local socket = connect(port):send(string.char(table.unpack(bytes)))
      if round % 3 == 0 then
        socket:close()
      else
        task.await(function(resume) socket.tcp:shutdown(resume) end)
        socket:waitEnd()
      end
    end
    wire.finish(c, port)
  end)

  it("answers 431 to a header that is too large, and 413 to a body", function()
    local c, port = wire.serve(counting)
    assert.equal(200, (ask(port, get("/", "X: " .. ("x"):rep(4000)))))
    local many = {}
    for i = 1, 200 do many[i] = "Some-Name: and a value" end
    for _, text in ipairs {
      get("/", "X: " .. ("x"):rep(4100)), get("/", "X: " .. ("x"):rep(100000)), get("/" .. ("x"):rep(4100)),
      get("/", table.unpack(many)),
    } do
      assert.matches("^HTTP/1.1 431 ", wire.exchange(port, text))
    end
    assert.matches("^HTTP/1.1 4[13][14] ", wire.exchange(port, get("/" .. ("x"):rep(100000))))
    assert.equal(200, (ask(port, post("/", ("x"):rep(10000)))))
    assert.matches("^HTTP/1.1 413 ", wire.exchange(port, head("POST / HTTP/1.1", "Host: a", "Content-Length: 10001")))
    assert.matches("^HTTP/1.1 413 ", wire.exchange(port, head("POST / HTTP/1.1", "Host: a", "Content-Length: 10001",
      "Expect: 100-continue")))
    local chunk = "3e8\r\n" .. ("x"):rep(1000) .. "\r\n"
    local open = head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
    assert.equal(200, (ask(port, open .. chunk:rep(10) .. "0\r\n\r\n")))
    assert.not_matches("200", wire.exchange(port, open .. chunk:rep(10) .. "1\r\nx\r\n0\r\n\r\n"))
    wire.finish(c, port)
  end)

  it("lets an answer arrive that comes before the body has been sent", function()
    local c, port = wire.serve(counting)
    for _ = 1, 5 do
      local socket = connect(port)
      socket:pause()
      socket:push(head("POST / HTTP/1.1", "Host: a", "Content-Length: 1000000"))
      for _ = 1, 20 do
        task.sleep(2)
        local err = task.await(function(resume) socket.tcp:write(("x"):rep(50000), resume) end)
        assert.is_nil(err)
      end
      socket:resume()
      assert.matches("^HTTP/1.1 413 ", socket:waitEnd())
    end
    -- It does not take everything.
    local socket = connect(port):send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 1000000000"))
    socket:waitUntil("the end", function()
      if not socket.tcp:is_closing() and not socket.failed then
        socket.tcp:write(("x"):rep(100000), function(err) socket.failed = err end)
      end
      return socket.failed
    end)
    socket:close()
    wire.finish(c, port)
  end)

  -- How long it takes until the other side ends the connection, while it is fed like this.
  local function patience(port, begin, feed)
    local socket = connect(port)
    if begin ~= "" then socket:push(begin) end
    local from = uv.hrtime()
    socket:waitUntil("the end", function()
      if feed and not socket.ended then socket:send(feed) end
      task.sleep(20)
      return socket.ended
    end)
    socket:close()
    return (uv.hrtime() - from) / 1e6
  end

  it("closes a connection whose header does not come, or comes too slowly", function()
    local c, port = wire.serve(counting)
    for _, way in ipairs {
      { "" }, { "GET / HT" }, { "GET / HTTP/1.1\r\n" }, { "GET / HTTP/1.1\r\nX: ", "y" }, { "G", "E" },
    } do
      local ms = patience(port, table.unpack(way))
      assert.is_true(ms > 120 and ms < 900, way[1] .. " " .. ms)
    end
    -- The second request's, from its line on.
    local ms = patience(port, get("/") .. "GET / HTTP/1.1\r\nX: ", "y")
    assert.is_true(ms > 120 and ms < 900, ms)
    wire.finish(c, port)
    assert.equal(1, c:count("request"))
  end)

  it("closes a connection on which nothing moves, but not one whose handler takes its time", function()
    local c, port = wire.serve(counting)
    local waiting = connect(port):send(get("/wait"))
    local body = post("/", "hello"):sub(1, -2)
    local results = table.pack(task.all {
      function() return patience(port, get("/")) end, -- between two requests
      function() return patience(port, body) end, -- within one
      function() return patience(port, get("/"), "\r") end, -- a request's line that never comes
    })
    for i = 1, 3 do assert.is_true(results[i] > 900 and results[i] < 4000, i .. ": " .. results[i]) end
    assert.equal("/wait", (select(2, waiting:answer())))
    waiting:close()
    wire.finish(c, port)
  end)

  it("has no more connections than it may, and the others wait", function()
    local c, port = wire.serve [[
      serve { maxConnections = 2, handler = function(_, response) response:finish("served") end }
    ]]
    local sockets = {}
    for i = 1, 3 do sockets[i] = connect(port):send(get("/")) end
    for i = 1, 2 do assert.equal(200, (sockets[i]:answer())) end
    task.sleep(50)
    assert.equal("", sockets[3].data)
    sockets[1]:close()
    assert.equal(200, (sockets[3]:answer()))
    sockets[2]:close()
    sockets[3]:close()
    wire.finish(c, port)
  end)
end)
