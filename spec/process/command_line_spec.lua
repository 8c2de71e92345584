local clusters = require "clusters"

describe("the command line", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  local function run(...)
    return clusters.run { args = { ... }, files = { ["app.lua"] = 'print("ran")' } }
  end

  -- Exit 2, and one line that says all of the words.
  local function refuses(c, ...)
    assert.equal(2, c.code)
    assert.equal("", c.out)
    assert.matches("^clustermem: [^\n]+\n$", c.err)
    for _, word in ipairs { ... } do assert.truthy(c.err:find(word, 1, true), c.err) end
  end

  it("--help explains itself and exits 0, for each command", function()
    for _, args in ipairs { { "--help" }, { "run", "--help" }, { "test", "--help" } } do
      local c = clusters.run { args = args }
      assert.equal(0, c.code)
      assert.matches("clustermem run %[options%] worker.lua", c.out)
      assert.equal("", c.err)
    end
  end)

  it("--help names each option", function()
    local help = run("--help").out
    for _, option in ipairs { "-w", "--master", "--memory", "--max-value", "--restart", "--grace", "--log-level" } do
      assert.truthy(help:find(option, 1, true), option)
    end
  end)

  it("--version prints the version and exits 0", function()
    for _, args in ipairs { { "--version" }, { "run", "--version" }, { "test", "--version" } } do
      local c = clusters.run { args = args }
      assert.equal(0, c.code)
      assert.matches("^clustermem %d+%.%d+%.%d+\n$", c.out)
    end
  end)

  it("refuses an unknown option by name", function()
    refuses(run("--colour", "app.lua"), "'--colour'")
    refuses(run("run", "--colour", "app.lua"), "'--colour'")
    refuses(run("-x", "app.lua"), "'-x'")
  end)

  it("refuses an option without its value", function()
    refuses(run("run", "-w"), "-w wants a value")
    refuses(run("run", "--memory"), "--memory wants a value")
  end)

  it("refuses a number of workers that is none", function()
    for _, number in ipairs { "abc", "-1", "2.5", "", "2x", "1025", "99999999999999999999" } do
      refuses(run("-w", number, "app.lua"), "-w", "'" .. number .. "'")
    end
  end)

  it("refuses -w 0 without --master", function()
    refuses(run("-w", "0", "app.lua"), "-w 0", "--master")
  end)

  it("refuses sizes, times and words that are none", function()
    refuses(run("--memory", "lots", "app.lua"), "--memory", "'lots'")
    refuses(run("--memory", "1023K", "app.lua"), "--memory", "'1023K'")
    refuses(run("--memory", "1MB", "app.lua"), "--memory", "'1MB'")
    refuses(run("--memory", "99999999999T", "app.lua"), "--memory")
    refuses(run("--max-value", "0", "app.lua"), "--max-value", "'0'")
    refuses(run("--max-value", "2G", "app.lua"), "--max-value", "'2G'")
    refuses(run("--grace", "-5", "app.lua"), "--grace", "'-5'")
    refuses(run("--restart", "sometimes", "app.lua"), "--restart", "'sometimes'")
    refuses(run("--log-level", "loud", "app.lua"), "--log-level", "'loud'")
  end)

  it("takes sizes with and without a unit", function()
    for _, size in ipairs { "1048576", "1024K", "1M", "1G", "1T" } do
      assert.equal("ran\n", run("-w", "1", "--memory", size, "--max-value", "1000", "app.lua").out)
    end
  end)

  it("refuses a script that is not there, and one that is a folder", function()
    refuses(run("missing.lua"), "missing.lua", "No such file")
    refuses(run("run", "-w", "1", "missing.lua"), "missing.lua", "No such file")
    refuses(run("run", "-w", "1", "."), "cannot run .", "directory")
    refuses(run("run", "-w", "1", "--master", "missing.lua", "app.lua"), "missing.lua", "No such file")
  end)

  it("refuses to run without a script", function()
    refuses(run(), "no script")
    refuses(run("run"), "no script")
    refuses(run("run", "-w", "1"), "no script")
  end)

  it("refuses two master scripts", function()
    refuses(run("--master", "app.lua", "--master", "app.lua", "app.lua"), "--master is given twice")
  end)

  it("refuses to be started as a process of nobody's cluster", function()
    refuses(run("process"), "'process'")
  end)

  it("says where a syntax error in the worker script is and starts nothing", function()
    local c = clusters.run {
      args = { "-w", "2", "--master", "boot.lua", "bad.lua" },
      files = { ["boot.lua"] = 'print("booted")', ["bad.lua"] = "local a = 1\nlocal b = = 2\n" },
    }
    assert.equal(1, c.code)
    assert.equal("", c.out)
    assert.matches("^clustermem: bad%.lua:2: [^\n]+\n$", c.err)
  end)

  it("says where a syntax error in the master script is and starts nothing", function()
    local c = clusters.run {
      args = { "-w", "2", "--master", "bad.lua", "app.lua" },
      files = { ["app.lua"] = 'print("ran")', ["bad.lua"] = "\n\nfunction(" },
    }
    assert.equal(1, c.code)
    assert.equal("", c.out)
    assert.matches("^clustermem: bad%.lua:3: [^\n]+\n$", c.err)
  end)

  it("starts as many workers as asked for", function()
    assert.equal("ran\nran\nran\n", run("run", "--workers", "3", "app.lua").out)
    assert.equal("ran\nran\n", run("run", "--workers=2", "app.lua").out)
  end)

  it("starts a worker for each core without -w", function()
    local c = run("run", "app.lua")
    assert.equal(require("luv").available_parallelism(), c:count("ran"))
  end)

  it("has a short form", function()
    local c = run("-w", "1", "app.lua")
    assert.equal("ran\n", c.out)
    assert.equal(0, c.code)
    assert.equal(require("luv").available_parallelism(), run("app.lua"):count("ran"))
  end)

  it("with -w 0 runs the master script alone", function()
    local c = run("-w", "0", "--master", "app.lua")
    assert.equal("ran\n", c.out)
    assert.equal(0, c.code)
  end)

  it("gives the arguments as arg and as ..., and leaves options behind the script alone", function()
    local script = 'print(select("#", ...), ...) print(arg[0], #arg, table.concat(arg, ",")) print(arg.n)'
    local c = clusters.run { args = { "-w", "1", "show.lua", "a", "-w", "", "c d" }, files = { ["show.lua"] = script } }
    assert.equal("4\ta\t-w\t\tc d\nshow.lua\t4\ta,-w,,c d\nnil\n", c.out)
  end)

  it("gives the arguments to the master script too", function()
    local script = "print(arg[0], ...)"
    local c = clusters.run {
      args = { "-w", "0", "--master", "show.lua", "worker.lua", "a", "b" },
      files = { ["show.lua"] = script, ["worker.lua"] = "" },
    }
    assert.equal("show.lua\ta\tb\n", c.out)
  end)

  it("lets the script's folder lead package.path", function()
    local scan = 'print(package.path:match("^[^;]*"), package.path:match("^[^;]*;([^;]*)"))'
    local c = clusters.start { args = { "--version" } }
    local folder = c.folder .. "/deep"
    c:write("deep/show.lua", scan .. ' print((require "neighbour"))')
    c:write("deep/neighbour.lua", 'return "the one beside"')
    c:write("neighbour.lua", 'return "the one in the working directory"')
    local absolute = clusters.run { args = { "-w", "1", folder .. "/show.lua" } }
    assert.equal(("%s/?.lua\t%s/?/init.lua\nthe one beside\n"):format(folder, folder), absolute.out)
    local here = clusters.run { args = { "-w", "1", "show.lua" }, files = { ["show.lua"] = scan } }
    assert.equal("./?.lua\t./?/init.lua\n", here.out)
  end)

  it("runs a script that begins with #!", function()
    local c = clusters.run { args = { "-w", "1", "x" }, files = { x = "#!/usr/bin/env clustermem\nprint(2)" } }
    assert.equal("2\n", c.out)
  end)

  it("--log-level says how much is logged", function()
    assert.equal("", run("-w", "1", "--log-level", "error", "app.lua").err)
    assert.matches(" info  worker 1 %(slot 1, pid %d+%) exited with code 0\n", run("-w", "1", "app.lua").err)
    assert.matches(" debug .*starts app.lua\n", run("-w", "1", "--log-level", "debug", "app.lua").err)
  end)
end)
