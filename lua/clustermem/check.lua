--- Checks of arguments. Each raises at the line that called the public function.
-- @module clustermem.check

local refuse = require("clustermem.native").refuse

local check = {}

-- Of a key, and of a lock's name.
local KEY_MAX_BYTES = 65535
check.KEY_MAX_BYTES = KEY_MAX_BYTES

local function describe(value)
  if type(value) == "string" then return ("a string of %d bytes"):format(#value) end
  return value == nil and "nil" or "a " .. type(value)
end

--- A key: a string of 1 to 65,535 bytes.
function check.key(what, key)
  if type(key) ~= "string" or #key == 0 or #key > KEY_MAX_BYTES then
    refuse(("%s: the key must be a string of 1 to %d bytes, not %s"):format(what, KEY_MAX_BYTES, describe(key)))
  end
end

--- Something of that type, or also nil when optional. @return it
function check.type(what, name, value, expected, optional)
  if type(value) ~= expected and not (optional and value == nil) then
    refuse(("%s: %s must be a %s, not %s"):format(what, name, expected, describe(value)))
  end
  return value
end

--- A prefix of keys: a string of at most 65,535 bytes; nil is the empty one. @treturn string
function check.prefix(what, prefix)
  if prefix == nil then return "" end
  if type(prefix) ~= "string" or #prefix > KEY_MAX_BYTES then
    refuse(("%s: the prefix must be a string of at most %d bytes, not %s"):format(what, KEY_MAX_BYTES,
      describe(prefix)))
  end
  return prefix
end

--- A whole number from `least` on. @treturn integer
function check.integer(what, name, value, least)
  local whole = type(value) == "number" and math.tointeger(value)
  if not whole or whole < least then
    local shown = type(value) == "number" and tostring(value) or describe(value)
    refuse(("%s: %s must be an integer from %d on, not %s"):format(what, name, least, shown))
  end
  return whole
end

--- A duration in milliseconds: a number from 0 on, rounded up. @treturn integer
function check.milliseconds(what, name, value)
  local whole = type(value) == "number" and value >= 0 and value <= 2 ^ 53 and math.ceil(value)
  if not whole then
    local shown = type(value) == "number" and tostring(value) or describe(value)
    refuse(("%s: %s must be a number of milliseconds from 0 on, not %s"):format(what, name, shown))
  end
  return whole
end

--- A table of options, all of them known; nil is none.
-- @tparam string what
-- @param options
-- @tparam {string,...} known their names
function check.options(what, options, known)
  if options == nil then return end
  if type(options) ~= "table" then
    refuse(("%s: the options must be a table, not %s"):format(what, describe(options)))
  end
  for name in pairs(options) do
    local found = false
    for _, candidate in ipairs(known) do found = found or candidate == name end
    if not found then
      local choices = #known > 0 and "there are " .. table.concat(known, ", ") or "there are none"
      refuse(("%s: unknown option '%s' (%s)"):format(what, tostring(name), choices))
    end
  end
end

--- Sorts the trailing arguments `[options] [, callback]`. @return options, callback
function check.trailing(what, options, callback)
  if type(options) == "function" and callback == nil then options, callback = nil, options end
  if callback ~= nil and type(callback) ~= "function" then
    refuse(("%s: the callback must be a function, not %s"):format(what, describe(callback)))
  end
  return options, callback
end

return check
