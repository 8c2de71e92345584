-- A worker that writes what it likes to its end of the channel, descriptor 3.
local clusters = require "clusters"

-- Helpers of the scripts: raw bytes as a frame, and their way to the master.
local raw = [[
  local ops = {
    set = 1, remove = 2, increment = 3, setMany = 4, expire = 5, lock = 6, unlock = 7, renew = 8, info = 9,
    fork = 16, shutdown = 17, storageOpen = 18, storageSet = 19, storageDelete = 20, storageSync = 21,
    storageClose = 22, storageDestroy = 23, bind = 28, unbind = 40, online = 32, failed = 33, init = 48, stop = 49,
    fork = 16, shutdown = 17, online = 32, failed = 33, init = 48, stop = 49,
    hubSend = 24, hubAsk = 25, hubWorkers = 26, hubAnswer = 35, hubDone = 36, hubMessage = 55, hubOver = 56,
  }
  local function frame(op, payload, id, flags, zero, length)
    payload = payload or ""
    return string.pack("<I4BBI2I4", length or #payload, ops[op] or op, flags or 0, zero or 0, id or 1000000) .. payload
  end
  local function send(bytes)
    while #bytes > 0 do
      local sent = uv.fs_write(3, bytes)
      if sent then bytes = bytes:sub(sent + 1) else task.sleep(1) end
    end
  end
  local function key(text) return string.pack("<s4", text) end
  local ttl = ("\0"):rep(8) -- for ever
  -- No condition: flags, version, ttl, and a fence.
  local change = ("\0"):rep(1 + 8 + 8) .. ("\0"):rep(8 + 4)
  -- A whole request to set, of an encoded value.
  local function set(name, value) return frame("set", key(name) .. key(value) .. change) end
  -- Requests of locks: a lockId, and what is behind the key of a getLock.
  local function lockId(token, slot) return string.pack("<I8I4", token, slot) end
  -- Hubs: to whom (0: to a process), and what.
  local function to(kind, timeout) return string.pack("<BI4I8", kind, 2, timeout or 1000) end
  local function mail(hub, type, data) return key(hub) .. key(type) .. key(data) end
  local function asked(flags, timeout, lease) return string.pack("<I8BI8I8", 1, flags, timeout, lease) end
  -- Requests of storages: to open one; what sets or deletes in the one that is number 1; what has a number only.
  local function open(name, folder, gc)
    return frame("storageOpen", string.pack("<s4s4I8", name, folder or "", gc or 0))
  end
  local function put(path, value, ttl, flags, id)
    return frame("storageSet", string.pack("<I4s4s4I8BI8", id or 1, path, value, ttl or 0, flags or 0, 0))
  end
  local function drop(path, flags, id)
    return frame("storageDelete", string.pack("<I4s4BI8", id or 1, path, flags or 0, 0))
  end
  local function number(op, id) return frame(op, string.pack("<I4", id or 1)) end
]]

-- Waits for what is sent last to be there. The loop must not turn: it would meet replies that nobody has asked for.
raw = raw .. [[
  local last = set("last", "\1")
  local function arrive()
    local start = uv.hrtime()
    repeat assert(uv.hrtime() - start < 20e9, "too late") until memory.has("last")
  end
]]

describe("bytes that are no frame", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- Worker 1 sends them once; the cluster must kill it, say so, start it again, and work on.
  local function kill(expression, before)
    local c = clusters.start {
      workers = 2,
      app = raw .. ([[
        if cluster.worker.slot == 2 then
          local turn = 0
          while memory.get("stop") ~= true do
            turn = turn + 1
            assert(memory.set("turn", turn) == "OK")
            assert(memory.get("turn") == turn)
            task.sleep(1)
          end
          print("worker 2 worked on")
          return
        end
        if not memory.get("sent") then
          memory.set("sent", cluster.worker.id)
          while not memory.get("turn") do task.sleep(1) end
          %s
          send(%s)
          task.sleep(60000)
          print("survived")
        end
        assert(memory.get("sent") ~= cluster.worker.id)
        memory.set("stop", true)
        print("started again")
      ]]):format(before or "", expression),
    }
    c:waitExit()
    assert.equal(0, c.code, c.err)
    assert.matches("started again\n", c.out)
    assert.matches("worker 2 worked on\n", c.out)
    assert.not_matches("survived", c.out)
    local worker = "error worker %d+ %(slot 1, pid %d+%) "
    assert.equal(1, c:count(worker .. "is killed: it sent a malformed frame\n", "err"), c.err)
    assert.equal(1, c:count(worker .. "was killed by SIGKILL\n", "err"), c.err)
    assert.equal(1, c:count("slot 1 starts again in 100 ms", "err"))
    assert.equal(0, c:count("slot 2 starts again", "err"), c.err)
  end

  local cases = {
    { "noise", '("\\xAB"):rep(4096)' },
    { "zeros", '("\\0"):rep(64)' },
    { "text", '("GET / HTTP/1.1\\r\\n\\r\\n")' },
    { "an unknown operation", "frame(99)" },
    { "operation 0", "frame(0)" },
    { "operation 255", "frame(255)" },
    { "a field that must be zero and is not", 'frame("expire", key "k" .. ttl, 7, 0, 1)' },
    { "the same field's upper byte", 'frame("expire", key "k" .. ttl, 7, 0, 256)' },
    { "an unknown flag", 'frame("expire", key "k" .. ttl, 7, 4)' },
    { "the reply flag", 'frame("expire", key "k" .. ttl, 7, 1)' },
    { "the error flag alone", 'frame("expire", key "k" .. ttl, 7, 2)' },
    { "an error reply", 'frame("expire", key "k" .. ttl, 7, 3)' },
    { "a length over the limit", 'frame("set", "", 7, 0, 0, 0x7fffffff)' },
    { "the greatest length", 'frame("set", "", 7, 0, 0, 0xffffffff)' },
    { "a length over that of the largest value", 'frame("set", "", 7, 0, 0, 80 << 20)' },
    { "an empty payload", 'frame("expire")' },
    { "a key that ends outside the payload", 'frame("expire", "\\255\\255\\0\\0abc")' },
    { "a key of 4 GiB", 'frame("expire", "\\255\\255\\255\\255")' },
    { "a key without its value", 'frame("set", key "k")' },
    { "a value that ends outside the payload", 'frame("set", key "k" .. "\\9\\0\\0\\0abc")' },
    { "an empty key", 'frame("set", key "" .. key "v")' },
    { "a key over 65,535 bytes", 'frame("expire", key(("k"):rep(65536)) .. ttl)' },
    { "something behind the payload's end", 'frame("expire", key "k" .. ttl .. "x")' },
    { "something behind a removal's end", 'frame("remove", key "k" .. change .. "x")' },
    { "a change without its fence", 'frame("remove", key "k" .. change:sub(1, -13))' },
    { "a getLock of an empty key", 'frame("lock", key "" .. asked(0, 0, 0))' },
    { "a getLock with an unknown flag", 'frame("lock", key "k" .. asked(2, 0, 0))' },
    { "a getLock with a timeout over the greatest", 'frame("lock", key "k" .. asked(0, (1 << 53) + 1, 0))' },
    { "a getLock with a lease over the greatest", 'frame("lock", key "k" .. asked(0, 0, (1 << 53) + 1))' },
    { "a getLock that ends before its lease", 'frame("lock", key "k" .. asked(0, 0, 0):sub(1, -2))' },
    { "a getLock as a notice", 'frame("lock", key "k" .. asked(0, 0, 0), 0)' },
    { "a releaseLock without a lockId", 'frame("unlock", key "k")' },
    { "a releaseLock of a token over 60 bits", 'frame("unlock", key "k" .. lockId(-1, 0))' },
    { "a releaseLock of a slot that there is not", 'frame("unlock", key "k" .. lockId(1, 0xffffffff))' },
    { "something behind a releaseLock's end", 'frame("unlock", key "k" .. lockId(1, 0) .. "x")' },
    { "a renewLock with a lease over the greatest", 'frame("renew", key "k" .. lockId(1, 0) .. ("\\255"):rep(8))' },
    { "something behind a lockInfo's end", 'frame("info", key "k" .. "x")' },
    { "a lockInfo of a key over 65,535 bytes", 'frame("info", key(("k"):rep(65536)))' },
    { "process 0's operation fork", 'frame("fork", string.pack("<I4s4I4", 1, "app.lua", 0))' },
    { "process 0's operation shutdown", 'frame("shutdown")' },
    { "a bind of a name", 'frame("bind", key "localhost" .. string.pack("<I4", 80))' },
    { "a bind of no host", 'frame("bind", key "" .. string.pack("<I4", 80))' },
    { "a bind of an address with a NUL", 'frame("bind", key "127.0.0.1\\0" .. string.pack("<I4", 80))' },
    { "a bind of an address that is too long", 'frame("bind", key(("1"):rep(64)) .. string.pack("<I4", 80))' },
    { "a bind of port 65,536", 'frame("bind", key "127.0.0.1" .. string.pack("<I4", 65536))' },
    { "a bind of a relative path", 'frame("bind", key "app.sock" .. string.pack("<I4", 0xffffffff))' },
    { "a bind of a path with a NUL", 'frame("bind", key "/tmp/\\0" .. string.pack("<I4", 0xffffffff))' },
    { "a bind of a long path", 'frame("bind", key("/" .. ("x"):rep(107)) .. string.pack("<I4", 0xffffffff))' },
    { "a bind without a port", 'frame("bind", key "127.0.0.1")' },
    { "something behind a bind's end", 'frame("bind", key "127.0.0.1" .. string.pack("<I4", 80) .. "x")' },
    { "a bind as a notice", 'frame("bind", key "127.0.0.1" .. string.pack("<I4", 80), 0)' },
    { "an unbind without a number", 'frame("unbind", "", 0)' },
    { "an unbind as a request", 'frame("unbind", string.pack("<I4", 1))' },
    { "a hubSend to no kind of receiver", 'frame("hubSend", to(3) .. mail("h", "t", "\1"))' },
    { "a hubSend with a timeout over the greatest", 'frame("hubSend", to(0, (1 << 53) + 1) .. mail("h", "t", "\1"))' },
    { "a hubSend of a name over 1,024 bytes", 'frame("hubSend", to(0) .. mail(("h"):rep(1025), "t", "\1"))' },
    { "a hubSend of a type over 65,535 bytes", 'frame("hubSend", to(0) .. mail("h", ("t"):rep(65536), "\1"))' },
    { "a hubSend without data", 'frame("hubSend", to(0) .. key "h" .. key "t")' },
    { "a hubSend whose data ends outside the payload", 'frame("hubSend", to(0) .. mail("h", "t", "\1"):sub(1, -2))' },
    { "something behind a hubSend's end", 'frame("hubSend", to(1) .. mail("h", "t", "\1") .. "x")' },
    { "a hubSend as a notice", 'frame("hubSend", to(0) .. mail("h", "t", "\1"), 0)' },
    { "an empty hubSend", 'frame("hubSend")' },
    { "a hubAsk to all workers", 'frame("hubAsk", to(1) .. mail("h", "t", "\1"))' },
    { "a hubAsk that ends before its type", 'frame("hubAsk", to(0) .. key "h")' },
    { "something behind a hubWorkers' end", 'frame("hubWorkers", "x")' },
    { "a hubAnswer of ticket 0", 'frame("hubAnswer", string.pack("<I8BI4", 0, 0, 0), 0)' },
    { "a hubAnswer of no outcome", 'frame("hubAnswer", string.pack("<I8B", 7, 3), 0)' },
    { "a hubAnswer that ends before its outcome", 'frame("hubAnswer", string.pack("<I8", 7), 0)' },
    { "a hubAnswer of more results than it has", 'frame("hubAnswer", string.pack("<I8BI4", 7, 0, 2) .. key "\1", 0)' },
    { "a hubAnswer of 2^32 - 1 results", 'frame("hubAnswer", string.pack("<I8BI4", 7, 0, 0xffffffff), 0)' },
    { "something behind a hubAnswer's end", 'frame("hubAnswer", string.pack("<I8B", 7, 2) .. "x", 0)' },
    { "a hubAnswer whose text ends outside", 'frame("hubAnswer", string.pack("<I8BI4", 7, 1, 5) .. "text", 0)' },
    { "a hubAnswer as a request", 'frame("hubAnswer", string.pack("<I8B", 7, 2), 7)' },
    { "a hubDone of more than it has got", 'frame("hubDone", string.pack("<I8", 1), 0)' },
    { "a hubDone of half a number", 'frame("hubDone", "\1\0\0\0", 0)' },
    { "the master's own operations, hubMessage", 'frame("hubMessage", ("\\0"):rep(12) .. mail("h", "t", ""), 0)' },
    { "the master's own operations, hubOver", 'frame("hubOver", string.pack("<I8", 1), 0)' },
    { "a request as a notice", 'frame("expire", key "k" .. ttl, 0)' },
    { "a notice as a request", 'frame("online", "", 7)' },
    { "the master's own operations", 'frame("init", "", 0)' },
    { "the master's own operations, stop", 'frame("stop", "", 0)' },
    { "good frames and then a bad one, in one write", 'frame("expire", key "k" .. ttl):rep(100) .. frame(99)' },
  }

  for _, case in ipairs(cases) do
    it(("get their sender killed and nobody else: %s"):format(case[1]), function() kill(case[2]) end)
  end

  local storages = {
    { "no name", 'open("")' },
    { "a name with a slash", 'open("a/b")' },
    { "a name with a dot first", 'open(".s")' },
    { "the folder above as a name", 'open("..")' },
    { "a name with a NUL", 'open("s\\0")' },
    { "a name of 129 bytes", 'open(("s"):rep(129))' },
    { "a relative folder", 'open("other", "folder")' },
    { "a folder with a NUL", 'open("other", "/tmp\\0/x")' },
    { "a folder of 4,096 bytes", 'open("other", "/" .. ("f"):rep(4095))' },
    { "a gcInterval over the greatest", 'open("other", "", (1 << 53) + 1)' },
    { "a Storage.new that ends before its gcInterval", 'frame("storageOpen", key "other" .. key "" .. "\\0\\0\\0")' },
    { "a folder that ends outside the payload", 'frame("storageOpen", key "other" .. "\\255\\255\\255\\255/tmp")' },
    { "something behind a Storage.new's end", 'frame("storageOpen", key "other" .. key "" .. ttl .. "x")' },
    { "a Storage.new as a notice", 'frame("storageOpen", key "other" .. key "" .. ttl, 0)' },
    { "an empty path", 'put("", "\\1")' },
    { "a path that begins with an index", 'put("\\1", "\\1")' },
    { "a path with an empty name", 'put("\\xA0", "\\1")' },
    { "a path that is cut", 'put("\\xA5doc", "\\1")' },
    { "a path with a table as a step", 'put("\\xA1d\\x80", "\\1")' },
    { "a path with nil as a step", 'put("\\xA1d\\xC0", "\\1")' },
    { "a path with a NaN as a step", 'put("\\xA1d\\xCB\\x7F\\xF8" .. ("\\0"):rep(6), "\\1")' },
    { "a path of 129 steps", 'put("\\xA1d" .. ("\\xA1x"):rep(128), "\\1")' },
    { "a path over the longest", 'put("\\xA1d\\xDB" .. string.pack(">s4", ("x"):rep(1 << 20)), "\\1")' },
    { "a document's name over 65,531 bytes", 'put("\\xDA" .. string.pack(">s2", ("x"):rep(65532)), "\\1")' },
    { "no value", 'put("\\xA1d", "")' },
    { "a value that is none", 'put("\\xA1d", "\\xC1")' },
    { "a value that is cut", 'put("\\xA1d", "\\x92\\1")' },
    { "a value with something behind it", 'put("\\xA1d", "\\1\\1")' },
    { "a value that claims four billion elements", 'put("\\xA1d", "\\xDD\\xFF\\xFF\\xFF\\xFF")' },
    { "a value with a mark", 'put("\\xA1d", "\\xD7\\1\\0\\0\\0\\0\\0\\0\\0\\1\\1")' },
    { "a value with a mark inside", 'put("\\xA1d", "\\x91\\xD7\\1\\0\\0\\0\\0\\0\\0\\0\\1\\1")' },
    { "a value with a mark of no time", 'put("\\xA1d", "\\xD7\\1" .. ("\\0"):rep(8) .. "\\1")' },
    { "a value deeper than 128", 'put("\\xA1d", ("\\x91"):rep(129) .. "\\1")' },
    { "a value deeper than any stack", 'put("\\xA1d", ("\\x91"):rep(1 << 20) .. "\\1")' },
    { "a ttl over the greatest", 'put("\\xA1d", "\\1", (1 << 53) + 1)' },
    { "a set with flags of keys", 'put("\\xA1d", "\\1", 0, 1)' },
    { "a set with an unknown flag", 'put("\\xA1d", "\\1", 0, 128)' },
    { "a set without its version", 'frame("storageSet", string.pack("<I4s4s4I8B", 1, "\\xA1d", "\\1", 0, 0))' },
    { "something behind a set's end", 'frame("storageSet", put("\\xA1d", "\\1"):sub(13) .. "x")' },
    { "a delete with a set's flag", 'drop("\\xA1d", 8)' },
    { "a delete of a path that is none", 'drop("\\xA1d\\xC3")' },
    { "a delete without its version", 'frame("storageDelete", string.pack("<I4s4B", 1, "\\xA1d", 0))' },
    { "something behind a delete's end", 'frame("storageDelete", drop("\\xA1d"):sub(13) .. "x")' },
    { "half a number to sync", 'frame("storageSync", "\\1\\0")' },
    { "something behind a sync's end", 'frame("storageSync", "\\1\\0\\0\\0\\0")' },
    { "a close without a number", 'frame("storageClose")' },
    { "something behind a close's end", 'frame("storageClose", "\\1\\0\\0\\0\\0")' },
    { "a destroy without a number", 'frame("storageDestroy")' },
    { "something behind a destroy's end", 'frame("storageDestroy", "\\1\\0\\0\\0\\0")' },
  }

  -- The storage is open, so that it is the bytes that are refused.
  local opened = 'assert(require("clustermem.storage").new("s"))'
  for _, case in ipairs(storages) do
    it(("about a storage get their sender killed: %s"):format(case[1]), function() kill(case[2], opened) end)
  end
end)

describe("a frame", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- The script writes raw requests, and ends before it meets the replies.
  local function output(script)
    local c = clusters.run { app = raw .. script }
    assert.equal(0, c.code, c.err)
    return c.out
  end

  it("may come byte by byte", function()
    assert.equal("raw\n", output [[
      memory.setMany {} -- so that nothing else is on its way
      for byte in (set("k", "\xA3raw") .. last):gmatch "." do
        send(byte)
        local start = uv.hrtime()
        repeat until uv.hrtime() - start > 1e5
      end
      arrive()
      print(memory.get("k"))
    ]])
  end)

  it("is handled in order with what came before it in the same write", function()
    assert.equal("3\n", output [[
      memory.setMany {}
      send(set("k", "\1") .. set("k", "\2") .. set("k", "\3") .. last)
      arrive()
      print(memory.get("k"))
    ]])
  end)

  it("that is cut off by its sender's death does nothing", function()
    local c = clusters.run {
      app = raw .. [[
        if cluster.worker.id == 1 then
          send(set("before", "\1") .. set("k", "\1"):sub(1, -2))
          uv.kill(cluster.worker.pid, "sigkill")
          task.sleep(10000)
        end
        print(memory.get("before"), memory.get("k"))
      ]],
    }
    assert.equal("1\tnil\n", c.out)
    assert.equal(0, c.code)
  end)

  it("with a value over --max-value, sent past the worker's own check, is answered with toolarge", function()
    local c = clusters.run {
      "--max-value", "1K",
      app = raw .. [[
        memory.setMany {}
        send(set("k", "\xC5" .. ("x"):rep(2000)) .. last)
        arrive()
        print(memory.get("k"), memory.set("k", 1))
      ]],
    }
    assert.matches("^nil\tOK\t%d+\n$", c.out)
  end)

  it("is answered to who sent it, although each process counts its ids from 1", function()
    local c = clusters.run {
      workers = 4,
      app = [[
        local me = "k" .. cluster.worker.id
        for i = 1, 500 do
          assert(memory.set(me, me .. i) == "OK")
          assert(memory.get(me) == me .. i)
          assert(memory.setMany { [me] = i } == "OK")
          assert(memory.get(me) == i)
        end
        print "ok"
      ]],
    }
    assert.equal(4, c:count("ok\n"))
  end)

  it("about a storage that the sender does not have open is refused, and does nothing", function()
    local c = clusters.run {
      workers = 2,
      app = raw .. [[
        local Storage = require "clustermem.storage"
        if cluster.worker.slot == 1 then
          local store = assert(Storage.new("s")) -- number 1
          store:set("d", "kept")
          memory.set("open", true)
          while not memory.get("sent") do task.sleep(1) end
          assert(store.connected and store:get("d") == "kept" and store:sync() == "OK")
          print "kept"
          return
        end
        while not memory.get("open") do task.sleep(1) end
        local native, request = require "clustermem.native", require "clustermem.request"
        for _, operation in ipairs { "Sync", "Close", "Destroy" } do
          print(operation, select(3, request.complete(nil, native["storage" .. operation](1))))
        end
        print("Set", select(3, request.complete(nil, native.storageSet(1, "d", "changed", 0))))
        print("Delete", select(3, request.complete(nil, native.storageDelete(1, "d", 0, 0))))
        -- Those that nobody has, sent past the process's own check.
        for _, id in ipairs { 0, 2, 0xffffffff } do
          send(put("\xA1d", "\1", 0, 0, id) .. drop("\xA1d", 0, id) .. number("storageSync", id)
            .. number("storageClose", id) .. number("storageDestroy", id))
        end
        send(open("other") .. last)
        arrive()
        memory.set("sent", true)
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal(1, c:count("kept\n"), c.out)
    for _, operation in ipairs { "Sync", "Close", "Destroy", "Set", "Delete" } do
      assert.equal(1, c:count(operation .. "\tclosed\n"), c.out)
    end
    assert.not_matches("is killed", c.err)
  end)

  it("with a value that is none is an error of who reads it, alone", function()
    local c = clusters.run {
      app = raw .. [[
        if cluster.worker.id == 1 then
          memory.setMany {}
          send(set("bad", "\xC1") .. last)
          arrive()
          memory.get("bad")
          print "read"
        end
        print("worker " .. cluster.worker.id)
      ]],
    }
    assert.equal("worker 2\n", c.out)
    assert.equal(0, c.code)
    assert.matches("worker 1: app.lua:%d+: the shared memory holds bytes that are no value\n", c.err)
  end)
end)

describe("an answer to a hub's request", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  -- The first request of a cluster has the ticket 1.
  local hubs = [[
    local hub = require("clustermem.hub").new()
    local me = cluster.worker.id
    hub:on("finish", function() hub:removeAllListeners() end)
    local function answer(ticket, ...)
      local values = table.pack(...)
      for i = 1, values.n do values[i] = key(values[i]) end
      return frame("hubAnswer", string.pack("<I8BI4", ticket, 0, values.n) .. table.concat(values), 0)
    end
  ]]

  it("that holds bytes that are no value fails, and harms nobody else", function()
    local c = clusters.run {
      workers = 2,
      app = raw .. hubs .. [[
        hub:on("x", function() send(answer(1, "\1", "\xC1", "\2")) end)
        if me == 1 then
          print(hub:requestWorker(2, "x"))
          hub:sendToWorkers "finish"
          hub:removeAllListeners()
        end
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("nil\tthe answer holds bytes that are no value\tremote\n", c.out)
  end)

  it("by somebody else than who was asked, or to nothing, does nothing", function()
    local c = clusters.run {
      workers = 3,
      app = raw .. hubs .. [[
        hub:on("x", function(_, _, reply)
          hub:requestWorker(3, "forge")
          assert(reply(nil, "good"))
        end)
        hub:on("forge", function() send(answer(1, "\xA4evil") .. answer(2, "\xA4evil") .. answer(-1)) return true end)
        if me == 1 then
          print(hub:requestWorker(2, "x"))
          hub:sendToWorkers "finish"
          hub:removeAllListeners()
        end
      ]],
    }
    assert.equal(0, c.code, c.err)
    assert.equal("good\n", c.out)
  end)
end)

describe("a process that closes its channel", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("is killed and started again", function()
    local c = clusters.run {
      app = [[
        if cluster.worker.id == 1 then
          uv.fs_close(3)
          local start = uv.hrtime()
          repeat until uv.hrtime() - start > 20e9
        end
        print("worker " .. cluster.worker.id)
      ]],
    }
    assert.equal("worker 2\n", c.out)
    assert.equal(0, c.code)
    assert.matches("worker 1 %(slot 1, pid %d+%) was killed by SIGKILL", c.err)
  end)
end)
