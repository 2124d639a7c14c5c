//! Devices of the host that the user lets the container have.
//!
//! Kernel objects: a device file has two numbers, by which the kernel finds the driver. So a process that may
//! open such a file reaches the hardware, wherever the file lies. Each is a bind mount of the host's file.
//! Order: the files are opened as mounts that are attached nowhere, while the host is in sight. They are
//! attached when the host is out of sight: then no link in the root can lead a path to the host.
//! Man pages: mknod(2), open_tree(2), move_mount(2), openat2(2).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use common::fs::mount::Detached;
use common::fs::path::{self, Kind};
use common::values::Devices;
use common::{Context, Result};

/// In the child, with the host in sight: opens the devices, each with its path in the container.
pub fn open(devices: &[Devices]) -> Result<Vec<(&Path, Detached)>> {
    let open = |(source, target)| {
        let mut device = Detached::copy_of_any_device(source)?;
        // Keeps the file's mode and owner, which are the host's. A process can still write to the device.
        device.make_read_only()?;
        Ok((target, device))
    };
    devices.iter().flat_map(Devices::paths).map(open).collect()
}

/// In the child, in its root: attaches them. A file that is missing there is made, with its folders.
pub fn attach(devices: Vec<(&Path, Detached)>) -> Result<()> {
    let root: OwnedFd = File::open("/").context("open /")?.into();
    for (target, device) in devices {
        let place = path::make_beneath(&root, target, Kind::File)?;
        path::check_target(&root, &place, target)?;
        device.attach_at(&place)?;
    }
    Ok(())
}
