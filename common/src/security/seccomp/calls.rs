//! Which system calls the built-in profile allows: Docker's list, by subject.
//!
//! A call that a machine does not have is passed over there. The lists have only calls whose arguments do not
//! matter; the others stand in step 4's `seccomp.rs`.
//! Source: Docker's default profile (moby/profiles, seccomp/default.json).

use seccompiler::SeccompCmpOp as Op;

use super::Calls;
use crate::security::capability::Capability;

/// What every container may call. The compiler looks the names up.
pub static EVERYBODY: Calls = Calls::named(&NAMES_OF_EVERYBODY);

/// The same by name, with white space between two names.
pub const NAMES_OF_EVERYBODY: [&str; 10] = [
    // Processes, programs, signals.
    "execve execveat exit exit_group fork vfork wait4 waitid getpid getppid gettid getpgid getpgrp \
     getsid setpgid setsid kill tkill tgkill pause pidfd_open pidfd_send_signal process_mrelease \
     rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4 restart_syscall set_tid_address \
     get_robust_list set_robust_list rseq prctl seccomp landlock_create_ruleset landlock_add_rule \
     landlock_restrict_self get_thread_area set_thread_area uretprobe uname sysinfo getcpu membarrier \
     map_shadow_stack",
    // Scheduling and limits.
    "sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
     sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam \
     sched_setscheduler sched_yield getpriority setpriority ioprio_get ioprio_set getrlimit setrlimit \
     prlimit64 getrusage times",
    // Users and capabilities.
    "getuid geteuid getresuid getgid getegid getresgid getgroups setuid setreuid setresuid setfsuid \
     setgid setregid setresgid setfsgid setgroups capget capset",
    // Memory.
    "brk mmap munmap mprotect mremap madvise mincore msync mlock mlock2 mlockall munlock munlockall \
     mseal memfd_create memfd_secret pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    // Opening, reading and writing.
    "open openat openat2 creat close close_range dup dup2 dup3 fcntl flock ioctl read readv pread64 \
     preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek readahead fadvise64 cachestat fallocate \
     truncate ftruncate sync syncfs fsync fdatasync sync_file_range copy_file_range sendfile splice tee \
     vmsplice pipe pipe2 io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    // Names, directories, attributes.
    "access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs statmount listmount \
     chdir fchdir getcwd umask mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat unlink \
     unlinkat rename renameat renameat2 readlink readlinkat getdents getdents64 name_to_handle_at chmod \
     fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat getxattr \
     lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr \
     flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat inotify_init \
     inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark",
    // Waiting and time.
    "select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait \
     epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 futex futex_requeue futex_wait futex_waitv \
     futex_wake nanosleep clock_nanosleep clock_getres clock_gettime clock_adjtime adjtimex time \
     gettimeofday alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime \
     timer_settime timerfd_create timerfd_gettime timerfd_settime getrandom",
    // Sockets, once they are made, and System V and POSIX IPC.
    "socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt \
     setsockopt recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg shmget shmat shmdt shmctl semget semop \
     semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_notify mq_getsetattr \
     mq_timedsend mq_timedreceive",
    // Other processes of the container. Not before Linux 4.8: there a traced process could get around its
    // filter.
    "ptrace process_vm_readv process_vm_writev",
    // Only on x86_64.
    "arch_prctl modify_ldt",
];

/// The families of sockets: the first argument of socket(2). Neither AF_ALG (38), the kernel's ciphers, nor
/// AF_VSOCK (40), the way to the hypervisor, nor a family that nothing uses.
pub const SOCKET_FAMILIES: [(Op, u64); 26] = [
    (Op::Lt, 12),
    (Op::Eq, 13),
    (Op::Eq, 14),
    (Op::Eq, 15),
    (Op::Eq, 16),
    (Op::Eq, 17),
    (Op::Eq, 18),
    (Op::Eq, 21),
    (Op::Eq, 22),
    (Op::Eq, 24),
    (Op::Eq, 26),
    (Op::Eq, 27),
    (Op::Eq, 28),
    (Op::Eq, 29),
    (Op::Eq, 30),
    (Op::Eq, 31),
    (Op::Eq, 32),
    (Op::Eq, 33),
    (Op::Eq, 35),
    (Op::Eq, 36),
    (Op::Eq, 39),
    (Op::Eq, 41),
    (Op::Eq, 42),
    (Op::Eq, 43),
    (Op::Eq, 44),
    (Op::Eq, 45),
];

/// The calls that a capability makes possible, for processes that have it.
pub const WITH_CAPABILITY: [(Capability, &str); 14] = [
    (
        Capability::CAP_SYS_ADMIN,
        "mount umount2 fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr \
         quotactl quotactl_fd clone clone3 unshare setns sethostname setdomainname bpf \
         perf_event_open fanotify_init syslog lookup_dcookie lsm_get_self_attr lsm_set_self_attr \
         lsm_list_modules",
    ),
    (Capability::CAP_BPF, "bpf"),
    (Capability::CAP_PERFMON, "perf_event_open"),
    (Capability::CAP_SYSLOG, "syslog"),
    (Capability::CAP_DAC_READ_SEARCH, "open_by_handle_at"),
    (Capability::CAP_SYS_CHROOT, "chroot"),
    (Capability::CAP_SYS_BOOT, "reboot"),
    (Capability::CAP_SYS_PACCT, "acct"),
    (Capability::CAP_SYS_RAWIO, "iopl ioperm"),
    (Capability::CAP_SYS_TIME, "settimeofday clock_settime"),
    (Capability::CAP_SYS_TTY_CONFIG, "vhangup"),
    (Capability::CAP_SYS_MODULE, "init_module finit_module delete_module"),
    (
        Capability::CAP_SYS_PTRACE,
        "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp",
    ),
    (Capability::CAP_SYS_NICE, "mbind get_mempolicy set_mempolicy set_mempolicy_home_node"),
];
