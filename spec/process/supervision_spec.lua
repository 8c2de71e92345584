local clusters = require "clusters"

describe("the master", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("logs how each process ended: a code, or a signal by its name", function()
    local endings = {
      ["os.exit(0)"] = "info  worker 1 %(slot 1, pid %d+%) exited with code 0\n",
      ["os.exit(3)"] = "error worker 1 %(slot 1, pid %d+%) exited with code 3\n",
    }
    for _, signal in ipairs { "KILL", "SEGV", "ABRT", "BUS", "USR1" } do
      local script = ("uv.kill(cluster.worker.pid, 'sig%s') task.sleep(5000)"):format(signal:lower())
      endings[script] = ("error worker 1 %%(slot 1, pid %%d+%%) was killed by SIG%s\n"):format(signal)
    end
    for script, pattern in pairs(endings) do
      local c = clusters.run {
        "--restart", "never", app = script,
        -- A sanitizer would take the signals for errors of its own to report.
        env = {
          ASAN_OPTIONS = "handle_segv=0:handle_abort=0:handle_sigbus=0",
          TSAN_OPTIONS = "handle_segv=0:handle_abort=0:handle_sigbus=0",
        },
      }
      assert.matches(pattern, c.err)
    end
  end)

  it("starts what failed again, under a new id in the same slot, later each time", function()
    local c = clusters.run {
      app = [[
        print(cluster.worker.id, cluster.worker.slot)
        if cluster.worker.id < 4 then os.exit(1) end
      ]],
    }
    assert.equal("1\t1\n2\t1\n3\t1\n4\t1\n", c.out)
    assert.equal(0, c.code)
    local delays = {}
    for delay in c.err:gmatch("warn  slot 1 starts again in (%d+) ms\n") do delays[#delays + 1] = delay end
    assert.same({ "100", "200", "400" }, delays)
  end)

  it("takes its time before it starts again", function()
    local c = clusters.run {
      app = [[
        local seconds, microseconds = uv.gettimeofday()
        memory.set("at" .. cluster.worker.id, seconds * 1e3 + microseconds / 1e3)
        if cluster.worker.id < 3 then os.exit(1) end
        print(memory.get("at2") - memory.get("at1") >= 99, memory.get("at3") - memory.get("at2") >= 199)
      ]],
    }
    assert.equal("true\ttrue\n", c.out)
  end)

  it("starts again what a signal killed, while the others run on", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        if cluster.worker.id == 1 then
          while not memory.get("other") do task.sleep(1) end
          uv.kill(cluster.worker.pid, "sigkill")
          task.sleep(5000)
        elseif cluster.worker.slot == 1 then
          memory.set("again", true)
        else
          memory.set("other", true)
          while not memory.get("again") do task.sleep(1) end
          print "ran on"
        end
      ]],
    }
    assert.equal("ran on\n", c.out)
    assert.equal(0, c.code)
    assert.equal(1, c:count("starts again", "err"))
  end)

  it("--restart on-failure leaves what exited 0", function()
    local c = clusters.run { workers = 2, app = "print(cluster.worker.id)" }
    assert.equal(4, #c.out)
    assert.equal(0, c.code)
    assert.not_matches("starts again", c.err)
  end)

  it("--restart always starts also what exited 0", function()
    local c = clusters.start { "--restart", "always", app = "print(cluster.worker.id)" }
    c:waitFor("1\n2\n3\n")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
  end)

  it("--restart never starts nothing again, and a failure counts", function()
    local c = clusters.run {
      "--restart", "never", workers = 2,
      app = "if cluster.worker.id == 1 then os.exit(4) end task.sleep(50) print 'ran on'",
    }
    assert.equal("ran on\n", c.out)
    assert.equal(1, c.code)
    assert.not_matches("starts again", c.err)
  end)

  it("exits 0 when the last worker of each slot exited 0", function()
    local c = clusters.run {
      workers = 2,
      app = "if cluster.worker.slot == 1 and cluster.worker.id == 1 then os.exit(4) end",
    }
    assert.equal(0, c.code)
    assert.equal(1, c:count("starts again", "err"))
  end)

  it("ends the cluster after a crash loop at the start, and says the last error", function()
    local c = clusters.run { app = "memory.get('k')\nerror('no database ' .. cluster.worker.id)" }
    assert.equal(1, c.code)
    assert.equal(5, c:count("exited with code 1\n", "err"))
    assert.matches("error slot 1 failed 5 times in a row without a second of life, so the cluster ends; "
      .. "last error: worker 5: app.lua:2: no database 5\n", c.err)
  end)

  it("ends the other workers gracefully after a crash loop", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        if cluster.worker.slot == 1 then os.exit(3) end
        cluster.on("shutdown", function() print "stopped" end)
        task.sleep(60000)
      ]],
    }
    assert.equal("stopped\n", c.out)
    assert.equal(1, c.code)
    assert.matches("last error: exited with code 3\n", c.err)
  end)

  it("does not take a slot that has worked for a crash loop", function()
    local c = clusters.start {
      workers = 1,
      app = [[
        if cluster.worker.id == 1 then task.sleep(1100) os.exit(1) end
        print("worker " .. cluster.worker.id)
        if cluster.worker.id <= 6 then os.exit(1) end
      ]],
    }
    c:waitExit()
    assert.equal(0, c.code, c.err)
    assert.matches("worker 7\n", c.out)
  end)

  it("tells each process who it is", function()
    local c = clusters.run {
      workers = 3,
      boot = "print(cluster.isMaster, cluster.isWorker, cluster.worker.id, cluster.worker.pid == uv.os_getpid())",
      app = [[
        local worker = cluster.worker
        print(cluster.isMaster, cluster.isWorker, worker.id, worker.slot == worker.id, worker.pid == uv.os_getpid())
      ]],
    }
    assert.equal("true\tfalse\t0\ttrue\n", c.out:match("^[^\n]*\n"))
    for id = 1, 3 do assert.truthy(c.out:find(("false\ttrue\t%d\ttrue\ttrue\n"):format(id), 1, true)) end
  end)

  it("gives workers an empty standard input and process 0 its own", function()
    local c = clusters.run {
      boot = [[print("0", uv.guess_handle(0))]],
      app = "print('worker', io.read())",
    }
    assert.matches("worker\tnil\n", c.out)
  end)

  it("killed by SIGKILL takes all processes with it, busy ones included", function()
    local c = clusters.start {
      workers = 3,
      boot = "print('up ' .. cluster.worker.pid) task.spawn(function() task.sleep(60000) end)",
      app = [[
        print("up " .. cluster.worker.pid)
        if cluster.worker.id == 1 then task.sleep(60000) end
        if cluster.worker.id == 2 then uv.kill(cluster.worker.pid, "sigstop") end
        while true do end
      ]],
    }
    c:waitUntil("four processes", function() return c:count("up %d+\n") == 4 end)
    c:kill("sigkill")
    c:waitGone()
  end)

  it("killed by SIGKILL takes a worker with it that cannot catch anything", function()
    local c = clusters.start {
      app = "print 'busy' local function f() while true do pcall(error) end end f()",
    }
    c:waitFor("busy")
    c:kill("sigkill")
    c:waitGone()
  end)

  it("leaves a process its channel and pipe for descriptors, and nothing of it to programs that it starts", function()
    local out = clusters.output [[
      local open = {}
      for fd = 3, 63 do
        local path = uv.fs_readlink("/proc/self/fd/" .. fd)
        if path and path:find "^socket:" then open[#open + 1] = fd end
      end
      print("sockets: " .. table.concat(open, ","))
      local pipe = io.popen("ls -l /proc/self/fd | awk '$9 > 2 && /socket:/' | wc -l")
      print("inherited: " .. pipe:read("a"))
    ]]
    assert.matches("sockets: 3,6\n", out)
    assert.matches("inherited: 0\n", out)
  end)
end)

describe("cluster.workers", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("lists the living workers in every process, each its own self included", function()
    local c = clusters.run {
      workers = 3,
      boot = [[
        assert(#cluster.workers() == 0)
        task.spawn(function()
          repeat task.sleep(1) until memory.get("all")
          local list = {}
          for i, worker in ipairs(cluster.workers()) do
            list[i] = ("%d/%d/%s/%s"):format(worker.id, worker.slot, math.type(worker.pid), worker.online)
          end
          print("0 sees " .. table.concat(list, " "))
          memory.set("seen", true)
        end)
      ]],
      app = [[
        local me = cluster.worker.id
        local function online()
          local count = 0
          for _, worker in ipairs(cluster.workers()) do count = count + (worker.online and 1 or 0) end
          return count
        end
        while online() < 3 do task.sleep(1) end
        local ids = {}
        for i, worker in ipairs(cluster.workers()) do ids[i] = worker.id end
        print(me .. " sees " .. table.concat(ids, " "))
        memory.set("done" .. me, true)
        for id = 1, 3 do while not memory.get("done" .. id) do task.sleep(1) end end
        memory.set("all", true)
        while not memory.get("seen") do task.sleep(1) end
      ]],
    }
    assert.equal(0, c.code)
    for id = 1, 3 do assert.matches(id .. " sees 1 2 3\n", c.out) end
    assert.matches("0 sees 1/1/integer/true 2/2/integer/true 3/3/integer/true\n", c.out)
  end)

  it("lists the process itself from its first line on", function()
    assert.equal("1\t1\ttrue\n", clusters.output [[
      local list = cluster.workers()
      print(#list, list[1] and list[1].id, list[1] and list[1].pid == cluster.worker.pid)
    ]])
  end)

  it("drops who has ended and adds who is started", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        if cluster.worker.id == 1 then
          while not memory.get("go") do task.sleep(1) end
          os.exit(1)
        end
        local function ids()
          local list = {}
          for i, worker in ipairs(cluster.workers()) do list[i] = worker.id end
          return table.concat(list, " ")
        end
        local function await(text) while ids() ~= text do task.sleep(1) end print(text) end
        if cluster.worker.slot == 2 then
          await "1 2"
          memory.set("go", true)
          await "2"
          await "2 3"
          memory.set("end", true)
        else
          while not memory.get("end") do task.sleep(1) end
        end
      ]],
    }
    assert.equal("1 2\n2\n2 3\n", c.out)
    assert.equal(0, c.code)
  end)

  it("gives copies", function()
    assert.equal("1\n", clusters.output [[
      task.sleep(10)
      cluster.workers()[1].id = 99
      print(cluster.workers()[1].id)
    ]])
  end)
end)
