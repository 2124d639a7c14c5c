/* What the kernel itself takes for a container like step 1's: the same system calls, and nothing around them.
 *
 * floor ROOT v1 MEMORY CPU PIDS COMMAND [ARG]...     the hierarchies' folders
 * floor ROOT v2 UNIFIED COMMAND [ARG]...
 *
 * No options, no checks of what it is given, no signals, no handshake, no explanation of an error: `cargo xtask
 * bench` compares with this to see what those cost.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static const char group[] = "congo.bench.floor";

static long must(long result, const char *what)
{
    if (result == -1) {
        perror(what);
        _exit(125);
    }
    return result;
}

static void put(const char *value, const char *format, ...)
{
    char path[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path, sizeof path, format, arguments);
    va_end(arguments);
    int file = must(open(path, O_WRONLY | O_CLOEXEC), path);
    must(write(file, value, strlen(value)), path);
    close(file);
}

static void device(const char *path, int major, int minor)
{
    must(mknod(path, S_IFCHR | 0666, makedev(major, minor)), path);
}

static _Noreturn void child(const char *root, int groups, char groups_of[][4096], char **command)
{
    must(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
    for (int i = 0; i < groups; i++)
        put("0", "%s/tasks", groups_of[i]);
    must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
    must(chroot(root), root);
    must(chdir("/"), "/");
    mkdir("/proc", 0555);
    must(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "/proc");
    mkdir("/dev", 0755);
    must(mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"), "/dev");
    umask(0);
    device("/dev/null", 1, 3);
    device("/dev/zero", 1, 5);
    device("/dev/full", 1, 7);
    device("/dev/random", 1, 8);
    device("/dev/urandom", 1, 9);
    device("/dev/tty", 5, 0);
    umask(022);
    must(symlink("/proc/self/fd", "/dev/fd"), "/dev/fd");
    must(symlink("/proc/self/fd/0", "/dev/stdin"), "/dev/stdin");
    must(symlink("/proc/self/fd/1", "/dev/stdout"), "/dev/stdout");
    must(symlink("/proc/self/fd/2", "/dev/stderr"), "/dev/stderr");
    must(sethostname("congo", 5), "sethostname");
    syscall(SYS_close_range, 3, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */);
    char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                           "HOSTNAME=congo", "TERM=xterm", NULL};
    must(execve(command[0], command, environment), command[0]);
    abort();
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 125;
    int v2 = !strcmp(argv[2], "v2"), groups = v2 ? 1 : 3;
    char groups_of[3][4096];
    for (int i = 0; i < groups; i++) {
        snprintf(groups_of[i], sizeof groups_of[i], "%s/%s", argv[3 + i], group);
        must(mkdir(groups_of[i], 0755), groups_of[i]);
    }
    uint64_t flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS;
    long pid;
    if (v2) {
        put("134217728", "%s/memory.max", groups_of[0]);
        put("50000 100000", "%s/cpu.max", groups_of[0]);
        put("64", "%s/pids.max", groups_of[0]);
        int group_of_child = must(open(groups_of[0], O_PATH | O_DIRECTORY | O_CLOEXEC), groups_of[0]);
        /* struct clone_args, as far as CLONE_INTO_CGROUP needs it. */
        uint64_t arguments[11] = {[0] = flags | 0x200000000ULL, [4] = SIGCHLD, [10] = group_of_child};
        pid = must(syscall(SYS_clone3, arguments, sizeof arguments), "clone3");
    } else {
        put("134217728", "%s/memory.limit_in_bytes", groups_of[0]);
        put("100000", "%s/cpu.cfs_period_us", groups_of[1]);
        put("50000", "%s/cpu.cfs_quota_us", groups_of[1]);
        put("64", "%s/pids.max", groups_of[2]);
        pid = must(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0), "clone");
    }
    if (pid == 0)
        child(argv[1], v2 ? 0 : groups, groups_of, argv + 3 + groups);
    int status;
    must(waitpid(pid, &status, 0), "waitpid");
    for (int i = 0; i < groups; i++)
        must(rmdir(groups_of[i]), groups_of[i]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
