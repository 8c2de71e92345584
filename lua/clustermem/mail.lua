--- What hubs send and get: the way to the master and back, behind clustermem.hub. It belongs to this project's modules
-- alone.
--
-- Sending: what this process has sent and is not delivered yet is kept within a window, and further messages wait here,
-- behind each other. So a flood of its own takes this process's memory, and the master can read what else it has to
-- say: its answers, and that it is done with what others have sent. If it was not read while its messages wait, it
-- would keep those waiting for whom its own wait: two that flood each other would stand still.
--
-- Receiving: a message's handlers are tasks. When they have ended, and a request is answered besides, its share of this
-- process's window is given back; the master delivers no more than the window holds.
-- @module clustermem.mail

local native = require "clustermem.native"
local errors = require "clustermem.errors"
local request = require "clustermem.request"
local scheduler = require "clustermem.scheduler"

local mail = {}

--- To whom: a process, all workers but this one, one of these. As in core/wire/ops.h.
mail.PROCESS, mail.ALL, mail.RANDOM = 0, 1, 2

-- What may wait here, with its callbacks, before further ones are refused: who waits himself is slowed, but a flood of
-- callbacks could only be kept.
local MOST_QUEUED_BYTES = 32 << 20
-- How often it is looked whether the time of what waits here is up.
local ALARM_MS = 50

-- --- sending ---

-- What waits here, in the order in which it was sent; what has run out of time is among it still, without its mail.
local queue, first, last = {}, 1, 0
-- The earliest deadline in it, or an earlier time.
local nearest = math.huge
local undelivered, queued = 0, 0
local pumping, alarmed = false, false

local function chargeFor(bytes)
  return #bytes + native.hubChargeBytes
end

local function mayGo(asks)
  return asks or undelivered < native.hubWindowBytes
end

local pump

local function go(asks, to, process, timeout, bytes, done)
  local charge = asks and 0 or chargeFor(bytes)
  undelivered = undelivered + charge
  request.onReply(function(...)
    undelivered = undelivered - charge
    done(...)
    pump()
  end, native.hubPost(asks, to, process, timeout, bytes))
end

-- Sends what may go now. What is sent may be over at once, so this is not for calling itself.
pump = function()
  if pumping then return end
  pumping = true
  while first <= last do
    local item = queue[first]
    if item.mail and not mayGo(item.asks) then break end
    queue[first] = nil
    first = first + 1
    if item.mail then
      queued = queued - chargeFor(item.mail)
      go(item.asks, item.to, item.process, math.max(item.deadline - native.now(), 0), item.mail, item.done)
    end
  end
  if first > last then first, last = 1, 0 end
  pumping = false
end

local function endOverdue()
  local now = native.now()
  if now < nearest then return end
  nearest = math.huge
  for i = first, last do
    local item = queue[i]
    if item.mail and item.deadline <= now then
      queued = queued - chargeFor(item.mail)
      item.mail = nil
      item.done(nil, "the time was up before it could be sent", "timeout")
    elseif item.mail then
      nearest = math.min(nearest, item.deadline)
    end
  end
  pump()
end

local function setAlarm()
  if alarmed or first > last then return end
  alarmed = true
  request.onReply(function(...)
    alarmed = false
    if select("#", ...) > 0 then return end -- it could not be set; what is sent next tries again
    endOverdue()
    setAlarm()
  end, native.sleep(ALARM_MS, true))
end

--- Sends, and has a function called with what comes of it, from the loop, in no task. Never waits.
-- @tparam boolean asks whether it is a request
-- @tparam integer to one of the above
-- @tparam integer process its id, where it is to one
-- @tparam integer timeout milliseconds
-- @tparam string bytes what native.hubPack gave
-- @tparam function done
function mail.send(asks, to, process, timeout, bytes, done)
  if first > last and mayGo(asks) then
    go(asks, to, process, timeout, bytes, done)
    return
  end
  local item = { asks = asks, to = to, process = process, mail = bytes, done = done, deadline = native.now() + timeout }
  last = last + 1
  queue[last] = item
  queued = queued + chargeFor(bytes)
  nearest = math.min(nearest, item.deadline)
  setAlarm()
end

--- Sends, and waits for what comes of it. (w)
-- @tparam boolean hasCallback somebody does not wait, but is called back
-- @param ... as of send; and what native.hubPack gave, which may be nil, message, code
function mail.post(hasCallback, asks, to, process, timeout, bytes, message, code)
  if not bytes then return nil, message, code end
  if hasCallback and queued >= MOST_QUEUED_BYTES then
    return nil, "this process has sent so much with callbacks that it keeps no more", "nomemory"
  end
  local task = scheduler.current()
  mail.send(asks, to, process, timeout, bytes, function(...) scheduler.wake(task, ...) end)
  if hasCallback then native.throttle() end
  return scheduler.wait()
end

-- --- receiving ---

-- messageKey -> its hubs that have handlers. Finalizers may come and go in the midst of whatever allocates, so what is
-- walked over here is replaced as a whole.
local hubs = {}
-- ticket -> the delivery of a request that is not answered and still waited for
local unanswered = {}
local done = 0

local function append(list, item)
  local longer = list and table.move(list, 1, #list, 1, {}) or {}
  longer[#longer + 1] = item
  return longer
end

-- @return nil where nothing is left
local function without(list, item)
  local left = {}
  for _, other in ipairs(list) do
    if other ~= item then left[#left + 1] = other end
  end
  return left[1] and left
end

local function open(hub)
  hubs[hub.messageKey] = append(hubs[hub.messageKey], hub)
  scheduler.hold()
end

local function close(hub)
  hubs[hub.messageKey] = without(hubs[hub.messageKey], hub)
  scheduler.release()
end

--- Gives a hub a further handler of a type: `{ fn, once }`. While it has any it hears, and the process stays.
function mail.add(hub, type, handler)
  hub.handlers[type] = append(hub.handlers[type], handler)
  hub.count = hub.count + 1
  if hub.count == 1 then open(hub) end
end

--- Takes out a handler that it has.
function mail.remove(hub, type, handler)
  hub.handlers[type] = without(hub.handlers[type], handler)
  hub.count = hub.count - 1
  if hub.count == 0 then close(hub) end
end

-- Gives back its share of the window once all is over.
local function settle(delivery)
  if delivery.left > 0 or not delivery.answered then return end
  done = done + delivery.charge
  if done < native.hubReportBytes then return end
  local bytes = done
  done = 0
  native.hubDone(bytes)
end

-- The first answer counts. @return whether it was this one
local function answer(delivery, send, ...)
  if delivery.answered then return false end
  delivery.answered = true
  unanswered[delivery.ticket] = nil
  send(delivery.ticket, ...)
  settle(delivery)
  return true
end

-- Many answers may leave in one turn of the loop, and large ones: the master takes them as they come.
local function give(delivery, ...)
  local isFirst = answer(delivery, native.hubAnswer, ...)
  native.throttle()
  return isFirst
end

local function newReply(delivery)
  return function(err, ...)
    if err ~= nil then return answer(delivery, native.hubFail, errors.text(err)) end
    return give(delivery, ...)
  end
end

-- More would not fit the stacks that they are passed on by.
local function fewEnough(...)
  if select("#", ...) > native.hubMostResults then
    error(("the handler has given more than %d results"):format(native.hubMostResults), 0)
  end
  return ...
end

-- Each handler gets a copy of its own.
local function call(delivery, handler)
  local data
  if delivery.data ~= "" then data = native.decode(delivery.data) end
  return handler.fn(data, { id = delivery.sender, isMaster = delivery.sender == 0 }, delivery.reply)
end

local function giveResults(entry, ...)
  entry.returned = true
  local delivery, value, message = entry.delivery, ...
  if value == nil and type(message) == "string" then
    answer(delivery, native.hubFail, message)
  elseif select("#", ...) > 0 then
    give(delivery, ...)
  end
end

local function handle(entry)
  local delivery, handler = entry.delivery, entry.handler
  if handler.off then return end
  delivery.handled = true
  if delivery.ticket == 0 then
    call(delivery, handler)
  else
    giveResults(entry, fewEnough(call(delivery, handler)))
  end
end

local function ended(delivery)
  delivery.left = delivery.left - 1
  if delivery.left > 0 then return end
  if delivery.handled or not answer(delivery, native.hubIgnore) then settle(delivery) end
end

-- What a message begins, for each handler.
local function run(entry)
  local delivery = entry.delivery
  local ok, raised = xpcall(handle, scheduler.failure, entry)
  ended(delivery)
  if ok then return end
  local failure = scheduler.failure(raised)
  if delivery.ticket == 0 or entry.returned then
    scheduler.uncaught(failure)
  else
    answer(delivery, native.hubFail, errors.text(failure.value))
  end
end

-- Those of a type, in their order; who is called once is so now.
local function takeHandlers(key, type)
  local taken = {}
  for _, hub in ipairs(hubs[key] or {}) do
    for _, handler in ipairs(hub.handlers[type] or {}) do
      taken[#taken + 1] = handler
      if handler.once then mail.remove(hub, type, handler) end
    end
  end
  return taken
end

--- Has the handlers of a type called; the loop calls it when a message has come.
-- @tparam integer ticket what a request is answered under; 0: it is none
-- @tparam integer sender the id of the process
-- @tparam integer charge its share of the window
-- @tparam string key the hubs' messageKey
-- @tparam string type
-- @tparam string data encoded; "": nil
-- @treturn boolean whether there are any
function mail.deliver(ticket, sender, charge, key, type, data)
  local delivery = { ticket = ticket, sender = sender, charge = charge, data = data, answered = ticket == 0 }
  scheduler.hold() -- the last handler may be one that is called once
  local handlers = takeHandlers(key, type)
  delivery.left, delivery.reply = #handlers, newReply(delivery)
  if ticket ~= 0 then unanswered[ticket] = delivery end
  for _, handler in ipairs(handlers) do
    scheduler.beginSoon { begins = run, delivery = delivery, handler = handler }
  end
  if #handlers == 0 and not answer(delivery, native.hubIgnore) then settle(delivery) end
  scheduler.release()
  return #handlers > 0
end

--- Nobody waits any more for the answer to a request; the loop calls it.
function mail.over(ticket)
  local delivery = unanswered[ticket]
  if delivery then answer(delivery, function() end) end
end

return mail
