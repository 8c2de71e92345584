--- Clusters whose scripts use storages, for specs.
local clusters = require "clusters"

local storages = {}

--- In front of scripts. `raised(fn, ...)` is the message of what it raises.
storages.requires = [[
  local Storage = require "clustermem.storage"
  local function raised(fn, ...)
    local ok, message = pcall(fn, ...)
    assert(not ok, "nothing was raised")
    return message
  end
]]

--- Runs a script in its workers (1), after another in process 0, perhaps; they must exit with 0, and each worker says
-- "ok" at its end.
function storages.run(app, options)
  options = options or {}
  options.app = storages.requires .. app .. " print 'ok'"
  if options.boot then options.boot = storages.requires .. options.boot end
  table.move({ "--restart", "never" }, 1, 2, #options + 1, options)
  local c = clusters.run(options)
  if c.code ~= 0 or c:count("ok\n") ~= (options.workers or 1) then c:fail("exit code " .. c.code) end
  return c
end

--- Runs scripts one after the other, in clusters of their own, in one folder. @return the last cluster, and the folder
function storages.inTurn(...)
  local folder, c
  for _, app in ipairs { ... } do
    c = storages.run(app, { "--storage-dir", folder or "." })
    folder = folder or c.folder
  end
  return c, folder
end

return storages
