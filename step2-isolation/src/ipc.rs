//! Memory and messages that processes share: System V IPC, POSIX message queues and POSIX shared memory.
//!
//! Kernel objects: an IPC namespace has the first two. The third are files in /dev/shm, a tmpfs: containers
//! that share them have the same mount. Order: shared mounts are found while the host's paths are in sight,
//! and attached when /dev is there. Man pages: ipc_namespaces(7), mq_overview(7), shm_overview(7),
//! open_tree(2).

use std::os::fd::OwnedFd;
use std::path::Path;

use common::Result;
use common::fs::mount::{ContainerMounts, Detached};
use common::sys::namespace::{enter, is_own_namespace, open_namespace};
use common::sys::{mkdir, mount};
use common::values::IpcMode;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use crate::cli;

/// Nothing in these filesystems is to be executed, opened as a device, or run with other rights.
const ONLY_DATA: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Where programs find POSIX shared memory, and message queues.
const PLACES: [&str; 2] = ["/dev/shm", "/dev/mqueue"];

/// The partner with which the container shares memory and messages.
pub enum Ipc {
    /// No partner. /dev/shm can hold this many bytes.
    Private(u64),
    /// The host.
    Host,
    /// Another container: its namespace, and where its files are.
    Container(OwnedFd, ContainerMounts),
}

impl Ipc {
    /// In the parent: finds the partner that the options name.
    pub fn prepare(options: &cli::Ipc) -> Result<Ipc> {
        Ok(match options.ipc {
            IpcMode::Private => Ipc::Private(options.shm_size),
            IpcMode::Host => Ipc::Host,
            IpcMode::Container(pid) => {
                let option = format!("--ipc container:{pid}");
                let namespace = open_namespace(pid, "ipc", &option)?;
                match is_own_namespace(&namespace, "ipc")? {
                    // That container uses the host's namespace itself.
                    true => Ipc::Host,
                    false => Ipc::Container(namespace, ContainerMounts::open(pid, &option)?),
                }
            }
        })
    }

    /// The namespace that the clone has to make.
    pub fn namespace(&self) -> CloneFlags {
        match self {
            Ipc::Private(_) => CloneFlags::CLONE_NEWIPC,
            Ipc::Host | Ipc::Container(..) => CloneFlags::empty(),
        }
    }

    /// In the child, before it enters its root: joins the namespace, and returns copies of the partner's
    /// mounts at `PLACES`, attached nowhere yet.
    pub fn join(&self) -> Result<Vec<(&'static str, Detached)>> {
        let mut shared: Vec<_> = match self {
            Ipc::Private(_) => Vec::new(),
            // Not every host has the second one, and mq_open(3) works without it.
            Ipc::Host => PLACES
                .into_iter()
                .filter(|path| Path::new(path).is_dir())
                .map(|path| Ok((path, Detached::copy_of_directory(path)?)))
                .collect::<Result<_>>()?,
            Ipc::Container(namespace, mounts) => {
                enter(namespace, CloneFlags::CLONE_NEWIPC)?;
                PLACES.into_iter().map(|path| Ok((path, mounts.copy(path)?))).collect::<Result<_>>()?
            }
        };
        // The host may have mounted its own without ONLY_DATA.
        shared.iter_mut().try_for_each(|(_, shared)| shared.forbid_devices())?;
        Ok(shared)
    }

    /// In the child, when /dev is there: mounts the places by which programs reach memory and messages.
    pub fn mount(&self, shared: Vec<(&str, Detached)>) -> Result<()> {
        mkdir("/dev/shm", 0o1777)?;
        mkdir("/dev/mqueue", 0o755)?;
        if let Ipc::Private(size) = self {
            mount("shm", "/dev/shm", "tmpfs", ONLY_DATA, &format!("mode=1777,size={size}"))?;
            // Shows the queues of the IPC namespace of the process that mounts it.
            mount("mqueue", "/dev/mqueue", "mqueue", ONLY_DATA, "")?;
        }
        shared.into_iter().try_for_each(|(path, shared)| shared.attach(path))
    }
}
