-- Hubs under floods: what those who do not read, or who die, do to the others and to the master.
local clusters = require "clusters"

-- The resident memory of a process, in MiB.
local function resident(pid)
  return tonumber(clusters.read(("/proc/%d/status"):format(pid)):match("VmRSS:%s+(%d+) kB")) / 1024
end

-- Under the address sanitizer freed memory stays resident for a while.
local BOUND_MB = clusters.isSanitized() and 200 or 8

-- In front of the scripts.
local common = ([[
  local hub = require("clustermem.hub").new()
  local me = cluster.worker.id
  hub:on("finish", function() hub:removeAllListeners() end)
  local function finish() hub:sendToWorkers "finish" hub:removeAllListeners() end
  -- Counts what comes by stream, and what comes in the wrong order.
  local last, wrong, heard = {}, 0, 0
  hub:on("n", function(data)
    heard = heard + 1
    if data.n <= (last[data.stream] or 0) then wrong = wrong + 1 end
    last[data.stream] = data.n
  end)
  hub:on("heard", function() return heard, wrong end)
  local padding = ("x"):rep(1000)
  local function isStopped(pid)
    local file = io.open("/proc/" .. pid .. "/status")
    local text = file and file:read("a") or ""
    if file then file:close() end
    return text:find("State:%s+T") ~= nil
  end
]]):gsub("\n%s*%-%-[^\n]*", ""):gsub("\n", " ")

local function waitStopped(c, pid)
  c:waitUntil("the worker's stop", function()
    return clusters.read(("/proc/%d/status"):format(pid)):find("State:%s+T")
  end)
end

describe("a worker that does not read what hubs send it", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("costs the master little memory, slows nobody else, and gets all in order in the end", function()
    local c = clusters.start {
      workers = 4, limit = 60000,
      app = common .. [[
        if me == 2 then
          print("stopping " .. cluster.worker.pid)
          uv.kill(cluster.worker.pid, "sigstop")
        elseif me == 1 then
          local TASKS, EACH, CALLBACKS = 1000, 10, 15000
          local ok, failed = 0, 0
          local function count(result)
            if result == "OK" then ok = ok + 1 else failed = failed + 1 end
            if ok + failed == TASKS * EACH + CALLBACKS then
              print("sent", ok, failed)
              print("heard", hub:requestWorker(2, "heard"))
              finish()
            end
          end
          local patient = { timeout = 100000 }
          for i = 1, TASKS do
            task.spawn(function()
              for n = 1, EACH do
                count(hub:sendToWorker(2, "n", { stream = i, n = n, padding = padding }, patient))
              end
            end)
          end
          for n = 1, CALLBACKS do
            hub:sendToWorker(2, "n", { stream = "callbacks", n = n, padding = padding }, patient, count)
          end
        else
          local turns = 0
          hub:on("turn", function(n) return n + 1 end)
          while hub:requestWorker(7 - me, "turn", 1) == 2 do
            turns = turns + 1
            if turns % 1000 == 0 then print("turn " .. turns) end
          end
        end
      ]],
    }
    local pid = c:waitFor("stopping (%d+)\n")
    waitStopped(c, pid)
    c:waitUntil("turns of the others", function() return c:count("turn %d+\n") > 2 end)
    local before = resident(c.pid)
    local turns = c:count("turn %d+\n")
    c:waitUntil("further turns of the others", function() return c:count("turn %d+\n") > turns + 6 end)
    assert.equal(0, c:count("sent"))
    local held = resident(c.pid)
    assert.is_true(held < BOUND_MB + 8, ("the master holds %.1f MiB, and held %.1f"):format(held, before))
    c:kill("sigcont", pid)
    c:waitFor("sent\t25000\t0\n")
    c:waitFor("heard\t25000\t0\n")
    assert.equal(0, (c:waitExit()))
  end)

  it("lets what is sent to it time out, and misses nothing of what was acknowledged", function()
    local c = clusters.start {
      workers = 2,
      app = common .. [[
        if me == 2 then
          print("stopping " .. cluster.worker.pid)
          uv.kill(cluster.worker.pid, "sigstop")
        else
          local acknowledged, late = 0, 0
          local function count(ok, _, code)
            assert(ok == "OK" or code == "timeout")
            if ok then acknowledged = acknowledged + 1 else late = late + 1 end
            if acknowledged + late < 5000 then return end
            print("over", acknowledged > 0 and acknowledged < 2000, late > 3000)
            local heard, wrong = hub:requestWorker(2, "heard")
            print("heard", heard == acknowledged, wrong)
            finish()
          end
          local start = uv.hrtime()
          for n = 1, 5000 do
            hub:sendToWorker(2, "n", { stream = 1, n = n, padding = padding }, { timeout = 500 }, count)
          end
          print(select(3, hub:requestWorker(2, "heard", nil, { timeout = 300 })))
          assert((uv.hrtime() - start) / 1e6 < 10000)
        end
      ]],
    }
    local pid = c:waitFor("stopping (%d+)\n")
    c:waitFor("timeout\nover\ttrue\ttrue\n")
    c:kill("sigcont", pid)
    c:waitFor("heard\ttrue\t0\n")
    assert.equal(0, (c:waitExit()), c.err)
  end)

  it("and dies lets those who wait to send go on at once", function()
    local c = clusters.start {
      workers = 2, "--restart", "never",
      app = common .. [[
        if me == 2 then
          print("stopping " .. cluster.worker.pid)
          uv.kill(cluster.worker.pid, "sigstop")
        else
          local codes, left = { OK = 0, closed = 0, nopeer = 0 }, 4000
          local function count(ok, _, code)
            codes[code or ok] = codes[code or ok] + 1
            left = left - 1
            if left > 0 then return end
            print("over", codes.OK < 2000, codes.closed > 0, codes.OK + codes.closed + codes.nopeer)
            hub:removeAllListeners()
          end
          for n = 1, 4000 do
            hub:sendToWorker(2, "n", { stream = 1, n = n, padding = padding }, count)
          end
          while codes.OK < 600 do task.sleep(1) end
          memory.setMany {} -- behind it the window is full, and something is parked
          print "sent"
        end
      ]],
    }
    local pid = c:waitFor("stopping (%d+)\n")
    c:waitFor("sent\n")
    c:kill("sigkill", pid)
    c:waitFor("over\ttrue\ttrue\t4000\n")
    assert.equal(1, (c:waitExit()), c.err)
  end)

  it("gets what somebody had sent who has died meanwhile", function()
    local c = clusters.start {
      workers = 3, "--restart", "never",
      app = common .. [[
        if me == 2 then
          print("stopping " .. cluster.worker.pid)
          uv.kill(cluster.worker.pid, "sigstop")
        elseif me == 1 then
          hub:on("go", function()
            for n = 1, 1000 do
              hub:sendToWorker(2, "n", { stream = 1, n = n, padding = padding }, function() end)
            end
            hub:sendToWorker(3, "sent") -- behind them: so they are all with the master
            uv.kill(cluster.worker.pid, "sigkill")
          end)
        else
          hub:on("sent", function()
            while #cluster.workers() > 2 do task.sleep(1) end
            print "dead"
            print("heard", hub:requestWorker(2, "heard"))
            finish()
          end)
          while #cluster.workers() < 3 do task.sleep(1) end
          hub:sendToWorker(1, "go")
        end
      ]],
    }
    local pid = c:waitFor("stopping (%d+)\n")
    waitStopped(c, pid)
    c:waitFor("dead\n")
    c:kill("sigcont", pid)
    c:waitFor("heard\t1000\t0\n")
    assert.equal(1, (c:waitExit()), c.err)
  end)

  it("does not keep who sends to it from giving locks back, and from answering", function()
    local c = clusters.start {
      workers = 3,
      app = common .. [[
        if me == 2 then
          print("stopping " .. cluster.worker.pid)
          uv.kill(cluster.worker.pid, "sigstop")
        elseif me == 1 then
          hub:on("x", function() return "answered" end)
          local lockId = memory.getLock "k"
          for n = 1, 5000 do
            hub:sendToWorker(2, "n", { stream = 1, n = n, padding = padding }, { timeout = 100000 }, function() end)
          end
          hub:sendToWorker(2, "n", { stream = 2, n = 1 }, { timeout = 200 })
          print "flooded"
          memory.releaseLock("k", lockId)
        else
          while not memory.lockInfo "k" do task.sleep(1) end
          assert(memory.getLock("k", { timeout = 20000 }))
          print("locked", hub:requestWorker(1, "x", nil, { timeout = 20000 }))
        end
      ]],
    }
    local pid = c:waitFor("stopping (%d+)\n")
    c:waitFor("flooded\n")
    c:waitFor("locked\tanswered\n")
    c:kill("sigkill", pid)
    c:kill("sigkill")
    c:waitGone()
  end)

  it("can be asked as much as the master holds for the asker, and no more", function()
    local c = clusters.start {
      workers = 2, "--restart", "never",
      app = common .. [[
        if me == 2 then
          print("stopping " .. cluster.worker.pid)
          uv.kill(cluster.worker.pid, "sigstop")
        else
          while #cluster.workers() < 2 do task.sleep(1) end
          local codes, left = { timeout = 0, nomemory = 0 }, 80
          local value = ("x"):rep(1 << 20)
          for _ = 1, 80 do
            hub:requestWorker(2, "x", value, { timeout = 3000 }, function(_, _, code)
              codes[code] = codes[code] + 1
              left = left - 1
              if left == 0 then print("over", codes.timeout, codes.nomemory) hub:removeAllListeners() end
            end)
          end
          memory.setMany {}
          print "asked"
        end
      ]],
    }
    local pid = c:waitFor("stopping (%d+)\n")
    c:waitFor("asked\n")
    local held = resident(c.pid)
    assert.is_true(held < 32 + 8 + 2 * BOUND_MB, ("the master holds %.1f MiB"):format(held))
    local late, refused = c:waitFor("over\t(%d+)\t(%d+)\n")
    assert.equal(80, late + refused)
    assert.is_true(tonumber(late) >= 32 and tonumber(late) <= 35, late)
    c:kill("sigkill", pid)
    assert.equal(1, (c:waitExit()), c.err)
  end)

  it("is refused answers beyond what the master holds for it", function()
    local c = clusters.start {
      workers = 2,
      app = common .. [[
        if me == 1 then
          local got, refused, left = 0, 0, 80
          for _ = 1, 80 do
            hub:requestWorker(2, "x", cluster.worker.pid, function(value, _, code)
              if value then got = got + 1 else refused = refused + 1 assert(code == "nomemory") end
              left = left - 1
              if left > 0 then return end
              print("got", got, refused)
              finish()
            end)
          end
          hub:on("stop", function()
            print("stopping " .. cluster.worker.pid)
            uv.kill(cluster.worker.pid, "sigstop")
          end)
        else
          local replies = {}
          hub:on("x", function(pid, asker, reply)
            replies[#replies + 1] = reply
            if #replies < 80 then return end
            hub:sendToWorker(asker, "stop")
            while not isStopped(pid) do task.sleep(1) end
            local value = ("x"):rep(1 << 20)
            for _, each in ipairs(replies) do
              each(nil, value)
              task.sleep(1)
            end
            print(select(3, hub:requestWorker(asker, "nothing", nil, { timeout = 300 })))
          end)
        end
      ]],
    }
    local pid = c:waitFor("stopping (%d+)\n")
    c:waitFor("timeout\n")
    local held = resident(c.pid)
    assert.is_true(held < 32 + 32 + 2 * BOUND_MB, ("the master holds %.1f MiB"):format(held))
    c:kill("sigcont", pid)
    local got, refused = c:waitFor("got\t(%d+)\t(%d+)\n")
    assert.equal(80, got + refused)
    assert.is_true(tonumber(got) >= 32 and tonumber(got) <= 35, got)
    assert.equal(0, (c:waitExit()), c.err)
  end)
end)

describe("two workers that flood each other", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("both get everything, long before anything times out", function()
    local c = clusters.run {
      workers = 2,
      app = common .. [[
        local MESSAGES = 15000
        local sent = 0
        local function count(ok, message)
          assert(ok == "OK", message)
          sent = sent + 1
          if sent < MESSAGES then return end
          while heard < MESSAGES do task.sleep(1) end
          print("heard", heard, wrong)
          hub:removeAllListeners()
        end
        while #cluster.workers() < 2 do task.sleep(1) end
        for n = 1, MESSAGES do
          hub:sendToWorker(3 - me, "n", { stream = 1, n = n, padding = padding }, { timeout = 100000 }, count)
        end
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("heard\t15000\t0\nheard\t15000\t0\n", c.out)
  end)

  -- Where a handler asks back, its question comes behind what its process has sent before, and that waits for handlers
  -- that wait likewise: only time ends that.
  it("with handlers that ask back do not wait longer than they said", function()
    local c = clusters.run {
      workers = 2,
      app = common .. [[
        local MESSAGES, SHORT = 3000, { timeout = 300 }
        local handled, ended, acknowledged = 0, 0, 0
        hub:on("q", function(data, sender)
          local answer, _, code = hub:requestWorker(sender, "a", data, SHORT)
          assert(answer == data or code == "timeout", code)
          handled = handled + 1
        end)
        hub:on("a", function(data) return data end)
        while #cluster.workers() < 2 do task.sleep(1) end
        for n = 1, MESSAGES do
          hub:sendToWorker(3 - me, "q", n .. padding, SHORT, function(ok, _, code)
            assert(ok == "OK" or code == "timeout", code)
            ended = ended + 1
            if ok then acknowledged = acknowledged + 1 end
          end)
        end
        while ended < MESSAGES do task.sleep(1) end
        memory.set("acknowledged " .. me, acknowledged)
        while handled ~= memory.get("acknowledged " .. 3 - me) do task.sleep(1) end
        print "over"
        memory.increment "over"
        while memory.get "over" < 2 do task.sleep(1) end
        hub:removeAllListeners()
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("over\nover\n", c.out)
  end)
end)
