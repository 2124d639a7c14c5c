//! The power of root in parts: capabilities, and which of them the container has.
//!
//! Kernel objects: five sets of each process.
//!
//! | set | meaning |
//! | --- | --- |
//! | bounding | the most that any later program can get, also by a set-user-ID bit or by file capabilities |
//! | effective | what the kernel looks at when the process asks for something |
//! | inheritable | what the process lets files with inheritable capabilities hand on to it at an exec |
//! | permitted | what the process may make effective |
//! | ambient | what a user other than root keeps over an exec |
//!
//! Order: the bounding set first, as dropping from it takes a capability itself. The other four come after
//! the change of the user, which empties the effective and the ambient set. In a user namespace, all five
//! count only for objects that the namespace owns.
//! Man pages: capabilities(7), capset(2), PR_CAPBSET_DROP(2const), PR_CAP_AMBIENT(2const).

use common::Result;
use common::security::capability::{self, Capabilities, Capability, Named, Set, named};

use crate::cli::Security;

/// The capabilities that Docker leaves to root: enough for packages, servers and `su`.
const DOCKER: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_MKNOD,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_SETFCAP,
];

/// Docker's fourteen, without those that `--cap-drop` names, and with those that `--cap-add` names: a name in
/// both is added. `--cap-add ALL` begins with all that this runtime can give, `--cap-drop ALL` with none.
pub fn choose(options: &Security) -> Result<Capabilities> {
    let (added, dropped) = (named(&options.cap_add), named(&options.cap_drop));
    if options.cap_add.contains(&Named::All) {
        return Ok(&capability::bounding()? - &dropped);
    }
    if options.cap_drop.contains(&Named::All) {
        return Ok(added);
    }
    Ok(&(&Capabilities::from(DOCKER) - &dropped) | &added)
}

/// In the child: drops all others, so that no program of the container can ever get them.
pub fn bound(kept: &Capabilities) -> Result<()> {
    capability::drop_bounding(kept)
}

/// In the child, after the change of the user: sets the other four. Root uses all that it keeps. Another user
/// has only what `--cap-add` names, and its exec hands on only what is ambient.
pub fn set(kept: &Capabilities, options: &Security, is_root: bool) -> Result<()> {
    let all = is_root || options.cap_add.contains(&Named::All);
    let own = if all { kept.clone() } else { kept & &named(&options.cap_add) };
    // Empty for root: any user of the container could gain its capabilities, with a file that has inheritable
    // ones (CVE-2022-29162).
    let inheritable = if is_root { Capabilities::new() } else { own.clone() };
    capability::clear_ambient()?;
    capability::set(Set::Effective, &own)?;
    capability::set(Set::Inheritable, &inheritable)?;
    // After the effective set, which must lie within it.
    capability::set(Set::Permitted, &own)?;
    // Last: the ambient set must lie within the permitted and the inheritable one.
    if is_root { Ok(()) } else { capability::raise_ambient(&own) }
}
