local uv = require "luv"
local clusters = require "clusters"
local task = require "clustermem.task"

-- In front of scripts: `serve(handle, word)` answers each who connects with the word and this worker's id.
local serving = [[
  local function serve(handle, word)
    assert(handle:listen(16, function(err)
      assert(not err, err)
      local client = tostring(handle):find("pipe") and uv.new_pipe(false) or uv.new_tcp()
      assert(handle:accept(client))
      client:write(word .. " " .. cluster.worker.id .. "\n")
      client:shutdown(function() client:close() end)
    end))
  end
]]

-- What somebody who connects is told; nil, message when nobody listens.
local function ask(host, port)
  local client = port and uv.new_tcp() or uv.new_pipe(false)
  local err = task.await(function(resume)
    if port then client:connect(host, port, resume) else client:connect(host, resume) end
  end)
  if err then
    client:close()
    return nil, err
  end
  local answer = task.await(function(resume)
    local text = ""
    client:read_start(function(failed, data)
      if failed or not data then resume(text) else text = text .. data end
    end)
  end)
  client:close()
  return answer
end

describe("cluster.bind", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("gives all workers the same socket, and each of them serves", function()
    local c = clusters.start { workers = 3, app = serving .. [[
      local handle = assert(cluster.bind("localhost", 0))
      print("port", handle:getsockname().port)
      serve(handle, "hello")
    ]] }
    c:waitUntil("three ports", function() return c:count("port\t%d+\n") == 3 end)
    local port = c:waitFor("port\t(%d+)\n")
    assert.equal(3, c:count("port\t" .. port .. "\n"))
    local seen, count = {}, 0
    while count < 3 do
      local id = ask("127.0.0.1", tonumber(port)):match("^hello (%d)\n$")
      if not seen[id] then seen[id], count = true, count + 1 end
      assert(uv.now() < c.deadline)
    end
    c:kill("sigterm")
    assert.equal(0, c:waitExit())
    assert.is_nil(ask("127.0.0.1", tonumber(port)))
  end)

  it("binds unix sockets, takes a path over from who has died, and removes it at the end", function()
    local app = serving .. [[
      serve(assert(cluster.bind("app.sock")), "unix")
      print "listening"
    ]]
    local c = clusters.start { app = app }
    c:waitFor("listening\n")
    assert.matches("^unix 1\n$", ask(c.folder .. "/app.sock"))
    local other = clusters.run { app = ("print(cluster.bind('%s/app.sock'))"):format(c.folder) }
    assert.matches("^nil\tcluster.bind: [^\n]*app.sock: address already in use\tEADDRINUSE\n", other.out:lower():gsub(
      "eaddrinuse", "EADDRINUSE"))
    for pid in pairs(c:processes()) do uv.kill(pid, "sigkill") end
    c:kill("sigkill")
    c:waitExit()
    c:waitGone()
    assert(uv.fs_stat(c.folder .. "/app.sock"))
    local again = clusters.start { app = app:gsub("app.sock", c.folder .. "/app.sock") }
    again:waitFor("listening\n")
    assert.matches("^unix 1\n$", ask(c.folder .. "/app.sock"))
    again:kill("sigterm")
    assert.equal(0, again:waitExit())
    assert.is_nil((uv.fs_stat(c.folder .. "/app.sock")))
  end)

  it("leaves a path alone that leads to somebody else's socket by its end", function()
    local app = serving .. [[
      serve(assert(cluster.bind("app.sock")), "unix")
      print "listening"
    ]]
    local c = clusters.start { app = app }
    c:waitFor("listening\n")
    assert(uv.fs_unlink(c.folder .. "/app.sock"))
    local successor = clusters.start { app = app:gsub("app.sock", c.folder .. "/app.sock") }
    successor:waitFor("listening\n")
    c:kill("sigterm")
    assert.equal(0, c:waitExit())
    assert.matches("^unix 1\n$", ask(c.folder .. "/app.sock"))
    successor:kill("sigterm")
    assert.equal(0, successor:waitExit())
    assert.is_nil((uv.fs_stat(c.folder .. "/app.sock")))
  end)

  it("keeps the socket while its only worker is killed and started again, and through reloads", function()
    local c = clusters.start { app = serving .. [[
      local handle = assert(cluster.bind("127.0.0.1", 0))
      serve(handle, "here")
      print("port", handle:getsockname().port, cluster.worker.pid)
    ]] }
    local port, pid = c:waitFor("port\t(%d+)\t(%d+)\n")
    c:kill("sigkill", pid)
    c:waitFor("was killed by SIGKILL", "err")
    -- Who comes in between waits, and is not refused.
    assert.matches("^here 2\n$", ask("127.0.0.1", tonumber(port)))
    for id = 3, 5 do
      c:kill("sighup")
      c:waitUntil("worker " .. id, function() return c:count("port\t" .. port .. "\t") == id end)
      assert.matches("^here %d\n$", ask("127.0.0.1", tonumber(port)))
    end
    c:kill("sigterm")
    assert.equal(0, c:waitExit())
  end)

  it("says what is wrong in one line, with the system's code", function()
    local taken = uv.new_tcp()
    assert(taken:bind("127.0.0.1", 0))
    assert(taken:listen(1, function() end))
    local port = taken:getsockname().port
    local c = clusters.run { app = ([[
      print(cluster.bind("127.0.0.1", %d))
      print(cluster.bind("no.such.host.invalid", 80))
      print(cluster.bind("192.0.2.1", 80))
      print(cluster.bind("missing/app.sock"))
      print(cluster.bind(("x"):rep(200)))
      print(pcall(cluster.bind, "127.0.0.1", 65536))
      print(pcall(cluster.bind, "127.0.0.1", "80"))
      print(pcall(cluster.bind, "", 80))
      print(pcall(cluster.bind))
    ]]):format(port) }
    taken:close()
    assert.equal(0, c.code, c.err)
    local expected = {
      "nil\tcluster.bind: 127.0.0.1:" .. port .. ": Address already in use\tEADDRINUSE",
      "nil\tcluster.bind: the host 'no.such.host.invalid' is not known: EAI_%u+\tEAI_%u+",
      "nil\tcluster.bind: 192.0.2.1:80: Cannot assign requested address\tEADDRNOTAVAIL",
      "nil\tcluster.bind: missing/app.sock: No such file or directory\tENOENT",
      "nil\tcluster.bind: /.*: a socket's path has at most 107 bytes\tENAMETOOLONG",
      "false\tcluster.bind: the port must be at most 65535, not 65536",
      "false\t.*cluster.bind: the port must be an integer from 0 on, not a string of 2 bytes",
      "false\tcluster.bind: a host and a port are needed, or the path of a unix socket",
      "false\t.*cluster.bind: the path must be a string, not nil",
    }
    local i = 0
    for line in c.out:gmatch("[^\n]+") do
      i = i + 1
      assert.matches("^" .. expected[i]:gsub("%-", "%%-") .. "$", line)
    end
    assert.equal(#expected, i)
  end)

  it("closes a socket when the last handle of it is closed, while its process goes on", function()
    local c = clusters.start { workers = 2, app = [[
      local uv = require "luv"
      local handle, twice = assert(cluster.bind("127.0.0.1", 0)), assert(cluster.bind("127.0.0.1", 0))
      local port = handle:getsockname().port
      for _, each in ipairs { handle, twice } do each:listen(1, function() end) end
      local function isFree()
        local tcp = uv.new_tcp()
        local free = tcp:bind("127.0.0.1", port) and tcp:listen(1, function() end)
        tcp:close()
        return free == 0
      end
      memory.increment "bound"
      while memory.get "bound" < 2 do task.sleep(1) end
      assert(not isFree())
      handle:close(function() print "closed" end)
      memory.increment "closed"
      while memory.get "closed" < 2 do task.sleep(1) end
      assert(not isFree())
      uv.close(twice)
      while not isFree() do task.sleep(5) end
      print "free"
    ]] }
    assert.equal(0, c:waitExit(), c.err)
    assert.equal(2, c:count("closed\n"))
    assert.equal(2, c:count("free\n"))
  end)

  it("closes a socket that no process has had for a while", function()
    local c = clusters.start { workers = 0, limit = 60000, boot = [[
      cluster.on("exit", function(worker, code) print("gone", worker.id, code) end)
      local first = assert(cluster.fork { script = "bind.lua", args = { "0" } })
      while not memory.get("port") do task.sleep(5) end
      print("port", memory.get("port"))
      local uv = require "luv"
      local began = uv.hrtime()
      -- The master has it still: nobody else can bind it.
      local function isFree()
        local tcp = uv.new_tcp()
        local ok = tcp:bind("127.0.0.1", memory.get("port")) and tcp:listen(1, function() end)
        tcp:close()
        return ok == 0
      end
      while not isFree() do task.sleep(100) end
      assert(uv.hrtime() - began > 10e9)
      print "free"
    ]], files = { ["bind.lua"] = [[
      local memory, cluster = require "clustermem", require "clustermem.cluster"
      local handle = assert(cluster.bind("127.0.0.1", 0))
      memory.set("port", handle:getsockname().port)
      handle:listen(1, function() end)
      cluster.exit(0)
    ]] } }
    assert.equal(0, c:waitExit(), c.err)
    assert.matches("gone\t1\t0\n", c.out)
    assert.matches("free\n$", c.out)
  end)
end)
