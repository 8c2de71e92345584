-- Workers that are killed, or stand still, while all write as fast as they can: the others go on, and nothing that was
-- acknowledged is lost.
local clusters = require "clusters"

local WORKERS, ROUNDS = 4, 12

-- Each counts in a key of all and then in one of its slot, so that a death can leave the first one ahead by one; and
-- writes, replaces and removes values that tell by themselves whether they are whole.
local writer = [[
  local slot = cluster.worker.slot
  local letters = { "a", "b", "c", "d", "e" }
  local function whole(value)
    return value == nil or value == value:sub(1, 1):rep(#value)
  end
  local i = 0
  while not memory.get "stop" do
    i = i + 1
    assert(memory.increment "all")
    assert(memory.increment("slot" .. slot))
    local key = "k" .. math.random(100)
    local kind = math.random(8)
    if kind == 1 then
      assert(memory.remove(key))
    elseif kind == 2 then
      assert(memory.set(key, letters[slot]:rep(math.random(100000, 200000)), { ttl = math.random(5, 50) }))
    else
      assert(memory.set(key, letters[slot]:rep(math.random(1, 3000))))
    end
    assert(whole((memory.get("k" .. math.random(100)))), "torn")
    if i % 1000 == 0 then memory.count "k" end
  end
  memory.increment "ended"
  task.sleep(60000)
]]

-- In process 0: strikes a worker that has lived for a second (or it would be a crash loop), and waits until each of the
-- others has gone on, and the slot has a worker again.
local function boot(strike)
  return ([[
    local WORKERS, ROUNDS = %d, %d
    local seen = {}
    local function within(ms, what, fn)
      local deadline = uv.hrtime() + ms * 1e6
      while not fn() do
        assert(uv.hrtime() < deadline, what)
        task.sleep(2)
      end
    end
    local function counts()
      local list = {}
      for slot = 1, WORKERS do list[slot] = memory.get("slot" .. slot) or 0 end
      return list
    end
    local function victim(round)
      local now = uv.hrtime()
      local found
      for _, worker in ipairs(cluster.workers()) do
        seen[worker.id] = seen[worker.id] or now
        if worker.slot == round %% WORKERS + 1 and now - seen[worker.id] > 1.1e9 then found = worker end
      end
      return #cluster.workers() == WORKERS and found
    end
    local function goOn(struck)
      local before = counts()
      within(10000, "others do not go on", function()
        local now = counts()
        for slot = 1, WORKERS do
          if slot ~= struck and now[slot] < before[slot] + 100 then return false end
        end
        return true
      end)
    end
    task.spawn(function()
      for round = 1, ROUNDS do
        local worker
        within(20000, "no worker", function() worker = victim(round) return worker end)
        -- At some moment of its work.
        local start, wait = uv.hrtime(), math.random(0, 3000000)
        repeat until uv.hrtime() - start > wait
        %s
      end
      within(20000, "not all are there again", function() return victim(1) end)
      memory.set("stop", true)
      within(20000, "they do not stop", function() return memory.get "ended" == WORKERS end)
      local sum = 0
      for _, count in ipairs(counts()) do sum = sum + count end
      print("ahead " .. memory.get "all" - sum)
      local there = 0
      for _, key in ipairs((memory.keys("k", { limit = 1000 }))) do
        local value = memory.get(key)
        assert(value == nil or value == value:sub(1, 1):rep(#value), "torn")
        there = there + 1
      end
      assert(memory.clear "k" <= 100)
      within(5000, "expired ones stay", function() return memory.stats().entries == WORKERS + 3 end)
      print("cleared " .. there)
      cluster.shutdown()
    end)
  ]]):format(WORKERS, ROUNDS, strike)
end

local function run(strike)
  local c = clusters.run { workers = WORKERS, limit = 85000, boot = boot(strike), app = writer }
  assert.equal(0, c.code, c.err)
  local ahead = math.tointeger(c.out:match("ahead (%-?%d+)\n"))
  -- A death in between the two counts, each.
  assert.is_true(ahead and ahead >= 0 and ahead <= ROUNDS, c.out)
  assert.matches("cleared %d+\n", c.out)
  assert.not_matches("torn", c.err)
  assert.equal(ROUNDS, c:count("was killed by SIGKILL\n", "err"), c.err)
end

describe("a worker", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("that is killed in the midst of writes takes nothing from the others", function()
    run [[
      uv.kill(worker.pid, "sigkill")
      goOn(worker.slot)
    ]]
  end)

  it("that stands still in the midst of writes, and is killed later, does not hold the others up for long", function()
    run [[
      uv.kill(worker.pid, "sigstop")
      goOn(worker.slot)
      uv.kill(worker.pid, "sigkill")
    ]]
  end)
end)

describe("process 0", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("that is killed in the midst of writes takes nothing but the cluster's life, and that orderly", function()
    local c = clusters.run {
      workers = 2,
      boot = [[
        task.spawn(function()
          while (memory.get "turns" or 0) < 1000 do task.sleep(1) end
          task.spawn(function()
            while true do memory.set("k", ("z"):rep(math.random(5000))) end
          end)
          local timer = uv.new_timer()
          timer:start(20, 0, function() uv.kill(uv.os_getpid(), "sigkill") end)
        end)
      ]],
      app = [[
        local stop
        cluster.on("shutdown", function() stop = true print "stopped" end)
        while not stop do
          memory.increment "turns"
          memory.set("k", ("y"):rep(math.random(5000)))
        end
      ]],
    }
    assert.equal(1, c.code)
    assert.equal(2, c:count("stopped\n"), c.err)
  end)
end)
