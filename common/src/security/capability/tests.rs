//! Sets by name, and the five sets of a thread, as the kernel shows them. A thread has its own, so a test drops what it
//! likes and ends.

use std::fs;

use nix::errno::Errno;
use proptest::prelude::*;

use super::*;
use crate::testing::skipped;

fn of(names: &[&str]) -> Capabilities {
    names.iter().map(|name| by_name(name).unwrap()).collect()
}

fn named(names: &[&str]) -> Vec<Named> {
    names
        .iter()
        .map(|&name| if name == "ALL" { Named::All } else { Named::One(by_name(name).unwrap()) })
        .collect()
}

#[test]
fn dockers_capabilities_have_the_kernels_numbers() {
    // As `grep Cap /proc/self/status` shows it in a container of Docker's.
    assert_eq!(Capabilities::docker().bits(), 0x0000_0000_a804_25fb);
    assert_eq!(Capabilities::docker().iter().count(), 14);
    assert_eq!(Capabilities::all().bits(), 0x0000_01ff_ffff_ffff);
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    assert!(last <= 40, "this kernel has capabilities that Congo does not know");
}

#[test]
fn a_set_in_words() {
    assert_eq!(of(&["KILL", "CHOWN"]).to_string(), "CAP_CHOWN|CAP_KILL");
    assert_eq!(Capabilities::NONE.to_string(), "0");
}

#[test]
fn what_a_container_gets() {
    let docker = Capabilities::docker();
    let available = Capabilities::all().difference(of(&["SYS_MODULE"]));
    for (add, drop, expected) in [
        (&[][..], &[][..], docker),
        (&["NET_ADMIN"], &[], docker.union(of(&["NET_ADMIN"]))),
        (&[], &["KILL", "SYS_TIME"], docker.difference(of(&["KILL"]))),
        (&["KILL"], &["KILL"], docker),
        (&[], &["ALL"], Capabilities::NONE),
        (&["KILL", "SYS_TIME"], &["ALL", "CHOWN"], of(&["KILL", "SYS_TIME"])),
        (&["ALL"], &[], available),
        (&["ALL"], &["SYS_ADMIN"], available.difference(of(&["SYS_ADMIN"]))),
        (&["ALL"], &["ALL"], available),
        // What is asked for by name and cannot be had is the kernel's to refuse.
        (&["SYS_MODULE"], &[], docker.union(of(&["SYS_MODULE"]))),
    ] {
        assert_eq!(
            choose(&named(add), &named(drop), available),
            expected,
            "--cap-add {add:?} --cap-drop {drop:?}"
        );
    }
}

/// A set of this thread, as the kernel shows it: `CapBnd`.
fn shown(field: &str) -> Capabilities {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    Capabilities::from_bits(u64::from_str_radix(line.unwrap(), 16).unwrap())
}

/// On a thread of its own; for who has not root's capabilities, says that it was not run.
fn with_capabilities(test: fn()) {
    let needed = of(&["SETPCAP", "SETUID", "CHOWN", "KILL", "NET_RAW"]);
    if needed.difference(get().unwrap().effective) != Capabilities::NONE {
        return skipped(&format!("it needs {needed}, as root has them"));
    }
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn what_is_read_is_what_the_kernel_shows() {
    let Sets { effective, permitted, inheritable } = get().unwrap();
    assert_eq!((effective, permitted, inheritable), (shown("CapEff"), shown("CapPrm"), shown("CapInh")));
    assert_eq!(bounding(), shown("CapBnd"));
}

#[test]
fn the_five_sets() {
    with_capabilities(|| {
        let (kept, ambient) = (of(&["CHOWN", "KILL", "SETPCAP", "NET_RAW"]), of(&["NET_RAW"]));
        drop_bounding(kept).unwrap();
        assert_eq!((shown("CapBnd"), bounding()), (kept, kept));
        let sets = Sets { effective: of(&["KILL"]), permitted: kept, inheritable: ambient };
        set(&sets).unwrap();
        assert_eq!((get().unwrap(), shown("CapEff")), (sets, of(&["KILL"])));
        assert_eq!((shown("CapPrm"), shown("CapInh")), (kept, ambient));
        raise_ambient(ambient).unwrap();
        assert_eq!(shown("CapAmb"), ambient);
        clear_ambient().unwrap();
        assert_eq!(shown("CapAmb"), Capabilities::NONE);
    });
}

#[test]
fn what_a_thread_has_not_it_cannot_get() {
    with_capabilities(|| {
        let some = of(&["CHOWN", "KILL"]);
        set(&Sets { effective: some, permitted: some, inheritable: Capabilities::NONE }).unwrap();
        let error =
            set(&Sets { effective: some, permitted: of(&["CHOWN", "KILL", "SYS_BOOT"]), ..Sets::default() });
        let error = error.unwrap_err();
        let line = "capset(…, {effective CAP_CHOWN|CAP_KILL, permitted CAP_CHOWN|CAP_KILL|CAP_SYS_BOOT, inheritable 0}): \
                    EPERM: Operation not permitted";
        assert_eq!(error.to_string(), line);
        // It is permitted, but not inheritable; and the bounding set needs CAP_SETPCAP.
        assert_eq!(raise_ambient(of(&["KILL"])).unwrap_err().errno(), Some(Errno::EPERM));
        assert_eq!(drop_bounding(some).unwrap_err().errno(), Some(Errno::EPERM));
    });
}

#[test]
fn who_becomes_another_user_keeps_what_is_permitted_if_he_says_so() {
    with_capabilities(|| {
        let become_nobody = || {
            // SAFETY: the call takes numbers only. Not setuid(3), which changes all threads.
            Errno::result(unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) })
                .unwrap();
        };
        let permitted = get().unwrap().permitted;
        keep_capabilities().unwrap();
        become_nobody();
        assert_eq!((shown("CapPrm"), shown("CapEff")), (permitted, Capabilities::NONE));
    });
}

proptest! {
    #[test]
    fn sets_are_sets(a in 0u64..1 << 41, b in 0u64..1 << 41) {
        let (a, b) = (Capabilities::from_bits(a), Capabilities::from_bits(b));
        prop_assert_eq!(a.iter().collect::<Capabilities>(), a);
        prop_assert_eq!(a.difference(b).union(a.intersection(b)), a);
        prop_assert!(Capabilities::all().iter().all(|it| a.union(b).contains(it) == (a.contains(it) || b.contains(it))));
    }
}
