local memory = require "clustermem"
local task = require "clustermem.task"
local null = require("cjson").null
local clusters = require "clusters"
local steps = require "keysteps"

local called, code, absent, put, raises = steps.called, steps.code, steps.absent, steps.put, steps.raises
local prepare = steps.prepare

describe("increment", function()
  before_each(prepare)
  after_each(clusters.finish)

  -- The sum, which is the only result, exactly, and what is there afterwards.
  local function gives(expected, ...)
    local results = table.pack(memory.increment("k", ...))
    assert.equal(1, results.n)
    assert.equal(math.type(expected), math.type(results[1]))
    assert.equal(expected, results[1])
    local there = memory.get("k")
    assert.equal(math.type(expected), math.type(there))
    assert.equal(expected, there)
  end

  it("adds 1, or what it is given, and gives the sum", function()
    gives(1)
    gives(2)
    gives(12, 10)
    gives(5, -7)
    gives(5, 0)
    gives(6, nil)
    gives(7, nil, {})
  end)

  it("keeps integers integers, and makes the sum with a float one", function()
    gives(1)
    gives(1.5, 0.5)
    gives(2.5)
    gives(3.0, 0.5)
    gives(4.0)
    put("k", 10)
    gives(13.0, 3.0)
    put("k", 1 << 53)
    gives((1 << 53) + 1)
  end)

  it("adds to integers and floats as they are stored, of every size", function()
    for shift = 0, 62 do
      for _, number in ipairs { 1 << shift, (1 << shift) - 1, -(1 << shift), -(1 << shift) - 1 } do
        for _, delta in ipairs { 1, -1, -number } do
          if math.ult(1, number ~ math.mininteger) then -- not at the edge
            put("k", number)
            gives(number + delta, delta)
          end
        end
      end
    end
    for _, number in ipairs { 0.0, 0.1, -1.5, 1e308, 5e-324, 2.0 ^ 63, math.pi } do
      put("k", number)
      gives(number + 0.25, 0.25)
      gives(number + 0.25 + 3, 3)
    end
    for _, delta in ipairs { 200, 70000, 1 << 33, -33, -200, -70000, -(1 << 33), math.maxinteger, math.mininteger } do
      memory.remove("k")
      gives(delta, delta)
    end
  end)

  it("gives badvalue for an integer overflow, both ways, and keeps what was there", function()
    local version = put("k", math.maxinteger)
    assert.equal("badvalue", code(memory.increment("k")))
    assert.same({ math.maxinteger, version }, { memory.getVersioned("k") })
    gives(math.maxinteger - 1, -1)
    gives(math.maxinteger)
    put("k", math.mininteger)
    assert.equal("badvalue", code(memory.increment("k", -1)))
    gives(-1, math.maxinteger)
    assert.equal("badvalue", code(memory.increment("new", math.maxinteger, { initial = 1 })))
    assert.is_false(memory.has("new"))
    -- A float does not overflow, it grows to infinity.
    put("k", math.maxinteger)
    gives(2.0 ^ 63, 1.0)
    put("k", 1.7e308)
    gives(math.huge, 1.7e308)
  end)

  it("gives badvalue for what is no number, and keeps it", function()
    for _, value in ipairs { "5", "", true, {}, null, { 1 } } do
      local version = put("k", value)
      assert.equal("badvalue", code(memory.increment("k")))
      assert.same({ value, version }, { memory.getVersioned("k") })
    end
  end)

  it("starts at initial, which counts at creation only", function()
    gives(101, 1, { initial = 100 })
    gives(102, 1, { initial = 100 })
    memory.remove("k")
    gives(3.5, 3, { initial = 0.5 })
    memory.remove("k")
    gives(-5, -5, { initial = 0 })
  end)

  it("takes its ttl at creation only, and keeps the one that is there", function()
    gives(1, 1, { ttl = 60000 })
    assert.is_true(memory.ttl("k") <= 60000 and memory.ttl("k") > 50000)
    gives(2, 1, { ttl = 500000 })
    assert.is_true(memory.ttl("k") <= 60000)
    gives(3)
    assert.is_true(memory.ttl("k") > 50000)
    put("k", 1)
    gives(2, 1, { ttl = 60000 })
    absent(memory.ttl("k"))
    memory.remove("k")
    gives(1, 1, { ttl = 0 })
    absent(memory.ttl("k"))
  end)

  it("gives a callback the same results, wherever it stands", function()
    assert.same({ 1, n = 1 }, called(memory.increment, "k"))
    assert.same({ 3, n = 1 }, called(memory.increment, "k", 2))
    assert.same({ 5, n = 1 }, called(memory.increment, "k", 2, { initial = 7 }))
    assert.same({ 6, n = 1 }, called(memory.increment, "k", nil, nil))
    assert.same({ 9, n = 1 }, called(memory.increment, "new", 2, { initial = 7, ttl = 60000 }))
    assert.is_true(memory.ttl("new") > 50000)
    put("k", "text")
    assert.equal("badvalue", code(table.unpack(called(memory.increment, "k"))))
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.increment() end, "increment: the key")
    raises(function() memory.increment("k", "1") end, "increment: delta", "a string")
    raises(function() memory.increment("k", {}) end, "increment: delta", "a table")
    raises(function() memory.increment("k", false) end, "increment: delta", "a boolean")
    raises(function() memory.increment("k", 1, { initial = "0" }) end, "increment: initial", "a string")
    raises(function() memory.increment("k", 1, { ttl = -1 }) end, "increment: ttl", "-1")
    raises(function() memory.increment("k", 1, { ttl = false }) end, "increment: ttl", "a boolean")
    raises(function() memory.increment("k", 1, { step = 2 }) end, "increment: unknown option 'step'", "initial")
    raises(function() memory.increment("k", 1, 2) end, "increment: the options")
    raises(function() memory.increment("k", 1, {}, 2) end, "increment: the callback")
    assert.is_false(memory.has("k"))
  end)
end)

describe("update", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("stores what fn makes of the value, and gives it", function()
    assert.same({ 1, n = 1 }, table.pack(memory.update("k", function(old) return old == nil and 1 end)))
    assert.same({ 2, n = 1 }, table.pack(memory.update("k", function(old) return old + 1 end)))
    assert.equal(2, memory.get("k"))
    local given = memory.update("k", function(old) return { old } end)
    assert.same({ 2 }, given)
    assert.is_false((memory.update("k", function() return false end)))
    assert.is_false((memory.get("k")))
  end)

  it("removes by nil, also where there is nothing", function()
    put("k", 1)
    absent(memory.update("k", function() return nil end))
    assert.is_false(memory.has("k"))
    absent(memory.update("k", function() end))
    assert.is_false(memory.has("k"))
  end)

  it("keeps the ttl unless it is given one", function()
    put("k", 1, { ttl = 60000 })
    memory.update("k", function(old) return old + 1 end)
    assert.is_true(memory.ttl("k") > 50000 and memory.ttl("k") <= 60000)
    memory.update("k", function(old) return old + 1 end, {})
    assert.is_true(memory.ttl("k") > 50000)
    memory.update("k", function(old) return old + 1 end, { ttl = 200000 })
    assert.is_true(memory.ttl("k") > 190000)
    memory.update("k", function(old) return old + 1 end, { ttl = 0 })
    absent(memory.ttl("k"))
    assert.equal(5, memory.get("k"))
    memory.update("new", function() return 1 end)
    absent(memory.ttl("new"))
    memory.update("newer", function() return 1 end, { ttl = 60000 })
    assert.is_true(memory.ttl("newer") > 50000)
  end)

  it("runs fn again when somebody else has changed, removed or made the entry", function()
    for _, interfere in ipairs {
      function() put("k", 100) end,
      function() memory.remove("k") end,
      function() memory.remove("k") put("k", 5) end, -- as it was, but not the same
      function() memory.increment("k") end,
    } do
      put("k", 5)
      local olds = {}
      local new = memory.update("k", function(old)
        olds[#olds + 1] = old or "nothing"
        if #olds == 1 then interfere() end
        return (old or 0) + 1
      end)
      assert.equal(2, #olds)
      assert.equal(5, olds[1])
      assert.equal(new, memory.get("k"))
      assert.equal((olds[2] == "nothing" and 0 or olds[2]) + 1, new)
    end
    local runs = 0
    memory.update("new", function(old)
      runs = runs + 1
      if runs == 1 then put("new", 1) end
      return (old or 0) + 10
    end)
    assert.equal(2, runs)
    assert.equal(11, memory.get("new"))
  end)

  it("removes nothing that somebody else has changed", function()
    put("k", 1)
    local runs = 0
    memory.update("k", function(old)
      runs = runs + 1
      if runs == 1 then put("k", 2) end
      if old == 2 then return "two" end
    end)
    assert.equal("two", memory.get("k"))
  end)

  it("gives conflict after 1,000 tries", function()
    local runs = 0
    assert.equal("conflict", code(memory.update("k", function()
      runs = runs + 1
      put("k", runs)
      return "never"
    end)))
    assert.equal(1000, runs)
    assert.equal(1000, memory.get("k"))
  end)

  it("may wait in fn, and lets other tasks run", function()
    put("k", 0)
    local fns = {}
    for i = 1, 8 do
      fns[i] = function()
        for _ = 1, 5 do
          memory.update("k", function(old)
            if i % 2 == 0 then task.sleep(1) end
            return old + 1
          end)
        end
      end
    end
    task.all(fns)
    assert.equal(40, memory.get("k"))
  end)

  it("raises what fn raises, and changes nothing", function()
    local version = put("k", 1, { ttl = 60000 })
    local thrown = {}
    local ok, raised = pcall(memory.update, "k", function() error(thrown) end)
    assert.is_false(ok)
    assert.equal(thrown, raised)
    assert.same({ 1, version }, { memory.getVersioned("k") })
    assert.is_true(memory.ttl("k") > 50000)
  end)

  it("refuses a value that is no data at the caller's line, and changes nothing", function()
    put("k", 1)
    raises(function() memory.update("k", function() return { a = print } end) end, "cannot share value.a: function")
    assert.equal(1, memory.get("k"))
  end)

  it("gives a second function the same results", function()
    assert.same({ 1, n = 1 }, called(memory.update, "k", function(old) return (old or 0) + 1 end))
    assert.same({ 2, n = 1 }, called(memory.update, "k", function(old) return (old or 0) + 1 end, { ttl = 60000 }))
    assert.is_true(memory.ttl("k") > 50000)
    assert.same({ n = 1 }, called(memory.update, "k", function() end))
    local results = called(memory.update, "k", function()
      put("k", 1)
      return 2
    end)
    assert.equal("conflict", code(table.unpack(results, 1, results.n)))
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.update("", print) end, "update: the key")
    raises(function() memory.update("k") end, "update: its second argument", "nil")
    raises(function() memory.update("k", 5) end, "update: its second argument", "a number")
    raises(function() memory.update("k", print, { ttl = -5 }) end, "update: ttl", "-5")
    raises(function() memory.update("k", print, { ttl = false }) end, "update: ttl", "a boolean")
    raises(function() memory.update("k", print, { ifVersion = 1 }) end, "update: unknown option 'ifVersion'", "ttl")
    raises(function() memory.update("k", print, 5) end, "update: the options")
    raises(function() memory.update("k", print, {}, 5) end, "update: the callback")
  end)
end)
