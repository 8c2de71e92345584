local clusters = require "clusters"

describe("--worker-memory", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local SAID = "worker 1: not enough memory: the Lua heap has reached %-%-worker%-memory %(8M%)\n"
  local leak = "local function leak() local t = {} while true do t[#t + 1] = { #t } end end "

  -- The first worker fills its heap; who comes after it says so and ends.
  local function fill(how, options)
    options = options or {}
    options[1], options[2] = "--worker-memory", "8M"
    options.app = leak .. "if cluster.worker.id > 1 then print 'again' return end\n" .. how
    return clusters.run(options)
  end

  for where, how in pairs {
    ["in the main chunk"] = "leak()",
    ["that it keeps"] = "kept = {} while true do kept[#kept + 1] = ('x'):rep(100) .. #kept end",
    ["in a task"] = "task.spawn(function() task.sleep(1) leak() end) task.sleep(60000)",
    ["in a coroutine"] = "task.sleep(1) coroutine.wrap(function() coroutine.wrap(leak)() end)()",
    ["in a callback of luv's"] = "uv.new_timer():start(1, 0, leak) task.sleep(60000)",
    ["at once, with one string"] = "print(#('x'):rep(20000000))",
    ["with strings that C joins"] = "local t = {} while true do t[#t + 1] = ('y'):rep(1e5) table.concat(t) end",
    ["in a function that C calls"] = "table.sort({ 1, 2, 3 }, leak)",
    ["in its shutdown"] = "cluster.on('shutdown', leak) uv.kill(cluster.worker.pid, 'sigterm') task.sleep(60000)",
  } do
    it(("ends a worker that fills its heap %s, and it is started again"):format(where), function()
      local c = fill(how)
      assert.matches(SAID .. "stack traceback:\n.-\tapp.lua:[12]: in ", c.err)
      assert.matches("error worker 1 %(slot 1, pid %d+%) exited with code 1\n", c.err)
      assert.equal("again\n", c.out)
      assert.equal(0, c.code)
    end)
  end

  it("shows where the memory ran out", function()
    local c = fill [[
      local function build(t)
        while true do t[#t + 1] = {} end
      end
      local all = {}
      build(all)
    ]]
    assert.matches(SAID .. "stack traceback:\n\tapp.lua:3: in local 'build'\n\tapp.lua:6: in main chunk\n", c.err)
  end)

  it("raises an error that a script may catch, and go on", function()
    local c = fill [[
      for _ = 1, 3 do
        local ok, message = pcall(leak)
        assert(not ok and message == "not enough memory", message)
      end
      assert(memory.set("k", { 1 }))
      print(memory.get("k")[1])
    ]]
    assert.equal(0, c.code, c.err)
    assert.equal("1\n", c.out)
  end)

  it("is no bound for garbage, not even for strings that C builds", function()
    local c = fill [[
      collectgarbage "stop"
      local kept = ("k"):rep(2000000)
      for i = 1, 300 do local s = ("x"):rep(1500000) .. i end
      for i = 1, 300000 do local t = { i } end
      print "well"
    ]]
    assert.equal(0, c.code, c.err)
    assert.equal("well\n", c.out)
  end)

  it("holds for process 0 too, whose error ends the cluster", function()
    local c = clusters.run { "--worker-memory", "8M", boot = leak .. "leak()", app = "print 'never'" }
    assert.equal(1, c.code)
    assert.matches("process 0: not enough memory: the Lua heap has reached %-%-worker%-memory %(8M%)\n", c.err)
    assert.matches("the master script failed, so the cluster ends", c.err)
    assert.equal("", c.out)
  end)

  it("is one worker's and not the others', nor the shared memory's", function()
    local c = clusters.run {
      "--worker-memory", "8M", workers = 2,
      app = leak .. [[
        if cluster.worker.slot == 2 then
          for i = 1, 20 do assert(memory.set("k" .. i, ("v"):rep(1000000))) end
          while not memory.get "again" do task.sleep(1) end
          print(memory.count "k")
        elseif cluster.worker.id == 1 then
          leak()
        end
        memory.set("again", true)
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("20\n", c.out)
    assert.matches(SAID, c.err)
  end)

  it("is the last error of a crash loop", function()
    local c = clusters.run { "--worker-memory", "8M", app = leak .. "leak()" }
    assert.equal(1, c.code)
    assert.matches("the cluster ends; last error: worker 5: not enough memory: the Lua heap has reached "
      .. "%-%-worker%-memory %(8M%)\n", c.err)
  end)

  it("goes with --watchdog", function()
    local c = clusters.run {
      "--worker-memory", "8M", "--watchdog", "400", "--restart", "never",
      app = "while true do pcall(function() local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end end) end",
    }
    assert.equal(1, c.code)
    assert.matches("worker 1: has not answered for 400 ms %(%-%-watchdog%)\nstack traceback:\n\t", c.err)
    assert.not_matches("is killed", c.err)
  end)

  it("wants a size of 2M and more", function()
    local c = clusters.run { "--worker-memory", "1M", app = "print 'never'" }
    assert.equal(2, c.code)
    assert.matches("%-%-worker%-memory takes a size from 2M to 64T, not '1M'", c.err)
  end)
end)
