//! The parts of a layer that cannot be made in a user namespace: devices, files of unmapped owners,
//! attributes for the host's root.
//!
//! The host's root can make all of them, so there a failure is an error. In a user namespace most images work
//! without them: a container gets its devices from the runtime. One message for each layer says how many
//! parts are left out. See user_namespaces(7), xattr(7).

use std::io;

use nix::libc;

use super::refusal::Refusal;
use super::tar::Kind;
use crate::sys::error::tell;
use crate::sys::privilege::Privilege;

/// How many parts were left out.
#[derive(Debug)]
pub(super) struct Lost {
    privilege: Privilege,
    devices: u64,
    owners: u64,
    attributes: u64,
}

impl Lost {
    /// The privilege is that of this process, found out while it still has its /proc.
    pub(super) fn new(privilege: Privilege) -> Lost {
        Lost { privilege, devices: 0, owners: 0, attributes: 0 }
    }

    /// Whether the device was made.
    pub(super) fn device(&mut self, kind: Kind, made: Result<(), Refusal>) -> Result<bool, Refusal> {
        match made {
            Err(Refusal::Io(error))
                if matches!(kind, Kind::CharDevice | Kind::BlockDevice)
                    && self.is_beyond(&error, libc::EPERM) =>
            {
                self.devices += 1;
                Ok(false)
            }
            made => made.map(|()| true),
        }
    }

    /// A file without its owner belongs to root.
    pub(super) fn owner(&mut self, given: io::Result<()>) -> io::Result<()> {
        match given {
            Err(error) if self.is_beyond(&error, libc::EINVAL) => {
                self.owners += 1;
                Ok(())
            }
            given => given,
        }
    }

    /// Whether an attribute that was refused (EPERM) is one that can be done without.
    pub(super) fn attribute(&mut self, name: &[u8]) -> bool {
        let beyond = self.privilege == Privilege::UserNamespace && name != b"security.capability";
        self.attributes += u64::from(beyond);
        beyond
    }

    fn is_beyond(&self, error: &io::Error, errno: i32) -> bool {
        self.privilege == Privilege::UserNamespace && error.raw_os_error() == Some(errno)
    }

    /// Says it.
    pub(super) fn report(&self, layer: &str) {
        let counted = [
            (self.devices, "devices"),
            (self.owners, "owners (root has these files; /etc/subuid has too few ids)"),
            (self.attributes, "attributes"),
        ];
        let counted = counted.iter().filter(|(count, _)| *count > 0);
        let counted: Vec<_> = counted.map(|(count, what)| format!("{count} {what}")).collect();
        if !counted.is_empty() {
            tell(format_args!(
                "congo: {layer}: left out, as this is a user namespace: {}",
                counted.join(", ")
            ));
        }
    }
}
