local check = require "clustermem.check"
local clusters = require "clusters"

-- What check raises, as seen by who calls the public function that checks: at this file's line.
local function raised(fn, ...)
  local arguments = table.pack(...)
  local function public()
    local first = fn(table.unpack(arguments, 1, arguments.n))
    return first
  end
  local ok, message = pcall(function()
    local first = public()
    return first
  end)
  assert.is_false(ok)
  assert.matches("^[^\n]*check_spec%.lua:%d+: ", message)
  return (message:gsub("^.-:%d+: ", ""))
end

describe("the checks of arguments", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("take keys of 1 to 65,535 bytes", function()
    check.key("f", "k")
    check.key("f", ("k"):rep(65535))
    assert.equal("f: the key must be a string of 1 to 65535 bytes, not a string of 0 bytes", raised(check.key, "f", ""))
    assert.matches("not a string of 65536 bytes$", raised(check.key, "f", ("k"):rep(65536)))
    assert.matches("not nil$", raised(check.key, "f", nil))
    assert.matches("not a number$", raised(check.key, "f", 5))
  end)

  it("take a type, or nil where that is optional", function()
    check.type("f", "x", {}, "table")
    check.type("f", "x", nil, "table", true)
    assert.equal("f: x must be a table, not nil", raised(check.type, "f", "x", nil, "table"))
    assert.equal("f: x must be a table, not a string of 1 bytes", raised(check.type, "f", "x", "a", "table", true))
    assert.equal("f: x must be a table, not a boolean", raised(check.type, "f", "x", false, "table", true))
  end)

  it("take whole and broken milliseconds from 0 on, rounded up to an integer", function()
    local results = {}
    for _, ms in ipairs { 0, 5, 0.0, 1.5, 1e15, -0.0 } do
      local whole = check.milliseconds("f", "t", ms)
      assert.equal("integer", math.type(whole))
      results[#results + 1] = whole
    end
    assert.same({ 0, 5, 0, 2, 10 ^ 15 | 0, 0 }, results)
    for _, ms in ipairs { -1, -0.5, 0 / 0, math.huge, -math.huge, 1e300, math.maxinteger } do
      assert.truthy(raised(check.milliseconds, "f", "t", ms):find(tostring(ms), 1, true))
    end
    assert.matches("not a string of 1 bytes$", raised(check.milliseconds, "f", "t", "5"))
    assert.matches("not nil$", raised(check.milliseconds, "f", "t", nil))
  end)

  it("take known options and name an unknown one", function()
    check.options("f", nil, {})
    check.options("f", {}, {})
    check.options("f", { a = false, b = 1 }, { "a", "b" })
    assert.equal("f: unknown option 'c' (there are a, b)", raised(check.options, "f", { c = 1 }, { "a", "b" }))
    assert.equal("f: unknown option 'c' (there are none)", raised(check.options, "f", { c = 1 }, {}))
    assert.equal("f: unknown option '1' (there are a)", raised(check.options, "f", { "a" }, { "a" }))
    assert.equal("f: the options must be a table, not a number", raised(check.options, "f", 5, { "a" }))
  end)

  it("sort options and callback", function()
    local function callback() end
    local options = {}
    assert.same({ n = 2, nil, callback }, table.pack(check.trailing("f", callback)))
    assert.same({ n = 2, options, callback }, table.pack(check.trailing("f", options, callback)))
    assert.same({ n = 2, nil, callback }, table.pack(check.trailing("f", nil, callback)))
    assert.same({ n = 2, options, nil }, table.pack(check.trailing("f", options)))
    assert.same({ n = 2, nil, nil }, table.pack(check.trailing("f")))
    assert.equal("f: the callback must be a function, not a number", raised(check.trailing, "f", {}, 5))
  end)
end)
