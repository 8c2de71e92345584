--- Specs in a cluster: busted as the main task of process 0, so that `it` blocks may wait and fork workers.
-- @module clustermem.testing

local testing = {}

--- Runs busted with its command line. Leaves the process with busted's exit code where that is not 0.
function testing.run(...)
  -- busted unloads what a spec file has loaded; what is loaded before stays, with its state.
  for _, name in ipairs { "clustermem", "clustermem.task", "clustermem.cluster", "luv", "cjson" } do require(name) end
  arg = table.pack(...) -- luacheck: globals arg
  arg.n = nil
  arg[0] = "busted"
  local ok, runner = pcall(require, "busted.runner")
  if not ok then
    error("clustermem test needs busted (Debian: lua-busted)\n" .. tostring(runner), 0)
  end
  runner { standalone = false }
end

return testing
