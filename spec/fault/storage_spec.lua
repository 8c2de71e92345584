local uv = require "luv"
local clusters = require "clusters"
local task = require "clustermem.task"

-- In front of the crash loop's scripts. A document says itself whether it is whole.
local documents = [[
  local Storage = require "clustermem.storage"
  local DOCUMENTS = 20
  local function make(n) return { n = n, text = ("x"):rep(n * 37 % 3000), list = { n, { n } } } end
  local function isWhole(doc)
    return #doc.text == doc.n * 37 % 3000 and doc.list[1] == doc.n and doc.list[2][1] == doc.n
  end
]]

-- Looks at what is there, prints "last SLOT DOCUMENT N" for each document, and then lets the workers write.
local boot = documents .. [[
  local store = assert(Storage.new("s"))
  for slot = 1, 2 do
    for d = 0, DOCUMENTS - 1 do
      local doc = store:get { "w" .. slot .. "-" .. d }
      assert(not doc or isWhole(doc), "a document is torn")
      print("last", slot, d, doc and doc.n or 0)
    end
  end
  print "looked"
]]

-- Writes on from where it was, and prints "synced SLOT N" when all up to n is on the disk.
local writer = documents .. [[
  io.stdout:setvbuf("line")
  local store = assert(Storage.new("s"))
  local slot, n = cluster.worker.slot, 0
  for d = 0, DOCUMENTS - 1 do
    local doc = store:get { "w" .. slot .. "-" .. d }
    if doc and doc.n > n then n = doc.n end
  end
  while true do
    for _ = 1, 1 + n % 17 do
      n = n + 1
      assert(store:set({ "w" .. slot .. "-" .. n % DOCUMENTS }, make(n)))
      if n % 7 == 0 then store:set({ "w" .. slot .. "-" .. n % DOCUMENTS, "more" }, n) end
    end
    assert(store:sync() == "OK")
    print("synced", slot, n)
  end
]]

-- From now on the master's files may have so many bytes.
local function limitFiles(c, bytes)
  assert(os.execute(("prlimit --pid %d --fsize=%s:unlimited"):format(c.pid, bytes)))
  c:write("limited", "")
end

-- The least number that document d may have when all up to n has been synced.
local function least(n, d)
  local number = n - (n - d) % 20
  return number > 0 and number or 0
end

describe("a storage's file", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("opens after each of many crashes, with all that was synced, each document whole", function()
    local rounds = clusters.isSanitized() and 20 or 100
    local folder
    local synced = { 0, 0 }
    local written = 0
    math.randomseed(os.time())
    local function look(c)
      c:waitFor("looked\n")
      for slot, d, n in c.out:gmatch("last\t(%d)\t(%d+)\t(%d+)\n") do
        local must = least(synced[tonumber(slot)], tonumber(d))
        if tonumber(n) < must then c:fail(("document %s of slot %s has %s instead of %d"):format(d, slot, n, must)) end
      end
    end
    for round = 1, rounds do
      local c = clusters.start { workers = 2, boot = boot, app = writer, "--storage-dir", folder or ".", "--restart",
        "never", "--log-level", "error" }
      folder = folder or c.folder
      look(c)
      -- Every other time not before something has been written.
      if round % 2 == 0 then c:waitFor("synced\t%d") end
      local pause = math.random(1, 60)
      task.sleep(pause)
      for pid in pairs(c:processes()) do uv.kill(pid, "sigkill") end
      c:kill("sigkill")
      c:waitExit()
      c:waitGone()
      for slot, n in c.out:gmatch("synced\t(%d)\t(%d+)\n") do
        synced[tonumber(slot)] = tonumber(n)
        written = written + 1
      end
    end
    assert.is_true(written >= rounds // 2, "there was too little to lose")
    local c = clusters.start { workers = 0, boot = boot, "--storage-dir", folder }
    look(c)
    c:waitExit()
  end)

  it("has what one process was acknowledged when another one's sync or close has returned", function()
    for _, method in ipairs { "sync", "close" } do
      local c = clusters.start { workers = 2, "--restart", "never", app = ([[
        local store = assert(require("clustermem.storage").new("s"))
        memory.increment("open")
        while memory.get("open") < 2 do task.sleep(1) end
        if cluster.worker.slot == 1 then
          for i = 1, 100 do assert(store:set("k" .. i, { i, ("x"):rep(i * 100) })) end
          assert(store:delete("k50") == "OK")
          memory.set("acknowledged", true)
        else
          while not memory.get("acknowledged") do task.sleep(1) end
          assert(store:%s() == "OK")
          print "covered"
        end
        task.sleep(60000)
      ]]):format(method) }
      c:waitFor("covered\n")
      for pid in pairs(c:processes()) do uv.kill(pid, "sigkill") end
      c:kill("sigkill")
      c:waitExit()
      c:waitGone()
      local after = clusters.run { "--storage-dir", c.folder, app = [[
        local store = assert(require("clustermem.storage").new("s"))
        for i = 1, 100 do
          local doc = store:get("k" .. i)
          assert(i == 50 and doc == nil or doc[1] == i and #doc[2] == i * 100)
        end
        print "whole"
      ]] }
      assert.equal("whole\n", after.out, after.err)
    end
  end)

  -- Starts on what is there, and writes until somebody ends it; says what has been acknowledged.
  local counting = [[
    io.stdout:setvbuf("line")
    local store = assert(require("clustermem.storage").new("s"))
    local slot = cluster.worker.slot
    local n = store:get { "w" .. slot, "n" } or 0
    print("found", slot, n)
    while true do
      n = n + 1
      assert(store:set({ "w" .. slot .. "-" .. n % 50 }, ("x"):rep(n % 1000)))
      assert(store:set({ "w" .. slot }, { n = n, text = ("y"):rep(n % 3000) }))
      print("set", slot, n)
    end
  ]]

  -- Runs it several times in one folder, each time to the end that `stop` makes; nothing that was acknowledged may be
  -- lost.
  local function stopUnderLoad(app, stop)
    local folder
    local last = { 0, 0 }
    for _ = 1, 4 do
      local c = clusters.start { workers = 2, app = app, "--storage-dir", folder or ".", "--restart", "never" }
      folder = folder or c.folder
      c:waitUntil("some work", function() return c:count("set\t1\t") > 20 and c:count("set\t2\t") > 20 end)
      stop(c)
      c:waitGone()
      for slot, n in c.out:gmatch("found\t(%d)\t(%d+)\n") do
        -- One more may have been done whose acknowledgement nobody has read.
        n, slot = tonumber(n), tonumber(slot)
        if n < last[slot] or n > last[slot] + 1 then
          c:fail(("slot %d finds %d, and %d was acknowledged"):format(slot, n, last[slot]))
        end
      end
      for slot, n in c.out:gmatch("set\t(%d)\t(%d+)\n") do last[tonumber(slot)] = tonumber(n) end
    end
  end

  it("has all that was acknowledged when the cluster is stopped under load", function()
    stopUnderLoad(counting, function(c)
      c:kill("sigterm")
      assert.equal(0, c:waitExit(), c.err)
    end)
  end)

  it("has all that was acknowledged also when a second SIGINT ends everything at once", function()
    stopUnderLoad('cluster.on("shutdown", function() task.sleep(60000) end)' .. counting, function(c)
      c:kill("sigint")
      c:waitFor("the cluster stops\n", "err")
      c:kill("sigint")
      c:waitExit()
      assert.matches("interrupted again", c.err)
      assert.not_matches("documents are lost", c.err)
    end)
  end)

  it("is closed when the cluster is stopped while it is opened, at any moment", function()
    local first = clusters.run { app = [[
      local store = assert(require("clustermem.storage").new("s"))
      for i = 1, 30000 do store:set("k" .. i, { n = i }, function() end) end
      store:sync()
    ]] }
    assert.equal(0, first.code, first.err)
    for round = 0, 12 do
      local c = clusters.start { "--storage-dir", first.folder, "--log-level", "warn", app = [[
        print "opening"
        require("clustermem.storage").new("s")
        task.sleep(60000)
      ]] }
      c:waitFor("opening\n")
      task.sleep(2 * round)
      c:kill("sigterm")
      assert.equal(0, c:waitExit(), c.err)
    end
    local c = clusters.run { "--storage-dir", first.folder, app = [[
      assert(assert(require("clustermem.storage").new("s")):get("k30000.n") == 30000)
    ]] }
    assert.equal(0, c.code, c.err)
  end)

  it("stays whole when processes that do anything with it, at random, are killed one after the other", function()
    local c = clusters.start { workers = 0, "--restart", "never", "--log-level", "warn", boot = ([[
      local Storage = require "clustermem.storage"
      local workers, over, failed = {}, false, false
      local function fork() workers[#workers + 1] = assert(cluster.fork { script = "worker.lua" }) end
      cluster.on("exit", function(worker, code, signal)
        if not over then fork() end
        failed = failed or signal ~= "SIGKILL" and not over
        if failed then print("worker", worker.id, code, signal) end
      end)
      for _ = 1, 3 do fork() end
      local from = uv.now()
      while not failed and uv.now() - from < %d do
        task.sleep(math.random(0, 80))
        uv.kill(table.remove(workers, math.random(#workers)).pid, "sigkill")
        while #workers < 3 do task.sleep(1) end
      end
      over = true
      for _, worker in ipairs(workers) do uv.kill(worker.pid, "sigkill") end
      -- What the dead had open stays so; then nobody else has it.
      while #cluster.workers() > 0 do task.sleep(1) end
      for i = 1, 2 do
        local store = assert(Storage.new("s" .. i))
        assert(store:set("after", { i }) and store:sync() == "OK" and store:get("after[1]") == i and store:export())
        assert(store:close() == "OK")
      end
      assert(not failed and memory.get("operations") > 500)
      while memory.get("operations") do memory.clear() end
      -- What the killed ones had begun to write is given back a little later.
      while memory.stats().used > 4096 do task.sleep(10) end
      print("used", memory.stats().used)
    ]]):format(os.getenv("CM_LONG") and 60000 or 2500), limit = os.getenv("CM_LONG") and 80000 or nil, files = {
      ["worker.lua"] = [[
      local memory, task, cluster = require "clustermem", require "clustermem.task", require "clustermem.cluster"
      local Storage = require "clustermem.storage"
      math.randomseed(cluster.worker.id)
      local stores = {}
      -- What somebody has closed or destroyed meanwhile raises, or says so.
      local function try(method, ...)
        local store = stores[math.random(2)]
        if not store then return end
        local results = table.pack(pcall(store[method], store, ...))
        local code = results[4]
        if not results[1] then
          assert(results[2]:find("the storage is closed", 1, true), results[2])
        elseif results[2] == nil then
          assert(code == "closed" or code == "conflict", results[3])
        end
      end
      local function some() return "d" .. math.random(50) end
      local function value()
        local n = math.random(1000)
        return { n = n, text = ("x"):rep(n * 7 % 2000) }
      end
      local actions = {
        function() stores[math.random(2)] = assert(Storage.new("s" .. math.random(2), { gcInterval = 20 })) end,
        function() try("set", some(), value()) end,
        function() try("set", some(), value(), math.random(100)) end,
        function() try("set", some() .. ".more.deep", value(), math.random(100)) end,
        function() try("delete", some()) end,
        function() try("update", "count", function(n) return (n or 0) + 1 end) end,
        function() try("sync") end,
        function() try("export") end,
        function() try(math.random(10) == 1 and "destroy" or math.random(3) == 1 and "close" or "sync") end,
        function()
          for _, store in pairs(stores) do
            local ok, doc = pcall(store.get, store, some())
            assert(not ok or not doc or not doc.n or #doc.text == doc.n * 7 % 2000, "a document is torn")
          end
        end,
      }
      local function work()
        while true do
          actions[math.random(#actions)]()
          memory.increment("operations")
        end
      end
      local works = {}
      for i = 1, 8 do works[i] = work end
      task.all(works)
    ]] } }
    c:waitExit()
    local used = c.out:match("used\t(%d+)\n")
    if not used or tonumber(used) > 4096 then c:fail("it ended with " .. (used or "no") .. " bytes in use") end
  end)

  it("takes what could not be written when there is room again; until then sync says so", function()
    local c = clusters.start {
      app = [[
        local Storage = require "clustermem.storage"
        local store = assert(Storage.new("s"))
        store:set("first", 1)
        assert(store:sync() == "OK")
        print "synced"
        while not uv.fs_stat("limited") do task.sleep(1) end
        for i = 1, 100 do assert(store:set("k" .. i, ("x"):rep(50000))) end
        local ok, message, code = store:sync()
        assert(ok == nil and code == "EFBIG" and message:find("s.db", 1, true), message)
        assert(store:get("k100") and store:set("more", 1) == 1 and store:delete("first") == "OK")
        ok, message, code = store:close()
        assert(ok == nil and code == "EFBIG" and store.connected and store:get("more") == 1)
        print "full"
        repeat ok = store:sync() until ok
        assert(store:close() == "OK")
        store = assert(Storage.new("s"))
        assert(store:get("more") == 1 and not store:has("first") and #store:get("k100") == 50000)
        print "ok"
      ]],
    }
    c:waitFor("synced\n")
    limitFiles(c, "2000000")
    c:waitFor("full\n")
    assert.equal(1, c:count("could not be written", "err") + c:count("cannot write", "err"), c.err)
    limitFiles(c, "unlimited")
    c:waitFor("ok\n")
    assert.equal(0, c:waitExit(), c.err)
  end)

  it("that cannot be written at the end is said to be, and the cluster's exit code is 1", function()
    local c = clusters.start { app = [[
      local store = assert(require("clustermem.storage").new("s"))
      print "open"
      while not uv.fs_stat("limited") do task.sleep(1) end
      for i = 1, 100 do assert(store:set("k" .. i, ("x"):rep(50000))) end
    ]] }
    c:waitFor("open\n")
    limitFiles(c, "2000000")
    assert.equal(1, c:waitExit())
    assert.matches("error storage 's': documents are lost, for they could not be written: ", c.err)
  end)

  it("is refused when it is too short, in one line, and stays as it is", function()
    local c = clusters.run { app = [[
      local store = assert(require("clustermem.storage").new("s"))
      for i = 1, 300 do store:set("k" .. i, ("x"):rep(3000)) end
    ]] }
    assert.equal(0, c.code, c.err)
    local whole = clusters.read(c.folder .. "/s.db")
    for _, size in ipairs { 1, 100, 4095, 4096, 8192, 8193, 40960, 500000 } do
      c:write("short.db", whole:sub(1, size))
      local short = clusters.run { "--storage-dir", c.folder, app = [[
        print(require("clustermem.storage").new("short"))
      ]] }
      assert.equal(0, short.code, short.err)
      assert.matches("^nil\t[^\n]*short.db[^\n]*\t%w+\n$", short.out)
      assert.equal(whole:sub(1, size), clusters.read(c.folder .. "/short.db"))
    end
  end)

  it("in a folder that cannot be written is refused in one line", function()
    local c = clusters.run { app = [[ print(require("clustermem.storage").new("s", { path = "/proc" })) ]] }
    assert.equal(0, c.code, c.err)
    assert.matches("^nil\t[^\n]*/proc/s.db[^\n]*\tE%u+\n$", c.out)
  end)
end)
