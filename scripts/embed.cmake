# Writes OUTPUT, a C file with the sources of MODULES (paths below ROOT) as arrays of bytes and one table of them.
set(arrays "")
set(rows "")
set(index 0)
foreach(module ${MODULES})
    file(READ ${ROOT}/${module} bytes HEX)
    string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
    string(REGEX REPLACE "(/init)?\\.lua$" "" name ${module})
    string(REPLACE "/" "." name ${name})
    string(APPEND arrays "static const unsigned char source_${index}[] = {${bytes}};\n")
    string(APPEND rows "    {\"${name}\", \"=${module}\", source_${index}, sizeof source_${index}},\n")
    math(EXPR index "${index} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"bind/modules.h\"\n\n${arrays}
const struct cm_module cm_modules[] = {\n${rows}};
const size_t cm_module_count = sizeof cm_modules / sizeof *cm_modules;\n")
