local clusters = require "clusters"

describe("the README", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local text = clusters.read("README.md")

  it("has an example whose workers agree on the sum", function()
    local count = 0
    for code in text:gmatch("\n```lua\n(.-)```") do
      count = count + 1
      local c = clusters.run { args = { "-w", "2", "app.lua" }, files = { ["app.lua"] = code } }
      assert.equal(0, c.code, c.err)
      for id = 1, 2 do
        assert.truthy(c.out:find(("worker %d: the sum is 338350\n"):format(id), 1, true), c.out)
      end
    end
    assert.equal(1, count)
  end)

  it("names every function of the facade", function()
    for name in pairs(require "clustermem") do
      assert.truthy(text:find("`memory." .. name .. "[({]", 1) or text:find("memory." .. name .. "%b()"), name)
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
