local clusters = require "clusters"

describe("tasks that wait for each other for ever", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("are told so also where task.all is one of the waits", function()
    local c = clusters.run {
      limit = 5000,
      app = [[
        local first
        first = task.spawn(function()
          return task.all { function() return (select(2, pcall(task.join, first))) end }
        end)
        print(task.join(first))
      ]],
    }
    assert.matches("wait for each other", c.out)
  end)
end)

describe("the loop", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is not held up by a task that sleeps 0 ms again and again", function()
    assert.equal("spawned\ntimer\nreply\nsignal\n", clusters.output [[
      local said = {}
      local function say(word) said[word] = true end
      task.spawn(say, "spawned")
      uv.new_timer():start(5, 0, function() say "timer" end)
      memory.setMany({ k = 1 }, function() say "reply" end)
      local signal = uv.new_signal()
      signal:start("sigusr1", function() say "signal" end)
      uv.kill(cluster.worker.pid, "sigusr1")
      local deadline = uv.hrtime() + 5e9
      repeat
        task.sleep(0)
      until said.spawned and said.timer and said.reply and said.signal or uv.hrtime() > deadline
      for _, word in ipairs { "spawned", "timer", "reply", "signal" } do
        if said[word] then print(word) end
      end
      os.exit()
    ]])
  end)

  it("is not held up by two tasks that compute longer than they sleep", function()
    assert.equal("reply\n", clusters.output [[
      local reply
      local deadline = uv.hrtime() + 5e9
      local function compute()
        while not reply and uv.hrtime() < deadline do
          local start = uv.hrtime()
          repeat until uv.hrtime() - start > 3e6
          task.sleep(1)
        end
      end
      task.spawn(compute)
      task.spawn(compute)
      task.sleep(20)
      memory.setMany({ k = 1 }, function() reply = true end)
      while not reply and uv.hrtime() < deadline do task.sleep(1) end
      print(reply and "reply" or "nothing")
      os.exit()
    ]])
  end)

  it("is not held up by tasks that spawn tasks again and again", function()
    assert.equal("reply\n", clusters.output [[
      local reply
      local deadline = uv.hrtime() + 5e9
      local function again()
        if not reply and uv.hrtime() < deadline then task.spawn(again) end
      end
      again()
      memory.setMany({ k = 1 }, function() reply = true end)
      while not reply and uv.hrtime() < deadline do task.sleep(1) end
      print(reply and "reply" or "nothing")
    ]])
  end)

  it("are woken also when making their wake-up runs finalizers that spawn others", function()
    assert.equal("all ran\n", clusters.output [[
      local spawned, ran, rounds = 0, 0, 0
      local function bump() ran = ran + 1 end
      local meta = { __gc = function() spawned = spawned + 1 task.spawn(bump) end }
      local many = {}
      for i = 1, 240 do many[i] = i end
      -- Each turn begins with nothing to wake; a large wake-up is what most often runs a finalizer.
      local idle = uv.new_idle()
      idle:start(function()
        rounds = rounds + 1
        for _ = 1, 3 do setmetatable({}, meta) end
        spawned = spawned + 1
        task.spawn(bump, table.unpack(many))
        if rounds == 10000 then idle:close() end
      end)
      while rounds < 10000 or ran < spawned do
        task.await(function(resume)
          local wait = uv.new_timer()
          wait:start(1, 0, function() wait:close() resume() end)
        end)
      end
      collectgarbage("stop")
      print "all ran"
      cluster.exit()
    ]])
  end)
end)
