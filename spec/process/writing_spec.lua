-- A script that only writes, and waits for nothing.
local clusters = require "clusters"

describe("a loop of 100,000 writes", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local writes = {
    set = "memory.set('k' .. i % 1000, i)",
    ["set with options"] = "memory.set('k' .. i % 1000, i, { ttl = 60000 })",
    remove = "memory.remove('k' .. i)",
    increment = "memory.increment('n')",
    expire = "if i == 1 then memory.set('n', 1) end memory.expire('n', 60000)",
    update = "memory.update('n', function(old) return (old or 0) + 1 end)",
    ["a set that fails"] = "memory.set('k', i, { ifPresent = true })",
    ["an expire that fails"] = "memory.expire('k', 60000)",
  }

  for name, write in pairs(writes) do
    it("lets timers and other tasks run meanwhile: " .. name, function()
      assert.equal("timer\ttask\n", clusters.output(([[
        local timer, other, both
        local handle = uv.new_timer()
        handle:start(1, 0, function() handle:close() timer = "timer" end)
        task.spawn(function() other = "task" end)
        for i = 1, 100000 do
          %s
          both = both or timer and other and i
        end
        print(both and timer, both and other)
      ]]):format(write)))
    end)
  end

  it("is stopped by SIGTERM gracefully", function()
    local c = clusters.start {
      workers = 2,
      app = [[
        local stop
        cluster.on("shutdown", function()
          stop = true
          memory.set("stopped" .. cluster.worker.slot, true)
          print "stopped"
        end)
        print "writes"
        local i = 0
        while not stop do
          i = i + 1
          memory.set("k" .. i % 100, i)
          memory.increment "n"
        end
      ]],
    }
    c:waitUntil("both", function() return c:count("writes\n") == 2 end)
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()), c.err)
    assert.equal(2, c:count("stopped\n"))
    assert.not_matches("did not stop", c.err)
  end)

  it("that ends the script is all there afterwards", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        if cluster.worker.slot == 1 then
          for i = 1, 100000 do memory.set("k" .. i, i) end
          memory.set("last", true)
          return
        end
        while not memory.get "last" do task.sleep(1) end
        local there = 0
        for i = 1, 100000 do there = there + (memory.get("k" .. i) == i and 1 or 0) end
        print(there, memory.count "k")
      ]],
    }
    assert.equal("100000\t100000\n", c.out, c.err)
  end)
end)

describe("tasks that write in loops", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- Writes that travel keep others of the same process behind them; that must end when they are answered.
  it("take the short way again after one of them has gone through the master", function()
    assert.equal("short\n", clusters.output [[
      local count, stop = 0, false
      for t = 1, 4 do
        task.spawn(function()
          while not stop do
            memory.set("k" .. t, t)
            count = count + 1
          end
        end)
      end
      local function writes()
        local before = count
        task.sleep(200)
        return count - before
      end
      local before = writes()
      memory.setMany { a = 1 }
      writes()
      -- Through the master they are twenty times slower and more.
      local after = writes()
      print(after > before / 5 and "short" or before .. " and then " .. after)
      cluster.exit(0)
    ]])
  end)
end)
