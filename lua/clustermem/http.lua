--- HTTP: each worker serves, on a port that all workers may share.
--
-- Each request runs in a task of its own and may wait for anything; other requests run on meanwhile. HTTP/1.0 and 1.1,
-- keep-alive, TLS. What cannot be understood beyond doubt is refused before the handler runs: malformed fields and
-- those that leave open where the body ends (400), header fields of more than `maxHeader` bytes (431), a body of more
-- than `maxBody` by its Content-Length (413; one in chunks that grows beyond is cut off), transfer encodings but
-- `chunked` (501). Lines end with CR and LF, nothing else.
--
-- A client that goes away while its handler waits for something else is noticed when something is written. An answer to
-- HEAD that is written in parts ends the connection.
--
-- Every process may serve. A server keeps its process alive until it is closed. Durations are milliseconds.
-- @module clustermem.http
-- @usage local http = require "clustermem.http"

local cjson = require "cjson"
local native = require "clustermem.native"
local check = require "clustermem.check"
local cluster = require "clustermem.cluster"
local errors = require "clustermem.errors"
local replies = require "clustermem.request"
local scheduler = require "clustermem.scheduler"
local sockets = require "clustermem.sockets"

local refuse = native.refuse

local http = {}

-- What can be said, and what holds when it is not.
local DEFAULTS = {
  maxHeader = 16384,
  maxBody = 1048576,
  maxConnections = 10000,
  idleTimeout = 60000,
  headerTimeout = 10000,
}
local MAX_HEADER_LEAST, MAX_HEADER_MOST = 1024, 1048576
local KNOWN = { "host", "port", "path", "handler", "cert", "key", "stream" }
for name in pairs(DEFAULTS) do KNOWN[#KNOWN + 1] = name end
table.sort(KNOWN)

-- Native server -> the server, until it is closed
local servers = {}
-- Whether this process has been asked to stop.
local leaving = false

-- Waits for a reply that several tasks may wait for: each of them then looks again.
local function waitFor(object, id)
  if object.waiting then
    table.insert(object.waiting, scheduler.current())
    scheduler.wait()
    return
  end
  object.waiting = {}
  replies.complete(nil, id)
  local others = object.waiting
  object.waiting = nil
  for _, task in ipairs(others) do scheduler.wake(task) end
end

-- --- requests ---

--- What a handler gets first. Its fields are read-only and there as long as the handler runs:
--
-- - `method`: `"GET"`
-- - `target`: path and query as they were sent, `"/a%20b?c=1"`
-- - `path`: without the query, decoded, `"/a b"`; bytes that are not UTF-8 may be in it, and `..` too
-- - `query`: a table of the query's names and values, decoded (`+` is a blank); a name without `=` has `""`, of a name
--   that comes several times the last counts
-- - `headers`: a table of header fields by their lower-case names; those that come several times are joined by `, `,
--   cookies by `; `
-- - `body`: a string, `""` where there is none; not with `stream`
-- - `remoteAddress`: `"127.0.0.1"`, or nil for a socket without addresses
-- @type request
local methods = {}

local Request = { __name = "request" }

local function exchangeOf(what, object)
  local exchange = type(object) == "table" and object[1]
  if exchange then return exchange end
  if exchange == nil then refuse(("%s: call it as a method, with a colon"):format(what)) end
  refuse(("%s: the handler has returned, and with that the request is over"):format(what))
end

local function unescape(text)
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function parseQuery(target)
  local query = {}
  for part in (target:match("%?(.*)$") or ""):gmatch("[^&]+") do
    local name, value = part:match("^([^=]*)=?(.*)$")
    query[unescape(name:gsub("+", " "))] = unescape(value:gsub("+", " "))
  end
  return query
end

-- Made when they are looked at for the first time.
local lazy = {
  method = native.httpMethod,
  target = native.httpTarget,
  headers = native.httpHeaders,
  remoteAddress = native.httpRemote,
  path = function(exchange)
    local target = native.httpTarget(exchange)
    if target:find("^/[^%%?]*$") then return target end
    local path = target:match("^[^?]*")
    -- As a proxy is asked: scheme and host are not for the handler.
    local rest = path:match("^%a[%w+.-]*://[^/]*(.*)")
    if rest then path = rest == "" and "/" or rest end
    return unescape(path)
  end,
  query = function(exchange) return parseQuery(native.httpTarget(exchange)) end,
  body = function(exchange)
    if native.httpStreamed(exchange) then
      refuse("request.body: with the option stream it is read by request:read()")
    end
    return native.httpBody(exchange)
  end,
}

function Request.__index(request, name)
  local method = methods[name]
  if method then return method end
  local make = lazy[name]
  if not make then return nil end
  local value = make(exchangeOf("request." .. name, request))
  request[name] = value
  return value
end

local function read(request)
  while true do
    local chunk, message, code = native.httpRead(exchangeOf("request:read", request))
    if math.type(chunk) ~= "integer" then return chunk, message, code end
    waitFor(request, chunk)
    if not request[1] then return nil, "request:read: the handler has returned", "closed" end
  end
end

--- Reads what comes next of the body. (w) Only of a server with the option `stream`; it reads no faster than this is
-- called.
-- @function request:read
-- @tparam[opt] function callback
-- @treturn string a chunk, in the pieces in which they come; nil at the end
-- @return nil, message, `closed`: the client is gone, the answer has begun, or the handler has returned meanwhile
-- @raise without `stream`, or after the handler has returned
-- @usage for chunk in function() return request:read() end do file:write(chunk) end
function methods.read(request, callback)
  check.type("request:read", "the callback", callback, "function", true)
  local exchange = exchangeOf("request:read", request)
  if not native.httpStreamed(exchange) then
    refuse("request:read: only with the option stream; the whole body is request.body")
  end
  return scheduler.perform("request:read", callback, read, request)
end

--- Decodes the body as JSON, by lua-cjson: every number is a float, null is `cjson.null`.
-- @function request:json
-- @return the value
-- @return nil, message, `badvalue`: the body is no JSON
-- @raise with `stream`, or after the handler has returned
-- @usage local order, message = request:json()
function methods.json(request)
  exchangeOf("request:json", request)
  local ok, value = pcall(cjson.decode, request.body)
  if ok then return value end
  return nil, "request:json: " .. errors.text(value), "badvalue"
end

-- --- responses ---

--- What a handler gets second.
-- @type response
local Response = { __name = "response" }
Response.__index = Response

--- Sets the status; it is 200 at first.
-- @function response:status
-- @tparam integer status from 200 to 599
-- @return the response
-- @raise on another status, or when the answer has begun
-- @usage response:status(404):finish("there is no such page")
Response.status = native.httpStatus

--- Adds a header field; one name may be added several times. Content-Length and Transfer-Encoding are the server's to
-- say, and of Connection only `close` is the handler's; Date comes by itself.
-- @function response:header
-- @tparam string name
-- @tparam string value not empty; or a number
-- @return the response
-- @raise on a name that is no token of HTTP, a value with control characters (so that nothing from outside can add
-- fields of its own), more than 12 KiB in all, or when the answer has begun
-- @usage response:header("Content-Type", "text/html")
Response.header = native.httpField

local function written(response, ...)
  local id = ...
  if math.type(id) ~= "integer" then return ... end
  waitFor(response, id)
  return written(response, native.httpWrite(response))
end

local function write(response, chunk)
  return written(response, native.httpWrite(response, chunk))
end

--- Sends a part of the body. (w) It waits while more than 64 KiB are not sent because the client does not read. What is
-- sent in parts is in chunks (HTTP/1.1), or ends with the connection (1.0). The request's body should have been read:
-- what is left of it is thrown away.
-- @function response:write
-- @tparam string chunk
-- @tparam[opt] function callback
-- @return the response
-- @return nil, message, `closed`: the client is gone
-- @raise when the answer is finished
-- @usage response:write("one, "):write("two"):finish()
function Response:write(chunk, callback)
  check.type("response:write", "the callback", callback, "function", true)
  native.httpMayWrite(self, chunk)
  return scheduler.perform("response:write", callback, write, self, chunk)
end

--- Ends the answer. Never waits. A handler that returns without it is finished for.
-- @function response:finish
-- @tparam[opt] string chunk the body, or the last part of it
-- @return the response
-- @return nil, message, `closed`: the client is gone
-- @raise when the answer is finished
-- @usage response:finish("hello")
Response.finish = native.httpFinish

--- Answers with a value as JSON. Never waits. Integers are whole and floats exact; a table with the keys 1..n is an
-- array, an empty one an object; bytes that are not UTF-8 become U+FFFD.
-- @function response:json
-- @param value anything that is data
-- @return the response
-- @return nil, message, code: `closed` (the client is gone), `toolarge` (than --max-value), `nomemory`
-- @raise on a value that is not data, on NaN and the infinities, or when the answer has begun
-- @usage response:json { visits = 42 }
Response.json = native.httpJson

-- --- servers ---

-- The process goes on.
local function report(raised)
  local failure = scheduler.failure(raised)
  io.stderr:write(errors.format(failure.value, failure.traceback), "\n")
end

local handle = native.httpHandler(Request, Response, scheduler.failure, report)

--- A request has come; the loop calls it.
function http.dispatch(id, exchange)
  scheduler.begin(handle, exchange, servers[id].handler)
end

--- @type server
local Server = { __name = "server" }
Server.__index = Server

function Server.__tostring(server)
  return ("server (%s)"):format(server.path or server.host .. ":" .. server.port)
end

local function stop(server)
  if server.closed or server.stopping then return end
  server.stopping = true
  native.httpStop(server.id)
  -- At its end a process does not give sockets up: who comes after it may want the same ones.
  if not leaving then sockets.close(server.socket) end
end

local function waitClosed(server)
  if not server.closed then
    table.insert(server.waiting, scheduler.current())
    scheduler.wait()
  end
  return "OK"
end

local function onClosed(server)
  server.closed = true
  servers[server.id] = nil
  server.id = nil
  for _, task in ipairs(server.waiting) do scheduler.wake(task) end
  scheduler.release()
end

local function close(server)
  stop(server)
  return waitClosed(server)
end

--- Stops accepting connections, lets the requests that are there be answered (with `Connection: close`), and closes
-- connections without one. (w) A handler must not wait for it, because it would wait for itself: it gives a callback.
-- @function server:close
-- @tparam[opt] function callback
-- @treturn string "OK", when the last handler has returned and the last connection is closed
-- @usage server:close()
function Server:close(callback)
  check.type("server:close", "the callback", callback, "function", true)
  if getmetatable(self) ~= Server then refuse("server:close: call it as a method of a server, with a colon") end
  return scheduler.perform("server:close", callback, close, self)
end

local function readFile(name, path)
  local file, message = io.open(path, "rb")
  if not file then return nil, ("http.serve: %s: %s"):format(name, message), "ENOENT" end
  local text = file:read("a")
  file:close()
  return text
end

local function serve(server, options)
  local message, code
  if options.cert then
    options.cert, message, code = readFile("cert", options.cert)
    if message then return nil, message, code end
    options.key, message, code = readFile("key", options.key)
    if message then return nil, message, code end
  end
  local fd, socket, reason = sockets.bind("http.serve", server.path or server.host, server.port)
  if not fd then return nil, socket, reason end
  local id, closed, port = native.httpServe(fd, options)
  if not id then
    sockets.close(socket)
    return nil, "http.serve: " .. closed, port
  end
  server.socket = socket
  server.id, server.port = id, port
  servers[id] = server
  scheduler.hold()
  replies.onReply(function() onClosed(server) end, closed)
  return server
end

local function checkOptions(given)
  check.type("http.serve", "the options", given, "table")
  check.options("http.serve", given, KNOWN)
  check.type("http.serve", "handler", given.handler, "function")
  check.type("http.serve", "host", given.host, "string", true)
  check.type("http.serve", "stream", given.stream, "boolean", true)
  check.type("http.serve", "cert", given.cert, "string", true)
  check.type("http.serve", "key", given.key, "string", true)
  if (given.cert == nil) ~= (given.key == nil) then refuse("http.serve: cert and key belong together") end
  if check.type("http.serve", "path", given.path, "string", true) then
    if given.host or given.port then refuse("http.serve: a path stands instead of host and port") end
    if given.path == "" or given.path:find("\0", 1, true) then refuse("http.serve: path must be the name of a file") end
  elseif check.integer("http.serve", "port", given.port, 0) > 65535 then
    refuse("http.serve: port must be an integer from 0 to 65535, not " .. given.port)
  end
  local options = { cert = given.cert, key = given.key, stream = given.stream }
  for name, default in pairs(DEFAULTS) do
    local value = given[name] == nil and default or given[name]
    local isTime = name == "idleTimeout" or name == "headerTimeout"
    options[name] = isTime and check.milliseconds("http.serve", name, value)
      or check.integer("http.serve", name, value, 0)
  end
  if options.maxHeader < MAX_HEADER_LEAST or options.maxHeader > MAX_HEADER_MOST then
    refuse(("http.serve: maxHeader must be from %d to %d"):format(MAX_HEADER_LEAST, MAX_HEADER_MOST))
  end
  if options.maxConnections < 1 or options.maxConnections > 1000000 then
    refuse("http.serve: maxConnections must be from 1 to 1000000")
  end
  return options
end

--- Serves HTTP. (w) All workers that name the same address share it: a connection goes to one of them.
-- @tparam table options
--
-- - `handler`: fn(request, response), called as a task for each request. An error in it is a 500, or if something was
--   sent already the end of the connection, and a traceback on standard error; the process goes on.
-- - `host` ("127.0.0.1"), `port`: where; port 0 is one that is free
-- - `path`: instead of these, a unix socket there, for a proxy on this machine
-- - `cert`, `key`: files in PEM format, for TLS
-- - `maxHeader` (16384): bytes of a request's line and header fields
-- - `maxBody` (1048576): bytes of a request's body
-- - `maxConnections` (10000) of this process; further ones wait
-- - `idleTimeout` (60000): milliseconds, rounded up to seconds, after which a connection is closed on which nothing
--   moves, between two requests or within one; 0: never. The time that a handler takes does not count.
-- - `headerTimeout` (10000): milliseconds within which a request's header must have come; 0: any time
-- - `stream` (false): handlers run as soon as the header has come, and read the body with `request:read()`
-- @tparam[opt] function callback
-- @treturn table the server: `host`, `port` or `path`, and `close`
-- @return nil, message, code: an errno name (`EADDRINUSE`, `EACCES`; `ENOENT`: no such file), `badvalue` (a bad
-- certificate, key or host), `nomemory`
-- @raise on an unknown option, or one of the wrong type
-- @usage http.serve { port = 8080, handler = function(request, response) response:finish("hello") end }
function http.serve(options, callback)
  check.type("http.serve", "the callback", callback, "function", true)
  local checked = checkOptions(options)
  local server = setmetatable({
    host = not options.path and (options.host or "127.0.0.1") or nil,
    port = options.port,
    path = options.path,
    handler = options.handler,
    waiting = {},
  }, Server)
  return scheduler.perform("http.serve", callback, serve, server, checked)
end

-- This process begins to stop: its servers accept no connection any more.
local function begin()
  leaving = true
  for _, server in pairs(servers) do stop(server) end
end

-- Waits until all servers that have begun to stop are closed.
local function drain()
  local stopping = {}
  for _, server in pairs(servers) do
    if server.stopping then stopping[#stopping + 1] = server end
  end
  for _, server in ipairs(stopping) do waitClosed(server) end
end

cluster.atStop(begin, drain)

return http
