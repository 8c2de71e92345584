-- Holders and waiters of locks that end, die or stand still: the lock passes on, and its order and counts hold.
local clusters = require "clusters"
local locksteps = require "locksteps"

describe("the end of a process", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local endings = {
    ["its exit"] = "cluster.exit(0)",
    ["its exit with a code"] = "os.exit(3)",
    ["an uncaught error"] = "error 'on purpose'",
    ["SIGKILL"] = "uv.kill(cluster.worker.pid, 'sigkill') task.sleep(60000)",
    ["SIGSEGV"] = "uv.kill(cluster.worker.pid, 'sigsegv') task.sleep(60000)",
    ["a malformed frame"] = "uv.fs_write(3, ('\\xAB'):rep(64)) task.sleep(60000)",
    ["the end of its script"] = "return",
  }
  for how, ending in pairs(endings) do
    it("frees the locks that it took, and the next owner is told once: " .. how, function()
      local c = clusters.run {
        "--restart", "never", workers = 2,
        -- A sanitizer would take the signal for an error of its own to report.
        env = { ASAN_OPTIONS = "handle_segv=0", TSAN_OPTIONS = "handle_segv=0" },
        app = locksteps.prelude .. ([[
          if cluster.worker.slot == 1 then
            assert(memory.getLock "waited")
            assert(memory.getLock("leased", { lease = 600000 }))
            assert(memory.tryLock "unwaited")
            memory.mutex("mutex", function()
              assert(memory.releaseLock("released", assert(memory.getLock "released")))
              memory.set("held", true)
              waitForQueue("waited", 2)
              %s
            end)
            return
          end
          waitUntil(function() return memory.get "held" end)
          local function take(key)
            local id, how = memory.getLock(key)
            print(key, how)
            assert(memory.releaseLock(key, id))
          end
          task.all {
            function() take "waited" end,
            function()
              waitForQueue("waited", 1)
              take "waited"
            end,
          }
          for _, key in ipairs { "leased", "unwaited", "mutex", "released" } do
            take(key)
            take(key)
            assert(not memory.lockInfo(key))
          end
        ]]):format(ending),
      }
      -- A mutex is released also when its function raises, or returns.
      local told = (how:find "error" or how:find "script") and "nil" or "abandoned"
      assert.equal("waited\tabandoned\nwaited\tnil\nleased\tabandoned\nleased\tnil\n"
        .. "unwaited\tabandoned\nunwaited\tnil\n"
        .. "mutex\t" .. told .. "\nmutex\tnil\nreleased\tnil\nreleased\tnil\n", c.out, c.err)
    end)
  end

  it("lets its lockIds be good for nothing, wherever they are", function()
    local c = clusters.run {
      "--restart", "never", workers = 2,
      app = locksteps.prelude .. [[
        if cluster.worker.slot == 1 then
          memory.set("id", memory.getLock "k")
          task.sleep(60000)
        end
        waitUntil(function() return memory.get "id" end)
        local id = memory.get "id"
        assert(memory.set("v", 1, { fence = id }))
        uv.kill(cluster.workers()[1].pid, "sigkill")
        waitUntil(function() return not memory.lockInfo "k" end)
        local function code(_, _, word) return word end
        print(code(memory.set("v", 2, { fence = id })), code(memory.remove("v", { fence = id })),
          code(memory.releaseLock("k", id)), code(memory.renewLock("k", id, 5)), memory.get "v")
        print(select(2, memory.getLock "k"))
      ]],
    }
    assert.equal("notowner\tnotowner\tnotowner\tnotowner\t1\nabandoned\n", c.out, c.err)
  end)

  it("comes behind what it had issued before: a release that was on its way is one", function()
    local c = clusters.run {
      "--restart", "never", workers = 2,
      app = locksteps.prelude .. [[
        if cluster.worker.slot == 1 then
          local id = memory.getLock "k"
          memory.set("held", true)
          waitForQueue("k", 1)
          memory.setMany({ v = 1 }, function() end)
          memory.set("v", 2, function() end)
          memory.releaseLock("k", id, function() end)
          cluster.exit(0)
        end
        waitUntil(function() return memory.get "held" end)
        local id, how = memory.getLock "k"
        print(how, memory.get "v")
        assert(memory.releaseLock("k", id))
      ]],
    }
    assert.equal("nil\t2\n", c.out, c.err)
  end)

  it("takes its waits out of the queue: the lock goes to the next that lives, in the order of requests", function()
    local c = clusters.run {
      "--restart", "never", workers = 3, limit = 60000,
      app = locksteps.prelude .. [[
        local slot = cluster.worker.slot
        local function inTurn(i) waitUntil(function() return memory.get "turn" == i end) end
        if slot == 1 then
          local id = assert(memory.getLock "k")
          for i = 1, 9 do
            memory.set("turn", i)
            waitForQueue("k", i)
          end
          uv.kill(memory.get "pid2", "sigkill")
          waitForQueue("k", 6)
          assert(memory.releaseLock("k", id))
          waitUntil(function() return memory.get "done" == 6 end)
          print("free", memory.lockInfo "k")
          return
        end
        memory.set("pid" .. slot, cluster.worker.pid)
        local fns = {}
        for i = 1, 9 do
          -- Worker 2 has the first, the last and one in the middle.
          if (i % 4 == 1) == (slot == 2) then
            fns[#fns + 1] = function()
              inTurn(i)
              local id, how = memory.getLock("k", { fair = i % 2 == 0 })
              print(i, how)
              memory.increment "done"
              assert(memory.releaseLock("k", id))
            end
          end
        end
        task.all(fns)
      ]],
    }
    assert.equal("2\tnil\n3\tnil\n4\tnil\n6\tnil\n7\tnil\n8\tnil\nfree\tnil\n", c.out, c.err)
  end)

  it("opens a cycle of waits that it was part of", function()
    local c = clusters.run {
      "--restart", "never", workers = 2,
      app = locksteps.prelude .. [[
        if cluster.worker.slot == 1 then
          assert(memory.getLock "a")
          memory.set("a", true)
          waitUntil(function() return memory.get "b" end)
          memory.getLock "b"
        else
          local id = assert(memory.getLock "b")
          waitUntil(function() return memory.get "a" end)
          memory.set("b", true)
          waitForQueue("b", 1)
          print((select(3, memory.getLock "a")))
          uv.kill(cluster.workers()[1].pid, "sigkill")
          waitUntil(function() return not memory.lockInfo "a" end)
          print(select(2, memory.getLock "a"))
          assert(memory.releaseLock("b", id))
          print(select("#", memory.getLock "b"))
        end
      ]],
    }
    assert.equal("deadlock\nabandoned\n1\n", c.out, c.err)
  end)

  it("frees as many locks as it had, and few of the marks of it are kept", function()
    local c = clusters.run {
      "--restart", "never", workers = 2, limit = 60000,
      app = locksteps.prelude .. [[
        local LOCKS, MARKS = 100000, 4096
        if cluster.worker.slot == 1 then
          for i = 1, LOCKS do assert(memory.tryLock("k" .. i)) end
          memory.set("held", true)
          task.sleep(60000)
        end
        waitUntil(function() return memory.get "held" end)
        assert(not memory.tryLock "k1" and not memory.tryLock("k" .. LOCKS))
        uv.kill(cluster.workers()[1].pid, "sigkill")
        waitUntil(function() return not memory.lockInfo("k" .. LOCKS) and not memory.lockInfo "k1" end)
        local told = 0
        for i = 1, LOCKS do
          local id, how = memory.getLock("k" .. i)
          if how then told = told + 1 end
          assert(memory.releaseLock("k" .. i, id))
        end
        print(told > 0, told <= 2 * MARKS or told)
      ]],
    }
    assert.equal("true\ttrue\n", c.out, c.err)
  end)
end)

describe("locks that the table has no room for", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- In a memory of 1 MiB the table has room for a few; all but the first are the master's.
  local function run(app)
    local c = clusters.run { "--memory", "1M", "--restart", "never", workers = 2, app = locksteps.prelude .. app }
    return c.out, c.err
  end

  it("are held, waited for, renewed, fenced and released as others", function()
    local out, err = run [[
      local LOCKS = 500
      local function code(_, _, word) return word end
      if cluster.worker.slot == 1 then
        local ids = {}
        for i = 1, LOCKS do ids[i] = assert(memory.tryLock("k" .. i)) end
        for i = 1, LOCKS do
          local key, id = "k" .. i, ids[i]
          assert(code(memory.tryLock(key)) == "busy")
          assert(code(memory.getLock(key)) == "deadlock")
          assert(memory.renewLock(key, id, 600000) and memory.lockInfo(key).lease > 300000)
          assert(memory.set("v", i, { fence = id }) and memory.remove("v", { fence = id }))
          assert(code(memory.set("v", i, { fence = ids[i] .. "0" })) == "notowner")
          assert(code(memory.releaseLock("k" .. i % LOCKS + 1, id)) == "notowner")
        end
        for i = 1, LOCKS, 10 do
          assert(memory.set("id", { i, ids[i] }))
          waitForQueue("k" .. i, 1)
          assert(memory.releaseLock("k" .. i, ids[i]))
          assert(code(memory.releaseLock("k" .. i, ids[i])) == "notowner")
          assert(code(memory.set("v", i, { fence = ids[i] })) == "notowner")
        end
        memory.set("id", { LOCKS, ids[LOCKS] })
        waitUntil(function() return memory.get "done" end)
        for i = 1, LOCKS do
          if i % 10 ~= 1 and i ~= LOCKS then assert(memory.releaseLock("k" .. i, ids[i])) end
          assert(not memory.lockInfo("k" .. i), i)
        end
        print "all of them"
      else
        for i = 1, LOCKS, 10 do
          waitUntil(function() return (memory.get "id" or {})[1] == i end)
          local id, how = memory.getLock("k" .. i)
          assert(#id > 0 and not how)
          assert(memory.releaseLock("k" .. i, id))
        end
        waitUntil(function() return memory.get "id"[1] == LOCKS end)
        local id = memory.get "id"[2]
        assert(memory.set("v", 1, { fence = id }))
        assert(code(memory.renewLock("k" .. LOCKS, id, 5)) == "notowner")
        assert(memory.releaseLock("k" .. LOCKS, id))
        assert(code(memory.set("v", 1, { fence = id })) == "notowner")
        memory.set("done", true)
      end
    ]]
    assert.equal("all of them\n", out, err)
  end)

  it("are taken away at the end of their lease, also without anybody who waits", function()
    local out, err = run [[
      if cluster.worker.slot == 2 then return end
      local LOCKS = 300
      local ids = {}
      for i = 1, LOCKS do ids[i] = assert(memory.tryLock("k" .. i)) end
      for i = 1, LOCKS do assert(memory.renewLock("k" .. i, ids[i], 1)) end
      -- lockInfo would end them itself.
      for i = LOCKS, 1, -1 do
        waitUntil(function() return select(3, memory.set("v", i, { fence = ids[i] })) == "notowner" end)
      end
      for i = 1, LOCKS do
        assert(select(3, memory.renewLock("k" .. i, ids[i], 600000)) == "notowner")
        assert(not memory.lockInfo("k" .. i))
      end
      print "all of them"
    ]]
    assert.equal("all of them\n", out, err)
  end)

  it("are freed by the death of who took them, and the next owner is told", function()
    local out, err = run [[
      local LOCKS = 300
      if cluster.worker.slot == 1 then
        for i = 1, LOCKS do assert(memory.tryLock("k" .. i)) end
        memory.set("held", true)
        task.sleep(60000)
      end
      waitUntil(function() return memory.get "held" end)
      local fns, told = {}, 0
      for i = 1, LOCKS do
        fns[i] = function()
          local id, how = memory.getLock("k" .. i)
          if how == "abandoned" then told = told + 1 end
          assert(memory.releaseLock("k" .. i, id))
        end
      end
      fns[#fns + 1] = function()
        for i = 1, LOCKS do waitForQueue("k" .. i, 1) end
        uv.kill(cluster.workers()[1].pid, "sigkill")
      end
      task.all(fns)
      print(told)
    ]]
    assert.equal("300\n", out, err)
  end)
end)

describe("a holder that stands still", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("longer than its lease changes nothing of its successor's work when it goes on", function()
    local c = clusters.start {
      workers = 2,
      app = locksteps.prelude .. [[
        if cluster.worker.slot == 1 then
          local results = table.pack(memory.mutex("k", function(id)
            memory.set("id", id)
            assert(memory.set("v", "first", { fence = id }))
            assert(memory.set("w", "first", { fence = id }))
            uv.kill(cluster.worker.pid, "sigstop")
            -- A signal to itself need not have come when kill returns.
            waitUntil(function() return memory.get "worked" end)
            local function code(_, _, word) return word end
            print(code(memory.set("v", "late", { fence = id })), code(memory.remove("w", { fence = id })))
            memory.setMany({ other = 1 }, function() end)
            print(code(memory.set("v", "late", { fence = id })), code(memory.remove("w", { fence = id })))
            print(code(memory.renewLock("k", id, 60000)), code(memory.releaseLock("k", id)))
          end, { lease = 50 }))
          print(results[1], results[3])
          memory.set("late", true)
        else
          waitUntil(function() return memory.get "w" end)
          local id, how = memory.getLock "k"
          assert(memory.set("v", "second", { fence = id }))
          assert(memory.set("w", "second", { fence = id }))
          memory.set("worked", true)
          print("worked", how)
          waitUntil(function() return memory.get "late" end)
          -- Not even what has been given its lockId may use it.
          print((select(3, memory.set("v", "later", { fence = memory.get "id" }))))
          print(memory.get "v", memory.get "w", memory.lockInfo("k").worker)
          assert(memory.releaseLock("k", id))
        end
      ]],
    }
    c:waitFor("worked\tabandoned\n")
    c:continue()
    assert.equal(0, (c:waitExit()), c.err)
    assert.equal("worked\tabandoned\nnotowner\tnotowner\nnotowner\tnotowner\nnotowner\tnotowner\nnil\tnotowner\n"
      .. "notowner\nsecond\tsecond\t2\n", c.out)
  end)

  it("without a lease has the lock on, and others can give up", function()
    local c = clusters.start {
      workers = 2,
      app = locksteps.prelude .. [[
        if cluster.worker.slot == 1 then
          local id = assert(memory.getLock "k")
          memory.set("held", true)
          uv.kill(cluster.worker.pid, "sigstop")
          waitUntil(function() return memory.get "gaveUp" end)
          print(memory.set("v", 1, { fence = id }) == "OK", memory.releaseLock("k", id))
        else
          waitUntil(function() return memory.get "held" end)
          print((select(3, memory.getLock("k", { timeout = 50 }))))
          memory.set("gaveUp", true)
        end
      ]],
    }
    c:waitFor("timeout\n")
    c:continue()
    assert.equal(0, (c:waitExit()), c.err)
    assert.equal("timeout\ntrue\tOK\n", c.out)
  end)
end)

-- What all of them do: count in one entry, under a mutex and with its fence. The entry says what each slot has counted,
-- and each slot keeps what was acknowledged to it in an entry of its own: the last step may be missing there, but
-- nothing that is there may be missing in the first.
local counter = [[
  local slot = cluster.worker.slot
  local OPTIONS = %s
  local mine
  local fns = {}
  for t = 1, 3 do
    fns[t] = function()
      while not memory.get "stop" do
        local options = OPTIONS[math.random(#OPTIONS)]
        local id, how, code = memory.getLock("lock", options)
        if id then
          if how then memory.increment "told" end
          local n = memory.get "n" or { total = 0 }
          local sum = 0
          for i = 1, 4 do sum = sum + (n["s" .. i] or 0) end
          assert(sum == n.total, "the entry is not whole")
          local own = n["s" .. slot] or 0
          assert(own >= (memory.get("acknowledged" .. slot) or 0), "an increment is lost")
          n.total, n["s" .. slot], n.token = n.total + 1, own + 1, id
          if math.random(20) == 1 then task.sleep(math.random(0, 2)) end
          local ok, _, word = memory.set("n", n, { fence = id })
          if ok then
            -- Behind it, and under the lock still, or not, if the lease is over: never less than before.
            memory.update("acknowledged" .. slot, function(old) return math.max(old or 0, own + 1) end)
          else
            assert(word == "notowner", word)
          end
          local released, _, late = memory.releaseLock("lock", id)
          assert(released or late == "notowner", late)
        else
          assert(how and (code == "timeout" or code == "busy"), code)
        end
        if math.random(10) == 1 then task.sleep(0) end
      end
    end
  end
  task.all(fns)
  memory.increment "ended"
  task.sleep(60000)
]]

-- In process 0: strikes a worker at some moment of its work, once each slot has one again, and waits until all go on.
local strikes = [[
  local ROUNDS = %d
  local function within(ms, what, fn)
    local deadline = uv.hrtime() + ms * 1e6
    while not fn() do
      assert(uv.hrtime() < deadline, what)
      task.sleep(2)
    end
  end
  local seen = {}
  local function victim(round)
    local now, found = uv.hrtime(), nil
    for _, worker in ipairs(cluster.workers()) do
      seen[worker.id] = seen[worker.id] or now
      -- Or it would be a crash loop.
      if worker.slot == round %% 4 + 1 and now - seen[worker.id] > 1.1e9 then found = worker end
    end
    return #cluster.workers() == 4 and found
  end
  local function counts() return memory.get "n" or { total = 0 } end
  task.spawn(function()
    for round = 1, ROUNDS do
      local worker
      within(20000, "no worker", function() worker = victim(round) return worker end)
      local start, wait = uv.hrtime(), math.random(0, 3000000)
      repeat until uv.hrtime() - start > wait
      local function goOn()
        local before = counts()
        within(15000, "others do not go on", function()
          local now = counts()
          for i = 1, 4 do
            if i ~= worker.slot and (now["s" .. i] or 0) < (before["s" .. i] or 0) + 5 then return false end
          end
          return true
        end)
      end
      %s
    end
    within(20000, "not all are there again", function() return victim(1) end)
    memory.set("stop", true)
    within(20000, "they do not stop", function() return memory.get "ended" == 4 end)
    local n, sum, behind = counts(), 0, 0
    for i = 1, 4 do
      local own, acknowledged = n["s" .. i] or 0, memory.get("acknowledged" .. i) or 0
      sum = sum + own
      assert(own >= acknowledged, "an increment is lost")
      behind = behind + own - acknowledged
    end
    assert(sum == n.total, "the sums differ")
    print("behind " .. behind)
    print("told " .. (memory.get "told" or 0))
    print("free", memory.lockInfo "lock")
    cluster.shutdown()
  end)
]]

describe("a counter under a lock, with the lockId as fence, while workers", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local ROUNDS = 8

  local function run(options, strike)
    local c = clusters.run {
      workers = 4, limit = 85000,
      boot = strikes:format(ROUNDS, strike), app = counter:format(options),
    }
    assert.equal(0, c.code, c.err)
    assert.not_matches("app%.lua", c.err)
    assert.matches("free\tnil\n", c.out)
    return math.tointeger(c.out:match("behind (%d+)\n")), math.tointeger(c.out:match("told (%d+)\n"))
  end

  it("are killed, holding it or waiting for it: loses no increment, and each death is told at most once", function()
    local behind, told = run("{ {}, { fair = true }, { timeout = 5 }, { timeout = 0 } }", [[
      uv.kill(worker.pid, "sigkill")
      goOn()
    ]])
    assert.is_true(behind <= ROUNDS, behind)
    assert.is_true(told <= ROUNDS, told)
  end)

  it("stand still for longer than their lease, and go on: loses no increment", function()
    run("{ { lease = 20 }, { lease = 20, fair = true }, { lease = 5, timeout = 50 } }", [[
      uv.kill(worker.pid, "sigstop")
      goOn()
      uv.kill(worker.pid, "sigcont")
    ]])
  end)

  it("stand still for longer than their lease, and are killed: loses no increment", function()
    run("{ { lease = 20 }, { lease = 20, fair = true }, { lease = 5, timeout = 50 } }", [[
      uv.kill(worker.pid, "sigstop")
      goOn()
      uv.kill(worker.pid, "sigkill")
      goOn()
    ]])
  end)
end)

describe("what locks need", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local KEYS = clusters.isSanitized() and 20000 or 1000000

  it("is given back: nothing is left of many different keys, one after another or all at once", function()
    local c = clusters.run {
      workers = 2, limit = 85000,
      app = locksteps.prelude .. ([[
        local KEYS = %d
        if cluster.worker.slot == 2 then
          -- Has locks that the other waits for.
          for i = 1, KEYS // 100 do
            local id = assert(memory.getLock("w" .. i))
            memory.set("held", i)
            waitForQueue("w" .. i, 1)
            assert(memory.releaseLock("w" .. i, id))
            waitUntil(function() return memory.get "taken" == i end)
          end
          return
        end
        local function work(keys)
          for i = 1, keys do
            local key = "k" .. i
            local id = assert(memory.getLock(key, i %% 3 == 0 and { lease = 600000 } or nil))
            if i %% 100 == 0 then assert(not memory.tryLock(key) and memory.lockInfo(key).waiting == 0) end
            assert(memory.releaseLock(key, id))
          end
          -- More than the table has room for.
          local ids = {}
          for i = 1, KEYS // 10 do ids[i] = assert(memory.tryLock("many" .. i)) end
          for i = 1, KEYS // 10 do assert(memory.releaseLock("many" .. i, ids[i])) end
          for i = 1, KEYS // 10, KEYS // 1000 do assert(not memory.lockInfo("many" .. i)) end
        end
        -- The memory of master and worker without what they share, in KiB.
        local function own()
          collectgarbage()
          local sizes = {}
          for i, pid in ipairs { uv.os_getppid(), cluster.worker.pid } do
            local status = io.open(("/proc/%%d/status"):format(pid)):read("a")
            sizes[i] = math.tointeger(status:match("RssAnon:%%s+(%%d+) kB"))
          end
          return sizes
        end
        work(1000)
        memory.set("taken", 0)
        local used, before = memory.stats().used, own()
        work(KEYS)
        assert(memory.stats().used == used, "memory is used")
        for i = 1, KEYS // 100 do
          waitUntil(function() return memory.get "held" == i end)
          assert(memory.releaseLock("w" .. i, assert(memory.getLock("w" .. i))))
          memory.set("taken", i)
        end
        local after = own()
        print(("master %%d, worker %%d"):format(after[1] - before[1], after[2] - before[2]))
      ]]):format(KEYS),
    }
    assert.equal(0, c.code, c.err)
    local master, worker = c.out:match("^master (%-?%d+), worker (%-?%d+)\n$")
    -- The sanitizer keeps what is freed for a while.
    if not clusters.isSanitized() then
      assert.is_true(math.tointeger(master) < 1024, c.out)
      assert.is_true(math.tointeger(worker) < 8192, c.out)
    end
  end)
end)
