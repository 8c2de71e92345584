local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local null = require("cjson").null
local clusters = require "clusters"
local steps = require "keysteps"

local called, put, raises, done = steps.called, steps.put, steps.raises, steps.done

local LIMIT_MS = 20000

-- Listens, and notes what it is told as { value, key, version, cause }.
local handles = {}

local function listen(key, options)
  local seen = {}
  local handle = memory.listen(key, function(value, info)
    seen[#seen + 1] = { value = value, key = info.key, version = info.version, cause = info.cause }
  end, options)
  assert.truthy(handle)
  handles[#handles + 1] = handle
  return seen, handle
end

local function waitUntil(what, fn)
  local limit = uv.now() + LIMIT_MS
  while not fn() do
    if uv.now() > limit then error("too late: " .. what, 2) end
    task.sleep(1)
  end
end

local function waitFor(seen, count)
  waitUntil(count .. " changes", function() return #seen >= count end)
  assert.equal(count, #seen)
end

-- Waits until all that has been changed so far has been told: the change of a key is told behind what came before.
local ends = 0

local function settle()
  ends = ends + 1
  local key = "end of the spec's changes " .. ends
  local seen, handle = listen(key)
  put(key, 1)
  waitFor(seen, 1)
  memory.unlisten(handle)
  -- Also those whose task was started before.
  for _ = 1, 3 do task.sleep(1) end
end

local function prepare()
  steps.prepare()
  handles = {}
end

local function finish()
  for _, handle in ipairs(handles) do memory.unlisten(handle) end
  clusters.finish()
end

describe("a listener", function()
  before_each(prepare)
  after_each(finish)

  it("is told each change with its value, version and cause", function()
    local seen = listen "k"
    local versions = { put("k", { 1, { a = "b" } }) }
    versions[2] = put("k", 5)
    assert.equal(7, memory.increment("k", 2))
    versions[3] = select(2, memory.getVersioned("k"))
    assert.equal(8, memory.update("k", function(old) return old + 1 end))
    versions[4] = select(2, memory.getVersioned("k"))
    done(memory.setMany { k = false, other = 1 })
    versions[5] = select(2, memory.getVersioned("k"))
    done(memory.remove("k"))
    versions[7] = put("k", null)
    assert.equal(2, memory.clear())
    waitFor(seen, 8)
    local expected = {
      { value = { 1, { a = "b" } }, cause = "set" }, { value = 5, cause = "set" }, { value = 7, cause = "set" },
      { value = 8, cause = "set" }, { value = false, cause = "set" }, { cause = "remove" },
      { value = null, cause = "set" }, { cause = "clear" },
    }
    for i, each in ipairs(expected) do
      each.key, each.version = "k", versions[i] or seen[i].version
      assert.same(each, seen[i])
      assert.equal("integer", math.type(seen[i].version))
      assert.is_true(i == 1 or seen[i].version > seen[i - 1].version)
    end
  end)

  it("is told nothing of what changes nothing, nor of expire and persist", function()
    put("k", "text")
    local seen = listen "k"
    memory.set("k", 1, { ifAbsent = true })
    memory.set("k", 1, { ifVersion = 0 })
    memory.remove("k", { ifVersion = 0 })
    memory.increment("k")
    done(memory.expire("k", 60000))
    done(memory.persist("k"))
    memory.remove("nothing")
    put("other", 1)
    settle()
    assert.same({}, seen)
  end)

  it("is told that an entry has expired, soon after", function()
    local seen = listen "k"
    local version = put("k", 1, { ttl = 30 })
    local before = uv.hrtime()
    waitFor(seen, 2)
    local took = (uv.hrtime() - before) / 1e6
    assert.same({ key = "k", cause = "expire", version = seen[2].version }, seen[2])
    assert.is_true(seen[2].version > version)
    assert.is_true(took < 5000, ("it took %.0f ms"):format(took)) -- about a second, where the machine is not busy
  end)

  it("is told of keys that begin with its prefix, and of no others", function()
    local some, all, exact = listen("pre", { prefix = true }), listen("", { prefix = true }), listen "pre"
    local unsaid = listen(nil, { prefix = true })
    for _, key in ipairs { "pre", "prefix", "pr", "xpre", "pre\0fix" } do put(key, key) end
    settle()
    local function keysOf(seen)
      local keys = {}
      for i, each in ipairs(seen) do
        keys[i] = each.key
        assert.equal(each.key, each.value)
        if #keys == 5 then break end -- then comes what settle sets
      end
      return keys
    end
    assert.same({ "pre", "prefix", "pre\0fix" }, keysOf(some))
    assert.same({ "pre" }, keysOf(exact))
    for _, seen in ipairs { all, unsaid } do
      assert.same({ "pre", "prefix", "pr", "xpre", "pre\0fix" }, keysOf(seen))
    end
  end)

  it("gets each change once, however many prefixes others listen for", function()
    local seen = {}
    for _, prefix in ipairs { "", "a", "ab", "abc", "ab" } do seen[#seen + 1] = listen(prefix, { prefix = true }) end
    seen[#seen + 1] = listen "abc"
    put("abc", 1)
    for _, each in ipairs(seen) do waitFor(each, 1) end
    settle()
    for i = 2, #seen do assert.equal(1, #seen[i]) end
  end)

  it("has copies of its own", function()
    local first, second
    handles = {
      memory.listen("k", function(value) value[1] = "changed" first = value end),
      memory.listen("k", function(value) second = value end),
    }
    put("k", { 1 })
    waitUntil("both", function() return first and second end)
    assert.same({ { "changed" }, { 1 }, { 1 } }, { first, second, memory.get("k") })
  end)

  it("is told one change after the other, in order, while its callback waits", function()
    local begun, ended, running = {}, 0, 0
    handles[1] = memory.listen("k", function(value)
      running = running + 1
      assert.equal(1, running)
      begun[#begun + 1] = value
      task.sleep(value % 3)
      running = running - 1
      ended = ended + 1
    end)
    for i = 1, 200 do put("k", i) end
    waitUntil("all", function() return ended == 200 end)
    for i = 1, 200 do assert.equal(i, begun[i]) end
  end)

  it("runs a callback in no coroutine that somebody may know from an earlier one", function()
    local known, count, infos = {}, 0, {}
    handles[1] = memory.listen("k", function(value, info)
      infos[#infos + 1] = info
      if value % 3 == 1 then task.sleep(0) end
      if value % 3 == 0 then return end
      local co = coroutine.running()
      assert.is_nil(known[co])
      known[co], count = true, count + 1
    end)
    for i = 1, 60 do put("k", i) end
    waitUntil("all", function() return #infos == 60 and count == 40 end)
    for co in pairs(known) do assert.equal("dead", coroutine.status(co)) end
    -- Each has an info of its own.
    for i = 2, 60 do assert.is_true(infos[i].version > infos[i - 1].version) end
  end)

  it("is not held up by another one whose callback waits", function()
    local release, held
    handles[1] = memory.listen("k", function()
      held = true
      task.await(function(resume) release = resume end)
    end)
    local seen = listen "k"
    for i = 1, 5 do put("k", i) end
    waitFor(seen, 5)
    assert.is_true(held)
    memory.unlisten(handles[1])
    release()
  end)

  it("may end while a change is on its way, and no callback begins afterwards", function()
    local seen, handle = listen "k"
    put("k", 1) -- has been told when this returns, or will be
    assert.is_true(memory.unlisten(handle))
    local count = #seen
    put("k", 2)
    settle()
    assert.equal(count, #seen)
    assert.is_false(memory.unlisten(handle))
    assert.is_false(memory.unlisten(handle))
  end)

  it("may be ended by another one's callback for the same change", function()
    local toldSecond = 0
    local second
    handles[1] = memory.listen("k", function() memory.unlisten(second) end)
    second = memory.listen("k", function() toldSecond = toldSecond + 1 end)
    put("k", 1)
    put("k", 2)
    settle()
    assert.equal(0, toldSecond)
    assert.is_false(memory.unlisten(second))
  end)

  it("may end while its callback waits, and that goes on", function()
    local begun, release, ended = 0, nil, false
    local handle = memory.listen("k", function()
      begun = begun + 1
      task.await(function(resume) release = resume end)
      ended = true
    end)
    for i = 1, 5 do put("k", i) end
    waitUntil("the first", function() return release end)
    settle()
    assert.is_true(memory.unlisten(handle))
    assert.is_false(ended)
    release()
    waitUntil("the end", function() return ended end)
    settle()
    assert.equal(1, begun)
  end)

  it("may end in its own callback", function()
    local count, handle = 0, nil
    handle = memory.listen("k", function()
      count = count + 1
      assert.is_true(memory.unlisten(handle))
    end)
    for i = 1, 5 do put("k", i) end
    settle()
    assert.equal(1, count)
  end)

  it("comes and goes beside others of the same name", function()
    local first, firstHandle = listen "k"
    local second, secondHandle = listen "k"
    put("k", 1)
    memory.unlisten(firstHandle)
    put("k", 2)
    waitFor(second, 2)
    local third = listen "k"
    memory.unlisten(secondHandle)
    put("k", 3)
    waitFor(third, 1)
    assert.is_true(#first <= 1)
    assert.equal(2, #second)
  end)

  it("is told first what is there, with initial", function()
    local version = put("k", { "present" })
    local seen = listen("k", { initial = true })
    local absent = listen("absent", { initial = true })
    waitFor(seen, 1)
    assert.same({ value = { "present" }, key = "k", version = version, cause = "set" }, seen[1])
    put("k", 2)
    put("absent", 3)
    waitFor(seen, 2)
    waitFor(absent, 1)
    assert.equal(2, seen[2].value)
    assert.equal(3, absent[1].value)
  end)

  it("is told first of all keys that are there, with initial and a prefix", function()
    local pairs_ = {}
    for i = 1, 5000 do pairs_["p" .. i] = i end
    done(memory.setMany(pairs_))
    put("other", 1)
    local seen = listen("p", { initial = true, prefix = true })
    put("p6000", 6000)
    waitUntil("all", function() return #seen >= 5001 end)
    settle()
    local by = {}
    for _, each in ipairs(seen) do
      assert.is_nil(by[each.key])
      by[each.key] = each.value
      assert.equal("set", each.cause)
    end
    pairs_.p6000 = 6000
    assert.same(pairs_, by)
  end)

  it("is told nothing twice where keys change while it is told which are there", function()
    -- Little more than is listed at once, and much more.
    for _, keys in ipairs { 1020, 8000 } do
      local pairs_ = {}
      for i = 1, keys do pairs_["p" .. i] = 0 end
      done(memory.setMany(pairs_))
      for _ = 1, 24000 // keys do
        local versions, count, over, writers, twice = {}, 0, false, {}, nil
        for i = 1, 200 do
          writers[i] = task.spawn(function()
            while not over do put("p" .. math.random(keys), i) end
          end)
        end
        local handle = memory.listen("p", function(_, info)
          if info.version <= (versions[info.key] or 0) then twice = info end
          if not versions[info.key] then count = count + 1 end
          versions[info.key] = info.version
        end, { prefix = true, initial = true })
        handles[1] = handle
        waitUntil("all", function() return count == keys end)
        over = true
        for _, writer in ipairs(writers) do task.join(writer) end
        memory.unlisten(handle)
        assert.is_nil(twice)
      end
    end
  end)

  it("has all that was issued before in its first value", function()
    local seen
    memory.setMany({ k = 1 }, function() end)
    memory.set("k", 2, function() end)
    seen = listen("k", { initial = true })
    waitUntil("the newest", function() return #seen > 0 and seen[#seen].value == 2 end)
  end)

  it("is made with a callback, too", function()
    local results = called(memory.listen, "k", function() end, nil)
    assert.equal(1, results.n)
    assert.is_true(memory.unlisten(results[1]))
    results = called(memory.listen, "k", function() end, { prefix = true })
    assert.is_true(memory.unlisten(results[1]))
    results = called(memory.listen, "k", function() end)
    assert.is_true(memory.unlisten(results[1]))
  end)

  it("many at once are made of the same name and of others", function()
    local fns, counts = {}, {}
    for i = 1, 100 do
      fns[i] = function()
        local handle = memory.listen("k" .. i % 7, function() counts[i] = (counts[i] or 0) + 1 end)
        handles[#handles + 1] = handle
      end
    end
    task.all(fns)
    assert.equal(100, #handles)
    for i = 0, 6 do put("k" .. i, 1) end
    settle()
    for i = 1, 100 do assert.equal(1, counts[i]) end
  end)

  it("that ends in a finalizer, in the midst of a beginning, takes nothing from the new one", function()
    collectgarbage "generational" -- it comes by often
    finally(function() collectgarbage "incremental" end)
    for round = 1, 6000 do
      -- The only one of its name, until the collector comes by: each time at another place.
      local doomed = memory.listen("g", function() end)
      setmetatable({}, { __gc = function() memory.unlisten(doomed) end })
      for _ = 1, round % 40 do local _ = {} end
      local seen, handle = listen "g"
      put("g", round)
      waitFor(seen, 1)
      memory.unlisten(handle)
    end
    collectgarbage()
  end)

  it("that ends in a finalizer, in the midst of a change, takes nothing from the others", function()
    local counts, ended = {}, 0
    for round = 1, 30 do
      local others = {}
      for i = 1, 10 do
        -- An end between others of the same name and prefix, whenever the collector comes by.
        local doomed = memory.listen("f", function() end, { prefix = true })
        setmetatable({}, { __gc = function()
          ended = ended + 1
          memory.unlisten(doomed)
          memory.listen("f" .. round .. i, function() end, { prefix = true }, function(handle)
            memory.unlisten(handle)
          end)
        end })
        others[i] = memory.listen("f", function() counts[i] = (counts[i] or 0) + 1 end, { prefix = true })
      end
      for i = 1, 10 do put("f" .. i, ("x"):rep(1000)) end
      settle()
      for i = 1, 10 do
        assert.equal(round * 10, counts[i])
        memory.unlisten(others[i])
      end
    end
    collectgarbage()
    waitUntil("all finalizers", function() collectgarbage() return ended == 300 end)
    settle()
  end)

  it("refuses what it cannot understand, at the caller's line", function()
    local function fn() end
    raises(function() memory.listen() end, "listen: the key", "nil")
    raises(function() memory.listen("", fn) end, "listen: the key", "0 bytes")
    raises(function() memory.listen(5, fn) end, "listen: the key", "a number")
    raises(function() memory.listen(("k"):rep(65536), fn) end, "listen: the key", "65536 bytes")
    raises(function() memory.listen(("k"):rep(65536), fn, { prefix = true }) end, "listen: the prefix", "65536")
    raises(function() memory.listen("k") end, "listen: its second argument", "function", "nil")
    raises(function() memory.listen("k", "fn") end, "listen: its second argument", "string")
    raises(function() memory.listen("k", fn, 5) end, "listen: the options", "a number")
    raises(function() memory.listen("k", fn, { prefx = true }) end, "unknown option 'prefx'", "prefix, initial")
    raises(function() memory.listen("k", fn, { prefix = 1 }) end, "listen: prefix", "boolean")
    raises(function() memory.listen("k", fn, { initial = "yes" }) end, "listen: initial", "boolean")
    raises(function() memory.listen("k", fn, {}, 5) end, "listen: the callback")
    raises(function() memory.unlisten() end, "unlisten: a handle", "nil")
    raises(function() memory.unlisten("k") end, "unlisten: a handle", "string")
    raises(function() memory.unlisten {} end, "unlisten: a handle", "table")
  end)

  it("cannot be made where nobody can wait, without a callback; it can be ended there", function()
    local handle = select(2, listen "k")
    local timer = uv.new_timer()
    local results = task.await(function(resume)
      timer:start(0, 0, function()
        local ended = memory.unlisten(handle)
        resume { ended, pcall(memory.listen, "k", print) }
      end)
    end)
    timer:close()
    assert.is_true(results[1])
    assert.is_false(results[2])
    assert.matches("listen waits, and this is no task", results[3])
  end)
end)

-- A script in which every worker and process 0 has this.
local common = [[
  local function waitUntil(fn) while not fn() do task.sleep(1) end end
  local function exists(name) return uv.fs_stat(name) ~= nil end
]]

describe("listeners of several processes", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("in process 0 are told what a worker does, and the other way round", function()
    local c = clusters.run {
      boot = common .. [[
        memory.listen("from worker", function(value, info)
          print("process 0: " .. info.cause .. " " .. value)
          memory.set("from 0", value + 1)
        end)
        memory.listen("over", function() cluster.exit(0) end)
      ]],
      app = common .. [[
        local handle
        handle = memory.listen("from 0", function(value, info)
          print("worker: " .. info.cause .. " " .. value)
          memory.unlisten(handle)
          memory.set("over", true)
        end)
        memory.set("from worker", 41)
      ]],
    }
    assert.equal(0, c.code)
    assert.equal("process 0: set 41\nworker: set 42\n", c.out)
  end)

  it("keep their process alive until the last is ended", function()
    local c = clusters.start {
      app = common .. [[
        local count = 0
        for i = 1, 2 do
          local handle
          handle = memory.listen("k", function(value)
            if value ~= i then return end
            memory.unlisten(handle)
            print("ended " .. i)
          end)
        end
        local timer = uv.new_timer()
        timer:start(20, 20, function()
          if not exists "go" then return end
          count = count + 1
          if count > 2 then timer:close() return end
          task.spawn(memory.set, "k", count)
        end)
        timer:unref()
        print "the main task ends"
      ]],
    }
    c:waitFor "the main task ends\n"
    task.sleep(50)
    assert.is_nil(c.code)
    c:write("go", "")
    assert.equal(0, (c:waitExit()))
    assert.matches("ended 1\nended 2\n", c.out)
  end)

  it("end their process with an error that nobody takes", function()
    local c = clusters.run {
      "--restart", "never",
      app = [[
        memory.listen("k", function() error("no luck with it") end)
        memory.set("k", 1)
        task.sleep(60000)
      ]],
    }
    assert.equal(1, c.code)
    assert.matches("app.lua:%d+: no luck with it", c.err)
    assert.matches("traceback", c.err)
  end)

  it("let all tasks of a process get through with their updates of the key", function()
    assert.equal("ok\n", clusters.output [[
      local handle = memory.listen("n", function() end)
      local counts, total, tasks = {}, 0, {}
      for i = 1, 20 do
        counts[i] = 0
        tasks[i] = function()
          while total < 2000 do
            assert(memory.update("n", function(n) return (n or 0) + 1 end))
            counts[i], total = counts[i] + 1, total + 1
          end
        end
      end
      task.all(tasks)
      memory.unlisten(handle)
      assert(memory.get("n") == total)
      for i = 1, 20 do assert(counts[i] > 20, i .. " got through only " .. counts[i] .. " times") end
      print "ok"
    ]])
  end)

  it("go on after an error that somebody takes", function()
    assert.equal("took bad 1\ntook bad 2\ngot 3\n", clusters.output [[
      cluster.on("error", function(value) print("took " .. value:match("bad %d")) end)
      local handle
      handle = memory.listen("k", function(value)
        if value < 3 then error("bad " .. value) end
        print("got " .. value)
        memory.unlisten(handle)
      end)
      for i = 1, 3 do memory.set("k", i) end
    ]])
  end)

  it("see versions that grow and every last value, of 100,000 changes by 4 workers", function()
    local c = clusters.run {
      workers = 4,
      app = common .. [[
        local CHANGES, KEYS = 25000, 50
        local last, versions, told, gaps = {}, {}, 0, 0
        local function take(value, info)
          told = told + 1
          if info.cause == "gap" then
            gaps = gaps + 1
            if info.key == "k" then return end
          end
          assert(info.version > (versions[info.key] or 0), "a version that does not grow")
          versions[info.key], last[info.key] = info.version, value
        end
        local handle = memory.listen("k", take, { prefix = true })
        local exact = {}
        local seen = {}
        for i = 1, 5 do
          exact[i] = memory.listen("k" .. i, function(value, info)
            assert(info.version > (seen[i] and seen[i].version or 0))
            seen[i] = { version = info.version, value = value }
          end)
        end
        memory.increment("ready")
        waitUntil(function() return memory.get("ready") == 4 end)
        local me = cluster.worker.slot
        local pending = 0
        for i = 1, CHANGES do
          pending = pending + 1
          memory.set("k" .. i * 7 % KEYS, { me, i }, function() pending = pending - 1 end)
          if i % 100 == 0 then waitUntil(function() return pending == 0 end) end
        end
        memory.increment("done")
        waitUntil(function() return memory.get("done") == 4 end)
        for i = 0, KEYS - 1 do
          local value, version = memory.getVersioned("k" .. i)
          waitUntil(function() return versions["k" .. i] == version end)
          assert(last["k" .. i][1] == value[1] and last["k" .. i][2] == value[2])
          if exact[i] then waitUntil(function() return seen[i].version == version end) end
        end
        assert(told <= 4 * CHANGES and (gaps > 0 or told == 4 * CHANGES))
        memory.unlisten(handle)
        for _, each in ipairs(exact) do memory.unlisten(each) end
        print "all seen"
      ]],
      limit = 80000,
    }
    assert.equal(0, c.code, c.err)
    assert.equal(4, c:count "all seen\n")
  end)

  it("that come and go while others write miss nothing after they have come", function()
    local c = clusters.run {
      workers = 3,
      app = common .. [[
        if cluster.worker.slot > 1 then
          local name = "n" .. cluster.worker.slot
          while not memory.get "stop" do memory.increment(name) end
          return
        end
        local random = math.random
        waitUntil(function() return memory.get "n2" and memory.get "n3" end)
        local function once(round)
          local name = "n" .. random(2, 3)
          local way = random(4)
          local first, last, previous, handle = nil, nil, nil, nil
          local options = ({ {}, { prefix = true }, { initial = true }, { prefix = true, initial = true } })[way]
          handle = memory.listen(name, function(value, info)
            first = first or value
            if info.cause ~= "gap" then
              assert(not last or value == last + 1, "a change is missing, or came twice")
            end
            last = value
            assert(info.version > (previous or 0))
            previous = info.version
          end, options)
          -- What is there now has been counted before, or is to be told.
          local now = memory.get(name)
          waitUntil(function() return last and last >= now + random(0, 3) end)
          assert(first and first <= now + 1, "a change after the listen has returned is missing")
          assert(memory.unlisten(handle))
        end
        for round = 1, 60 do
          local fns = {}
          for i = 1, random(4) do fns[i] = function() once(round) end end
          task.all(fns)
        end
        memory.set("stop", true)
        print "nothing was missed"
      ]],
      limit = 80000,
    }
    assert.equal(0, c.code, c.err)
    assert.equal("nothing was missed\n", c.out)
  end)

  it("see each change once from the present one on, with initial and a prefix, while others write", function()
    local c = clusters.run {
      workers = 3,
      app = common .. [[
        local KEYS = 3000
        if cluster.worker.slot > 1 then
          -- Each key has one writer, and counts.
          while not memory.get "stop" do
            local name = "n" .. (math.random(KEYS // 2) * 2 + cluster.worker.slot % 2)
            memory.increment(name)
          end
          return
        end
        local pairs_ = {}
        for i = 1, KEYS do pairs_["n" .. i] = 0 end
        memory.setMany(pairs_)
        for round = 1, 5 do
          local last, versions, initial, told = {}, {}, 0, 0
          local handle = memory.listen("n", function(value, info)
            told = told + 1
            if info.key == "n" then error("so many gaps") end
            if not last[info.key] then
              initial = initial + 1
            elseif info.cause ~= "gap" then
              assert(value == last[info.key] + 1, info.key .. ": " .. last[info.key] .. ", then " .. value)
            end
            assert(info.version > (versions[info.key] or 0), "a version that does not grow")
            last[info.key], versions[info.key] = value, info.version
          end, { prefix = true, initial = true })
          waitUntil(function() return initial >= KEYS and told > KEYS + 500 end)
          memory.unlisten(handle)
        end
        memory.set("stop", true)
        print "no gap and nothing twice"
      ]],
      limit = 80000,
    }
    assert.equal(0, c.code, c.err)
    assert.equal("no gap and nothing twice\n", c.out)
  end)
end)

describe("the price of a listener:", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- While the master is stopped, only what needs no message returns.
  local function stopMaster(c)
    c:kill "sigstop"
    c:waitUntil("the master's stop", function()
      return clusters.read(("/proc/%d/status"):format(c.pid)):find "State:%s+T"
    end)
  end

  local writer = common .. [[
    local function try(turn)
      waitUntil(function() return exists(turn) end)
      for i = 1, 10000 do assert(memory.set("free" .. i, i) == "OK") end
      print(turn .. ": unwatched keys are set")
      local before, answered = memory.get("watched"), false
      memory.set("watched", turn, function()
        answered = true
        print(turn .. ": a watched key is set")
      end)
      task.sleep(100) -- the master's, if it were not stopped
      print(turn .. ": " .. (memory.get("watched") == before and not answered and "it waits" or "it does not wait"))
    end
  ]]

  it("with 1,000 watched keys and some prefixes a set of another key sends no message", function()
    local c = clusters.start {
      workers = 2, "--grace", "300",
      app = writer .. [[
        if cluster.worker.slot == 2 then
          memory.listen("watched", function() end)
          for i = 1, 1000 do memory.listen("watched" .. i, function() end) end
          for _, prefix in ipairs { "w", "wa", "fresh", "prefix:" } do
            memory.listen(prefix, function() end, { prefix = true })
          end
          memory.set("listening", true)
          task.sleep(60000)
        end
        waitUntil(function() return memory.get "listening" end)
        print "ready"
        try "first"
      ]],
    }
    c:waitFor "ready\n"
    stopMaster(c)
    c:write("first", "")
    c:waitFor "first: unwatched keys are set\n"
    c:waitFor "first: it waits\n"
    assert.equal(0, c:count "a watched key is set")
    c:kill "sigcont"
    c:waitFor "first: a watched key is set\n"
    c:kill "sigterm"
    c:waitExit()
  end)

  it("one that ended, or whose worker died, costs nothing any more", function()
    local c = clusters.start {
      workers = 3, "--grace", "300", "--restart", "never",
      app = writer .. [[
        local slot = cluster.worker.slot
        if slot == 1 then
          local handle = memory.listen("watched", function() end)
          waitUntil(function() return memory.get "listening" == 2 end)
          print "ready"
          waitUntil(function() return exists "third" end)
          memory.setMany {} -- behind what the master does for the dead
          print "two are left"
          try "first"
          waitUntil(function() return memory.get "watched" == "first" end)
          memory.unlisten(handle)
          waitUntil(function() return exists "second is dead" end)
          memory.setMany {}
          print "alone"
          try "second"
          return
        end
        memory.listen(slot == 2 and "watched" or "", function() end, { prefix = slot == 3 })
        memory.increment "listening"
        print(("worker %d is %d"):format(slot, cluster.worker.pid))
        task.sleep(60000)
      ]],
    }
    c:waitFor "ready\n"
    -- The listener for all keys dies first.
    c:kill("sigkill", c:waitFor "worker 3 is (%d+)\n")
    c:waitFor("slot 3, pid %d+%) was killed by SIGKILL", "err")
    c:write("third", "")
    c:waitFor "two are left\n"
    stopMaster(c)
    c:write("first", "")
    c:waitFor "first: it waits\n"
    c:kill "sigcont"
    c:waitFor "first: a watched key is set\n"
    c:kill("sigkill", c:waitFor "worker 2 is (%d+)\n")
    c:waitFor("slot 2, pid %d+%) was killed by SIGKILL", "err")
    c:write("second is dead", "")
    c:waitFor "alone\n"
    stopMaster(c)
    c:write("second", "")
    c:waitFor "second: a watched key is set\n"
    c:waitFor "second: it does not wait\n"
    c:kill "sigcont"
    c:waitExit()
  end)

  it("is memory of the master's, so one process can listen for so much only", function()
    assert.equal("nomemory\nOK\ntrue\n", clusters.output [[
      local handles, code = {}, nil
      repeat
        local handle, _, why = memory.listen(("k"):rep(60000) .. #handles, function() end)
        handles[#handles + 1], code = handle, why
      until not handle
      print(code)
      print((memory.set("other", 1)))
      memory.unlisten(handles[1])
      local again = memory.listen("less", function() end)
      print(again ~= nil)
      cluster.exit(0)
    ]])
  end)
end)
