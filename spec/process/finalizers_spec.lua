local clusters = require "clusters"

-- A finalizer runs wherever Lua allocates, also in the midst of an operation, and may use the memory itself.
describe("finalizers that write, list and clear in the midst of", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local busy = [[
    local function drop()
      setmetatable({}, { __gc = function()
        memory.set("g", ("g"):rep(300), function() end)
        memory.keys("k", nil, function() end)
        memory.get("k1")
        drop()
      end })
    end
    collectgarbage("generational")
    for _ = 1, 50 do drop() end
  ]]

  it("keys, which lists everything right", function()
    assert.equal("right\n", clusters.output(busy .. [[
      for i = 1, 3000 do memory.set("k" .. i, i) end
      for _ = 1, 30 do
        local seen, names, cursor = {}, nil, nil
        repeat
          names, cursor = memory.keys("k", { limit = 500, cursor = cursor })
          for _, name in ipairs(names) do seen[name] = true end
        until not cursor
        for i = 1, 3000 do assert(seen["k" .. i], i) end
      end
      print "right"
      cluster.exit(0)
    ]]))
  end)

  it("clear and what is written meanwhile, which stays as it was written", function()
    assert.equal("right\n", clusters.output(busy .. [[
      for round = 1, 10 do
        for i = 1, 20000 do memory.set("k" .. i, i) end
        local cleared
        memory.clear("k", function(count) cleared = count end)
        local mine = {}
        for i = 1, 500 do
          local value = { text = ("v"):rep(i % 50), n = i }
          memory.set("k" .. i, value)
          mine["k" .. i + 1000] = value
        end
        assert(memory.setMany(mine) == "OK")
        while not cleared do task.sleep(1) end
        for i = 1, 500 do
          local value, other = memory.get("k" .. i), memory.get("k" .. i + 1000)
          assert(value.n == i and value.text == ("v"):rep(i % 50), i)
          assert(other.n == i and other.text == value.text, i)
        end
        assert(memory.count("k") == 1000, memory.count("k"))
      end
      print "right"
      cluster.exit(0)
    ]]))
  end)

  it("messages and requests, which come as they were sent", function()
    assert.equal("right\n", clusters.output [[
      local Hub = require "clustermem.hub"
      local hub, other = Hub.new(), Hub.new()
      local me = cluster.worker.id
      local function nothing() end
      local function drop()
        setmetatable({}, { __gc = function()
          hub:sendToWorker(me, "g", ("g"):rep(300), nothing)
          hub:requestWorker(me, "echo", "g", function(answer) assert(answer == "g") end)
          other:on("echo", nothing)
          other:off("echo", nothing)
          hub:emit("g", 1)
          drop()
        end })
      end
      local last = 0
      hub:on("g", nothing)
      hub:on("echo", function(data) return data end)
      hub:on("n", function(data)
        assert(data.n == last + 1 and data.text == ("v"):rep(data.n % 500), data.n)
        last = data.n
      end)
      collectgarbage("generational")
      for _ = 1, 20 do drop() end
      for i = 1, 5000 do
        local data = { n = i, text = ("v"):rep(i % 500) }
        hub:sendToWorker(me, "n", data, function(ok) assert(ok == "OK") end)
        if i % 5 == 0 then
          local echo = hub:requestWorker(me, "echo", data)
          assert(echo.n == i and echo.text == data.text, i)
        end
      end
      while last < 5000 do task.sleep(1) end
      print "right"
      cluster.exit(0)
    ]])
  end)
end)
