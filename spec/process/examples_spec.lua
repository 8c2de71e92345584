local uv = require "luv"
local clusters = require "clusters"

describe("the example", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local folder = uv.cwd() .. "/scripts/examples"
  local names = {}
  local scan = uv.fs_scandir(folder)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if name:find("%.lua$") then names[#names + 1] = name end
  end
  table.sort(names)

  it("counter.lua, mutex.lua, session-store.lua, sum.lua and web-counter.lua are there", function()
    for _, name in ipairs { "counter.lua", "mutex.lua", "session-store.lua", "sum.lua", "web-counter.lua" } do
      assert.truthy(table.concat(names, " "):find(name, 1, true))
    end
  end)

  it("mutex.lua counts every increment of all its workers", function()
    local c = clusters.run { args = { "-w", "3", folder .. "/mutex.lua" } }
    assert.equal(3, c:count("and 1000 of that are mine\n"), c.out)
    assert.matches("the counter is at 3000, ", c.out)
  end)

  it("session-store.lua leaves no file behind", function()
    local c = clusters.run { args = { "-w", "2", folder .. "/session-store.lua" }, env = { TMPDIR = "." } }
    assert.equal(0, c.code, c.err)
    assert.equal(2, c:count("has been away too long\n"), c.out)
    assert.is_nil(uv.fs_scandir_next(assert(uv.fs_scandir(c.folder))))
  end)

  it("web-counter.lua counts each visit of curl and of wrk, whichever worker serves it", function()
    local tcp = uv.new_tcp()
    tcp:bind("127.0.0.1", 0)
    local port = math.tointeger(tcp:getsockname().port)
    tcp:close()
    local c = clusters.start { args = { "-w", "2", folder .. "/web-counter.lua", tostring(port) } }
    c:waitUntil("both workers", function() return c:count("serves port " .. port .. "\n") == 2 end)
    local url = ("http://127.0.0.1:%d"):format(port)
    assert.equal("Welcome, visitor 1\n", (clusters.command("curl", { "-sS", url .. "/" })))
    assert.equal("there is only /\n", (clusters.command("curl", { "-sS", url .. "/nowhere" })))
    local load = clusters.command("wrk", { "-t", "1", "-c", "4", "-d", "1s", url .. "/" })
    local asked = tonumber(load:match("(%d+) requests in"))
    -- Those that wrk did not wait for any more are counted too.
    local last = tonumber(clusters.command("curl", { "-sS", url .. "/" }):match("^Welcome, visitor (%d+)\n$"))
    assert.is_true(asked > 50 and last >= asked + 2 and last <= asked + 2 + 4, asked .. " asked, then " .. last)
    c:kill("sigterm")
    assert.equal(0, c:waitExit(), c.err)
  end)

  for _, name in ipairs(names) do
    it(name .. " runs, says something and ends by itself", function()
      local c = clusters.run { args = { "-w", "2", folder .. "/" .. name } }
      assert.equal(0, c.code, c.err)
      assert.matches("%S", c.out)
      assert.not_matches(" error ", c.err)
      assert.not_matches("starts again", c.err)
    end)

    it(name .. " has less than 60 lines", function()
      local lines = select(2, clusters.read(folder .. "/" .. name):gsub("\n", ""))
      assert.is_true(lines < 60, lines .. " lines")
    end)
  end
end)
