local clusters = require "clusters"

describe("the README", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local text = clusters.read("README.md")

  -- Runs the example whose first line names this file, with two workers. @return what it prints, and its folder, where
  -- storages are unless another one is given
  local function run(file, folder)
    for code in text:gmatch("\n```lua\n(.-)```") do
      if code:find("-- " .. file .. ":", 1, true) == 1 then
        local args = { "-w", "2", "--storage-dir", folder or ".", file }
        local c = clusters.run { args = args, files = { [file] = code } }
        assert.equal(0, c.code, c.err)
        return c.out, c.folder
      end
    end
    error("the README has no example " .. file)
  end

  it("has an example whose workers agree on the sum", function()
    local out = run "app.lua"
    for id = 1, 2 do
      assert.truthy(out:find(("worker %d: the sum is 338350\n"):format(id), 1, true), out)
    end
  end)

  it("has an example whose workers sell under a lock what there is, and never more", function()
    local out = run "stock.lua"
    local one, two = out:match("worker 1 has sold (%d+)\n"), out:match("worker 2 has sold (%d+)\n")
    assert.equal(100, one + two, out)
  end)

  it("has an example whose one worker is told what the other one sets", function()
    assert.equal("set: the colour is green\n", run "settings.lua")
  end)

  it("has an example whose documents are there again the next time", function()
    local out, folder = run "visits.lua"
    for _, runs in ipairs { 1, 2 } do
      for slot = 1, 2 do
        assert.truthy(out:find(("run %d of worker%d, at [^\n]*%%d\n"):format(runs, slot)), out)
      end
      out = run("visits.lua", folder)
    end
  end)

  it("has an example whose worker has the other one add up", function()
    assert.equal("the sum is 50005000\n", run "sum.lua")
  end)

  it("has no other example", function()
    assert.equal(7, select(2, text:gsub("\n```lua\n", "")))
  end)

  it("has an example whose workers make a page once and share it", function()
    local out = run "pages.lua"
    assert.equal(1, select(2, out:gsub("making the page\n", "")), out)
    assert.equal(2, select(2, out:gsub("Welcome\t<h1>Welcome</h1>\n", "")), out)
  end)

  it("has an example whose workers serve, and count the visits to both", function()
    local out = run "web.lua"
    for visits = 1, 2 do
      local _, count = out:gsub('{"path":"/hello","visits":' .. visits .. "}\n", "")
      local _, other = out:gsub('{"visits":' .. visits .. ',"path":"/hello"}\n', "")
      assert.equal(1, count + other, out)
    end
  end)

  it("names every function of the facade", function()
    for name in pairs(require "clustermem") do
      assert.truthy(text:find("`memory." .. name .. "[({]", 1) or text:find("memory." .. name .. "%b()"), name)
    end
  end)

  it("names every method of a storage", function()
    local count = 0
    for method in clusters.read("lua/clustermem/storage.lua"):gmatch("\nfunction methods%.(%w+)%(") do
      assert.truthy(text:find("`store:" .. method .. "%b()`"), method)
      count = count + 1
    end
    assert.equal(9, count)
  end)

  it("names every function of a hub", function()
    for name in pairs(getmetatable(require("clustermem.hub").new()).__index) do
      if name:find "^%l" and name ~= "new" then assert.truthy(text:find("hub:" .. name, 1, true), name) end
    end
  end)

  it("names every option of the command line", function()
    local help = clusters.run { args = { "--help" } }.out
    for option in help:gmatch("\n%s+%-?%w?,?%s*(%-%-[%a%-]+)") do
      if option ~= "--help" then
        assert.truthy(text:find(option, 1, true) or option == "--workers", option)
      end
    end
  end)
end)
