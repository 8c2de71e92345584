local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local null = require("cjson").null
local clusters = require "clusters"

-- Packs the results of a call with a callback.
local function called(fn, ...)
  local args = table.pack(...)
  return table.pack(task.await(function(resume)
    args[args.n + 1] = resume
    -- It returns at once, with nothing.
    assert.equal(0, select("#", fn(table.unpack(args, 1, args.n + 1))))
  end))
end

-- Spends the time without asking for anything, so that nothing is met on the way.
local function spend(ms)
  local over = uv.hrtime() + ms * 1000000
  while uv.hrtime() < over do end -- luacheck: ignore 542
end

local function code(...)
  local value, message, word = ...
  assert.is_nil(value)
  assert.equal(3, select("#", ...))
  assert.equal("string", type(message))
  assert.is_true(#message > 0)
  return word
end

-- Exactly one nil.
local function absent(...)
  assert.equal(1, select("#", ...))
  assert.is_nil((...))
end

-- An OK, and nothing more.
local function done(...)
  assert.equal(1, select("#", ...))
  assert.equal("OK", (...))
end

-- Stores under the key, and gives the version.
local function put(...)
  local ok, version = memory.set(...)
  assert.equal("OK", ok)
  return version
end

-- Raises at the line where fn, which has one line, is.
local function raises(fn, ...)
  local ok, raised = pcall(fn)
  assert.is_false(ok, "it does not raise")
  local source, line, text = raised:match("^([^\n]-):(%d+): (.*)$")
  assert.matches("keys_spec%.lua$", source)
  assert.equal(debug.getinfo(fn, "S").linedefined, math.tointeger(line), raised)
  for _, word in ipairs { ... } do assert.truthy(text:find(word, 1, true), raised) end
end

local function sorted(names)
  table.sort(names)
  return names
end

local function prepare()
  clusters.watch()
  memory.clear()
end

describe("set", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("with ifAbsent stores only where there is nothing", function()
    assert.equal("OK", (memory.set("k", 1, { ifAbsent = true })))
    assert.equal("exists", code(memory.set("k", 2, { ifAbsent = true })))
    assert.equal(1, memory.get("k"))
    memory.remove("k")
    assert.equal("OK", (memory.set("k", 3, { ifAbsent = true })))
    assert.equal("OK", (memory.set("k", 4, { ifAbsent = false })))
  end)

  it("with ifPresent stores only where there is something", function()
    assert.equal("notfound", code(memory.set("k", 1, { ifPresent = true })))
    assert.is_nil((memory.get("k")))
    put("k", 1)
    assert.equal("OK", (memory.set("k", 2, { ifPresent = true })))
    assert.equal(2, memory.get("k"))
    memory.remove("k")
    assert.equal("notfound", code(memory.set("k", 3, { ifPresent = true })))
    assert.equal("OK", (memory.set("k", 4, { ifPresent = false })))
  end)

  it("counts a false and a null as something", function()
    for _, value in ipairs { false, null } do
      put("k", value)
      assert.equal("exists", code(memory.set("k", 1, { ifAbsent = true })))
      assert.equal("OK", (memory.set("k", 1, { ifPresent = true })))
    end
  end)

  it("with ifVersion stores only over that version", function()
    local first = put("k", 1)
    assert.equal("conflict", code(memory.set("k", 2, { ifVersion = first + 1 })))
    assert.equal("conflict", code(memory.set("k", 2, { ifVersion = 0 })))
    assert.equal(1, memory.get("k"))
    local ok, second = memory.set("k", 2, { ifVersion = first })
    assert.equal("OK", ok)
    assert.is_true(second > first)
    assert.equal("conflict", code(memory.set("k", 3, { ifVersion = first })))
    -- A float that is whole is a version, too.
    assert.equal("OK", (memory.set("k", 3, { ifVersion = second + 0.0 })))
  end)

  it("with ifVersion = 0 stores only where there is nothing", function()
    assert.equal("conflict", code(memory.set("k", 1, { ifVersion = 1 })))
    assert.equal("OK", (memory.set("k", 1, { ifVersion = 0 })))
    assert.equal("conflict", code(memory.set("k", 2, { ifVersion = 0 })))
    memory.remove("k")
    assert.equal("OK", (memory.set("k", 3, { ifVersion = 0 })))
  end)

  it("takes two conditions together", function()
    local version = put("k", 1)
    assert.equal("conflict", code(memory.set("k", 2, { ifPresent = true, ifVersion = version - 1 })))
    assert.equal("OK", (memory.set("k", 2, { ifPresent = true, ifVersion = version })))
    assert.equal("OK", (memory.set("new", 2, { ifAbsent = true, ifVersion = 0, ttl = 5000 })))
  end)

  it("with a ttl of 0, or without one, stores for ever and clears a ttl", function()
    for _, options in ipairs { {}, { ttl = 0 }, { ifPresent = true } } do
      put("k", 1, { ttl = 60000 })
      assert.is_true(memory.ttl("k") > 50000)
      put("k", 2, options)
      absent(memory.ttl("k"))
    end
    put("k", 1, { ttl = 60000 })
    put("k", 1)
    absent(memory.ttl("k"))
  end)

  it("that fails leaves value, version and ttl as they were", function()
    local version = put("k", 1, { ttl = 60000 })
    memory.set("k", 2, { ifAbsent = true })
    memory.set("k", 2, { ifVersion = version + 1, ttl = 5 })
    assert.same({ 1, version }, { memory.getVersioned("k") })
    assert.is_true(memory.ttl("k") > 50000)
  end)

  it("gives a callback the same results", function()
    local results = called(memory.set, "k", 1, { ifAbsent = true })
    assert.same({ "OK", select(2, memory.getVersioned("k")), n = 2 }, results)
    assert.equal("exists", code(table.unpack(called(memory.set, "k", 1, { ifAbsent = true }))))
    assert.equal("OK", called(memory.set, "k", 1)[1])
    assert.equal("OK", called(memory.set, "k", 1, nil)[1])
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.set("k", 1, { ttl = -1 }) end, "set: ttl", "-1")
    raises(function() memory.set("k", 1, { ttl = "5" }) end, "set: ttl", "a string")
    raises(function() memory.set("k", 1, { ttl = false }) end, "set: ttl", "a boolean")
    raises(function() memory.set("k", 1, { ttl = 0 / 0 }) end, "set: ttl")
    raises(function() memory.set("k", 1, { ttl = math.huge }) end, "set: ttl")
    raises(function() memory.set("k", 1, { ttl = 2 ^ 53 + 2 }) end, "set: ttl")
    raises(function() memory.set("k", 1, { ifAbsent = 1 }) end, "set: ifAbsent", "boolean")
    raises(function() memory.set("k", 1, { ifPresent = "yes" }) end, "set: ifPresent", "boolean")
    raises(function() memory.set("k", 1, { ifAbsent = true, ifPresent = true }) end, "ifAbsent and ifPresent")
    raises(function() memory.set("k", 1, { ifVersion = -1 }) end, "set: ifVersion", "-1")
    raises(function() memory.set("k", 1, { ifVersion = 1.5 }) end, "set: ifVersion", "1.5")
    raises(function() memory.set("k", 1, { ifVersion = "1" }) end, "set: ifVersion", "a string")
    raises(function() memory.set("k", 1, { ifVersion = false }) end, "set: ifVersion", "a boolean")
    raises(function() memory.set("k", 1, { ifabsent = true }) end, "unknown option 'ifabsent'", "ifAbsent", "ttl")
    raises(function() memory.set("k", 1, { 5000 }) end, "unknown option '1'")
    raises(function() memory.set("k", 1, 5000) end, "set: the options must be a table", "a number")
    raises(function() memory.set("k", { print }, {}) end, "cannot share value[1]: function")
    raises(function() memory.set("k", { print }, print) end, "cannot share value[1]: function")
    assert.equal(0, memory.count())
  end)

  it("takes the longest ttl", function()
    put("k", 1, { ttl = 2 ^ 53 })
    assert.is_true(memory.ttl("k") > 2 ^ 53 - 60000)
  end)
end)

describe("versions", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("of a key grow for ever, across removal, expiry and re-creation", function()
    local last = 0
    local function grown()
      local version = select(2, memory.getVersioned("k"))
      assert.is_true(version > last)
      last = version
    end
    for round = 1, 3 do
      put("k", 1)
      grown()
      put("k", 1)
      grown()
      memory.update("k", function(old) return old + 1 end)
      grown()
      memory.increment("k")
      grown()
      memory.setMany { k = round }
      grown()
      memory.remove("k")
      put("k", 1, { ifVersion = 0 })
      grown()
      memory.clear("k")
      last = put("k", 1, { ttl = 1 })
      spend(3)
      put("k", 1, { ifAbsent = true })
      grown()
    end
  end)

  it("do not change by reading, expire and persist", function()
    local version = put("k", 1)
    memory.get("k")
    memory.expire("k", 60000)
    memory.persist("k")
    memory.set("k", 2, { ifAbsent = true })
    memory.keys()
    assert.same({ 1, version }, { memory.getVersioned("k") })
  end)
end)

describe("getVersioned", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("gives the value with its version, and nil, 0 where there is none", function()
    assert.same({ n = 2, [2] = 0 }, table.pack(memory.getVersioned("k")))
    for _, value in ipairs { 5, false, "text", { a = 1 } } do
      local version = put("k", value)
      assert.same({ value, version, n = 2 }, table.pack(memory.getVersioned("k")))
    end
    memory.remove("k")
    assert.same({ n = 2, [2] = 0 }, table.pack(memory.getVersioned("k")))
  end)

  it("gives a callback the same results", function()
    assert.same({ n = 2, [2] = 0 }, called(memory.getVersioned, "k"))
    local version = put("k", false)
    assert.same({ false, version, n = 2 }, called(memory.getVersioned, "k"))
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.getVersioned() end, "getVersioned: the key", "nil")
    raises(function() memory.getVersioned("") end, "getVersioned: the key")
    raises(function() memory.getVersioned("k", {}) end, "getVersioned: the callback", "a table")
  end)
end)

describe("get", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("gives one value, in each form", function()
    absent(memory.get("k"))
    absent(table.unpack(called(memory.get, "k"), 1, 1))
    assert.equal(1, called(memory.get, "k").n)
    put("k", 5)
    assert.same({ 5, n = 1 }, table.pack(memory.get("k")))
    assert.same({ 5, n = 1 }, called(memory.get, "k"))
    put("k", false)
    assert.same({ false, n = 1 }, called(memory.get, "k"))
  end)
end)

describe("remove", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("with ifVersion removes only that version", function()
    local version = put("k", 1)
    assert.equal("conflict", code(memory.remove("k", { ifVersion = version + 1 })))
    assert.equal("conflict", code(memory.remove("k", { ifVersion = 0 })))
    assert.equal(1, memory.get("k"))
    done(memory.remove("k", { ifVersion = version }))
    assert.is_nil((memory.get("k")))
  end)

  it("with ifVersion = 0 is content where there is nothing", function()
    done(memory.remove("k", { ifVersion = 0 }))
    assert.equal("conflict", code(memory.remove("k", { ifVersion = 1 })))
  end)

  it("gives a callback the same results", function()
    local version = put("k", 1)
    assert.equal("conflict", code(table.unpack(called(memory.remove, "k", { ifVersion = version + 1 }))))
    assert.same({ "OK", n = 1 }, called(memory.remove, "k", { ifVersion = version }))
    assert.same({ "OK", n = 1 }, called(memory.remove, "k"))
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    put("k", 1)
    raises(function() memory.remove("k", { ifVersion = -1 }) end, "remove: ifVersion")
    raises(function() memory.remove("k", { ifVersion = "1" }) end, "remove: ifVersion", "a string")
    raises(function() memory.remove("k", { ifVersion = false }) end, "remove: ifVersion", "a boolean")
    raises(function() memory.remove("k", { ttl = 1 }) end, "remove: unknown option 'ttl'", "ifVersion")
    raises(function() memory.remove("k", 5) end, "remove: the options")
    raises(function() memory.remove("k", {}, 5) end, "remove: the callback")
    assert.equal(1, memory.get("k"))
  end)
end)

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

describe("getMany and setMany", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("store and give several values", function()
    done(memory.setMany { a = 1, b = { 2 }, c = false, d = null })
    assert.same({ a = 1, b = { 2 }, c = false, d = null }, (memory.getMany { "a", "b", "c", "d" }))
    assert.equal(4, memory.count())
  end)

  it("leave out what is not there", function()
    put("a", 1)
    assert.same({ a = 1 }, (memory.getMany { "b", "a", "c" }))
    assert.same({}, (memory.getMany { "b" }))
    assert.same({}, (memory.getMany {}))
    assert.same({ a = 1 }, (memory.getMany { "a", "a" }))
    done(memory.setMany {})
    assert.equal(1, memory.count())
  end)

  it("clear a ttl, as set does", function()
    put("a", 1, { ttl = 60000 })
    memory.setMany { a = 2 }
    absent(memory.ttl("a"))
  end)

  it("carry 10,000 at once", function()
    local pairs_, names = {}, {}
    for i = 1, 10000 do
      names[i] = "k" .. i
      pairs_[names[i]] = i
    end
    done(memory.setMany(pairs_))
    assert.same(pairs_, (memory.getMany(names)))
    assert.equal(10000, memory.count("k"))
  end)

  it("take keys of any bytes", function()
    local long = ("k"):rep(65535)
    memory.setMany { ["\0"] = 1, [long] = 2, ["5"] = 3 }
    assert.same({ ["\0"] = 1, [long] = 2, ["5"] = 3 }, (memory.getMany { "\0", long, "5" }))
  end)

  it("give a callback the same results", function()
    assert.same({ "OK", n = 1 }, called(memory.setMany, { a = 1 }))
    assert.same({ { a = 1 }, n = 1 }, called(memory.getMany, { "a", "b" }))
    assert.same({ {}, n = 1 }, called(memory.getMany, {}))
  end)

  it("work with the names as they were when it was called", function()
    memory.setMany { a = 1, b = 2 }
    local names, got = { "a", "b" }, nil
    memory.getMany(names, function(values) got = values end)
    names[1], names[2], names[3] = print, nil, "c"
    while not got do task.sleep(1) end
    assert.same({ a = 1, b = 2 }, got)
  end)

  it("refuse what they cannot understand, at the caller's line", function()
    raises(function() memory.getMany() end, "getMany: its first argument", "nil")
    raises(function() memory.getMany("a") end, "getMany: its first argument")
    raises(function() memory.getMany { "a", 5 } end, "getMany: the key", "a number")
    raises(function() memory.getMany { "a", "" } end, "getMany: the key")
    raises(function() memory.getMany { "a", nil, "c" } end, "getMany: the key", "nil")
    raises(function() memory.getMany({ "a" }, 5) end, "getMany: the callback")
    raises(function() memory.setMany() end, "setMany: its first argument", "nil")
    raises(function() memory.setMany { "a" } end, "setMany: the key", "a number")
    raises(function() memory.setMany { a = 1, [true] = 1 } end, "setMany: the key", "a boolean")
    raises(function() memory.setMany { [""] = 1 } end, "setMany: the key")
    raises(function() memory.setMany { [("k"):rep(65536)] = 1 } end, "setMany: the key", "65536")
    raises(function() memory.setMany({ a = 1 }, {}) end, "setMany: the callback")
    raises(function() memory.setMany { a = { 1, print } } end, "key 'a': cannot share value[2]: function")
    raises(function() memory.setMany { a = 1, b = print, c = 2 } end, "key 'b': cannot share value: function")
    assert.equal(0, memory.count())
    -- What was begun is not sent with the next.
    done(memory.setMany { d = 1 })
    assert.same({ "d" }, (memory.keys()))
  end)
end)

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

  it("give a callback the same results", function()
    assert.same({ false, n = 1 }, called(memory.has, "k"))
    assert.same({ n = 1 }, called(memory.ttl, "k"))
    local results = called(memory.expire, "k", 5)
    assert.equal("notfound", code(table.unpack(results, 1, results.n)))
    put("k", 1)
    assert.same({ true, n = 1 }, called(memory.has, "k"))
    assert.same({ "OK", n = 1 }, called(memory.expire, "k", 60000))
    assert.is_true(called(memory.ttl, "k")[1] > 50000)
    assert.same({ "OK", n = 1 }, called(memory.persist, "k"))
    assert.same({ n = 1 }, called(memory.ttl, "k"))
  end)

  it("refuse what they cannot understand, at the caller's line", function()
    put("k", 1)
    for _, name in ipairs { "has", "ttl", "persist" } do
      raises(function() memory[name](5) end, name .. ": the key", "a number")
      raises(function() memory[name]("k", 5) end, name .. ": the callback")
    end
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
    local base = memory.stats()
    -- Does it for each key, and gives how long that took.
    local function each(fn)
      local start, acknowledged = uv.hrtime(), 0
      local function acknowledge(ok) acknowledged = acknowledged + (ok == "OK" and 1 or 0) end
      for i = 1, MANY do
        fn("k" .. i, acknowledge)
        if i % 1000 == 0 then task.sleep(0) end
      end
      while acknowledged < MANY do task.sleep(1) end
      return uv.hrtime() - start
    end
    local took = each(function(key, callback) memory.set(key, "a value of some bytes", callback) end)
    local deadline = uv.hrtime() + 2 * took + 200 * 1000000
    each(function(key, callback)
      memory.expire(key, math.max((deadline - uv.hrtime()) // 1000000, 1), callback)
    end)
    local slowest, gets, most = 0, 0, 0
    local limit = uv.hrtime() + 30000 * 1000000
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

describe("keys, count and clear", function()
  before_each(prepare)
  after_each(clusters.finish)

  local function fill(prefix, many)
    local pairs_ = {}
    for i = 1, many do pairs_[prefix .. i] = i end
    memory.setMany(pairs_)
    return pairs_
  end

  it("list, count and remove all, or those with a prefix", function()
    memory.setMany { a = 1, ab = 2, abc = 3, b = 4, ["a\0"] = 5, ["\255"] = 6 }
    assert.same({ "a", "a\0", "ab", "abc", "b", "\255" }, sorted((memory.keys())))
    assert.same({ "ab", "abc" }, sorted((memory.keys("ab"))))
    assert.same({ "a\0" }, (memory.keys("a\0")))
    assert.same({ "abc" }, (memory.keys("abc")))
    assert.same({}, (memory.keys("abcd")))
    assert.same({}, (memory.keys(("k"):rep(65535))))
    assert.equal(6, memory.count())
    assert.equal(6, memory.count(""))
    assert.equal(4, memory.count("a"))
    assert.equal(0, memory.count("c"))
    assert.same({ 2, n = 1 }, table.pack(memory.clear("ab")))
    assert.same({ "a", "a\0", "b", "\255" }, sorted((memory.keys())))
    assert.equal(0, memory.clear("ab"))
    assert.equal(4, memory.clear())
    assert.equal(0, memory.count())
    assert.equal(0, memory.clear(""))
  end)

  it("give no cursor when that was all", function()
    assert.equal(1, select("#", memory.keys()))
    put("k", 1)
    assert.equal(1, select("#", memory.keys(nil, { limit = 100 })))
  end)

  it("list about as many as the limit, 1,000 where there is none", function()
    fill("k", 5000)
    local names, cursor = memory.keys()
    assert.is_true(#names >= 1000 and #names < 1020)
    assert.equal("integer", math.type(cursor))
    for _, limit in ipairs { 1, 10, 100, 777.0, 3000 } do
      names, cursor = memory.keys("k", { limit = limit })
      assert.is_true(#names >= limit and #names < limit + 20)
      assert.equal("integer", math.type(cursor))
    end
    for _, limit in ipairs { 6000, 1 << 31, 1 << 40, math.maxinteger } do
      names, cursor = memory.keys("k", { limit = limit })
      assert.equal(5000, #names)
      assert.is_nil(cursor)
    end
  end)

  -- All names in lists of that limit, with something between them: name -> how often.
  local function listAll(prefix, limit, between)
    local listed, cursor, lists = {}, nil, 0
    repeat
      local names
      names, cursor = memory.keys(prefix, { limit = limit, cursor = cursor })
      for _, name in ipairs(names) do listed[name] = (listed[name] or 0) + 1 end
      lists = lists + 1
      if between then between(lists) end
    until not cursor
    return listed, lists
  end

  it("go on where the cursor is, whatever the limits", function()
    local pairs_ = fill("k", 3000)
    fill("other", 3000)
    for _, limit in ipairs { 1, 7, 100, 1000, 10000 } do
      local listed, lists = listAll("k", limit)
      assert.is_true(lists >= 3000 / (limit + 20))
      local count = 0
      for name, times in pairs(listed) do
        assert.equal(1, times)
        assert.truthy(pairs_[name])
        count = count + 1
      end
      assert.equal(3000, count)
    end
  end)

  it("list what stays exactly once, and nothing twice, while others come and go", function()
    for _, size in ipairs { 50, 300, 2000 } do
      memory.clear()
      local stays = fill("stays", size)
      local running = true
      local churn = task.spawn(function()
        local count = 0
        while running do
          count = count + 1
          local pairs_ = {}
          for i = 1, 200 do pairs_[("goes%d.%d"):format(count, i)] = i end
          memory.setMany(pairs_)
          if count % 3 == 0 then memory.clear("goes" .. count - 2) end
          for name in pairs(stays) do
            memory.set(name, count, { ttl = 60000 }) -- is still there, in another place
            if math.random(20) == 1 then break end
          end
        end
      end)
      local listed, lists = listAll("", 20, function() task.sleep(0) end)
      running = false
      task.join(churn)
      assert.is_true(lists > 2)
      for name in pairs(stays) do assert.equal(1, listed[name], name) end
      for name, times in pairs(listed) do assert.equal(1, times, name) end
    end
  end)

  it("come to an end from any cursor", function()
    fill("k", 500)
    for _, cursor in ipairs { 0, 1, -1, 12345, math.maxinteger, math.mininteger, 2.0 ^ 40 } do
      local lists = 0
      repeat
        local names
        names, cursor = memory.keys("", { limit = 50, cursor = cursor })
        assert.is_true(#names <= 500)
        lists = lists + 1
      until not cursor
      assert.is_true(lists <= 11)
    end
  end)

  it("count and remove many, in slices", function()
    for i = 1, 4 do fill("some" .. i .. ":", 10000) end
    assert.equal(40000, memory.count())
    assert.equal(10000, memory.count("some2:"))
    assert.equal(10000, memory.clear("some2:"))
    assert.equal(0, memory.count("some2:"))
    assert.equal(30000, memory.count("some"))
    assert.equal(30000, memory.clear())
    assert.same({}, (memory.keys()))
  end)

  it("clear leaves no value and no ttl behind, and versions go on", function()
    local version = put("k", 1, { ttl = 60000 })
    memory.clear("k")
    assert.is_nil((memory.get("k")))
    assert.equal("conflict", code(memory.set("k", 1, { ifVersion = version })))
    assert.is_true(put("k", 2) > version)
    absent(memory.ttl("k"))
  end)

  it("clear removes what is there before it while others set", function()
    fill("old", 5000)
    local setter = task.spawn(function()
      for i = 1, 3000 do put("new" .. i, i) end
    end)
    assert.is_true(memory.clear() >= 5000)
    task.join(setter)
    assert.equal(0, memory.count("old"))
    assert.equal(0, memory.count() - memory.count("new"))
  end)

  it("give a callback the same results", function()
    memory.setMany { a = 1, ab = 2 }
    assert.same({ "a", "ab" }, sorted(called(memory.keys)[1]))
    assert.equal(1, called(memory.keys).n)
    assert.same({ { "ab" }, n = 1 }, called(memory.keys, "ab"))
    assert.same({ { "ab" }, n = 1 }, called(memory.keys, "ab", { limit = 5 }))
    assert.same({ 2, n = 1 }, called(memory.count))
    assert.same({ 1, n = 1 }, called(memory.count, "ab"))
    assert.same({ 1, n = 1 }, called(memory.clear, "ab"))
    assert.same({ 1, n = 1 }, called(memory.clear))
    fill("k", 200)
    local results = called(memory.keys, nil, { limit = 10 })
    assert.equal(2, results.n)
    assert.equal("integer", math.type(results[2]))
  end)

  it("refuse what they cannot understand, at the caller's line", function()
    put("k", 1)
    for _, name in ipairs { "keys", "count", "clear" } do
      raises(function() memory[name](5) end, name .. ": the prefix", "a number")
      raises(function() memory[name] {} end, name .. ": the prefix", "a table")
      raises(function() memory[name](("k"):rep(65536)) end, name .. ": the prefix", "65536")
    end
    raises(function() memory.keys("k", {}, 5) end, "keys: the callback")
    raises(function() memory.count("k", 5) end, "count: the callback")
    raises(function() memory.clear("k", 5) end, "clear: the callback")
    raises(function() memory.keys("k", 5) end, "keys: the options")
    raises(function() memory.keys("k", { limit = 0 }) end, "keys: limit", "0")
    raises(function() memory.keys("k", { limit = -1 }) end, "keys: limit", "-1")
    raises(function() memory.keys("k", { limit = 1.5 }) end, "keys: limit", "1.5")
    raises(function() memory.keys("k", { limit = "5" }) end, "keys: limit", "a string")
    raises(function() memory.keys("k", { limit = false }) end, "keys: limit", "a boolean")
    raises(function() memory.keys("k", { cursor = "0" }) end, "keys: cursor", "a string")
    raises(function() memory.keys("k", { cursor = 0.5 }) end, "keys: cursor", "0.5")
    raises(function() memory.keys("k", { cursor = false }) end, "keys: cursor", "a boolean")
    raises(function() memory.keys("k", { count = 5 }) end, "keys: unknown option 'count'", "limit", "cursor")
    assert.equal(1, memory.count())
  end)
end)

describe("stats", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("tells entries, used and free bytes", function()
    local empty = memory.stats()
    local names = {}
    for name, value in pairs(empty) do
      names[#names + 1] = name
      assert.equal("integer", math.type(value))
    end
    assert.same({ "entries", "free", "used" }, sorted(names))
    assert.equal(0, empty.entries)
    assert.equal(0, empty.used)
    put("k", ("x"):rep(10000))
    local one = memory.stats()
    assert.equal(1, one.entries)
    assert.is_true(one.used > 10000 and one.used < 10200)
    assert.equal(empty.free, one.used + one.free)
    put("k", 1)
    assert.is_true(memory.stats().used < 200)
    memory.remove("k")
    assert.same(empty, (memory.stats()))
  end)

  it("gives a callback the same results", function()
    assert.same({ (memory.stats()), n = 1 }, called(memory.stats))
    raises(function() memory.stats(5) end, "stats: the callback")
  end)
end)

describe("outside a task", function()
  before_each(prepare)
  after_each(clusters.finish)

  local calls = {
    set = { "k", 1 }, get = { "k" }, getVersioned = { "k" }, remove = { "k" }, increment = { "n" },
    update = { "k", function() return 1 end }, getMany = { { "k" } }, setMany = { { k = 1 } }, has = { "k" },
    ttl = { "k" }, expire = { "k", 60000 }, persist = { "k" }, keys = {}, count = {}, clear = { "none" }, stats = {},
  }

  -- What fn gives when the loop calls it.
  local function inLoop(fn)
    return task.await(function(resume)
      local timer = uv.new_timer()
      timer:start(0, 0, function()
        timer:close()
        resume(fn())
      end)
    end)
  end

  it("each function raises, and with a callback works", function()
    local count = 0
    for name in pairs(memory) do
      assert.truthy(calls[name], name)
      count = count + 1
      local ok, raised = inLoop(function()
        return pcall(function()
          local first = memory[name](table.unpack(calls[name]))
          return first
        end)
      end)
      assert.is_false(ok, name)
      assert.matches("^[^\n]*keys_spec%.lua:%d+: " .. name .. " waits, and this is no task", raised)
      local got
      put("k", 1)
      inLoop(function()
        local args = table.pack(table.unpack(calls[name]))
        args[#args + 1] = function(...) got = table.pack(...) end
        return memory[name](table.unpack(args))
      end)
      while not got do task.sleep(1) end
      assert.is_nil(got[3], name)
    end
    assert.equal(16, count)
  end)
end)

describe("a full memory", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- In front of each script: fills the memory of 1M, which must be left with less than one such value.
  local fill = [[
    local function code(value, message, word)
      assert(value == nil and #message > 0, "it has worked")
      return word
    end
    local stored = 0
    while memory.set("fill" .. stored, ("x"):rep(10000)) do stored = stored + 1 end
    assert(stored >= 95 and stored <= 105, stored)
    local full = memory.stats()
    assert(full.used <= 1 << 20 and full.free < 10200 and full.used + full.free == 1 << 20)
    local small = 0
    while memory.set("small" .. small, 1) do small = small + 1 end
    assert(memory.stats().free < 150)
  ]]

  local function prints(expected, app)
    local c = clusters.run { "--memory", "1M", app = fill .. app }
    assert.equal(expected, c.out, c.err)
    assert.equal(0, c.code)
  end

  it("refuses what would make it larger, and keeps what is there", function()
    prints("nomemory\tnomemory\tnomemory\tnomemory\tnomemory\nunchanged\n", [[
      local before = memory.stats()
      local _, version = memory.getVersioned("fill0")
      print(
        code(memory.set("new", 1)),
        code(memory.set("fill0", ("y"):rep(11000))),
        code(memory.increment("number")),
        code(memory.update("fill0", function(old) return old .. ("z"):rep(500) end)),
        code(memory.setMany { fill1 = 1, fill0 = ("z"):rep(10000), large = ("z"):rep(20000) }))
      local after = memory.stats()
      for name, value in pairs(before) do assert(after[name] == value, name) end
      local value, same = memory.getVersioned("fill0")
      assert(value == ("x"):rep(10000) and same == version)
      assert(memory.get("fill1") == ("x"):rep(10000))
      assert(not memory.has("large") and not memory.has("number") and not memory.has("new"))
      print "unchanged"
    ]])
  end)

  it("still reads, lists, removes, shrinks and counts", function()
    prints("ok\n", [[
      assert(memory.get("fill5") == ("x"):rep(10000))
      assert(memory.count("fill") == stored and #memory.keys("fill") == stored)
      assert(memory.expire("fill5", 60000) == "OK" and memory.ttl("fill5") > 50000)
      assert(memory.persist("fill5") == "OK")
      assert(memory.set("fill5", ("y"):rep(10000), { ttl = 60000 }) == "OK")
      assert(memory.setMany { fill1 = ("z"):rep(10000), fill2 = ("z"):rep(9000), fill3 = ("z"):rep(10900) } == "OK")
      assert(memory.update("fill5", function() return "short" end) == "short")
      assert(memory.set("new", ("x"):rep(9500)) == "OK")
      assert(memory.remove("fill6") == "OK")
      assert(memory.increment("number") == 1)
      assert(memory.set("newer", ("x"):rep(9500)) == "OK")
      assert(memory.clear("fill") == stored - 1)
      assert(memory.set("large", ("x"):rep(800000)) == "OK")
      print "ok"
    ]])
  end)

  it("has room again when something has expired", function()
    prints("ok\n", [[
      assert(memory.expire("fill7", 300) == "OK")
      assert(memory.expire("fill8", 300) == "OK")
      assert(code(memory.set("new", ("y"):rep(20000))) == "nomemory")
      local tries = 0
      while not memory.set("new", ("y"):rep(20000)) do
        task.sleep(1)
        tries = tries + 1
      end
      assert(not memory.has("fill7") and memory.get("new") == ("y"):rep(20000))
      print(tries > 0 and "ok")
    ]])
  end)
end)

describe("a small --max-value", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is the limit of each value that is stored, by whatever function", function()
    local c = clusters.run {
      "--max-value", "1K",
      app = [[
        local large = ("x"):rep(1022) -- three bytes more as a value
        local function code(value, message, word) return assert(value == nil and #message > 0 and word) end
        assert(memory.setMany { a = 1, b = large:sub(2) } == "OK")
        print(
          code(memory.set("a", large)),
          code(memory.update("a", function() return large end)),
          code(memory.setMany { a = 2, c = large }),
          select(3, task.await(function(resume) memory.setMany({ a = 2, c = large }, resume) end)))
        print(memory.get("a"), memory.count())
      ]],
    }
    assert.equal("toolarge\ttoolarge\ttoolarge\ttoolarge\n1\t2\n", c.out, c.err)
    assert.equal(0, c.code)
  end)

  it("limits what setMany carries at once, and the process goes on", function()
    local c = clusters.run {
      "--max-value", "1K",
      app = [[
        local pairs_ = {}
        for i = 1, 20000 do pairs_["k" .. i] = ("x"):rep(1000) end
        local value, message, code = memory.setMany(pairs_)
        print(value, type(message), code, memory.count())
        print(memory.set("k", 1), memory.count())
      ]],
    }
    assert.matches("^nil\tstring\ttoolarge\t0\nOK\t1\n$", c.out, nil, nil, c.err)
    assert.equal(0, c.code)
  end)
end)
