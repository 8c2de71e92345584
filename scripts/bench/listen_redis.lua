-- Redis in scripts/bench/listen, with both ends in Lua: one worker publishes now and then, the other one has
-- subscribed; how long after the call a message is there. They speak to Redis over luv's pipes and share nothing else.
-- Usage: clustermem run -w 2 listen_redis.lua SOCKET CHANGES. Prints the line that listen.lua prints.
local cluster = require "clustermem.cluster"
local uv = require "luv"

local WARM_UP = 200
local PAUSE_MS = 1
local place, changes = ..., math.tointeger(tonumber((select(2, ...))))
local hrtime = uv.hrtime

-- One value of Redis's protocol: a status, an integer, a string or an array of such.
-- @return where it ends, and the value; nil: not all of it is there
local function parse(bytes, at)
  local kind, rest, next = bytes:match("^(.)([^\r]*)\r\n()", at)
  if not kind then return nil end
  assert(kind ~= "-", rest)
  if kind == "+" then return next, rest end
  local number = math.tointeger(tonumber(rest))
  if kind == ":" then return next, number end
  if kind == "$" then
    if #bytes < next + number + 1 then return nil end
    return next + number + 2, bytes:sub(next, next + number - 1)
  end
  local values = {}
  for i = 1, number do
    next, values[i] = parse(bytes, next)
    if not next then return nil end
  end
  return next, values
end

local function request(...)
  local parts = { ("*%d\r\n"):format(select("#", ...)) }
  for i, part in ipairs { ... } do parts[i + 1] = ("$%d\r\n%s\r\n"):format(#part, part) end
  return table.concat(parts)
end

-- Connects, and has functions called when that is done and for each value that comes.
local function open(onOpen, onValue)
  local pipe, unread = uv.new_pipe(false), ""
  pipe:connect(place, function(err)
    assert(not err, err)
    pipe:read_start(function(failed, bytes)
      assert(bytes, failed or "Redis has gone")
      unread = unread .. bytes
      local next, value = parse(unread, 1)
      while next do
        unread = unread:sub(next)
        onValue(pipe, value)
        next, value = parse(unread, 1)
      end
    end)
    onOpen(pipe)
  end)
end

local function publish()
  local left, timer = WARM_UP + changes, uv.new_timer()
  local function send(pipe) pipe:write(request("PUBLISH", "key", ("%020d"):format(hrtime()))) end
  open(send, function(pipe, receivers)
    left = left - receivers -- none, until the other one has subscribed
    if left > 0 then
      timer:start(PAUSE_MS, 0, function() send(pipe) end)
    else
      timer:close()
      pipe:close()
    end
  end)
end

local function subscribe()
  local took, count = {}, 0
  open(function(pipe) pipe:write(request("SUBSCRIBE", "key")) end, function(pipe, value)
    if value[1] ~= "message" then return end
    count = count + 1
    if count > WARM_UP then took[#took + 1] = hrtime() - math.tointeger(tonumber(value[3])) end
    if #took < changes then return end
    pipe:close()
    table.sort(took)
    print(("p50_us=%.2f p99_us=%.2f"):format(took[changes // 2 + 1] / 1e3, took[changes * 99 // 100 + 1] / 1e3))
  end)
end

if cluster.worker.slot == 1 then publish() else subscribe() end
