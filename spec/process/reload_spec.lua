local clusters = require "clusters"

describe("a reload (SIGHUP)", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- Says its version, and goes on until it is asked to stop.
  local function version(number, more)
    return ([[
      cluster.on("shutdown", function() print("left " .. cluster.worker.id) end)
      print("version %d id " .. cluster.worker.id .. " slot " .. cluster.worker.slot .. " pid " .. cluster.worker.pid)
      %s
      task.sleep(60000)
    ]]):format(number, more or "")
  end

  local function started(c, number, count)
    c:waitUntil(("version %d in %d workers"):format(number, count), function()
      return c:count(("version %d id"):format(number)) == count
    end)
  end

  local function finish(c)
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()), c.err)
  end

  it("brings the new code, and the memory is kept", function()
    local c = clusters.start { workers = 2, app = version(1, "memory.set('kept', 'from version 1')") }
    started(c, 1, 2)
    c:writeApp(version(2, "print(memory.get('kept'))"))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    started(c, 2, 2)
    c:waitUntil("the values", function() return c:count("from version 1\n") == 2 end)
    finish(c)
  end)

  it("gives new ids to the same slots", function()
    local c = clusters.start { workers = 2, app = version(1) }
    started(c, 1, 2)
    c:writeApp(version(2))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    assert.matches("version 2 id 3 slot 1 ", c.out)
    assert.matches("version 2 id 4 slot 2 ", c.out)
    finish(c)
  end)

  it("has a new worker online before it asks the old one to stop, one slot at a time", function()
    local c = clusters.start { workers = 2, "--log-level", "debug", app = version(1) }
    for id = 1, 2 do c:waitFor(("worker %d %%(slot %d, pid %%d+%%) is online"):format(id, id), "err") end
    c:writeApp(version(2, "local start = uv.hrtime() repeat until uv.hrtime() - start > 2e7"))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    local order = {}
    for id, event in c.err:gmatch("worker (%d+) %(slot %d+, pid %d+%) (%l+)") do
      order[#order + 1] = event .. " " .. id
    end
    local text = table.concat(order, ", ")
    assert.matches("starts 3, is 3, exited 1, starts 4, is 4, exited 2$", text)
    finish(c)
  end)

  it("counts a worker as online that waits in its main task", function()
    local c = clusters.start { app = version(1) }
    started(c, 1, 1)
    c:writeApp("memory.get('k') " .. version(2))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    started(c, 2, 1)
    finish(c)
  end)

  it("with a syntax error keeps the old workers and says where it is", function()
    local c = clusters.start { workers = 2, app = version(1) }
    started(c, 1, 2)
    c:writeApp("\nlocal = 5")
    c:kill("sighup")
    c:waitFor("error no reload, the workers stay: app.lua:2: [^\n]+\n", "err")
    c:writeApp(version(2))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    assert.equal(2, c:count("left [12]\n"))
    assert.equal(4, c:count("version %d id"))
    finish(c)
  end)

  it("without its script keeps the old workers and says so", function()
    local c = clusters.start { app = version(1) }
    started(c, 1, 1)
    os.remove(c.folder .. "/app.lua")
    c:kill("sighup")
    c:waitFor("error no reload, the workers stay: cannot run app.lua: No such file", "err")
    assert.not_matches("left", c.out)
    finish(c)
  end)

  it("whose new worker fails at its start keeps the old one and ends there", function()
    local c = clusters.start { workers = 2, app = version(1) }
    started(c, 1, 2)
    c:writeApp("error 'broken'")
    c:kill("sighup")
    c:waitFor("error the reload ends here: the new worker of slot 1 did not come online: worker 3: app.lua:1: broken\n",
      "err")
    assert.matches("worker 3: app.lua:1: broken\n", c.err)
    c:writeApp(version(2))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    assert.equal(2, c:count("version 2 id"))
    assert.equal(2, c:count("left [12]\n"))
    finish(c)
  end)

  it("that is asked for during another one is not lost", function()
    local c = clusters.start { workers = 2, app = version(1) }
    started(c, 1, 2)
    c:writeApp(version(2, "local start = uv.hrtime() repeat until uv.hrtime() - start > 5e7"))
    c:kill("sighup")
    c:waitFor("version 2 id 3")
    c:writeApp(version(3))
    c:kill("sighup")
    c:waitFor("version 3 id %d+ slot 1 ")
    c:waitFor("version 3 id %d+ slot 2 ")
    c:waitUntil("the end of both", function() return c:count("reload: done", "err") == 2 end)
    finish(c)
  end)

  it("replaces also a worker that waits to be started again", function()
    local c = clusters.start { "--log-level", "debug", app = "os.exit(1)" }
    c:waitFor("starts again in 400 ms", "err")
    c:writeApp(version(2))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    -- Not by its own timer, later.
    assert.matches("reload: one worker at a time\n.*worker 4 %(slot 1, pid %d+%) is online\n.*reload: done", c.err)
    finish(c)
    assert.equal(1, c:count("version 2"))
  end)

  it("kills an old worker that does not stop", function()
    local c = clusters.start { "--grace", "150", app = "print 'version 1 id' while true do end" }
    started(c, 1, 1)
    c:writeApp(version(2))
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    assert.matches("worker 1 %(slot 1, pid %d+%) did not stop within 150 ms and is killed", c.err)
    finish(c)
    assert.not_matches("starts again", c.err)
  end)

  it("survives the death of the old worker meanwhile", function()
    local c = clusters.start { app = version(1) }
    started(c, 1, 1)
    local pid = c:waitFor("version 1 id 1 slot 1 pid (%d+)")
    c:writeApp("print 'starting' local s = uv.hrtime() repeat until uv.hrtime() - s > 2e8 " .. version(2))
    c:kill("sighup")
    c:waitFor("starting")
    c:kill("sigkill", pid)
    started(c, 2, 1)
    c:waitFor("reload: done", "err")
    finish(c)
    assert.equal(1, c:count("starting"))
  end)

  it("survives the death of the new worker after it came online", function()
    local c = clusters.start { app = version(1) }
    started(c, 1, 1)
    c:writeApp("if cluster.worker.id == 2 then task.sleep(1) os.exit(1) end " .. version(2))
    c:kill("sighup")
    c:waitFor("version 2 id 3 slot 1 ")
    c:waitFor("left 1\n")
    finish(c)
  end)

  it("is given up when the cluster is asked to stop", function()
    local c = clusters.start { workers = 2, app = version(1) }
    started(c, 1, 2)
    c:writeApp("print 'starting' local s = uv.hrtime() repeat until uv.hrtime() - s > 2e8 " .. version(2))
    c:kill("sighup")
    c:waitFor("starting")
    finish(c)
    assert.not_matches("reload: done", c.err)
    assert.equal(1, c:count("starting"))
  end)

  it("leaves process 0 as it is", function()
    local c = clusters.start {
      boot = "print 'booted' task.spawn(function() task.sleep(60000) end)",
      app = version(1),
    }
    started(c, 1, 1)
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    assert.equal(1, c:count("booted\n"))
    finish(c)
  end)

  it("replaces forked workers too, each with its own script, arguments and environment", function()
    local c = clusters.start {
      args = { "run", "-w", "0", "--master", "boot.lua" },
      boot = "cluster.fork { script = 'other.lua', args = { 'blue' }, env = { CM_COLOUR = 'sky' } }",
      files = { ["other.lua"] = [[
        local task, cluster = require "clustermem.task", require "clustermem.cluster"
        print("id " .. cluster.worker.id, os.getenv("CM_COLOUR"), ...)
        task.sleep(60000)
      ]] },
    }
    c:waitFor("id 1\tsky\tblue\n")
    c:kill("sighup")
    c:waitFor("id 2\tsky\tblue\n")
    c:waitFor("reload: done", "err")
    finish(c)
  end)

  it("loses no value that is written while it goes on", function()
    local c = clusters.start {
      workers = 2,
      app = [[
        local stop = false
        cluster.on("shutdown", function()
          stop = true
          while stop ~= "done" do task.sleep(1) end
        end)
        print("version 1 id " .. cluster.worker.id)
        local key = "count" .. cluster.worker.slot
        repeat
          local count = (memory.get(key) or 0) + 1
          memory.set(key, count)
          memory.set("written" .. cluster.worker.id, (memory.get("written" .. cluster.worker.id) or 0) + 1)
        until stop
        stop = "done"
      ]],
    }
    started(c, 1, 2)
    for round = 1, 2 do
      c:kill("sighup")
      c:waitUntil("the reload", function() return c:count("reload: done", "err") == round end)
    end
    assert.not_matches("error", c.err)
    finish(c)
  end)

  it("remembers that a slot has worked, and goes no further when a new worker fails", function()
    local c = clusters.start {
      workers = 2,
      app = [[
        cluster.on("shutdown", function() task.sleep(500) end) -- so that its successor fails meanwhile
        task.sleep(1100) -- a life
        print("lived " .. cluster.worker.id)
        task.sleep(60000)
      ]],
    }
    c:waitFor("lived 1")
    c:waitFor("lived 2")
    c:writeApp [[
      print("up " .. cluster.worker.id)
      task.sleep(20)
      if cluster.worker.slot == 1 and cluster.worker.id < 8 then error "broken" end
      task.sleep(60000)
    ]]
    c:kill("sighup")
    c:waitFor("up 8")
    assert.matches("the reload ends here: the new worker of slot 1 failed: worker %d: app.lua:3: broken\n", c.err)
    assert.not_matches("worker 2 %(slot 2, pid %d+%) exited", c.err)
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
  end)
end)
