local task = require "clustermem.task"
local memory = require "clustermem"
local clusters = require "clusters"

describe("require", function()
  local loads

  -- Makes modules loadable for the time of a spec.
  local function provide(modules)
    for name, fn in pairs(modules) do
      package.preload[name] = function(...)
        loads[name] = (loads[name] or 0) + 1
        return fn(...)
      end
    end
  end

  before_each(function()
    clusters.watch()
    loads = {}
  end)

  after_each(function()
    for name in pairs(package.preload) do
      if name:find("^spec%.") then
        package.preload[name] = nil
        package.loaded[name] = nil
      end
    end
    clusters.finish()
  end)

  local function raised(...)
    local ok, message = pcall(...)
    assert.is_false(ok)
    return message
  end

  it("gives what the module returns and what its searcher says, and the value alone afterwards", function()
    provide { ["spec.a"] = function(...) return { ... } end }
    local module, where = require "spec.a"
    assert.same({ "spec.a", ":preload:" }, module)
    assert.equal(":preload:", where)
    assert.equal(module, (require "spec.a"))
    assert.equal(module, package.loaded["spec.a"])
    assert.equal(1, loads["spec.a"])
  end)

  it("gives true for a module that returns nothing, and what the module has put into package.loaded", function()
    provide {
      ["spec.none"] = function() end,
      ["spec.own"] = function(name) package.loaded[name] = "own" end,
      ["spec.false"] = function() return false end,
    }
    assert.is_true((require "spec.none"))
    assert.equal("own", (require "spec.own"))
    assert.is_false((require "spec.false"))
  end)

  it("lets a module's main chunk wait", function()
    provide {
      ["spec.waits"] = function()
        memory.set("from the module", 5)
        task.sleep(1)
        return { got = memory.get("from the module") }
      end,
    }
    assert.equal(5, require("spec.waits").got)
  end)

  it("lets a module that is required by another one wait", function()
    provide {
      ["spec.outer"] = function() return { inner = require "spec.inner" } end,
      ["spec.inner"] = function()
        task.sleep(1)
        return "inner"
      end,
    }
    assert.equal("inner", require("spec.outer").inner)
  end)

  it("loads a module that waits once, whoever asks for it meanwhile", function()
    provide {
      ["spec.waits"] = function()
        task.sleep(10)
        return {}
      end,
    }
    local function load() return require("spec.waits") end
    local results = { task.all { load, load, load, function()
      task.sleep(5)
      return coroutine.wrap(load)()
    end } }
    assert.equal(1, loads["spec.waits"])
    for i = 1, 4 do assert.equal(results[1], results[i]) end
  end)

  it("raises at a circle, and names it", function()
    provide {
      ["spec.a"] = function() return require "spec.b" end,
      ["spec.b"] = function() return require "spec.a" end,
      ["spec.self"] = function()
        task.sleep(1)
        return require "spec.self"
      end,
    }
    assert.matches("module 'spec.a' is required by itself", raised(require, "spec.a"))
    assert.matches("module 'spec.self' is required by itself", raised(require, "spec.self"))
  end)

  it("raises at a circle that two tasks make", function()
    provide {
      ["spec.a"] = function()
        task.sleep(5)
        return require "spec.b"
      end,
      ["spec.b"] = function()
        task.sleep(5)
        return require "spec.a"
      end,
    }
    local messages = {}
    local function load(name)
      return function()
        local ok, message = pcall(require, name)
        if not ok then messages[#messages + 1] = message end
      end
    end
    task.all { load "spec.a", load "spec.b" }
    assert.equal(2, #messages)
    assert.matches("is required by itself", messages[1])
  end)

  it("allows a circle that package.loaded resolves", function()
    provide {
      ["spec.a"] = function(name)
        local module = {}
        package.loaded[name] = module
        module.b = require "spec.b"
        return module
      end,
      ["spec.b"] = function() return { a = require "spec.a" } end,
    }
    local a = require "spec.a"
    assert.equal(a, a.b.a)
  end)

  it("raises what a module raises, the same value, and loads it anew the next time", function()
    local value = {}
    provide {
      ["spec.fails"] = function()
        task.sleep(1)
        error(value)
      end,
    }
    assert.equal(value, raised(require, "spec.fails"))
    assert.equal(value, raised(require, "spec.fails"))
    assert.equal(2, loads["spec.fails"])
  end)

  it("raises the error of a module for each task that waits for it", function()
    provide {
      ["spec.fails"] = function()
        task.sleep(5)
        error("broken", 0)
      end,
    }
    local function load() return raised(require, "spec.fails") end
    assert.same({ "broken", "broken", "broken" }, { task.all { load, load, load } })
  end)

  it("raises for a module that is nowhere, at the caller's line, with the places it looked", function()
    local message = raised(function()
      local module = require "spec.nowhere"
      return module
    end)
    assert.matches("loader_spec%.lua:%d+: module 'spec%.nowhere' not found:\n\t", message)
    assert.truthy(message:find("no field package.preload['spec.nowhere']", 1, true))
    assert.truthy(message:find("no file './spec/spec/nowhere.lua'", 1, true))
    assert.matches("bad argument #1 to 'require'", raised(require, nil))
  end)

  it("says where a syntax error in a module is", function()
    local c = clusters.start { args = { "--version" }, files = { ["broken.lua"] = "\nlocal = 1" } }
    local path = package.path
    package.path = c.folder .. "/?.lua"
    local message = raised(require, "broken")
    package.path = path
    assert.matches("broken%.lua:2: ", message)
  end)

  it("raises a clear error where waiting is impossible and another task loads the module", function()
    provide {
      ["spec.waits"] = function()
        task.sleep(20)
        return {}
      end,
    }
    local other = task.spawn(require, "spec.waits")
    task.sleep(1)
    local message = raised(table.sort, { 2, 1 }, function() return require "spec.waits" end)
    assert.matches("require of 'spec%.waits', .*Lua cannot yield here", message)
    task.join(other)
    assert.equal("table", type(require "spec.waits"))
  end)
end)
