-- mutex: a function runs while a lock is had.
local memory = require "clustermem"
local task = require "clustermem.task"
local clusters = require "clusters"
local steps = require "keysteps"
local locksteps = require "locksteps"

local called, code, done, raises = steps.called, steps.code, steps.done, steps.raises
local name, taken, isFree = locksteps.name, locksteps.taken, locksteps.isFree
local waitForQueue, waitUntil = locksteps.waitForQueue, locksteps.waitUntil

describe("mutex", function()
  before_each(steps.prepare)
  after_each(clusters.finish)

  it("runs fn while it has the lock, with the lockId, and releases it then", function()
    local key = name()
    local runs = 0
    memory.mutex(key, function(id, how)
      runs = runs + 1
      taken(id)
      assert.is_nil(how)
      assert.equal("busy", code(memory.tryLock(key)))
      assert.equal("OK", (memory.set("k", 1, { fence = id })))
      done(memory.renewLock(key, id, 60000))
    end)
    assert.equal(1, runs)
    isFree(key)
  end)

  it("gives all of fn's results, nils and none included", function()
    local key = name()
    assert.same({ n = 0 }, table.pack(memory.mutex(key, function() end)))
    assert.same({ n = 1 }, table.pack(memory.mutex(key, function() return nil end)))
    assert.same({ 1, nil, false, nil, n = 4 }, table.pack(memory.mutex(key, function() return 1, nil, false, nil end)))
    assert.same({ nil, "my message", "mycode", n = 3 },
      table.pack(memory.mutex(key, function() return nil, "my message", "mycode" end)))
    local given = {}
    assert.equal(given, (memory.mutex(key, function() return given end)))
    assert.equal(200, select("#", memory.mutex(key, function() return table.unpack({}, 1, 200) end)))
    isFree(key)
  end)

  it("releases when fn raises, and raises the same value again", function()
    local key = name()
    for _, value in ipairs { {}, setmetatable({}, { __tostring = function() return "mine" end }), "text", 5, false } do
      local ok, raised = pcall(memory.mutex, key, function() error(value, 0) end)
      assert.is_false(ok)
      assert.equal(value, raised)
      isFree(key)
    end
    local ok, raised = pcall(memory.mutex, key, function() error() end)
    assert.is_false(ok)
    assert.is_nil(raised)
    isFree(key)
    ok, raised = pcall(memory.mutex, key, function()
      task.sleep(1)
      error({ code = 5 })
    end)
    assert.is_false(ok)
    assert.same({ code = 5 }, raised)
    isFree(key)
  end)

  it("leaves a traceback that shows where fn has raised", function()
    local c = clusters.run {
      "--restart", "never",
      app = [[
        local function deepInside() error "on purpose" end
        memory.mutex("k", function() deepInside() end)
      ]],
    }
    assert.equal(1, c.code)
    assert.matches("app%.lua:1: on purpose", c.err)
    assert.matches("deepInside", c.err)
  end)

  it("may be nested on different keys", function()
    local a, b, c = name(), name(), name()
    assert.equal("inside", memory.mutex(a, function()
      return memory.mutex(b, function()
        return memory.mutex(c, function()
          for _, key in ipairs { a, b, c } do assert.equal("busy", code(memory.tryLock(key))) end
          return "inside"
        end)
      end)
    end))
    local thrown = {}
    local ok, raised = pcall(memory.mutex, a, function()
      memory.mutex(b, function() memory.mutex(c, function() error(thrown) end) end)
    end)
    assert.is_false(ok)
    assert.equal(thrown, raised)
    for _, key in ipairs { a, b, c } do isFree(key) end
  end)

  it("nested on the same key is a deadlock, and the outer one has the lock on", function()
    local key = name()
    assert.equal("outer", memory.mutex(key, function(id)
      assert.equal("deadlock", code(memory.mutex(key, error)))
      assert.equal("deadlock", code(memory.mutex(key, error, { timeout = 5 })))
      assert.equal("busy", code(memory.mutex(key, error, { timeout = 0 })))
      assert.equal("busy", code(memory.tryLock(key)))
      done(memory.renewLock(key, id, 60000))
      return "outer"
    end))
    isFree(key)
  end)

  it("lets fn wait, and one task at a time run it", function()
    local key = name()
    local inside, most, runs = 0, 0, 0
    local fns = {}
    for i = 1, 10 do
      fns[i] = function()
        for _ = 1, 5 do
          memory.mutex(key, function()
            inside = inside + 1
            most = math.max(most, inside)
            if i % 2 == 0 then task.sleep(1) else task.sleep(0) end
            runs = runs + 1
            inside = inside - 1
          end)
        end
      end
    end
    task.all(fns)
    assert.same({ 50, 1 }, { runs, most })
    isFree(key)
  end)

  it("gives timeout or busy, and does not run fn, when the lock is held for too long", function()
    local key = name()
    local id = taken(memory.getLock(key))
    task.join(task.spawn(function()
      assert.equal("timeout", code(memory.mutex(key, error, { timeout = 5 })))
      assert.equal("timeout", code(memory.mutex(key, error, { timeout = 5, fair = true, lease = 50 })))
      assert.equal("busy", code(memory.mutex(key, error, { timeout = 0 })))
    end))
    done(memory.releaseLock(key, id))
    isFree(key)
  end)

  it("says notowner when the lock was taken away while fn ran, and leaves the next owner's alone", function()
    local key = name()
    local nextId
    local message
    local results = table.pack(memory.mutex(key, function()
      nextId = locksteps.abandoned(task.join(task.spawn(memory.getLock, key)))
      return "fn's own result"
    end, { lease = 5 }))
    assert.equal("notowner", code(table.unpack(results, 1, results.n)))
    message = results[2]
    assert.truthy(message:find("'" .. key .. "' was taken away", 1, true), message)
    assert.equal("busy", code(memory.tryLock(key)))
    done(memory.releaseLock(key, nextId))
  end)

  it("says notowner when somebody else, or fn, has released it", function()
    local key = name()
    assert.equal("notowner", code(memory.mutex(key, function(id) done(memory.releaseLock(key, id)) end)))
    isFree(key)
  end)

  it("raises what fn raises also when the lock was taken away", function()
    local key = name()
    local nextId
    local thrown = {}
    local ok, raised = pcall(memory.mutex, key, function()
      nextId = locksteps.abandoned(task.join(task.spawn(memory.getLock, key)))
      error(thrown)
    end, { lease = 5 })
    assert.is_false(ok)
    assert.equal(thrown, raised)
    assert.equal("busy", code(memory.tryLock(key)))
    done(memory.releaseLock(key, nextId))
  end)

  it("tells fn that the last owner has gone without releasing it, once", function()
    local key = name()
    taken(task.join(task.spawn(memory.getLock, key, { lease = 5 })))
    local hows = {}
    for i = 1, 2 do
      assert.equal(i, memory.mutex(key, function(_, how)
        hows[i] = how or "nothing"
        return i
      end))
    end
    assert.same({ "abandoned", "nothing" }, hows)
  end)

  it("keeps its lease while fn renews it", function()
    local key = name()
    local rounds = 0
    local value, _, word = memory.mutex(key, function(id)
      for _ = 1, 10 do
        local ok = memory.renewLock(key, id, 60000)
        task.sleep(1)
        rounds = rounds + (ok and 1 or 0)
      end
      return "renewed"
    end, { lease = 60000 })
    assert.is_nil(word)
    assert.same({ "renewed", 10 }, { value, rounds })
  end)

  it("gives a second function the same results, and then runs fn as a task of its own", function()
    local key = name()
    assert.same({ 1, nil, 3, nil, n = 4 }, called(memory.mutex, key, function() return 1, nil, 3, nil end))
    assert.same({ n = 0 }, called(memory.mutex, key, function() end))
    assert.same({ 2, n = 1 }, called(memory.mutex, key, function(id)
      task.sleep(1)
      return #taken(id) > 0 and 2
    end, { lease = 60000 }))
    -- So it waits for its caller's lock, and is no deadlock.
    local id = taken(memory.getLock(key))
    assert.equal("timeout", code(table.unpack(called(memory.mutex, key, error, { timeout = 5 }))))
    local given
    memory.mutex(key, function() return "later" end, function(...) given = table.pack(...) end)
    waitForQueue(key, 1)
    assert.is_nil(given)
    done(memory.releaseLock(key, id))
    waitUntil("the callback", function() return given end)
    assert.same({ "later", n = 1 }, given)
    isFree(key)
  end)

  -- While a write is with the master, a release goes there too.
  local function forward()
    memory.setMany({ k = 1 }, function() end)
  end

  it("releases inside the script's own coroutines too, also when fn raises there", function()
    local key = name()
    assert.equal(5, coroutine.wrap(function() return (memory.mutex(key, function() return 5 end)) end)())
    isFree(key)
    for _, before in ipairs { function() end, forward } do
      local thrown = {}
      local function raise()
        memory.mutex(key, function()
          before()
          error(thrown)
        end)
      end
      local ok, raised = coroutine.resume(coroutine.create(raise))
      assert.is_false(ok)
      assert.equal(thrown, raised)
      done(memory.releaseLock(key, taken(memory.tryLock(key))))
      ok, raised = pcall(coroutine.wrap(raise))
      assert.is_false(ok)
      assert.equal(thrown, raised)
      done(memory.releaseLock(key, taken(memory.tryLock(key))))
      ok, raised = pcall(raise)
      assert.is_false(ok)
      assert.equal(thrown, raised)
      done(memory.releaseLock(key, taken(memory.tryLock(key))))
    end
  end)

  it("releases also in a coroutine that is closed while fn runs", function()
    local key = name()
    for _, before in ipairs { function() end, forward } do
      local co = coroutine.create(function()
        memory.mutex(key, function() coroutine.yield "inside" end)
      end)
      assert.same({ true, "inside" }, { coroutine.resume(co) })
      assert.equal("busy", code(memory.tryLock(key)))
      before()
      assert.is_true(coroutine.close(co))
      isFree(key)
    end
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.mutex(nil, print) end, "mutex: the key", "nil")
    raises(function() memory.mutex("k") end, "mutex: its second argument", "nil")
    raises(function() memory.mutex("k", "f") end, "mutex: its second argument", "a string")
    raises(function() memory.mutex("k", print, { time = 1 }) end, "mutex: unknown option 'time'", "timeout", "lease",
      "fair")
    raises(function() memory.mutex("k", print, { timeout = -1 }) end, "mutex: timeout", "-1")
    raises(function() memory.mutex("k", print, { lease = "5" }) end, "mutex: lease", "a string")
    raises(function() memory.mutex("k", print, { fair = "yes" }) end, "mutex: fair", "a string")
    raises(function() memory.mutex("k", print, 5) end, "mutex: the options")
    raises(function() memory.mutex("k", print, {}, 5) end, "mutex: the callback")
    assert.is_nil((memory.lockInfo("k")))
  end)
end)

describe("a counter under a mutex", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local ROUNDS = clusters.isSanitized() and 2000 or 10000

  it("counts every increment of four workers", function()
    local c = clusters.run {
      workers = 4, limit = 80000,
      app = ([[
        local ROUNDS = %d
        for _ = 1, ROUNDS do
          assert(memory.mutex("n", function() return memory.set("n", (memory.get "n" or 0) + 1) end))
        end
        memory.increment "done"
        while memory.get "done" < 4 do task.sleep(1) end
        print(memory.get "n")
      ]]):format(ROUNDS),
    }
    assert.equal(0, c.code, c.err)
    assert.equal((4 * ROUNDS .. "\n"):rep(4), c.out)
  end)

  it("counts them of tasks with fair requests, leases, timeouts and callbacks, on several keys, too", function()
    local c = clusters.run {
      workers = 4, limit = 80000,
      app = [[
        local TASKS, ROUNDS = 4, 250
        local long = 600000
        local kinds = { {}, { fair = true }, { lease = long }, { timeout = long }, { timeout = 1 }, { timeout = 0 } }
        local fns = {}
        for t = 1, TASKS do
          fns[t] = function()
            for i = 1, ROUNDS do
              local key = "n" .. i % 3
              local function count(id)
                local n = memory.get(key) or 0
                if i % 7 == 0 then task.sleep(0) end
                assert(memory.set(key, n + 1, i % 5 == 0 and { fence = id } or nil))
                return "counted"
              end
              repeat
                local options = kinds[math.random(#kinds)]
                local given, _, code
                if math.random(4) == 1 then
                  given, _, code = task.await(function(resume) memory.mutex(key, count, options, resume) end)
                else
                  given, _, code = memory.mutex(key, count, options)
                end
                assert(given == "counted" or code == "timeout" or code == "busy", code)
              until given
            end
          end
        end
        task.all(fns)
        memory.increment "done"
        while memory.get "done" < 4 do task.sleep(1) end
        print(memory.get "n0" + memory.get "n1" + memory.get "n2")
        for i = 0, 2 do assert(not memory.lockInfo("n" .. i)) end
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal(("4000\n"):rep(4), c.out)
  end)
end)
