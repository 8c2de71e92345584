local native = require "clustermem.native"

describe("native.resume", function()
  local resume = native.resume

  it("passes values both ways, any number of them", function()
    local co = coroutine.create(function(...)
      local n = select("#", ...)
      while true do n = select("#", coroutine.yield(n, ...)) end
    end)
    assert.same({ true, 0 }, { resume(co) })
    assert.same({ true, 3 }, { resume(co, 1, nil, nil) })
    local many = coroutine.create(function(...) return ... end)
    local results = table.pack(resume(many, table.unpack({}, 1, 5000)))
    assert.equal(5001, results.n)
    assert.is_true(results[1])
  end)

  it("gives what is raised, as it is", function()
    local what = {}
    local ok, value = resume(coroutine.create(function() error(what) end))
    assert.is_false(ok)
    assert.equal(what, value)
    assert.same({ false }, { resume(coroutine.create(function() error() end)) })
  end)

  it("refuses what is dead, running, normal or no coroutine, in Lua's own words", function()
    local dead = coroutine.create(function() end)
    resume(dead)
    assert.same({ false, "cannot resume dead coroutine" }, { resume(dead) })
    local own
    own = coroutine.create(function() return resume(own, 1, 2) end)
    assert.same({ true, false, "cannot resume non-suspended coroutine" }, { resume(own) })
    local outer
    outer = coroutine.create(function()
      return resume(coroutine.create(function() return resume(outer) end))
    end)
    assert.same({ true, true, false, "cannot resume non-suspended coroutine" }, { resume(outer) })
    assert.has_error(function() resume(1) end)
  end)

  it("goes as deep as Lua lets it", function()
    local function deeper() return resume(coroutine.create(deeper)) end
    local results = table.pack(deeper())
    assert.is_true(results.n > 100)
    assert.is_false(results[results.n - 1])
    assert.matches("C stack overflow", results[results.n])
  end)
end)
