local clusters = require "clusters"

describe("cluster.ready", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local stay = " task.sleep(60000)"

  local function finish(c)
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()), c.err)
  end

  it("does nothing without --wait-ready, in a worker, in process 0, in a callback of luv", function()
    local c = clusters.run {
      boot = "cluster.ready() print('ready 0')",
      app = [[
        local timer = uv.new_timer()
        timer:start(0, 0, function() cluster.ready() cluster.ready() print('ready 1') timer:close() end)
      ]],
    }
    assert.equal(0, c.code)
    assert.equal("ready 0\nready 1\n", c.out)
  end)

  it("makes the worker online, once, and nothing else does", function()
    local c = clusters.start {
      "--wait-ready", "20000",
      boot = [[
        cluster.on("online", function(worker) print("online " .. worker.id, memory.get "said") end)
        cluster.ready()
      ]],
      app = [[
        print("waits", cluster.workers()[1].online)
        while not uv.fs_stat "go" do task.sleep(1) end
        memory.set("said", true)
        cluster.ready()
        cluster.ready()
        while not cluster.workers()[1].online do task.sleep(1) end
        print "up"
      ]] .. stay,
    }
    c:waitFor("waits\tfalse\n")
    assert.not_matches("online 1", c.out)
    c:write("go", "")
    c:waitFor("up\n")
    c:waitFor("online 1\ttrue\n")
    finish(c)
    assert.equal(1, c:count("online 1"))
  end)

  it("that is not called in time is a failure of the slot at its start, however long the time", function()
    local c = clusters.run {
      "--wait-ready", "1050", limit = 60000,
      app = "print('up ' .. cluster.worker.id) task.sleep(60000)",
    }
    assert.equal(1, c.code)
    assert.equal(5, c:count("up %d\n"))
    assert.equal(5, c:count("warn  worker %d %(slot 1, pid %d+%) has not called cluster.ready%(%) within 1050 ms and "
      .. "is killed\n", "err"))
    assert.matches("slot 1 failed 5 times in a row without a second of life, so the cluster ends; last error: has not "
      .. "called cluster.ready%(%) within 1050 ms\n", c.err)
  end)

  it("may be left out by a worker that ends well before", function()
    local c = clusters.run { "--wait-ready", "20000", app = "print 'done'" }
    assert.equal(0, c.code)
    assert.equal("done\n", c.out)
  end)

  it("has the time of a worker that is asked to stop be --grace", function()
    local c = clusters.start {
      "--wait-ready", "600",
      app = "cluster.on('shutdown', function() task.sleep(800) print 'left' end) print 'up'" .. stay,
    }
    c:waitFor("up")
    finish(c)
    assert.equal("up\nleft\n", c.out)
    assert.not_matches("is killed", c.err)
  end)

  describe("in a reload", function()
    local first = "cluster.ready() cluster.on('shutdown', function() print 'left 1' end) print 'version 1'" .. stay

    local function start()
      local c = clusters.start { "--wait-ready", "1000", "--log-level", "debug", app = first }
      c:waitFor("version 1")
      c:waitFor("worker 1 .- is online", "err")
      return c
    end

    local function stays(c, reason)
      c:kill("sighup")
      c:waitFor("error the reload ends here: the new worker of slot 1 did not come online: " .. reason .. "\n", "err")
      assert.not_matches("left 1", c.out)
      c:writeApp("cluster.ready() print 'version 2'" .. stay)
      c:kill("sighup")
      c:waitFor("version 2")
      c:waitFor("reload: done", "err")
      assert.matches("left 1", c.out)
      finish(c)
    end

    it("keeps the old worker until the new one is ready", function()
      local c = start()
      c:writeApp([[
        print "waits"
        while not uv.fs_stat "go" do task.sleep(1) end
        cluster.ready()
        print "version 2"
      ]] .. stay)
      c:kill("sighup")
      c:waitFor("waits")
      c:write("go", "")
      c:waitFor("reload: done", "err")
      assert.matches("version 1\nwaits\nversion 2\nleft 1\n", c.out)
      finish(c)
    end)

    it("keeps the old one if the new one does not say so in time", function()
      local c = start()
      c:writeApp("print 'version 2'" .. stay)
      stays(c, "has not called cluster.ready%(%) within 1000 ms")
    end)

    it("keeps the old one if the new one raises before", function()
      local c = start()
      c:writeApp("task.sleep(20) error 'broken'")
      stays(c, "worker 2: app.lua:1: broken")
    end)

    it("keeps the old one if the new one ends before, well or not", function()
      for ending, reason in pairs {
        ["os.exit(0)"] = "exited with code 0",
        ["os.exit(3)"] = "exited with code 3",
        ["uv.kill(cluster.worker.pid, 'sigkill')"] = "was killed by SIGKILL",
      } do
        local c = start()
        c:writeApp("task.sleep(20) " .. ending .. stay)
        stays(c, reason)
      end
    end)
  end)
end)
