local clusters = require "clusters"
local uv = require "luv"

describe("a child that a script has forked", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local cpath = ("package.cpath = %q\n"):format(assert(uv.exepath()):match "^(.*/)" .. "spec/?.so")

  -- What is shared is no memory of the child's, and the session is the parent's: it may compute, wait for its own
  -- timers, and end.
  it("is no process of the cluster, and does the parent no harm", function()
    local c = clusters.run {
      "--log-level",
      "warn",
      app = cpath .. [[
        local forks = require "forks"
        local heard = 0
        local listening = memory.listen("key", function() heard = heard + 1 end)
        -- A conversation: the parent is awake, and looks for what comes.
        for i = 1, 500 do memory.set("key", i) end
        local function isClosed(ok, message, code) return not ok and #message > 0 and code == "closed" end
        local function live()
          for _ = 1, 20 do task.sleep(1) end
          assert(isClosed(memory.set("other", 1)) and isClosed(memory.get("key")))
          assert(isClosed(memory.tryLock("lock")))
          task.sleep(1)
        end
        -- What the first task asks for leaves when the turn is over, in which the second one forks.
        local child
        task.spawn(function() memory.set("key", 501) end)
        task.spawn(function()
          child = forks.fork()
          if child == 0 then forks.exit(pcall(live) and 7 or 1) end
        end)
        while not child do task.sleep(1) end
        if child == 0 then task.sleep(60000) end
        for i = 1, 500 do memory.set("key", -i) end
        print(forks.wait(child))
        local deadline = uv.now() + 10000
        while heard < 1001 and uv.now() < deadline do task.sleep(1) end
        memory.unlisten(listening)
        print(memory.get("key"), memory.get("other"), heard)
      ]],
    }
    assert.equal("7\n-500\tnil\t1001\n", c.out)
    assert.equal("", c.err)
  end)

  it("sends nothing that the parent was about to send", function()
    local c = clusters.run {
      "--log-level",
      "warn",
      app = cpath .. [[
        local forks, hub = require "forks", require("clustermem.hub").new()
        local master, sent, heard = uv.os_getppid(), ("x"):rep(900000), {}
        hub:on("text", function(text) heard[#heard + 1] = text == sent end)
        hub:sendToWorker(cluster.worker.id, "text", "first")
        local deadline = uv.now() + 10000
        while #heard < 1 and uv.now() < deadline do task.sleep(1) end
        uv.kill(master, "sigstop") -- more than the socket takes is left
        task.spawn(function() hub:sendToWorker(cluster.worker.id, "text", sent) end)
        task.sleep(10)
        local child = forks.fork()
        if child == 0 then
          local ok = pcall(function() for _ = 1, 20 do task.sleep(1) end end)
          forks.exit(ok and 7 or 1)
        end
        uv.kill(master, "sigcont")
        print(forks.wait(child))
        hub:sendToWorker(cluster.worker.id, "text", sent)
        while #heard < 3 and uv.now() < deadline do task.sleep(1) end
        print(table.unpack(heard))
        uv.kill(master, "sigterm")
      ]],
    }
    assert.equal("7\nfalse\ttrue\ttrue\n", c.out)
    assert.equal("", c.err)
  end)
end)
