local memory = require "clustermem"
local task = require "clustermem.task"
local null = require("cjson").null
local clusters = require "clusters"
local steps = require "keysteps"

local called, code, absent, done, put = steps.called, steps.code, steps.absent, steps.done, steps.put
local raises, sorted, prepare = steps.raises, steps.sorted, steps.prepare

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

  it("setMany gives a callback the same results", function()
    assert.same({ "OK", n = 1 }, called(memory.setMany, { a = 1 }))
    assert.same({ "OK", n = 1 }, called(memory.setMany, {}))
    assert.same({ { a = 1 }, n = 1 }, table.pack(memory.getMany { "a", "b" }))
  end)

  it("refuse what they cannot understand, at the caller's line", function()
    raises(function() memory.getMany() end, "getMany: its first argument", "nil")
    raises(function() memory.getMany("a") end, "getMany: its first argument")
    raises(function() memory.getMany { "a", 5 } end, "getMany: the key", "a number")
    raises(function() memory.getMany { "a", "" } end, "getMany: the key")
    raises(function() memory.getMany { "a", nil, "c" } end, "getMany: the key", "nil")
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
    -- An entry's overhead, and key and value in whole words; a number has none.
    memory.clear()
    put("k", ("x"):rep(100))
    assert.equal(40 + 8 + 104, memory.stats().used)
    put("k", 1.5)
    assert.equal(48 + 8, memory.stats().used)
    put("k", 1)
    assert.is_true(memory.stats().used < 200)
    memory.remove("k")
    assert.same(empty, (memory.stats()))
  end)

  it("has at least 85 % of --memory to use, and keeps count of it", function()
    local empty = memory.stats()
    assert.is_true(empty.free >= (1 << 30) * 0.85 and empty.free <= 1 << 30)
    for i = 1, 1000 do put("k" .. i, ("x"):rep(i)) end
    local full = memory.stats()
    assert.equal(1000, full.entries)
    assert.equal(empty.free, full.used + full.free)
    memory.clear()
    assert.same(empty, (memory.stats()))
  end)
end)
