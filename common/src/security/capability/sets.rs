//! The system calls around a thread's five sets of capabilities. `nix` has none of them.

use nix::errno::Errno;
use nix::libc;

use super::{Capabilities, Capability};
use crate::sys::call;
use crate::sys::error::{Hint, Result};

/// What is said where the kernel refuses.
const NOT_HELD: &str = "nobody can give what he does not have: see CapPrm and CapBnd in /proc/self/status";

/// The three sets that capset(2) takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    /// What the kernel asks for when it checks.
    pub effective: Capabilities,
    /// What the thread may make effective.
    pub permitted: Capabilities,
    /// What passes execve(2) into a file that has it inheritable, too, or by way of the ambient set.
    pub inheritable: Capabilities,
}

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// One half of each set. The kernel takes two, the low bits first.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The effective, permitted and inheritable set of this thread: capget(2).
///
/// # Errors
/// None that the caller can cause.
pub fn get() -> Result<Sets> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    call(
        "capget(2)",
        || "capget({_LINUX_CAPABILITY_VERSION_3, 0}, …)".into(),
        || {
            // SAFETY: version 3 means two halves, and both pointers are to structures of the kernel's layout.
            let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
            Errno::result(result).map(drop)
        },
    )?;
    let whole = |half: fn(&Half) -> u32| {
        Capabilities::from_bits(u64::from(half(&halves[0])) | u64::from(half(&halves[1])) << 32)
    };
    Ok(Sets {
        effective: whole(|half| half.effective),
        permitted: whole(|half| half.permitted),
        inheritable: whole(|half| half.inheritable),
    })
}

/// Sets the effective, permitted and inheritable set of this thread: capset(2). What leaves the permitted set is gone
/// from the ambient one, too.
///
/// # Errors
/// EPERM when the permitted set would grow, when another set has what it has not, or when the inheritable one gets what
/// is not in the bounding set.
pub fn set(sets: &Sets) -> Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    // The cast cuts off what the shift leaves.
    let half = |shift| Half {
        effective: (sets.effective.bits() >> shift) as u32,
        permitted: (sets.permitted.bits() >> shift) as u32,
        inheritable: (sets.inheritable.bits() >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    call(
        "capset(2)",
        || {
            let Sets { effective, permitted, inheritable } = sets;
            format!("capset(…, {{effective {effective}, permitted {permitted}, inheritable {inheritable}}})")
        },
        || {
            // SAFETY: version 3 means two halves, and both pointers are to structures of the kernel's layout.
            let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
            Errno::result(result).map(drop)
        },
    )
    .hint_if(Errno::EPERM, NOT_HELD)
}

/// The bounding set of this thread: the most that it can have after an execve(2).
pub fn bounding() -> Capabilities {
    // EINVAL for what this kernel does not have.
    Capabilities::all()
        .iter()
        .filter(|&it| prctl(libc::PR_CAPBSET_READ, it.index().into(), 0) == Ok(1))
        .collect()
}

/// Drops all but `kept` from the bounding set: prctl(2), `PR_CAPBSET_DROP`. From then on no execve(2) gives more, not
/// even of a set-user-ID program or of one with file capabilities.
///
/// # Errors
/// EPERM without `CAP_SETPCAP` in the effective set.
pub fn drop_bounding(kept: Capabilities) -> Result<()> {
    let dropped = bounding().difference(kept);
    call(
        "PR_CAPBSET_DROP(2const)",
        || format!("prctl(PR_CAPBSET_DROP, each of {dropped})"),
        || dropped.iter().try_for_each(|it| prctl(libc::PR_CAPBSET_DROP, it.index().into(), 0).map(drop)),
    )
}

/// Empties the ambient set: prctl(2), `PR_CAP_AMBIENT`.
///
/// # Errors
/// None that the caller can cause.
pub fn clear_ambient() -> Result<()> {
    call(
        "PR_CAP_AMBIENT(2const)",
        || "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)".into(),
        || prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL.cast_unsigned().into(), 0).map(drop),
    )
}

/// Adds to the ambient set, which is what a program of a user who is not root keeps over execve(2): prctl(2),
/// `PR_CAP_AMBIENT`.
///
/// # Errors
/// EPERM for one that is not both permitted and inheritable.
pub fn raise_ambient(raised: Capabilities) -> Result<()> {
    let raise = |it: Capability| {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE.cast_unsigned().into(), it.index().into())
    };
    call(
        "PR_CAP_AMBIENT(2const)",
        || format!("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, each of {raised})"),
        || raised.iter().try_for_each(|it| raise(it).map(drop)),
    )
    .hint_if(Errno::EPERM, NOT_HELD)
}

/// Keeps the permitted set when this thread becomes another user than root: prctl(2), `PR_SET_KEEPCAPS`. The effective
/// set is emptied all the same. execve(2) ends it.
///
/// # Errors
/// EPERM when `SECBIT_KEEP_CAPS_LOCKED` forbids it.
pub fn keep_capabilities() -> Result<()> {
    call(
        "PR_SET_KEEPCAPS(2const)",
        || "prctl(PR_SET_KEEPCAPS, 1)".into(),
        || prctl(libc::PR_SET_KEEPCAPS, 1, 0).map(drop),
    )
}

fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> nix::Result<libc::c_int> {
    // SAFETY: none of the options that are used here takes a pointer. Those that are not used must be zero.
    Errno::result(unsafe { libc::prctl(option, first, second, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}
