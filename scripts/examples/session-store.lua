-- Sessions that all workers share, each a document that is gone some time after its last visit.
--
--   clustermem -w 4 session-store.lua
--
-- The documents are in a file. This example makes a folder for it and removes it at the end. To have the sessions
-- survive a restart, name a folder of yours, Storage.new("sessions", { path = "/var/lib/app" }), and do not destroy
-- the storage.
local memory = require "clustermem"
local cluster = require "clustermem.cluster"
local task = require "clustermem.task"
local uv = require "luv"
local Storage = require "clustermem.storage"

local TTL = 200 -- ms; for people, half an hour is better
local me = "user " .. cluster.worker.id

-- The first worker makes the folder, and the last one removes it.
local function enter()
  memory.increment "users"
  local folder = memory.get "folder" or assert(uv.fs_mkdtemp(uv.os_tmpdir() .. "/sessions-XXXXXX"))
  memory.set("folder", folder)
  return assert(Storage.new("sessions", { path = folder }))
end
local store = memory.mutex("folder", enter)

local function leave()
  if memory.increment("users", -1) > 0 then return store:close() end
  store:destroy()
  memory.remove "folder"
  return uv.fs_rmdir(store.path)
end

-- A visit sets the whole session again, so that its time begins anew.
local function visit(page)
  local session = store:get { me } or { pages = {}, basket = {} }
  session.pages[#session.pages + 1] = page
  return assert(store:set({ me }, session, TTL))
end

visit "/"
visit "/shop"
-- A part of a document is changed on its own, and the session keeps its time.
local books = store:update({ me, "basket", "books" }, function(count) return (count or 0) + 1 end)
local session = visit "/basket"
store:sync() -- from here on it survives a power cut
print(("%s has seen %d pages and has %d book in the basket"):format(me, #session.pages, books))

while store:has { me } do task.sleep(10) end
print(me .. " has been away too long")
memory.mutex("folder", leave)
