local clusters = require "clusters"
local storages = require "storages"

local requires, run = storages.requires, storages.run

describe("a storage", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("keeps everything that is data, and gives copies", function()
    run [[
      local store = assert(Storage.new("s"))
      local value = { 1, 2.5, "x\0y", { deep = { true, null } }, [-3] = 2^53 + 1 }
      assert(store:set("k", value) == value)
      local copy = store:get("k")
      assert(copy ~= value and copy[2] == 2.5 and copy[3] == "x\0y" and copy[-3] == 2^53 + 1)
      assert(copy[4].deep[1] == true and copy[4].deep[2] == null)
      copy[1] = "changed"
      assert(store:get("k")[1] == 1)
      for _, scalar in ipairs { 10, -0.5, math.mininteger, true, false, "", null, ("big"):rep(1000000) } do
        assert(store:set("k", scalar) == scalar)
        assert(store:get("k") == scalar and math.type(store:get("k")) == math.type(scalar))
      end
      assert(store:get("nothing") == nil and select("#", store:get("nothing")) == 1)
      assert(store:has("k") == true and store:has("nothing") == false)
    ]]
  end)

  it("addresses by path: names, indices from 1, quoted names, arrays of steps", function()
    run [[
      local store = assert(Storage.new("s"))
      store:set("a", { b = { { c = 1 }, { c = 2 } }, ["x.y"] = 3, ["1"] = "string", [1] = "integer", [2.5] = "float" })
      assert(store:get("a.b[1].c") == 1 and store:get("a.b[2].c") == 2 and store:get("a.b[3]") == nil)
      assert(store:get('a["x.y"]') == 3 and store:get("a.1") == "string" and store:get("a[1]") == "integer")
      assert(store:get { "a", "b", 2, "c" } == 2 and store:get { "a", 2.5 } == "float")
      assert(store:get { "a", 1.0 } == "integer")
      assert(store:get { "a.b" } == nil and store:get("a.b[1].c.d") == nil)
      store:set('["x.y"].z', 1)
      assert(store:get { "x.y", "z" } == 1 and store:get('["x.y"]').z == 1)
    ]]
  end)

  it("refuses a bad path, and points at the character", function()
    run [[
      local store = assert(Storage.new("s"))
      for path, at in pairs { [""] = 1, ["a..b"] = 3, ["a."] = 3, [".a"] = 1, ["a[0]"] = 3, ["a[x]"] = 3, ["a[1"] = 4,
        ["a]"] = 2, ["[1]"] = 2, ["a[-1]"] = 3, ["a[1]b"] = 5, ['a["b]'] = 6, ["a[]"] = 3 } do
        for _, method in ipairs { "get", "has", "set", "delete", "update" } do
          local argument = method == "update" and print or method == "set" and 1 or nil
          local message = raised(store[method], store, path, argument)
          assert(message:find("^app.lua:%d+: store:%w+: the path '.*' is wrong at character " .. at .. ": ") or
            message:find("is wrong at character " .. at .. ": ", 1, true), path .. " " .. message)
        end
      end
      assert(raised(store.get, store, { "a", {} }):find("step 2 must be a string or a number, not a table", 1, true))
      assert(raised(store.get, store, {}):find("a document's name", 1, true))
      assert(raised(store.get, store, { 1 }):find("a document's name", 1, true))
      assert(raised(store.get, store):find("the path must be a string or an array of steps, not nil", 1, true))
      assert(raised(store.get, store, 5):find("not a number", 1, true))
      assert(raised(store.get):find("with a colon", 1, true))
    ]]
  end)

  it("makes tables on the way, in the place of what is none", function()
    run [[
      local store = assert(Storage.new("s"))
      store:set("a.b.c", 1)
      assert(store:get("a").b.c == 1)
      store:set("a.b.c.d[1].e", 2)
      assert(store:get("a.b.c.d")[1].e == 2)
      store:set("list[1]", "x")
      store:set("list[2]", "y")
      assert(#store:get("list") == 2 and store:get("list[2]") == "y")
      store:set("list[5]", "z")
      local list = store:get("list")
      assert(list[1] == "x" and list[5] == "z" and list[4] == nil)
      store:set("list", "scalar")
      store:set("list.name", 1)
      assert(store:get("list").name == 1)
    ]]
  end)

  it("deletes what is under a path", function()
    run [[
      local store = assert(Storage.new("s"))
      store:set("a", { b = 1, c = { 1, 2, 3 } })
      assert(store:delete("a.b") == "OK" and store:get("a").b == nil and store:get("a.c[3]") == 3)
      assert(store:delete("a.c[3]") == "OK" and #store:get("a.c") == 2)
      assert(store:delete("a.c[1]") == "OK" and store:get("a.c")[1] == nil and store:get("a.c")[2] == 2)
      assert(store:delete("a.nothing") == "OK" and store:delete("nothing.at.all") == "OK" and store:has("a"))
      assert(store:delete("a") == "OK" and not store:has("a") and store:delete("a") == "OK")
    ]]
  end)

  it("lets a ttl govern everything under its path", function()
    run [[
      local store = assert(Storage.new("s"))
      store:set("a", { child = { x = 1 }, list = { 1, 2, 3 } })
      store:set("a.child", { x = 2 }, 40)
      store:set("a.list[2]", "short", 40)
      assert(store:get("a").child.x == 2 and store:get("a.child.x") == 2)
      task.sleep(60)
      assert(store:get("a.child") == nil and store:get("a.child.x") == nil and store:has("a.child") == false)
      local a = store:get("a")
      assert(a.child == nil and a.list[1] == 1 and a.list[2] == nil and a.list[3] == 3)
      store:set("b", { x = 1 }, 40)
      store:set("b.y", 2)
      assert(store:get("b").y == 2)
      task.sleep(60)
      assert(store:get("b") == nil and store:get("b.y") == nil)
      store:set("b.z", 1)
      assert(store:get("b").z == 1 and store:get("b").y == nil)
      -- Setting again without a ttl clears it.
      store:set("c", 1, 40)
      store:set("c", 2)
      store:set("d.e", 1, 40)
      store:update("d.e", function(e) return e + 1 end)
      task.sleep(60)
      assert(store:get("c") == 2 and store:get("d.e") == nil and store:get("d"))
    ]]
  end)

  it("updates by a function, also when others interfere", function()
    local c = clusters.run {
      workers = 4, "--restart", "never",
      app = requires .. [[
        local store = assert(Storage.new("s"))
        for i = 1, 250 do assert(store:update("counters.total", function(n) return (n or 0) + 1 end)) end
        memory.increment("done")
        while memory.get("done") < 4 do task.sleep(1) end
        assert(store:get("counters.total") == 1000)
        store:set("own.w" .. cluster.worker.slot, 1)
        assert(store:update("own.w" .. cluster.worker.slot, function() return nil end) == nil)
        assert(not store:has("own.w" .. cluster.worker.slot))
        assert(not pcall(store.update, store, "counters.total", function() error("mine") end))
        print "ok"
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("ok\nok\nok\nok\n", c.out)
  end)

  it("gives up an update that somebody interferes with each time", function()
    run [[
      local store = assert(Storage.new("s"))
      store:set("k", 0)
      local tries = 0
      local value, message, code = store:update("k", function(k)
        tries = tries + 1
        store:set("other.k" .. tries, 1)
        store:set("k", tries)
        return k
      end)
      assert(value == nil and code == "conflict" and message:find("1000 tries", 1, true), message)
      assert(tries == 1000 and store:get("k") == 1000)
    ]]
  end)

  it("is read without waiting, anywhere", function()
    local c = clusters.run { app = storages.requires .. [[
      local store = assert(Storage.new("s"))
      store:set("k", { 1, { 2 } })
      uv.new_timer():start(0, 0, function() -- no task
        assert(store:get("k[2][1]") == 2 and store:has("k") and not store:has("k[3]"))
        assert(raised(store.set, store, "k", 1):find("store:set waits", 1, true))
        assert(raised(store.sync, store):find("store:sync waits", 1, true))
        print "ok"
        cluster.exit(0)
      end)
    ]] }
    assert.equal("ok\n", c.out, c.err)
  end)

  it("makes two workers that write the same 1,000 keys agree", function()
    local c = run([[
      local store = assert(Storage.new("s"))
      local me = cluster.worker.slot
      memory.increment("ready")
      while memory.get("ready") < 2 do task.sleep(1) end
      for i = 1, 1000 do assert(store:set("k" .. (me == 1 and i or 1001 - i), { by = me, list = { me, i } })) end
      memory.increment("done")
      while memory.get("done") < 2 do task.sleep(1) end
      local all = {}
      for i = 1, 1000 do
        local doc = store:get("k" .. i)
        assert(doc.by == doc.list[1])
        all[i] = doc.by
      end
      print(table.concat(all))
    ]], { workers = 2 })
    local lines = {}
    for line in c.out:gmatch("[12]+") do lines[#lines + 1] = line end
    assert.equal(2, #lines)
    assert.equal(1000, #lines[1])
    assert.equal(lines[1], lines[2])
  end)

  it("lets all tasks of a process get through with their updates of one document", function()
    run [[
      local store = assert(Storage.new("s"))
      local counts, total, tasks = {}, 0, {}
      for i = 1, 20 do
        counts[i] = 0
        tasks[i] = function()
          while total < 2000 do
            assert(store:update("n", function(n) return (n or 0) + 1 end))
            counts[i], total = counts[i] + 1, total + 1
          end
        end
      end
      task.all(tasks)
      assert(store:get("n") == total)
      for i = 1, 20 do assert(counts[i] > 20, i .. " got through only " .. counts[i] .. " times") end
    ]]
  end)

  it("keeps what several workers set at different paths of one document, and agrees about the same ones", function()
    local c = clusters.run {
      workers = 4, "--restart", "never",
      app = requires .. [[
        local store = assert(Storage.new("s"))
        local me = "w" .. cluster.worker.slot
        for i = 1, 1000 do
          assert(store:set("shared." .. me .. ".k" .. i, i))
          assert(store:set("same.k" .. i, me))
        end
        memory.increment("done")
        while memory.get("done") < 4 do task.sleep(1) end
        for slot = 1, 4 do
          for i = 1, 1000 do assert(store:get(("shared.w%d.k%d"):format(slot, i)) == i) end
        end
        local all = {}
        for i = 1, 1000 do all[i] = store:get("same.k" .. i) end
        print(table.concat(all, " "))
      ]],
    }
    assert.equal(0, c.code, c.err)
    local lines = {}
    for line in c.out:gmatch("[^\n]+") do lines[#lines + 1] = line end
    assert.equal(4, #lines)
    for i = 2, 4 do assert.equal(lines[1], lines[i]) end
  end)

  it("tells what it is", function()
    run([[
      local store = assert(Storage.new("s", { gcInterval = 5000 }))
      assert(store.name == "s" and store.gcInterval == 5000 and store.connected and not store.closed)
      assert(store.filename == store.path .. "/s.db" and uv.fs_stat(store.filename).type == "file")
      local other = assert(Storage.new("s", { path = "." }))
      assert(other.gcInterval == 5000 and other.path == store.path and tostring(other):find("^storage 's' %(/"))
      assert(uv.fs_mkdir("sub", 448))
      local third = assert(Storage.new("third", { path = "sub" }))
      assert(third.path == store.path .. "/sub" and uv.fs_stat("sub/third.db"))
    ]])
  end)

  it("takes names of letters, digits and three signs", function()
    run [[
      for _, name in ipairs { "a", "-", "_", "0", "A.z_0-9..", ("x"):rep(128) } do
        local store = assert(Storage.new(name))
        assert(store.name == name and store.filename == store.path .. "/" .. name .. ".db")
        assert(uv.fs_stat(store.filename))
        assert(store:set("k", name) and store:close() == "OK" and assert(Storage.new(name)):get("k") == name)
      end
    ]]
  end)

  it("refuses bad names, options, folders and another path for one name", function()
    run [[
      for _, name in ipairs { "", ".hidden", "a/b", "..", ("x"):rep(129), "a b", "a\0b", "é" } do
        assert(raised(Storage.new, name):find("Storage.new: the name must be 1 to 128 letters", 1, true), name)
      end
      assert(raised(Storage.new, 5):find("the name must be a string", 1, true))
      assert(raised(Storage.new, "s", { gc = 1 }):find("unknown option 'gc' (there are path, gcInterval)", 1, true))
      assert(raised(Storage.new, "s", { gcInterval = -1 }):find("gcInterval must be a number of milliseconds", 1, true))
      assert(raised(Storage.new, "s", { path = "" }):find("path must be", 1, true))
      local store, message, code = Storage.new("s", { path = "missing" })
      assert(store == nil and code == "ENOENT" and message:find("missing", 1, true), message)
      assert(uv.fs_mkdir("one", 448) and uv.fs_mkdir("two", 448))
      store = assert(Storage.new("s", { path = "one" }))
      local other
      other, message, code = Storage.new("s", { path = "two" })
      assert(other == nil and code == "exists" and message:find("/one' already, not '", 1, true), message)
      assert(not uv.fs_stat("two/s.db"))
      assert(raised(store.set, store, "k"):find("the value must not be nil", 1, true))
      assert(raised(store.set, store, "k", print):find("cannot share value: function", 1, true))
      assert(raised(store.set, store, "k", 1, -1):find("the ttl must be", 1, true))
      other, message, code = Storage.new("s2", { path = "app.lua" })
      assert(other == nil and code == "ENOTDIR", message)
      local deep, path = 1, { "deep" }
      for i = 2, 101 do path[i] = 1 end
      for _ = 1, 28 do deep = { deep } end
      assert(store:set(path, deep) == deep) -- 128 tables
      other, message, code = store:set(path, { deep })
      assert(other == nil and code == "toolarge", message)
      path[102] = 1
      assert(store:get(path)[1])
      for i = 103, 128 do path[i] = 1 end
      path[129] = 1
      assert(raised(store.set, store, path, 1):find("at most 128 steps", 1, true))
      local big
      big, message, code = store:set("big", ("x"):rep(70 << 20))
      assert(big == nil and code == "toolarge")
    ]]
  end)

  it("can be closed; every later use raises, others' handles work on", function()
    run [[
      local store, other = assert(Storage.new("s")), assert(Storage.new("s"))
      store:set("k", 1)
      assert(store:close() == "OK" and store.closed and not store.connected and other.connected)
      for _, method in ipairs { "get", "set", "has", "delete", "update", "sync", "close", "destroy", "export" } do
        local takesPath = ("get set has delete update"):find(method, 1, true)
        local argument = method == "update" and print or method == "set" and 1 or nil
        local message = raised(function() return store[method](store, takesPath and "k" or nil, argument) end)
        assert(message:find("^app.lua:%d+: store:" .. method .. ": the storage is closed$"), message)
      end
      assert(other:get("k") == 1)
      local used = memory.stats().used
      assert(other:close() == "OK" and other.closed and memory.stats().used < used)
      store = assert(Storage.new("s"))
      assert(store:get("k") == 1 and other.closed)
      assert(memory.stats().entries == 0 and memory.count() == 0)
    ]]
  end)

  it("can be destroyed, for everyone", function()
    run([[
      local store = assert(Storage.new("s"))
      for i = 1, 3000 do store:set("k" .. i, i, function() end) end
      store:set("k", 1)
      store:sync()
      memory.set("worker", "ready")
      while memory.get("destroyed") == nil do task.sleep(1) end
      assert(store.closed and not store.connected)
      assert(raised(store.get, store, "k"):find("the storage is closed", 1, true))
      assert(raised(store.set, store, "k", 1):find("the storage is closed", 1, true))
      assert(not uv.fs_stat(store.filename))
      local again = assert(Storage.new("s"))
      assert(again:get("k") == nil and store.closed and again:export() == "{}\n")
    ]], { boot = [[
      task.spawn(function()
        while not memory.get("worker") do task.sleep(1) end
        local store = assert(Storage.new("s"))
        assert(store:get("k") == 1 and store:destroy() == "OK" and store.closed)
        assert(not uv.fs_stat(store.filename) and memory.stats().used < 4096)
        memory.set("destroyed", true)
      end)
    ]] })
  end)

  it("gives back the memory of what has expired", function()
    run [[
      local store = assert(Storage.new("s", { gcInterval = 100 }))
      store:set("stays", 1)
      local before = memory.stats().used
      for i = 1, 500 do store:set("k" .. i, { text = ("x"):rep(200) }, 50) end
      store:set("part.a", ("x"):rep(20000), 50)
      store:set("part.b", 1)
      assert(memory.stats().used > before + 500 * 200)
      while memory.stats().used > before + 1000 do task.sleep(5) end
      assert(store:get("part").b == 1 and store:get("stays") == 1)
      store:sync()
      store:close()
      store = assert(Storage.new("s"))
      assert(store:get("part").b == 1 and store:get("part").a == nil and not store:has("k1"))
    ]]
  end)

  it("fails with nomemory at the cap, keeps what was there, and goes on", function()
    run([[
      local store = assert(Storage.new("s"))
      store:set("k", "small")
      local n, code = 0, nil
      repeat
        local ok, message
        n = n + 1
        ok, message, code = store:set("fill" .. n, ("x"):rep(100000))
      until not ok
      assert(code == "nomemory" and n > 20, code)
      local ok, _, again = store:set("k", ("y"):rep(200000))
      assert(ok == nil and again == "nomemory" and store:get("k") == "small")
      for i = 1, n - 1 do assert(store:delete("fill" .. i) == "OK") end
      assert(store:set("k", ("y"):rep(200000)) and store:sync() == "OK")
    ]], { "--memory", "4M" })
  end)

  it("can be used by process 0, by callbacks, and by tasks side by side", function()
    local c = clusters.run {
      workers = 0, "--restart", "never",
      boot = requires .. [[
        Storage.new("s", function(store)
          assert(store.connected)
          store:set("k", 1, function(value)
            assert(value == 1)
            store:update("k", function(k) return k + 1 end, function(value)
              assert(value == 2 and store:get("k") == 2)
              store:sync(function(ok)
                assert(ok == "OK")
                store:delete("k", function(ok)
                  assert(ok == "OK" and not store:has("k"))
                  store:close(function(ok) print(ok, store.closed) end)
                end)
              end)
            end)
          end)
        end)
      ]],
    }
    assert.equal("OK\ttrue\n", c.out)
    assert.equal(0, c.code, c.err)
    assert.matches("waits, and this is no task", clusters.run {
      app = requires .. [[
        uv.new_timer():start(0, 0, function() print(pcall(Storage.new, "s")) cluster.exit(0) end)
      ]] }.out)
  end)
end)
