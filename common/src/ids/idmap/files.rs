//! Making files as a container's root, while still being the host's.
//!
//! Kernel object: the user and group for the file system (setfsuid(2)), beside the effective ones. An overlay
//! remembers the user that mounted it, and works in its upper layer as that user. If that layer lies on an
//! idmapped mount, the host's own root is no user there at all. Then the kernel makes the overlay read-only:
//! EOVERFLOW, in its log only.
//! Man pages: setfsuid(2), capabilities(7) on SECBIT_NO_SETUID_FIXUP.

use nix::errno::Errno;
use nix::sys::prctl::{get_pdeathsig, set_pdeathsig};
use nix::sys::signal::raise;
use nix::unistd::{Gid, Uid, getppid, setfsgid, setfsuid};
use rustix::thread::{CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits};

use super::IdMaps;
use crate::sys::error::{Context, Error, Result};
use crate::sys::explain;

/// While `story` runs, this thread makes files as the root of these maps, with all its capabilities. Without
/// maps it makes them as itself.
///
/// # Errors
/// When the maps have no root, or this process is not the host's root; those of `story`.
pub fn with_files_of<T>(maps: Option<&IdMaps>, story: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(maps) = maps else { return story() };
    let (user, group) = maps.root()?;
    // With the user for files the kernel forgets which signal this process gets when its parent ends.
    let (signal, parent) = (get_pdeathsig().context("prctl(PR_GET_PDEATHSIG)")?, getppid());
    // Otherwise the kernel would take the capabilities for files away with the user 0.
    keep_capabilities(true)?;
    let told = set(user, group).and_then(|()| story());
    set(0, 0)?;
    keep_capabilities(false)?;
    if let Some(signal) = signal {
        set_pdeathsig(signal).context("prctl(PR_SET_PDEATHSIG)")?;
        if getppid() != parent {
            raise(signal).context("raise")?;
        }
    }
    told
}

fn set(user: u32, group: u32) -> Result<()> {
    setfsgid(Gid::from_raw(group));
    setfsuid(Uid::from_raw(user));
    explain::line(format_args!("setfsgid({group}), setfsuid({user})"), 0, "setfsuid(2)");
    // They return what was before, and never fail: asked once more, they tell what is.
    let is = (setfsuid(Uid::from_raw(u32::MAX)).as_raw(), setfsgid(Gid::from_raw(u32::MAX)).as_raw());
    if is == (user, group) {
        Ok(())
    } else {
        Err(Error::from_errno(format!("setfsuid({user})"), Errno::EPERM))
    }
}

fn keep_capabilities(yes: bool) -> Result<()> {
    const NO_SETUID_FIXUP: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_SETUID_FIXUP;
    let mut bits = capabilities_secure_bits().context("prctl(PR_GET_SECUREBITS)")?;
    bits.set(NO_SETUID_FIXUP, yes);
    set_capabilities_secure_bits(bits).context(format_args!("prctl(PR_SET_SECUREBITS, {:#x})", bits.bits()))
}
