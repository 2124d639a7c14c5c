//! What root may do, in parts: capabilities, and which of them the container has.
//!
//! Kernel objects: five sets of each process. *Permitted* is what it may use, *effective* what it uses now, *bounding* what
//! a program with file capabilities or the set-user-ID bit may still give it, *inheritable* and *ambient* what passes
//! through an exec. Order: the bounding set first, as to drop from it takes a capability itself; the others when the user
//! is set, as that changes them. In a user namespace all of them count for what that namespace owns, and no more.
//! Man pages: capabilities(7), capset(2), prctl(2).

use common::Result;
use common::security::capability::{self, Capabilities, Named, Sets};

use crate::cli::Security;

/// Which the container has: Docker's fourteen, and what the options add and drop.
pub fn choose(options: &Security) -> Result<Capabilities> {
    Ok(capability::choose(&options.cap_add, &options.cap_drop, capability::bounding()))
}

/// In the child: takes all others from what any program in the container can ever get.
pub fn bound(kept: Capabilities) -> Result<()> {
    capability::drop_bounding(kept)
}

/// In the child, when it is who it is to be: sets the other four. Root has them all at work; another user has none, but
/// what was added on purpose, which only the ambient set carries through its exec.
pub fn set(kept: Capabilities, options: &Security, is_root: bool) -> Result<()> {
    let added = capability::choose(&options.cap_add, &[Named::All], kept);
    let own = if is_root { kept } else { kept.intersection(added) };
    // Inheritable is empty for root: with a file that has inheritable capabilities, any user of the container could gain
    // them (CVE-2022-29162). The ambient set has to be within it.
    let inheritable = if is_root { Capabilities::NONE } else { own };
    capability::clear_ambient()?;
    capability::set(&Sets { effective: own, permitted: own, inheritable })?;
    if is_root { Ok(()) } else { capability::raise_ambient(own) }
}
