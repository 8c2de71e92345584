-- "clustermem test", seen from a run of its own.
local clusters = require "clusters"

describe("clustermem test", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local function test(files, ...)
    return clusters.run { args = { "test", "--log-level", "warn", ... }, files = files }
  end

  it("runs busted, whose specs may wait, and has its exit code 0", function()
    local c = test({
      ["spec/a_spec.lua"] = [[
        local memory, task = require "clustermem", require "clustermem.task"
        it("waits", function()
          memory.set("k", 1)
          task.sleep(1)
          assert.equal(1, memory.get("k"))
          assert.is_true(require("clustermem.cluster").isMaster)
        end)
      ]],
    }, "--", "-o", "TAP")
    assert.equal(0, c.code, c.out .. c.err)
    assert.matches("ok 1 %- waits", c.out)
  end)

  it("has busted's exit code, also when that is not 0", function()
    local files = {
      ["spec/a_spec.lua"] = [[
        it("fails", function() assert.equal(1, 2) end)
        it("fails too", function() require("clustermem.task").sleep(1) error "boom" end)
        it("is fine", function() end)
      ]],
    }
    local c = test(files)
    assert.equal(1, c.code)
    assert.matches("1 success / 1 failure / 1 error", c.out)
  end)

  it("fails when there is nothing to run", function()
    assert.not_equal(0, test({ ["spec/none.lua"] = "" }).code)
  end)

  it("obeys the .busted of the working directory", function()
    local c = test({
      [".busted"] = [[return {
        _all = { lpath = "./lib/?.lua" },
        default = { ROOT = { "own" }, pattern = "_try%.lua$" },
      }]],
      ["own/a_try.lua"] = 'it("is found", function() assert.equal("helper", require "helper") end)',
      ["lib/helper.lua"] = 'return "helper"',
    }, "--", "-o", "TAP")
    assert.equal(0, c.code, c.out .. c.err)
    assert.matches("ok 1 %- is found", c.out)
  end)

  it("passes what is behind -- to busted", function()
    local c = test({
      ["spec/a_spec.lua"] = 'it("one", function() end) it("two", function() end)',
    }, "--", "-o", "TAP", "--filter=two")
    assert.equal("ok 1 - two\n1..1\n", c.out)
  end)

  it("refuses an unknown option of its own with one line", function()
    for _, option in ipairs { "--filter=two", "-o", "-w", "--master" } do
      local c = clusters.run { args = { "test", option } }
      assert.equal(2, c.code)
      assert.equal("", c.out)
      assert.matches("^clustermem: unknown option '[^\n]*%-%-[^\n]*\n$", c.err)
    end
  end)

  it("keeps clustermem's modules and their state over several spec files", function()
    local function file(name)
      return ([[
        local memory, task, cluster = require "clustermem", require "clustermem.task", require "clustermem.cluster"
        it("shares", function()
          _G.first = _G.first or {}
          local seen = memory.get("modules of the first file")
          local now = { tostring(memory.set), tostring(task.spawn), tostring(cluster.on), tostring(require "luv") }
          if seen then
            assert.same(seen, now)
            print("the same in %s")
          end
          memory.set("modules of the first file", now)
          assert.equal("module", type(package.loaded["clustermem.scheduler"]) == "table" and "module")
        end)
      ]]):format(name)
    end
    local c = test { ["spec/a_spec.lua"] = file "a", ["spec/b_spec.lua"] = file "b", ["spec/c_spec.lua"] = file "c" }
    assert.equal(0, c.code, c.out .. c.err)
    assert.equal(2, c:count("the same in "))
  end)

  it("lets specs fork workers, and none is left afterwards", function()
    local c = test({
      ["spec/a_spec.lua"] = [[
        local memory, task, cluster = require "clustermem", require "clustermem.task", require "clustermem.cluster"
        it("forks", function()
          for i = 1, 2 do assert(cluster.fork { script = "worker.lua" }) end
          while not (memory.get "worker 1" and memory.get "worker 2") do task.sleep(1) end
        end)
        it("needs a script to fork", function()
          assert.has_error(function() return (cluster.fork()) end)
        end)
      ]],
      ["worker.lua"] = [[
        local memory, task, cluster = require "clustermem", require "clustermem.task", require "clustermem.cluster"
        assert(cluster.isWorker)
        memory.set("worker " .. cluster.worker.id, cluster.worker.pid)
        task.sleep(60000)
      ]],
    })
    assert.equal(0, c.code, c.out .. c.err)
    assert.matches("2 successes", c.out)
  end)

  it("kills a forked worker that is busy, and busted's code stays", function()
    local c = test({
      ["spec/a_spec.lua"] = [[
        local memory, task, cluster = require "clustermem", require "clustermem.task", require "clustermem.cluster"
        it("forks", function()
          assert(cluster.fork { script = "worker.lua" })
          while not memory.get "up" do task.sleep(1) end
        end)
      ]],
      ["worker.lua"] = 'require("clustermem").set("up", true) while true do end',
    }, "--grace", "100")
    assert.equal(0, c.code, c.out .. c.err)
  end)

  it("stops on SIGTERM while a spec waits", function()
    local c = clusters.start {
      args = { "test" },
      files = {
        ["spec/a_spec.lua"] = 'it("hangs", function() print "up" require("clustermem.task").sleep(60000) end)',
      },
    }
    c:waitFor("up")
    c:kill("sigterm")
    -- The specs have not said how they went.
    assert.equal(1, (c:waitExit()))
  end)

  it("goes on when a worker that it forked is given up", function()
    local c = test({
      ["spec/a_spec.lua"] = [[
        local task, cluster = require "clustermem.task", require "clustermem.cluster"
        it("forks what fails at once", function()
          local ended = 0
          cluster.on("exit", function() ended = ended + 1 end)
          assert(cluster.fork { script = "worker.lua" })
          while ended < 5 do task.sleep(5) end
          task.sleep(50)
          error "and fails itself"
        end)
      ]],
      ["worker.lua"] = "error 'broken'",
    })
    assert.equal(1, c.code)
    assert.matches("and fails itself", c.out)
    assert.matches("slot 1 failed 5 times in a row without a second of life, so it is given up", c.err)
  end)

  it("says that it was killed when it was", function()
    local c = test {
      ["spec/a_spec.lua"] = [[
        it("dies", function()
          local uv = require "luv"
          uv.kill(uv.os_getpid(), "sigusr1")
          require("clustermem.task").sleep(5000)
        end)
      ]],
    }
    assert.equal(1, c.code)
    assert.matches("process 0 %(pid %d+%) was killed by SIGUSR1", c.err)
  end)

  it("gives busted its arguments and leaves arg to it", function()
    local c = test({
      ["spec/a_spec.lua"] = 'it("has them", function() print(arg[0], table.concat(arg, " ")) end)',
    }, "--", "-o", "TAP")
    assert.matches("busted\t%-o TAP\n", c.out)
  end)
end)
