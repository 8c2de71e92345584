local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local clusters = require "clusters"

local function raised(fn, ...)
  local ok, value = pcall(fn, ...)
  assert.is_false(ok)
  return value
end

describe("task.spawn", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("starts the function later, with its arguments, nils too", function()
    local got
    local t = task.spawn(function(...) got = table.pack(...) end, 1, nil, "x", nil)
    assert.is_nil(got)
    task.join(t)
    assert.same({ n = 4, 1, nil, "x", nil }, got)
  end)

  it("starts tasks in the order in which they were spawned", function()
    local order, tasks = {}, {}
    for i = 1, 10 do tasks[i] = task.spawn(function() order[#order + 1] = i end) end
    for i = 1, 10 do task.join(tasks[i]) end
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, order)
  end)

  it("gives a task whose state can be printed", function()
    local t = task.spawn(function() task.sleep(1) end)
    assert.matches("^task %d+ %(ready%)$", tostring(t))
    task.join(t)
    assert.matches("^task %d+ %(done%)$", tostring(t))
  end)

  it("refuses what is no function, at the caller's line", function()
    local message = raised(function() task.spawn(5) end)
    assert.matches("task_spec%.lua:%d+: task%.spawn: .*function.*number", message)
  end)

  it("takes 10,000 tasks at once", function()
    local sum, tasks = 0, {}
    for i = 1, 10000 do
      tasks[i] = task.spawn(function()
        task.sleep(i % 3)
        sum = sum + 1
      end)
    end
    for i = 1, 10000 do task.join(tasks[i]) end
    assert.equal(10000, sum)
  end)
end)

describe("task.sleep", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("waits at least that long, by the clock, whatever the loop's time is", function()
    for _, ms in ipairs { 1, 10, 30 } do
      local busy = uv.hrtime()
      repeat until uv.hrtime() - busy > 5e6
      local start = uv.hrtime()
      task.sleep(ms)
      -- The loop's clock counts whole milliseconds.
      assert.is_true((uv.hrtime() - start) / 1e6 > ms - 1)
    end
  end)

  it("takes 0 and parts of a millisecond", function()
    task.sleep(0)
    task.sleep(0.0)
    task.sleep(0.4)
  end)

  it("wakes tasks in the order of their times", function()
    local order, tasks = {}, {}
    for i, ms in ipairs { 40, 5, 20 } do
      tasks[i] = task.spawn(function()
        task.sleep(ms)
        order[#order + 1] = ms
      end)
    end
    for i = 1, 3 do task.join(tasks[i]) end
    assert.same({ 5, 20, 40 }, order)
  end)

  it("calls back", function()
    local n = task.await(function(resume)
      task.sleep(1, function(...) resume(select("#", ...)) end)
    end)
    assert.equal(0, n)
  end)

  it("refuses what is no duration, at the caller's line", function()
    for _, ms in ipairs { -1, 0 / 0, math.huge, "10", {}, true } do
      local message = raised(function() task.sleep(ms) end)
      assert.matches("task_spec%.lua:%d+: task%.sleep: ", message)
    end
    assert.matches("task_spec%.lua:%d+: task%.sleep: ", raised(function() task.sleep() end))
    assert.matches("callback", raised(function() task.sleep(1, 2) end))
  end)
end)

describe("task.join", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("gives all results, nils too, of a task that runs or has ended", function()
    local t = task.spawn(function()
      task.sleep(1)
      return nil, 2, nil
    end)
    assert.same({ n = 3, nil, 2, nil }, table.pack(task.join(t)))
    assert.same({ n = 3, nil, 2, nil }, table.pack(task.join(t)))
    assert.equal(0, select("#", task.join(task.spawn(function() end))))
  end)

  it("wakes all who join", function()
    local t = task.spawn(function()
      task.sleep(5)
      return "result"
    end)
    local function join() return task.join(t) end
    local tasks = { task.spawn(join), task.spawn(join), task.spawn(join) }
    for _, each in ipairs(tasks) do assert.equal("result", task.join(each)) end
  end)

  it("raises again what the task raised, the same value, for each who joins", function()
    local value = { "an error" }
    local t = task.spawn(function()
      task.sleep(1)
      error(value)
    end)
    local others = {}
    for i = 1, 3 do others[i] = task.spawn(function() return raised(task.join, t) end) end
    assert.equal(value, raised(task.join, t))
    for i = 1, 3 do assert.equal(value, task.join(others[i])) end
    assert.equal(value, raised(task.join, t))
    assert.matches("^task %d+ %(failed%)$", tostring(t))
  end)

  it("leaves a message as it was raised", function()
    local message = raised(task.join, task.spawn(function() error("plain", 0) end))
    assert.equal("plain", message)
    message = raised(task.join, task.spawn(function() error() end))
    assert.is_nil(message)
  end)

  it("calls back with the results", function()
    local t = task.spawn(function() return 1, nil, 3 end)
    assert.same({ n = 3, 1, nil, 3 }, table.pack(task.await(function(resume) task.join(t, resume) end)))
  end)

  it("raises where a task joins itself", function()
    local me
    me = task.spawn(function() return raised(task.join, me) end)
    assert.matches("wait for each other", task.join(me))
  end)

  it("raises where tasks would join each other for ever", function()
    local tasks, messages = {}, {}
    for i = 1, 3 do
      tasks[i] = task.spawn(function()
        local ok, message = pcall(task.join, tasks[i % 3 + 1])
        if not ok then messages[#messages + 1] = message end
      end)
    end
    for i = 1, 3 do task.join(tasks[i]) end
    assert.equal(1, #messages)
    assert.matches("wait for each other", messages[1])
  end)

  it("refuses what is no task, at the caller's line", function()
    for _, argument in ipairs { 5, {}, coroutine.create(print) } do
      assert.matches("task_spec%.lua:%d+: task%.join: ", raised(function() task.join(argument) end))
    end
    assert.matches("task_spec%.lua:%d+: task%.join: ", raised(function() task.join(nil) end))
  end)

  it("does not wait for a task that has ended", function()
    local t = task.spawn(function() return 1 end)
    task.join(t)
    local ran = false
    task.spawn(function() ran = true end)
    assert.equal(1, task.join(t))
    assert.is_false(ran)
  end)
end)

describe("task.all", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("gives the first result of each function, in their order, nils too", function()
    local results = table.pack(task.all {
      function()
        task.sleep(10)
        return "a", "not this"
      end,
      function() end,
      function() return nil end,
      function() return "d" end,
      function() return nil end,
    })
    assert.same({ n = 5, "a", nil, nil, "d", nil }, results)
  end)

  it("of nothing gives nothing", function()
    assert.equal(0, select("#", task.all {}))
  end)

  it("runs them side by side", function()
    local running, most = 0, 0
    local function each()
      running = running + 1
      most = math.max(most, running)
      task.sleep(5)
      running = running - 1
    end
    task.all { each, each, each }
    assert.equal(3, most)
  end)

  it("raises the first error at once, the same value, while the others go on", function()
    local value, late = {}, nil
    local start = uv.hrtime()
    local t
    local got = raised(task.all, {
      function()
        t = task.spawn(function()
          task.sleep(300)
          late = true
        end)
        task.join(t)
      end,
      function()
        task.sleep(1)
        error(value)
      end,
    })
    assert.equal(value, got)
    assert.is_nil(late)
    assert.is_true((uv.hrtime() - start) / 1e6 < 300)
    task.join(t)
    assert.is_true(late)
  end)

  it("calls back with the results", function()
    local function one() return 1 end
    local function two() return 2 end
    assert.same({ 1, 2 }, { task.await(function(resume) task.all({ one, two }, resume) end) })
  end)

  it("refuses what is no list of functions, at the caller's line", function()
    assert.matches("task_spec%.lua:%d+: task%.all: ", raised(function() task.all(print) end))
    local message = raised(function() task.all { print, 5 } end)
    assert.matches("task_spec%.lua:%d+: task%.all: function 2 .*number", message)
  end)
end)

describe("task.await", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("gives what a luv callback gets", function()
    local err, stat = task.await(function(resume) uv.fs_stat("/", resume) end)
    assert.is_nil(err)
    assert.equal("directory", stat.type)
    assert.matches("^ENOENT", (task.await(function(resume) uv.fs_stat("/does/not/exist", resume) end)))
  end)

  it("gives what resume is called with, nils too, also when that is at once", function()
    assert.same({ n = 3, nil, 2, nil }, table.pack(task.await(function(resume) resume(nil, 2, nil) end)))
    assert.same({ n = 3, nil, 2, nil }, table.pack(task.await(function(resume)
      task.spawn(resume, nil, 2, nil)
    end)))
  end)

  it("takes the first call of resume; each further one returns false", function()
    local resumes, returned = nil, {}
    local value = task.await(function(resume)
      resumes = resume
      returned[1] = resume("first")
      returned[2] = resume("second")
    end)
    assert.equal("first", value)
    assert.same({ true, false }, returned)
    assert.is_false(resumes("third"))
    local later = task.await(function(resume)
      task.spawn(function()
        returned[1] = resume("first")
        returned[2] = resume("second")
      end)
    end)
    assert.equal("first", later)
    assert.same({ true, false }, returned)
    task.sleep(1)
    assert.is_false(resumes("fourth"))
  end)

  it("raises what the function raises", function()
    local value = {}
    assert.equal(value, raised(task.await, function() error(value) end))
  end)

  it("lets the function wait itself", function()
    local value = task.await(function(resume)
      task.spawn(resume, "early")
      task.sleep(5)
      assert(memory.set("k", 1))
    end)
    assert.equal("early", value)
  end)

  it("calls back", function()
    local value = task.await(function(resume)
      task.await(function(inner) uv.fs_stat("/", inner) end, function(_, stat) resume(stat.type) end)
    end)
    assert.equal("directory", value)
  end)

  it("refuses what is no function, at the caller's line", function()
    assert.matches("task_spec%.lua:%d+: task%.await: ", raised(function() task.await(5) end))
    assert.matches("task_spec%.lua:%d+: task%.await: ", raised(function() task.await(print, 5) end))
  end)

  it("lets what is closed on the way out of a failing task wait", function()
    assert(memory.set("held", true))
    local failing = task.spawn(function()
      local _ <close> = setmetatable({}, { __close = function() memory.remove("held") end })
      task.sleep(1)
      error("boom", 0)
    end)
    assert.equal("boom", raised(task.join, failing))
    assert.is_nil((memory.get("held")))
  end)
end)
