local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local null = require("cjson").null
local clusters = require "clusters"
local steps = require "keysteps"

local called, spend, code, absent, done = steps.called, steps.spend, steps.code, steps.absent, steps.done
local put, raises, prepare = steps.put, steps.raises, steps.prepare

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

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.getVersioned() end, "getVersioned: the key", "nil")
    raises(function() memory.getVersioned("") end, "getVersioned: the key")
    raises(function() memory.getVersioned(5) end, "getVersioned: the key", "a number")
  end)
end)

describe("get", function()
  before_each(prepare)
  after_each(clusters.finish)

  it("gives one value", function()
    absent(memory.get("k"))
    for _, value in ipairs { 5, false, "text", { a = 1 } } do
      put("k", value)
      assert.same({ value, n = 1 }, table.pack(memory.get("k")))
    end
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    raises(function() memory.get() end, "get: the key", "nil")
    raises(function() memory.get("") end, "get: the key", "0 bytes")
    raises(function() memory.get({}) end, "get: the key", "a table")
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

describe("outside a task", function()
  before_each(prepare)
  after_each(clusters.finish)

  -- What waits, and what does not.
  local calls = {
    set = { "k", 1 }, remove = { "k" }, increment = { "n" }, update = { "k", function() return 1 end },
    setMany = { { k = 1 } }, expire = { "k", 60000 }, persist = { "k" }, keys = {}, count = {}, clear = { "none" },
  }
  local reads = {
    get = { "k" }, getVersioned = { "k" }, getMany = { { "k" } }, has = { "k" }, ttl = { "k" }, stats = {},
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

  it("each function that waits raises, and with a callback works", function()
    for name in pairs(calls) do
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
  end)

  it("each function that does not wait gives what it gives in a task", function()
    put("k", 5, { ttl = 2 ^ 53 })
    for name, args in pairs(reads) do
      local function read() return memory[name](table.unpack(args)) end
      local inTask, elsewhere = table.pack(read()), table.pack(inLoop(read))
      if name == "ttl" then inTask, elsewhere = { inTask[1] // 60000 }, { elsewhere[1] // 60000 } end
      assert.same(inTask, elsewhere, name)
    end
  end)

  it("there is no function but these", function()
    for name in pairs(require "clustermem.keys") do assert.truthy(calls[name] or reads[name], name) end
  end)
end)
