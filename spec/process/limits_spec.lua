local clusters = require "clusters"

describe("a full memory", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- In front of each script: fills the memory of 1M, which is left with less than one such value.
  local fill = [[
    local function code(value, message, word)
      assert(value == nil and #message > 0, "it has worked")
      return word
    end
    local usable = memory.stats().free
    assert(usable >= 0.85 * (1 << 20) and usable <= 1 << 20, usable)
    local stored = 0
    while memory.set("fill" .. stored, ("x"):rep(10000)) do stored = stored + 1 end
    assert(stored >= 70 and stored <= 105, stored)
    local small = 0
    while memory.set("small" .. small, 1) do small = small + 1 end
    local full = memory.stats()
    assert(full.used >= 0.85 * (1 << 20) and full.used <= usable, full.used)
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

  it("has used and free bytes that are together what there was to use", function()
    prints("0 too much\n", [[ print(full.used + full.free - usable .. " too much") ]])
  end)

  it("takes values of the same size in the place of others, and increments of numbers", function()
    prints("ok\n", [[
      for round = 1, 3 do
        for i = 0, stored - 1 do
          assert(memory.set("fill" .. i, (("a"):byte() + round .. ""):rep(5000):sub(1, 10000)))
        end
        for i = 0, small - 1 do
          assert(memory.increment("small" .. i) == 1 + round)
          assert(memory.set("small" .. i, 1 + round) == "OK")
        end
      end
      print "ok"
    ]])
  end)

  it("of small entries takes others in their place", function()
    local c = clusters.run {
      "--memory", "2M",
      app = [[
        local stored, refused = 0, 0
        while memory.set("k" .. stored, ("x"):rep(10)) do stored = stored + 1 end
        for i = 0, stored - 1 do
          if not memory.set("k" .. i, ("y"):rep(10)) then refused = refused + 1 end
        end
        print(stored > 20000, refused)
      ]],
    }
    assert.equal("true\t0\n", c.out, c.err)
  end)

  it("still reads, lists, removes, shrinks and counts", function()
    prints("ok\n", [[
      assert(memory.get("fill5") == ("x"):rep(10000))
      assert(memory.count("fill") == stored and #memory.keys("fill") == stored)
      assert(memory.expire("fill5", 60000) == "OK" and memory.ttl("fill5") > 50000)
      assert(memory.persist("fill5") == "OK")
      assert(memory.set("fill5", ("y"):rep(10000), { ttl = 60000 }) == "OK")
      assert(memory.setMany { fill1 = ("z"):rep(9000), fill2 = ("z"):rep(9000) } == "OK")
      assert(memory.update("fill5", function() return "short" end) == "short")
      assert(memory.set("new", ("x"):rep(9500)) == "OK")
      assert(memory.remove("fill6") == "OK")
      assert(memory.increment("number") == 1)
      assert(memory.set("newer", ("x"):rep(9500)) == "OK")
      assert(memory.clear("fill") == stored - 1)
      assert(memory.set("large", ("x"):rep(700000)) == "OK")
      print "ok"
    ]])
  end)

  it("has room again when something has expired", function()
    prints("ok\n", [[
      assert(memory.expire("fill7", 300) == "OK")
      assert(memory.expire("fill8", 300) == "OK")
      assert(code(memory.set("new", ("y"):rep(18000))) == "nomemory")
      local tries = 0
      while not memory.set("new", ("y"):rep(18000)) do
        task.sleep(1)
        tries = tries + 1
      end
      assert(not memory.has("fill7") and memory.get("new") == ("y"):rep(18000))
      print(tries > 0 and "ok")
    ]])
  end)
end)

describe("a memory that several workers fill at once", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is full for all of them, and has room for all when they have removed something", function()
    local c = clusters.run {
      workers = 4, "--memory", "4M", "--restart", "never",
      boot = 'memory.setMany { full = 0, removed = 0, again = 0 }',
      app = [[
        local function together(name)
          assert(memory.increment(name))
          while memory.get(name) < 4 do task.sleep(1) end
        end
        local function value(i) return ("%d.%d "):format(cluster.worker.slot, i):rep(300):sub(1, 900) end
        local function key(i) return cluster.worker.slot .. ":" .. i end
        local stored, message, code = 0
        while true do
          local ok
          ok, message, code = memory.set(key(stored), value(stored))
          if not ok then break end
          stored = stored + 1
        end
        assert(code == "nomemory" and #message > 0, code)
        local used = memory.stats().used
        assert(used >= 0.85 * (4 << 20) and used <= 4 << 20, used)
        together "full"
        for i = 0, stored - 1, 2 do assert(memory.remove(key(i)) == "OK") end
        together "removed"
        -- Not to the last byte: what the workers have begun to fill is split otherwise this time.
        local back = stored - stored // 16
        for i = 0, back, 2 do assert(memory.set(key(i), value(i))) end
        together "again"
        for i = 0, stored - 1 do
          assert(memory.get(key(i)) == ((i % 2 == 1 or i <= back) and value(i) or nil), key(i))
        end
        print "all there"
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal(4, c:count("all there\n"))
  end)
end)

describe("a memory that the system does not grant", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is said so in a line, and nothing starts", function()
    if clusters.isSanitized() then return end
    local c = clusters.run { "--memory", "8G", shell = "ulimit -v 2000000", app = "print 'ran'" }
    assert.equal(1, c.code)
    assert.equal("", c.out)
    assert.matches("^[^\n]*error [^\n]*8589934592 bytes %(%-%-memory%)[^\n]*\n$", c.err)
  end)

  it("is no matter for one that fits", function()
    if clusters.isSanitized() then return end
    local c = clusters.run { "--memory", "64M", shell = "ulimit -v 2000000", app = "print 'ran'" }
    assert.equal("ran\n", c.out, c.err)
  end)
end)

describe("more processes than there are places for", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("are refused, until one of the others has ended", function()
    local c = clusters.run {
      workers = 0,
      boot = [[
        local function settled(count)
          while #cluster.workers() ~= count do task.sleep(1) end
        end
        local forked, worker, message, code = 0
        repeat
          worker, message, code = cluster.fork { script = "other.lua" }
          forked = forked + (worker and 1 or 0)
        until not worker or forked > 100
        print(forked, #message > 0, code)
        print(memory.set("k", 1))
        settled(forked)
        uv.kill(cluster.workers()[1].pid, "sigterm")
        settled(forked - 1)
        print(type(cluster.fork { script = "other.lua" }))
        print(select(3, cluster.fork { script = "other.lua" }))
        cluster.shutdown()
      ]],
      files = { ["other.lua"] = 'require("clustermem.task").sleep(60000)' },
    }
    assert.matches("^47\ttrue\tEAGAIN\nOK\t%d+\ntable\nEAGAIN\n$", c.out, nil, nil, c.err)
    assert.equal(0, c.code, c.err)
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
