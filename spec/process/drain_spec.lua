local clusters = require "clusters"

-- What serves registers with cluster.atStop: see lua/clustermem/cluster.lua.
describe("what serves in a process that is asked to stop", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- A server that takes on a job every millisecond, each of which takes 30; says when it begins to stop and is done.
  local server = [[
    local task, cluster = require "clustermem.task", require "clustermem.cluster"
    return function(name)
      local taken, done, open = 0, 0, true
      task.spawn(function()
        while open do
          taken = taken + 1
          task.spawn(function() task.sleep(30) done = done + 1 end)
          task.sleep(1)
        end
      end)
      return cluster.atStop(function()
        open = false
        print(name .. " closes")
      end, function()
        print(name .. " drains")
        while done < taken do task.sleep(1) end
        print(name .. " has lost " .. taken - done)
      end)
    end
  ]]
  local serve = [[
    local server = require "server"
    cluster.on("shutdown", function() print "listener" task.sleep(5) print "listener done" end)
    server "a"
    server "b"
    task.spawn(function() task.sleep(60000) print "never" end)
    task.sleep(5)
    print("up " .. cluster.worker.pid)
    task.sleep(60000)
  ]]

  local function start(options)
    options.files = { ["server.lua"] = server }
    local c = clusters.start(options)
    return c, c:waitFor("up (%d+)\n")
  end

  local order = "a closes\nb closes\na drains\nb drains\nlistener\nlistener done\n.*has lost 0\n"

  it("closes before the shutdown listeners, and is waited for", function()
    local c = start { app = serve }
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.matches(order, c.out)
    assert.matches("a has lost 0\n", c.out)
    assert.matches("b has lost 0\n", c.out)
    assert.not_matches("never", c.out)
  end)

  it("does so in process 0, and in a worker that gets SIGTERM itself", function()
    local c = start { boot = serve:gsub("task.sleep%(60000%)%s*$", ""), app = "task.sleep(60000)" }
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.matches(order, c.out)

    local pid
    c, pid = start { app = serve }
    c:kill("sigterm", pid)
    assert.equal(0, (c:waitExit()))
    assert.matches(order, c.out)
  end)

  it("does so in a reload, before the next slot's turn", function()
    local c = start { workers = 2, app = serve }
    c:waitUntil("both", function() return c:count("up %d+\n") == 2 end)
    c:writeApp("print('new ' .. cluster.worker.slot) task.sleep(60000)")
    c:kill("sighup")
    c:waitFor("reload: done", "err")
    assert.matches("new 1\n" .. order .. ".*new 2\n" .. order, c.out)
    assert.equal(4, c:count("has lost 0"))
    assert.not_matches("is killed", c.err)
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
  end)

  it("is waited for up to --grace", function()
    local c = start {
      "--grace", "200",
      app = [[
        cluster.atStop(function() end, function() print "drains" task.sleep(60000) end)
        print "up 1"
        task.sleep(60000)
      ]],
    }
    c:kill("sigterm")
    assert.equal(1, (c:waitExit()))
    assert.matches("drains\n", c.out)
    assert.matches("did not stop within 200 ms and is killed", c.err)
  end)

  it("may have been forgotten, and may come late", function()
    local c = start {
      app = [[
        local forget = cluster.atStop(function() print "forgotten" end, function() print "forgotten" end)
        forget()
        forget()
        cluster.on("shutdown", function()
          task.sleep(2)
          cluster.atStop(function() print "late" end, function() task.sleep(20) print "late is done" end)()
        end)
        print "up 1"
        task.sleep(60000)
      ]],
    }
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
    assert.matches("late\nlate is done\n", c.out)
    assert.not_matches("forgotten", c.out)
  end)

  it("whose functions raise keeps nobody else from finishing", function()
    local bad, good = "function() error 'boom' end", "function() end"
    for _, functions in ipairs { bad .. "," .. good, good .. "," .. bad } do
      local c = start {
        app = ("cluster.atStop(%s) local server = require 'server' server 'a' task.sleep(5) "):format(functions)
          .. "print 'up 1' task.sleep(60000)",
      }
      c:kill("sigterm")
      c:waitExit()
      assert.matches("a has lost 0\n", c.out)
      assert.matches("worker 1: app.lua:1: boom\nstack traceback:", c.err)
      assert.matches("exited with code 1", c.err)
    end
  end)
end)
