--- `require`, written in Lua, so that a module's main chunk may wait. A module that several tasks ask for at once is
-- loaded by the first; the others wait for it.
-- @module clustermem.loader

local scheduler = require "clustermem.scheduler"

local loader = {}

-- name -> { task = who loads it (false outside tasks), waiters = tasks }
local loading = {}

local function search(name)
  local searchers = package.searchers
  if type(searchers) ~= "table" then error("'package.searchers' must be a table", 3) end
  local reasons = {}
  for _, searcher in ipairs(searchers) do
    local load, data = searcher(name)
    if type(load) == "function" then return load, data end
    if type(load) == "string" then reasons[#reasons + 1] = "\n\t" .. load end
  end
  error(("module '%s' not found:%s"):format(name, table.concat(reasons)), 3)
end

local function waitFor(name, entry)
  local task = scheduler.current() or false
  if task == entry.task or entry.task and scheduler.waitFor({ entry.task }, task) then
    error(("module '%s' is required by itself, directly or through others"):format(name), 3)
  end
  scheduler.mayWait(("require of '%s', which another task is loading,"):format(name), 2)
  table.insert(entry.waiters, task)
  scheduler.waitOn { entry.task }
end

local Loading = {
  __close = function(entry)
    loading[entry.name] = nil
    for _, task in ipairs(entry.waiters) do scheduler.wake(task) end
  end,
}

--- As Lua's own.
-- @tparam string name
-- @return the module
function loader.require(name)
  if type(name) ~= "string" then
    error(("bad argument #1 to 'require' (string expected, got %s)"):format(type(name)), 2)
  end
  local loaded = package.loaded
  while not loaded[name] do
    local busy = loading[name]
    if busy then
      waitFor(name, busy)
    else
      local load, data = search(name)
      local entry <close> = setmetatable({ name = name, task = scheduler.current() or false, waiters = {} }, Loading)
      loading[name] = entry
      local value = load(name, data)
      if value ~= nil then
        loaded[name] = value
      elseif loaded[name] == nil then
        loaded[name] = true
      end
      return loaded[name], data
    end
  end
  return loaded[name]
end

--- Puts it in the place of Lua's own.
function loader.install()
  require = loader.require -- luacheck: ignore
end

return loader
