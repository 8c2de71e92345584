--- Specs in a cluster: busted as the main task of process 0, so that `it` blocks may wait and fork workers.
-- @module clustermem.testing

local testing = {}

--- Runs busted with its command line. Leaves the process with busted's exit code where that is not 0.
function testing.run(...)
  -- busted unloads what a spec file has loaded; what is loaded before stays, with its state.
  for _, name in ipairs { "clustermem", "clustermem.task", "clustermem.cluster", "luv", "cjson" } do require(name) end
  arg = { [0] = "busted", ... } -- luacheck: globals arg
  if not package.searchpath("busted.runner", package.path) then
    error("clustermem test needs busted (Debian: lua-busted)", 0)
  end
  -- busted names itself after the chunk that calls its runner.
  assert(load("require 'busted.runner' { standalone = false }", "=busted"))()
end

return testing
