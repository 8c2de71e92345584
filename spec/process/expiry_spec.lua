local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local null = require("cjson").null
local clusters = require "clusters"
local steps = require "keysteps"

local called, spend, code, absent, done = steps.called, steps.spend, steps.code, steps.absent, steps.done
local put, raises, prepare = steps.put, steps.raises, steps.prepare

describe("has, ttl, expire and persist", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("has tells whether there is an entry", function()
    assert.same({ false, n = 1 }, table.pack(memory.has("k")))
    for _, value in ipairs { 1, false, null } do
      put("k", value)
      assert.same({ true, n = 1 }, table.pack(memory.has("k")))
    end
    put("k", 1, { ttl = 60000 })
    assert.is_true((memory.has("k")))
    memory.remove("k")
    assert.is_false((memory.has("k")))
  end)

  it("ttl gives the time left, and nil without one", function()
    absent(memory.ttl("k"))
    put("k", 1)
    absent(memory.ttl("k"))
    local before = uv.hrtime()
    put("k", 1, { ttl = 5000 })
    local after = uv.hrtime()
    for _ = 1, 20 do
      task.sleep(2)
      local asked = uv.hrtime()
      local left = memory.ttl("k")
      local answered = uv.hrtime()
      assert.equal("integer", math.type(left))
      assert.is_true(left <= 5000 - (asked - after) / 1e6 + 1)
      assert.is_true(left >= 5000 - (answered - before) / 1e6 - 1)
    end
  end)

  it("ttl is at least 1", function()
    for _ = 1, 20 do
      put("k", 1, { ttl = 3 })
      repeat
        local left = memory.ttl("k")
        assert.is_true(left == nil or left >= 1 and left <= 3)
      until not left
    end
  end)

  it("expire gives a new ttl, 0 for ever, and leaves the rest", function()
    local version = put("k", { 1 })
    done(memory.expire("k", 60000))
    assert.is_true(memory.ttl("k") > 50000)
    done(memory.expire("k", 200000))
    assert.is_true(memory.ttl("k") > 190000)
    done(memory.expire("k", 30000.5)) -- rounded up
    assert.is_true(memory.ttl("k") <= 30001)
    done(memory.expire("k", 0))
    absent(memory.ttl("k"))
    assert.same({ { 1 }, version }, { memory.getVersioned("k") })
    done(memory.expire("k", 1))
    spend(2)
    assert.is_false(memory.has("k"))
  end)

  it("persist takes the ttl away, and leaves the rest", function()
    local version
    repeat version = put("k", { 1 }, { ttl = 20 }) until memory.persist("k") == "OK" -- in time
    absent(memory.ttl("k"))
    done(memory.persist("k"))
    task.sleep(25)
    assert.same({ { 1 }, version }, { memory.getVersioned("k") })
  end)

  it("expire and persist give notfound where there is nothing", function()
    assert.equal("notfound", code(memory.expire("k", 5)))
    assert.equal("notfound", code(memory.expire("k", 0)))
    assert.equal("notfound", code(memory.persist("k")))
    assert.is_false(memory.has("k"))
  end)

  it("expire and persist give a callback the same results", function()
    local results = called(memory.expire, "k", 5)
    assert.equal("notfound", code(table.unpack(results, 1, results.n)))
    put("k", 1)
    assert.same({ "OK", n = 1 }, called(memory.expire, "k", 60000))
    assert.is_true(memory.ttl("k") > 50000)
    assert.same({ "OK", n = 1 }, called(memory.persist, "k"))
    absent(memory.ttl("k"))
  end)

  it("refuse what they cannot understand, at the caller's line", function()
    put("k", 1)
    for _, name in ipairs { "has", "ttl", "persist" } do
      raises(function() memory[name](5) end, name .. ": the key", "a number")
      raises(function() memory[name]() end, name .. ": the key", "nil")
      raises(function() memory[name]("") end, name .. ": the key", "0 bytes")
      raises(function() memory[name](("k"):rep(65536)) end, name .. ": the key", "65536 bytes")
    end
    raises(function() memory.persist("k", 5) end, "persist: the callback")
    raises(function() memory.expire(nil, 5) end, "expire: the key", "nil")
    raises(function() memory.expire("k") end, "expire: the time", "nil")
    raises(function() memory.expire("k", -1) end, "expire: the time", "-1")
    raises(function() memory.expire("k", "5") end, "expire: the time", "a string")
    raises(function() memory.expire("k", 0 / 0) end, "expire: the time")
    raises(function() memory.expire("k", 5, {}) end, "expire: the callback")
    absent(memory.ttl("k"))
  end)
end)

describe("an entry's time", function()
  before_each(prepare)
  after_each(clusters.finish)

  -- Each gives the key a value that stays for that long.
  local givers = {
    set = function(key, ms) put(key, 1, { ttl = ms }) end,
    expire = function(key, ms)
      put(key, 1, { ttl = 90000 })
      return function() memory.expire(key, ms) end
    end,
    update = function(key, ms) memory.update(key, function() return 1 end, { ttl = ms }) end,
    increment = function(key, ms) memory.increment(key, 1, { ttl = ms }) end,
  }

  -- Reads until it is gone: never after its time, and until then it is there. The clock counts whole milliseconds,
  -- and the time begins with the one in which the entry was made.
  local function honours(give, key, ms, pause)
    local late = give == givers.expire and give(key, ms)
    local before = uv.hrtime()
    if late then late() else give(key, ms) end
    local after = uv.hrtime()
    local reads = 0
    while true do
      local asked = uv.hrtime()
      local there = memory.get(key)
      local answered = uv.hrtime()
      if not there then
        assert.is_true((answered - before) / 1e6 > ms - 1, key .. " was gone before its time")
        return reads
      end
      assert.is_true((asked - after) / 1e6 < ms, key .. " was there after its time")
      reads = reads + 1
      if pause then task.sleep(pause) end
    end
  end

  for name, give in pairs(givers) do
    it("is kept to the millisecond after " .. name, function()
      local fns, reads = {}, 0
      for i = 1, 40 do
        fns[i] = function() reads = reads + honours(give, name .. i, i * 3, 1) end
      end
      task.all(fns)
      for _, ms in ipairs { 1, 2, 5, 20 } do reads = reads + honours(give, name, ms) end
      assert.is_true(reads > 0)
    end)
  end

  it("is over for every condition and every function at once", function()
    local function expired()
      local version = put("k", 41, { ttl = 1 })
      spend(2)
      return version
    end
    expired()
    absent(memory.get("k"))
    expired()
    assert.same({ n = 2, [2] = 0 }, table.pack(memory.getVersioned("k")))
    expired()
    assert.is_false((memory.has("k")))
    expired()
    absent(memory.ttl("k"))
    expired()
    assert.same({}, (memory.getMany { "k" }))
    expired()
    assert.equal("OK", (memory.set("k", 1, { ifAbsent = true })))
    expired()
    assert.equal("notfound", code(memory.set("k", 1, { ifPresent = true })))
    assert.equal("conflict", code(memory.set("k", 1, { ifVersion = expired() })))
    expired()
    assert.equal("OK", (memory.set("k", 1, { ifVersion = 0 })))
    assert.equal("conflict", code(memory.remove("k", { ifVersion = expired() })))
    expired()
    done(memory.remove("k", { ifVersion = 0 }))
    expired()
    assert.equal("notfound", code(memory.expire("k", 60000)))
    expired()
    assert.equal("notfound", code(memory.persist("k")))
    expired()
    assert.equal(8, memory.increment("k", 1, { initial = 7, ttl = 60000 }))
    assert.is_true(memory.ttl("k") > 50000)
    expired()
    assert.equal("none", memory.update("k", function(old) return old or "none" end))
    absent(memory.ttl("k"))
    expired()
    assert.same({}, (memory.keys()))
    expired()
    assert.equal(0, (memory.count("k")))
    expired()
    assert.equal(0, (memory.clear("k")))
    -- A ttl that was taken away in time is not over.
    put("k", 1, { ttl = 5 })
    if memory.persist("k") == "OK" then
      spend(7)
      assert.equal(1, memory.get("k"))
    end
  end)

  it("gives the memory of 100,000 that expire together back by itself, while gets go on", function()
    local MANY = 100000
    put("lasting", "value")
    -- What expired before counts until it is swept, and clear does not see it.
    while memory.stats().entries > 1 do task.sleep(1) end
    local base = memory.stats()
    local start = uv.hrtime()
    for i = 1, MANY do put("k" .. i, "a value of some bytes") end
    local deadline = uv.hrtime() + 3 * (uv.hrtime() - start) + 200 * 1000000
    for i = 1, MANY do memory.expire("k" .. i, math.max((deadline - uv.hrtime()) // 1000000, 1)) end
    local slowest, gets, most = 0, 0, 0
    local limit = math.max(uv.hrtime(), deadline) + 20000 * 1000000
    local stats
    repeat
      stats = memory.stats()
      most = math.max(most, stats.entries)
      for _ = 1, 20 do
        local asked = uv.hrtime()
        assert.equal("value", memory.get("lasting"))
        slowest = math.max(slowest, uv.hrtime() - asked)
        gets = gets + 1
      end
      assert.is_true(uv.hrtime() < limit, "the memory does not come back")
    until stats.entries == base.entries and uv.hrtime() > deadline
    assert.equal(base.used, stats.used)
    assert.equal(base.free, stats.free)
    if os.getenv "SPEC_TIMES" then
      io.stderr:write(("\n%d entries at most; the slowest of %d gets took %.2f ms\n"):format(most, gets, slowest / 1e6))
    end
  end)
end)
