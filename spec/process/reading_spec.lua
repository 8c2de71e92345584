-- Where reads work: everywhere.
local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local clusters = require "clusters"
local steps = require "keysteps"

local put, prepare = steps.put, steps.prepare

-- All that does not wait, of what `fill` makes.
local function readAll()
  local value, version = memory.getVersioned("list")
  assert.is_true(version > 0)
  assert.same({ 1, { 2 } }, value)
  assert.equal("text", memory.get("text"))
  assert.same({ text = "text", number = 1.5 }, memory.getMany { "text", "none", "number" })
  assert.is_true(memory.has("text"))
  assert.is_false(memory.has("none"))
  assert.is_nil(memory.ttl("text"))
  assert.is_true(memory.ttl("number") > 50000)
  assert.equal(3, memory.stats().entries)
  return true
end

local function fill()
  put("list", { 1, { 2 } })
  put("text", "text")
  put("number", 1.5, { ttl = 90000 })
  -- What expired before the specs is swept.
  while memory.stats().entries > 3 do task.sleep(1) end
end

describe("reads", function()
  before_each(prepare)
  after_each(clusters.finish)
  before_each(fill)

  it("work in a task", function()
    assert.is_true(readAll())
  end)

  it("work in luv's callbacks, and in coroutines there", function()
    local results = table.pack(task.await(function(resume)
      local timer = uv.new_timer()
      timer:start(0, 0, function()
        timer:close()
        local ok, raised = pcall(readAll)
        resume(ok and raised, pcall(coroutine.wrap(readAll)))
      end)
    end))
    assert.same({ true, true, true, n = 3 }, results)
  end)

  it("work in the script's own coroutines, and between their yields", function()
    local co = coroutine.wrap(function()
      for _ = 1, 3 do coroutine.yield(readAll()) end
    end)
    for _ = 1, 3 do assert.is_true(co()) end
  end)

  it("work inside table.sort, string.gsub, a metamethod that C calls and a message handler", function()
    memory.setMany { first = 1, second = 2, third = 3 }
    local names = { "third", "first", "second" }
    table.sort(names, function(a, b) return memory.get(a) < memory.get(b) end)
    assert.same({ "first", "second", "third" }, names)
    assert.equal("1 2 3", (("first second third"):gsub("%a+", memory.get)))
    assert.equal("text", tostring(setmetatable({}, { __tostring = function() return memory.get("text") end })))
    assert.same({ false, "text" }, { xpcall(error, function() return memory.get("text") end) })
    memory.clear()
    fill()
    table.sort({ 2, 1 }, function() return not readAll() end)
  end)

  it("work in finalizers", function()
    local read, raised
    setmetatable({}, { __gc = function() read, raised = pcall(readAll) end }) -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.same({ true, true }, { read, raised })
  end)

  it("give each its own also where a finalizer reads in the midst of another's read", function()
    local deep, other = {}, {}
    for i = 1, 200 do
      deep[i] = { i, tostring(i), { i } }
      other[i] = ("o"):rep(i)
    end
    put("deep", deep)
    put("other", other)
    local wrong, finalized = 0, 0
    local meta = {
      __gc = function()
        finalized = finalized + 1
        local got = memory.get("other")
        for i = 1, 200 do if got[i] ~= other[i] then wrong = wrong + 1 end end
        if memory.get("text") ~= "text" or #memory.getMany { "deep" }.deep ~= 200 then wrong = wrong + 1 end
      end,
    }
    collectgarbage("incremental", 100, 400)
    for _ = 1, 50 do
      for _ = 1, 10 do setmetatable({}, meta) end
      local got = memory.getMany { "deep", "text" }
      for i = 1, 200 do
        local row = got.deep[i]
        if row[1] ~= i or row[2] ~= tostring(i) or row[3][1] ~= i then wrong = wrong + 1 end
      end
      assert.equal("text", got.text)
    end
    collectgarbage("incremental", 200, 100)
    assert.is_true(finalized > 100)
    assert.equal(0, wrong)
  end)

  it("see at once what this process has written, in a callback too", function()
    local seen = {}
    memory.set("k", 1, function() seen[#seen + 1] = memory.get("k") end)
    assert.equal(1, memory.get("k"))
    memory.setMany({ k = 2 }, function() seen[#seen + 1] = memory.get("k") end)
    while #seen < 2 do task.sleep(1) end
    assert.equal(2, seen[2])
  end)

  it("do not hand out the same table twice, nor what is changed in one", function()
    local first = memory.get("list")
    first[1], first[2][1] = "changed", "changed"
    assert.same({ 1, { 2 } }, memory.get("list"))
  end)
end)

describe("reads of a worker", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("work while its state is being closed, or say that it is over", function()
    local c = clusters.run {
      app = [[
        memory.set("k", { 1 })
        kept = setmetatable({}, { __gc = function()
          local value, _, code = memory.get("k")
          print(value and value[1] or code)
        end })
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.matches("^%w+\n$", c.out)
  end)

  it("see each change of a string that has been read before", function()
    local long = ("x"):rep(100000)
    for _, text in ipairs { "short", ("y"):rep(100), long } do
      local function settle(value)
        for _ = 1, 5 do
          assert.equal(value, memory.get "text")
          local same, version = memory.getVersioned "text"
          assert.equal(value, same)
          assert.equal(value ~= nil, version > 0)
          assert.same({ text = value, number = 1.5 }, memory.getMany { "text", "number" })
        end
      end
      put("text", text)
      settle(text)
      put("text", text .. "!")
      settle(text .. "!")
      assert.equal("OK", memory.remove "text")
      settle(nil)
      put("text", text)
      settle(text)
      put("text", text .. "?", { ttl = 30 })
      local deadline = uv.hrtime() + 5e9
      while memory.get "text" do assert.is_true(uv.hrtime() < deadline) end
      settle(nil)
      put("text", 7)
      settle(7)
      put("text", text)
      settle(text)
      assert.equal(1, memory.clear "text")
      settle(nil)
    end
  end)

  it("give what others have written last, however often it was read before", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        local me, other = "text" .. cluster.worker.slot, "text" .. 3 - cluster.worker.slot
        for i = 1, 5000 do
          memory.set(me, ("%d %s"):format(i, ("z"):rep(i % 200)))
          memory.set("done" .. me, i)
          local done = memory.get("done" .. other) or 0
          for _ = 1, 3 do
            local text = memory.get(other) or "0 "
            local number, rest = text:match "^(%d+) (z*)$"
            assert(tonumber(number) >= done and #rest == number % 200, text)
          end
        end
        print "ok"
      ]],
    }
    assert.equal("ok\nok\n", c.out, c.err)
  end)

  it("see what another has been told is done", function()
    local c = clusters.run {
      workers = 2,
      app = [[
        local me, other = cluster.worker.slot, 3 - cluster.worker.slot
        -- Each answers the other's count with its own.
        for i = 1, 20000 do
          memory.set("value" .. me, i)
          memory.set("done" .. me, i)
          local done = memory.get("done" .. other) or 0
          assert((memory.get("value" .. other) or 0) >= done)
        end
        print "ok"
      ]],
    }
    assert.equal("ok\nok\n", c.out, c.err)
  end)
end)
