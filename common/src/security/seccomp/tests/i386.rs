//! A call of another ABI: in a child, as it ends a process.

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::{built_in, docker};
use crate::sys::set_no_new_privs;
use crate::testing::skipped;

/// How a child ends that makes the call getpid of i386, behind the built-in filter or without one.
fn ending(filtered: bool) -> WaitStatus {
    let filter = built_in(&docker());
    // SAFETY: the child makes system calls only, and none that another thread's locks could hold up.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let failed = filtered && (set_no_new_privs().is_err() || filter.load().is_err());
            // SAFETY: getpid has no arguments. The kernel's entry for it keeps all registers but rax and these.
            unsafe {
                std::arch::asm!(
                    "int 0x80", inlateout("rax") 20_u64 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _
                );
            }
            // SAFETY: it runs no code of this process any more.
            unsafe { libc::_exit(i32::from(failed)) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    }
}

#[test]
fn a_32_bit_call_ends_the_process() {
    if !matches!(ending(false), WaitStatus::Exited(_, 0)) {
        return skipped("this kernel runs no 32-bit programs");
    }
    let ended = ending(true);
    assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGSYS, _)), "{ended:?}");
}
