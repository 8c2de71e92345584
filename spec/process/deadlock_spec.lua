-- Requests that could never be granted, because those who wait for each other's locks form a cycle.
local memory = require "clustermem"
local task = require "clustermem.task"
local clusters = require "clusters"
local steps = require "keysteps"
local locksteps = require "locksteps"

local code, done = steps.code, steps.done
local name, taken, isFree = locksteps.name, locksteps.taken, locksteps.isFree
local waitForQueue, waitUntil = locksteps.waitForQueue, locksteps.waitUntil

-- The message of a deadlock.
local function refused(...)
  assert.equal("deadlock", code(...))
  return (select(2, ...))
end

local function has(message, ...)
  for _, words in ipairs { ... } do assert.truthy(message:find(words, 1, true), message) end
end

local function ownerOf(key)
  local info = memory.lockInfo(key)
  return ("task %d of process 0"):format(info.task)
end

-- Tasks that each take a lock and then, when it is told to, the other one; "held", and the results of the second.
local function take(first, second, options)
  local party = {}
  party.task = task.spawn(function()
    local id = taken(memory.getLock(first, options))
    party.held = true
    waitUntil("the word to go on", function() return party.go end)
    party.packed = table.pack(memory.getLock(second, options))
    if party.packed[1] then done(memory.releaseLock(second, party.packed[1])) end
    waitUntil("the word to release", function() return party.releases or party.packed[1] end)
    done(memory.releaseLock(first, id))
  end)
  waitUntil("the first lock", function() return party.held end)
  return party
end

describe("a request that could never be granted fails at once with deadlock:", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("a task's own lock, whether it has a lease or a timeout or not", function()
    local key = name()
    local id = taken(memory.getLock(key, { lease = 600000 }))
    local own = ownerOf(key)
    for _, options in ipairs { {}, { timeout = 600000 }, { fair = true }, { lease = 600000 } } do
      local message = refused(memory.getLock(key, options))
      assert.equal(("%s would wait for '%s', held by %s"):format(own, key, own), message)
    end
    refused(memory.mutex(key, error))
    assert.equal(0, memory.lockInfo(key).waiting)
    done(memory.releaseLock(key, id))
    isFree(key)
  end)

  it("two tasks of one process, and the other goes on when the one that was refused gives up", function()
    for _, options in ipairs { {}, { fair = true }, { lease = 600000 }, { timeout = 600000 } } do
      local a, b = name(), name()
      local one, two = take(a, b, options), take(b, a, options)
      local first, second = ownerOf(a), ownerOf(b)
      one.go = true
      waitForQueue(b, 1)
      two.go = true
      waitUntil("the refusal", function() return two.packed end)
      assert.equal(("%s would wait for '%s', held by %s, which waits for '%s', held by %s"):format(second, a, first, b,
        second), refused(table.unpack(two.packed)))
      assert.is_nil(one.packed)
      assert.equal(1, memory.lockInfo(b).waiting)
      two.releases = true
      task.all { function() task.join(one.task) end, function() task.join(two.task) end }
      taken(table.unpack(one.packed))
      isFree(a)
      isFree(b)
    end
  end)

  it("three tasks, nested in mutexes, of which the last gets nil and the others their results", function()
    local a, b, c = name(), name(), name()
    local inside, results = 0, {}
    local function nest(i, outer, inner)
      return function()
        results[i] = table.pack(memory.mutex(outer, function()
          inside = inside + 1
          waitUntil("all three", function() return inside == 3 end)
          for earlier = 1, i - 1 do waitForQueue(({ b, c, a })[earlier], 1) end
          return memory.mutex(inner, function() return "both" end)
        end))
      end
    end
    task.all { nest(1, a, b), nest(2, b, c), nest(3, c, a) }
    assert.same({ "both", n = 1 }, results[1])
    assert.same({ "both", n = 1 }, results[2])
    has(refused(table.unpack(results[3])), "'" .. a .. "', held by", "'" .. b .. "', held by", "'" .. c .. "', held by")
    for _, key in ipairs { a, b, c } do isFree(key) end
  end)

  it("one that is made in the script's own coroutine", function()
    local key = name()
    local id = taken(memory.getLock(key))
    refused(coroutine.wrap(function() return memory.getLock(key) end)())
    done(memory.releaseLock(key, id))
  end)

  it("keys are shown as they are, as far as they can be", function()
    for key, shown in pairs {
      ["plain key"] = "'plain key'", ["a\0\n\xff%s"] = [['a\x00\x0a\xff%s']],
      [("k"):rep(65535)] = "'" .. ("k"):rep(40) .. "...'",
    } do
      local id = taken(memory.getLock(key))
      has(refused(memory.getLock(key)), "would wait for " .. shown .. ", held by")
      done(memory.releaseLock(key, id))
    end
  end)

  it("a cycle that is longer than a message can be", function()
    local keys, results = {}, {}
    for i = 1, 60 do keys[i] = name() .. ("x"):rep(100) end
    local held = 0
    local tasks = {}
    for i = 1, 60 do
      tasks[i] = task.spawn(function()
        memory.mutex(keys[i], function()
          held = held + 1
          waitUntil("all of them", function() return held == 60 end)
          if i == 60 then for j = 1, 59 do waitForQueue(keys[j + 1], 1) end end
          results[i] = table.pack(memory.mutex(keys[i % 60 + 1], function() return "both" end))
        end)
      end)
    end
    for _, one in ipairs(tasks) do task.join(one) end
    has(refused(table.unpack(results[60])), "task " .. tasks[60].id .. " of process 0 would wait for")
    for i = 1, 59 do assert.same({ "both", n = 1 }, results[i]) end
  end)

  it("two workers, and process 0 with them, by the names of their keys, tasks and workers", function()
    local c = clusters.run {
      workers = 2,
      boot = locksteps.prelude .. [[
        task.spawn(function()
          memory.mutex("zero", function()
            memory.set("held0", memory.lockInfo("zero").task)
            waitUntil(function() return memory.get "held1" and memory.get "held2" end)
            print("zero", memory.mutex("one", function() return "both" end))
          end)
        end)
      ]],
      app = locksteps.prelude .. [[
        local slot = cluster.worker.slot
        task.join(task.spawn(function()
          if slot == 1 then
            memory.mutex("one", function()
              memory.set("held1", memory.lockInfo("one").task)
              waitForQueue("one", 1)
              print("one", memory.mutex("two", function() return "both" end))
            end)
          else
            memory.mutex("two", function()
              memory.set("held2", memory.lockInfo("two").task)
              waitForQueue("two", 1)
              local id, message, code = memory.getLock("zero")
              assert(id == nil and code == "deadlock")
              assert(memory.lockInfo("two").waiting == 1 and memory.lockInfo("one").waiting == 1)
              print("two", message)
            end)
            assert(cluster.worker.id == 2)
          end
          memory.increment "done"
        end))
        if slot == 2 then
          print(("ids %d %d %d"):format(memory.get "held0", memory.get "held1", memory.get "held2"))
        end
      ]],
    }
    assert.equal(0, c.code, c.err)
    local zero, one, two = c.out:match("ids (%d+) (%d+) (%d+)\n")
    assert.matches("^two\t", c.out)
    has(c.out, ("two\ttask %s of worker 2 would wait for 'zero', held by task %s of process 0, which waits for 'one', "
      .. "held by task %s of worker 1, which waits for 'two', held by task %s of worker 2\n")
      :format(two, zero, one, two))
    has(c.out, "one\tboth\n", "zero\tboth\n")
  end)
end)

describe("no deadlock is", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("a chain without an end in itself", function()
    local keys = {}
    for i = 1, 5 do keys[i] = name() end
    local first = taken(memory.getLock(keys[1]))
    local fns, order = {}, {}
    for i = 2, 5 do
      fns[#fns + 1] = function()
        memory.mutex(keys[i], function()
          waitUntil("its turn", function() return i == 2 or (memory.lockInfo(keys[i - 2]) or {}).waiting == 1 end)
          return memory.mutex(keys[i - 1], function() order[#order + 1] = i end)
        end)
      end
    end
    fns[#fns + 1] = function()
      waitForQueue(keys[4], 1)
      done(memory.releaseLock(keys[1], first))
    end
    task.all(fns)
    assert.equal(4, #order)
    for _, key in ipairs(keys) do isFree(key) end
  end)

  it("tryLock, or a timeout of 0: that is busy", function()
    local a, b = name(), name()
    local party = take(a, b)
    local id = taken(memory.getLock(b))
    party.go = true
    waitForQueue(b, 1)
    assert.equal("busy", code(memory.tryLock(a)))
    assert.equal("busy", code(memory.getLock(a, { timeout = 0 })))
    assert.equal("busy", code(memory.tryLock(b)))
    done(memory.releaseLock(b, id))
    task.join(party.task)
  end)

  it("a request with a callback, which belongs to no task, and neither does a lock that it took", function()
    local a, b = name(), name()
    local id = taken(memory.getLock(a))
    local second
    memory.getLock(a, function(given) second = given end)
    waitForQueue(a, 1)
    done(memory.releaseLock(a, id))
    waitUntil("the callback", function() return second end)
    assert.is_nil(memory.lockInfo(a).task)
    -- Anybody could release it, also while all tasks wait.
    local results = table.pack(memory.getLock(a, { timeout = 5 }))
    assert.equal("timeout", code(table.unpack(results, 1, results.n)))
    -- Nor is it one between two that wait for each other, when one of them waits with a callback.
    local party = take(b, a)
    party.go = true
    waitForQueue(a, 1)
    local third
    memory.getLock(b, function(given) third = given end)
    waitForQueue(b, 1)
    done(memory.releaseLock(a, second))
    task.join(party.task)
    waitUntil("the callback", function() return third end)
    done(memory.releaseLock(b, third))
    isFree(a)
    isFree(b)
  end)

  it("a request of another task of the same process", function()
    local key = name()
    local id = taken(memory.getLock(key))
    local other = task.spawn(memory.getLock, key)
    waitForQueue(key, 1)
    done(memory.releaseLock(key, id))
    done(memory.releaseLock(key, taken(task.join(other))))
  end)

  it("what was one, after a timeout or a foreign release has opened the cycle", function()
    local a, b = name(), name()
    local one = take(a, b)
    local id = taken(memory.getLock(b))
    one.go = true
    waitForQueue(b, 1)
    refused(memory.getLock(a))
    -- Who has the lockId releases the lock of the one that waits.
    local two = task.spawn(function() return memory.getLock(a) end)
    waitForQueue(a, 1)
    done(memory.releaseLock(b, id))
    task.join(one.task)
    done(memory.releaseLock(a, taken(task.join(two))))

    id = taken(memory.getLock(b))
    local over
    local impatient = task.spawn(function()
      return memory.mutex(a, function()
        repeat
          local results = table.pack(memory.getLock(b, { timeout = 20 }))
          assert.equal("timeout", code(table.unpack(results, 1, results.n)))
        until over
        return "gave up"
      end)
    end)
    waitUntil("its first lock", function() return memory.lockInfo(a) end)
    waitUntil("the cycle", function() return select(3, memory.getLock(a, { timeout = 1 })) == "deadlock" end)
    over = true
    assert.equal("gave up", task.join(impatient))
    done(memory.releaseLock(a, taken(memory.getLock(a))))
    done(memory.releaseLock(b, id))
  end)
end)

describe("tasks of several workers that take locks in any order, without a timeout,", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("never come to a standstill, because each cycle has one that is refused", function()
    local c = clusters.run {
      workers = 3, limit = 80000,
      app = [[
        local TASKS, ROUNDS, KEYS = 3, 60, 5
        local refusals = 0
        local fns = {}
        for t = 1, TASKS do
          fns[t] = function()
            for _ = 1, ROUNDS do
              local names = {}
              for i = 1, 3 do
                repeat names[i] = "k" .. math.random(KEYS) until names[i] ~= names[i - 1] and names[i] ~= names[i - 2]
              end
              local function nest(i)
                if i > 3 then
                  for _, name in ipairs(names) do memory.set(name, (memory.get(name) or 0) + 1) end
                  return "all"
                end
                task.sleep(0)
                return memory.mutex(names[i], function() return nest(i + 1) end)
              end
              repeat
                local result, _, code = nest(1)
                assert(result == "all" or code == "deadlock", code)
                if not result then refusals = refusals + 1 end
              until result
            end
          end
        end
        task.all(fns)
        memory.increment("refusals", refusals)
        memory.increment "done"
        while memory.get "done" < 3 do task.sleep(1) end
        local sum = 0
        for i = 1, KEYS do sum = sum + memory.get("k" .. i) end
        assert(sum == 3 * 3 * TASKS * ROUNDS, sum)
        assert(memory.get "refusals" > 0, "there was no cycle")
        print "done"
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal(("done\n"):rep(3), c.out)
  end)
end)
