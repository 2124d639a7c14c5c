//! Making a mount where nobody sees it, and taking it along as a descriptor.
//!
//! Kernel objects: a process with a mount namespace of its own, which ends with it; a mount that is attached
//! nowhere, and a socket on which it is sent. For what needs the host's root and several mounts: an overlay
//! with idmapped layers. Before 6.15 the kernel takes for a layer only what is attached in the namespace of
//! the one who mounts the overlay.
//! Man pages: mount_namespaces(7), unix(7) on SCM_RIGHTS, open_tree(2).

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::Detached;
use crate::run::helper::Helper;
use crate::sys::error::{Error, Result};
use crate::sys::{mount, unshare};

/// Runs `build` in a process and a mount namespace of its own, in which nothing is shared with the host, and
/// returns the mount that it has made. This process must have one thread.
///
/// # Errors
/// What `build` fails at; EPERM without `CAP_SYS_ADMIN`.
pub fn in_private_namespace(build: impl FnOnce() -> Result<Detached>) -> Result<Detached> {
    let doing = "mounting in a namespace of its own";
    let helper = Helper::start(doing, |parent| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
        parent.send(build()?.tree)
    })?;
    let tree = helper.descriptor()?;
    tree.map(Detached::new).ok_or_else(|| Error::new(format!("{doing}: no mount was made")))
}
