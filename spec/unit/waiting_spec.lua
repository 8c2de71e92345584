-- The rules of waiting, in process 0 of the specs' own cluster: this very chunk runs in a task.
local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local clusters = require "clusters"

-- Runs fn in a luv callback, which is no task; gives what it returns, or raises what it raises.
local function outside(fn)
  local results = table.pack(task.await(function(resume)
    local timer = uv.new_timer()
    timer:start(0, 0, function()
      timer:close()
      resume(pcall(fn))
    end)
  end))
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- The message that fn raises, which must be at a line of this file.
local function raised(fn)
  local ok, message = pcall(fn)
  assert.is_false(ok)
  assert.matches("waiting_spec%.lua:%d+: ", tostring(message))
  return message
end

-- Everything that may wait, as { name = fn(callback) }.
local waiting = {
  ["set"] = function(callback) return memory.set("waiting", 1, callback) end,
  ["setMany"] = function(callback) return memory.setMany({ waiting = "value" }, callback) end,
  ["count"] = function(callback) return memory.count("waiting", callback) end,
  ["remove"] = function(callback) return memory.remove("waiting", callback) end,
  ["task.sleep"] = function(callback) return task.sleep(1, callback) end,
  ["task.join"] = function(callback) return task.join(task.spawn(function() end), callback) end,
  ["task.all"] = function(callback) return task.all({ function() end }, callback) end,
  ["task.await"] = function(callback) return task.await(function(resume) resume(1) end, callback) end,
}

describe("waiting", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  before_each(function() memory.set("waiting", "value") end)

  local names = {}
  for name in pairs(waiting) do names[#names + 1] = name end
  table.sort(names)

  for _, name in ipairs(names) do
    local fn = waiting[name]
    -- A call of its own, so that the line that is blamed is one of this file.
    local function call(callback)
      local first = fn(callback)
      return first
    end

    it(("outside a task and without a callback makes %s raise an error that says so"):format(name), function()
      local message = raised(function() return (outside(call)) end)
      assert.truthy(message:find(name .. " waits, and this is no task", 1, true), message)
      assert.matches("callback", message)
    end)

    it(("outside a task works with a callback of %s, which runs as a task"):format(name), function()
      local value, isTask = task.await(function(resume)
        outside(function()
          fn(function()
            -- Only a task can wait.
            task.sleep(1)
            resume((memory.get("waiting")), coroutine.isyieldable())
          end)
        end)
      end)
      assert.truthy(value == "value" or value == 1 or value == nil)
      assert.is_true(isTask)
    end)

    it(("inside table.sort makes %s raise a clear error"):format(name), function()
      local message = raised(function()
        table.sort({ 2, 1 }, function(a, b)
          call()
          return a < b
        end)
      end)
      assert.truthy(message:find(name .. " waits, and Lua cannot yield here", 1, true), message)
      assert.matches("table%.sort", message)
    end)
  end

  it("outside a task raises also when the coroutine is a script's own", function()
    local message = raised(function()
      outside(function()
        assert(coroutine.resume(coroutine.create(function() return (memory.count("waiting")) end)))
      end)
    end)
    assert.matches("no task", message)
    message = raised(function()
      outside(coroutine.wrap(function() return (memory.count("waiting")) end))
    end)
    assert.matches("no task", message)
  end)

  it("outside a task is possible in a task that was spawned there", function()
    local value
    local spawned = outside(function()
      return task.spawn(function() value = memory.get("waiting") end)
    end)
    task.join(spawned)
    assert.equal("value", value)
  end)

  describe("where Lua cannot yield raises a clear error:", function()
    local function count()
      local value = memory.count("waiting")
      return value
    end

    local function refused(fn)
      assert.matches("count waits, and Lua cannot yield here", raised(fn))
    end

    it("in string.gsub", function()
      refused(function() return (("x"):gsub("x", count)) end)
    end)

    it("in a metamethod that C calls", function()
      local object = setmetatable({}, { __tostring = count })
      refused(function() return tostring(object) end)
      refused(function() return ("%s"):format(object) end)
      local list = setmetatable({}, { __index = count, __len = function() return 1 end })
      refused(function() return table.concat(list) end)
    end)

    it("in a reader of load", function()
      -- An outer xpcall's message handler would see the error first.
      local _, chunk, message = pcall(load, count)
      assert.is_nil(chunk)
      assert.matches("count waits, and Lua cannot yield here", message)
    end)

    it("in a coroutine that is resumed there", function()
      refused(function()
        table.sort({ 2, 1 }, function()
          return coroutine.wrap(count)()
        end)
      end)
      refused(function()
        return (("x"):gsub("x", function()
          local ok, message = coroutine.resume(coroutine.create(function() return coroutine.wrap(count)() end))
          assert(ok, message)
        end))
      end)
    end)

    it("in a coroutine that began where it can", function()
      local co = coroutine.create(function()
        count()
        coroutine.yield()
        count()
      end)
      assert.is_true(coroutine.resume(co))
      refused(function()
        table.sort({ 2, 1 }, function()
          assert(coroutine.resume(co))
          return false
        end)
      end)
    end)

    it("in a coroutine's variable that coroutine.close closes", function()
      local closed
      local co = coroutine.create(function()
        local _ <close> = setmetatable({}, { __close = function() closed = select(2, pcall(count)) end })
        coroutine.yield()
      end)
      coroutine.resume(co)
      coroutine.close(co)
      assert.matches("Lua cannot yield here", closed)
    end)

    it("in a message handler", function()
      local seen
      xpcall(error, function() seen = select(2, pcall(count)) end)
      assert.matches("Lua cannot yield here", seen)
    end)

    it("but a callback works there", function()
      local sorted = { 3, 1, 2 }
      local value = task.await(function(resume)
        local asked = false
        table.sort(sorted, function(a, b)
          if not asked then memory.count("waiting", resume) end
          asked = true
          return a < b
        end)
      end)
      assert.equal(1, value)
      assert.same({ 1, 2, 3 }, sorted)
    end)

    it("and the task goes on unharmed", function()
      pcall(table.sort, { 2, 1 }, count)
      assert.equal(1, count())
    end)
  end)

  describe("works", function()
    local function get()
      task.sleep(0)
      return (memory.get("waiting"))
    end

    it("inside pcall and xpcall, nested, and their errors come through", function()
      assert.same({ true, "value" }, { pcall(get) })
      assert.same({ true, "value" }, { xpcall(get, debug.traceback) })
      assert.same({ true, true, "value" }, { pcall(pcall, get) })
      local ok, message = pcall(function()
        get()
        error("after", 0)
      end)
      assert.is_false(ok)
      assert.equal("after", message)
      ok, message = xpcall(function()
        get()
        error("after", 0)
      end, function(value) return "handled " .. value end)
      assert.is_false(ok)
      assert.equal("handled after", message)
    end)

    it("inside metamethods that Lua calls, and an iterator of a for loop", function()
      local object = setmetatable({}, { __index = get, __call = get, __add = get, __eq = get, __concat = get })
      assert.equal("value", object.field)
      assert.equal("value", object())
      assert.equal("value", object + 1)
      assert.equal("value", object .. "")
      local seen = {}
      for value in function() return #seen < 2 and get() or nil end do seen[#seen + 1] = value end
      assert.same({ "value", "value" }, seen)
    end)

    it("inside dofile and a __close that a block's end or an error calls", function()
      local closed = {}
      local guard = { __close = function() closed[#closed + 1] = get() end }
      do
        local _ <close> = setmetatable({}, guard)
      end
      pcall(function()
        local _ <close> = setmetatable({}, guard)
        error "out"
      end)
      assert.same({ "value", "value" }, closed)
    end)

    it("inside a coroutine that is resumed", function()
      local co = coroutine.create(function(...)
        local first = get()
        local got = coroutine.yield(first, ...)
        return get(), got
      end)
      assert.same({ true, "value", 1, 2 }, { coroutine.resume(co, 1, 2) })
      assert.same({ true, "value", "in" }, { coroutine.resume(co, "in") })
      assert.equal("dead", coroutine.status(co))
      assert.same({ false, "cannot resume dead coroutine" }, { coroutine.resume(co) })
    end)

    it("inside a generator in a for loop", function()
      local function generate()
        for i = 1, 3 do
          get()
          coroutine.yield(i)
          get()
        end
      end
      local seen = {}
      for i in coroutine.wrap(generate) do
        get()
        seen[#seen + 1] = i
      end
      assert.same({ 1, 2, 3 }, seen)
    end)

    it("inside coroutines nested in each other and in pcall, with nils on the way", function()
      local function layer(depth)
        if depth == 0 then return get(), nil, 3, nil end
        return select(2, pcall(coroutine.wrap(layer), depth - 1))
      end
      assert.equal(4, select("#", layer(10)))
      assert.same({ n = 4, "value", nil, 3, nil }, table.pack(layer(10)))
    end)

    it("inside a coroutine that one task begins and another goes on with", function()
      local steps = {}
      local co = coroutine.wrap(function()
        for i = 1, 4 do
          get()
          steps[#steps + 1] = i
          coroutine.yield()
        end
      end)
      co()
      task.join(task.spawn(co))
      task.join(task.spawn(function() co() end))
      co()
      assert.same({ 1, 2, 3, 4 }, steps)
    end)

    it("while other tasks run on", function()
      local order = {}
      local function say(word) order[#order + 1] = word end
      task.all {
        function()
          say "a waits"
          coroutine.wrap(function() task.sleep(20) end)()
          say "a goes on"
        end,
        function()
          say "b waits"
          task.sleep(1)
          say "b goes on"
        end,
      }
      assert.same({ "a waits", "b waits", "b goes on", "a goes on" }, order)
    end)
  end)
end)

describe("a script's own coroutine", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- A coroutine in which a task waits, and a function that ends the wait and the task.
  local function waitingCoroutine()
    local resume
    local co = coroutine.create(function() return task.await(function(fn) resume = fn end) end)
    local results
    local owner = task.spawn(function() results = table.pack(coroutine.resume(co)) end)
    while not resume do task.sleep(1) end
    return co, function(...)
      resume(...)
      task.join(owner)
      return table.unpack(results, 1, results.n)
    end
  end

  it("is normal for everybody else while a task waits in it", function()
    local co, finish = waitingCoroutine()
    assert.equal("normal", coroutine.status(co))
    assert.same({ true, "x" }, { finish("x") })
    assert.equal("dead", coroutine.status(co))
  end)

  it("is refused to be resumed while a task waits in it", function()
    local co, finish = waitingCoroutine()
    assert.same({ false, "cannot resume non-suspended coroutine" }, { coroutine.resume(co, 1) })
    assert.same({ true, "x" }, { finish("x") })
  end)

  it("of wrap is refused to be called while a task waits in it", function()
    local resume
    local wrapped = coroutine.wrap(function() return task.await(function(fn) resume = fn end) end)
    local owner = task.spawn(function() return wrapped() end)
    while not resume do task.sleep(1) end
    local ok, message = pcall(function() return (wrapped()) end)
    assert.is_false(ok)
    assert.matches("waiting_spec%.lua:%d+: cannot resume non%-suspended coroutine", message)
    resume("x")
    assert.equal("x", task.join(owner))
  end)

  it("is refused to be closed while a task waits in it", function()
    local co, finish = waitingCoroutine()
    local ok, message = pcall(coroutine.close, co)
    assert.is_false(ok)
    assert.matches("cannot close a normal coroutine", message)
    assert.same({ true, "x" }, { finish("x") })
  end)

  it("can be closed where it yielded, and its variables are closed", function()
    local closed = false
    local co = coroutine.create(function()
      local _ <close> = setmetatable({}, { __close = function() closed = true end })
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.equal("suspended", coroutine.status(co))
    assert.is_true(coroutine.close(co))
    assert.is_true(closed)
    assert.equal("dead", coroutine.status(co))
  end)

  it("keeps the meaning of its states", function()
    local inner, outer
    outer = coroutine.create(function()
      assert.equal("running", coroutine.status(outer))
      inner = coroutine.create(function() return coroutine.status(outer) end)
      return coroutine.resume(inner)
    end)
    assert.equal("suspended", coroutine.status(outer))
    assert.same({ true, true, "normal" }, { coroutine.resume(outer) })
    assert.equal("dead", coroutine.status(inner))
  end)

  it("of wrap raises what is raised in it, with the caller's position before a message, and is dead then", function()
    local wrapped = coroutine.wrap(function()
      task.sleep(0)
      error("inside", 0)
    end)
    local ok, message = pcall(function() return (wrapped()) end)
    assert.is_false(ok)
    assert.matches("^.*waiting_spec%.lua:%d+: inside$", message)
    assert.matches("cannot resume dead coroutine", select(2, pcall(function() return (wrapped()) end)))
    local value = {}
    ok, message = pcall(coroutine.wrap(function() error(value) end))
    assert.is_false(ok)
    assert.equal(value, message)
  end)

  it("may yield and return what it likes, also nothing, and is given just that", function()
    local co = coroutine.create(function(...) return coroutine.yield(...) end)
    assert.equal(1, select("#", coroutine.resume(co)))
    assert.equal(3, select("#", coroutine.resume(co, nil, nil)))
    local wrapped = coroutine.wrap(function(...) return coroutine.yield(...) end)
    assert.equal(2, select("#", wrapped(nil, nil)))
    assert.equal(0, select("#", wrapped()))
  end)

  it("that is a task is refused to yield, with a hint", function()
    local ok, message = pcall(function() coroutine.yield(1) end)
    assert.is_false(ok)
    assert.matches("waiting_spec%.lua:%d+: .*task", message)
    assert.equal("running", coroutine.status((coroutine.running())))
  end)

  it("that is a task is refused to be resumed or closed by others", function()
    local co, resume
    local other = task.spawn(function()
      co = coroutine.running()
      return task.await(function(fn) resume = fn end)
    end)
    while not resume do task.sleep(1) end
    assert.same({ false, "cannot resume non-suspended coroutine" }, { coroutine.resume(co) })
    assert.is_false((pcall(coroutine.close, co)))
    resume("kept")
    assert.equal("kept", task.join(other))
  end)

  it("gives Lua's own messages for arguments that are no coroutine, at the caller's line", function()
    for _, name in ipairs { "resume", "status", "close", "wrap" } do
      for _, argument in ipairs { 5, "x", {} } do
        local ok, message = pcall(function()
          local first = coroutine[name](argument)
          return first
        end)
        assert.is_false(ok)
        assert.truthy(message:find("bad argument #1 to '" .. name .. "'", 1, true), message)
        assert.matches("^[^\n]*waiting_spec%.lua:%d+: ", message)
      end
      assert.matches("bad argument #1", select(2, pcall(function() return (coroutine[name](nil)) end)))
    end
  end)
end)
