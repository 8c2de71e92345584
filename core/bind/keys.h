/* The functions of clustermem.native that write keys: done here and now in the shared memory, or, where they
 * need the referee, issued as a request. Reads are core/bind/reads. See lua/clustermem/keys.lua for what they
 * mean. */
#ifndef CM_BIND_KEYS_H
#define CM_BIND_KEYS_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

struct cm_vm;

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_keys_open(lua_State *L);

/* The master has answered the write that was issued under that id. One that it refused is no reason for a
 * clear to spare the key. */
void cm_keys_settle(struct cm_vm *vm, uint32_t id, bool refused);

#endif
