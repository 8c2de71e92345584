--- clustermem: Lua on every core with one memory. Each public function, and the module that has it.
-- @module clustermem
-- @usage local memory = require "clustermem"

local keys = require "clustermem.keys"

return {
  set = keys.set,
  get = keys.get,
  remove = keys.remove,
}
