--- clustermem: Lua on every core with one memory. Each public function, and the module that has it.
-- @module clustermem
-- @usage local memory = require "clustermem"

local keys = require "clustermem.keys"
local listeners = require "clustermem.listeners"
local locks = require "clustermem.locks"
local lru = require "clustermem.lru"

return {
  set = keys.set,
  get = keys.get,
  getVersioned = keys.getVersioned,
  remove = keys.remove,
  increment = keys.increment,
  update = keys.update,
  getMany = keys.getMany,
  setMany = keys.setMany,
  has = keys.has,
  ttl = keys.ttl,
  expire = keys.expire,
  persist = keys.persist,
  keys = keys.keys,
  count = keys.count,
  clear = keys.clear,
  stats = keys.stats,

  listen = listeners.listen,
  unlisten = listeners.unlisten,

  setLRU = lru.setLRU,
  getLRU = lru.getLRU,
  fetchLRU = lru.fetchLRU,
  removeLRU = lru.removeLRU,
  clearLRU = lru.clearLRU,
  setLRUOptions = lru.setLRUOptions,
  getLRUStats = lru.getLRUStats,

  getLock = locks.getLock,
  tryLock = locks.tryLock,
  renewLock = locks.renewLock,
  releaseLock = locks.releaseLock,
  mutex = locks.mutex,
  lockInfo = locks.lockInfo,
}
