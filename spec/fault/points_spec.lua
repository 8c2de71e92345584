-- Workers that die, or stand still for good, at each step of the protocol of locks, and in the midst of a write: the
-- others get the lock, and learn that it was left behind; counts and values stay whole.
local clusters = require "clusters"
local locksteps = require "locksteps"

-- In front of each script here: what has become of a process.
local prelude = locksteps.prelude .. [[
  local function stateOf(pid)
    local file = io.open(("/proc/%d/stat"):format(pid))
    -- Of one that ends just now there is nothing to read.
    local state = file and (file:read("a") or ""):match("%) (%a)") or "Z"
    if file then file:close() end
    return state:find("[ZX]") and "dead" or state == "T" and "stopped" or "lives"
  end
  -- Who stands still may be dead by now.
  local function isStruck(pid) return stateOf(pid) ~= "lives" end
  local function isLess(a, b) return #a < #b or #a == #b and a < b end
]]

-- A point, and what is passing it: who takes a free lock, waits for one, renews one or releases one. `held`: the
-- lock is its own there. `inside`: there it also owns the lock's bucket, and is killed if it stands there for long.
local points = {
  { "group-taken", "take", inside = true },
  { "lock-named", "take", inside = true },
  { "lock-before-hold", "take", inside = true },
  { "lock-held", "take", inside = true, held = true },
  { "before-release", "take", inside = true, held = true },
  { "lock-granted", "wait", held = true },
  { "group-taken", "renew", inside = true, held = true },
  { "lock-renewed", "renew", inside = true, held = true },
  { "before-release", "renew", inside = true, held = true },
  { "lock-before-free", "release", held = true },
  { "lock-freed", "release" },
  { "lock-rung", "release" },
}

-- Longer than anything here takes but a worker that stands still.
local LEASE_MS = 500

-- Slot 1 is struck at its point while slot 2 waits for the lock or, if it was free until then, comes for it.
local onePoint = [[
  local POINT, KIND, DURING, LEASE = %s, %s, %s, %s
  local function count(id)
    local n = memory.get "n" or { total = 0, token = "0" }
    assert(isLess(n.token, id), "the tokens do not grow")
    assert(memory.set("n", { total = n.total + 1, token = id }, { fence = id }))
  end

  if cluster.worker.slot == 1 then
    local id
    if DURING == "wait" then
      waitUntil(function() return memory.get "held" end)
    else
      memory.mutex("lock", count)
    end
    if DURING == "renew" or DURING == "release" then
      id = assert(memory.getLock "lock")
      count(id)
    end
    memory.set("victim", cluster.worker.pid)
    if id then
      waitForQueue("lock", 1)
      if LEASE then assert(memory.renewLock("lock", id, LEASE)) end
    end
    uv.os_setenv("CLUSTERMEM_FAULT", POINT .. "=" .. KIND)
    if DURING == "renew" then
      memory.renewLock("lock", id, LEASE or 600000)
    elseif DURING == "release" then
      memory.releaseLock("lock", id)
    else
      memory.getLock("lock", { lease = LEASE })
    end
    error "it has not been struck"
  end

  local own = DURING == "wait" and assert(memory.getLock "lock")
  if own then
    count(own)
    memory.set("held", true)
  end
  waitUntil(function() return memory.get "victim" end)
  local victim = memory.get "victim"
  if DURING == "take" then waitUntil(function() return isStruck(victim) end) end
  if own then waitForQueue("lock", 1) end
  local rival = task.spawn(function()
    local id, how = memory.getLock "lock"
    print(how)
    count(id)
    assert(memory.releaseLock("lock", id))
  end)
  if own then
    waitForQueue("lock", 2)
    assert(memory.releaseLock("lock", own))
  end
  task.join(rival)
  for _ = 1, 20 do memory.mutex("lock", count) end
  waitUntil(function() return isStruck(victim) end)
  print(stateOf(victim), memory.get "n".total, memory.lockInfo "lock")
  uv.kill(victim, "sigkill")
]]

local function startPoint(point, kind)
  local c = clusters.start {
    faulty = true, workers = 2, limit = 40000, "--restart", "never",
    app = prelude .. onePoint:format(("%q"):format(point[1]), ("%q"):format(kind), ("%q"):format(point[2]),
      kind == "stop" and LEASE_MS or "nil"),
  }
  c.point = point
  return c
end

-- What the two have counted: the one before it was struck, the other behind it.
local counted = { take = 1 + 21, wait = 1 + 21, renew = 2 + 21, release = 2 + 21 }

local function finishPoint(c, kind)
  local point = c.point
  local name = point[1] .. " while it " .. point[2] .. "s"
  c:waitExit()
  -- Who stands where it holds up others is killed, nobody else.
  local isKilled = kind == "stop" and point.inside
  local victim = kind == "stop" and not point.inside and "stopped" or "dead"
  assert.equal(("%s\n%s\t%d\tnil\n"):format(point.held and "abandoned" or "nil", victim, counted[point[2]]), c.out,
    name .. "\n" .. c.err)
  assert.equal(isKilled and 1 or 0, c:count("has stood still", "err"), name .. "\n" .. c.err)
end

describe("a worker at a step of taking, renewing or releasing a lock", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  for _, point in ipairs(points) do
    it(("dies, and the lock passes on: %s, to %s"):format(point[1], point[2]), function()
      finishPoint(startPoint(point, "kill"), "kill")
    end)
  end

  it("stands still for good, and the lock passes on", function()
    local each = {}
    for i, point in ipairs(points) do each[i] = startPoint(point, "stop") end
    for _, c in ipairs(each) do finishPoint(c, "stop") end
  end)
end)

-- What all do: count under one lock, and note in an entry of their own what has been acknowledged to them.
local counter = prelude .. [[
  local own = "own" .. cluster.worker.id
  local lease = tonumber(os.getenv "LEASE_MS")
  repeat
    local id = assert(memory.getLock("lock", { lease = lease }))
    local n = memory.get "n" or { total = 0, token = "0" }
    assert(isLess(n.token, id), "the tokens do not grow")
    local ok, _, code = memory.set("n", { total = n.total + 1, token = id }, { fence = id })
    assert(ok or lease and code == "notowner", code)
    if ok then memory.increment(own) end
    if math.random(4) == 1 then assert(memory.renewLock("lock", id, lease or 600000) or lease) end
    assert(memory.releaseLock("lock", id) or lease)
    -- Short enough to owe a ring for the second of two.
    for _ = 1, 3 do
      id = assert(memory.getLock("lock", { lease = lease }))
      assert(memory.releaseLock("lock", id) or lease)
    end
  until memory.get "stop"
  memory.increment "ended"
  task.sleep(60000)
]]

-- In process 0: lets one worker after the other be struck, and the two of app.lua go on behind each.
local strikes = [[
  local FAULTS = { %s }
  local RIVALS = 2
  local function counts()
    local list = {}
    for id = 1, RIVALS do list[id] = memory.get("own" .. id) or 0 end
    return list
  end
  task.spawn(function()
    waitUntil(function() return memory.get "own1" and memory.get "own2" end)
    for _, fault in ipairs(FAULTS) do
      local kind = fault:match "=(%%a+)"
      local lease = kind == "stop" and "50" or ""
      local worker = cluster.fork { script = "app.lua", env = { CLUSTERMEM_FAULT = fault, LEASE_MS = lease } }
      waitUntil(function() return isStruck(worker.pid) end)
      local before = counts()
      waitUntil(function()
        local now = counts()
        return now[1] >= before[1] + 10 and now[2] >= before[2] + 10
      end)
      if kind == "stop" then uv.kill(worker.pid, "sigkill") end
    end
    memory.set("stop", true)
    waitUntil(function() return memory.get "ended" == RIVALS end)
    local sum = 0
    for id = 1, RIVALS + #FAULTS do sum = sum + (memory.get("own" .. id) or 0) end
    print("behind " .. memory.get "n".total - sum)
    waitUntil(function() return not memory.lockInfo "lock" end)
    cluster.shutdown()
  end)
]]

describe("a counter under a lock", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is ahead of what was acknowledged by no more than one for each that dies or stands still", function()
    local faults = {}
    local function add(kind, name, nth) faults[#faults + 1] = ("%q"):format(("%s=%s:%d"):format(name, kind, nth)) end
    local seen = { ["lock-ring-owed"] = true }
    for _, name in ipairs { "lock-ring-owed", "entry-appended", "before-publish", "retired" } do
      add("kill", name, 3)
    end
    for i, point in ipairs(points) do
      if not seen[point[1]] then
        seen[point[1]] = true
        add("kill", point[1], 5 + i)
        if not point.inside then add("stop", point[1], 5 + i) end
      end
    end
    add("stop", "lock-ring-owed", 3)
    local c = clusters.run {
      faulty = true, workers = 2, limit = 60000, "--restart", "never",
      boot = prelude .. strikes:format(table.concat(faults, ", ")), app = counter,
    }
    local behind = math.tointeger(c.out:match("^behind (%-?%d+)\n$"))
    assert.is_true(behind and behind >= 0 and behind <= #faults, c.out .. c.err)
    assert.not_matches("app%.lua", c.err)
    assert.not_matches("has stood still", c.err)
  end)
end)

-- A point, and the write that passes it, over a key that has been "old" or 1. `done`: it has been published there.
local writes = {
  { "entry-appended", "set" },
  { "group-taken", "set" },
  { "before-publish", "set" },
  { "after-publish", "set", done = true },
  { "before-retiring", "set", done = true },
  { "retired", "set", done = true },
  { "before-release", "set", done = true },
  { "before-unlink", "remove" },
  { "after-unlink", "remove", done = true },
  { "number-shut", "increment" },
  { "number-versioned", "increment" },
  { "number-stored", "increment", done = true },
  { "expiry-noted", "expire" },
}

-- In process 0: lets each of the workers that it forks stop, or die, in a write of a key of its own; then it reads
-- and writes that key.
local oneWrite = [[
  local KIND = "%s"
  local WRITES = { %s }
  local workers, versions = {}, {}
  task.spawn(function()
    for i, write in ipairs(WRITES) do
      local old = write.op == "increment" and 1 or "old"
      versions[i] = select(2, assert(memory.set("k" .. i, old)))
      workers[i] = cluster.fork { script = "writer.lua", args = { write.op, "k" .. i, write.point .. "=" .. KIND } }
    end
    for i, write in ipairs(WRITES) do
      waitUntil(function() return isStruck(workers[i].pid) end)
      -- What the dead one left shut is read when it has been repaired.
      local key, value, version = "k" .. i, memory.getVersioned("k" .. i)
      local grown = value == nil or version >= versions[i]
      local ok, new = memory.set(key, "new")
      grown = grown and ok and new > versions[i] and new > version and memory.get(key) == "new"
      print(("%%s %%s %%s %%s"):format(write.point, write.op, value, grown))
      uv.kill(workers[i].pid, "sigkill")
    end
    cluster.shutdown()
  end)
]]

local writer = [[
  local memory, uv = require "clustermem", require "luv"
  local op, key, fault = ...
  local args = { set = { "late" }, increment = { 1 }, expire = { 600000 }, remove = {} }
  uv.os_setenv("CLUSTERMEM_FAULT", fault)
  memory[op](key, table.unpack(args[op]))
  error "it has not been struck"
]]

describe("a worker in the midst of a write", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local results = {
    set = { [false] = "old", [true] = "late" },
    remove = { [false] = "old", [true] = "nil" },
    increment = { [false] = "1", [true] = "2" },
    expire = { [false] = "old" },
  }

  local function run(kind)
    local list, expected = {}, {}
    for i, write in ipairs(writes) do
      list[i] = ("{ point = %q, op = %q }"):format(write[1], write[2])
      expected[i] = ("%s %s %s true\n"):format(write[1], write[2], results[write[2]][write.done or false])
    end
    local c = clusters.run {
      faulty = true, args = { "run", "-w", "0", "--restart", "never", "--master", "boot.lua" }, limit = 60000,
      boot = prelude .. oneWrite:format(kind, table.concat(list, ", ")), files = { ["writer.lua"] = writer },
    }
    assert.equal(table.concat(expected), c.out, c.err)
  end

  it("dies: the key has its old value or the new one, and is written again", function() run "kill" end)

  it("stands still for good: likewise", function() run "stop" end)

  it("a request that waits until ids come round keeps its own", function()
    local c = clusters.run { faulty = true, workers = 2, app = [[
      if cluster.worker.slot == 1 then
        local lockId = memory.getLock("held")
        memory.set("holder", true)
        while not memory.get("go") do task.sleep(1) end
        assert(memory.releaseLock("held", lockId) == "OK")
        return
      end
      while not memory.get("holder") do task.sleep(1) end
      local got
      memory.getLock("held", function(lockId) got = lockId end)
      for round = 1, 3 do
        uv.os_setenv("CLUSTERMEM_LAST_ID", "4294967290")
        for i = 1, 50 do assert(memory.setMany { ["k" .. i] = round } == "OK") end
      end
      assert(not got)
      memory.set("go", true)
      while not got do task.sleep(1) end
      print "got"
    ]] }
    assert.equal("got\n", c.out, c.err)
    assert.equal(0, c.code)
  end)
end)
