//! Loading a filter is tried on a thread, which takes the filter with it when it ends. `machine` compares the
//! built-in profile with Docker's own. The checks `security.*` try it in a container.

mod format;
mod machine;

use super::*;
use crate::security::capability::Set;
use crate::sys::set_no_new_privs;

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

#[test]
fn a_filter_takes_no_new_privs_or_a_capability() {
    let filter = built_in(&docker());
    let thread = std::thread::spawn(move || {
        crate::security::capability::set(Set::Effective, &Capabilities::new()).unwrap();
        let error = lesson::load(Some(&filter)).unwrap_err();
        set_no_new_privs().unwrap();
        (error, lesson::load(Some(&filter)))
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
