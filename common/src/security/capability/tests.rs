//! The five sets of a thread, as the kernel shows them. A thread has its own, so a test drops what it likes
//! and ends.

use std::fs;

use super::*;
use crate::testing::skipped;

fn of(names: &[&str]) -> Capabilities {
    names.iter().map(|name| by_name(name).unwrap()).collect()
}

/// A set of this thread, as the kernel shows it: `CapBnd`.
fn shown(field: &str) -> Capabilities {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    let bits = u64::from_str_radix(line.unwrap(), 16).unwrap();
    caps::all().into_iter().filter(|it| bits & it.bitmask() != 0).collect()
}

/// On a thread of its own; for a caller without root's capabilities, says that it was not run.
fn with_capabilities(test: fn()) {
    let needed = of(&["SETPCAP", "SETUID", "CHOWN", "KILL", "NET_RAW"]);
    if !needed.is_subset(&shown("CapEff")) {
        return skipped(&format!("it needs {}, as root has them", text(&needed)));
    }
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn capabilities_by_name() {
    let last: u8 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    let all = caps::all();
    assert!(all.iter().any(|it| it.index() >= last), "this kernel has capabilities that Congo does not know");
    assert_eq!(by_name("cap_Net_raw"), Some(Capability::CAP_NET_RAW));
    assert_eq!(text(&of(&["KILL", "CHOWN"])), "CAP_CHOWN|CAP_KILL");
    assert_eq!(text(&Capabilities::new()), "0");
    let list = [Named::All, Named::One(Capability::CAP_KILL)];
    assert_eq!((named(&list), named(&[])), (of(&["KILL"]), of(&[])));
    assert_eq!(bounding().unwrap(), shown("CapBnd"));
}

#[test]
fn the_five_sets() {
    with_capabilities(|| {
        let (kept, ambient) = (of(&["CHOWN", "KILL", "SETPCAP", "NET_RAW"]), of(&["NET_RAW"]));
        drop_bounding(&kept).unwrap();
        assert_eq!((shown("CapBnd"), bounding().unwrap()), (kept.clone(), kept.clone()));
        set(Set::Effective, &of(&["KILL"])).unwrap();
        set(Set::Inheritable, &ambient).unwrap();
        set(Set::Permitted, &kept).unwrap();
        assert_eq!((shown("CapEff"), shown("CapPrm")), (of(&["KILL"]), kept));
        assert_eq!(shown("CapInh"), ambient);
        raise_ambient(&ambient).unwrap();
        assert_eq!(shown("CapAmb"), ambient);
        clear_ambient().unwrap();
        assert_eq!(shown("CapAmb"), of(&[]));
    });
}

#[test]
fn what_a_thread_has_not_it_cannot_get() {
    with_capabilities(|| {
        let some = of(&["CHOWN", "KILL"]);
        for which in [Set::Effective, Set::Inheritable, Set::Permitted] {
            set(which, &some).unwrap();
        }
        set(Set::Inheritable, &of(&[])).unwrap();
        let error = set(Set::Permitted, &of(&["CHOWN", "KILL", "SYS_BOOT"])).unwrap_err();
        let line = "capset(…, {permitted CAP_CHOWN|CAP_KILL|CAP_SYS_BOOT}): EPERM: Operation not permitted";
        assert_eq!(error.to_string(), line);
        // It is permitted, but not inheritable; and the bounding set needs CAP_SETPCAP.
        assert_eq!(raise_ambient(&of(&["KILL"])).unwrap_err().errno(), Some(Errno::EPERM));
        assert_eq!(drop_bounding(&some).unwrap_err().errno(), Some(Errno::EPERM));
    });
}

#[test]
fn a_change_of_the_user_leaves_what_is_permitted_if_that_is_kept() {
    with_capabilities(|| {
        let become_nobody = || {
            // Not setuid(3), which changes all threads.
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        };
        let permitted = shown("CapPrm");
        keep_capabilities().unwrap();
        become_nobody();
        assert_eq!((shown("CapPrm"), shown("CapEff")), (permitted, of(&[])));
    });
}
