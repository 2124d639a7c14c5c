//! Making a mount where nobody sees it, and taking it along as a descriptor.
//!
//! Kernel objects: a process with a mount namespace of its own, which ends with it; a mount that is attached
//! nowhere, and a socket on which it is sent. For what needs the host's root and several mounts: an overlay
//! with idmapped layers. Before 6.15 the kernel takes for a layer only what is attached in the namespace of
//! the one who mounts the overlay.
//! Man pages: mount_namespaces(7), unix(7) on SCM_RIGHTS, open_tree(2).

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;

use super::Detached;
use crate::explain;
use crate::run::handshake;
use crate::run::process;
use crate::sys::clone::exit_now;
use crate::sys::error::{Error, Result};
use crate::sys::{mount, unshare};

/// Runs `build` in a process and a mount namespace of its own, in which nothing is shared with the host, and
/// returns the mount that it has made. This process must have one thread.
///
/// # Errors
/// What `build` fails at; EPERM without `CAP_SYS_ADMIN`.
pub fn in_private_namespace(build: impl FnOnce() -> Result<Detached>) -> Result<Detached> {
    let (mut parents, mut childs) = handshake::pair()?;
    let Some(child) = process::fork()? else {
        drop(parents);
        explain::become_child();
        // A panic must not unwind into the parent's code, which would run twice.
        let built = catch_unwind(AssertUnwindSafe(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
            build().and_then(|built| childs.send_descriptor(&built.tree))
        }));
        if let Ok(Err(error)) = built {
            childs.failed_alone(&error);
        }
        exit_now(0);
    };
    drop(childs);
    let received = parents.receive_descriptor();
    let failure = parents.failure();
    while waitpid(child, None) == Err(Errno::EINTR) {}
    failure?;
    match received? {
        Some(tree) => Ok(Detached::new(tree)),
        None => Err(Error::new("the process that mounts the root ended too early")),
    }
}
