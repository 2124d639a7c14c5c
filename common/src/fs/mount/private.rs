//! Making a mount where nobody sees it, and taking it along as a descriptor.
//!
//! Kernel objects: a process with a mount namespace that ends with it; a mount that is attached nowhere, and
//! the socket that carries it. This serves tasks that need the host's root and several mounts, such as an
//! overlay with idmapped layers. Before 6.15 a layer must be attached in the mount namespace of the process
//! that mounts the overlay.
//! Man pages: mount_namespaces(7), unix(7) on SCM_RIGHTS, open_tree(2).

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::Detached;
use crate::run::helper::Helper;
use crate::sys::error::{Error, Result};
use crate::sys::{mount, unshare};

/// Runs `build` in a process and a mount namespace of its own, which shares no mounts with the host. Returns
/// the mount that `build` has made. This process must have one thread.
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
