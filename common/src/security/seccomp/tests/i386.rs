//! A call of another ABI: in a child, as it ends a process.

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use super::{built_in, docker};
use crate::sys::clone::{exit_now, fork};
use crate::sys::{raw, set_no_new_privs};
use crate::testing::skipped;

/// How a child ends that makes the call getpid of i386, behind the built-in filter or without one.
fn ending(filtered: bool) -> WaitStatus {
    let filter = built_in(&docker());
    let Some(child) = fork().unwrap() else {
        let failed = filtered && (set_no_new_privs().is_err() || filter.load().is_err());
        raw::getpid_of_i386();
        exit_now(failed.into());
    };
    waitpid(child, None).unwrap()
}

#[test]
fn a_32_bit_call_ends_the_process() {
    if !matches!(ending(false), WaitStatus::Exited(_, 0)) {
        return skipped("this kernel runs no 32-bit programs");
    }
    let ended = ending(true);
    assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGSYS, _)), "{ended:?}");
}
