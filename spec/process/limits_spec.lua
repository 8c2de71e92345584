local clusters = require "clusters"

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
