local clusters = require "clusters"

describe("an error that nobody catches", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- The worker must end with code 1 and say all of the patterns on standard error.
  local function fatal(script, ...)
    local c = clusters.run { "--restart", "never", app = script }
    assert.equal(1, c.code, c.err)
    assert.matches("worker 1 %(slot 1, pid %d+%) exited with code 1\n", c.err)
    for _, pattern in ipairs { ... } do assert.matches(pattern, c.err) end
    assert.not_matches("still here", c.out)
    return c
  end

  it("in the main task ends the process with a traceback and code 1", function()
    fatal([[
      local function inner() error "boom" end
      local function outer() inner() print "unreachable" end
      outer()
    ]], "worker 1: app.lua:1: boom\nstack traceback:\n", "app.lua:2: in [%w ]*'outer'", "app.lua:3: in main chunk")
  end)

  it("names the line of a script also in a folder that is called as our modules are", function()
    fatal([[
      load("local memory = ...\nmemory.set(5, 1)", "@clustermem/mine.lua")(memory)
    ]], "worker 1: clustermem/mine.lua:2: set: the key must be")
  end)

  it("in the main task after it has waited", function()
    fatal("task.sleep(1)\nmemory.get('k')\nerror 'boom'", "worker 1: app.lua:3: boom\nstack traceback:\n", "main chunk")
  end)

  it("in a spawned task", function()
    fatal([[
      task.spawn(function()
        task.sleep(1)
        error "boom"
      end)
      task.sleep(5000)
      print "still here"
    ]], "worker 1: app.lua:3: boom\nstack traceback:\n", "app.lua:3: in")
  end)

  it("in a luv callback", function()
    fatal([[
      uv.new_timer():start(1, 0, function()
        error "boom"
      end)
      task.sleep(5000)
      print "still here"
    ]], "worker 1: app.lua:2: boom\nstack traceback:\n", "app.lua:2: in")
  end)

  it("in a luv callback of a request", function()
    fatal([[
      uv.fs_stat("/", function()
        error "boom"
      end)
      task.sleep(5000)
      print "still here"
    ]], "worker 1: app.lua:2: boom\nstack traceback:\n")
  end)

  it("in the callback of a request", function()
    fatal([[
      memory.setMany({ k = 1 }, function()
        error "boom"
      end)
      task.sleep(5000)
      print "still here"
    ]], "worker 1: app.lua:2: boom\nstack traceback:\n")
  end)

  it("in the callback of a request after it has waited", function()
    fatal([[
      memory.setMany({ k = 1 }, function()
        task.sleep(1)
        error "boom"
      end)
      task.sleep(5000)
      print "still here"
    ]], "worker 1: app.lua:3: boom\nstack traceback:\n")
  end)

  it("in a coroutine of the script's own", function()
    fatal([[
      coroutine.wrap(function()
        task.sleep(1)
        error "boom"
      end)()
    ]], "worker 1: app.lua:1: app.lua:3: boom\nstack traceback:\n")
  end)

  it("in a module", function()
    local c = clusters.run {
      "--restart", "never",
      app = 'require "module"',
      files = { ["module.lua"] = 'clustermem = require "clustermem.task"\nclustermem.sleep(1)\nerror "boom"' },
    }
    assert.equal(1, c.code)
    assert.matches("worker 1: [^\n]*module.lua:3: boom\nstack traceback:\n.*app.lua:1: in main chunk", c.err)
  end)

  it("that is a table is shown by its __tostring", function()
    fatal([[error(setmetatable({}, { __tostring = function() return "as text" end }))]],
      "worker 1: as text\nstack traceback:\n")
  end)

  it("that is a table without one, or nil, or a number, is shown all the same", function()
    fatal("error {}", "worker 1: table: 0x%x+\nstack traceback:\n")
    fatal("error()", "worker 1: nil\nstack traceback:\n")
    fatal("error(42)", "worker 1: .*42\nstack traceback:\n")
  end)

  it("whose __tostring fails is shown all the same", function()
    fatal("error(setmetatable({}, { __tostring = function() error 'no' end }))", "worker 1: [^\n]+\nstack traceback:\n")
    fatal("error(setmetatable({}, { __tostring = function() return 5 end }))", "worker 1: [^\n]+\nstack traceback:\n")
    fatal("error(setmetatable({}, { __tostring = function() return memory.count() end }))",
      "worker 1: [^\n]+\nstack traceback:\n")
  end)

  it("whose message holds a zero byte keeps its traceback", function()
    fatal([[error "a\0b"]], "worker 1: app.lua:1: a%zb\nstack traceback:\n")
  end)

  it("is a stack overflow", function()
    fatal("local function f() return 1 + f() end\nf()", "worker 1: [^\n]*stack overflow", "stack traceback:\n")
  end)

  it("lets what was issued and printed before go out", function()
    local c = clusters.run {
      app = [[
        if cluster.worker.id == 1 then
          io.write("printed, no newline")
          memory.setMany({ issued = 1 }, function() end)
          error "boom"
        end
        print(memory.get("issued"))
      ]],
    }
    assert.equal("printed, no newline1\n", c.out)
  end)

  it("in process 0 ends the cluster with code 1", function()
    local c = clusters.run { boot = 'error "boom"', app = 'print "ran"' }
    assert.equal(1, c.code)
    assert.equal("", c.out)
    assert.matches("process 0: boot.lua:1: boom\nstack traceback:\n", c.err)
  end)

  it("in process 0 later ends the workers too", function()
    local c = clusters.run {
      workers = 2,
      boot = [[
        task.spawn(function()
          while not memory.get("ready") do task.sleep(1) end
          error "boom"
        end)
      ]],
      app = [[
        cluster.on("shutdown", function() print "asked to stop" end)
        memory.set("ready", true)
        task.sleep(60000)
      ]],
    }
    assert.equal(1, c.code)
    assert.matches("process 0: boot.lua:3: boom\nstack traceback:\n", c.err)
  end)

  it("of a failed task that is joined later is uncaught when nobody waits yet", function()
    fatal([[
      local t = task.spawn(function() error "boom" end)
      task.sleep(100)
      pcall(task.join, t)
      print "still here"
    ]], "worker 1: app.lua:1: boom")
  end)

  it("of a task that is joined in time goes to who joins", function()
    assert.equal("false\tapp.lua:2: boom\ngoing on\n", clusters.output [[
      local t = task.spawn(function()
error "boom" end)
      print(pcall(task.join, t))
      task.sleep(10)
      print "going on"
    ]])
  end)

  it("of a second function of task.all is uncaught", function()
    fatal([[
      pcall(task.all, {
        function() error "first" end,
        function() task.sleep(5) error "second" end,
      })
      task.sleep(5000)
      print "still here"
    ]], "worker 1: app.lua:3: second")
  end)

  it("closes the pending variables of its task", function()
    local c = fatal([[
      local _ <close> = setmetatable({}, { __close = function(_, value) print("closed", value) end })
      error "boom"
    ]], "worker 1: app.lua:2: boom")
    assert.equal("", (c.out:gsub("closed\t[^\n]*\n", "", 1)))
  end)
end)

describe('cluster.on("error")', function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("gets the value and the traceback of each error that nobody catches, and the process goes on", function()
    local out = clusters.output [[
      local value, seen = { "a table" }, 0
      cluster.on("error", function(raised, traceback)
        seen = seen + 1
        task.sleep(1) -- a task of its own
        print(raised == value, traceback:match("^stack traceback:\n") ~= nil, traceback:match("app.lua") ~= nil)
      end)
      task.spawn(function() error(value) end)
      uv.new_timer():start(1, 0, function() error(value) end)
      memory.setMany({ k = 1 }, function() error(value) end)
      while seen < 3 do task.sleep(1) end
      task.sleep(20)
    ]]
    assert.equal(("true\ttrue\ttrue\n"):rep(3), out)
  end)

  it("keeps the process alive after an error of the main task", function()
    assert.equal("seen: app.lua:3: boom\nlater\n", clusters.output [[
      cluster.on("error", function(value) print("seen: " .. value) end)
      task.spawn(function() task.sleep(20) print "later" end)
      error "boom"
    ]])
  end)

  it("calls all listeners", function()
    assert.equal("1 boom\n2 boom\n", clusters.output [[
      cluster.on("error", function(value) print("1 " .. value) end)
      cluster.on("error", function(value) print("2 " .. value) end)
      task.spawn(function() error("boom", 0) end)
    ]])
  end)

  it("does not get the errors of its own listeners, which end the process", function()
    local c = clusters.run {
      "--restart", "never",
      app = [[
        cluster.on("error", function(value)
          task.sleep(1)
          error("again: " .. value)
        end)
        task.spawn(function() error("boom", 0) end)
        task.sleep(5000)
      ]],
    }
    assert.equal(1, c.code)
    assert.matches("worker 1: app.lua:3: again: boom\nstack traceback:\n", c.err)
  end)

  it("does not get errors that somebody catches", function()
    assert.equal("fine\n", clusters.output [[
      cluster.on("error", function(value) print(value) end)
      pcall(error, "caught")
      pcall(task.join, task.spawn(function() error "joined" end))
      task.sleep(5)
      print "fine"
    ]])
  end)
end)

describe("the end of a process", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("has the code of os.exit", function()
    local cases = { { "", 0 }, { "0", 0 }, { "7", 7 }, { "255", 255 }, { "true", 0 }, { "false", 1 }, { "3, true", 3 } }
    for _, case in ipairs(cases) do
      local c = clusters.run { "--restart", "never", app = ("os.exit(%s)"):format(case[1]) }
      assert.matches(("exited with code %d\n"):format(case[2]), c.err)
      assert.equal(case[2] == 0 and 0 or 1, c.code)
    end
  end)

  it("has the code of cluster.exit", function()
    for _, case in ipairs { { "", 0 }, { "0", 0 }, { "9", 9 } } do
      local c = clusters.run { "--restart", "never", app = ("cluster.exit(%s)"):format(case[1]) }
      assert.matches(("exited with code %d\n"):format(case[2]), c.err)
    end
  end)

  it("comes with os.exit from anywhere", function()
    for _, script in ipairs {
      "task.spawn(function() os.exit(5) end) task.sleep(5000)",
      "uv.new_timer():start(1, 0, function() os.exit(5) end)",
      "memory.setMany({ k = 1 }, function() os.exit(5) end)",
      "memory.set('k', 1, function() os.exit(5) end)",
      "coroutine.wrap(function() task.sleep(1) os.exit(5) end)()",
      "table.sort({ 1, 2 }, function() os.exit(5) end)",
      "setmetatable({}, { __gc = function() os.exit(5) end }) collectgarbage() task.sleep(5000)",
    } do
      local c = clusters.run { "--restart", "never", app = script }
      assert.matches("exited with code 5\n", c.err)
    end
  end)

  it("of cluster.exit refuses what is no exit code", function()
    for _, code in ipairs { "-1", "256", "1.5", "'1'", "true" } do
      assert.matches("^app.lua:1: cluster.exit: ",
        clusters.output(("print(select(2, pcall(function() cluster.exit(%s) end)))"):format(code)))
    end
  end)

  it("by cluster.exit, by os.exit and by itself lets issued frames out, and what was printed", function()
    for _, ending in ipairs { "cluster.exit(0)", "os.exit(0)", "" } do
      local c = clusters.run {
        workers = 2,
        app = [[
          if cluster.worker.slot == 1 then
            io.write "no newline"
            for i = 1, 2000 do memory.setMany({ ["k" .. i] = ("v"):rep(1000) }, function() end) end
            memory.set("last", true, function() end)
            ]] .. ending .. [[

            return
          end
          while not memory.get("last") do task.sleep(1) end
          for i = 1, 2000 do assert(#memory.get("k" .. i) == 1000) end
          print "\nall there"
        ]],
      }
      assert.equal(0, c.code, c.err)
      assert.matches("no newline", c.out)
      assert.matches("all there\n", c.out)
    end
  end)

  it("lets issued frames out also when the master hears of the end before it has read them", function()
    local c = clusters.start {
      workers = 2,
      app = [[
        if cluster.worker.slot == 1 then
          while not memory.get "seen" do task.sleep(1) end -- who looks for the keys later waits for this one's end
          print("up " .. cluster.worker.pid)
          -- The master is stopped from outside; from then on nothing here may wait for it.
          local function stopped()
            local file = io.open(("/proc/%d/status"):format(uv.os_getppid()))
            local text = file:read("a")
            file:close()
            return text:find "State:%s+T"
          end
          while not stopped() do end
          for i = 1, 150 do memory.setMany({ ["k" .. i] = ("v"):rep(1000) }, function() end) end
          cluster.exit(0)
        end
        while #cluster.workers() < 2 do task.sleep(1) end
        memory.set("seen", true)
        while #cluster.workers() == 2 do task.sleep(1) end
        for i = 1, 150 do assert(memory.get("k" .. i), "lost: " .. i) end
        print "all there"
      ]],
    }
    local pid = c:waitFor("up (%d+)\n")
    c:kill("sigstop")
    c:waitUntil("the worker's end", function()
      return clusters.read(("/proc/%d/status"):format(pid)):find("State:%s+Z")
    end)
    c:kill("sigcont")
    assert.equal(0, (c:waitExit()), c.err)
    assert.matches("all there\n", c.out)
  end)

  it("by cluster.exit gives waiting tasks up and calls no shutdown listeners", function()
    assert.equal("main\n", clusters.output [[
      cluster.on("shutdown", function() print "shutdown" end)
      task.spawn(function() task.sleep(20) print "task" end)
      print "main"
      cluster.exit(0)
    ]])
  end)

  it("comes with code 0 when nothing is left", function()
    local c = clusters.run { app = "" }
    assert.equal(0, c.code)
    assert.matches("exited with code 0", c.err)
  end)

  it("comes after unfinished tasks, requests with callbacks and luv handles", function()
    -- Which of them is first depends on the machine's load.
    local lines = {}
    for line in clusters.output([[
      task.spawn(function() task.sleep(10) print "task" end)
      memory.setMany({ k = 1 }, function() print "callback" end)
      local timer = uv.new_timer()
      timer:start(20, 0, function() print "timer" timer:close() end)
    ]]):gmatch("[^\n]+") do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({ "callback", "task", "timer" }, lines)
  end)

  it("does not wait for luv handles that are unreferenced or closed", function()
    assert.equal("end\n", clusters.output [[
      local timer = uv.new_timer()
      timer:start(60000, 0, print)
      timer:unref()
      uv.new_timer():close()
      uv.new_tcp()
      print "end"
    ]])
  end)

  it("closes the state: finalizers run, to-be-closed variables are closed", function()
    assert.equal("closed\nfinalized\n", clusters.output [[
      kept = setmetatable({}, { __gc = function() print "finalized" end })
      local _ <close> = setmetatable({}, { __close = function() print "closed" end })
    ]])
  end)

  it("survives a finalizer that asks for something while the state is being closed", function()
    local c = clusters.run {
      app = [[
        kept = setmetatable({}, { __gc = function()
          memory.setMany({ k = 1 }, function() print "called back" end)
          memory.set("k", 1, function() print "called back" end)
          task.spawn(function() print "spawned" end)
        end })
      ]],
    }
    assert.matches("worker 1 %(slot 1, pid %d+%) exited with code 0\n", c.err)
    assert.equal(0, c.code)
  end)

  it("survives news of the cluster that come while the state is being closed", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        if cluster.worker.slot == 1 then
          -- A handle for the closing state to close, which takes a turn of the loop.
          local timer = uv.new_timer()
          timer:start(60000, 0, print)
          timer:unref()
          kept = setmetatable({}, { __gc = function() os.execute "sleep 0.3" end })
        else
          task.sleep(100)
        end
      ]],
    }
    assert.matches("worker 1 %(slot 1, pid %d+%) exited with code 0\n", c.err)
    assert.equal(0, c.code)
  end)

  it("survives SIGTERM while the state is being closed", function()
    local c = clusters.start {
      app = [[
        local timer = uv.new_timer()
        timer:start(60000, 0, print)
        timer:unref()
        kept = setmetatable({}, { __gc = function()
          uv.kill(cluster.worker.pid, "sigterm")
          os.execute "sleep 0.1"
        end })
      ]],
    }
    c:waitExit()
    assert.matches("worker 1 %(slot 1, pid %d+%) exited with code 0\n", c.err)
    assert.equal(0, c.code)
  end)

  it("comes with code 1 when a luv callback runs out of memory", function()
    if clusters.isSanitized() then return end
    local c = clusters.run {
      "--restart", "never", "--memory", "16M",
      app = [[
        os.execute(("prlimit --pid %d --as=200000000"):format(uv.os_getpid()))
        local timer = uv.new_timer()
        timer:start(1, 0, function()
          timer:close()
          local list = {}
          for i = 1, 1 << 40 do list[i] = i end
        end)
      ]],
    }
    assert.equal(1, c.code)
    assert.matches("worker 1: not enough memory\n", c.err)
  end)

  it("with an error of more text than a frame takes is that error still", function()
    local c = clusters.run {
      "--restart", "never", "--max-value", "1K", app = "error(('x'):rep(6 << 20), 0)",
    }
    assert.equal(1, c.code)
    assert.matches("exited with code 1\n", c.err)
    assert.not_matches("malformed", c.err)
  end)

  it("by cluster.exit lets issued frames go out whatever --grace is", function()
    local c = clusters.run {
      "--grace", "0", workers = 2,
      app = [[
        if cluster.worker.slot == 1 then
          for i = 1, 2 do memory.setMany({ ["big" .. i] = ("x"):rep(500000) }, function() end) end
          local master = uv.os_getppid()
          os.execute(("kill -STOP %d; (sleep 0.3; kill -CONT %d) >/dev/null 2>&1 &"):format(master, master))
          cluster.exit(0)
        end
        while not memory.get("big2") do task.sleep(5) end
        print "arrived"
      ]],
    }
    assert.matches("arrived\n", c.out)
  end)
end)
