local clusters = require "clusters"
local uv = require "luv"

describe("the watchdog (--watchdog)", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local LIMIT_MS = 400

  -- The first worker hangs; who comes after it says so and ends.
  local function hang(how, options)
    options = options or {}
    options[1], options[2] = "--watchdog", tostring(LIMIT_MS)
    options.app = [[
      if cluster.worker.id > 1 then print "replaced" return end
      local function spin() while true do pcall(function() while true do end end) end end
      print "up"
    ]] .. how
    return clusters.run(options)
  end

  -- The lines of the traceback that are the script's own.
  local function places(c)
    local trace = c.err:match("worker 1: has not answered for 400 ms %(%-%-watchdog%)\nstack traceback:\n(.-)\n%d")
    local list = {}
    for place in (trace or ""):gmatch("\tapp.lua:(%d+): in [^\n]+") do list[#list + 1] = math.tointeger(place) end
    return list
  end

  for where, how in pairs {
    ["the main chunk"] = "spin()",
    ["a task"] = "task.spawn(function() task.sleep(5) spin() end)",
    ["a coroutine of the script's own"] = [[task.spawn(function()
      coroutine.wrap(function() coroutine.wrap(function() task.sleep(5) spin() end)() end)()
    end)]],
    ["a coroutine outside of any task"] = [[uv.new_timer():start(5, 0, function()
      assert(coroutine.resume(coroutine.create(spin)))
    end)]],
    ["a callback of luv's"] = "uv.new_timer():start(5, 0, spin)",
    ["a function that C calls"] = "table.sort({ 1, 2, 3 }, spin)",
    ["a shutdown listener"] = "cluster.on('shutdown', spin) uv.kill(cluster.worker.pid, 'sigterm') task.sleep(60000)",
  } do
    it(("ends a worker that hangs in %s, with a traceback, and it is replaced"):format(where), function()
      local c = hang(how)
      assert.equal("up\nreplaced\n", c.out)
      assert.equal(0, c.code)
      assert.matches("error worker 1 %(slot 1, pid %d+%) has not answered for 400 ms %(%-%-watchdog%) and is ended\n",
        c.err)
      assert.matches("error worker 1 %(slot 1, pid %d+%) exited with code 1\n", c.err)
      assert.not_matches("is killed", c.err)
      assert.equal(2, places(c)[1], c.err)
    end)
  end

  it("shows the whole way, through all coroutines, to the task", function()
    local c = hang [[
      local function inner() task.sleep(1)
        spin() end
      local function outer()
        coroutine.wrap(inner)() end
      coroutine.wrap(outer)()
    ]]
    assert.same({ 2, 5, 7, 8 }, table.move(places(c), math.max(1, #places(c) - 3), #places(c), 1, {}), c.err)
  end)

  for where, how in pairs {
    ["a C function that never returns"] = "uv.sleep(60000)",
    ["a finalizer"] = "setmetatable({}, { __gc = spin }) collectgarbage()",
    ["no code at all, being stopped"] = "uv.kill(cluster.worker.pid, 'sigstop') task.sleep(60000)",
  } do
    it(("kills a worker that hangs in %s, and says that there is no traceback"):format(where), function()
      local c = hang(how)
      assert.equal("up\nreplaced\n", c.out)
      assert.equal(0, c.code)
      assert.matches("error worker 1 %(slot 1, pid %d+%) has not answered for 400 ms", c.err)
      assert.matches("error worker 1 %(slot 1, pid %d+%) gives no traceback %(.-%) and is killed\n", c.err)
      assert.matches("was killed by SIGKILL\n", c.err)
      assert.equal(0, #places(c))
    end)
  end

  it("leaves alone who answers in time, is idle, or has nothing of its own to do", function()
    local c = clusters.run {
      "--watchdog", tostring(LIMIT_MS), workers = 2,
      app = [[
        local function work(ms)
          local start = uv.hrtime()
          repeat until uv.hrtime() - start > ms * 1e6
        end
        if cluster.worker.slot == 1 then
          for _ = 1, 20 do work(100) task.sleep(0) end
        else
          task.sleep(2000)
        end
        print "done"
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("done\ndone\n", c.out)
    assert.not_matches("has not answered", c.err)
  end)

  it("counts no time in which the master stood still too", function()
    local c = clusters.start {
      "--watchdog", tostring(LIMIT_MS),
      app = "print('up ' .. cluster.worker.pid) while not uv.fs_stat 'go' do task.sleep(1) end print 'well'",
    }
    local pid = c:waitFor("up (%d+)")
    c:kill("sigstop")
    c:kill("sigstop", pid)
    local still = uv.now() + 4 * LIMIT_MS
    c:waitUntil("the time", function() return uv.now() > still end)
    c:kill("sigcont", pid)
    c:kill("sigcont")
    c:write("go", "")
    assert.equal(0, (c:waitExit()))
    assert.matches("well\n", c.out)
    assert.not_matches("has not answered", c.err)
  end)

  it("ends process 0 too, and with it the cluster", function()
    local c = clusters.run {
      "--watchdog", tostring(LIMIT_MS),
      boot = "task.spawn(function() while not memory.get 'up' do task.sleep(1) end while true do end end)",
      app = "memory.set('up', true) cluster.on('shutdown', function() print 'left' end) task.sleep(60000)",
    }
    assert.equal(1, c.code)
    assert.equal("left\n", c.out)
    assert.matches("process 0: has not answered for 400 ms %(%-%-watchdog%)\nstack traceback:\n\tboot.lua:1: in", c.err)
    assert.matches("the master script failed, so the cluster ends", c.err)
  end)

  it("is the last error of a crash loop, and the reason of a reload that ends", function()
    local c = clusters.start {
      "--watchdog", tostring(LIMIT_MS),
      app = "print 'up' task.sleep(60000)",
    }
    c:waitFor("up")
    c:writeApp("while true do end")
    c:kill("sighup")
    c:waitFor("the reload ends here: the new worker of slot 1 did not come online: worker 2: has not answered for "
      .. "400 ms %(%-%-watchdog%)\n", "err")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()))
  end)

  it("leaves the others at their work", function()
    local c = clusters.run {
      "--watchdog", tostring(LIMIT_MS), workers = 2,
      app = [[
        if cluster.worker.slot == 2 then
          while not memory.get "again" do memory.increment "steps" task.sleep(1) end
          print(memory.get "steps" > 100)
        elseif cluster.worker.id == 1 then
          while true do end
        end
        memory.set("again", true)
      ]],
    }
    assert.equal(0, c.code)
    assert.equal("true\n", c.out)
  end)

  it("is off by default", function()
    local c = clusters.run { app = "local s = uv.hrtime() repeat until uv.hrtime() - s > 1e9 print 'done'" }
    assert.equal(0, c.code)
    assert.equal("done\n", c.out)
  end)
end)
