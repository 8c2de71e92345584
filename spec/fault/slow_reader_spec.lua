-- Back-pressure: what a process that does not read can make the master hold, and what it does to the others.
local clusters = require "clusters"

describe("a worker that does not read", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- The resident memory of a process, in MiB.
  local function resident(pid)
    return tonumber(clusters.read(("/proc/%d/status"):format(pid)):match("VmRSS:%s+(%d+) kB")) / 1024
  end

  -- Their replies are more than a socket takes and the master is willing to hold.
  local ASKED = 200000
  -- Under the address sanitizer freed memory stays resident for a while.
  local sanitized = clusters.read("/proc/self/maps"):find("libasan", 1, true)
  local BOUND_MB = sanitized and 400 or 16

  it("costs the master little memory, slows nobody, and gets all it asked for in the end", function()
    local c = clusters.start {
      workers = 2,
      app = ([[
        local ASKED = %d
        if cluster.worker.slot == 1 then
          while not memory.get("turn") do task.sleep(5) end
          local got = 0
          local function take(ok)
            got = got + (ok == "OK" and 1 or 0)
            if got == ASKED then
              print("got all " .. got)
              memory.set("stop", true)
            end
          end
          -- The master cannot answer before it is asked, and is asked at the end of this turn of the loop.
          print("stopping " .. cluster.worker.pid)
          for i = 1, ASKED do
            memory.setMany({ n = i }, take)
            if i == ASKED // 2 then uv.kill(cluster.worker.pid, "sigstop") end
          end
        else
          local turns = 0
          while not memory.get("stop") do
            turns = turns + 1
            assert(memory.setMany { turn = turns } == "OK")
            if turns %% 1000 == 0 then print("turn " .. turns) end
          end
          cluster.exit(0)
        end
        task.spawn(function()
          while not memory.get("stop") do task.sleep(5) end
          assert(memory.get("n") == ASKED)
          cluster.exit(0)
        end)
      ]]):format(ASKED),
    }
    local pid = c:waitFor("stopping (%d+)\n")
    c:waitUntil("the worker's stop", function()
      return clusters.read(("/proc/%d/status"):format(pid)):find("State:%s+T")
    end)
    -- The other worker gets on well while the master holds what the stopped one has asked for.
    local turn = c:count("turn %d+\n")
    c:waitUntil("turns of the other worker", function() return c:count("turn %d+\n") > turn + 5 end)
    local held = resident(c.pid)
    assert.is_true(held < BOUND_MB + 16, ("the master holds %.1f MiB"):format(held))
    c:kill("sigcont", pid)
    c:waitFor("got all " .. ASKED .. "\n")
    assert.equal(0, (c:waitExit()))
  end)

  it("and never reads again can be stopped with the rest", function()
    local c = clusters.start {
      workers = 2, "--grace", "300",
      app = [[
        if cluster.worker.slot == 1 then
          local value = ("x"):rep(1 << 20)
          for i = 1, 50 do memory.setMany({ big = value, n = i }, function() end) end
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
        memory.setMany({ ["k" .. i] = value }, function(ok)
          set = set + (ok == "OK" and 1 or 0)
          read = read + (memory.get("k" .. i) == value and 1 or 0)
        end)
      end
      while set < 80 do task.sleep(1) end
      print(set .. " set, " .. read .. " read")
    ]])
  end)

  it("because it is busy with writing holds little of what it writes", function()
    local peak = tonumber(clusters.output [[
      local value = ("x"):rep(1 << 20)
      for i = 1, 200 do memory.setMany({ k = value, n = i }, function() end) end
      print(io.open("/proc/self/status"):read("a"):match("VmHWM:%s+(%d+) kB"))
    ]]) / 1024
    assert.is_true(peak < BOUND_MB + 4, peak .. " MiB")
  end)

  it("because it is busy for seconds is not harmed by what it asked for", function()
    assert.equal("64 set, the last is there\n", clusters.output [[
      local value = ("x"):rep(1 << 20)
      local set = 0
      for i = 1, 64 do
        memory.setMany({ k = value, n = i }, function(ok) set = set + (ok == "OK" and 1 or 0) end)
      end
      task.sleep(1) -- the requests leave
      local start = uv.hrtime()
      repeat until uv.hrtime() - start > 1e9
      while set < 64 do task.sleep(1) end
      print(set .. " set, the last is " .. (memory.get("n") == 64 and "there" or "lost"))
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
              local key = ("k%d-%d"):format(me, t)
              assert(memory.set(key, value) == "OK")
              assert(memory.setMany { [key] = value } == "OK")
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
