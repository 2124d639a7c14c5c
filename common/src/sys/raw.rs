//! System calls as numbers, for the tests of filters.

use nix::errno::Errno;
use nix::libc;

/// Makes a system call. The test sees to it that no argument is the address of any memory.
pub(crate) fn call(number: libc::c_long, [a, b, c, d, e]: [u64; 5]) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel touches no memory of this process, as no argument is an address.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) })
}

/// The call getpid as a 32-bit program makes it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn getpid_of_i386() {
    // SAFETY: getpid has no arguments. The kernel's entry for it keeps all registers but rax and these.
    unsafe {
        std::arch::asm!(
            "int 0x80", inlateout("rax") 20_u64 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _
        );
    }
}
