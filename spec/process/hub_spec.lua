-- Hubs: messages and requests between processes. What needs no other process is tried in this one, process 0, which
-- sends to itself.
local memory = require "clustermem"
local task = require "clustermem.task"
local Hub = require "clustermem.hub"
local uv = require "luv"
local null = require("cjson").null
local clusters = require "clusters"
local steps = require "keysteps"

local called, code, raises, done = steps.called, steps.code, steps.raises, steps.done

local hubs = {}

local function newHub(messageKey)
  local hub = Hub.new(messageKey)
  hubs[#hubs + 1] = hub
  return hub
end

local function prepare()
  steps.prepare()
  hubs = {}
end

local function finish()
  for _, hub in ipairs(hubs) do hub:removeAllListeners() end
  clusters.finish()
end

local function waitUntil(what, fn)
  local limit = uv.now() + 20000
  while not fn() do
    if uv.now() > limit then error("too late: " .. what, 2) end
    task.sleep(1)
  end
end

-- In front of the scripts. A process hears `finish` from whoever calls it, and ends; the handlers keep it until then.
local common = [[
  local Hub = require "clustermem.hub"
  local hub = Hub.new()
  local me = cluster.worker.id
  hub:on("finish", function() hub:removeAllListeners() end)
  local function finish()
    hub:sendToWorkers "finish"
    hub:sendToMaster "finish"
    hub:removeAllListeners()
  end
]]
-- The script goes on in the first worker, once all are online.
local first = [[
  if cluster.worker.slot ~= 1 or not cluster.isWorker then return end
]]

-- Runs workers to their end, which is to be a good one, or with `fails` one where a slot's last worker was killed;
-- gives what they print. `all` is run by each, `one` by worker 1.
local function run(workers, all, one, options)
  options = options or {}
  options.workers = workers
  options.app = common:gsub("\n", " ") .. all .. (one and first .. one or "")
  local c = clusters.run(options)
  if c.code ~= (options.fails and 1 or 0) then c:fail("exit code " .. c.code, 1) end
  return c.out
end

describe("a message", function()
  before_each(prepare)
  after_each(finish)

  it("goes from each process to each", function()
    local script = common:gsub("\n", " ") .. [[
      hub:on("hello", function(text, sender)
        print(("%s, from %d%s to %d"):format(text, sender.id, sender.isMaster and " (master)" or "", me))
        memory.increment "heard"
      end)
      task.spawn(function()
        while #cluster.workers() < 3 do task.sleep(1) end
        assert(hub:sendToMaster("hello", "hi") == "OK")
        for id = 1, 3 do assert(hub:sendToWorker(id, "hello", "hi") == "OK") end
        while memory.get("heard") ~= 16 do task.sleep(1) end
        hub:removeAllListeners()
      end)
    ]]
    local c = clusters.run { workers = 3, boot = script, app = script }
    assert.equal(0, c.code, c.err)
    for from = 0, 3 do
      for to = 0, 3 do
        local line = ("hi, from %d%s to %d\n"):format(from, from == 0 and " (master)" or "", to)
        assert.truthy(c.out:find(line, 1, true), c.out)
      end
    end
    assert.equal(16, c:count("\n"))
  end)

  it("to the workers reaches all of them but the sender", function()
    local out = run(4, [[
      hub:on("hello", function(_, sender) print(sender.id .. " to " .. me) memory.increment "heard" end)
    ]], [[
      assert(hub:sendToWorkers "hello" == "OK")
      while memory.get("heard") ~= 3 do task.sleep(1) end
      finish()
    ]])
    assert.same({ "1 to 2", "1 to 3", "1 to 4" }, (function()
      local lines = {}
      for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
      return steps.sorted(lines)
    end)())
  end)

  it("to the workers is sent when there are none", function()
    done(newHub():sendToWorkers "x")
  end)

  it("to a random worker never reaches the sender, and each other one some time", function()
    local out = run(3, [[
      hub:on("hello", function() memory.increment("to " .. me) end)
      hub:on("who", function() return me end)
    ]], [[
      local asked, chosen = {}, {}
      for _ = 1, 200 do
        assert(hub:sendToRandomWorker "hello" == "OK")
        asked[hub:requestRandomWorker "who"] = true
        chosen[hub:getRandomWorker().id] = true
      end
      while memory.get "to 2" + memory.get "to 3" < 200 do task.sleep(1) end
      print(memory.get "to 1", memory.get "to 2" + memory.get "to 3")
      print(asked[1], asked[2], asked[3])
      print(chosen[1], chosen[2], chosen[3])
      finish()
    ]])
    assert.equal("nil\t200\nnil\ttrue\ttrue\nnil\ttrue\ttrue\n", out)
  end)

  it("starts its handler in the order in which one sender has sent, whichever way", function()
    local out = run(2, [[
      local got, wrong = 0, 0
      hub:on("n", function(n)
        got = got + 1
        if n ~= got then wrong = wrong + 1 end
        if n % 3 == 0 then task.sleep(1) end
        return n
      end)
      hub:on("result", function() return got, wrong end)
    ]], [[
      for n = 1, 3000 do
        local way = n % 4
        if way == 0 then
          assert(hub:sendToWorker(2, "n", n) == "OK")
        elseif way == 1 then
          hub:sendToWorker(2, "n", n, function(ok) assert(ok == "OK") end)
        elseif way == 2 then
          hub:requestWorker(2, "n", n, function(answer) assert(answer == n) end)
        else
          hub:sendToWorkers("n", n, function(ok) assert(ok == "OK") end)
        end
      end
      print(hub:requestWorker(2, "result"))
      finish()
    ]])
    assert.equal("3000\t0\n", out)
  end)

  it("keeps its order also in a flood of what does not fit the windows", function()
    local out = run(2, [[
      local got, wrong = 0, 0
      hub:on("n", function(data)
        got = got + 1
        if data.n ~= got then wrong = wrong + 1 end
      end)
      hub:on("result", function() return got, wrong end)
    ]], [[
      local some = ("x"):rep(20000)
      for n = 1, 1000 do
        if n % 2 == 0 then
          hub:sendToWorker(2, "n", { n = n, some = some }, function(ok) assert(ok == "OK") end)
        else
          hub:sendToWorkers("n", { n = n, some = some }, function(ok) assert(ok == "OK") end)
        end
      end
      print(hub:requestWorker(2, "result"))
      finish()
    ]])
    assert.equal("1000\t0\n", out)
  end)

  it("is handled while other handlers still wait", function()
    local out = run(2, [[
      local gate
      hub:on("wait", function()
        task.await(function(resume) gate = resume end)
        return "waited"
      end)
      hub:on("open", function() gate() end)
    ]], [[
      local waiting = task.spawn(function() return hub:requestWorker(2, "wait") end)
      task.sleep(1)
      hub:sendToWorker(2, "open")
      print(task.join(waiting))
      finish()
    ]])
    assert.equal("waited\n", out)
  end)

  it("can have any type", function()
    local hub = newHub()
    local types = { "error", "__proto__", "__index", "sum", "", "\0\255", ("t"):rep(65535), "finish", "cluster" }
    for i, each in ipairs(types) do hub:on(each, function() return i end) end
    for i, each in ipairs(types) do assert.equal(i, hub:requestMaster(each)) end
  end)

  it("can have any data, and each handler gets a copy of its own", function()
    local hub = newHub()
    local values = { true, false, 0, -1, 1 << 53 | 1, 2 ^ 53, 0.5, "", "\0\xff", {}, { 1, { a = { null } } }, null }
    hub:on("echo", function(data) return data end)
    for _, value in ipairs(values) do
      local echo = hub:requestMaster("echo", value)
      assert.same(value, echo)
      assert.equal(math.type(value), math.type(echo))
    end
    assert.same({ n = 1 }, table.pack(hub:requestMaster "echo"))
    local seen = {}
    for i = 1, 2 do
      hub:on("table", function(data)
        seen[i] = data
        data.mine = i
      end)
    end
    done(hub:sendToMaster("table", { text = "t" }))
    waitUntil("both", function() return seen[2] end)
    assert.same({ { text = "t", mine = 1 }, { text = "t", mine = 2 } }, seen)
  end)

  it("can be large both ways, up to --max-value", function()
    local out = run(2, [[
      hub:on("echo", function(data) return data, #data end)
      hub:on("grow", function(data) return data .. data end)
    ]], [[
      local data = ("0123456789abcdef"):rep(1 << 20)
      assert(hub:sendToWorker(2, "nobody", data:sub(1, 200000)) == "OK") -- too little to be reported
      for _ = 1, 3 do
        local echo, len = hub:requestWorker(2, "echo", data)
        assert(echo == data and len == #data)
      end
      print(hub:sendToWorker(2, "echo", data .. data))
      print(hub:requestWorker(2, "grow", data))
      print(hub:requestWorker(2, "echo", "small"))
      finish()
    ]], { "--max-value", "20M" })
    assert.matches("^nil\t[^\n]+\ttoolarge\nnil\t[^\n]+%-%-max%-value[^\n]+\tremote\nsmall\t5\n$", out)
  end)

  it("reaches only hubs of its messageKey, and all of those in a process", function()
    local heard = {}
    for i, key in ipairs { "a", "a", "b", "", "cluster" } do
      newHub(key):on("x", function(data) heard[#heard + 1] = i .. data end)
    end
    done(newHub("a"):sendToMaster("x", "a"))
    done(newHub():sendToMaster("x", "c"))
    done(newHub(""):sendToMaster("x", "e"))
    done(newHub("c"):sendToMaster("x", "none"))
    waitUntil("all", function() return #heard >= 4 end)
    task.sleep(1)
    assert.same({ "1a", "2a", "5c", "4e" }, heard)
  end)

  it("whose handler raises is an uncaught error", function()
    local app = common:gsub("\n", " ") .. [[
      hub:on("x", function()
        error "boom"
      end)
      if me == 2 then hub:sendToWorker(1, "x") hub:removeAllListeners() end
    ]]
    local c = clusters.run { workers = 2, "--restart", "never", app = app }
    assert.equal(1, c.code)
    assert.matches("worker 1: app.lua:2: boom\nstack traceback:\n", c.err)
    c = clusters.run {
      workers = 2,
      app = app .. [[
        cluster.on("error", function(value) print(value) hub:removeAllListeners() end)
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("app.lua:2: boom\n", c.out)
  end)

  it("is OK where nobody handles it", function()
    local hub = newHub()
    done(hub:sendToMaster "nobody")
    hub:on("x", function() end)
    done(hub:sendToMaster("nobody", { 1 }))
  end)

  it("to who is not there is nopeer", function()
    local hub = newHub()
    assert.equal("nopeer", code(hub:sendToWorker(1, "x")))
    assert.equal("nopeer", code(hub:sendToWorker((1 << 32) - 1, "x")))
    assert.equal("nopeer", code(hub:sendToRandomWorker "x"))
    assert.is_nil(hub:getRandomWorker())
    local out = run(1, "", [[
      print(select(3, hub:sendToMaster "x"), select(3, hub:requestMaster "x"))
      print(select(3, hub:sendToRandomWorker "x"), select(3, hub:requestRandomWorker "x"), hub:getRandomWorker())
      print(hub:sendToWorkers "x", next(hub:requestAllWorkers "x"))
      hub:removeAllListeners()
    ]])
    assert.equal("nopeer\tnopeer\nnopeer\tnopeer\tnil\nOK\tnil\n", out)
  end)

  it("can be answered to its sender as it is", function()
    local out = run(2, [[
      hub:on("ping", function(data, sender)
        assert(hub:requestWorker(sender, "ask") == "asked")
        assert(hub:sendToWorker(sender, "pong", data + 1) == "OK")
      end)
      hub:on("ask", function() return "asked" end)
      hub:on("pong", function(data, sender) print(data, sender.id, sender.isMaster) finish() end)
    ]], [[
      hub:sendToWorker({ id = 2 }, "ping", 1)
    ]])
    assert.equal("2\t2\tfalse\n", out)
  end)
end)

describe("a request", function()
  before_each(prepare)
  after_each(finish)

  it("gets what the handler returns, nils included", function()
    local hub = newHub()
    local function answers(...)
      local results = table.pack(...)
      hub:on("x", function() return table.unpack(results, 1, results.n) end)
      assert.same(results, table.pack(hub:requestMaster "x"))
      hub:removeAllListeners "x"
    end
    answers(1, "two", { 3 })
    answers(nil)
    answers(nil, nil, 3, nil)
    answers(false, "not a failure")
    answers(nil, { "not a failure either" })
    answers(null, 1 << 62, 2 ^ 62)
    answers(table.unpack({}, 1, 200))
  end)

  it("gets as many results as there may be, and of more a failure", function()
    local out = run(2, [[
      hub:on("many", function(count)
        local list = {}
        for i = 1, count do list[i] = i end
        return table.unpack(list)
      end)
    ]], [[
      local results = table.pack(hub:requestWorker(2, "many", 10000))
      print(results.n, results[10000])
      for _, count in ipairs { 10001, 400000 } do
        local value, message, code = hub:requestWorker(2, "many", count)
        print(value, message, code)
      end
      print((select("#", hub:requestWorker(2, "many", 3))))
      finish()
    ]])
    local refusal = "nil\tthe handler has given more than 10000 results\tremote\n"
    assert.equal("10000\t10000\n" .. refusal:rep(2) .. "3\n", out)
  end)

  it("fails with what the handler raises or returns behind nil, and that is not uncaught", function()
    local hub = newHub()
    hub:on("raises", function() error("boom", 0) end)
    hub:on("raises a table", function() error(setmetatable({}, { __tostring = function() return "odd" end })) end)
    hub:on("returns", function() return nil, "why" end)
    hub:on("no data", function() return { handler = { print } } end)
    assert.same({ nil, "boom", "remote", n = 3 }, table.pack(hub:requestMaster "raises"))
    assert.same({ nil, "odd", "remote", n = 3 }, table.pack(hub:requestMaster "raises a table"))
    assert.same({ nil, "why", "remote", n = 3 }, table.pack(hub:requestMaster "returns"))
    assert.same({ nil, "cannot share value.handler[1]: function", "remote", n = 3 },
      table.pack(hub:requestMaster "no data"))
  end)

  it("can be answered later, from anywhere, once", function()
    local hub = newHub()
    local late
    hub:on("later", function(_, _, reply) late = reply end)
    local function ask() return task.spawn(function() return hub:requestMaster "later" end) end
    local asked = ask()
    waitUntil("the handler", function() return late end)
    local again
    uv.new_timer():start(1, 0, function() again = { late(nil, 1, nil), late(nil, 2), late "too late" } end)
    assert.same({ 1, nil, n = 2 }, table.pack(task.join(asked)))
    assert.same({ true, false, false }, again)
    late = nil
    asked = ask()
    waitUntil("the handler", function() return late end)
    assert.is_true(late "why")
    assert.same({ nil, "why", "remote", n = 3 }, table.pack(task.join(asked)))
    late = nil
    asked = ask()
    waitUntil("the handler", function() return late end)
    assert.is_true(late())
    assert.same({ n = 0 }, table.pack(task.join(asked)))
  end)

  it("is handled in no coroutine that somebody may know from an earlier one", function()
    local hub = newHub()
    local known = {}
    hub:on("x", function(number)
      if number % 3 == 1 then task.sleep(0) end
      if number % 3 == 0 then return number end
      local co = coroutine.running()
      assert(not known[co])
      known[co] = true
      return number
    end)
    for i = 1, 60 do assert.equal(i, hub:requestMaster("x", i)) end
    for co in pairs(known) do assert.equal("dead", coroutine.status(co)) end
  end)

  it("whose handlers all raise fails with the first of the errors, and none is uncaught", function()
    local hub = newHub()
    local function raise() error("first", 0) end
    hub:on("x", raise)
    hub:on("x", function() task.sleep(1) error("second", 0) end)
    assert.same({ nil, "first", "remote", n = 3 }, table.pack(hub:requestMaster "x"))
    hub:off("x", raise)
    assert.same({ nil, "second", "remote", n = 3 }, table.pack(hub:requestMaster "x"))
  end)

  it("is answered by the first of several handlers that answers; all are called", function()
    local hub = newHub()
    local calls, replies = 0, {}
    local function count() calls = calls + 1 end
    hub:on("x", function(_, _, reply) count() replies[1] = reply end)
    hub:on("x", function() count() task.sleep(30) error "is no answer by now, and not uncaught" end)
    hub:on("x", function() count() task.sleep(5) return "third" end)
    hub:on("x", function() count() end)
    assert.equal("third", hub:requestMaster "x")
    assert.equal(4, calls)
    assert.is_false(replies[1](nil, "first"))
    hub:on("y", function() error("the first answer", 0) end)
    hub:on("y", function() return "the second" end)
    assert.same({ nil, "the first answer", "remote", n = 3 }, table.pack(hub:requestMaster "y"))
  end)

  it("answers nothing where it is a message", function()
    local hub = newHub()
    local replied
    hub:on("x", function(_, _, reply) replied = { reply(nil, 1), reply "why" } return "nobody asked" end)
    done(hub:sendToMaster "x")
    waitUntil("the message", function() return replied end)
    assert.same({ false, false }, replied)
  end)

  it("is nohandler at once where there is none", function()
    local hub = newHub()
    assert.equal("nohandler", code(hub:requestMaster "x"))
    local function nothing() end
    hub:on("y", nothing)
    newHub("other"):on("x", nothing)
    assert.equal("nohandler", code(hub:requestMaster "x"))
    hub:on("x", nothing)
    assert.is_true(hub:off("x", nothing))
    assert.equal("nohandler", code(hub:requestMaster("x", nil, { timeout = 100000 })))
    -- Taken out between its coming and its call.
    local function never() error "it is called" end
    hub:on("x", never)
    hub:on("y", function() hub:off("x", never) end)
    hub:sendToMaster("y", nil, function() end)
    assert.equal("nohandler", code(hub:requestMaster "x"))
  end)

  it("to who is not there is nopeer", function()
    local hub = newHub()
    assert.equal("nopeer", code(hub:requestWorker(5, "x")))
    assert.equal("nopeer", code(hub:requestRandomWorker "x"))
  end)

  it("ends when its time is up, and a late answer does nothing", function()
    local hub = newHub()
    local late
    hub:on("x", function(_, _, reply) late = reply end)
    local start = uv.hrtime()
    assert.equal("timeout", code(hub:requestMaster("x", nil, { timeout = 60 })))
    local took = (uv.hrtime() - start) / 1e6
    assert.is_true(took >= 59 and took < 5000, took)
    waitUntil("that it is over", function() return not late(nil, 1) end)
    assert.equal("timeout", code(hub:requestMaster("x", nil, { timeout = 0 })))
    hub:on("y", function() return 1 end)
    assert.equal(1, hub:requestMaster "y")
  end)

  it("is closed when the other process dies, or leaves, before it answers", function()
    local out = run(4, [[
      hub:on("die", function() uv.kill(cluster.worker.pid, "sigkill") task.sleep(60000) end)
      hub:on("exit", function() cluster.exit(0) end)
      hub:on("never", function() end)
    ]], [[
      local never
      hub:requestWorker(2, "never", nil, function(_, _, code) never = code end)
      for id, type in pairs { [2] = "die", [3] = "exit" } do
        local start = uv.hrtime()
        local _, _, code = hub:requestWorker(id, type)
        assert(code == "closed" and (uv.hrtime() - start) / 1e6 < 10000)
      end
      while not never do task.sleep(1) end
      print(never, (select(3, hub:requestWorker(2, "never"))))
      finish()
    ]], { fails = true, "--restart", "never" })
    assert.equal("closed\tnopeer\n", out)
  end)

  it("to all workers gets what each has answered, or why it has not", function()
    local out = run(6, [[
      if me == 2 then hub:on("x", function(data) return data, nil, me, nil end) end
      if me == 3 then hub:on("x", function() error("boom", 0) end) end
      if me == 4 then hub:on("x", function() uv.kill(cluster.worker.pid, "sigkill") task.sleep(60000) end) end
      if me == 5 then hub:on("x", function() end) end
    ]], [[
      local results = hub:requestAllWorkers("x", { "data" }, { timeout = 2000 })
      for id = 1, 6 do
        local each = results[id]
        print(id, each and each.n, each and each[1] and each[1][1], each and each[3])
      end
      print(results[3][2])
      finish()
    ]], { fails = true, "--restart", "never" })
    assert.equal(table.concat({
      "1\tnil\tnil\tnil", "2\t4\tdata\t2", "3\t3\tnil\tremote", "4\t3\tnil\tclosed", "5\t3\tnil\ttimeout",
      "6\t3\tnil\tnohandler", "boom\n",
    }, "\n"), out)
  end)

  it("does not wait for those before it", function()
    local out = run(2, [[
      hub:on("sleep", function(ms) task.sleep(ms) return ms end)
    ]], [[
      local order = {}
      local tasks = {}
      for i, ms in ipairs { 300, 150, 1 } do
        tasks[i] = function() table.insert(order, (hub:requestWorker(2, "sleep", ms))) end
      end
      task.all(tasks)
      print(table.concat(order, " "))
      tasks = {}
      for i = 1, 3000 do tasks[i] = function() memory.increment("sum", hub:requestWorker(2, "sleep", i % 3)) end end
      task.all(tasks)
      print(memory.get "sum")
      finish()
    ]])
    assert.equal("1 150 300\n3000\n", out)
  end)

  it("whose sender is gone by the time it is answered harms nobody", function()
    local out = run(2, [[
      hub:on("x", function()
        while #cluster.workers() > 1 do task.sleep(1) end
        return "nobody"
      end)
      hub:on("after", function() print "goes on" hub:removeAllListeners() end)
    ]], [[
      task.spawn(function() hub:requestWorker(2, "x") end)
      hub:sendToWorker(2, "after") -- is there, so the request is too
      uv.kill(cluster.worker.pid, "sigkill")
    ]], { fails = true, "--restart", "never" })
    assert.equal("goes on\n", out)
  end)
end)

describe("a hub", function()
  before_each(prepare)
  after_each(finish)

  it("calls a handler once, or until it is taken out", function()
    local hub = newHub()
    local calls = {}
    local function note(name) return function() calls[#calls + 1] = name end end
    local on, twice = note "on", note "twice"
    hub:once("x", note "once")
    hub:on("x", on)
    hub:on("x", twice)
    hub:on("x", twice)
    done(hub:sendToMaster "x")
    done(hub:sendToMaster "x")
    waitUntil("7 calls", function() return #calls == 7 end)
    assert.same({ "once", "on", "twice", "twice", "on", "twice", "twice" }, calls)
    assert.is_true(hub:off("x", on))
    assert.is_false(hub:off("x", on))
    assert.is_false(hub:off("y", twice))
    assert.is_true(hub:off("x", twice))
    calls = {}
    hub:emit "x"
    waitUntil("a call", function() return #calls > 0 end)
    hub:removeAllListeners "x"
    assert.is_false(hub:emit "x")
    hub:on("a", on)
    hub:on("b", on)
    hub:removeAllListeners()
    assert.is_false(hub:emit "a")
    task.sleep(1)
    assert.same({ "twice" }, calls)
  end)

  it("does not call a handler any more that has been taken out", function()
    local hub = newHub()
    local calls = 0
    local function handler() calls = calls + 1 end
    hub:on("x", handler)
    assert.is_true(hub:emit "x")
    hub:off("x", handler)
    task.sleep(1)
    assert.equal(0, calls)
  end)

  it("emits to its own process only, and gives handlers copies", function()
    local out = run(2, [[
      hub:on("x", function(data, sender, reply) print(me, data[1], sender.id, reply(nil, 1)) end)
    ]], [[
      local data = { 1 }
      local function outside() return hub:emit("x", data) end
      print(outside())
      data[1] = 2
      print(hub:emit "y")
      task.sleep(1)
      print(pcall(hub.emit, hub, "x", print))
      finish()
    ]])
    assert.equal("true\nfalse\n1\t1\t1\tfalse\nfalse\tapp.lua:9: cannot share value: function\n", out)
  end)

  it("meets each worker", function()
    local out = run(3, "", [[
      while #cluster.workers() < 3 do task.sleep(1) end
      hub:eachWorker(function(worker) print(worker.id, worker.slot, worker.pid == nil) end)
      finish()
    ]])
    assert.equal("1\t1\tfalse\n2\t2\tfalse\n3\t3\tfalse\n", out)
  end)

  it("keeps its process alive as long as it has handlers, and no longer", function()
    local c = clusters.start {
      app = [[
        local Hub = require "clustermem.hub"
        local one, two = Hub.new(), Hub.new()
        local function stay() end
        one:on("x", stay)
        two:once("y", function() print "once" end)
        one:on("z", function() one:removeAllListeners() end)
        print(cluster.worker.pid)
        uv.new_timer():start(100, 0, function(timer)
          print "still here"
          two:emit "y"
          one:emit "z"
        end)
        uv.walk(function(handle) handle:unref() end)
      ]],
    }
    assert.equal(0, (c:waitExit()), c.err)
    assert.matches("^%d+\nstill here\nonce\n$", c.out)
    assert.equal("over\n", clusters.output [[
      local hub = require("clustermem.hub").new()
      hub:sendToWorkers("x", nil, { timeout = 5 }, function() print "over" end)
    ]])
  end)

  it("keeps no process from being stopped", function()
    local c = clusters.start {
      boot = "require('clustermem.hub').new():on('x', function() end)",
      app = [[
        local hub = require("clustermem.hub").new()
        hub:on("x", function() end)
        hub:requestMaster("x", nil, function() end)
        print "hears"
      ]],
    }
    c:waitFor("hears\n")
    c:kill("sigterm")
    assert.equal(0, (c:waitExit()), c.err)
  end)

  it("refuses callbacks beyond what it keeps of a flood, and slows tasks", function()
    local hub = newHub()
    local heard = 0
    hub:on("x", function() heard = heard + 1 end)
    local value = ("x"):rep(1 << 20)
    local sent, refused = 0, 0
    for _ = 1, 50 do
      hub:sendToMaster("x", value, function(ok, _, word)
        if ok then sent = sent + 1 else refused = refused + (word == "nomemory" and 1 or 0) end
      end)
    end
    waitUntil("50 ends", function() return sent + refused == 50 end)
    assert.is_true(sent >= 32 and sent <= 35, sent)
    waitUntil("what was sent", function() return heard == sent end)
    local tasks = {}
    for i = 1, 50 do tasks[i] = function() return hub:sendToMaster("x", value) end end
    assert.same({ "OK", 50 }, { (task.all(tasks)), select("#", task.all(tasks)) })
    waitUntil("what was sent", function() return heard == sent + 100 end)
  end)

  it("calls back instead of waiting", function()
    local hub = newHub()
    hub:on("x", function(data) return data end)
    assert.same({ "OK", n = 1 }, called(hub.sendToMaster, hub, "x", 1))
    assert.same({ "OK", n = 1 }, called(hub.sendToWorkers, hub, "x", 1, nil))
    assert.equal("nopeer", called(hub.sendToWorker, hub, 7, "x", nil, { timeout = 5 })[3])
    assert.equal("nopeer", called(hub.sendToRandomWorker, hub, "x", nil)[3])
    assert.same({ 1, n = 1 }, called(hub.requestMaster, hub, "x", 1))
    assert.equal("nopeer", called(hub.requestWorker, hub, 7, "x", nil)[3])
    assert.equal("nopeer", called(hub.requestRandomWorker, hub, "x", nil)[3])
    assert.same({ {}, n = 1 }, called(hub.requestAllWorkers, hub, "x", nil))
    assert.equal("toolarge", called(hub.sendToMaster, hub, "x", ("x"):rep(65 << 20))[3])
  end)

  it("waits only in a task", function()
    local hub = newHub()
    for _, name in ipairs { "sendToMaster", "sendToWorkers", "sendToRandomWorker", "requestMaster",
      "requestRandomWorker", "requestAllWorkers" } do
      local ok, message = task.await(function(resume)
        uv.new_timer():start(0, 0, function() resume(pcall(hub[name], hub, "x")) end)
      end)
      assert.is_false(ok)
      assert.matches(name .. " waits, and this is no task", message)
    end
  end)

  it("refuses what it is not to be called with, at the caller's line", function()
    local hub = newHub()
    raises(function() Hub.new(5) end, "Hub.new: the messageKey must be a string, not a number")
    raises(function() Hub.new(("k"):rep(1025)) end, "Hub.new: the messageKey must have 0 to 1024 bytes, not 1025")
    raises(function() hub.on("x", print) end, "hub:on: it is a method")
    raises(function() hub:on(nil, print) end, "hub:on: the type must be a string, not nil")
    raises(function() hub:on("x", 1) end, "hub:on: the handler must be a function, not a number")
    raises(function() hub:once("x") end, "hub:once: the handler must be a function, not nil")
    raises(function() hub:off("x") end, "hub:off: the handler must be a function, not nil")
    raises(function() hub:removeAllListeners(1) end, "hub:removeAllListeners: the type must be a string, not a number")
    raises(function() hub:sendToMaster({}) end, "hub:sendToMaster: the type must be a string, not a table")
    raises(function() hub:sendToMaster(("t"):rep(65536)) end, "the type must have 0 to 65535 bytes, not 65536")
    raises(function() hub:sendToMaster("x", print) end, "cannot share value: function")
    raises(function() hub:sendToWorkers("x", { a = { print } }) end, "cannot share value.a[1]: function")
    raises(function() hub:requestMaster("x", 1, { timeOut = 1 }) end, "unknown option 'timeOut' (there are timeout)")
    raises(function() hub:requestMaster("x", 1, { timeout = -1 }) end, "timeout must be a number of milliseconds")
    raises(function() hub:requestMaster("x", 1, 5) end, "hub:requestMaster: the options must be a table")
    raises(function() hub:requestMaster("x", 1, nil, 5) end, "hub:requestMaster: the callback must be a function")
    raises(function() hub:sendToWorker("1", "x") end, "hub:sendToWorker: the worker must be an id")
    raises(function() hub:sendToWorker(1.5, "x") end, "hub:sendToWorker: the worker must be an id", "not 1.5")
    raises(function() hub:requestWorker({}, "x") end, "hub:requestWorker: the worker must be an id", "not a table")
    raises(function() hub:requestWorker(-1, "x") end, "hub:requestWorker: the worker must be an id", "not -1")
    raises(function() hub:requestAllWorkers("x", print) end, "cannot share value: function")
    raises(function() hub:eachWorker() end, "hub:eachWorker: its argument must be a function")
    raises(function() hub:emit(1) end, "hub:emit: the type must be a string")
    raises(function() hub:lock("", print) end, "hub:lock: the key must have 1 to 64000 bytes, not 0")
    raises(function() hub:lock("k") end, "hub:lock: its second argument must be a function, not nil")
  end)
end)

describe("a hub's lock", function()
  before_each(prepare)
  after_each(finish)

  it("is had by one at a time, in all workers", function()
    local out = run(4, [[
      local left = 50
      hub:on("go", function() end)
      for _ = 1, 50 do
        hub:lock("counter", function(unlock)
          local n = memory.get "counter" or 0
          task.sleep(0)
          memory.set("counter", n + 1)
          unlock()
          left = left - 1
          if left == 0 and memory.increment "done" == 4 then
            print(memory.get "counter")
            finish()
          end
        end)
      end
    ]])
    assert.equal("200\n", out)
  end)

  it("returns at once, and calls later", function()
    local hub = newHub()
    local order = {}
    assert.equal(0, select("#", hub:lock("k", function(unlock)
      order[#order + 1] = "first"
      task.sleep(5)
      unlock()
      order[#order + 1] = "unlocked"
    end)))
    hub:lock("k", function(unlock) order[#order + 1] = "second" unlock() end)
    order[#order + 1] = "returned"
    waitUntil("both", function() return #order == 4 end)
    assert.equal("returned first", table.concat(order, " ", 1, 2))
    table.sort(order)
    assert.same({ "first", "returned", "second", "unlocked" }, order)
  end)

  it("is held until it is unlocked, once", function()
    local hub = newHub()
    local unlock, second
    hub:lock("k", function(fn) unlock = fn end)
    hub:lock("k", function(fn) second = fn end)
    waitUntil("the lock", function() return unlock end)
    task.sleep(20)
    assert.is_nil(second)
    unlock()
    waitUntil("the next one", function() return second end)
    raises(function() unlock() end, "unlock: the lock 'k' has been released already")
    second()
  end)

  it("is released when its function raises, which is uncaught", function()
    local c = clusters.run {
      app = [[
        local hub = require("clustermem.hub").new()
        cluster.on("error", function(value, traceback) print(value, traceback:find "stack traceback" ~= nil) end)
        hub:lock("k", function() error "boom" end)
        hub:lock("k", function(unlock) unlock() error "behind" end)
        hub:lock("k", function(unlock) print "next" unlock() end)
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("app.lua:3: boom\ttrue\napp.lua:4: behind\ttrue\nnext\n",
      (c.out:gsub("(next\n)(.*)", "%2%1")))
  end)

  it("is another one for each messageKey, and none of memory's", function()
    local unlocks = {}
    local function keep(unlock) table.insert(unlocks, unlock) end
    for _, key in ipairs { "a", "b", "", "ab" } do newHub(key):lock("k", keep) end
    newHub("a"):lock("bk", keep)
    waitUntil("all of them", function() return #unlocks == 5 end)
    for _, name in ipairs { "k", "a:k", "hub:a:k" } do
      local lockId = assert(memory.tryLock(name))
      memory.releaseLock(name, lockId)
    end
    for _, unlock in ipairs(unlocks) do unlock() end
  end)

  it("is freed by the death of its owner", function()
    local out = run(2, [[
      if me == 2 then
        hub:lock("k", function()
          assert(hub:sendToWorker(1, "locked") == "OK")
          uv.kill(cluster.worker.pid, "sigkill")
        end)
      end
      hub:on("locked", function()
        hub:lock("k", function(unlock) print "freed" unlock() finish() end)
      end)
    ]], nil, { fails = true, "--restart", "never" })
    assert.equal("freed\n", out)
  end)
end)
