-- The master's limit of open files: no process can take so many that others cannot be started any more.
local clusters = require "clusters"

-- In front of scripts: `many(fn)` calls fn(1), fn(2), ... until it fails, and gives how often it did not, message,
-- code.
local many = [[
  local Storage = require "clustermem.storage"
  local function many(fn)
    for i = 1, 1000 do
      local ok, message, code = fn(i)
      if not ok then return i - 1, message, code end
    end
  end
]]

describe("the master's limit of open files", function()
  before_each(clusters.watch)
  after_each(clusters.finish)

  it("leaves room for processes, whatever a process opens", function()
    local c = clusters.start { shell = "ulimit -n 256", app = many .. [[
      print("storages", many(function(i) return Storage.new("s" .. cluster.worker.id .. "-" .. i) end))
      print("sockets", many(function(i) return cluster.bind("127.0.0." .. i, 0) end))
      if cluster.worker.id == 1 then cluster.exit(3) end
      cluster.exit(0)
    ]] }
    assert.equal(0, c:waitExit(), c.err)
    local counts = {}
    for what, count in c.out:gmatch("(%l+)\t(%d+)\t[^\n]*%d+ %l+ are open in this cluster, [^\n]*\tEMFILE\n") do
      counts[#counts + 1] = what .. " " .. count
    end
    -- Those that only the dead worker had give way to others, a few at a time; its sockets are there for 15 seconds.
    assert.matches("^storages 24, sockets 24, storages %d+, sockets 24$", table.concat(counts, ", "))
    assert.is_true(tonumber(counts[3]:match("%d+")) >= 1, c.out)
  end)

  it("gives storages that only dead processes had to others", function()
    local c = clusters.run { shell = "ulimit -n 256", limit = 60000, app = many .. [[
      local id = cluster.worker.id
      local function open(i)
        local name, store, message, code = ("s%d-%d"):format(id, i)
        repeat
          if code then task.sleep(5) end
          store, message, code = Storage.new(name)
        until code ~= "EMFILE"
        assert(store, message):set("n", i)
        return store
      end
      for i = 1, 12 do open(i) end
      if id < 5 then cluster.exit(3) end
      print("opened by", id)
      -- They are there still, also those that were closed in between.
      local store = open(1)
      assert(store:close() == "OK")
    ]] }
    assert.matches("opened by\t5\n", c.out, nil, nil, c.err)
  end)
end)
