local clusters = require "clusters"

describe("luv", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("refuses uv.run, in a task and in a callback, and says why", function()
    local out = clusters.output [[
      local function try() print(select(2, pcall(function() uv.run() end))) end
      try()
      uv.new_timer():start(0, 0, function() try() os.exit() end)
    ]]
    assert.equal(2, select(2, out:gsub("app.lua:1: uv.run: [^\n]+ runs already\n", "")), out)
  end)

  it("refuses uv.loop_close", function()
    assert.matches("uv.loop_close", clusters.output "print(pcall(uv.loop_close))")
  end)

  it("shows the script's own handles with uv.walk and no other", function()
    assert.equal("2\ttrue\n0\n", clusters.output [[
      task.sleep(1)
      memory.get("k")
      local mine = { [uv.new_timer()] = true, [uv.new_pipe(false)] = true }
      local seen, known = 0, true
      uv.walk(function(handle)
        seen = seen + 1
        known = known and mine[handle] or false
      end)
      print(seen, known)
      for handle in pairs(mine) do handle:close() end
      task.sleep(1)
      seen = 0
      uv.walk(function() seen = seen + 1 end)
      print(seen)
    ]])
  end)

  it("may close all handles that uv.walk shows, and the process works on", function()
    assert.equal("after\t5\n", clusters.output [[
      uv.new_timer():start(60000, 0, print)
      uv.new_tcp():bind("127.0.0.1", 0)
      uv.new_signal():start("sigusr1")
      uv.new_idle():start(function() end)
      uv.new_async(function() end)
      memory.set("k", 5)
      task.spawn(function() task.sleep(5) end)
      uv.walk(function(handle) if not handle:is_closing() then handle:close() end end)
      task.sleep(10)
      print("after", memory.get("k"))
    ]])
  end)

  it("refuses a walk without a function", function()
    assert.matches("^app.lua:1: uv.walk", clusters.output "print(select(2, pcall(function() uv.walk() end)))")
  end)

  it("does not end the process with uv.stop", function()
    assert.equal("timer\n", clusters.output [[
      uv.new_timer():start(20, 0, function() print "timer" os.exit() end)
      uv.stop()
    ]])
  end)

  it("works with threads of the pool, processes, sockets and signals", function()
    assert.equal("worked\t42\nchild\t3\t0\necho\thello\nsignal\tsigusr1\n", clusters.output [[
      print("worked", task.await(function(resume)
        uv.new_work(function(word) return tostring(#word * 6) end, resume):queue("7 bytes")
      end))
      print("child", task.await(function(resume) uv.spawn("/bin/sh", { args = { "-c", "exit 3" } }, resume) end))
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      server:listen(8, function()
        local client = uv.new_tcp()
        server:accept(client)
        client:read_start(function(_, data)
          if data then client:write(data) else client:close() end
        end)
      end)
      local socket = uv.new_tcp()
      task.await(function(resume) socket:connect("127.0.0.1", server:getsockname().port, resume) end)
      socket:write("hello")
      local _, data = task.await(function(resume) socket:read_start(resume) end)
      print("echo", data)
      socket:close()
      server:close()
      local signal = uv.new_signal()
      print("signal", (task.await(function(resume)
        signal:start("sigusr1", resume)
        uv.kill(cluster.worker.pid, "sigusr1")
      end)))
      signal:close()
    ]])
  end)

  it("keeps the process alive with a handle and lets it end when that is closed", function()
    local c = clusters.start {
      app = [[
        local server = uv.new_pipe(false)
        server:bind("socket")
        server:listen(1, function() server:close() end)
        print "listening"
      ]],
    }
    c:waitFor("listening")
    local uv = require "luv"
    local socket = uv.new_pipe(false)
    socket:connect(c.folder .. "/socket", function() socket:close() end)
    assert.equal(0, (c:waitExit()))
  end)

  it("is one module for all who require it, and the loop is one with the tasks'", function()
    assert.equal("true\ttimer before task\n", clusters.output [[
      local order = {}
      uv.new_timer():start(5, 0, function() order[#order + 1] = "timer" end)
      task.sleep(30)
      order[#order + 1] = "task"
      print(require "luv" == uv, table.concat(order, " before "))
      os.exit()
    ]])
  end)
end)

describe("the system's commands", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("work in a worker, and have no part in the shared memory", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        memory.set("k" .. cluster.worker.slot, "before")
        assert(os.execute("exit 3") == nil and select(3, os.execute("exit 3")) == 3)
        for i = 1, 20 do
          assert(os.execute "true")
          local pipe = assert(io.popen("echo " .. i .. "; ls -l /proc/self/fd"))
          local text = pipe:read("a")
          assert(pipe:close())
          assert(text:match("^%d+") == tostring(i))
          assert(not text:find "memfd" and not text:find "eventfd" and not text:find "3 %-> socket", text)
          assert(memory.increment("n") and memory.set("k" .. cluster.worker.slot, i))
        end
        assert(memory.get("k" .. cluster.worker.slot) == 20)
        print "worked"
      ]],
    }
    assert.equal("worked\nworked\n", c.out, c.err)
    assert.equal(0, c.code)
  end)
end)
