--- Steps that specs of the key operations share. They run in process 0 of a fresh cluster, where they may wait.
local memory = require "clustermem"
local task = require "clustermem.task"
local uv = require "luv"
local clusters = require "clusters"
local assert = require "luassert"

local keysteps = {}

--- Packs the results of a call with a callback.
function keysteps.called(fn, ...)
  local args = table.pack(...)
  return table.pack(task.await(function(resume)
    args[args.n + 1] = resume
    -- It returns at once, with nothing.
    assert.equal(0, select("#", fn(table.unpack(args, 1, args.n + 1))))
  end))
end

--- Spends the time without asking for anything, so that nothing is met on the way.
function keysteps.spend(ms)
  local over = uv.hrtime() + ms * 1000000
  while uv.hrtime() < over do end -- luacheck: ignore 542
end

--- The code of a failure, which has a message too.
function keysteps.code(...)
  local value, message, word = ...
  assert.is_nil(value)
  assert.equal(3, select("#", ...))
  assert.equal("string", type(message))
  assert.is_true(#message > 0)
  return word
end

--- Exactly one nil.
function keysteps.absent(...)
  assert.equal(1, select("#", ...))
  assert.is_nil((...))
end

--- An OK, and nothing more.
function keysteps.done(...)
  assert.equal(1, select("#", ...))
  assert.equal("OK", (...))
end

--- Stores under the key, and gives the version.
function keysteps.put(...)
  local ok, version = memory.set(...)
  assert.equal("OK", ok)
  return version
end

--- Raises at the line where fn, which has one line, is.
function keysteps.raises(fn, ...)
  local ok, raised = pcall(fn)
  assert.is_false(ok, "it does not raise")
  local source, line, text = raised:match("^([^\n]-):(%d+): (.*)$")
  assert.matches("_spec%.lua$", source)
  assert.equal(debug.getinfo(fn, "S").linedefined, math.tointeger(line), raised)
  for _, word in ipairs { ... } do assert.truthy(text:find(word, 1, true), raised) end
end

--- The same array, sorted.
function keysteps.sorted(names)
  table.sort(names)
  return names
end

--- Before each spec: nothing is stored.
function keysteps.prepare()
  clusters.watch()
  memory.clear()
end

return keysteps
