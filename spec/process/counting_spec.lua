-- Several workers change the same entries as fast as they can: no change may be lost.
local clusters = require "clusters"

local WORKERS = 4
local LIMIT_MS = 80000

-- Runs the script in each worker; the last one to be done then prints what `result` gives.
local function together(app, result)
  local c = clusters.run {
    workers = WORKERS,
    limit = LIMIT_MS,
    app = ("local WORKERS = %d\n"):format(WORKERS) .. app .. [[
      if memory.increment("done") == WORKERS then
        assert(memory.count("failed") == 0)
        print((function() ]] .. result .. [[ end)())
      end
    ]],
  }
  assert.equal(0, c.code, c.err)
  return c.out
end

describe("workers that count together", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("lose no increment, and give no sum twice", function()
    -- Each sum once: then they add up to 1 + 2 + .. + N.
    local out = together([[
      local EACH = 20000
      local last, total, called = 0, 0, 0
      local function take(sum)
        assert(sum > last)
        last, total = sum, total + sum
      end
      for _ = 1, EACH / 2 do take(memory.increment("n")) end
      for i = 1, EACH / 2 do
        memory.increment("n", function(sum)
          called = called + 1
          take(sum)
        end)
        if i % 100 == 0 then task.sleep(0) end
      end
      while called < EACH / 2 do task.sleep(1) end
      memory.increment("total", total)
    ]], [[ return memory.get("n"), memory.get("total") ]])
    local all = WORKERS * 20000
    assert.equal(("%d\t%d\n"):format(all, all * (all + 1) // 2), out)
  end)

  it("end with exactly what all have added", function()
    assert.equal("200000\n", together("for _ = 1, 50000 do memory.increment('n') end", "return memory.get 'n'"))
  end)

  it("end with exactly what all have added where the sums are floats and the keys of many lengths", function()
    local out = together([[
      for i = 1, 20000 do
        memory.increment("n", 0.5)
        memory.increment(("long"):rep(1 + i % 3 * 1000), i % 2 == 0 and 1 or -1)
        if i % 100 == 0 then memory.increment(("longest"):rep(9000), 2) end
      end
    ]], [[
      local sums = {}
      for i = 0, 2 do sums[#sums + 1] = tostring(memory.get(("long"):rep(1 + i * 1000))) end
      return memory.get("n") .. " " .. memory.get(("longest"):rep(9000)) .. " " .. table.concat(sums, " ")
    ]])
    -- Of every three in a row, the odd and the even ones are as many, but for the rest.
    local odd = { [0] = 0, 0, 0 }
    for i = 1, 20000 do odd[i % 3] = odd[i % 3] + (i % 2 == 0 and WORKERS or -WORKERS) end
    assert.equal(("40000.0 1600 %d %d %d\n"):format(odd[0], odd[1], odd[2]), out)
  end)

  it("lose no update of a table", function()
    local out = together([[
      local EACH = 500
      local me = "worker" .. cluster.worker.id
      local runs = 0
      for i = 1, EACH do
        local new = memory.update("t", function(old)
          runs = runs + 1
          old = old or { count = 0, by = {} }
          assert((old.by[me] or 0) == i - 1, "an update is lost")
          old.by[me] = i
          old.count = old.count + 1
          return old
        end)
        assert(new.by[me] == i)
      end
      memory.increment("runs", runs)
    ]], [[
      local t, workers = memory.get("t"), 0
      for _, count in pairs(t.by) do
        assert(count == 500)
        workers = workers + 1
      end
      assert(memory.get("runs") >= t.count)
      return t.count, workers
    ]])
    assert.equal(("%d\t%d\n"):format(WORKERS * 500, WORKERS), out)
  end)

  it("let one of them make each entry, and one take it", function()
    local out = together([[
      local made, taken = 0, 0
      for i = 1, 500 do
        local _, _, code = memory.set("entry" .. i, cluster.worker.id, { ifAbsent = true })
        assert(code == nil or code == "exists")
        made = made + (code and 0 or 1)
      end
      memory.increment("made", made)
      memory.increment("ready")
      -- When nobody makes one any more, each is taken once.
      while memory.get("ready") < WORKERS do task.sleep(1) end
      for i = 1, 500 do
        local value, version = memory.getVersioned("entry" .. i)
        if value and memory.remove("entry" .. i, { ifVersion = version }) then taken = taken + 1 end
      end
      memory.increment("taken", taken)
    ]], [[ return memory.get("made"), memory.get("taken"), memory.count("entry") ]])
    assert.equal("500\t500\t0\n", out)
  end)
end)
