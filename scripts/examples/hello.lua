-- The smallest program: every worker leaves a greeting in the shared memory, reads it back, and ends.
--
--   clustermem hello.lua Ada
local memory = require "clustermem"
local cluster = require "clustermem.cluster"

local name = ... or "world"
local id = cluster.worker.id

memory.set("greeting:" .. id, { text = "hello, " .. name, from = id })
local greeting = memory.get("greeting:" .. id)
print(("%s, from worker %d"):format(greeting.text, greeting.from))
