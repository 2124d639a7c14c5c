/* What the kernel itself takes for a container like those of steps 1 to 4: the same namespaces, mounts, limits
 * and filter, made by few system calls in a good order, and nothing around them.
 *
 * floor LEVEL ROOT STATE v1 MEMORY CPU PIDS COMMAND [ARG]...     the hierarchies' folders
 * floor LEVEL ROOT STATE v2 UNIFIED COMMAND [ARG]...
 * floor filter                                                   writes step 4's filter, as bwrap takes it
 *
 * ROOT lies below STATE, and is what step N's container has as its root or lowest layer. Levels 3 and 4 need
 * Linux 6.15, for an overlay of layers that are mounted nowhere.
 *
 * No options, no checks of what it is given, no signals, no explanation of an error: `cargo xtask bench`
 * compares with this to see what those cost. filter.h is written by the bench: it has step 4's own filter.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include "filter.h"

/* Older C libraries do not name these; the numbers are the same on all machines. */
enum { OPEN_TREE = 428, MOVE_MOUNT = 429, FSOPEN = 430, FSCONFIG = 431, FSMOUNT = 432, SETATTR = 442 };
enum { SET_FLAG = 0, SET_STRING = 1, SET_FD = 5, CREATE = 6 };                        /* of fsconfig */
enum { FROM_FD = 4, TO_FD = 0x40 };                                                   /* of move_mount */
enum { READ_ONLY = 1, NOSUID = 2, NODEV = 4, NOEXEC = 8, IDMAP = 0x100000 };          /* of a mount */
struct attributes { uint64_t set, clear, propagation, user_namespace; };

/* Congo's own ranges of host ids. */
enum { FIRST_ID = 1879048192, RANGES = 8192, IDS = 65536 };
#define RESERVED "/run/congo.bench"

/* Docker's fourteen capabilities, and how many the kernel may have. */
static const uint64_t CAPABILITIES = 0xa80425fb;
enum { ALL_CAPABILITIES = 41 };

static int level;
static const char *root, *state;
static char folder[4096]; /* of this container, below the state */
static uint32_t host_id;  /* which id of the host the container's root has */

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

/* Mounts that are attached nowhere yet: a copy of the one at a path, and a new filesystem. */
static int copy_of(const char *path)
{
    return must(syscall(OPEN_TREE, AT_FDCWD, path, 1 | O_CLOEXEC), path);
}
static int filesystem(const char *type, int attributes)
{
    int made = must(syscall(FSOPEN, type, 1), type);
    must(syscall(FSCONFIG, made, CREATE, NULL, NULL, 0), type);
    int mounted = must(syscall(FSMOUNT, made, 1, attributes), type);
    close(made);
    return mounted;
}
static void attach(int mounted, const char *path)
{
    must(syscall(MOVE_MOUNT, mounted, "", AT_FDCWD, path, FROM_FD), path);
    close(mounted);
}
static void change(int mounted, struct attributes wanted)
{
    must(syscall(SETATTR, mounted, "", AT_EMPTY_PATH, &wanted, sizeof wanted), "mount_setattr");
}

static const struct { const char *path; int major, minor; } devices[] = {
    {"/dev/null", 1, 3}, {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
};
enum { DEVICES = sizeof devices / sizeof *devices };

/* The overlay of level 3 and 4, attached nowhere. In a user namespace, root's files on the disk belong to the
 * container's root, and so does what the overlay makes. */
static int overlay(int user_namespace)
{
    int store = copy_of(state);
    if (user_namespace >= 0)
        change(store, (struct attributes){.set = IDMAP, .user_namespace = user_namespace});
    size_t below = strlen(state) + 1;
    char path[4200];
    int lower = must(openat(store, root + below, O_PATH | O_DIRECTORY | O_CLOEXEC), root);
    snprintf(path, sizeof path, "%s/upper", folder + below);
    int upper = must(openat(store, path, O_PATH | O_DIRECTORY | O_CLOEXEC), path);
    snprintf(path, sizeof path, "%s/work", folder + below);
    int work = must(openat(store, path, O_PATH | O_DIRECTORY | O_CLOEXEC), path);
    if (user_namespace >= 0) {
        /* The capabilities stay in spite of the other user. */
        must(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP), "securebits");
        setfsgid(host_id);
        setfsuid(host_id);
    }
    int made = must(syscall(FSOPEN, "overlay", 1), "overlay");
    must(syscall(FSCONFIG, made, SET_FD, "lowerdir+", NULL, lower), "lowerdir+ (Linux 6.15)");
    must(syscall(FSCONFIG, made, SET_FD, "upperdir", NULL, upper), "upperdir");
    must(syscall(FSCONFIG, made, SET_FD, "workdir", NULL, work), "workdir");
    must(syscall(FSCONFIG, made, SET_STRING, "redirect_dir", "off", 0), "redirect_dir");
    must(syscall(FSCONFIG, made, SET_STRING, "metacopy", "off", 0), "metacopy");
    must(syscall(FSCONFIG, made, SET_STRING, "index", "off", 0), "index");
    /* Or its end would write out everybody's dirty pages. */
    must(syscall(FSCONFIG, made, SET_FLAG, "volatile", NULL, 0), "volatile");
    must(syscall(FSCONFIG, made, CREATE, NULL, NULL, 0), "overlay");
    int mounted = must(syscall(FSMOUNT, made, 1, level == 4 ? NODEV : 0), "overlay");
    if (user_namespace >= 0) {
        setfsgid(0);
        setfsuid(0);
        must(prctl(PR_SET_SECUREBITS, 0), "securebits");
    }
    return mounted;
}

static void loopback_up(void)
{
    int netlink = must(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_ROUTE), "netlink");
    struct { struct nlmsghdr header; struct ifinfomsg link; } message = {
        {sizeof message, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
        {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP},
    };
    must(send(netlink, &message, sizeof message, 0), "loopback");
    char answer[256];
    must(recv(netlink, answer, sizeof answer, 0), "loopback");
    close(netlink);
}

/* One byte, and with it a descriptor: the child may go on, with this root. */
static void give(int socket, int descriptor)
{
    union { char space[CMSG_SPACE(sizeof descriptor)]; struct cmsghdr aligned; } control;
    struct iovec byte = {"", 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    control.aligned = (struct cmsghdr){CMSG_LEN(sizeof descriptor), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.aligned), &descriptor, sizeof descriptor);
    must(sendmsg(socket, &message, MSG_NOSIGNAL), "go");
}
static int take(int socket)
{
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr aligned; } control;
    char place;
    struct iovec byte = {&place, 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1)
        _exit(125);
    int descriptor;
    memcpy(&descriptor, CMSG_DATA(&control.aligned), sizeof descriptor);
    return descriptor;
}

static void mount_at(const char *path, mode_t mode, const char *source, const char *type, unsigned long flags,
                     const char *options)
{
    mkdir(path, mode);
    must(mount(source, path, type, flags, options), path);
}
static void file(const char *source, const char *target, const char *content)
{
    int made = must(open(source, O_WRONLY | O_CREAT | O_CLOEXEC, 0644), source);
    must(write(made, content, strlen(content)), source);
    close(made);
    must(mount(source, target, NULL, MS_BIND, NULL), target);
}

static void fill_dev(const int opened[DEVICES])
{
    mount_at("/dev", 0755, "tmpfs", "tmpfs", MS_NOSUID | (level == 4 ? MS_NODEV : 0), "mode=755,size=65536k");
    umask(0);
    for (int i = 0; i < DEVICES; i++)
        if (level < 4)
            must(mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)), "mknod");
        else {
            close(must(open(devices[i].path, O_CREAT | O_WRONLY | O_CLOEXEC, 0666), devices[i].path));
            attach(opened[i], devices[i].path);
        }
    umask(022);
    must(symlink("/proc/self/fd", "/dev/fd"), "/dev/fd");
    must(symlink("/proc/self/fd/0", "/dev/stdin"), "/dev/stdin");
    must(symlink("/proc/self/fd/1", "/dev/stdout"), "/dev/stdout");
    must(symlink("/proc/self/fd/2", "/dev/stderr"), "/dev/stderr");
    must(symlink("/proc/kcore", "/dev/core"), "/dev/core");
}

/* What level 2 adds, in the root. */
static void more_mounts(int sys)
{
    mkdir("/sys", 0555);
    attach(sys, "/sys");
    mount_at("/dev/pts", 0755, "devpts", "devpts", MS_NOSUID | MS_NOEXEC,
             "newinstance,ptmxmode=666,mode=620,gid=5");
    must(symlink("pts/ptmx", "/dev/ptmx"), "/dev/ptmx");
    unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mount_at("/dev/shm", 01777, "tmpfs", "tmpfs", safe, "mode=755,size=1m");
    file("/dev/shm/hosts", "/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.0.1\tcongo\n");
    file("/dev/shm/hostname", "/etc/hostname", "congo\n");
    file("/dev/shm/resolv.conf", "/etc/resolv.conf", "nameserver 192.0.2.1\n");
    must(umount2("/dev/shm", MNT_DETACH), "/dev/shm");
    must(mount("shm", "/dev/shm", "tmpfs", safe, "mode=1777,size=67108864"), "/dev/shm");
    mount_at("/dev/mqueue", 0755, "mqueue", "mqueue", safe, NULL);
}

/* Not every kernel has all of them. */
static void mask_folder(const char *path)
{
    if (mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0k") && errno != ENOENT)
        must(-1, path);
}
static void mask_file(const char *path)
{
    if (mount("/dev/null", path, NULL, MS_BIND, NULL) && errno != ENOENT)
        must(-1, path);
}
static void read_only(const char *path)
{
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
    if (!mount(path, path, NULL, MS_BIND | MS_REC, NULL))
        must(mount("none", path, NULL, MS_REMOUNT | MS_BIND | flags, NULL), path);
    else if (errno != ENOENT)
        must(-1, path);
}
static void mask(void)
{
    static const char *const folders[] = {"/proc/acpi", "/proc/asound", "/proc/scsi",
                                          "/sys/devices/virtual/powercap", "/sys/firmware"};
    static const char *const files[] = {"/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                                        "/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats"};
    static const char *const unchanged[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                            "/proc/sysrq-trigger"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        mask_folder(folders[i]);
    for (int cpu = 0;; cpu++) {
        char path[80];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/thermal_throttle", cpu);
        if (mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0k"))
            break;
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        mask_file(files[i]);
    for (size_t i = 0; i < sizeof unchanged / sizeof *unchanged; i++)
        read_only(unchanged[i]);
}

static void give_up_rights(void)
{
    must(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL), "keyring");
    for (int i = 0; i < ALL_CAPABILITIES; i++)
        if (!(CAPABILITIES >> i & 1))
            must(prctl(PR_CAPBSET_DROP, i, 0, 0, 0), "bounding set");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{(uint32_t)CAPABILITIES, (uint32_t)CAPABILITIES, 0}};
    must(syscall(SYS_capset, &header, data), "capset");
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(prctl(PR_SET_DUMPABLE, 0), "dumpable");
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

static _Noreturn void child(int socket, int groups, char groups_of[][4096], const int opened[], char **command)
{
    must(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
    for (int i = 0; i < groups; i++)
        put("0", "%s/tasks", groups_of[i]);
    if (level >= 2)
        must(unshare(CLONE_NEWCGROUP), "cgroup namespace");
    must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
    int sys = -1, layers = -1;
    if (level >= 2)
        loopback_up();
    if (level == 3)
        layers = overlay(-1);
    if (level == 4)
        layers = take(socket);
    if (level >= 2) {
        /* In a user namespace, groups beyond its map are refused. */
        put("0", "/proc/sys/net/ipv4/ip_unprivileged_port_start");
        put(level == 4 ? "0 65535" : "0 2147483647", "/proc/sys/net/ipv4/ping_group_range");
    }
    int proc = filesystem("proc", NOSUID | NODEV | NOEXEC);
    if (level >= 2)
        sys = filesystem("sysfs", NOSUID | NODEV | NOEXEC | READ_ONLY);
    if (level >= 3) {
        must(fchdir(layers), "fchdir");
        attach(layers, "/");
        must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
        must(umount2(".", MNT_DETACH), "umount");
    } else
        must(chroot(root), root);
    must(chdir("/"), "/");
    if (level == 4) {
        must(setgroups(0, NULL), "setgroups");
        must(setresgid(0, 0, 0), "setresgid");
        must(setresuid(0, 0, 0), "setresuid");
        must(prctl(PR_SET_DUMPABLE, 1), "dumpable");
        must(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
    }
    mkdir("/proc", 0555);
    attach(proc, "/proc");
    fill_dev(opened);
    if (level >= 2)
        more_mounts(sys);
    if (level == 4)
        mask();
    must(sethostname("congo", 5), "sethostname");
    syscall(SYS_close_range, 3, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */);
    if (level == 4)
        give_up_rights();
    char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                           "HOSTNAME=congo", "TERM=xterm", NULL};
    must(execve(command[0], command, environment), command[0]);
    abort();
}

/* Not every kernel counts swap. */
static void limit_swap(const char *group, const char *name, const char *value)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", group, name);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file == -1 && errno == ENOENT)
        return;
    must(file, path);
    must(write(file, value, strlen(value)), path);
    close(file);
}

static void limit(int v2, char groups_of[][4096])
{
    if (v2) {
        put("134217728", "%s/memory.max", groups_of[0]);
        limit_swap(groups_of[0], "memory.swap.max", "134217728");
        put("50000 100000", "%s/cpu.max", groups_of[0]);
        put("64", "%s/pids.max", groups_of[0]);
    } else {
        put("134217728", "%s/memory.limit_in_bytes", groups_of[0]);
        limit_swap(groups_of[0], "memory.memsw.limit_in_bytes", "268435456");
        put("100000", "%s/cpu.cfs_period_us", groups_of[1]);
        put("50000", "%s/cpu.cfs_quota_us", groups_of[1]);
        put("64", "%s/pids.max", groups_of[2]);
    }
}

/* Takes ids of the host that no other container has, as long as this process lives. */
static int reserve_ids(char *path, size_t size)
{
    mkdir(RESERVED, 0700);
    for (;;) {
        uint32_t range;
        must(getrandom(&range, sizeof range, 0), "getrandom");
        host_id = FIRST_ID + range % RANGES * IDS;
        snprintf(path, size, RESERVED "/%u", host_id);
        int lock = must(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), path);
        if (!flock(lock, LOCK_EX | LOCK_NB))
            return lock;
        close(lock);
    }
}

/* The container's folders: the writable layer, and one that overlayfs needs, in which it leaves a mark. */
static const char *const folders[] = {"", "/upper", "/work"};
static const char *const left[] = {"/work/work/incompat/volatile", "/work/work/incompat", "/work/work",
                                   "/work", "/upper", ""};
static const char *in_folder(const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s%s", folder, name);
    return path;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "filter"))
        return fwrite(filter, 1, sizeof filter, stdout) != sizeof filter;
    if (argc < 7)
        return 125;
    level = atoi(argv[1]);
    root = argv[2];
    state = argv[3];
    int v2 = !strcmp(argv[4], "v2"), groups = v2 ? 1 : 3;
    char **command = argv + 5 + groups, reserved[64], groups_of[3][4096];
    int lock = level == 4 ? reserve_ids(reserved, sizeof reserved) : -1;
    for (int i = 0; i < groups; i++) {
        snprintf(groups_of[i], sizeof groups_of[i], "%s/congo.floor.%d", argv[5 + i], getpid());
        must(mkdir(groups_of[i], 0755), groups_of[i]);
    }
    limit(v2, groups_of);
    snprintf(folder, sizeof folder, "%s/floor.%d", state, getpid());
    for (int i = 0; i < 3 && level >= 3; i++)
        must(mkdir(in_folder(folders[i]), i ? 0755 : 0700), folder);
    int opened[DEVICES], ends[2];
    if (level == 4) {
        /* In a user namespace no new device works: the host's, as mounts. */
        for (int i = 0; i < DEVICES; i++) {
            opened[i] = copy_of(devices[i].path);
            change(opened[i], (struct attributes){.set = READ_ONLY, .propagation = MS_PRIVATE});
        }
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
    }
    uint64_t flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS;
    if (level >= 2)
        flags |= CLONE_NEWIPC | CLONE_NEWNET;
    if (level == 4)
        flags |= CLONE_NEWUSER;
    long pid;
    if (v2) {
        int group_of_child = must(open(groups_of[0], O_PATH | O_DIRECTORY | O_CLOEXEC), groups_of[0]);
        /* struct clone_args, as far as CLONE_INTO_CGROUP needs it. */
        uint64_t arguments[11] = {[0] = flags | 0x200000000ULL, [4] = SIGCHLD, [10] = group_of_child};
        pid = must(syscall(SYS_clone3, arguments, sizeof arguments), "clone3");
    } else
        pid = must(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0), "clone");
    if (pid == 0)
        child(ends[1], v2 ? 0 : groups, groups_of, opened, command);
    if (level == 4) {
        char map[64], path[64];
        snprintf(map, sizeof map, "0 %u %u\n", host_id, IDS);
        put(map, "/proc/%ld/gid_map", pid);
        put(map, "/proc/%ld/uid_map", pid);
        snprintf(path, sizeof path, "/proc/%ld/ns/user", pid);
        give(ends[0], overlay(must(open(path, O_RDONLY | O_CLOEXEC), path)));
        /* Or the overlay would not end with the container. Only now: it waits for all CPUs. */
        syscall(SYS_close_range, lock + 1, ~0U, 0);
    }
    int status;
    must(waitpid(pid, &status, 0), "waitpid");
    for (int i = 0; i < groups; i++)
        must(rmdir(groups_of[i]), groups_of[i]);
    if (level >= 3) {
        unlink(in_folder("/work/work/incompat/volatile/dirty"));
        for (int i = 0; i < 6; i++)
            must(rmdir(in_folder(left[i])), left[i]);
    }
    if (level == 4)
        unlink(reserved);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
