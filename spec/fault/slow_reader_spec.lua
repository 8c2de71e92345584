-- Back-pressure: what a process that does not read can make the master hold, and what it does to the others.
local clusters = require "clusters"

describe("a worker that does not read", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- The resident memory of a process, in MiB.
  local function resident(pid)
    return tonumber(clusters.read(("/proc/%d/status"):format(pid)):match("VmRSS:%s+(%d+) kB")) / 1024
  end

  local VALUE, GETS = 1 << 20, 200
  -- Under the address sanitizer freed memory stays resident for a while.
  local sanitized = clusters.read("/proc/self/maps"):find("libasan", 1, true)
  local BOUND_MB = sanitized and 400 or 16

  it("costs the master little memory, slows nobody, and gets all it asked for in the end", function()
    local c = clusters.start {
      workers = 2,
      app = ([[
        local VALUE, GETS = %d, %d
        if cluster.worker.slot == 1 then
          assert(memory.set("big", ("x"):rep(VALUE)) == "OK")
          assert(memory.get("big"))
          memory.set("ready", true)
          while not memory.get("go") do task.sleep(5) end
          local got = 0
          for i = 1, GETS do
            memory.get("big", function(value)
              got = got + (#value == VALUE and 1 or 0)
              if got == GETS then
                print("got all " .. got)
                memory.set("stop", true)
              end
            end)
          end
          -- What was asked for leaves in the next turn of the loop.
          local turns = 0
          local check = uv.new_check()
          check:start(function()
            turns = turns + 1
            if turns < 2 then return end
            check:close()
            print(("stopping %%d with %%d"):format(cluster.worker.pid, got))
            uv.kill(cluster.worker.pid, "sigstop")
          end)
        else
          while not memory.get("ready") do task.sleep(5) end
          memory.set("go", true)
          print "ready"
          local turns = 0
          while not memory.get("stop") do
            turns = turns + 1
            assert(memory.set("turn", turns) == "OK")
            if turns %% 1000 == 0 then print("turn " .. turns) end
            if turns %% 100 == 0 then task.sleep(1) end
          end
          cluster.exit(0)
        end
        task.spawn(function()
          while not memory.get("stop") do task.sleep(5) end
          cluster.exit(0)
        end)
      ]]):format(VALUE, GETS),
    }
    local pid, got = c:waitFor("stopping (%d+) with (%d+)\n")
    c:waitUntil("the worker's stop", function()
      return clusters.read(("/proc/%d/status"):format(pid)):find("State:%s+T")
    end)
    assert.is_true(math.tointeger(got) < 10, got)
    -- The other worker gets on well while the master holds what the stopped one has asked for.
    local turn = c:count("turn %d+\n")
    c:waitUntil("turns of the other worker", function() return c:count("turn %d+\n") > turn + 5 end)
    local held = resident(c.pid)
    assert.is_true(held < BOUND_MB + 16, ("the master holds %.1f MiB"):format(held))
    c:kill("sigcont", pid)
    c:waitFor("got all 200\n")
    assert.equal(0, (c:waitExit()))
  end)

  it("and never reads again can be stopped with the rest", function()
    local c = clusters.start {
      workers = 2, "--grace", "300",
      app = [[
        if cluster.worker.slot == 1 then
          memory.set("big", ("x"):rep(1 << 20))
          for i = 1, 50 do memory.get("big", function() end) end
          task.sleep(1)
          print("stopping " .. cluster.worker.pid)
          uv.kill(cluster.worker.pid, "sigstop")
        end
        task.sleep(60000)
      ]],
    }
    local pid = c:waitFor("stopping (%d+)")
    c:waitUntil("the worker's stop", function()
      return clusters.read(("/proc/%d/status"):format(pid)):find("State:%s+T")
    end)
    c:kill("sigterm")
    assert.equal(1, (c:waitExit()))
    assert.matches("worker 1 %(slot 1, pid %d+%) did not stop within 300 ms and is killed", c.err)
  end)

  it("because it is busy can send 8 MiB of requests in one turn of its loop", function()
    assert.equal("80 set, 80 read\n", clusters.output [[
      local value = ("x"):rep(100 * 1024)
      local set, read = 0, 0
      for i = 1, 80 do
        memory.set("k" .. i, value, function(ok) set = set + (ok == "OK" and 1 or 0) end)
        memory.get("k" .. i, function(got) read = read + (got == value and 1 or 0) end)
      end
      while read < 80 do task.sleep(1) end
      print(set .. " set, " .. read .. " read")
    ]])
  end)

  it("because it is busy with writing holds little of what it writes", function()
    local peak = tonumber(clusters.output [[
      local value = ("x"):rep(1 << 20)
      for i = 1, 200 do memory.set("k", value, function() end) end
      print(io.open("/proc/self/status"):read("a"):match("VmHWM:%s+(%d+) kB"))
    ]]) / 1024
    assert.is_true(peak < BOUND_MB + 24, peak .. " MiB")
  end)

  it("because it is busy for seconds is not harmed by what it asked for", function()
    assert.equal("64 read\n", clusters.output [[
      local value = ("x"):rep(1 << 20)
      memory.set("k", value)
      local read = 0
      for i = 1, 64 do memory.get("k", function(got) read = read + (got == value and 1 or 0) end) end
      task.sleep(1) -- the requests leave
      local start = uv.hrtime()
      repeat until uv.hrtime() - start > 1e9
      while read < 64 do task.sleep(1) end
      print(read .. " read")
    ]])
  end)
end)

describe("two workers that set and get large values at once", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("do not wait for each other for ever", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        local me = cluster.worker.id
        local value = ("x"):rep(300000)
        local fns = {}
        for t = 1, 20 do
          fns[t] = function()
            for i = 1, 5 do
              assert(memory.set(("k%d-%d"):format(me, t), value) == "OK")
              local got = memory.get(("k%d-%d"):format(3 - me, t))
              assert(got == nil or got == value)
            end
          end
        end
        task.all(fns)
        print "ok"
      ]],
    }
    assert.equal("ok\nok\n", c.out)
    assert.equal(0, c.code)
  end)
end)
