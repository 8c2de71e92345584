local memory = require "clustermem"
local task = require "clustermem.task"
local null = require("cjson").null
local clusters = require "clusters"

-- As text, exactly: the subtype and the last digit of a number count, and so does the sign of a zero.
local function exactly(value)
  if value == null then return "null" end
  if type(value) == "string" then return ("%q"):format(value) end
  if math.type(value) == "float" then return ("float %a"):format(value) end
  if type(value) ~= "table" then return ("%s %s"):format(math.type(value) or type(value), value) end
  local parts = {}
  for key, each in pairs(value) do parts[#parts + 1] = ("[%s]=%s"):format(exactly(key), exactly(each)) end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

local function nested(depth)
  local value = {}
  for _ = 2, depth do value = { value } end
  return value
end

describe("shared values", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local function returnsAsItWas(value)
    assert.equal("OK", (memory.set("values", value)))
    assert.equal(exactly(value), exactly((memory.get("values"))))
  end

  it("keep booleans and strings of any bytes", function()
    returnsAsItWas(true)
    returnsAsItWas(false)
    returnsAsItWas("")
    returnsAsItWas("a\0b\255\n")
    local bytes = {}
    for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
    returnsAsItWas(table.concat(bytes))
    for _, length in ipairs { 31, 32, 255, 256, 65535, 65536, 1 << 20 } do returnsAsItWas(("x"):rep(length)) end
  end)

  it("keep integers to the last digit", function()
    for _, number in ipairs { 0, 10, -1, 2 ^ 53 | 0, (1 << 53) + 1, math.maxinteger, math.mininteger } do
      returnsAsItWas(number)
      returnsAsItWas(-number)
    end
    for shift = 0, 62 do
      for _, number in ipairs { (1 << shift) - 1, 1 << shift, (1 << shift) + 1, -(1 << shift), -(1 << shift) - 1 } do
        returnsAsItWas(number)
      end
    end
  end)

  it("keep floats as floats, each as it was", function()
    for _, number in ipairs { 10.0, 0.0, -0.0, 0.1, 1e308, 5e-324, 2.0 ^ 53, -2.0 ^ 63, math.huge, -math.huge } do
      returnsAsItWas(number)
    end
    memory.set("values", 0 / 0)
    local number = memory.get("values")
    assert.equal("float", math.type(number))
    assert.is_false(number == number)
  end)

  it("tell 10 from 10.0", function()
    memory.set("values", { 10, 10.0 })
    local pair = memory.get("values")
    assert.equal("integer", math.type(pair[1]))
    assert.equal("float", math.type(pair[2]))
  end)

  it("keep cjson.null apart from absence", function()
    returnsAsItWas(null)
    returnsAsItWas { null, a = null }
    assert.equal(null, (memory.get("values"))[1])
  end)

  it("keep arrays, maps, sparse tables and tables with float keys", function()
    returnsAsItWas {}
    returnsAsItWas { 1, 2, 3 }
    returnsAsItWas { { {} }, { a = { b = { "c" } } } }
    returnsAsItWas { [1] = "a", [3] = "c" }
    returnsAsItWas { [0] = "zero", [-5] = "minus", [math.mininteger] = "least", [1 << 40] = "far" }
    returnsAsItWas { [1.5] = "float", [math.huge] = "huge", [-0.5] = "half" }
    returnsAsItWas { "mixed", name = "map", [2.5] = true, ["2"] = "a string", [2] = "an integer" }
    returnsAsItWas { ["\0\255"] = "binary", [""] = "empty" }
    local many = {}
    for i = 1, 70000 do many[i] = i end
    returnsAsItWas(many)
  end)

  it("may be nested to depth 128", function()
    returnsAsItWas(nested(128))
  end)

  it("ignore metatables", function()
    local value = setmetatable({ a = 1 }, { __index = error, __pairs = error, __len = error })
    memory.set("values", value)
    local copy = memory.get("values")
    assert.is_nil(getmetatable(copy))
    assert.equal(1, copy.a)
  end)

  it("take a table twice where it stands twice", function()
    local part = { 1 }
    memory.set("values", { part, part })
    local copy = memory.get("values")
    assert.same({ { 1 }, { 1 } }, copy)
    assert.are_not.equal(copy[1], copy[2])
  end)

  it("are the caller's own copies", function()
    local value = { list = { 1 } }
    memory.set("values", value)
    value.list[1] = 2
    local copy = memory.get("values")
    copy.list[1] = 3
    assert.equal(1, memory.get("values").list[1])
  end)

  it("survive as random values", function()
    local random = math.random
    local function number()
      if random(2) == 1 then return random(0) >> random(0, 63) end
      return (random() - 0.5) * 10.0 ^ random(-300, 300)
    end
    local function text()
      local bytes = {}
      for i = 1, random(0, 40) do bytes[i] = string.char(random(0, 255)) end
      return table.concat(bytes)
    end
    local function any(depth)
      local kind = random(depth < 5 and 7 or 4)
      if kind == 1 then return random(2) == 1 end
      if kind == 2 then return number() end
      if kind == 3 then return text() end
      if kind == 4 then return null end
      local value = {}
      for i = 1, random(0, 5) do
        local key = kind == 5 and i or kind == 6 and text() or number()
        value[key] = any(depth + 1)
      end
      return value
    end
    for _ = 1, 1000 do returnsAsItWas(any(1)) end
  end)

  describe("that are no data", function()
    local function refuses(value, message)
      local ok, raised = pcall(function()
        memory.set("values", value)
      end)
      assert.is_false(ok)
      -- At the line of the call above.
      local source, line, text = raised:match("^(.-):(%d+): (.*)$")
      assert.matches("values_spec%.lua$", source)
      assert.equal(debug.getinfo(1, "S").linedefined + 2, math.tointeger(line))
      assert.equal(message, text)
    end

    it("are refused, each kind by name, at the caller's line", function()
      refuses(print, "cannot share value: function")
      refuses(coroutine.create(print), "cannot share value: thread")
      refuses(io.stdout, "cannot share value: userdata")
      refuses({ handlers = { 1, print } }, "cannot share value.handlers[2]: function")
      refuses({ ["a b"] = { [1.5] = io.stdout } }, 'cannot share value["a b"][1.5]: userdata')
    end)

    it("are refused when a table contains itself", function()
      local loop = { a = {} }
      loop.a.b = loop
      local ok, raised = pcall(memory.set, "values", loop)
      assert.is_false(ok)
      assert.matches("cannot share value%.a%.b: ", raised)
    end)

    it("are refused when a key is neither number nor string", function()
      for _, key in ipairs { true, {}, print } do
        local ok, raised = pcall(memory.set, "values", { [key] = 1 })
        assert.is_false(ok)
        assert.matches("cannot share value.*: ", raised)
      end
    end)

    it("are refused when they are nested too deep", function()
      local ok, raised = pcall(memory.set, "values", nested(129))
      assert.is_false(ok)
      assert.matches("cannot share value%[1%].*%[1%]: ", raised)
    end)

    it("leave what was there", function()
      memory.set("values", "before")
      pcall(memory.set, "values", { print })
      assert.equal("before", memory.get("values"))
    end)
  end)
end)

describe("set, get and remove", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("give OK, a version that grows, and nil for absence", function()
    local ok, first = memory.set("k", 1)
    assert.equal("OK", ok)
    assert.equal("integer", math.type(first))
    assert.equal("OK", memory.remove("k"))
    assert.equal(0, select("#", memory.get("k")) - 1)
    assert.is_nil(memory.get("k"))
    local _, second = memory.set("k", 1)
    assert.is_true(second > first)
  end)

  it("remove gives OK also when nothing was there", function()
    assert.equal("OK", memory.remove("never there"))
  end)

  it("set and remove work with a callback that gets the same results", function()
    local set = table.pack(task.await(function(resume) memory.set("k", { 5 }, resume) end))
    assert.equal("OK", set[1])
    assert.equal("integer", math.type(set[2]))
    assert.same({ 5 }, (memory.get("k")))
    assert.equal("OK", (task.await(function(resume) memory.remove("k", resume) end)))
    assert.equal("OK", (task.await(function(resume) memory.remove("k", {}, resume) end)))
    assert.is_nil((memory.get("k")))
    local late = false
    memory.set("k", 1, nil, function() late = true end)
    assert.is_false(late)
  end)

  it("take keys of 1 to 65,535 bytes, of any bytes", function()
    for _, key in ipairs { "a", "\0", "\0\255", ("k"):rep(65535) } do
      memory.set(key, #key)
      assert.equal(#key, memory.get(key))
      memory.remove(key)
    end
  end)

  it("tell keys apart that begin alike", function()
    memory.set("a", 1)
    memory.set("a\0", 2)
    memory.set("a\0b", 3)
    assert.same({ 1, 2, 3 }, { (memory.get("a")), (memory.get("a\0")), (memory.get("a\0b")) })
  end)

  -- Raises at this file, with all of the words.
  local function raises(fn, ...)
    local ok, raised = pcall(fn)
    assert.is_false(ok)
    assert.matches("^[^\n]*values_spec%.lua:%d+: ", raised)
    for _, word in ipairs { ... } do assert.truthy(raised:find(word, 1, true), raised) end
  end

  it("refuse every other key, at the caller's line", function()
    for _, key in ipairs { "", ("k"):rep(65536), 5, true, {} } do
      raises(function() memory.set(key, 1) end, "set: the key", "65535")
      raises(function() return (memory.get(key)) end, "get: the key")
      raises(function() memory.remove(key) end, "remove: the key")
    end
    raises(function() memory.set(nil, 1) end, "set: the key", "nil")
    raises(function() return (memory.get()) end, "get: the key", "nil")
  end)

  it("refuse nil as a value", function()
    raises(function() memory.set("k", nil) end, "nil", "remove")
    raises(function() memory.set("k") end, "nil", "remove")
  end)

  it("refuse an unknown option by name, and options that are no table", function()
    raises(function() memory.set("k", 1, { colour = "red" }) end, "set", "unknown option 'colour'")
    raises(function() memory.remove("k", { colour = "red" }) end, "remove", "unknown option 'colour'")
    raises(function() memory.set("k", 1, "ttl") end, "set", "options")
    raises(function() memory.set("k", 1, {}, 5) end, "set", "callback")
    raises(function() memory.remove("k", {}, 5) end, "remove", "callback")
  end)

  it("reach each worker from each worker and from process 0", function()
    local c = clusters.run {
      workers = 3,
      boot = [[
        memory.set("from 0", { who = 0 })
        task.spawn(function() -- the workers start when the main task has ended
          local got = {}
          while #got < 3 do
            got = {}
            for id = 1, 3 do got[#got + 1] = memory.get("from " .. id) end
            task.sleep(1)
          end
          print("0 read " .. table.concat(got, " "))
          memory.set("0 is done", true)
        end)
      ]],
      app = [[
        local me = cluster.worker.id
        assert(memory.get("from 0").who == 0)
        memory.set("from " .. me, me)
        for id = 1, 3 do
          while memory.get("from " .. id) ~= id do task.sleep(1) end
        end
        print(me .. " read all")
        -- Process 0 is asked to stop when no worker is left.
        while not memory.get("0 is done") do task.sleep(1) end
      ]],
    }
    assert.equal(0, c.code)
    for _, line in ipairs { "0 read 1 2 3", "1 read all", "2 read all", "3 read all" } do
      assert.truthy(c.out:find(line, 1, true), c.out .. c.err)
    end
  end)

  it("show an acknowledged write to another process at once, and its removal", function()
    -- The two tell each other through a socket of their own that they have written.
    local c = clusters.run {
      workers = 2,
      app = [[
        local ROUNDS = 300
        local turns, wake = 0, nil
        local function take(socket)
          assert(socket:read_start(function(err, data)
            assert(not err, err)
            turns = turns + #(data or "")
            if wake then wake() end
          end))
        end
        local function round(socket, mine, theirs, i)
          assert(memory.set(mine, i))
          socket:write(".")
          while turns < i do task.await(function(resume) wake = resume end) end
          assert(memory.get(theirs) == i, "not seen: " .. theirs)
          assert(memory.get("gone") == nil)
          memory.set("gone", i)
          memory.remove("gone")
        end
        local socket = uv.new_pipe(false)
        if cluster.worker.id == 1 then
          local server = uv.new_pipe(false)
          server:bind("turns")
          task.await(function(resume) server:listen(1, resume) end)
          server:accept(socket)
          server:close()
        else
          while task.await(function(resume) socket:connect("turns", resume) end) do
            socket:close()
            task.sleep(1)
            socket = uv.new_pipe(false)
          end
        end
        take(socket)
        for i = 1, ROUNDS do
          if cluster.worker.id == 1 then
            round(socket, "a", "b", i)
          else
            while turns < i do task.await(function(resume) wake = resume end) end
            assert(memory.get("a") == i, "not seen: a")
            assert(memory.set("b", i))
            socket:write(".")
          end
        end
        socket:close()
        print "seen"
      ]],
    }
    assert.equal("seen\nseen\n", c.out)
    assert.equal(0, c.code)
  end)

  it("apply writes with callbacks in the order in which they were issued", function()
    assert.equal("last 1000, in order\n", clusters.output [[
      local versions, done = {}, nil
      task.await(function(resume)
        for i = 1, 1000 do
          memory.set("k", i, function(ok, version)
            assert(ok == "OK")
            versions[#versions + 1] = version
            if i == 1000 then resume() end
          end)
          if i % 10 == 0 then memory.remove("k", function() end) memory.set("k", -i, function() end) end
          memory.set("k", i, function() end)
        end
      end)
      for i = 2, 1000 do assert(versions[i] > versions[i - 1]) end
      print("last " .. memory.get("k") .. ", in order")
    ]])
  end)

  it("apply 100,000 sets with callbacks of one loop turn, each", function()
    assert.equal("100000 called back, 100000 there\n", clusters.output [[
      local N, called = 100000, 0
      for i = 1, N do
        memory.set("k" .. i, i, function(ok) called = called + (ok == "OK" and 1 or 0) end)
      end
      while called < N do task.sleep(1) end
      local there = 0
      for i = 1, N do
        if memory.get("k" .. i) == i then there = there + 1 end
      end
      print(called .. " called back, " .. there .. " there")
    ]])
  end)

  it("answer each of 64 tasks that ask at once with its own", function()
    assert.equal("ok\n", clusters.output [[
      local fns = {}
      for t = 1, 64 do
        fns[t] = function()
          for i = 1, 200 do
            local value = ("%d:%d:"):format(t, i) .. ("x"):rep(math.random(0, 500))
            assert(memory.set("k" .. t, value) == "OK")
            assert(memory.get("k" .. t) == value)
          end
        end
      end
      task.all(fns)
      print "ok"
    ]])
  end)

  it("give toolarge for a value over --max-value and keep what was there", function()
    local c = clusters.run {
      "--max-value", "1K",
      app = [[
        assert(memory.set("k", ("x"):rep(1000)) == "OK")
        local value, message, code = memory.set("k", ("x"):rep(1024))
        print(value, type(message), code, #memory.get("k"))
        print(select(3, task.await(function(resume) memory.set("k", ("x"):rep(5000), resume) end)))
      ]],
    }
    assert.equal("nil\tstring\ttoolarge\t1000\ntoolarge\n", c.out)
    assert.equal(0, c.code)
  end)

  it("give nomemory when --memory is used up, keep what was there and go on", function()
    local c = clusters.run {
      "--memory", "1M",
      app = [[
        assert(memory.set("old", ("a"):rep(1000)) == "OK")
        local stored, code, message, _ = 0, nil, nil, nil
        repeat
          _, message, code = memory.set("k" .. stored, ("x"):rep(10000))
          stored = stored + (code and 0 or 1)
        until code
        print(code, type(message), stored >= 70 and stored <= 105)
        print(select(3, memory.set("old", ("b"):rep(50000))))
        print(memory.get("old") == ("a"):rep(1000))
        for i = 0, 9 do assert(memory.remove("k" .. i) == "OK") end
        print(memory.set("old", ("b"):rep(50000)))
        print(#memory.get("old"), #memory.get("k10"))
      ]],
    }
    assert.matches("^nomemory\tstring\ttrue\nnomemory\ntrue\nOK\t%d+\n50000\t10000\n$", c.out)
    assert.equal(0, c.code)
  end)

  it("carry a value of 8 MiB there and back", function()
    assert.equal("true\n", clusters.output [[
      local value = ("0123456789abcdef"):rep(512 * 1024)
      assert(memory.set("big", value) == "OK")
      print(memory.get("big") == value)
    ]])
  end)

  it("keep values when the worker that wrote them has ended", function()
    local c = clusters.run {
      app = [[
        if cluster.worker.id == 1 then
          memory.set("k", "of 1")
          os.exit(7)
        end
        print(memory.get("k"))
      ]],
    }
    assert.equal("of 1\n", c.out)
    assert.equal(0, c.code)
  end)
end)
