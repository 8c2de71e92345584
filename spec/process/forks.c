/* A module for scripts that fork by other means than ours, as a binding of POSIX would let them: see
 * process/forked_spec.lua. */
#include <lauxlib.h>
#include <sys/wait.h>
#include <unistd.h>

int luaopen_forks(lua_State *L);

/* fork() -> pid | 0 */
static int forks_fork(lua_State *L) {
    lua_pushinteger(L, fork());
    return 1;
}

/* wait(pid) -> its exit code, or the number of the signal that ended it, negative */
static int forks_wait(lua_State *L) {
    int status = 0;
    if (waitpid((pid_t)luaL_checkinteger(L, 1), &status, 0) < 0)
        return luaL_error(L, "no such child");
    lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    return 1;
}

/* exit(code): at once */
static int forks_exit(lua_State *L) {
    _exit((int)luaL_checkinteger(L, 1));
}

int luaopen_forks(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"fork", forks_fork}, {"wait", forks_wait}, {"exit", forks_exit}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
