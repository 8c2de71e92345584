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

  it("counter.lua, hello.lua, mutex.lua and session-store.lua are there", function()
    for _, name in ipairs { "counter.lua", "hello.lua", "mutex.lua", "session-store.lua" } do
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
