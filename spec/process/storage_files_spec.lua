-- What storages leave in their files, and take out of the memory: restarts, sizes, exports, files of others.
local clusters = require "clusters"
local storages = require "storages"

local requires, run, inTurn = storages.requires, storages.run, storages.inTurn

describe("a storage's file", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is there again after a restart, ttls by the time of day", function()
    inTurn([[
      local store = assert(Storage.new("s"))
      for i = 1, 500 do store:set("doc" .. i, { n = i, text = ("x"):rep(i) }) end
      store:set("gone", { a = 1, b = 2 })
      store:set("gone.a", 1, 300)
      store:set("soon", 1, 300)
      store:set("late", 1, 600000)
      store:delete("doc7")
    ]], [[
      local store = assert(Storage.new("s"))
      for i = 1, 500 do
        local doc = store:get("doc" .. i)
        if i == 7 then assert(doc == nil) else assert(doc.n == i and #doc.text == i) end
      end
      assert(store:get("late") == 1)
      while store:has("soon") do task.sleep(5) end
      assert(store:get("gone").a == nil and store:get("gone").b == 2)
      store:set("doc7", "again")
      store:delete("doc8")
      assert(store:sync() == "OK")
    ]], [[
      local store = assert(Storage.new("s"))
      assert(store:get("doc7") == "again" and not store:has("doc8") and store:get("doc9").n == 9)
      assert(not store:has("soon") and store:get("gone").a == nil and store:get("late") == 1)
    ]])
  end)

  it("has documents of every size and name, 10,000 of them and more", function()
    local _, folder = inTurn([[
      local store = assert(Storage.new("s"))
      for byte = 0, 255 do assert(store:set({ string.char(byte) }, byte)) end
      local longest, longer = ("n"):rep(65531), ("n"):rep(65532)
      assert(store:set({ longest, "a", longest }, "deep"))
      assert(raised(store.set, store, { longer }, 1):find("65531 bytes", 1, true))
      assert(raised(store.set, store, longer, 1):find("is wrong at character", 1, true))
      for i = 1, 10000 do store:set("doc" .. i, { n = i }, function() end) end
      store:set("big", ("x"):rep((64 << 20) - 5))
    ]], [[
      local store = assert(Storage.new("s"))
      for byte = 0, 255 do assert(store:get { string.char(byte) } == byte) end
      local longest = ("n"):rep(65531)
      assert(store:get(longest).a[longest] == "deep")
      assert(store:get("big") == ("x"):rep((64 << 20) - 5))
      local ok, _, code = store:set("big", ("x"):rep((64 << 20) - 4))
      assert(ok == nil and code == "toolarge")
      assert(store:delete("big") == "OK")
      -- While it walks, others write on.
      local function exported()
        local text, numbers = store:export(), {}
        for i, n in text:gmatch('\n"doc(%d+)": {"n":(%d+)') do numbers[tonumber(i)] = tonumber(n) end
        for i = 201, 10000 do assert(numbers[i] == i) end
        return text
      end
      local writing = task.spawn(function()
        for i = 1, 200 do assert(store:set({ "doc" .. i }, { n = i, more = ("x"):rep(i) })) end
      end)
      exported()
      task.join(writing)
      local text = exported()
      assert(select(2, text:gsub("\n", "")) == 10000 + 256 + 1 + 2)
      for i = 1, 10000 do assert(store:get { "doc" .. i, "n" } == i) end
      assert(store:sync() == "OK")
    ]])
    local e = clusters.run { args = { "export", folder .. "/s.db" } }
    assert.equal(0, e.code, e.err)
    assert.equal(10000 + 256 + 1 + 2, e:count("\n"))
  end)

  it("keeps no large buffer, nor does the master, when a large document has been dealt with", function()
    if clusters.isSanitized() then return end -- what is freed is kept for a while there
    run [[
      local function heldMiB(pid)
        for _ = 1, 2 do collectgarbage() end
        for line in io.lines("/proc/" .. math.tointeger(pid) .. "/status") do
          local kib = line:match("^RssAnon:%s*(%d+)")
          if kib then return kib // 1024 end
        end
      end
      local store = assert(Storage.new("s"))
      store:set("big", { a = ("x"):rep(50 << 20) })
      store:sync()
      local held = heldMiB(uv.os_getppid())
      assert(held < 25, "the master: " .. held)
      store:set("small", "x") -- what a set has encoded stays until the next one
      for _, call in ipairs {
        function() assert(store:has("big")) end,
        function() assert(#store:get("big.a") == 50 << 20) end,
        function() assert(store:update("big.b", function() return 1 end)) end,
        function() assert(#store:export() > 50 << 20) end,
      } do
        call()
        local held = heldMiB(cluster.worker.pid)
        assert(held < 25, held)
      end
    ]]
  end)

  it("has nothing to write when nothing has changed", function()
    run [[
      local store = assert(Storage.new("s"))
      assert(store:sync() == "OK")
      store:set("k", 1)
      local syncs = {}
      for i = 1, 20 do syncs[i] = function() assert(store:sync() == "OK") end end
      task.all(syncs)
      local before = assert(uv.fs_stat(store.filename))
      assert(store:delete("nothing") == "OK" and store:sync() == "OK")
      task.all(syncs)
      assert(store:close() == "OK")
      store = assert(Storage.new("s"))
      assert(store:get("k") == 1 and store:sync() == "OK")
      local after = assert(uv.fs_stat(store.filename))
      assert(after.mtime.sec == before.mtime.sec and after.mtime.nsec == before.mtime.nsec, "it was written")
    ]]
  end)

  it("refuses a file that is not its own, and leaves it as it is", function()
    run([[
      local store, message, code = Storage.new("text")
      assert(store == nil and code and message:find("text.db", 1, true), message)
      local file = io.open("text.db")
      assert(file:read("a") == "not yours")
      assert(uv.fs_mkdir("folder.db", 448))
      store, message, code = Storage.new("folder")
      assert(store == nil and message:find("folder.db", 1, true))
      -- Others are not touched by that.
      store = assert(Storage.new("good"))
      store:set("k", 1)
      assert(store:sync() == "OK" and store:close() == "OK")
    ]], { files = { ["text.db"] = "not yours" } })
  end)

  it("is one cluster's at a time", function()
    local c = clusters.start { app = requires .. [[
      local store = assert(Storage.new("s"))
      store:set("k", 1)
      store:sync()
      print "open"
      while not uv.fs_stat("go") do task.sleep(5) end
      store:close()
      print "closed"
      task.sleep(60000)
    ]] }
    c:waitFor("open")
    run([[
      local store, message, code = Storage.new("s")
      assert(store == nil and code == "busy" and message:find("another cluster", 1, true), message)
    ]], { "--storage-dir", c.folder })
    c:write("go", "")
    c:waitFor("closed")
    run([[ assert(assert(Storage.new("s")):get("k") == 1) ]], { "--storage-dir", c.folder })
    c:kill("sigterm")
    c:waitExit()
  end)

  it("exports JSON with integers whole, also without a cluster", function()
    local c = run [[
      local store = assert(Storage.new("s"))
      assert(store:export() == "{}\n")
      store:set("a", { n = 2^53 | 1, f = 0.1, t = { 1, 2, { null } }, s = 'quote " \n', bad = "\xff" })
      store:set("b c", 10)
      store:set("expired", 1, 1)
      store:set("part", { x = 1 })
      store:set("part.y", 1, 1)
      task.sleep(5)
      local json = require "cjson"
      local text = store:export()
      local value = json.decode(text)
      assert(text:find("9007199254740993", 1, true) and value.a.f == 0.1 and value.a.t[3][1] == null)
      assert(value.a.s == 'quote " \n' and value.a.bad == "\u{fffd}" and value["b c"] == 10)
      assert(value.expired == nil and value.part.x == 1 and value.part.y == nil)
      store:sync()
      local copy = io.open("exported", "w")
      copy:write(text)
      copy:close()
    ]]
    local e = clusters.run { args = { "export", c.folder .. "/s.db" } }
    assert.equal(0, e.code, e.err)
    local json = require "cjson"
    assert.same(json.decode(clusters.read(c.folder .. "/exported")), json.decode(e.out))
    e = clusters.run { args = { "export", c.folder .. "/missing.db" } }
    assert.equal(2, e.code)
    assert.matches("^clustermem: .*missing.db.*\n$", e.err)
    e = clusters.run { args = { "export", c.folder .. "/app.lua" } }
    assert.equal(1, e.code)
    assert.matches("^clustermem: .*app.lua.*\n$", e.err)
    assert.equal("", e.out)
  end)

  it("is not opened when it is larger than the memory, and stays whole", function()
    local _, folder = inTurn [[
      local store = assert(Storage.new("s"))
      for i = 1, 100 do store:set("k" .. i, ("x"):rep(100000)) end
    ]]
    run([[
      local store, message, code = Storage.new("s")
      assert(store == nil and code == "nomemory" and message:find("s.db", 1, true), message)
      assert(memory.set("k", ("x"):rep(1000000)) == "OK" and memory.remove("k"))
      store = assert(Storage.new("small"))
      assert(store:set("k", ("x"):rep(1000000)) and store:sync() == "OK")
    ]], { "--memory", "4M", "--storage-dir", folder })
    run([[
      local store = assert(Storage.new("s"))
      for i = 1, 100 do assert(#store:get("k" .. i) == 100000) end
    ]], { "--storage-dir", folder })
  end)

  it("exports a path's ttl: what is over is not there any more", function()
    local c = clusters.start { app = storages.requires .. [[
      local store = assert(Storage.new("s"))
      store:set("doc", { stays = 1 })
      store:set("doc.list", { 1, 2, 3 }, 600000)
      store:set("doc.soon", { x = 1 }, 500)
      store:set("whole", 1, 500)
      local now = store:export()
      assert(now:find('"soon":{"x":1}', 1, true) and now:find('"whole": 1', 1, true), now)
      store:sync()
      while store:has("doc.soon") or store:has("whole") do task.sleep(5) end
      print(store:export())
    ]] }
    assert.equal(0, c:waitExit(), c.err)
    local json = require "cjson"
    local expected = { doc = { stays = 1, list = { 1, 2, 3 } } }
    assert.same(expected, json.decode(c.out))
    -- The file has them still, with their times.
    local e = clusters.run { args = { "export", c.folder .. "/s.db" } }
    assert.equal(0, e.code, e.err)
    assert.same(expected, json.decode(e.out))
  end)

  it("is not exported from outside while a cluster has it open; a reader that goes away is no trouble", function()
    local c = clusters.start { app = storages.requires .. [[
      local store = assert(Storage.new("s"))
      for i = 1, 2000 do store:set("k" .. i, ("x"):rep(500), function() end) end
      store:sync()
      print "open"
      task.sleep(60000)
    ]] }
    c:waitFor("open\n")
    local e = clusters.run { args = { "export", c.folder .. "/s.db" } }
    assert.equal(1, e.code)
    assert.equal("", e.out)
    assert.matches("^clustermem: [^\n]*s.db[^\n]*another cluster[^\n]*\n$", e.err)
    c:kill("sigterm")
    assert.equal(0, c:waitExit())
    -- 1 MB does not fit into a pipe.
    e = clusters.run { args = { "export", c.folder .. "/s.db" },
      shell = '{ "$0" "$@"; echo "code $?" >&2; } | head -n 1; exit 0' }
    assert.equal("{\n", e.out)
    assert.matches("^code %d+\n$", e.err)
    -- A full disk, met while the documents are written, or with the last of them.
    local small = run [[ assert(Storage.new("s")):set("k", 1) ]]
    for _, folder in ipairs { c.folder, small.folder } do
      e = clusters.run { args = { "export", folder .. "/s.db" }, shell = "exec > /dev/full" }
      assert.equal(1, e.code)
      assert.equal("clustermem: cannot write the documents of " .. folder .. "/s.db: No space left on device\n", e.err)
    end
  end)

  it("is exported by a command that takes one file", function()
    for _, args in ipairs { {}, { "one.db", "two.db" }, { "--unknown", "one.db" } } do
      local e = clusters.run { args = { "export", table.unpack(args) } }
      assert.equal(2, e.code)
      assert.matches("^clustermem: [^\n]+ %(see clustermem %-%-help%)\n$", e.err)
    end
    local e = clusters.run { args = { "export", "--help" } }
    assert.equal(0, e.code)
    assert.matches("clustermem export FILE.db", e.out)
  end)

  it("takes its default folder from --storage-dir, which must be one", function()
    local c = clusters.run { app = "", "--storage-dir", "missing" }
    assert.equal(2, c.code)
    assert.matches("^clustermem: %-%-storage%-dir: missing: No such file or directory", c.err)
    c = clusters.run { app = "", "--storage-dir", "app.lua" }
    assert.equal(2, c.code)
    assert.matches("^clustermem: %-%-storage%-dir: app.lua is no directory", c.err)
  end)
end)
