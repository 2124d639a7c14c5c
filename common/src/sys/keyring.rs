//! The kernel's keyrings: secrets that the kernel keeps for a user, a session or a process.
//!
//! No namespace separates them: a container inherits the session keyring of the process that starts it, with
//! the keys in it. Those may be keys of Kerberos or of encrypted file systems. Order: any time before the
//! command; a new user namespace does not replace it. Man pages: keyrings(7), session-keyring(7), keyctl(2).

use nix::errno::Errno;
use nix::libc;

use crate::sys::call;
use crate::sys::error::{Hint, Result};

/// Makes a new, empty session keyring without a name, and joins it: keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`.
/// Returns its number.
///
/// # Errors
/// ENOSYS from a kernel without keyrings: then there is none to share; EDQUOT when the user has too many.
pub fn join_session_keyring() -> Result<usize> {
    call(
        "keyctl(2)",
        || "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)".into(),
        || {
            // SAFETY: NULL, which asks for one without a name, is the only pointer.
            let serial = unsafe {
                libc::syscall(
                    libc::SYS_keyctl,
                    libc::KEYCTL_JOIN_SESSION_KEYRING,
                    std::ptr::null::<libc::c_char>(),
                    0,
                    0,
                    0,
                )
            };
            Errno::result(serial).map(|serial| usize::try_from(serial).unwrap_or_default())
        },
    )
    .hint_if(Errno::EDQUOT, "too many keyrings of this user: /proc/sys/kernel/keys/maxkeys, /proc/key-users")
    .hint_if(Errno::EPERM, "a seccomp filter around this runtime forbids it, as in a container of Docker's")
}
