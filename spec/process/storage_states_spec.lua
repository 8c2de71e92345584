-- A storage that is opened, closed and destroyed by several processes and tasks at the same time.
local clusters = require "clusters"
local storages = require "storages"

local run = storages.run

-- In front of scripts whose calls may find the storage closed: gives the results, or nil, message, "closed" for what is
-- raised then.
local attempt = [[
  local function attempt(fn, ...)
    local results = table.pack(pcall(fn, ...))
    if results[1] then return table.unpack(results, 2, results.n) end
    assert(results[2]:find("the storage is closed", 1, true), results[2])
    return nil, results[2], "closed"
  end
]]

describe("a storage's state", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is closed when the last of several closes at once returns, and the file is free", function()
    run [[
      assert(uv.fs_mkdir("other", 448))
      for round = 1, 20 do
        local path = round % 2 == 0 and "other" or "."
        local handles, closes = {}, {}
        for i = 1, 3 do handles[i] = assert(Storage.new("s", { path = path })) end
        handles[1]:set("k" .. round, round)
        for i = 1, 3 do closes[i] = function() assert(handles[i]:close() == "OK") end end
        task.all(closes)
        for i = 1, 3 do assert(handles[i].closed) end
        assert(memory.stats().used < 4096, "documents are left")
        local moved = assert(Storage.new("s", { path = round % 2 == 0 and "." or "other" }))
        assert(moved:close() == "OK")
      end
    ]]
  end)

  it("is open in one process when another has closed it", function()
    run([[
      local store = assert(Storage.new("s"))
      if cluster.worker.slot == 1 then
        store:set("first", 1)
        memory.set("set", true)
        while not memory.get("open") do task.sleep(1) end
        assert(store:close() == "OK" and store.closed)
        memory.set("closed", true)
        while not memory.get("second") do task.sleep(1) end
        assert(raised(store.get, store, "second"):find("the storage is closed", 1, true))
        assert(assert(Storage.new("s")):get("second") == 2)
        memory.set("seen", true)
      else
        memory.set("open", true)
        while not memory.get("closed") do task.sleep(1) end
        assert(store.connected and store:get("first") == 1)
        assert(store:set("second", 2) == 2 and store:sync() == "OK" and store:update("first", function() return 3 end))
        memory.set("second", true)
        while not memory.get("seen") do task.sleep(1) end
      end
    ]], { workers = 2 })
  end)

  it("stays open when its only process is killed, and others can open it again", function()
    local c = clusters.run { app = storages.requires .. [[
      if cluster.worker.id == 1 then
        assert(uv.fs_mkdir("other", 448))
        local store = assert(Storage.new("s"))
        store:set("k", "acknowledged")
        store:sync(function() end) -- who waits is gone when it is done
        uv.kill(cluster.worker.pid, "sigkill")
        task.sleep(10000)
      end
      local store, _, code = Storage.new("s", { path = "other" })
      assert(store == nil and code == "exists", code)
      store = assert(Storage.new("s"))
      assert(store:get("k") == "acknowledged" and store:set("k", "again"))
      -- What the dead one had open does not count.
      assert(store:close() == "OK" and memory.stats().used < 4096)
      assert(assert(Storage.new("s", { path = "other" })):get("k") == nil)
      print "ok"
    ]] }
    assert.equal(0, c.code, c.err)
    assert.equal("ok\n", c.out)
  end)

  it("is the same for the workers of a reload as for those before them", function()
    local c = clusters.start { workers = 2, app = storages.requires .. [[
      local store = assert(Storage.new("s"))
      print("opened " .. store:update("opened", function(n) return (n or 0) + 1 end))
      cluster.on("shutdown", function()
        assert(store:set("left.w" .. cluster.worker.id, true))
        store:close()
      end)
      task.sleep(60000)
    ]] }
    c:waitFor("opened 2\n")
    c:kill("sighup")
    c:waitFor("opened 4\n")
    c:waitUntil("the end of the old ones", function() return c:count("exited with code 0", "err") == 2 end)
    c:kill("sigterm")
    assert.equal(0, c:waitExit(), c.err)
    local e = clusters.run { args = { "export", c.folder .. "/s.db" } }
    assert.same({ opened = 4, left = { w1 = true, w2 = true, w3 = true, w4 = true } }, require("cjson").decode(e.out))
  end)

  it("is one for all who open it at the same time, also while it is being closed", function()
    run([[
      local mine = 0
      for round = 1, 25 do
        local stores, opening = {}, {}
        for i = 1, 3 do
          opening[i] = function() stores[i] = assert(Storage.new("s")) end
        end
        task.all(opening)
        local store = stores[1 + round % 3]
        assert(store:get { "w" .. cluster.worker.slot } == (mine > 0 and mine or nil))
        mine = mine + 1
        assert(store:set({ "w" .. cluster.worker.slot }, mine))
        for i = 1, 3 do
          assert(stores[i]:get { "w" .. cluster.worker.slot } == mine)
          assert(stores[i]:close() == "OK")
        end
      end
    ]], { workers = 4 })
  end)

  it("ends every wait of everybody when it is destroyed", function()
    run(attempt .. [[
      local store = assert(Storage.new("s"))
      memory.increment("opened")
      local ended, ways = 0, { set = 0, sync = 0, update = 0, delete = 0 }
      local function work(name, ...)
        local results
        repeat
          results = table.pack(attempt(store[name], store, ...))
          ways[name] = ways[name] + 1
        until results[1] == nil
        assert(results[3] == "closed" and not results[2]:find("null", 1, true), results[2])
        ended = ended + 1
      end
      local tasks = {}
      for i = 1, 10 do
        tasks[#tasks + 1] = function() work("set", "k" .. i, i) end
        tasks[#tasks + 1] = function() work("sync") end
        tasks[#tasks + 1] = function() work("update", "n", function(n) return (n or 0) + 1 end) end
        tasks[#tasks + 1] = function() work("delete", "k" .. i) end
      end
      if cluster.worker.slot == 1 then
        tasks[#tasks + 1] = function()
          local other = assert(Storage.new("s"))
          -- Who opened it later would have another one, which nobody destroys.
          while memory.get("opened") < 2 do task.sleep(1) end
          while ways.set < 50 or ways.sync < 10 or ways.update < 10 do task.sleep(1) end
          assert(other:destroy() == "OK" and other.closed)
        end
      end
      task.all(tasks)
      assert(ended == 40 and store.closed and not store.connected)
      -- The file goes a moment later, and is gone for sure for who has destroyed it.
      assert(cluster.worker.slot == 2 or not uv.fs_stat(store.filename))
    ]], { workers = 2 })
  end)

  it("can be opened while it is being destroyed, and is empty then", function()
    run(attempt .. [[
      for round = 1, 25 do
        local store = assert(Storage.new("s"))
        for i = 1, 20 do attempt(store.set, store, "k" .. i, round, nil, function() end) end
        local ok, message, code = attempt(store.destroy, store)
        assert(ok == "OK" or code == "closed", message)
        if ok then memory.increment("destroyed") end
        assert(store.closed)
      end
      memory.increment("done")
      while memory.get("done") < 4 do task.sleep(1) end
      assert(memory.get("destroyed") >= 25) -- who is refused has been forestalled by somebody
      memory.increment("looked")
      if cluster.worker.slot == 1 then
        while memory.get("looked") < 4 do task.sleep(1) end -- before that others need what is removed here
        local store = assert(Storage.new("s"))
        assert(store:export() == "{}\n" and store:destroy() == "OK" and not uv.fs_stat("s.db"))
        memory.remove("done")
        memory.remove("destroyed")
        memory.remove("looked")
        assert(memory.stats().used < 4096)
      end
    ]], { workers = 4 })
  end)

  it("keeps its path in every state: another one is refused", function()
    run [[
      assert(uv.fs_mkdir("other", 448))
      local function refused()
        local store, message, code = Storage.new("s", { path = "other" })
        assert(store == nil and code == "exists" and message:find("already, not '", 1, true), message)
      end
      -- While it is being opened,
      local store
      task.all { function() store = assert(Storage.new("s")) end, refused }
      refused()
      -- closed,
      store:set("k", 1)
      task.all { function() assert(store:close() == "OK") end, refused }
      -- and destroyed.
      store = assert(Storage.new("s"))
      for i = 1, 5000 do store:set("k" .. i, i, function() end) end
      task.all { function() assert(store:destroy() == "OK") end, refused }
      store = assert(Storage.new("s", { path = "other" }))
      assert(store.path:find("/other$") and not uv.fs_stat("s.db"))
      store:close()
    ]]
  end)

  it("goes through export and walks of others without harm when it is destroyed meanwhile", function()
    run(attempt .. [[
      local store, other = assert(Storage.new("s")), assert(Storage.new("s"))
      for i = 1, 20000 do store:set("k" .. i, { n = i }, function() end) end
      assert(store:sync() == "OK")
      local text, message, code = "", nil, nil
      task.all {
        function() text, message, code = attempt(store.export, store) end,
        function() assert(other:destroy() == "OK") end,
      }
      assert(text or code == "closed", message)
    ]])
  end)
end)
