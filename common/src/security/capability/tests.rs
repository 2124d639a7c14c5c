//! Names, and the cases in which the kernel refuses. The checks `cap.*` look at the five sets of a container.

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
fn what_a_thread_has_not_it_cannot_get() {
    let needed = of(&["SETPCAP", "CHOWN", "KILL"]);
    if !needed.is_subset(&shown("CapEff")) {
        return skipped(&format!("it needs {}, as root has them", text(&needed)));
    }
    let thread = std::thread::spawn(|| {
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
    thread.join().unwrap();
}
