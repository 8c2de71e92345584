--- The start of a process: puts things in their places and runs the script as the main task.
-- @module clustermem.start

local native = require "clustermem.native"
local scheduler = require "clustermem.scheduler"
local request = require "clustermem.request"
local coroutines = require "clustermem.coroutines"
local loader = require "clustermem.loader"
local cluster = require "clustermem.cluster"
local listeners = require "clustermem.listeners"
local mail = require "clustermem.mail"
local http = require "clustermem.http"
local loop = require "clustermem.loop"

local info = native.info

local function runScript(path, ...)
  arg = { [0] = path, ... } -- luacheck: globals arg
  local folder = path:match("^(.*)/[^/]*$") or "."
  if folder == "" then folder = "/" end
  package.path = ("%s/?.lua;%s/?/init.lua;%s"):format(folder, folder, package.path)
  local chunk, message = loadfile(path)
  if not chunk then error(message, 0) end
  return chunk(...)
end

local function runTests(_, ...)
  return require("clustermem.testing").run(...)
end

return function()
  native.hooks {
    reply = request.reply,
    changed = listeners.changed,
    message = mail.deliver,
    over = mail.over,
    process = cluster.processChanged,
    run = scheduler.run,
    stop = cluster.stop,
    guard = loop.guard,
    serve = http.dispatch,
    context = scheduler.context,
    pending = request.pending,
  }
  os.exit = function(code) -- luacheck: ignore
    native.exit(code == nil and 0 or code == true and 0 or code == false and 1 or math.tointeger(code) or 1)
  end
  coroutines.install()
  loader.install()
  loop.install()

  local main = scheduler.start(info.test and runTests or runScript, table.unpack(info.args))
  if cluster.isWorker then
    if not info.saysReady then native.online() end
  elseif main.joiners then
    table.insert(main.joiners, function() native.online() end)
  else
    native.online()
  end
end
