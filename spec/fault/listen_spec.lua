local clusters = require "clusters"

-- Under the address sanitizer freed memory stays resident for a while.
local sanitized = clusters.isSanitized()

local function status(pid)
  return clusters.read(("/proc/%d/status"):format(pid)) or ""
end

-- MiB.
local function resident(pid)
  return tonumber(status(pid):match "VmRSS:%s+(%d+) kB" or 0) / 1024
end

-- The mark of 1 MiB, as much for keys that are told as gaps, and what the allocator keeps of buffers that were larger.
local BOUND_MB = sanitized and 400 or 16

local common = [[
  local slot = cluster.worker.slot
  local function waitUntil(fn) while not fn() do task.sleep(1) end end
  local function exists(name) return uv.fs_stat(name) ~= nil end
  -- So many at once.
  local pending = 0
  local function set(key, value)
    pending = pending + 1
    memory.set(key, value, function(ok) assert(ok == "OK") pending = pending - 1 end)
    if pending >= 200 then waitUntil(function() return pending < 100 end) end
  end
  local function stopMyself()
    waitUntil(function() return exists "ready" end)
    print("stopping " .. cluster.worker.pid)
    task.sleep(1)
    uv.kill(cluster.worker.pid, "sigstop")
  end
  -- One that is not stopped: it listens, and counts how often it is told.
  local function turn()
    local turns = 0
    local handle = memory.listen("turn", function()
      turns = turns + 1
      if turns % 500 == 0 then print("turn " .. turns) end
    end)
    while not memory.get "over" do memory.increment "turn" end
    memory.unlisten(handle)
  end
]]

-- Waits until the worker has stopped itself; gives its pid, and how much the master has then.
local function waitStopped(c)
  c:write("ready", "")
  local pid = c:waitFor "stopping (%d+)\n"
  c:waitUntil("the worker's stop", function() return status(pid):find "State:%s+T" end)
  return pid, resident(c.pid)
end

-- Waits for the writer's word while the master must stay small, and others be told.
local function watchMaster(c, before)
  local most = 0
  c:write("go", "")
  c:waitUntil("all sets", function()
    most = math.max(most, resident(c.pid) - before)
    return c:count "all are set\n" > 0
  end)
  -- What the shared memory itself takes of it is not the master's.
  local turn = c:count "turn %d+\n"
  c:waitUntil("turns of another listener", function() return c:count "turn %d+\n" > turn + 3 end)
  return most
end

-- The shared memory's pages count for whoever has touched them.
local function sharedMb(pid)
  return tonumber(status(pid):match "RssShmem:%s+(%d+) kB" or 0) / 1024
end

local function privateMb(pid)
  return resident(pid) - sharedMb(pid)
end

describe("a listener that does not read", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("costs the master little, slows nobody, and has the newest of each key in the end", function()
    local c = clusters.start {
      workers = 3, limit = 80000, "--memory", "64M",
      app = common .. [[
        local KEYS, CHANGES = 8, 100000
        if slot == 1 then
          local versions, values, told, gaps = {}, {}, 0, 0
          local handles = {}
          local function take(value, info)
            told = told + 1
            if info.cause == "gap" then gaps = gaps + 1 end
            assert(info.version > (versions[info.key] or 0))
            versions[info.key], values[info.key] = info.version, value
          end
          for i = 1, KEYS do handles[i] = memory.listen("k" .. i, take) end
          print "listening"
          stopMyself()
          waitUntil(function() return memory.get "written" end)
          for i = 1, KEYS do
            local value, version = memory.getVersioned("k" .. i)
            waitUntil(function() return versions["k" .. i] == version and values["k" .. i] == value end)
            memory.unlisten(handles[i])
          end
          assert(told < CHANGES)
          print("gaps: " .. (gaps > 0 and "some" or "none"))
          memory.set("over", true)
        elseif slot == 2 then
          waitUntil(function() return exists "go" end)
          local value = ("v"):rep(1000)
          for i = 1, CHANGES do set("k" .. i % KEYS + 1, value .. i) end
          waitUntil(function() return pending == 0 end)
          memory.set("written", true)
          print "all are set"
        else
          turn()
        end
      ]],
    }
    c:waitFor "listening\n"
    local pid = waitStopped(c)
    local before = privateMb(c.pid)
    watchMaster(c, 0)
    local held = privateMb(c.pid) - before
    assert.is_true(held < BOUND_MB, ("the master holds %.1f MiB more"):format(held))
    c:kill("sigcont", pid)
    c:waitFor "gaps: some\n"
    assert.equal(0, (c:waitExit()))
  end)

  it("is told that anything may have changed where even the keys are too many", function()
    local c = clusters.start {
      workers = 3, limit = 80000, "--memory", "256M",
      app = common .. [[
        local KEYS = 60000
        if slot == 1 then
          local all, exact, last = 0, nil, nil
          local prefix = memory.listen("p:", function(value, info)
            if info.key == "p:" then
              assert(info.cause == "gap" and info.version == 0 and value == nil)
              all = all + 1
            elseif info.key == "p:last" then
              last = value
            end
          end, { prefix = true })
          local other = memory.listen("p:other", function(value, info) exact = info.cause .. " " .. value end)
          print "listening"
          stopMyself()
          waitUntil(function() return memory.get "written" end)
          waitUntil(function() return exact == "gap new" end)
          waitUntil(function() return all > 0 end)
          memory.set("again", true)
          waitUntil(function() return last end)
          print("it is " .. last)
          memory.unlisten(prefix)
          memory.unlisten(other)
          memory.set("over", true)
        elseif slot == 2 then
          waitUntil(function() return exists "go" end)
          local value = ("v"):rep(1000)
          for i = 1, KEYS do set("p:" .. i, value) end
          set("p:other", "new")
          waitUntil(function() return pending == 0 end)
          memory.set("written", true)
          print "all are set"
          waitUntil(function() return memory.get "again" end)
          memory.set("p:last", "told")
        else
          turn()
        end
      ]],
    }
    c:waitFor "listening\n"
    local pid = waitStopped(c)
    local before = privateMb(c.pid)
    watchMaster(c, 0)
    local held = privateMb(c.pid) - before
    assert.is_true(held < BOUND_MB, ("the master holds %.1f MiB more"):format(held))
    c:kill("sigcont", pid)
    c:waitFor "it is told\n"
    assert.equal(0, (c:waitExit()))
  end)

  it("may be killed in the midst of what it is told, and the next one begins anew", function()
    local c = clusters.start {
      workers = 2, limit = 80000,
      app = common .. [[
        if slot == 1 then
          local count = 0
          memory.listen("k", function(value, info)
            count = count + 1
            if count % 100 == 50 then print(("pid %d is told"):format(cluster.worker.pid)) end
          end, { prefix = true })
          waitUntil(function() return memory.get "over" end)
          cluster.exit(0)
        end
        local i = 0
        while not exists "over" do
          i = i + 1
          set("k" .. i % 100, ("v"):rep(i % 5000))
        end
        waitUntil(function() return pending == 0 end)
        memory.set("over", true)
        print "over"
      ]],
    }
    local killed = {}
    for i = 1, 4 do
      local pid = c:waitUntil("another listener", function()
        for pid in c.out:gmatch "pid (%d+) is told\n" do
          if not killed[pid] then return pid end
        end
      end)
      killed[pid] = true
      -- Once also while there is much that it has not read.
      if i % 2 == 0 then
        c:kill("sigstop", pid)
        c:waitUntil("its stop", function() return status(pid):find "State:%s+T" end)
      end
      c:kill("sigkill", pid)
    end
    c:waitUntil("one more", function()
      local pid = c.out:match "pid (%d+) is told\n[^\n]*\n?$"
      return pid and not killed[pid]
    end)
    c:write("over", "")
    c:waitFor "over\n"
    assert.equal(0, (c:waitExit()))
  end)
end)

describe("a listener whose callback does not end", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- The MiB that the worker has more after all these changes than before, and what its callback was told.
  local function run(name, options, changes)
    local c = clusters.run {
      workers = 2, limit = 80000, "--memory", "512M",
      app = common .. ([[
        local NAME, OPTIONS = %q, %s
        if slot == 1 then
          local release
          local told, gaps, all, last = 0, 0, 0, nil
          local handle = memory.listen(NAME, function(value, info)
            told = told + 1
            if info.cause == "gap" then gaps = gaps + 1 end
            if info.key == NAME and info.version == 0 then
              all, value = all + 1, memory.get "k" -- as anything may have changed
            end
            last = info.key == "k" and value
            if told == 1 then task.await(function(resume) release = resume end) end
          end, OPTIONS)
          collectgarbage()
          local before = collectgarbage "count"
          memory.set("listening", true)
          waitUntil(function() return memory.get "written" end)
          collectgarbage()
          print(("it has %%.1f MiB more"):format((collectgarbage "count" - before) / 1024))
          release()
          memory.set("go on", true)
          waitUntil(function() return last == "last" end)
          print(("told %%d, of them gaps %%d, of all %%d"):format(told, gaps, all))
          memory.unlisten(handle)
        else
          waitUntil(function() return memory.get "listening" end)
          local value = ("v"):rep(1000)
          %s
          waitUntil(function() return pending == 0 end)
          -- Told behind all of that.
          local over = memory.listen("written", function() end)
          memory.set("written", true)
          memory.unlisten(over)
          waitUntil(function() return memory.get "go on" end)
          memory.set("k", "last")
        end
      ]]):format(name, options, changes),
    }
    assert.equal(0, c.code, c.err)
    local mb = tonumber(c.out:match "it has ([%d.-]+) MiB more\n")
    local told, gaps, all = c.out:match "told (%d+), of them gaps (%d+), of all (%d+)\n"
    return mb, tonumber(told), tonumber(gaps), tonumber(all)
  end

  it("keeps little of many changes of a key", function()
    local mb, told, gaps = run("k", "{}", 'for i = 1, 50000 do set("k", value .. i) end')
    assert.is_true(mb < 8, mb .. " MiB")
    assert.is_true(told <= 1030 and gaps >= 1)
  end)

  it("keeps little of many keys under its prefix", function()
    local mb, _, _, all = run("k", "{ prefix = true }", 'for i = 1, 50000 do set("k" .. i, value) end')
    assert.is_true(mb < 16, mb .. " MiB")
    assert.equal(1, all)
  end)

  it("keeps little of large values", function()
    local mb, _, gaps = run("k", "{ prefix = true }",
      'value = value:rep(1000) for i = 1, 100 do set("k" .. i % 10, value) end')
    assert.is_true(mb < 8, mb .. " MiB")
    assert.is_true(gaps >= 1)
  end)
end)

describe("a listener for all keys under a prefix", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("does not remember those that were there at its beginning for ever", function()
    local c = clusters.run {
      workers = 1, limit = 80000,
      app = common .. [[
        local KEYS = 100000
        for i = 1, KEYS, 10000 do
          local pairs_ = {}
          for j = i, i + 9999 do pairs_["key number " .. j] = j end
          memory.setMany(pairs_)
        end
        collectgarbage()
        local before = collectgarbage "count"
        local count = 0
        local handle = memory.listen("key", function() count = count + 1 end, { prefix = true, initial = true })
        waitUntil(function() return count == KEYS end)
        local left
        waitUntil(function()
          collectgarbage()
          left = (collectgarbage "count" - before) / 1024
          return left < 1
        end)
        memory.set("key number 1", "new")
        waitUntil(function() return count == KEYS + 1 end)
        memory.unlisten(handle)
      ]],
    }
    assert.equal(0, c.code, c.err)
  end)
end)
