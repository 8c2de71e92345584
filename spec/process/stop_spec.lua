local clusters = require "clusters"

describe("a cluster that is asked to stop", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local function start(options)
    local c = clusters.start(options)
    local workers = options.workers or 1
    c:waitUntil("the workers", function() return c:count("up %d+\n") == workers end)
    return c
  end

  local graceful = [[
    cluster.on("shutdown", function()
      task.sleep(20)
      memory.set("left" .. cluster.worker.id, true)
      print("left " .. cluster.worker.id)
    end)
    print("up " .. cluster.worker.pid)
    task.sleep(60000)
  ]]

  for _, signal in ipairs { "sigterm", "sigint" } do
    it(("by %s calls the shutdown listeners as tasks, waits for them, and exits 0"):format(signal), function()
      local c = start { workers = 2, app = graceful }
      c:kill(signal)
      assert.equal(0, (c:waitExit()))
      assert.matches("left 1\n", c.out)
      assert.matches("left 2\n", c.out)
      assert.equal(2, c:count("info  worker %d+ %(slot %d+, pid %d+%) exited with code 0\n", "err"))
      assert.matches(signal:upper() .. ": the cluster stops", c.err)
    end)
  end

  it("runs the shutdown listeners side by side, and each of them", function()
    local c = start {
      app = [[
        local started = 0
        for i = 1, 3 do
          cluster.on("shutdown", function()
            started = started + 1
            while started < 3 do task.sleep(1) end
            print("listener " .. i)
          end)
        end
        print("up 1")
        task.sleep(60000)
      ]],
    }
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.equal(3, c:count("listener %d\n"))
  end)

  it("ends processes without shutdown listeners at once", function()
    local c = start { workers = 2, app = "print('up 1') uv.new_timer():start(60000, 0, print)" }
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
  end)

  it("calls the listeners once, however often it is asked", function()
    local c = start { app = graceful:gsub("sleep%(20%)", "sleep(100) print 'slept'") }
    c:kill("sigterm", c:waitFor("up (%d+)\n"))
    for _ = 1, 3 do c:kill("sigterm") end
    assert.equal(0, (c:waitExit()))
    assert.equal(1, c:count("slept\n"))
    assert.equal(1, c:count("left 1\n"))
  end)

  it("waits at most --grace and then kills, and exits 1", function()
    for _, script in ipairs {
      "print('up 1') while true do end",
      "cluster.on('shutdown', function() task.sleep(60000) end) print('up 1') task.sleep(60000)",
    } do
      local c = start { "--grace", "150", app = script }
      c:kill("sigterm")
      assert.equal(1, (c:waitExit()))
      assert.matches("warn  worker 1 %(slot 1, pid %d+%) did not stop within 150 ms and is killed\n", c.err)
      assert.matches("was killed by SIGKILL\n", c.err)
    end
  end)

  it("kills only who did not stop in time", function()
    local c = start {
      workers = 2, "--grace", "300",
      app = "if cluster.worker.id == 1 then print 'up 1' while true do end end " .. graceful,
    }
    c:kill("sigterm")
    assert.equal(1, (c:waitExit()))
    assert.matches("left 2\n", c.out)
    assert.equal(1, c:count("is killed\n", "err"))
  end)

  it("is ended at once by a second SIGINT", function()
    local c = start { workers = 2, "--grace", "60000", app = "print('up 1') while true do end" }
    c:kill("sigint")
    c:waitFor("SIGINT: the cluster stops", "err")
    c:kill("sigint")
    assert.equal(1, (c:waitExit()))
    assert.equal(2, c:count("was killed by SIGKILL\n", "err"))
    assert.matches("warn  interrupted again", c.err)
  end)

  it("lets shutdown listeners use the shared values", function()
    local c = start {
      app = [[
        cluster.on("shutdown", function()
          assert(memory.set("k", { 1 }))
          print("stored", memory.get("k")[1])
        end)
        print "up 1"
        task.sleep(60000)
      ]],
    }
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.matches("stored\t1\n", c.out)
  end)

  it("asks the workers first and then process 0", function()
    local c = start {
      workers = 2,
      boot = [[
        cluster.on("shutdown", function() print "left 0" end)
        task.spawn(function() task.sleep(60000) end)
      ]],
      app = graceful,
    }
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.matches("left [12]\nleft [12]\nleft 0\n$", c.out)
  end)

  it("while process 0 is still at its main task starts no worker", function()
    local c = clusters.start {
      boot = "print 'booting' task.sleep(60000)",
      app = "print 'worker'",
    }
    c:waitFor("booting")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.equal("booting\n", c.out)
  end)

  it("while a worker is about to be started again starts none", function()
    local c = clusters.start { app = "print(cluster.worker.id) os.exit(cluster.worker.id < 4 and 1 or 0)" }
    c:waitFor("starts again in 400 ms", "err")
    c:kill("sigterm")
    c:waitExit()
    assert.equal("1\n2\n3\n", c.out)
  end)

  it("before its processes have come up stops them too", function()
    for _ = 1, 5 do
      local c = clusters.start { workers = 2, "--log-level", "debug", app = "task.sleep(60000)" }
      c:waitFor("worker 2 .-starts app.lua", "err")
      c:kill("sigterm")
      assert.equal(0, (c:waitExit()))
    end
  end)
end)

describe("a worker", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("that gets SIGTERM itself stops gracefully, alone, and is not started again", function()
    local c = clusters.start {
      workers = 2,
      app = [[
        cluster.on("shutdown", function()
          task.sleep(5)
          print("left " .. cluster.worker.id)
          memory.set("gone", true)
        end)
        print("up " .. cluster.worker.id .. " " .. cluster.worker.pid)
        while not (cluster.worker.id == 2 and memory.get("gone")) do task.sleep(1) end
        print "ran on"
      ]],
    }
    c:waitFor("up 2")
    c:kill("sigterm", c:waitFor("up 1 (%d+)"))
    assert.equal(0, (c:waitExit()))
    assert.matches("left 1\n", c.out)
    assert.matches("ran on\n", c.out)
    assert.not_matches("left 2", c.out)
    assert.not_matches("starts again", c.err)
  end)

  it("ignores SIGINT and SIGHUP, which the terminal sends to the whole group", function()
    local c = clusters.start {
      workers = 1,
      boot = "print('up ' .. cluster.worker.pid) task.spawn(function() task.sleep(60000) end)",
      app = [[
        cluster.on("shutdown", function() print "shutdown" end)
        print("up " .. cluster.worker.pid)
        while not memory.get("go") do task.sleep(1) end
        print "ran on"
      ]],
    }
    c:waitUntil("two processes", function() return c:count("up %d+\n") == 2 end)
    for pid in c.out:gmatch("up (%d+)\n") do
      c:kill("sigint", pid)
      c:kill("sighup", pid)
    end
    -- They have arrived before a signal that is caught and comes later.
    for pid in pairs(c:processes()) do
      c:waitUntil("the signals", function()
        return clusters.read(("/proc/%d/status"):format(pid)):find("SigPnd:%s+0+\n.*ShdPnd:%s+0+\n")
      end)
    end
    assert.not_matches("exited", c.err)
    assert.not_matches("killed", c.err)
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.equal(1, c:count("shutdown\n"))
  end)

  it("that a shutdown listener's error ends exits with code 1, while the cluster's stop is still graceful", function()
    local c = clusters.start {
      app = "cluster.on('shutdown', function() error 'boom' end) print 'up' task.sleep(60000)",
    }
    c:waitFor("up")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.matches("worker 1: app.lua:1: boom\nstack traceback:", c.err)
    assert.matches("worker 1 %(slot 1, pid %d+%) exited with code 1", c.err)
  end)

  it("lets programs that it starts be interrupted", function()
    assert.equal("2\n", clusters.output [[
      local process, pid
      local _, signal = task.await(function(resume)
        process, pid = uv.spawn("/bin/sleep", { args = { "20" } }, resume)
        uv.new_timer():start(50, 0, function() uv.kill(pid, "sigint") end)
      end)
      print(signal)
      os.exit()
    ]])
  end)

  it("lets all shutdown listeners finish when one of them fails", function()
    local c = clusters.start {
      app = [[
        cluster.on("shutdown", function() task.sleep(20) print "first saved" end)
        cluster.on("shutdown", function() error "boom" end)
        cluster.on("shutdown", function() task.sleep(40) print "last saved" end)
        print "up"
        task.sleep(60000)
      ]],
    }
    c:waitFor("up")
    c:kill("sigterm")
    c:waitExit()
    assert.matches("first saved\nlast saved\n", c.out)
    assert.matches("worker 1: app.lua:2: boom\nstack traceback:", c.err)
    assert.matches("exited with code 1", c.err)
  end)

  it("leaves when a shutdown listener fails and an error listener takes the error", function()
    local c = clusters.start {
      "--grace", "20000",
      app = [[
        cluster.on("error", function(value) task.sleep(10) print("taken: " .. value) end)
        cluster.on("shutdown", function() error "boom" end)
        print "up"
        task.sleep(60000)
      ]],
    }
    c:waitFor("up")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.equal(1, c:count("taken: app.lua:2: boom"))
    assert.matches("exited with code 0", c.err)
  end)
end)
