-- Locks by name: who gets them, in which order, and what the functions say.
local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local clusters = require "clusters"
local steps = require "keysteps"
local locksteps = require "locksteps"

local called, code, done, raises = steps.called, steps.code, steps.done, steps.raises
local name, taken, isFree, isLess = locksteps.name, locksteps.taken, locksteps.isFree, locksteps.isLess
local waitForQueue, waitUntil = locksteps.waitForQueue, locksteps.waitUntil

-- A task that asks for the lock; gives the table in which its results will be.
local function ask(key, options)
  local results = {}
  results.task = task.spawn(function()
    results.packed = table.pack(memory.getLock(key, options))
    results.id = results.packed[1]
  end)
  return results
end

describe("getLock", function()
  before_each(steps.prepare)
  after_each(clusters.finish)

  it("gives a lockId, a decimal number as a string, and the lock is held until it is released", function()
    local key = name()
    local id = taken(memory.getLock(key))
    assert.equal(0, memory.lockInfo(key).waiting)
    assert.equal("busy", code(memory.tryLock(key)))
    done(memory.releaseLock(key, id))
    isFree(key)
  end)

  it("gives lockIds that grow for ever, from each owner of a lock to the next", function()
    local keys, last = {}, {}
    for i = 1, 20 do keys[i] = name() end
    for round = 1, 50 do
      for _, key in ipairs(keys) do
        local id = taken(memory[round % 2 == 0 and "getLock" or "tryLock"](key))
        assert.is_true(not last[key] or isLess(last[key], id), key)
        last[key] = id
        done(memory.releaseLock(key, id))
      end
    end
  end)

  it("waits until the lock is released, and lets other tasks run", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local waiter = ask(key)
    waitForQueue(key, 1)
    assert.is_nil(waiter.packed)
    done(memory.releaseLock(key, id))
    task.join(waiter.task)
    assert.is_true(isLess(id, taken(table.unpack(waiter.packed))))
    done(memory.releaseLock(key, waiter.id))
  end)

  it("gives up with timeout after so long, and not before", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local start = uv.hrtime()
    local results = ask(key, { timeout = 30 })
    task.join(results.task)
    assert.equal("timeout", code(table.unpack(results.packed)))
    assert.is_true(uv.hrtime() - start >= 29e6)
    assert.equal(0, memory.lockInfo(key).waiting)
    done(memory.releaseLock(key, id))
    isFree(key)
  end)

  it("with a timeout of 0 does not wait, as tryLock", function()
    local key = name()
    local id = taken(memory.getLock(key, { timeout = 0 }))
    assert.equal("busy", code(memory.getLock(key, { timeout = 0 })))
    assert.equal("busy", code(memory.getLock(key, { timeout = 0, fair = true, lease = 5 })))
    done(memory.releaseLock(key, id))
  end)

  it("takes timeouts and leases as long as Lua can count milliseconds, and parts of them", function()
    local key = name()
    local id = taken(memory.getLock(key, { timeout = 2 ^ 53, lease = 2 ^ 53 }))
    local waiter = ask(key, { timeout = 2 ^ 53, lease = 2 ^ 53 })
    waitForQueue(key, 1)
    done(memory.renewLock(key, id, 2 ^ 53))
    assert.is_true(memory.lockInfo(key).lease > 2 ^ 52)
    done(memory.releaseLock(key, id))
    task.join(waiter.task)
    done(memory.releaseLock(key, taken(table.unpack(waiter.packed))))
    id = taken(memory.getLock(key, { timeout = 0.5, lease = 60000.5 }))
    local impatient = ask(key, { timeout = 0.5 })
    task.join(impatient.task)
    assert.equal("timeout", code(table.unpack(impatient.packed)))
    done(memory.releaseLock(key, id))
  end)

  it("takes every key, of any bytes and length, as a lock of its own", function()
    local keys = { "\0", "\0\0", ("k"):rep(65535), ("k"):rep(65534), "\xff", "Key", "key", "1" }
    local ids = {}
    for i, key in ipairs(keys) do ids[i] = taken(memory.tryLock(key)) end
    for _, key in ipairs(keys) do assert.equal("busy", code(memory.tryLock(key))) end
    for i, key in ipairs(keys) do done(memory.releaseLock(key, ids[i])) end
  end)

  it("gives a callback the same results", function()
    local key = name()
    local first = called(memory.getLock, key)
    assert.equal(1, first.n)
    assert.equal("timeout", code(table.unpack(called(memory.getLock, key, { timeout = 5 }))))
    assert.equal("busy", code(table.unpack(called(memory.getLock, key, { timeout = 0 }))))
    assert.equal("busy", code(table.unpack(called(memory.tryLock, key))))
    assert.same({ "OK", n = 1 }, called(memory.renewLock, key, first[1], 60000))
    assert.equal("notowner", code(table.unpack(called(memory.renewLock, key, "5", 60000))))
    assert.equal("notowner", code(table.unpack(called(memory.releaseLock, key, "5"))))
    local info = called(memory.lockInfo, key)
    assert.equal(1, info.n)
    assert.is_nil(info[1].task) -- such a request is no task's
    assert.equal(0, info[1].worker)
    assert.same({ "OK", n = 1 }, called(memory.releaseLock, key, first[1]))
    assert.same({ n = 1 }, called(memory.lockInfo, key))
    local second = called(memory.tryLock, key, { lease = 60000 })
    done(memory.releaseLock(key, taken(table.unpack(second))))
  end)

  it("calls back when the lock is released", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local given
    assert.equal(0, select("#", memory.getLock(key, function(...) given = table.pack(...) end)))
    waitForQueue(key, 1)
    assert.is_nil(given)
    done(memory.releaseLock(key, id))
    waitUntil("the callback", function() return given end)
    done(memory.releaseLock(key, taken(table.unpack(given))))
  end)

  it("waits inside the script's own coroutines and behind pcall", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local inner = task.spawn(function()
      return coroutine.wrap(function() return select(2, pcall(memory.getLock, key)) end)()
    end)
    waitForQueue(key, 1)
    done(memory.releaseLock(key, id))
    done(memory.releaseLock(key, taken(task.join(inner))))
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.getLock() end, "getLock: the key", "nil")
    raises(function() memory.getLock("") end, "getLock: the key")
    raises(function() memory.getLock(("k"):rep(65536)) end, "getLock: the key")
    raises(function() memory.getLock("k", 5) end, "getLock: the options", "a number")
    raises(function() memory.getLock("k", { time = 5 }) end, "unknown option 'time'", "timeout", "lease", "fair")
    raises(function() memory.getLock("k", { timeout = -1 }) end, "getLock: timeout", "-1")
    raises(function() memory.getLock("k", { timeout = 0 / 0 }) end, "getLock: timeout")
    raises(function() memory.getLock("k", { timeout = "5" }) end, "getLock: timeout", "a string")
    raises(function() memory.getLock("k", { timeout = false }) end, "getLock: timeout", "a boolean")
    raises(function() memory.getLock("k", { lease = -0.5 }) end, "getLock: lease", "-0.5")
    raises(function() memory.getLock("k", { lease = math.huge }) end, "getLock: lease", "inf")
    raises(function() memory.getLock("k", { lease = {} }) end, "getLock: lease", "a table")
    raises(function() memory.getLock("k", { fair = 1 }) end, "getLock: fair", "a number")
    raises(function() memory.getLock("k", {}, 5) end, "getLock: the callback", "a number")
    raises(function() memory.getLock("k", print, print) end, "getLock: the options", "a function")
    isFree("k")
  end)
end)

describe("tryLock, renewLock, releaseLock and lockInfo", function()
  before_each(steps.prepare)
  after_each(clusters.finish)

  it("refuse what they cannot understand, at the caller's line", function()
    raises(function() memory.tryLock(5) end, "tryLock: the key", "a number")
    raises(function() memory.tryLock("k", { timeout = 5 }) end, "tryLock: unknown option 'timeout'", "lease")
    raises(function() memory.tryLock("k", { lease = -1 }) end, "tryLock: lease", "-1")
    raises(function() memory.tryLock("k", true) end, "tryLock: the options", "a boolean")
    raises(function() memory.tryLock("k", {}, "f") end, "tryLock: the callback")
    raises(function() memory.renewLock(nil, "1", 5) end, "renewLock: the key", "nil")
    raises(function() memory.renewLock("k", 1, 5) end, "renewLock: the lockId", "a number")
    raises(function() memory.renewLock("k", "1") end, "renewLock: the lease", "nil")
    raises(function() memory.renewLock("k", "1", -5) end, "renewLock: the lease", "-5")
    raises(function() memory.renewLock("k", "1", 5, 5) end, "renewLock: the callback")
    raises(function() memory.releaseLock({}, "1") end, "releaseLock: the key", "a table")
    raises(function() memory.releaseLock("k") end, "releaseLock: the lockId", "nil")
    raises(function() memory.releaseLock("k", 5) end, "releaseLock: the lockId", "a number")
    raises(function() memory.releaseLock("k", "5", {}) end, "releaseLock: the callback")
    raises(function() memory.lockInfo() end, "lockInfo: the key", "nil")
    raises(function() memory.lockInfo("k", 5) end, "lockInfo: the callback")
    isFree("k")
  end)

  it("tryLock takes what is free, and is busy with what is held, also by the same task", function()
    local key = name()
    local id = taken(memory.tryLock(key))
    assert.equal("busy", code(memory.tryLock(key)))
    assert.equal("busy", code(task.join(task.spawn(memory.tryLock, key))))
    done(memory.releaseLock(key, id))
    done(memory.releaseLock(key, taken(memory.tryLock(key, { lease = 60000 }))))
  end)

  it("leave the lock with its owner when the lockId is another one", function()
    local key, other = name(), name()
    local old = taken(memory.getLock(key))
    done(memory.releaseLock(key, old))
    local id, otherId = taken(memory.getLock(key, { lease = 60000 })), taken(memory.getLock(other))
    local wrong = {
      old, otherId, "", "0", "00", "0" .. id, id .. "0", id .. " ", " " .. id, "+" .. id, id .. ".0", id .. "\0", "-1",
      "abandoned", "0x10", ("9"):rep(18), ("9"):rep(22), ("9"):rep(23), ("9"):rep(24), ("1"):rep(70000), "1", "65536",
    }
    for _, text in ipairs(wrong) do
      assert.equal("notowner", code(memory.releaseLock(key, text)), text)
      assert.equal("notowner", code(memory.renewLock(key, text, 5)), text)
    end
    for difference = -20, 20 do
      local near = tostring(math.tointeger(id) + difference)
      if difference ~= 0 then
        assert.equal("notowner", code(memory.releaseLock(key, near)), difference)
        assert.equal("notowner", code(memory.renewLock(key, near, 5)), difference)
        assert.equal("notowner", code(memory.set("k", 1, { fence = near })), difference)
      end
    end
    assert.is_true(memory.lockInfo(key).lease > 50000)
    assert.equal("notowner", code(memory.releaseLock(other, id)))
    assert.equal("busy", code(memory.tryLock(other)))
    done(memory.releaseLock(key, id))
    assert.equal("notowner", code(memory.releaseLock(key, id)))
    assert.equal("notowner", code(memory.renewLock(key, id, 5)))
    done(memory.releaseLock(other, otherId))
    isFree(key)
  end)

  it("lockInfo says who holds, for how long, and how many wait", function()
    local key = name()
    isFree(key)
    local id = taken(memory.getLock(key))
    local info = memory.lockInfo(key)
    assert.same({ worker = 0, task = info.task, waiting = 0 }, info)
    assert.is_true(math.type(info.task) == "integer" and info.task > 0)
    done(memory.renewLock(key, id, 60000))
    local left = memory.lockInfo(key).lease
    assert.is_true(math.type(left) == "integer" and left <= 60000 and left > 30000)
    done(memory.renewLock(key, id, 0))
    assert.is_nil(memory.lockInfo(key).lease)
    local waiters = {}
    for i = 1, 3 do
      waiters[i] = ask(key, { lease = i * 100000 })
      waitForQueue(key, i)
    end
    assert.equal(info.task, memory.lockInfo(key).task)
    for i = 1, 3 do
      done(memory.releaseLock(key, id))
      task.join(waiters[i].task)
      id = waiters[i].id
      local now = memory.lockInfo(key)
      assert.equal(3 - i, now.waiting)
      assert.is_true(now.lease <= i * 100000 and now.lease > i * 100000 - 30000)
      assert.are_not_equal(info.task, now.task)
    end
    done(memory.releaseLock(key, id))
    isFree(key)
  end)

  it("wait as all that may wait: not where Lua cannot yield, and not outside a task", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local calls = {
      getLock = { key, { timeout = 0 } }, tryLock = { key }, renewLock = { key, id, 5 }, releaseLock = { key, id },
      lockInfo = { key }, mutex = { key, print },
    }
    for fn, args in pairs(calls) do
      local ok, raised = pcall(function()
        ("x"):gsub("x", function() memory[fn](table.unpack(args)) end)
      end)
      assert.is_false(ok)
      assert.matches("^[^\n]*locks_spec%.lua:%d+: " .. fn .. " waits, and Lua cannot yield here", raised)
      local timer, outside = uv.new_timer(), nil
      timer:start(0, 0, function()
        timer:close()
        outside = table.pack(pcall(function() memory[fn](table.unpack(args)) end))
      end)
      waitUntil("the timer", function() return outside end)
      assert.is_false(outside[1])
      assert.matches("^[^\n]*locks_spec%.lua:%d+: " .. fn .. " waits, and this is no task", outside[2])
    end
    done(memory.releaseLock(key, id))
    -- With a callback they work there too.
    local timer, given = uv.new_timer(), nil
    timer:start(0, 0, function()
      timer:close()
      memory.getLock(key, function(...) given = table.pack(...) end)
    end)
    waitUntil("the callback", function() return given end)
    done(memory.releaseLock(key, taken(table.unpack(given))))
  end)

  it("keep the process alive while they wait", function()
    assert.equal("got it\n", clusters.output [[
      local id = memory.getLock "k"
      memory.getLock("k", function(other) assert(other) print "got it" end)
      local timer = uv.new_timer()
      timer:start(30, 0, function()
        timer:close()
        memory.releaseLock("k", id, function(ok) assert(ok == "OK") end)
      end)
    ]])
  end)

  it("have names of their own: no entry comes or goes, and clear touches no lock", function()
    local key = name()
    local id = taken(memory.getLock(key))
    assert.is_false(memory.has(key))
    assert.same({}, memory.keys())
    assert.equal(0, memory.stats().entries)
    assert.equal("OK", (memory.set(key, 5)))
    done(memory.remove(key))
    assert.equal("OK", (memory.set(key, 6)))
    assert.equal(1, memory.clear())
    assert.equal("busy", code(memory.tryLock(key)))
    assert.equal("OK", (memory.set(key, 7)))
    done(memory.releaseLock(key, id))
    assert.equal(7, memory.get(key))
  end)
end)

describe("the end of a task", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("does not free what it has taken, and any other task may release it", function()
    local key = name()
    local id = taken(task.join(task.spawn(memory.getLock, key)))
    local failed = name()
    local failedId
    pcall(task.join, task.spawn(function()
      failedId = memory.getLock(failed)
      error "on purpose"
    end))
    for _, lock in ipairs { key, failed } do
      assert.equal("busy", code(memory.tryLock(lock)))
      assert.equal("timeout", code(memory.getLock(lock, { timeout = 5 })))
    end
    done(memory.releaseLock(key, id))
    done(memory.releaseLock(failed, failedId))
  end)
end)

describe("requests that wait", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("are granted in their order, be they fair or not, with a lease or a timeout, of tasks or callbacks", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local order = {}
    local options = { {}, { fair = true }, { lease = 60000 }, { timeout = 60000 }, { fair = true, lease = 60000 } }
    for i = 1, 20 do
      local function go(given)
        order[#order + 1] = i
        memory.releaseLock(key, taken(given))
      end
      if i % 3 == 0 then
        memory.getLock(key, options[i % #options + 1], go)
      else
        task.spawn(function() go(memory.getLock(key, options[i % #options + 1])) end)
      end
      waitForQueue(key, i)
    end
    done(memory.releaseLock(key, id))
    waitUntil("all of them", function() return #order == 20 end)
    for i = 1, 20 do assert.equal(i, order[i], table.concat(order, " ")) end
    isFree(key)
  end)

  it("of several processes are granted in their order", function()
    local c = clusters.run {
      workers = 3,
      boot = locksteps.prelude .. [[
        local id = assert(memory.getLock "k")
        task.spawn(function()
          for turn = 1, 15 do
            memory.set("turn", turn)
            if turn % 4 == 0 then
              task.spawn(function()
                local mine = assert(memory.getLock "k")
                print(turn)
                memory.releaseLock("k", mine)
              end)
            end
            waitForQueue("k", turn)
          end
          memory.releaseLock("k", id)
        end)
      ]],
      app = locksteps.prelude .. [[
        local fns = {}
        for turn = 1, 15 do
          if turn % 4 == cluster.worker.slot then
            fns[#fns + 1] = function()
              waitUntil(function() return memory.get "turn" == turn end)
              local mine = assert(memory.getLock("k", { fair = turn % 5 == 0 }))
              print(turn)
              memory.releaseLock("k", mine)
            end
          end
        end
        task.all(fns)
      ]],
    }
    assert.equal(0, c.code, c.err)
    local expected = {}
    for turn = 1, 15 do expected[turn] = turn .. "\n" end
    assert.equal(table.concat(expected), c.out)
  end)

  it("leave the queue when their time is up, and the order of the others stays", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local waiters = {}
    for i = 1, 6 do
      waiters[i] = ask(key, i % 2 == 0 and { timeout = 60 + i } or nil)
      waitUntil("the request", function()
        local gone = 0
        for j = 2, i, 2 do gone = gone + (waiters[j].packed and 1 or 0) end
        return memory.lockInfo(key).waiting == i - gone
      end)
    end
    for i = 2, 6, 2 do
      task.join(waiters[i].task)
      assert.equal("timeout", code(table.unpack(waiters[i].packed)))
    end
    assert.equal(3, memory.lockInfo(key).waiting)
    for i = 1, 5, 2 do
      done(memory.releaseLock(key, id))
      task.join(waiters[i].task)
      id = taken(table.unpack(waiters[i].packed))
      for j = i + 2, 5, 2 do assert.is_nil(waiters[j].packed) end
    end
    done(memory.releaseLock(key, id))
    isFree(key)
  end)

  it("get the lock handed over when the first has waited for a millisecond", function()
    local key = name()
    for _ = 1, 20 do
      local id = taken(memory.getLock(key))
      local waiter = ask(key)
      waitForQueue(key, 1)
      steps.spend(5)
      -- At once, before the master has heard of it: or the lock would be the waiter's by then in any case.
      local ok, _, _, word = memory.releaseLock(key, id), memory.tryLock(key)
      assert.same({ "OK", "busy" }, { ok, word })
      task.join(waiter.task)
      done(memory.releaseLock(key, taken(table.unpack(waiter.packed))))
    end
  end)

  it("with fair get it handed over from the start, and so do all others while one of them waits", function()
    for position = 1, 3 do
      for _ = 1, 20 do
        local key = name()
        local id = taken(memory.getLock(key))
        local waiters = {}
        for i = 1, 3 do waiters[i] = ask(key, { fair = i == position }) end
        task.sleep(0) -- they ask
        waitForQueue(key, 3)
        for i = 1, 3 do
          if i <= position then
            local ok, _, _, word = memory.releaseLock(key, id), memory.tryLock(key)
            assert.same({ "OK", "busy" }, { ok, word })
          else
            done(memory.releaseLock(key, id))
          end
          task.join(waiters[i].task)
          id = taken(table.unpack(waiters[i].packed))
        end
        done(memory.releaseLock(key, id))
      end
    end
  end)

  it("are all served however many there are", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local served = 0
    for _ = 1, 5000 do
      memory.getLock(key, function(given)
        served = served + 1
        memory.releaseLock(key, given, function(ok) assert(ok) end)
      end)
    end
    waitForQueue(key, 5000)
    done(memory.releaseLock(key, id))
    waitUntil("all of them", function() return served == 5000 end)
    waitUntil("the last release", function() return not memory.lockInfo(key) end)
  end)
end)

describe("a lockId", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("lets another process release the lock, and the first in the queue has it then, told nothing", function()
    local c = clusters.run {
      workers = 2,
      app = locksteps.prelude .. [[
        if cluster.worker.slot == 1 then
          local id = assert(memory.getLock("k", { lease = 600000 }))
          memory.set("id", id)
          waitUntil(function() return memory.get "released" end)
          for _, call in ipairs {
            function() return memory.releaseLock("k", id) end,
            function() return memory.renewLock("k", id, 5) end,
            function() return memory.set("v", 1, { fence = id }) end,
          } do print((select(3, call()))) end
        else
          waitUntil(function() return memory.get "id" end)
          local id = memory.get "id"
          local waiting = task.spawn(function() print("next", select("#", memory.getLock "k")) end)
          waitForQueue("k", 1)
          print("wrong", (select(3, memory.releaseLock("k", id .. "0"))))
          print("other", (select(3, memory.releaseLock("other", id))))
          -- Only who took it may renew it.
          print("renew", (select(3, memory.renewLock("k", id, 5))))
          assert(memory.lockInfo("k").lease > 300000)
          print("release", memory.releaseLock("k", id))
          print("again", (select(3, memory.releaseLock("k", id))))
          task.join(waiting)
          memory.set("released", true)
        end
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("wrong\tnotowner\nother\tnotowner\nrenew\tnotowner\nrelease\tOK\nagain\tnotowner\nnext\t1\n"
      .. "notowner\nnotowner\nnotowner\n", (c.out:gsub("next\t1\n", "", 1):gsub("again\tnotowner\n", "%0next\t1\n")))
  end)

  it("of a later owner is greater, in whichever process that is", function()
    local c = clusters.run {
      workers = 3,
      app = locksteps.prelude .. [[
        local function isLess(a, b) return #a < #b or #a == #b and a < b end
        for _ = 1, 1000 do
          local id = assert(memory.getLock "k")
          local last = memory.get "last"
          assert(not last or isLess(last, id), "it does not grow")
          memory.set("last", id)
          assert(memory.releaseLock("k", id))
        end
        print "grew"
      ]],
    }
    assert.equal("grew\ngrew\ngrew\n", c.out, c.err)
  end)
end)

describe("a release", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- What setMany writes is written by the master, later; a release must not overtake it.
  for how, release in pairs {
    ["releaseLock"] = "assert(memory.releaseLock('k', id))",
    ["releaseLock with a callback"] = "memory.releaseLock('k', id, function(ok) assert(ok) end)",
  } do
    it("comes after all writes that were issued before it: whoever has the lock next sees them: " .. how, function()
      local c = clusters.run {
        workers = 3,
        app = ([[
          for i = 1, 1000 do
            local id = assert(memory.getLock "k")
            local n, other = memory.get "n" or 0, memory.get "other" or 0
            assert(n == other, "one write is missing")
            memory.setMany({ n = n + 1 }, function(ok) assert(ok) end)
            memory.set("other", other + 1, i %% 2 == 0 and { fence = id } or nil, function(ok) assert(ok) end)
            %s
          end
          memory.increment "done"
          while memory.get "done" < 3 do task.sleep(1) end
          print(memory.get "n", memory.get "other")
        ]]):format(release),
      }
      assert.equal(("3000\t3000\n"):rep(3), c.out, c.err)
    end)
  end

  it("that is forwarded is notowner as any other, if the lockId is wrong", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local function forward() memory.setMany({ k = 1 }, function() end) end
    forward()
    assert.equal("notowner", code(memory.releaseLock(key, "7")))
    forward()
    assert.equal("notowner", code(memory.renewLock(key, "7", 5)))
    forward()
    done(memory.renewLock(key, id, 60000))
    assert.is_true(memory.lockInfo(key).lease > 30000)
    forward()
    done(memory.releaseLock(key, id))
    isFree(key)
  end)
end)
