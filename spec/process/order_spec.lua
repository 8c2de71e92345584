local memory = require "clustermem"
local task = require "clustermem.task"
local clusters = require "clusters"

describe("writes of one process apply in the order they were issued:", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  before_each(function() memory.clear() end)

  local function nothing() end

  it("a clear with a callback before a later set", function()
    local removed
    memory.set("a1", 1, nothing)
    memory.clear("a", function(count) removed = count end)
    memory.set("a2", 2)
    assert.equal(2, memory.get("a2"))
    while not removed do task.sleep(1) end
    assert.equal(1, removed)
    assert.is_nil(memory.get("a1"))
  end)

  it("a clear of more than a slice before sets that come between its slices", function()
    local pairs_ = {}
    for i = 1, 20000 do pairs_["many" .. i] = i end
    assert.equal("OK", memory.setMany(pairs_))
    local removed
    memory.clear("many", function(count) removed = count end)
    local later = 0
    while not removed do
      later = later + 1
      memory.set("many" .. later, "new")
    end
    -- Those that were set anew before their slice came are not among the cleared ones.
    assert.is_true(removed <= 20000 and removed >= 20000 - later)
    assert.equal(later, memory.count("many"))
  end)

  it("a clear takes what was only tried to be written meanwhile", function()
    local pairs_ = {}
    for i = 1, 20000 do pairs_["many" .. i] = i end
    assert.equal("OK", memory.setMany(pairs_))
    local removed
    local codes = {}
    local function take(_, _, code) codes[#codes + 1] = code end
    memory.clear("many", function(count) removed = count end)
    -- These go behind what the clear asks the master first, so they travel too.
    for i = 1, 100 do memory.set("many" .. i, "new", { ifAbsent = true }, take) end
    for i = 101, 200 do memory.set("many" .. i, "new", { ifVersion = math.maxinteger }, take) end
    memory.increment("many201", math.maxinteger, nil, take)
    local tried = 201
    while not removed do
      tried = tried + 1
      local name = "many" .. tried % 20000
      assert.equal("conflict", select(3, memory.set(name, "new", { ifVersion = math.maxinteger })))
      assert.equal("conflict", select(3, memory.remove(name, { ifVersion = math.maxinteger })))
      if tried % 100 == 0 then task.sleep(0) end
    end
    assert.equal(201, #codes)
    assert.equal(20000, removed)
    assert.equal(0, memory.count("many"))
  end)

  it("a clear spares what was written meanwhile though a later try failed", function()
    local results = {}
    local function take(...) results[#results + 1] = table.pack(...) end
    memory.setMany { k1 = 1, k2 = 1, k3 = 1 }
    local removed
    memory.clear("k", function(count) removed = count end)
    memory.set("k1", "new", take)
    memory.set("k1", "newer", { ifAbsent = true }, take)
    memory.set("k2", "new", { ifAbsent = true }, take)
    memory.set("k2", "newer", take)
    while not (removed and results[4]) do task.sleep(1) end
    assert.same({ "OK", "exists", "exists", "OK" },
      { results[1][1], results[2][3], results[3][3], results[4][1] })
    assert.equal(1, removed)
    assert.equal("new", memory.get("k1"))
    assert.equal("newer", memory.get("k2"))
  end)

  it("a write that the master does before those that need it not", function()
    local results = {}
    local function take(...) results[#results + 1] = table.pack(...) end
    memory.setMany({ k = 1 }, take)
    memory.set("k", 2, take)
    memory.increment("k", 5, take)
    memory.set("k", 3, { ifAbsent = true }, take)
    memory.remove("k", take)
    memory.expire("k", 60000, take)
    memory.set("k", 4, { ifAbsent = true }, take)
    memory.persist("k", take)
    -- None of them has been done by now, so this waits for its turn.
    assert.equal(5, memory.increment("k"))
    while #results < 8 do task.sleep(1) end
    local words = {}
    for i, result in ipairs(results) do words[i] = result[3] or result[1] end
    assert.same({ "OK", "OK", 7, "exists", "OK", "notfound", "OK", "OK" }, words)
    assert.equal(5, memory.get("k"))
  end)

  it("all of them, where the memory is nearly full and the master does some", function()
    local c = clusters.run {
      "--memory", "1M", workers = 2,
      app = [[
        if cluster.worker.slot == 2 then
          -- Takes and gives room again and again.
          local i = 0
          while not memory.get "stop" do
            i = i + 1
            memory.set("other" .. i % 200, ("o"):rep(i % 7 * 1000))
            if i % 3 == 0 then memory.remove("other" .. i % 191) end
          end
          return
        end
        local stored = 0
        while memory.set("fill" .. stored, ("x"):rep(3000)) do stored = stored + 1 end
        local names = { "a", "b", "c" }
        local is, answers, refused = {}, 0, 0
        -- Called back in the order in which they were issued, or each at once: so each compares what it is told with
        -- what is to be after those before it.
        local function expect(fn)
          answers = answers + 1
          local mine = answers
          is[mine] = { fn = fn }
          return function(value, _, code) is[mine].value, is[mine].code, is[mine].done = value, code, true end
        end
        for round = 1, 200 do
          for _ = 1, 30 do
            local name, kind = names[math.random(3)], math.random(6)
            local value = ("v"):rep(math.random(0, 6000))
            if kind == 1 then
              memory.set(name, value, expect(function(there) there[name] = value end))
            elseif kind == 2 then
              memory.set(name, value, { ifAbsent = true }, expect(function(there, code)
                if there[name] then return "exists" end
                there[name] = not code and value or nil
              end))
            elseif kind == 3 then
              memory.remove(name, expect(function(there) there[name] = nil end))
            elseif kind == 4 then
              memory.setMany({ [name] = value, n = 5 }, expect(function(there) there[name], there.n = value, 5 end))
            elseif kind == 5 then
              memory.expire(name, 0, expect(function(there) return not there[name] and "notfound" or nil end))
            else
              memory.increment("n", 1, expect(function(there) there.n = (there.n or 0) + 1 return nil, there.n end))
            end
          end
          if round % 10 == 0 then memory.remove("fill" .. round // 10) end
          task.sleep(0)
        end
        memory.setMany {}
        for i = 1, answers do while not is[i].done do task.sleep(1) end end
        local there = {}
        for i = 1, answers do
          local answer = is[i]
          if answer.code == "nomemory" then
            refused = refused + 1
          else
            local code, value = answer.fn(there, answer.code)
            assert(answer.code == code, ("%d: %s instead of %s"):format(i, answer.code, code))
            assert(not value or value == answer.value, i)
          end
        end
        for _, name in ipairs { "a", "b", "c", "n" } do assert(memory.get(name) == there[name], name) end
        print(refused > 0 and refused < answers and "in order")
        memory.remove "fill0"
        while not memory.set("stop", true) do memory.clear "fill" end
      ]],
    }
    assert.equal("in order\n", c.out, c.err)
    assert.equal(0, c.code, c.err)
  end)

  it("a callback is never called before its function has returned", function()
    local returned, order = false, {}
    local ended = task.spawn(nothing)
    task.join(ended)
    task.join(ended, function() order[#order + 1] = returned end)
    task.await(function(resume) resume() end, function() order[#order + 1] = returned end)
    memory.set("x", 1, function() order[#order + 1] = returned end)
    memory.setMany({ x = 1 }, function() order[#order + 1] = returned end)
    returned = true
    while #order < 4 do task.sleep(1) end
    assert.same({ true, true, true, true }, order)
  end)
end)
