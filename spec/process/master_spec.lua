local clusters = require "clusters"

describe("the master script", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("runs before the workers, which start when its main task has ended, also when that waits", function()
    local c = clusters.run {
      workers = 2,
      boot = [[
        print "begin"
        task.sleep(50)
        memory.set("k", 1)
        print "end"
      ]],
      app = "print('worker', memory.get('k'))",
    }
    assert.equal("begin\nend\nworker\t1\nworker\t1\n", c.out)
    assert.equal(0, c.code)
  end)

  it("lets the workers start although it has other tasks and handles", function()
    local c = clusters.run {
      boot = [[
        task.spawn(function() task.sleep(60000) end)
        uv.new_timer():start(60000, 0, print)
      ]],
      app = "print 'worker'",
    }
    assert.equal("worker\n", c.out)
    assert.equal(0, c.code)
  end)

  it("may end before the workers do", function()
    local c = clusters.run { boot = "print 'booted'", app = "task.sleep(50) print 'worker'" }
    assert.equal("booted\nworker\n", c.out)
    assert.matches("process 0 %(pid %d+%) exited with code 0\n.*worker 1 ", c.err)
    assert.equal(0, c.code)
  end)

  it("lets the workers start when it ends with os.exit(0)", function()
    local c = clusters.run { boot = "os.exit(0)", app = "print 'worker'" }
    assert.equal("worker\n", c.out)
    assert.equal(0, c.code)
  end)

  it("that exits with another code, or is killed, ends the cluster with code 1", function()
    for _, ending in ipairs { "os.exit(3)", "uv.kill(cluster.worker.pid, 'sigkill') task.sleep(5000)" } do
      local c = clusters.run { boot = ending, app = "print 'worker'" }
      assert.equal("", c.out)
      assert.equal(1, c.code)
      c = clusters.run {
        boot = ("task.spawn(function() while not memory.get('up') do task.sleep(1) end %s end)"):format(ending),
        app = "memory.set('up', 1) task.sleep(60000)",
      }
      assert.equal(1, c.code)
      assert.matches("error the master script failed, so the cluster ends\n", c.err)
    end
  end)

  it("may be the same file as the workers'", function()
    local c = clusters.run {
      args = { "-w", "2", "--master", "both.lua", "both.lua" },
      files = { ["both.lua"] = 'print(require("clustermem.cluster").isMaster and "master" or "worker")' },
    }
    assert.equal("master\nworker\nworker\n", c.out)
  end)

  it("is asked to stop when no worker is left", function()
    local c = clusters.run {
      boot = [[
        cluster.on("shutdown", function()
          task.sleep(10)
          print("asked", memory.get("k"))
        end)
        task.spawn(function() task.sleep(60000) end)
      ]],
      app = "memory.set('k', 'from the worker')",
    }
    assert.equal("asked\tfrom the worker\n", c.out)
    assert.equal(0, c.code)
  end)

  it("with -w 0 is not asked to stop, and the run ends when it ends", function()
    local c = clusters.run { workers = 0, boot = "task.sleep(50) print 'end'" }
    assert.equal("end\n", c.out)
    assert.equal(0, c.code)
  end)

  it("with -w 0 ends when all it forked has ended too", function()
    local c = clusters.run {
      workers = 0,
      boot = "for i = 1, 2 do cluster.fork { script = 'app.lua' } end print 'end'",
      files = { ["app.lua"] = 'require("clustermem.task").sleep(50) print "worker"' },
    }
    assert.equal("end\nworker\nworker\n", c.out)
    assert.equal(0, c.code)
  end)

  it("with -w 0 goes on when all it forked has ended", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        cluster.fork { script = "app.lua" }
        while #cluster.workers() > 0 do task.sleep(1) end
        task.sleep(20)
        cluster.fork { script = "app.lua" }
        print "end"
      ]],
      files = { ["app.lua"] = 'print "worker"' },
    }
    assert.equal(2, c:count("worker\n"))
    assert.equal(1, c:count("end\n"))
    assert.equal(0, c.code)
  end)
end)

describe("cluster.fork", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local show = [[
    local cluster = require "clustermem.cluster"
    print("forked", cluster.worker.id, cluster.worker.slot, os.getenv("CM_COLOUR"), arg[0], ...)
  ]]

  it("starts a worker with its script, arguments and environment, and gives it", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        local worker = cluster.fork { script = "other.lua", args = { "a", "", "b c" }, env = { CM_COLOUR = "blue" } }
        print("got", worker.id, worker.slot, math.type(worker.pid))
      ]],
      files = { ["other.lua"] = show },
    }
    assert.matches("got\t1\t1\tinteger\n", c.out)
    assert.matches("forked\t1\t1\tblue\tother.lua\ta\t\tb c\n", c.out)
  end)

  it("adds to the environment and replaces what is there", function()
    local c = clusters.run {
      workers = 0,
      env = { CM_COLOUR = "grey", CM_OTHER = "kept" },
      boot = "cluster.fork { script = 'other.lua', env = { CM_COLOUR = 'blue' } } print(os.getenv 'CM_COLOUR')",
      files = { ["other.lua"] = "print(os.getenv 'CM_COLOUR', os.getenv 'CM_OTHER')" },
    }
    assert.matches("grey\n", c.out)
    assert.matches("blue\tkept\n", c.out)
  end)

  it("without a script starts process 0's own", function()
    local c = clusters.run {
      workers = 0,
      boot = "if cluster.isMaster then cluster.fork() cluster.fork {} end print(cluster.worker.id)",
    }
    assert.equal(1, c:count("0\n"))
    assert.equal(1, c:count("1\n"))
    assert.equal(1, c:count("2\n"))
  end)

  it("gives slots of their own, above the command line's", function()
    local c = clusters.run {
      workers = 2,
      boot = [[
        local worker = cluster.fork { script = "other.lua" }
        print("slot", worker.slot)
      ]],
      app = "print('worker', cluster.worker.id, cluster.worker.slot)",
      files = { ["other.lua"] = show },
    }
    assert.matches("slot\t3\n", c.out)
    assert.matches("worker\t2\t1\n", c.out)
    assert.matches("worker\t3\t2\n", c.out)
    assert.equal(0, c.code)
  end)

  it("supervises what it starts like the others", function()
    local c = clusters.run {
      workers = 0,
      boot = "cluster.fork { script = 'other.lua', args = { 'again' } }",
      files = { ["other.lua"] = show .. "if cluster.worker.id < 3 then os.exit(1) end" },
    }
    for id = 1, 3 do assert.matches(("forked\t%d\t1\tnil\tother.lua\tagain\n"):format(id), c.out) end
    assert.equal(0, c.code)
    c = clusters.run {
      "--restart", "never", workers = 0,
      boot = "cluster.fork { script = 'other.lua' }",
      files = { ["other.lua"] = "os.exit(1)" },
    }
    assert.equal(1, c.code)
  end)

  it("calls back", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        cluster.fork({ script = "app.lua" }, function(worker) print("called back", worker.id) end)
        cluster.fork({ script = "none.lua" }, function(...) print("called back", (...), select(3, ...)) end)
      ]],
      files = { ["app.lua"] = "" },
    }
    assert.matches("called back\t1\n", c.out)
    assert.matches("called back\tnil\tENOENT\n", c.out)
  end)

  it("gives nil, message, code for a script that cannot be run, and the cluster goes on", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        print(cluster.fork { script = "none.lua" })
        print(cluster.fork { script = "." })
        print(cluster.fork { script = "bad.lua" })
        print(cluster.fork { script = "good.lua" } ~= nil)
      ]],
      files = { ["bad.lua"] = "\n\nlocal = 1", ["good.lua"] = "" },
    }
    assert.matches("nil\t[^\n]*none.lua[^\n]*\tENOENT\n", c.out)
    assert.matches("nil\t[^\n]*\tEISDIR\n", c.out)
    assert.matches("nil\tbad.lua:3: [^\n]*\tbadvalue\n", c.out)
    assert.matches("true\n", c.out)
    assert.equal(0, c.code)
  end)

  it("gives closed when the cluster is stopping", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        cluster.on("shutdown", function() print("closed?", select(3, cluster.fork { script = "app.lua" })) end)
        cluster.shutdown()
        task.sleep(60000)
      ]],
      files = { ["app.lua"] = "" },
    }
    assert.equal("closed?\tclosed\n", c.out)
    assert.equal(0, c.code)
  end)

  it("raises on misuse, at the caller's line", function()
    local c = clusters.run {
      workers = 0,
      boot = [[local function try(...) local arguments = table.pack(...)
        print(select(2, pcall(function() local worker =
          cluster.fork(table.unpack(arguments, 1, arguments.n)) return worker end)))
      end
        try { colour = "red" }
        try(5)
        try { script = 5.5, args = "a" }
        try { script = {} }
        try { script = "a\0b" }
        try { script = "app.lua", args = { true } }
        try { script = "app.lua", args = { "a\0b" } }
        try { script = "app.lua", env = { ["a=b"] = "c" } }
        try { script = "app.lua", env = { "c" } }
        try { script = "app.lua", env = { a = true } }
        try({ script = "app.lua" }, 5)
      ]],
    }
    local lines = select(2, c.out:gsub("boot.lua:3: cluster.fork: [^\n]+\n", ""))
    assert.equal(11, lines, c.out)
    assert.matches("unknown option 'colour'", c.out)
  end)

  it("and cluster.shutdown raise in a worker", function()
    assert.equal(2, select(2, clusters.output([[
      print(select(2, pcall(function() local a = cluster.fork() return a end)))
      print(select(2, pcall(function() local a = cluster.shutdown() return a end)))
    ]]):gsub("app.lua:%d: cluster.%l+: only process 0 [^\n]+\n", "")))
  end)
end)

describe("cluster.shutdown", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("stops the cluster gracefully and gives OK", function()
    local c = clusters.run {
      workers = 2,
      boot = [[
        cluster.on("shutdown", function() print "left 0" end)
        task.spawn(function()
          while not (memory.get("up1") and memory.get("up2")) do task.sleep(1) end
          print(cluster.shutdown())
          task.sleep(60000)
        end)
      ]],
      app = [[
        cluster.on("shutdown", function() task.sleep(5) print("left " .. cluster.worker.id) end)
        memory.set("up" .. cluster.worker.id, true)
        task.sleep(60000)
      ]],
    }
    assert.equal(0, c.code)
    assert.matches("^OK\nleft %d\nleft %d\nleft 0\n$", c.out)
  end)

  it("calls back", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        cluster.on("shutdown", function() task.sleep(20) end)
        cluster.shutdown(function(...) print("called back", ...) end)
        task.sleep(60000)
      ]],
    }
    assert.equal("called back\tOK\n", c.out)
  end)

  it("in the main task starts no worker", function()
    local c = clusters.run { boot = "cluster.shutdown()", app = "print 'worker'" }
    assert.equal("", c.out)
    assert.equal(0, c.code)
  end)
end)

describe("cluster.on", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("tells process 0 of each fork, online and exit, in their order, with code or signal", function()
    local c = clusters.run {
      "--restart", "never", workers = 3,
      boot = [[
        for _, event in ipairs { "fork", "online", "exit" } do
          cluster.on(event, function(worker, ...)
            assert(coroutine.isyieldable()) -- a task
            print(worker.id .. " " .. event, worker.slot, math.type(worker.pid), worker.online, ...)
          end)
        end
      ]],
      app = [[
        task.sleep(20)
        if cluster.worker.id == 1 then os.exit(7) end
        if cluster.worker.id == 2 then uv.kill(cluster.worker.pid, "sigkill") task.sleep(5000) end
      ]],
    }
    local function events(id)
      local list = {}
      for line in c.out:gmatch(id .. " ([^\n]+)\n") do list[#list + 1] = (line:gsub("\t", " ")) end
      return list
    end
    assert.same({ "fork 1 integer false", "online 1 integer true", "exit 1 integer false 7 nil" }, events(1))
    assert.same({ "fork 2 integer false", "online 2 integer true", "exit 2 integer false nil SIGKILL" }, events(2))
    assert.same({ "fork 3 integer false", "online 3 integer true", "exit 3 integer false 0 nil" }, events(3))
  end)

  it("tells of forked workers too, and keeps process 0 alive as long as there are any", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        cluster.on("exit", function(worker, code)
          print("exit", worker.id, code)
          if worker.id < 3 then cluster.fork { script = "app.lua" } end
        end)
        cluster.fork { script = "app.lua" }
      ]],
      files = { ["app.lua"] = 'require("clustermem.task").sleep(10)' },
    }
    assert.equal("exit\t1\t0\nexit\t2\t0\nexit\t3\t0\n", c.out)
    assert.equal(0, c.code)
  end)

  it("calls all listeners of an event", function()
    local c = clusters.run {
      boot = "for i = 1, 3 do cluster.on('online', function() print('listener ' .. i) end) end",
      app = "",
    }
    assert.equal("listener 1\nlistener 2\nlistener 3\n", c.out)
  end)

  it("raises on an unknown event, on what is no function, and on process 0's events in a worker", function()
    local out = clusters.output [[
      local function try(...) local event, fn = ...
        print(select(2, pcall(function() cluster.on(event, fn) end)))
      end
      try("start", print)
      try(nil, print)
      try("shutdown", 5)
      try("fork", print)
      try("online", print)
      try("exit", print)
    ]]
    assert.equal(6, select(2, out:gsub("app.lua:2: cluster.on: [^\n]+\n", "")), out)
    assert.matches("unknown event 'start'", out)
    assert.matches("'exit' is for process 0 only", out)
  end)

  it("lets an error of its listener end process 0, and with it the cluster", function()
    local c = clusters.run {
      boot = "cluster.on('online', function() error 'boom' end)",
      app = "task.sleep(60000)",
    }
    assert.equal(1, c.code)
    assert.matches("process 0: boot.lua:1: boom\nstack traceback:", c.err)
  end)

  it("is told at its own line that there is too much to pass on to a fork", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        local args, env = {}, {}
        for i = 1, 70000 do args[i] = "x" end
        for i = 1, 2000 do env["A" .. i] = "x" end
        print((select(2, pcall(function() cluster.fork { script = "boot.lua", args = args } end))))
        print((select(2, pcall(function() cluster.fork { script = "boot.lua", env = env } end))))
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.matches("boot.lua:4: cluster.fork: there are more than 65535 args\n", c.out)
    assert.matches("boot.lua:5: cluster.fork: there are more than 1024 variables in env\n", c.out)
  end)
end)
