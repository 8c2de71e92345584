-- clear where some of the keys are listened for: those are the master's to remove.
local memory = require "clustermem"
local task = require "clustermem.task"
local clusters = require "clusters"
local steps = require "keysteps"
local locksteps = require "locksteps"

-- A third of them is not so many that a listener falls behind, which would be told gaps.
local KEYS = 3000

describe("clear", function()
  local handles

  before_each(function()
    steps.prepare()
    handles = {}
  end)
  after_each(function()
    for _, handle in ipairs(handles) do memory.unlisten(handle) end
    clusters.finish()
  end)

  -- Listens for all keys with the prefix; key -> how often a cause was told.
  local function listen(prefix, cause)
    local seen = { total = 0 }
    handles[#handles + 1] = assert(memory.listen(prefix, function(_, info)
      if info.cause ~= cause then return end
      seen.total = seen.total + 1
      seen[info.key] = (seen[info.key] or 0) + 1
    end, { prefix = true }))
    return seen
  end

  it("removes watched and unwatched keys, counts all of them, and each watched one is told once", function()
    for i = 1, KEYS do memory.set((i % 3 == 0 and "a:w" or "a:u") .. i, i) end
    memory.set("b", 1)
    local seen = listen("a:w", "clear")
    assert.equal(KEYS, memory.clear "a:")
    assert.equal(1, memory.count())
    assert.equal(0, memory.clear "a:")
    locksteps.waitUntil("all are told", function() return seen.total >= KEYS // 3 end)
    for i = 3, KEYS, 3 do assert.equal(1, seen["a:w" .. i]) end
    assert.equal(KEYS // 3, seen.total)
  end)

  it("keeps watched keys that this process sets meanwhile", function()
    for i = 1, KEYS do memory.set("w" .. i, "old") end
    listen("w", "clear")
    local cleared
    local clearing = task.spawn(function()
      cleared = memory.clear "w"
      return cleared
    end)
    -- Once the first of them are gone.
    repeat task.sleep(0) until memory.count "w" < KEYS
    local during = not cleared
    for i = 1, KEYS do memory.set("w" .. i, "new", i % 2 == 0 and function() end or nil) end
    -- What has been set before it came there was not there any more.
    assert.is_true(task.join(clearing) <= KEYS)
    assert.is_true(during)
    memory.setMany {} -- behind all that has been issued
    for i = 1, KEYS do assert.equal("new", (memory.get("w" .. i))) end
  end)

  it("removes watched keys of the greatest length, which are many times what may be on its way", function()
    local LONG = 300
    for i = 1, LONG do memory.set(("w%05d"):format(i) .. ("k"):rep(60000), i) end
    listen("w", "clear")
    assert.equal(LONG, memory.clear "w")
    assert.equal(0, memory.count "w")
  end)

  it("calls back, and is done for two processes at once", function()
    local c = clusters.run {
      workers = 2,
      app = locksteps.prelude .. [[
        local KEYS, slot = 800, cluster.worker.slot
        local seen, total = {}, 0
        if slot == 1 then
          for i = 1, KEYS do memory.set("w" .. i, i) end
        end
        memory.listen("w", function(_, info)
          if info.cause ~= "clear" then return end
          assert(not seen[info.key], "told twice")
          seen[info.key], total = true, total + 1
        end, { prefix = true })
        memory.increment "ready"
        waitUntil(function() return memory.get "ready" == 2 end)
        memory.clear("w", function(count, ...)
          assert(math.type(count) == "integer" and select("#", ...) == 0)
          memory.set("count" .. slot, count)
        end)
        waitUntil(function() return memory.get "count1" and memory.get "count2" end)
        assert(memory.count "w" == 0 and memory.get "count1" + memory.get "count2" >= KEYS)
        waitUntil(function() return total == KEYS end)
        print "all of them"
        cluster.exit(0)
      ]],
    }
    assert.equal("all of them\nall of them\n", c.out, c.err)
  end)
end)
