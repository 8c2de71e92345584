local clusters = require "clusters"

describe("the README", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local text = clusters.read("README.md")

  -- What the examples print in two workers, by the name in their first line: each line, how often.
  local examples = {
    ["app.lua"] = { ["worker 1: the sum is 338350\n"] = 1, ["worker 2: the sum is 338350\n"] = 1 },
    ["pages.lua"] = { ["making the page\n"] = 1, ["Welcome\t<h1>Welcome</h1>\n"] = 2 },
  }

  it("has examples that do what they say", function()
    local met = {}
    for code in text:gmatch("\n```lua\n(.-)```") do
      local name = code:match("^%-%- (%w+%.lua): ")
      local c = clusters.run { args = { "-w", "2", name }, files = { [name] = code } }
      assert.equal(0, c.code, c.err)
      for line, count in pairs(examples[name]) do assert.equal(count, c:count(line), c.out) end
      met[name] = true
    end
    for name in pairs(examples) do assert.truthy(met[name], name) end
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
