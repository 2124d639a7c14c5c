//! Which system calls the container may make at all.
//!
//! Kernel object: a filter, a small program that the kernel runs before each system call of the process and of all that it
//! starts, and that nobody can take off again. Many holes in kernels were in calls that hardly any program needs. Which calls
//! it lets through depends on the capabilities: who may mount is let mount.
//! Order: compiled by the parent, where files are in sight; loaded by the child as late as can be, as what comes after has to
//! get along with it, but before an init stays behind, which is in the container, too.
//! Man pages: seccomp(2), bpf(2). The profile: Docker's, in `common::security::seccomp`.

use common::Result;
use common::security::capability::Capabilities;
use common::security::seccomp::{Filter, Profile};
use common::values::SeccompProfile;

/// In the parent: the filter that is asked for.
pub fn prepare(profile: &SeccompProfile, capabilities: Capabilities) -> Result<Option<Filter>> {
    match profile {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::BuiltIn => Profile::built_in()?.compile(capabilities).map(Some),
        SeccompProfile::File(path) => Profile::read(path)?.compile(capabilities).map(Some),
    }
}

/// In the child: lays it on the process, for good. Either no_new_privs is set, or root's capabilities are still there: who
/// could take a call away from a set-user-ID program could make it go wrong.
pub fn load(filter: Option<&Filter>) -> Result<()> {
    filter.map_or(Ok(()), Filter::load)
}
