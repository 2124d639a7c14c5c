//! Filters of system calls: seccomp(2).

use nix::errno::Errno;
use nix::libc;
use seccompiler::sock_filter;

use super::call;
use super::error::Result;

/// Lays a filter on this thread, above those that it has: seccomp(2), `SECCOMP_SET_MODE_FILTER`. `names` are
/// those of the flags. The caller has made sure that the program has at most BPF_MAXINSNS instructions.
///
/// # Errors
/// EACCES with neither no_new_privs nor `CAP_SYS_ADMIN`; EINVAL from a kernel without seccomp filters; ENOMEM
/// when all filters of this thread have too many instructions.
pub(crate) fn set_seccomp_filter(program: &[sock_filter], flags: u32, names: &str) -> Result<()> {
    let count = program.len();
    let program = libc::sock_fprog {
        len: count as u16,
        filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    call(
        "seccomp(2)",
        || format!("seccomp(SECCOMP_SET_MODE_FILTER, {names}, {{{count} instructions}})"),
        || {
            let (call, operation) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER);
            // SAFETY: the kernel copies `len` instructions from `filter`, which lives until the call returns;
            // both types of an instruction are the kernel's, with its layout.
            Errno::result(unsafe { libc::syscall(call, operation, flags, &raw const program) }).map(drop)
        },
    )
}
