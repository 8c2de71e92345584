-- Leases, and writes that are fenced by a lockId: who has lost a lock changes nothing that its successor relies on.
local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local clusters = require "clusters"
local steps = require "keysteps"
local locksteps = require "locksteps"

local called, code, done, put, raises = steps.called, steps.code, steps.done, steps.put, steps.raises
local name, taken, abandoned, isFree = locksteps.name, locksteps.taken, locksteps.abandoned, locksteps.isFree
local waitForQueue, waitUntil = locksteps.waitForQueue, locksteps.waitUntil

-- Takes a lock with a short lease in another task, which ends, and gives the lockId.
local function lease(key, ms)
  return taken(task.join(task.spawn(memory.getLock, key, { lease = ms })))
end

describe("a lease", function()
  before_each(steps.prepare)
  after_each(clusters.finish)

  it("that is not renewed in time is the end of the lock, and the next owner is told, once", function()
    local key = name()
    local id = lease(key, 20)
    local nextId = abandoned(memory.getLock(key))
    assert.equal("notowner", code(memory.releaseLock(key, id)))
    assert.equal("notowner", code(memory.renewLock(key, id, 60000)))
    assert.equal("busy", code(memory.tryLock(key)))
    done(memory.releaseLock(key, nextId))
    done(memory.releaseLock(key, taken(memory.getLock(key))))
  end)

  it("does not end before its time", function()
    local key = name()
    local start = uv.hrtime()
    lease(key, 40)
    done(memory.releaseLock(key, abandoned(memory.getLock(key))))
    assert.is_true(uv.hrtime() - start >= 39e6)
  end)

  it("that is over without anybody who waits is over all the same", function()
    local key = name()
    local id = lease(key, 1)
    waitUntil("the end of the lease", function() return not memory.lockInfo(key) end)
    -- What lockInfo says is so for good: nobody renews it now.
    assert.equal("notowner", code(memory.renewLock(key, id, 60000)))
    assert.equal("notowner", code(memory.releaseLock(key, id)))
    isFree(key)
    done(memory.releaseLock(key, abandoned(memory.tryLock(key))))
    done(memory.releaseLock(key, taken(memory.tryLock(key))))
  end)

  it("that is over lets tryLock have the lock at once", function()
    for _ = 1, 20 do
      local key = name()
      lease(key, 1)
      steps.spend(3)
      done(memory.releaseLock(key, abandoned(memory.tryLock(key))))
    end
  end)

  it("starts anew with each renewal, and a renewal may take it away or bring one", function()
    local key = name()
    local id = taken(memory.getLock(key, { lease = 60000 }))
    done(memory.renewLock(key, id, 600000))
    assert.is_true(memory.lockInfo(key).lease > 300000)
    done(memory.renewLock(key, id, 60000))
    assert.is_true(memory.lockInfo(key).lease <= 60000)
    done(memory.renewLock(key, id, 0))
    assert.is_nil(memory.lockInfo(key).lease)
    local waiter = task.spawn(memory.getLock, key)
    waitForQueue(key, 1)
    done(memory.renewLock(key, id, 10))
    done(memory.releaseLock(key, abandoned(task.join(waiter))))
    assert.equal("notowner", code(memory.releaseLock(key, id)))
  end)

  it("that is renewed all the time is never over, also while others wait", function()
    local key = name()
    local id = taken(memory.getLock(key, { lease = 60000 }))
    local waiter = task.spawn(memory.getLock, key)
    waitForQueue(key, 1)
    -- None of these is ever waited for to its end.
    for i = 1, 100 do
      done(memory.renewLock(key, id, 50000 + i))
      task.sleep(0)
    end
    assert.equal(1, memory.lockInfo(key).waiting)
    done(memory.releaseLock(key, id))
    done(memory.releaseLock(key, taken(task.join(waiter))))
  end)

  it("of a waiting request begins when it is granted", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local waiter = task.spawn(memory.getLock, key, { lease = 60000 })
    waitForQueue(key, 1)
    task.sleep(30)
    done(memory.releaseLock(key, id))
    id = taken(task.join(waiter))
    assert.is_true(memory.lockInfo(key).lease > 30000)
    done(memory.releaseLock(key, id))
  end)

  it("passes the lock through all who wait, each told of the one before", function()
    local key = name()
    lease(key, 30)
    local hows = {}
    local fns = {}
    for i = 1, 5 do
      fns[i] = function()
        local id, how = memory.getLock(key, { lease = i % 2 == 0 and 5 or 60000 })
        hows[#hows + 1] = how or "told nothing"
        if i % 2 == 1 then done(memory.releaseLock(key, id)) end
      end
    end
    task.all(fns)
    assert.same({ "abandoned", "told nothing", "abandoned", "told nothing", "abandoned" }, hows)
    isFree(key)
  end)

  it("of many locks at once is over for all of them", function()
    local keys = {}
    for i = 1, 3000 do
      keys[i] = "many" .. i
      taken(memory.tryLock(keys[i], { lease = 5 + i % 50 }))
    end
    waitUntil("the end of the leases", function()
      for i = #keys, 1, -1 do
        if memory.lockInfo(keys[i]) then return false end
        keys[i] = nil
      end
      return true
    end)
    for i = 1, 3000 do done(memory.releaseLock("many" .. i, abandoned(memory.tryLock("many" .. i)))) end
  end)
end)

describe("a fence", function()
  before_each(steps.prepare)
  after_each(clusters.finish)

  it("lets set and remove through while its lock is held, whatever the name of the lock", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local version = put("k", 1, { fence = id })
    assert.equal(version, (select(2, memory.getVersioned("k"))))
    done(memory.remove("k", { fence = id }))
    assert.is_false(memory.has("k"))
    assert.equal("OK", called(memory.set, "k", 2, { fence = id })[1])
    assert.same({ "OK", n = 1 }, called(memory.remove, "k", { fence = id }))
    done(memory.releaseLock(key, id))
  end)

  it("refuses them afterwards with notowner, and what is there stays", function()
    local key = name()
    local version = put("k", "there")
    local released = taken(memory.getLock(key))
    done(memory.releaseLock(key, released))
    local over = lease(key, 1)
    local now = abandoned(memory.getLock(key))
    local nines = ("9"):rep(22)
    local wrong = { released, over, "", "0", "1", "x", now .. "0", "0" .. now, " " .. now, nines, nines:rep(4) }
    for _, fence in ipairs(wrong) do
      assert.equal("notowner", code(memory.set("k", 5, { fence = fence })), fence)
      assert.equal("notowner", code(memory.remove("k", { fence = fence })), fence)
      assert.equal("notowner", code(table.unpack(called(memory.set, "k", 5, { fence = fence }))), fence)
      assert.equal("notowner", code(table.unpack(called(memory.remove, "k", { fence = fence }))), fence)
      -- The same where the master does it.
      memory.setMany({ other = 1 }, function() end)
      assert.equal("notowner", code(memory.set("k", 5, { fence = fence })), fence)
      memory.setMany({ other = 1 }, function() end)
      assert.equal("notowner", code(memory.remove("k", { fence = fence })), fence)
    end
    assert.same({ "there", version }, { memory.getVersioned("k") })
    memory.setMany({ other = 1 }, function() end)
    put("k", "new", { fence = now })
    done(memory.remove("k", { fence = now }))
    done(memory.releaseLock(key, now))
    assert.equal("notowner", code(memory.set("k", 5, { fence = now })))
    isFree(key)
  end)

  it("comes before the other conditions, and with it they hold as ever", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local version = put("k", 1, { fence = id, ifAbsent = true, ttl = 60000 })
    assert.is_true(memory.ttl("k") > 30000)
    assert.equal("exists", code(memory.set("k", 2, { fence = id, ifAbsent = true })))
    assert.equal("notfound", code(memory.set("none", 2, { fence = id, ifPresent = true })))
    assert.equal("conflict", code(memory.set("k", 2, { fence = id, ifVersion = version + 2 })))
    assert.equal("conflict", code(memory.remove("k", { fence = id, ifVersion = version + 2 })))
    version = put("k", 2, { fence = id, ifVersion = version })
    assert.is_nil((memory.ttl("k")))
    done(memory.releaseLock(key, id))
    for _, condition in ipairs {
      {}, { ifAbsent = true }, { ifPresent = true }, { ifVersion = version }, { ifVersion = version + 2 },
      { ttl = 60000 },
    } do
      condition.fence = id
      assert.equal("notowner", code(memory.set("k", 3, condition)))
    end
    assert.equal("notowner", code(memory.remove("k", { fence = id, ifVersion = version })))
    assert.equal("notowner", code(memory.remove("none", { fence = id })))
    assert.equal(2, memory.get("k"))
    done(memory.remove("k", { ifVersion = version }))
  end)

  it("stays good through renewals and other people's attempts", function()
    local key = name()
    local id = taken(memory.getLock(key, { lease = 60000 }))
    local waiter = task.spawn(memory.getLock, key, { timeout = 5, fair = true })
    put("k", 1, { fence = id })
    done(memory.renewLock(key, id, 60000))
    assert.equal("timeout", code(task.join(waiter)))
    assert.equal("notowner", code(memory.releaseLock(key, id .. "1")))
    put("k", 2, { fence = id })
    done(memory.releaseLock(key, id))
  end)

  it("of values of every size and type", function()
    local key = name()
    local id = taken(memory.getLock(key))
    for _, value in ipairs { 1, 1.5, true, "text", ("x"):rep(5000), ("x"):rep(5 << 20), { a = { 1, 2 } } } do
      put("k", value, { fence = id })
      assert.same(value, memory.get("k"))
    end
    done(memory.releaseLock(key, id))
    for _, value in ipairs { 1, 1.5, true, "text", ("x"):rep(5000), ("x"):rep(5 << 20), { a = { 1, 2 } } } do
      assert.equal("notowner", code(memory.set("k", value, { fence = id })))
    end
  end)

  it("that is no string is refused at the caller's line", function()
    raises(function() memory.set("k", 1, { fence = 5 }) end, "set: fence", "a number")
    raises(function() memory.set("k", 1, { fence = false }) end, "set: fence", "a boolean")
    raises(function() memory.remove("k", { fence = {} }) end, "remove: fence", "a table")
    raises(function() memory.increment("k", 1, { fence = "5" }) end, "increment: unknown option 'fence'")
    raises(function() memory.update("k", print, { fence = "5" }) end, "update: unknown option 'fence'")
    assert.is_false(memory.has("k"))
  end)

  it("may be used by another process that was given the lockId", function()
    local c = clusters.run {
      workers = 2,
      app = locksteps.prelude .. [[
        if cluster.worker.slot == 1 then
          local id = assert(memory.getLock("k", { lease = 600000 }))
          memory.set("id", id)
          waitUntil(function() return memory.get "removed" end)
          assert(memory.releaseLock("k", id))
          memory.set("released", true)
        else
          waitUntil(function() return memory.get "id" end)
          local id = memory.get "id"
          print(memory.set("v", 1, { fence = id }) == "OK", memory.get "v")
          print((select(3, memory.set("v", 2, { fence = id, ifAbsent = true }))))
          print((select(3, memory.set("v", 2, { fence = id, ifVersion = 0 }))))
          print((select(3, memory.set("v", 2, { fence = id .. "1" }))))
          print(memory.lockInfo("k").worker, memory.lockInfo("k").waiting, memory.lockInfo("k").lease > 300000)
          memory.set("v", 3, { fence = id, ttl = 60000 }, function(ok) assert(ok == "OK") end)
          print(memory.remove("v", { fence = id }), memory.get "v")
          memory.set("removed", true)
          waitUntil(function() return memory.get "released" end)
          print((select(3, memory.set("v", 4, { fence = id }))), (select(3, memory.remove("v", { fence = id }))))
          print(memory.lockInfo "k", memory.tryLock "k" ~= nil)
        end
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("true\t1\nexists\nconflict\nnotowner\n1\t0\ttrue\nOK\tnil\nnotowner\tnotowner\nnil\ttrue\n", c.out)
  end)

  it("lets nothing through that comes behind the work of a later owner, however quickly they change", function()
    local c = clusters.run {
      workers = 3, limit = 80000,
      app = [[
        -- Leases so short that they end in the midst of the work. Who may write has had the lock since before it read
        -- the entry, so that no later owner has written yet.
        local function isLess(a, b) return #a < #b or #a == #b and a < b end
        local written, refused, lost = 0, 0, 0
        for i = 1, 1500 do
          local id, how = memory.getLock("k", { lease = 1 })
          assert(id, how)
          local last = memory.get "v"
          if i % 50 == 0 then task.sleep(2) elseif i % 7 == 0 then
            local over = uv.hrtime() + math.random(2000000)
            repeat until uv.hrtime() > over
          end
          local ok, _, code = memory.set("v", id, { fence = id })
          if ok then
            assert(not last or isLess(last, id), "a later owner had written already")
            written = written + 1
          else
            assert(code == "notowner", code)
            refused = refused + 1
          end
          ok, _, code = memory.releaseLock("k", id)
          if not ok then
            assert(code == "notowner", code)
            lost = lost + 1
          end
        end
        assert(written > 0 and lost >= refused, "lost without a loss")
        memory.increment("refused", refused)
        memory.increment "done"
        while memory.get "done" < 3 do task.sleep(1) end
        assert(memory.get "refused" > 0, "no lease has ended in between")
        print "ok"
      ]],
    }
    assert.equal("ok\nok\nok\n", c.out, c.err)
  end)

  it("that is refused is so for who watches: an entry is never older than the last one read", function()
    local c = clusters.run {
      workers = 3, limit = 80000,
      app = [[
        local function isLess(a, b) return #a < #b or #a == #b and a < b end
        if cluster.worker.slot == 3 then
          -- Tells the lockIds on, so that others use them as fences too, through the master.
          local last = "0"
          while (memory.get "done" or 0) < 2 do
            local id = memory.get "id"
            if id then memory.set("v", id, { fence = id }) end
            local now = memory.get "v"
            if now then
              assert(not isLess(now, last), "it went back")
              last = now
            end
          end
          print "never older"
          return
        end
        for _ = 1, 2000 do
          local id = assert(memory.getLock("k", { lease = 5 }))
          memory.set("id", id)
          memory.set("v", id, { fence = id })
          memory.releaseLock("k", id)
        end
        memory.increment "done"
      ]],
    }
    assert.equal("never older\n", c.out, c.err)
    assert.equal(0, c.code, c.err)
  end)
end)
