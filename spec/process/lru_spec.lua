local clusters = require "clusters"

-- In front of scripts: `meet(name)` returns when all workers are there.
local meeting = [[
  local WORKERS = 4
  local function meet(name)
    memory.increment("meet:" .. name)
    while memory.get("meet:" .. name) < WORKERS do task.sleep(1) end
  end
]]

-- Runs the boot script, if there is one, and then the app script in so many workers; all must exit with 0.
local function run(workers, app, boot, ...)
  local c = clusters.run { workers = workers, app = app and meeting:gsub("4", tostring(workers), 1) .. app,
    boot = boot, "--restart", "never", ... }
  assert.equal(0, c.code, c.err)
  return c
end

describe("the cache", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("gives copies of everything that is data, under keys of any bytes", function()
    assert.equal("ok\n", run(1, [[
      local value = { 1, 2.5, "x\0y", { deep = { true, null } }, [-3] = 2^53 + 1 }
      for _, key in ipairs { "k", "\0", ("long"):rep(16000), "\xff\xfe" } do
        assert(memory.setLRU(key, value) == "OK")
        local copy = memory.getLRU(key)
        assert(copy ~= value and copy[2] == 2.5 and copy[3] == "x\0y" and copy[-3] == 2^53 + 1)
        assert(copy[4].deep[1] == true and copy[4].deep[2] == null)
        copy[1] = "changed"
        assert(memory.getLRU(key)[1] == 1)
      end
      for _, scalar in ipairs { 10, -0.5, math.mininteger, true, false, "", null, ("big"):rep(1000000) } do
        assert(memory.setLRU("k", scalar) == "OK")
        assert(memory.getLRU("k") == scalar and math.type(memory.getLRU("k")) == math.type(scalar))
      end
      assert(memory.getLRU("nothing") == nil and select("#", memory.getLRU("nothing")) == 1)
      print "ok"
    ]]).out)
  end)

  it("is a name space of its own, under the same memory", function()
    assert.equal("ok\n", run(1, [[
      memory.set("k", "plain")
      local before = memory.stats()
      memory.setLRU("k", "cached")
      memory.setLRU("other", ("x"):rep(1000))
      assert(memory.get("k") == "plain" and memory.getLRU("k") == "cached" and not memory.has("other"))
      assert(memory.count() == 1 and #memory.keys() == 1 and memory.keys()[1] == "k")
      local stats, cache = memory.stats(), memory.getLRUStats()
      assert(stats.entries == 1 and stats.used == before.used + cache.bytes and cache.entries == 2)
      assert(memory.clear() == 1 and memory.getLRU("k") == "cached" and memory.get("k") == nil)
      assert(memory.removeLRU("k") == "OK" and memory.getLRU("k") == nil and memory.removeLRU("k") == "OK")
      assert(memory.clearLRU() == "OK" and memory.getLRU("other") == nil)
      assert(memory.getLRUStats().entries == 0 and memory.getLRUStats().bytes == 0 and memory.stats().used == 0)
      print "ok"
    ]]).out)
  end)

  it("has 10,000 entries by default, and gives up the one that was used least recently", function()
    assert.equal("ok\n", run(1, [[
      for i = 1, 10000 do memory.setLRU("k" .. i, i) end
      assert(memory.getLRU("k1") == 1)
      memory.setLRU("k3", "again")
      memory.setLRU("new", 1)
      memory.setLRU("newer", 1)
      assert(memory.getLRU("k1") == 1 and memory.getLRU("k2") == nil)
      assert(memory.getLRU("k3") == "again" and memory.getLRU("k4") == nil and memory.getLRU("k5") == 5)
      local stats = memory.getLRUStats()
      assert(stats.entries == 10000 and stats.evictions == 2 and stats.hits == 4 and stats.misses == 2)
      print "ok"
    ]]).out)
  end)

  it("keeps the order exactly, whichever worker uses what", function()
    -- All follow the same list of operations, each does its own, and what comes out is what one process would get.
    local c = run(4, [[
      math.randomseed(7)
      local used, count, clock = {}, 0, 0
      memory.increment("turn", 0)
      for turn = 0, 499 do
        local key, gets, who = "k" .. math.random(60), math.random(3) > 1, math.random(WORKERS)
        local mine = who == cluster.worker.slot
        while mine and memory.get("turn") < turn do task.sleep(0) end
        local there = used[key] ~= nil
        if gets then
          if mine then assert((memory.getLRU(key) ~= nil) == there, turn) end
        else
          if mine then assert(memory.setLRU(key, turn)) end
          if not there and count == 20 then
            local oldest
            for other in pairs(used) do
              if not oldest or used[other] < used[oldest] then oldest = other end
            end
            used[oldest], count = nil, count - 1
          end
          count = count + (there and 0 or 1)
        end
        if there or not gets then used[key] = turn end
        if mine then memory.set("turn", turn + 1) end
      end
      print "ok"
    ]], nil, "--lru-max", "20")
    assert.equal(4, c:count("ok\n"))
  end)

  it("counts the age from setLRU, to the millisecond", function()
    assert.equal("ok\n", run(1, [[
      local function now() return uv.hrtime() // 1000000 end
      for _ = 1, 5 do
        local before = now()
        memory.setLRU("k", 1, { maxAge = 30 })
        local after = now()
        repeat
          local start, value = now(), memory.getLRU("k")
          if value then assert(start - after < 30, "it lives too long") end
          if not value then assert(now() - before >= 30, "it died too soon") end
        until not value
      end
      memory.setLRU("k", 1, { maxAge = 0 })
      memory.setLRU("short", 1, { maxAge = 1 })
      memory.setLRU("short2", 1, { maxAge = 20 })
      local before = memory.getLRUStats()
      while memory.getLRUStats().entries > 1 do task.sleep(1) end -- the sweep has found them
      assert(memory.getLRUStats().expirations == before.expirations + 2 and memory.getLRU("k") == 1)
      print "ok"
    ]]).out)
  end)

  it("takes its bounds from the command line", function()
    assert.equal("ok\n", run(1, [[
      local start = uv.hrtime()
      for i = 1, 4 do memory.setLRU(tostring(i), i) end
      assert(memory.getLRUStats().entries == 3)
      memory.setLRU("long", 1, { maxAge = 60000 })
      while memory.getLRU("4") do end
      assert(uv.hrtime() - start >= 39000000 and memory.getLRU("long") == 1)
      print "ok"
    ]], nil, "--lru-max", "3", "--lru-max-age", "40").out)
    assert.equal("ok\n", run(1, [[
      for i = 1, 300 do memory.setLRU(tostring(i), i) end
      local entries = memory.getLRUStats().entries
      assert(entries > 50 and entries < 300, entries) -- as many as there is room for
      print "ok"
    ]], nil, "--lru-max", "0", "--memory", "1M").out)
  end)

  it("takes values of every kind and size when it is full, and goes on behind one that is refused", function()
    assert.equal("ok\n", run(1, [[
      local function value(i) return i % 7 == 0 and { i } or i % 5 == 0 and i or ("x"):rep(i % 3 * 40) end
      local function holds(i)
        local found = memory.getLRU("k" .. i)
        return i % 7 == 0 and found[1] == i or found == value(i)
      end
      for i = 1, 500 do
        assert(memory.setLRU("k" .. i, value(i)) == "OK")
        if i % 50 == 0 then
          local ok, message, code = memory.setLRU("large", ("x"):rep(2000000))
          assert(ok == nil and #message > 0 and code == "toolarge" and memory.getLRU("large") == nil)
        end
        for j = math.max(1, i - 3), i do assert(holds(j), j) end
        assert(memory.getLRU("k" .. i - 5) == nil)
      end
      assert(memory.getLRUStats().entries == 5)
      print "ok"
    ]], nil, "--lru-max", "5", "--max-value", "1M").out)
  end)

  it("says in a line where the memory is too small for --lru-max", function()
    local c = clusters.run { "--lru-max", "100000", "--memory", "64M", app = "print 'ran'" }
    assert.equal(1, c.code)
    assert.equal("", c.out)
    assert.matches("^[^\n]*error [^\n]*%-%-lru%-max is 100000[^\n]*room for 8192[^\n]*\n$", c.err)
    for _, value in ipairs { "x", "-1", "1.5", "99999999999" } do
      for _, option in ipairs { "--lru-max", "--lru-max-age" } do
        local refused = clusters.run { option, value, app = "print 'ran'" }
        assert.equal(2, refused.code)
        assert.truthy(refused.err:find(option .. " takes ", 1, true) and refused.err:find("'" .. value .. "'", 1, true))
      end
    end
  end)
end)

describe("setLRUOptions", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is the master script's, and starts a new, empty cache for all", function()
    local c = run(2, [[
      local ok, message = pcall(memory.setLRUOptions, { max = 5 })
      assert(not ok and message:find("app.lua:%d+: setLRUOptions: only the master"), message)
      assert(memory.getLRU("before") == nil)
      memory.setLRU(cluster.worker.slot .. "a", 1)
      memory.setLRU(cluster.worker.slot .. "b", 1)
      meet "set"
      assert(memory.getLRUStats().entries == 3 and memory.getLRUStats().evictions == 1)
      print "ok"
    ]], [[
      memory.setLRU("before", 1)
      assert(memory.getLRU("before") and not memory.getLRU("x"))
      assert(memory.setLRUOptions { max = 3 } == "OK")
      assert(memory.getLRU("before") == nil)
      local stats = memory.getLRUStats()
      assert(stats.entries == 0 and stats.bytes == 0 and stats.hits == 0 and stats.misses == 1 and stats.evictions == 0)
      memory.setLRUOptions({ max = 3 }, function(ok) print("called back", ok) end)
    ]])
    assert.equal(2, c:count("ok\n"))
    assert.equal(1, c:count("called back\tOK\n"))
  end)

  it("refuses what it does not know, naming the choices, and what makes no sense", function()
    local c = run(0, nil, [[
      local function refused(options, pattern)
        memory.setLRU("k", 1)
        local ok, message = pcall(memory.setLRUOptions, options)
        assert(not ok and message:find("^[^\n]*boot.lua:%d+: setLRUOptions: ") and message:find(pattern), message)
        assert(memory.getLRU("k") == 1, "it has begun a new one")
      end
      refused({ maximum = 5 }, "unknown option 'maximum' %(there are max, maxAge, maxBytes, updateAgeOnGet, stale%)")
      refused(nil, "table")
      refused({ max = -1 }, "max must be an integer from 0")
      refused({ max = 1.5 }, "max must be an integer from 0")
      refused({ max = "many" }, "max must be an integer from 0")
      refused({ max = 1 << 40 }, "max must be at most %d+ with this %-%-memory, not 1099511627776")
      refused({ maxAge = -1 }, "maxAge must be a number of milliseconds")
      refused({ maxAge = 1 << 32 }, "maxAge must be at most 4294967295")
      refused({ maxBytes = -1 }, "maxBytes must be an integer from 0")
      refused({ stale = 1 }, "stale must be a boolean")
      refused({ updateAgeOnGet = "no" }, "updateAgeOnGet must be a boolean")
      assert(not pcall(memory.setLRU, "k", 1, { ttl = 5 }))
      assert(select(2, pcall(memory.setLRU, "k", 1, { ttl = 5 })):find("unknown option 'ttl' %(there are maxAge%)"))
      assert(not pcall(memory.setLRU, "k", 1, { maxAge = -5 }) and not pcall(memory.setLRU, "k", nil))
      assert(not pcall(memory.setLRU, "", 1) and not pcall(memory.getLRU) and not pcall(memory.removeLRU, 5))
      assert(not pcall(memory.setLRU, "k", print))
      print "ok"
    ]])
    assert.equal("ok\n", c.out)
  end)

  it("bounds the bytes, of which one entry alone may not have more", function()
    assert.equal("ok\n", run(0, nil, [[
      memory.setLRUOptions { maxBytes = 5000, max = 0 }
      for i = 1, 50 do
        memory.setLRU("k" .. i, ("x"):rep(i * 40))
        assert(memory.getLRUStats().bytes <= 5000)
      end
      assert(memory.getLRU("k50") and memory.getLRU("k49") and not memory.getLRU("k40"))
      local ok, message, code = memory.setLRU("k50", ("x"):rep(5000))
      assert(ok == nil and #message > 0 and code == "toolarge" and #memory.getLRU("k50") == 2000)
      print "ok"
    ]]).out)
  end)

  it("has a hit begin the age anew with updateAgeOnGet", function()
    assert.equal("ok\n", run(0, nil, [[
      memory.setLRUOptions { maxAge = 200, updateAgeOnGet = true }
      memory.setLRU("used", 1)
      memory.setLRU("own", 1, { maxAge = 300 })
      memory.setLRU("unused", 1)
      local start = uv.hrtime()
      while uv.hrtime() - start < 1000000000 do
        assert(memory.getLRU("used") == 1 and memory.getLRU("own") == 1)
        task.sleep(5)
      end
      assert(memory.getLRU("unused") == nil and memory.getLRUStats().entries == 2)
      start = uv.hrtime()
      while memory.getLRUStats().entries > 0 do task.sleep(5) end
      assert(uv.hrtime() - start >= 290000000)
      print "ok"
    ]]).out)
  end)

  it("has an expired entry given out once with stale, to one of all the workers", function()
    local c = run(4, [[
      meet "start"
      for round = 1, 50 do
        local key = "k" .. round
        if cluster.worker.slot == 1 then memory.setLRU(key, round, { maxAge = 2 }) end
        meet(key)
        local start = uv.hrtime()
        while uv.hrtime() - start < 3000000 do end
        if memory.getLRU(key) then memory.increment "given" end
        meet("after" .. key)
        assert(memory.getLRU(key) == nil)
      end
      meet "end"
      if cluster.worker.slot == 1 then print(memory.get "given", memory.getLRUStats().expirations) end
    ]], "memory.setLRUOptions { stale = true }")
    assert.equal("50\t50\n", c.out)
  end)
end)

describe("a cache in a full memory", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("gives up its oldest entries before a set fails, and keeps the others", function()
    assert.equal("ok\n", run(1, [[
      for i = 1, 80 do assert(memory.setLRU("k" .. i, ("x"):rep(5000))) end
      local before = memory.getLRUStats().entries
      assert(before == 80)
      memory.getLRU "k1"
      local stored = 0
      while memory.getLRUStats().evictions < 20 do
        assert(memory.set("plain" .. stored, ("y"):rep(5000)))
        stored = stored + 1
      end
      assert(memory.getLRU "k1" and not memory.getLRU "k2" and memory.getLRU "k80")
      for i = 0, stored - 1 do assert(memory.get("plain" .. i) == ("y"):rep(5000)) end
      -- What would not fit in the place of all of it takes nothing of it.
      local entries = memory.getLRUStats().entries
      assert(select(3, memory.set("huge", ("z"):rep(2000000))) == "nomemory")
      assert(memory.getLRUStats().entries == entries)
      -- A write that goes to the master and those behind it stay in order.
      for round = 1, 30 do
        local done = 0
        local function count() done = done + 1 end
        memory.setLRU("order", ("a"):rep(9000), count)
        memory.setLRU("order", "last", count)
        memory.setLRU("gone", 1, count)
        memory.removeLRU("gone", count)
        while done < 4 do task.sleep(1) end
        assert(memory.getLRU "order" == "last" and memory.getLRU "gone" == nil)
      end
      -- Until there is nothing left whose place would be enough.
      while memory.set("plain" .. stored, ("y"):rep(5000)) do stored = stored + 1 end
      assert(memory.getLRUStats().bytes < 5000 and memory.getLRU "order" == "last")
      local ok, _, code = memory.setLRU("k", ("x"):rep(50000))
      assert(ok == nil and code == "nomemory")
      memory.clear()
      assert(memory.setLRU("k", ("x"):rep(50000)) == "OK" and #memory.getLRU("k") == 50000)
      print "ok"
    ]], nil, "--memory", "1M").out)
  end)
end)

describe("what writes to the cache", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("calls back, and outside a task without a callback it raises", function()
    assert.equal("OK OK OK 1\nok\n", run(1, [[
      local results = {}
      memory.setLRU("a", 1, function(ok) results[1] = ok end)
      memory.setLRU("b", 1, { maxAge = 60000 }, function(ok) results[2] = ok end)
      memory.removeLRU("a", function(ok) results[3] = ok results[4] = memory.getLRUStats().entries end)
      while #results < 4 do task.sleep(1) end
      print(table.concat(results, " "))
      local calls = {
        setLRU = function() return memory.setLRU("k", 1) end,
        removeLRU = function() return memory.removeLRU("b") end,
        clearLRU = function() return memory.clearLRU() end,
      }
      for name, call in pairs(calls) do
        table.sort({ 1, 2 }, function()
          local ok, message = pcall(call)
          assert(not ok and message:find(name, 1, true), name)
          assert(memory.getLRU("b") == 1 and not memory.getLRU("k")) -- reads work anywhere
          return false
        end)
      end
      memory.clearLRU(function(ok) print(ok == "OK" and memory.getLRUStats().entries == 0 and "ok") end)
    ]]).out)
  end)
end)

describe("several workers in one cache", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("never exceed its bounds, and their counts add up", function()
    local c = run(4, [[
      meet "start"
      math.randomseed(cluster.worker.slot)
      local gets, hits = 0, 0
      for i = 1, 20000 do
        local n = math.random(2) == 1 and math.random(100) or math.random(2000)
        local value = memory.getLRU("k" .. n)
        gets, hits = gets + 1, hits + (value and 1 or 0)
        if value then assert(value.n == n) else assert(memory.setLRU("k" .. n, { n = n, fill = ("x"):rep(n) })) end
        if i % 100 == 0 then
          local stats = memory.getLRUStats()
          assert(stats.entries <= 300 and stats.bytes <= 200000)
        end
      end
      memory.increment("gets", gets)
      memory.increment("hits", hits)
      meet "end"
      local stats = memory.getLRUStats()
      assert(stats.hits == memory.get("hits") and stats.hits + stats.misses == memory.get("gets"))
      assert(stats.expirations == 0 and stats.evictions > 0)
      print "ok"
    ]], "memory.setLRUOptions { max = 300, maxBytes = 200000 }")
    assert.equal(4, c:count("ok\n"))
  end)

  it("go on with it when some of them are killed in the midst", function()
    local c = clusters.run { workers = 2, "--restart", "never", app = [[
      -- Here to use it, and to see that it stays right, while others die.
      memory.increment "ready"
      while not memory.get "over" do
        for i = 1, 200 do
          local n = math.random(400)
          local value = memory.getLRU("k" .. n)
          assert(value == nil or value.n == n)
          if not value then assert(memory.setLRU("k" .. n, { n = n })) end
        end
        local stats = memory.getLRUStats()
        assert(stats.entries <= 100 and stats.bytes <= 100 * 200)
        task.sleep(0)
      end
      print "ok"
    ]], boot = [[
      memory.setLRUOptions { max = 100 }
      task.spawn(function()
        while (memory.get "ready" or 0) < 2 do task.sleep(1) end
        for round = 1, 40 do
          local worker = assert(cluster.fork { script = "victim.lua" })
          local key = "victim" .. round
          while not memory.get("at" .. worker.id) do task.sleep(1) end
          task.sleep(round % 7)
          uv.kill(worker.pid, "sigkill")
        end
        memory.set("over", true)
      end)
    ]], files = { ["victim.lua"] = [[
      local memory, cluster = require "clustermem", require "clustermem.cluster"
      memory.set("at" .. cluster.worker.id, true)
      while true do
        local n = math.random(400)
        if not memory.getLRU("k" .. n) then memory.setLRU("k" .. n, { n = n }) end
      end
    ]] } }
    assert.equal(1, c.code, c.err) -- the killed ones have failed
    assert.equal(2, c:count("ok\n"))
  end)
end)

describe("fetchLRU", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("runs the function once for 200 tasks on 4 workers, and all get what it gave", function()
    local c = run(4, [[
      meet "start"
      local tasks = {}
      for i = 1, 50 do
        tasks[i] = task.spawn(function()
          local value = memory.fetchLRU("page", function()
            memory.increment "runs"
            task.sleep(20)
            return { "made", by = cluster.worker.id }
          end)
          assert(value[1] == "made")
          memory.increment("by" .. value.by)
        end)
      end
      for _, t in ipairs(tasks) do task.join(t) end
      meet "end"
      assert(memory.get "runs" == 1)
      local given = 0
      for id = 1, 4 do given = given + (memory.get("by" .. id) or 0) end
      assert(given == 200)
      assert(memory.lockInfo "clustermem.fetchLRU:page" == nil)
      print "ok"
    ]])
    assert.equal(4, c:count("ok\n"))
  end)

  it("gives what is cached, and runs the function where it has gone", function()
    assert.equal("ok\n", run(1, [[
      local runs = 0
      local function fn() runs = runs + 1 return runs end
      assert(memory.fetchLRU("k", fn) == 1 and memory.fetchLRU("k", fn) == 1 and memory.getLRU("k") == 1)
      memory.removeLRU("k")
      assert(memory.fetchLRU("k", fn, { maxAge = 20 }) == 2)
      while memory.getLRU("k") do task.sleep(1) end
      assert(memory.fetchLRU("k", fn) == 3)
      memory.setLRU("no", false)
      assert(memory.fetchLRU("no", fn) == false and runs == 3)
      local long = ("k"):rep(65535)
      assert(memory.fetchLRU(long, fn) == 4 and memory.getLRU(long) == 4)
      print(task.await(function(resume) memory.fetchLRU("back", fn, resume) end) == 5
        and task.await(function(resume) memory.fetchLRU("back", fn, {}, resume) end) == 5 and "ok")
    ]]).out)
  end)

  it("does not cache nil, a failure, or what the cache refuses, and gives them to the caller", function()
    assert.equal("ok\n", run(1, [[
      local runs = 0
      for i = 1, 2 do
        local value, message, code = memory.fetchLRU("k", function() runs = runs + 1 return nil, "gone", "notfound" end)
        assert(value == nil and message == "gone" and code == "notfound" and runs == i)
        assert(memory.fetchLRU("none", function() return nil end) == nil)
        local large = memory.fetchLRU("large", function() return ("x"):rep(5000) end)
        assert(#large == 5000 and memory.getLRU("large") == nil)
      end
      print "ok"
    ]], "memory.setLRUOptions { maxBytes = 2000 }").out)
  end)

  it("lets an error reach its caller, and the next one who waits runs its function", function()
    local c = run(2, [[
      meet "start"
      if cluster.worker.slot == 1 then
        local ok, raised = pcall(memory.fetchLRU, "k", function()
          memory.set("running", true)
          while (memory.lockInfo "clustermem.fetchLRU:k").waiting < 2 do task.sleep(1) end
          error({ "mine" })
        end)
        assert(not ok and raised[1] == "mine")
        meet "end"
      else
        while not memory.get "running" do task.sleep(1) end
        local function second() return memory.fetchLRU("k", function() memory.increment "runs" return "second" end) end
        local other = task.spawn(function() assert(second() == "second") end)
        assert(second() == "second")
        task.join(other)
        assert(memory.get "runs" == 1)
        meet "end"
      end
      print "ok"
    ]])
    assert.equal(2, c:count("ok\n"))
  end)

  it("goes on when the process that runs the function is killed", function()
    local c = clusters.run { workers = 1, "--restart", "never", boot = [[
      local worker = cluster.fork { script = "victim.lua" }
      while not memory.get "running" do task.sleep(1) end
      task.spawn(function()
        assert(memory.fetchLRU("k", function() return "second" end) == "second")
        print "ok"
      end)
      while (memory.lockInfo "clustermem.fetchLRU:k").waiting < 1 do task.sleep(1) end
      uv.kill(worker.pid, "sigkill")
    ]], app = "", files = { ["victim.lua"] = [[
      local memory, task = require "clustermem", require "clustermem.task"
      memory.fetchLRU("k", function()
        memory.set("running", true)
        task.sleep(60000)
      end)
    ]] } }
    assert.equal("ok\n", c.out, c.err)
  end)

  it("says so where the function waits for its own result, and refuses what it does not know", function()
    assert.equal("ok\n", run(1, [[
      local value, _, code = memory.fetchLRU("k", function()
        local inner, message, word = memory.fetchLRU("k", function() return 1 end)
        assert(inner == nil and #message > 0 and word == "deadlock")
        return inner, message, word
      end)
      assert(value == nil and code == "deadlock")
      for _, options in ipairs { { ttl = 1 }, { maxAge = -1 }, { maxAge = 1 << 40 }, 5 } do
        local ok, message = pcall(memory.fetchLRU, "k", print, options)
        assert(not ok and message:find("fetchLRU: "), message)
      end
      assert(not pcall(memory.fetchLRU, "k") and not pcall(memory.fetchLRU, "", print))
      print "ok"
    ]]).out)
  end)
end)
