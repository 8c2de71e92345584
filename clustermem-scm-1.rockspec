rockspec_format = "3.0"
package = "clustermem"
version = "scm-1"

-- For "luarocks make" inside a checkout.
source = {
  url = "git+file://.",
}

description = {
  summary = "Lua workers on every core, with one memory",
  detailed = [[
A server that runs Lua scripts in a process per core and lets them share values, counters, locks, caches, documents
and messages. What is installed is one program, "clustermem"; its Lua modules are inside it and work in the scripts
that it runs.]],
  license = "MIT",
}

supported_platforms = {"linux"}

dependencies = {
  "lua >= 5.4, < 5.5",
}

-- luv and lua-cjson are linked into the program too; CMake finds them with pkg-config, as lua5.4-luv and lua5.4-cjson
-- (Debian: lua-luv-dev and lua-cjson-dev).
external_dependencies = {
  LIBUV = {header = "uv.h"},
  XXHASH = {header = "xxhash.h"},
  MSGPACK = {header = "msgpack.h"},
  LMDB = {header = "lmdb.h"},
  MICROHTTPD = {header = "microhttpd.h"},
}

-- The program is all there is to install, so CMake's own install step is left out.
build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "RelWithDebInfo",
    BUILD_TESTING = "OFF",
  },
  install_pass = false,
  install = {
    bin = {
      clustermem = "build.luarocks/clustermem",
    },
  },
}
