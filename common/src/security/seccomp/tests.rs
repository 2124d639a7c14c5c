//! The built-in profile, tried on the kernel: on a thread, which takes the filter with it when it ends.

mod format;
#[cfg(target_arch = "x86_64")]
mod i386;
mod machine;

use std::time::{Duration, Instant};

use super::*;
use crate::security::capability::{Capability, Set};
use crate::sys::{raw, set_no_new_privs};
use crate::testing::skipped;

/// The built-in profile is a lesson of the last step. It is tried here, where the machine is that runs a
/// filter.
#[path = "../../../../step4-users/src/seccomp.rs"]
mod lesson;

/// The filter of a container that asks for no other one.
fn built_in(has: &Capabilities) -> Filter {
    lesson::prepare(&crate::values::SeccompProfile::BuiltIn, has).unwrap().unwrap()
}

/// Docker's 14, as `grep Cap /proc/self/status` shows them in a container of Docker's.
fn docker() -> Capabilities {
    caps::all().into_iter().filter(|it| 0xa804_25fb_u64 & it.bitmask() != 0).collect()
}

/// A call, which with these arguments does nothing wherever it is allowed.
type Attempt = (&'static str, libc::c_long, [u64; 5]);

/// Forbidden without further capabilities: EPERM.
const FORBIDDEN: [Attempt; 33] = [
    ("unshare(CLONE_NEWUSER|CLONE_NEWTIME)", libc::SYS_unshare, [0x1000_0080, 0, 0, 0, 0]),
    ("clone(CLONE_NEWNS|CLONE_FS)", libc::SYS_clone, [0x0002_0200, 0, 0, 0, 0]),
    ("setns", libc::SYS_setns, [u64::MAX, 0, 0, 0, 0]),
    ("mount", libc::SYS_mount, [0; 5]),
    ("umount2", libc::SYS_umount2, [0, u64::MAX, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [0; 5]),
    ("fsopen", libc::SYS_fsopen, [0; 5]),
    ("fsconfig", libc::SYS_fsconfig, [u64::MAX, 0, 0, 0, 0]),
    ("fsmount", libc::SYS_fsmount, [u64::MAX, 0, 0, 0, 0]),
    ("fspick", libc::SYS_fspick, [u64::MAX, 0, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [u64::MAX, 0, 0, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [u64::MAX, 0, u64::MAX, 0, 0]),
    ("mount_setattr", libc::SYS_mount_setattr, [u64::MAX, 0, 0, 0, 0]),
    ("sethostname", libc::SYS_sethostname, [0, u64::MAX, 0, 0, 0]),
    ("socket(AF_ALG)", libc::SYS_socket, [38, u64::MAX, 0, 0, 0]),
    ("socket(AF_VSOCK)", libc::SYS_socket, [40, u64::MAX, 0, 0, 0]),
    (
        "socket(AF_ALG), for the kernel, which reads 32 bits",
        libc::SYS_socket,
        [1 << 32 | 38, u64::MAX, 0, 0, 0],
    ),
    ("personality(ADDR_NO_RANDOMIZE)", libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [u64::MAX, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [0; 5]),
    ("request_key", libc::SYS_request_key, [0; 5]),
    ("bpf", libc::SYS_bpf, [u64::MAX, 0, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
    ("userfaultfd", libc::SYS_userfaultfd, [u64::MAX, 0, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 5]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [u64::MAX, 0, 0, 0, 0]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [u64::MAX, 0, 0, 0, 0]),
    ("syslog", libc::SYS_syslog, [u64::MAX, 0, 0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [u64::MAX, 0, 0, 0, 0]),
    ("fanotify_init", libc::SYS_fanotify_init, [u64::MAX, 0, 0, 0, 0]),
    ("kcmp", libc::SYS_kcmp, [0, 0, u64::MAX, 0, 0]),
    ("swapoff", libc::SYS_swapoff, [0; 5]),
    ("set_mempolicy", libc::SYS_set_mempolicy, [u64::MAX, 0, 0, 0, 0]),
];

/// Allowed, with the errno that the kernel gives, or none.
const ALLOWED: [(&str, libc::c_long, [u64; 5], Option<Errno>); 11] = [
    ("getpid", libc::SYS_getpid, [0; 5], None),
    ("personality, to ask", libc::SYS_personality, [0xFFFF_FFFF, 0, 0, 0, 0], None),
    ("socket(AF_UNIX)", libc::SYS_socket, [1, u64::MAX, 0, 0, 0], Some(Errno::EINVAL)),
    ("socket(AF_INET6)", libc::SYS_socket, [10, u64::MAX, 0, 0, 0], Some(Errno::EINVAL)),
    ("socket(AF_NETLINK)", libc::SYS_socket, [16, u64::MAX, 0, 0, 0], Some(Errno::EINVAL)),
    (
        "clone(CLONE_THREAD), which needs more flags",
        libc::SYS_clone,
        [0x0001_0000, 0, 0, 0, 0],
        Some(Errno::EINVAL),
    ),
    ("ptrace of nobody", libc::SYS_ptrace, [2, 0x7FFF_FFFF, 0, 0, 0], Some(Errno::ESRCH)),
    ("seccomp", libc::SYS_seccomp, [u64::MAX, 0, 0, 0, 0], Some(Errno::EINVAL)),
    ("capset", libc::SYS_capset, [0; 5], Some(Errno::EFAULT)),
    ("chroot, as CAP_SYS_CHROOT is one of Docker's 14", libc::SYS_chroot, [0; 5], Some(Errno::EFAULT)),
    ("dup", libc::SYS_dup, [u64::MAX, 0, 0, 0, 0], Some(Errno::EBADF)),
];

fn make((_, number, arguments): Attempt) -> nix::Result<libc::c_long> {
    // What would be pointers are null, and all fail or change nothing wherever they are let through.
    raw::call(number, arguments)
}

/// Makes the calls on a thread that has the built-in profile for these capabilities.
fn filtered(has: &Capabilities, attempts: Vec<Attempt>) -> Vec<nix::Result<libc::c_long>> {
    let filter = built_in(has);
    let thread = std::thread::spawn(move || {
        set_no_new_privs().unwrap();
        filter.load().unwrap();
        attempts.into_iter().map(make).collect()
    });
    thread.join().unwrap()
}

#[test]
fn what_is_forbidden() {
    let results = filtered(&docker(), FORBIDDEN.to_vec());
    for ((name, ..), result) in FORBIDDEN.iter().zip(results) {
        assert_eq!(result, Err(Errno::EPERM), "{name}");
    }
    // It was the filter that said so, and not the kernel.
    if !nix::unistd::geteuid().is_root() {
        skipped("its second half needs root, to whom the kernel says EPERM of its own seldom");
        return;
    }
    let without = std::thread::spawn(|| FORBIDDEN.map(make)).join().unwrap();
    for ((name, ..), result) in FORBIDDEN.iter().zip(without) {
        assert_ne!(result, Err(Errno::EPERM), "{name}, without a filter");
    }
}

#[test]
fn what_is_allowed() {
    let attempts = ALLOWED.map(|(name, number, arguments, _)| (name, number, arguments));
    let results = filtered(&docker(), attempts.to_vec());
    for ((name, _, _, expected), result) in ALLOWED.iter().zip(results) {
        assert_eq!(result.err(), *expected, "{name}");
    }
}

#[test]
fn what_a_c_library_has_to_find_missing() {
    let clone3 = ("clone3", libc::SYS_clone3, [0; 5]);
    let newer = ("the call after the newest that the profile knows", 467, [u64::MAX; 5]);
    let far = ("one that will not be there for a long time", 4000, [0; 5]);
    let results = filtered(&docker(), vec![clone3, newer, far]);
    assert_eq!(results, [Err(Errno::ENOSYS); 3]);
    assert_eq!(make(clone3), Err(Errno::EINVAL), "without a filter");
}

#[test]
fn what_a_capability_makes_possible() {
    let nothing = ("mount at no place", libc::SYS_mount, [0; 5]);
    let clone3 = ("clone3", libc::SYS_clone3, [0; 5]);
    let clone = ("clone(CLONE_NEWNS|CLONE_FS)", libc::SYS_clone, [0x0002_0200, 0, 0, 0, 0]);
    let admin = &docker() | &Capabilities::from([Capability::CAP_SYS_ADMIN]);
    let results = filtered(&admin, vec![nothing, clone3, clone]);
    assert_eq!(results, [Err(Errno::EFAULT), Err(Errno::EINVAL), Err(Errno::EINVAL)]);

    let chroot = ("chroot", libc::SYS_chroot, [0; 5]);
    assert_eq!(filtered(&Capabilities::new(), vec![chroot]), [Err(Errno::EPERM)]);
}

#[test]
fn a_filter_takes_no_new_privs_or_a_capability() {
    let filter = built_in(&docker());
    let thread = std::thread::spawn(move || {
        crate::security::capability::set(Set::Effective, &Capabilities::new()).unwrap();
        let error = filter.load().unwrap_err();
        set_no_new_privs().unwrap();
        (error, filter.load())
    });
    let (error, then) = thread.join().unwrap();
    assert_eq!(error.errno(), Some(Errno::EACCES));
    assert_eq!(
        error.to_string(),
        format!(
            "seccomp(SECCOMP_SET_MODE_FILTER, 0, {{{} instructions}}): EACCES: Permission denied",
            built_in(&docker()).instructions()
        )
    );
    assert_eq!(then, Ok(()));
}

#[test]
fn the_flags_reach_the_kernel() {
    let filter = built_in(&docker());
    let thread = std::thread::spawn(move || {
        set_no_new_privs().unwrap();
        let unknown = Filter { flags: 1 << 31, ..filter.clone() };
        (unknown.load().unwrap_err().errno(), Filter { flags: 2, ..filter }.load())
    });
    assert_eq!(thread.join().unwrap(), (Some(Errno::EINVAL), Ok(())));
}

#[test]
fn a_program_runs_behind_it() {
    let filter = built_in(&docker());
    let thread = std::thread::spawn(move || {
        set_no_new_privs().unwrap();
        lesson::load(Some(&filter)).unwrap();
        std::process::Command::new("sh")
            .args(["-c", "(echo a; echo b) | sort -r; grep Seccomp: /proc/self/status"])
            .output()
    });
    let output = thread.join().unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b\na\nSeccomp:\t2\n", "{output:?}");
}

/// What it costs at a start, in microseconds: with optimization, less than half a millisecond.
/// `cargo test --release -p common --features seccomp -- --ignored --nocapture what_it_costs`.
#[test]
#[ignore = "it measures; run it alone"]
fn what_it_costs() {
    const TIMES: usize = 301;
    let mut times = [(); 3].map(|()| Vec::new());
    for _ in 0..TIMES {
        let begin = Instant::now();
        let filter = built_in(&docker());
        let compiled = begin.elapsed();
        let loaded = std::thread::spawn(move || {
            set_no_new_privs().unwrap();
            let begin = Instant::now();
            filter.load().unwrap();
            begin.elapsed()
        });
        let loaded = loaded.join().unwrap();
        for (list, time) in times.iter_mut().zip([compiled, loaded, compiled + loaded]) {
            list.push(time);
        }
    }
    let median = |list: &mut Vec<Duration>| {
        list.sort_unstable();
        list[TIMES / 2].as_micros()
    };
    let [compile, load, all] = times.each_mut().map(median);
    let instructions = built_in(&docker()).instructions();
    println!("{instructions} instructions: compile {compile} µs, load {load} µs, all {all} µs");
    assert!(all < 500 || cfg!(debug_assertions), "half a millisecond is what a start may spend on it");
}
