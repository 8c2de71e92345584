std = "lua54"
max_line_length = 120

files["spec"] = {std = "+busted"}

-- These two replace standard functions by ones that may wait.
files["lua/clustermem/loader.lua"] = {globals = {"require"}}
files["lua/clustermem/coroutines.lua"] = {globals = {"coroutine"}}

files[".luacheckrc"] = {std = "+luacheckrc"}
