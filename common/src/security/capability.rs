//! Capabilities by name, and the calls on the five sets of a thread: the crate `caps` makes them, `--explain`
//! tells them.
//!
//! Kernel objects: the thread's bounding, permitted, effective, inheritable and ambient set. Step 4's
//! `capabilities.rs` says what each set is for, and in which order they are set.
//! Man pages: capabilities(7), capset(2), PR_CAPBSET_DROP(2const), PR_CAP_AMBIENT(2const),
//! PR_SET_KEEPCAPS(2const).

#[cfg(test)]
mod tests;

use caps::errors::CapsError;
use nix::errno::Errno;

pub use caps::{CapSet as Set, Capability};

use crate::sys::error::{Error, Hint, Result};
use crate::sys::{call, names};
pub use crate::values::{Named, by_name};

/// A set of capabilities.
pub type Capabilities = caps::CapsHashSet;

/// The hint where the kernel refuses.
const NOT_HELD: &str =
    "a process cannot give what it does not have itself: see CapPrm and CapBnd in /proc/self/status";

/// Those of the list that are named one by one.
pub fn named(list: &[Named]) -> Capabilities {
    let one = |it: &Named| if let Named::One(capability) = it { Some(*capability) } else { None };
    list.iter().filter_map(one).collect()
}

/// The bounding set of this thread: the most that it can have after an execve(2).
///
/// # Errors
/// When the kernel cannot be asked, as behind a seccomp filter that forbids prctl(2).
pub fn bounding() -> Result<Capabilities> {
    let mut held = Capabilities::new();
    for capability in caps::all() {
        match caps::has_cap(None, Set::Bounding, capability).map_err(|error| errno(&error)) {
            Ok(true) => drop(held.insert(capability)),
            // EINVAL: this kernel is older than the capability.
            Ok(false) | Err(Errno::EINVAL) => {}
            Err(errno) => {
                return Err(Error::from_errno(format!("prctl(PR_CAPBSET_READ, {capability})"), errno));
            }
        }
    }
    Ok(held)
}

/// Drops all but `kept` from the bounding set: prctl(2), `PR_CAPBSET_DROP`. From then on no execve(2) gives
/// more, not even of a set-user-ID program or of one with file capabilities.
///
/// # Errors
/// EPERM without `CAP_SETPCAP` in the effective set.
pub fn drop_bounding(kept: &Capabilities) -> Result<()> {
    let dropped = &caps::all() - kept;
    told(
        "PR_CAPBSET_DROP(2const)",
        || format!("prctl(PR_CAPBSET_DROP, each of {})", text(&dropped)),
        || dropped.iter().try_for_each(|&it| drop_one(it)),
    )
}

fn drop_one(dropped: Capability) -> Result<(), CapsError> {
    match caps::drop(None, Set::Bounding, dropped) {
        // EINVAL: this kernel is older than the capability. EPERM: this thread may drop nothing, and that is
        // no failure where there is nothing to drop.
        Err(error) if errno(&error) == Errno::EINVAL => Ok(()),
        Err(error) if errno(&error) == Errno::EPERM => match caps::has_cap(None, Set::Bounding, dropped)? {
            true => Err(error),
            false => Ok(()),
        },
        dropped => dropped,
    }
}

/// Sets the effective, the permitted or the inheritable set of this thread: capset(2). A capability that
/// leaves the permitted set leaves the ambient set, too.
///
/// # Errors
/// EPERM in three cases:
/// - The permitted set would grow.
/// - The effective set would get a capability that is not permitted.
/// - The inheritable set would get one that is neither permitted nor in the bounding set.
pub fn set(which: Set, capabilities: &Capabilities) -> Result<()> {
    let line = || format!("capset(…, {{{} {}}})", format!("{which:?}").to_lowercase(), text(capabilities));
    told("capset(2)", line, || caps::set(None, which, capabilities)).hint_if(Errno::EPERM, NOT_HELD)
}

/// Empties the ambient set: prctl(2), `PR_CAP_AMBIENT`.
///
/// # Errors
/// None that the caller can cause.
pub fn clear_ambient() -> Result<()> {
    let line = || "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)".into();
    told("PR_CAP_AMBIENT(2const)", line, || caps::clear(None, Set::Ambient))
}

/// Adds to the ambient set: prctl(2), `PR_CAP_AMBIENT`. A program of a user other than root keeps this set
/// over execve(2).
///
/// # Errors
/// EPERM for one that is not both permitted and inheritable.
pub fn raise_ambient(raised: &Capabilities) -> Result<()> {
    let line = || format!("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, each of {})", text(raised));
    told("PR_CAP_AMBIENT(2const)", line, || {
        raised.iter().try_for_each(|&it| caps::raise(None, Set::Ambient, it))
    })
    .hint_if(Errno::EPERM, NOT_HELD)
}

/// Keeps the permitted set when this thread changes from root to another user: prctl(2), `PR_SET_KEEPCAPS`.
/// The effective set is emptied all the same. execve(2) ends it.
///
/// # Errors
/// EPERM when `SECBIT_KEEP_CAPS_LOCKED` forbids it.
pub fn keep_capabilities() -> Result<()> {
    let line = || "prctl(PR_SET_KEEPCAPS, 1)".into();
    told("PR_SET_KEEPCAPS(2const)", line, || caps::securebits::set_keepcaps(true))
}

/// Makes the call, tells it, and gives an error its name and arguments.
fn told(man: &str, line: impl Fn() -> String, action: impl FnOnce() -> Result<(), CapsError>) -> Result<()> {
    call(man, line, || action().map_err(|error| errno(&error)))
}

/// The crate tells the errno as text only: `capset failure: Operation not permitted (os error 1)`.
fn errno(error: &CapsError) -> Errno {
    let text = error.to_string();
    let number =
        text.rsplit_once("(os error ").and_then(|(_, number)| number.strip_suffix(')')?.parse().ok());
    number.map_or(Errno::EIO, Errno::from_raw)
}

/// `CAP_CHOWN|CAP_KILL`, in the order of their numbers, or `0`.
fn text(set: &Capabilities) -> String {
    let mut sorted: Vec<_> = set.iter().collect();
    sorted.sort_unstable_by_key(|it| it.index());
    let sorted: Vec<_> = sorted.into_iter().map(Capability::to_string).collect();
    names(sorted.iter().map(String::as_str))
}
