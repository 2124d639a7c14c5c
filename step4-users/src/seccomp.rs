//! Which system calls the container may make at all.
//!
//! Kernel object: a filter, a small program that the kernel runs before each system call of the process and
//! of all that it starts. Nothing can take it off. Most holes of kernels are in calls that few programs need.
//! Order: the parent compiles the filter, while it can still read files. The child loads it as its last act
//! before the exec, as all later calls must pass it. An init that stays behind loads it, too.
//! Man pages: seccomp(2), bpf(2), syscall(2), personality(2).

use common::Result;
use common::security::capability::{Capabilities, Capability};
use common::security::seccomp::{Filter, Op, Profile, calls, fails_with, kills};
use common::values::SeccompProfile;
use nix::errno::Errno;

/// Flags of clone(2): `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const NEW_NAMESPACES: u64 = 0x7E02_0000;

/// Linux, and Linux32 (8), each also as Linux 2.6 (0x20000); and the value that only asks. No other bit, as
/// some make an attack easier: ADDR_NO_RANDOMIZE puts everything in memory where it can be guessed.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// In the parent: compiles the filter of the options. A capability needs the calls that go with it.
pub fn prepare(profile: &SeccompProfile, capabilities: &Capabilities) -> Result<Option<Filter>> {
    match profile {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::BuiltIn => built_in(capabilities).compile(capabilities).map(Some),
        SeccompProfile::File(path) => Profile::read(path)?.compile(capabilities).map(Some),
    }
}

/// The filter of a container that asks for no other one: Docker's. First the calls that no rule names.
pub fn built_in(capabilities: &Capabilities) -> Profile {
    let mut profile = Profile::new();
    // Each ABI has other numbers: with those of a 32-bit program, each rule would mean another call.
    profile.other_abi(kills());
    // A C library takes ENOSYS as "this kernel is older", and makes the older call. At EPERM it gives up.
    profile.newer_calls(fails_with(Errno::ENOSYS));
    profile.other_calls(fails_with(Errno::EPERM));
    profile.allow_all(&calls::EVERYBODY);
    for (op, family) in calls::SOCKET_FAMILIES {
        profile.allow_if("socket", 0, op, family);
    }
    for personality in PERSONALITIES {
        profile.allow_if("personality", 0, Op::Eq, personality);
    }
    for (_, names) in calls::WITH_CAPABILITY.iter().filter(|(needed, _)| capabilities.contains(needed)) {
        profile.allow(names);
    }
    if !capabilities.contains(&Capability::CAP_SYS_ADMIN) {
        // In a namespace of its own a process has all capabilities over parts of the kernel with many holes.
        profile.allow_if("clone", 0, Op::MaskedEq(NEW_NAMESPACES), 0);
        // The flags of clone3 lie in memory, where no filter can look. At ENOSYS, C libraries call clone.
        profile.refuse("clone3", fails_with(Errno::ENOSYS));
    }
    profile
}

/// In the child: loads the filter, for good. That takes no_new_privs, or else a capability: a set-user-ID
/// program that misses a call could do harm.
pub fn load(filter: Option<&Filter>) -> Result<()> {
    filter.map_or(Ok(()), Filter::load)
}
