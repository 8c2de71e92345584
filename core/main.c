/* The command line: which role this process has, and what the user asks for. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/error.h"
#include "base/fault.h"
#include "bind/vm.h"
#include "cluster/durable.h"
#include "cluster/master.h"
#include "cluster/stored.h"

enum { EXIT_USAGE = 2 };

static const char help[] =
    "clustermem runs Lua 5.4 scripts on every core and gives them one memory.\n"
    "\n"
    "  clustermem run [options] worker.lua [arguments]   run a cluster\n"
    "  clustermem worker.lua [arguments]                 short for it\n"
    "  clustermem test [options] [--] [busted arguments] run busted in process 0 of a fresh cluster\n"
    "  clustermem export FILE.db                         print a storage's documents as JSON\n"
    "\n"
    "Options of run:\n"
    "  -w, --workers N        worker processes (default: cores; 0 only with --master)\n"
    "      --master FILE      a script for process 0; may be the same file\n"
    "\n"
    "Options of run and test:\n"
    "      --memory SIZE      memory for shared entries (default 1G)\n"
    "      --max-value SIZE   largest value (default 64M, at most 1G)\n"
    "      --lru-max N        entries of the cache (default 10000; 0: as many as there is room for)\n"
    "      --lru-max-age MS   age at which they expire (default 300000; 0: never)\n"
    "      --storage-dir DIR  the files of storages that name no path (default: the working directory)\n"
    "      --restart WHEN     on-failure (default), always or never\n"
    "      --grace MS         between being asked to stop and being killed (default 5000)\n"
    "      --wait-ready MS    a worker is online when it calls cluster.ready(), within MS (default: off)\n"
    "      --watchdog MS      end a process whose loop does not come round for MS (default: off)\n"
    "      --worker-memory SIZE  bound of each process's Lua heap (default: none)\n"
    "      --log-level LEVEL  error, warn, info (default) or debug\n"
    "      --help, --version\n"
    "\n"
    "A SIZE is a number of bytes, or one with K, M, G or T behind it.\n"
    "Signals: SIGTERM or SIGINT stops gracefully, a second SIGINT at once; SIGHUP reloads the workers.\n";

/* One clear line, and what to do about it. */
static _Noreturn void refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void refuse(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("clustermem: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs(" (see clustermem --help)\n", stderr);
    exit(EXIT_USAGE);
}

static uint64_t parse_number(const char *option, const char *text, uint64_t least, uint64_t most,
                             const char *units, const char *what) {
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    bool good = text[0] >= '0' && text[0] <= '9' && errno == 0;
    const char *unit = *end && units[0] ? strchr(units, *end) : NULL;
    if (unit) {
        unsigned shift = 10 * (unsigned)(unit - units + 1);
        good = good && number <= UINT64_MAX >> shift;
        number <<= shift;
        end++;
    }
    if (!good || *end || number < least || number > most)
        refuse("%s takes %s, not '%s'", option, what, text);
    return number;
}

enum option_id {
    OPT_HELP = 256,
    OPT_VERSION,
    OPT_MASTER,
    OPT_MEMORY,
    OPT_MAX_VALUE,
    OPT_LRU_MAX,
    OPT_LRU_MAX_AGE,
    OPT_STORAGE_DIR,
    OPT_RESTART,
    OPT_GRACE,
    OPT_WAIT_READY,
    OPT_WATCHDOG,
    OPT_WORKER_MEMORY,
    OPT_LOG_LEVEL
};

/* What both commands take; run adds the first two. */
static const struct option long_options[] = {
    {"workers", required_argument, NULL, 'w'},
    {"master", required_argument, NULL, OPT_MASTER},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"max-value", required_argument, NULL, OPT_MAX_VALUE},
    {"lru-max", required_argument, NULL, OPT_LRU_MAX},
    {"lru-max-age", required_argument, NULL, OPT_LRU_MAX_AGE},
    {"storage-dir", required_argument, NULL, OPT_STORAGE_DIR},
    {"restart", required_argument, NULL, OPT_RESTART},
    {"grace", required_argument, NULL, OPT_GRACE},
    {"wait-ready", required_argument, NULL, OPT_WAIT_READY},
    {"watchdog", required_argument, NULL, OPT_WATCHDOG},
    {"worker-memory", required_argument, NULL, OPT_WORKER_MEMORY},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};
enum { RUN_ONLY_OPTIONS = 2 };

static enum cm_restart parse_restart(const char *text) {
    static const char *const words[] = {"on-failure", "always", "never"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, words[i]) == 0)
            return (enum cm_restart)i;
    refuse("--restart takes on-failure, always or never, not '%s'", text);
}

static void set_storage_dir(struct cm_options *options, const char *path) {
    free(options->storage_dir);
    options->storage_dir = realpath(path, NULL);
    struct stat about;
    if (!options->storage_dir || stat(options->storage_dir, &about))
        refuse("--storage-dir: %s: %s", path, strerror(errno));
    if (!S_ISDIR(about.st_mode))
        refuse("--storage-dir: %s is no directory", path);
}

static void apply_option(struct cm_options *options, int option, const char *value) {
    switch (option) {
    case 'w':
        options->workers = (unsigned)parse_number("-w", value, 0, 1024, "", "a number of workers up to 1024");
        break;
    case OPT_MASTER:
        if (cm_strings_append(&options->master.args, cm_bytes_of(value)))
            refuse("%s", cm_error_text(CM_E_NOMEMORY));
        break;
    case OPT_MEMORY:
        options->memory_bytes =
            parse_number("--memory", value, 1 << 20, UINT64_C(1) << 46, "KMGT", "a size from 1M to 64T");
        break;
    case OPT_MAX_VALUE:
        options->max_value_bytes =
            (uint32_t)parse_number("--max-value", value, 1, 1 << 30, "KMGT", "a size from 1 to 1G");
        break;
    case OPT_LRU_MAX:
        options->lru_max = parse_number("--lru-max", value, 0, CM_RECENCY_MOST_SLOTS, "",
                                        "a number of entries up to 16777216");
        break;
    case OPT_LRU_MAX_AGE:
        options->lru_max_age_ms = (uint32_t)parse_number("--lru-max-age", value, 0, CM_LRU_AGE_MOST_MS, "",
                                                         "milliseconds up to 4294967295");
        break;
    case OPT_STORAGE_DIR:
        set_storage_dir(options, value);
        break;
    case OPT_RESTART:
        options->restart = parse_restart(value);
        break;
    case OPT_GRACE:
        options->grace_ms = (uint32_t)parse_number("--grace", value, 0, INT_MAX, "", "milliseconds");
        break;
    case OPT_WAIT_READY:
        options->wait_ready_ms =
            (uint32_t)parse_number("--wait-ready", value, 1, INT_MAX, "", "milliseconds from 1 on");
        break;
    case OPT_WATCHDOG:
        options->watchdog_ms =
            (uint32_t)parse_number("--watchdog", value, 100, INT_MAX, "", "milliseconds from 100 on");
        break;
    case OPT_WORKER_MEMORY:
        options->worker_memory_bytes = parse_number("--worker-memory", value, 2 << 20, UINT64_C(1) << 46,
                                                    "KMGT", "a size from 2M to 64T");
        break;
    case OPT_LOG_LEVEL: {
        int level = cm_log_level_of(value);
        if (level < 0)
            refuse("--log-level takes error, warn, info or debug, not '%s'", value);
        options->log_level = (enum cm_log_level)level;
        break;
    }
    case OPT_HELP:
        fputs(help, stdout);
        exit(0);
    case OPT_VERSION:
        puts("clustermem " CM_VERSION);
        exit(0);
    default:
        abort();
    }
}

/* Reads the options up to the first argument that is none, and returns that one's index. argv[0] is the
 * command. */
static int parse_options(struct cm_options *options, int argc, char **argv) {
    const struct option *known = long_options + (options->test ? RUN_ONLY_OPTIONS : 0);
    opterr = 0;
    optind = 1;
    for (;;) {
        int at = optind;
        int option = getopt_long(argc, argv, options->test ? "+:" : "+:w:", known, NULL);
        if (option == -1)
            return optind;
        if (option == ':')
            refuse("%s wants a value", argv[at]);
        if (option == '?')
            refuse("unknown option '%s'%s", argv[at], options->test ? ", busted's own come behind --" : "");
        apply_option(options, option, optarg);
    }
}

static void add_args(struct cm_strings *strings, char **args, int count) {
    if (cm_strings_extend(strings, args, (size_t)count))
        refuse("%s", cm_error_text(CM_E_NOMEMORY));
}

/* A file that is not there is a mistake on the command line; one with a mistake inside is a failure. */
static int check(const struct cm_script *script) {
    char line[512];
    int err = script->args.count ? cm_vm_check_script(script->args.items[0], line, sizeof line) : 0;
    if (err)
        fprintf(stderr, "clustermem: %s\n", line);
    return err == 0 ? 0 : err == CM_E_BADVALUE ? 1 : EXIT_USAGE;
}

static void init_options(struct cm_options *options, bool test) {
    *options = (struct cm_options){
        .workers = test ? 0 : uv_available_parallelism(),
        .test = test,
        .memory_bytes = UINT64_C(1) << 30,
        .max_value_bytes = 64 << 20,
        .lru_max = CM_LRU_MAX_UNSAID,
        .lru_max_age_ms = CM_LRU_MAX_AGE_DEFAULT_MS,
        .restart = CM_RESTART_ON_FAILURE,
        .grace_ms = 5000,
        .log_level = CM_LOG_INFO,
        .check_script = cm_vm_check_script,
    };
    if (cm_script_init(&options->worker) || cm_script_init(&options->master))
        refuse("%s", cm_error_text(CM_E_NOMEMORY));
}

static int run_cluster(struct cm_options *options) {
    int status = options->test ? 0 : check(&options->master);
    if (status == 0)
        status = check(&options->worker);
    if (status == 0 && !options->storage_dir)
        set_storage_dir(options, ".");
    if (status == 0)
        status = cm_master_run(options);
    free(options->storage_dir);
    cm_script_deinit(&options->master);
    cm_script_deinit(&options->worker);
    return status;
}

static int run(int argc, char **argv) {
    struct cm_options options;
    init_options(&options, false);
    int first = parse_options(&options, argc, argv);
    bool has_master = options.master.args.count > 0;
    if (options.master.args.count > 1)
        refuse("--master is given twice");
    if (options.workers == 0 && !has_master)
        refuse("-w 0 leaves nothing to run without --master");
    if (first == argc && options.workers > 0)
        refuse("no script is given");
    if (first < argc) {
        add_args(&options.worker.args, argv + first, argc - first);
        if (has_master)
            add_args(&options.master.args, argv + first + 1, argc - first - 1);
    }
    return run_cluster(&options);
}

static int test(int argc, char **argv) {
    struct cm_options options;
    init_options(&options, true);
    int first = parse_options(&options, argc, argv);
    char name[] = "busted";
    add_args(&options.master.args, &(char *){name}, 1);
    add_args(&options.master.args, argv + first, argc - first);
    return run_cluster(&options);
}

/* clustermem export FILE.db */
static int export(int argc, char **argv) {
    static const struct option options[] = {{"help", no_argument, NULL, OPT_HELP}, {NULL, 0, NULL, 0}};
    opterr = 0;
    int option = getopt_long(argc, argv, "+", options, NULL);
    if (option == OPT_HELP)
        apply_option(NULL, option, NULL);
    if (option != -1)
        refuse("unknown option '%s'", argv[optind - 1]);
    if (argc - optind != 1)
        refuse("export takes one file");
    char text[CM_DURABLE_TEXT_BYTES];
    int err = cm_stored_export(argv[optind], stdout, text, sizeof text);
    if (err)
        fprintf(stderr, "clustermem: %s\n", text);
    return err == 0 ? 0 : err == -ENOENT ? EXIT_USAGE : 1;
}

/* clustermem process NAME MASTER-PID ...: what the master starts. */
static int process(int argc, char **argv) {
    cm_vm_shield();
    long master = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    /* End-of-file on the channel would tell only a process that gets round to reading it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (master <= 0 || getppid() != (pid_t)master) {
        if (master > 0)
            return 1; /* the master died before it could be watched */
        refuse("'process' is for the master to start");
    }
    prctl(PR_SET_NAME, "clustermem"); /* exec was of /proc/self/exe */
    CM_FAULT_FOLLOW_ENVIRONMENT();
    return cm_vm_run();
}

/* Descriptors 0 to 2 are there, so that nothing else takes their numbers. */
static void open_standard_files(void) {
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

int main(int argc, char **argv) {
    open_standard_files();
    argv = uv_setup_args(argc, argv);
    const char *command = argc > 1 ? argv[1] : "";
    if (strcmp(command, "run") == 0)
        return run(argc - 1, argv + 1);
    if (strcmp(command, "test") == 0)
        return test(argc - 1, argv + 1);
    if (strcmp(command, "export") == 0)
        return export(argc - 1, argv + 1);
    if (strcmp(command, "process") == 0)
        return process(argc - 1, argv + 1);
    if (argc == 1)
        refuse("no script is given");
    return run(argc, argv); /* the short form; its options are those of run */
}
