local clusters = require "clusters"
local uv = require "luv"
local task = require "clustermem.task"

describe("a service manager (NOTIFY_SOCKET)", function()
  local manager

  -- Listens on a socket of that name: a table whose `text` is all that has come.
  local function listen(name)
    local self = { text = "", input = uv.new_pipe(false), output = uv.new_pipe(false) }
    local handle, pid
    handle, pid = uv.spawn(assert(uv.exepath()):match("^(.*/)") .. "spec/notify_listener", {
      args = { name },
      stdio = { self.input, self.output, 2 },
    }, function()
      self.ended = true
      handle:close()
    end)
    assert(handle, pid)
    self.output:read_start(function(_, data)
      if data then self.text = self.text .. data else self.output:close() end
    end)
    local deadline = uv.now() + 10000
    while not self.text:find("listening\n") do
      assert(not self.ended and uv.now() < deadline, "nobody listens")
      task.sleep(1)
    end
    return self
  end

  local folder

  before_each(function()
    clusters.watch()
    folder = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/clustermem-notify-XXXXXX"))
    manager = listen(folder .. "/socket")
  end)

  after_each(function()
    manager.input:close()
    local deadline = uv.now() + 10000
    while not manager.ended and uv.now() < deadline do task.sleep(1) end
    os.remove(folder .. "/socket")
    uv.fs_rmdir(folder)
    assert(manager.ended)
    clusters.finish()
  end)

  local function start(options)
    options.env = options.env or {}
    options.env.NOTIFY_SOCKET = options.env.NOTIFY_SOCKET or folder .. "/socket"
    return clusters.start(options)
  end

  local function told(c, pattern)
    return c:waitUntil(("'%s' among what is told:\n%s"):format(pattern, manager.text), function()
      return manager.text:match(pattern)
    end)
  end

  local RUNS = "READY=1 STATUS=Running, workers: %d+\n"
  local RELOADS = "RELOADING=1 MONOTONIC_USEC=%d+ STATUS=Reloading\n"
  local STOPS = "STOPPING=1 STATUS=Stopping\n"

  it("is told of readiness once, when all workers are online for the first time, and of the stop", function()
    local c = start {
      workers = 2, "--wait-ready", "20000",
      app = [[
        if cluster.worker.id == 1 then cluster.ready() print "one" task.sleep(20) os.exit(1) end
        if cluster.worker.slot == 1 then print "again" end
        while not uv.fs_stat "go" do task.sleep(1) end
        cluster.ready()
        cluster.on("shutdown", function() while not uv.fs_stat "left" do task.sleep(1) end end)
        task.sleep(60000)
      ]],
    }
    c:waitFor("again")
    assert.equal("listening\n", manager.text)
    c:write("go", "")
    told(c, "^listening\n" .. RUNS .. "$")
    c:kill("sigterm")
    told(c, "^listening\n" .. RUNS .. STOPS .. "$")
    c:write("left", "")
    assert.equal(0, (c:waitExit()))
    assert.matches("^listening\n" .. RUNS .. STOPS .. "$", manager.text)
  end)

  it("is told when process 0's main task has ended, too", function()
    local c = start {
      workers = 0, "--wait-ready", "20000",
      boot = [[
        while not uv.fs_stat "go" do task.sleep(1) end
        task.spawn(function() task.sleep(60000) end)
      ]],
    }
    c:waitUntil("process 0", function() return next(c:processes()) end)
    assert.equal("listening\n", manager.text)
    c:write("go", "")
    told(c, "^listening\n" .. RUNS .. "$")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
  end)

  it("is told of reloads and their end, of those too that fail", function()
    local app = "print 'up' task.sleep(60000)"
    local c = start { app = app }
    told(c, RUNS)
    local before = uv.hrtime() / 1000
    c:kill("sighup")
    told(c, RELOADS .. RUNS)
    local at = tonumber(manager.text:match("MONOTONIC_USEC=(%d+)"))
    assert.is_true(at >= before - 1 and at <= uv.hrtime() / 1000 + 1)
    for _, broken in ipairs { "local = 5", "os.exit(1)" } do
      c:writeApp(broken)
      manager.text = ""
      c:kill("sighup")
      told(c, "^" .. RELOADS .. RUNS .. "$")
    end
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    told(c, STOPS)
  end)

  it("is not told of the end of a reload by a cluster that stops", function()
    local c = start { app = "print 'up' task.sleep(60000)" }
    told(c, RUNS)
    c:writeApp("print 'starting' local s = uv.hrtime() repeat until uv.hrtime() - s > 2e8 task.sleep(60000)")
    c:kill("sighup")
    c:waitFor("starting")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.matches(RELOADS .. STOPS .. "$", manager.text)
  end)

  it("is not told of readiness by a cluster whose only worker never came", function()
    local c = start { "--restart", "never", app = "error 'broken'" }
    assert.equal(1, (c:waitExit()))
    told(c, STOPS)
    assert.equal("listening\n" .. manager.text:match(STOPS), manager.text)
  end)

  it("hears from the master alone, in whose environment it is", function()
    local c = start {
      env = { WATCHDOG_USEC = "60000000" },
      app = "print(os.getenv 'NOTIFY_SOCKET', os.getenv 'WATCHDOG_USEC', os.getenv 'WATCHDOG_PID')",
    }
    assert.equal(0, (c:waitExit()))
    assert.equal("nil\tnil\tnil\n", c.out)
    told(c, STOPS)
  end)

  it("is told that the master is alive twice in each interval", function()
    local c = start { env = { WATCHDOG_USEC = "100000" }, app = "task.sleep(60000)" }
    c:waitUntil("three signs", function() return select(2, manager.text:gsub("WATCHDOG=1\n", "")) == 3 end)
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
  end)

  it("that is not there is no reason not to run", function()
    local c = start { env = { NOTIFY_SOCKET = folder .. "/nobody" }, app = "print 'ran'" }
    assert.equal(0, (c:waitExit()))
    assert.equal("ran\n", c.out)
    assert.matches("warn  the service manager has not been told 'READY=1': No such file or directory\n", c.err)
  end)
end)
