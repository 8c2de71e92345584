local memory = require "clustermem"
local task = require "clustermem.task"

describe("writes of one process apply in the order they were issued:", function()
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

  it("a callback is never called before its function has returned", function()
    local returned, order = false, {}
    local ended = task.spawn(nothing)
    task.join(ended)
    task.join(ended, function() order[#order + 1] = returned end)
    task.await(function(resume) resume() end, function() order[#order + 1] = returned end)
    memory.has("x", function() order[#order + 1] = returned end)
    returned = true
    while #order < 3 do task.sleep(1) end
    assert.same({ true, true, true }, order)
  end)
end)
