//! The parts of the host that a container can still reach: the runtime's own file, some of /proc and /sys.
//!
//! Kernel objects: the file that a process executes, /proc/self/exe; and mounts over files and folders of
//! /proc and /sys. These tell about the whole host, or even change it: memory layout, interrupts, firmware.
//! For most of them the kernel asks whether the process is root *of the host*, but not for all.
//! Order: the own file first of all. The masks come after the volumes, so that no volume lies over them, and
//! before the capabilities go.
//! Source: Docker's lists. Man pages: proc(5), mount(2).

use std::path::{Path, PathBuf};

use common::Result;
use common::fs::mount::Detached;
use common::security::own_program;
use common::sys::{folders_of_cpus, mount, open, what_is_at};
use nix::fcntl::OFlag;
use nix::mount::MsFlags;

/// The files that no process of the container may read.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// The files that no process of the container may write: sysctls, SysRq, the host's buses and interrupts.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Goes on as the same program, in a file that no container can change, unless this one cannot change it.
///
/// By /proc/self/exe each process finds the file that it executes, even where its root has no such path. In a
/// container that is the runtime's file until exec, and after it if the command begins with
/// `#!/proc/self/exe`. The container's root could then change the program that the host executes next time
/// (CVE-2019-5736). So could an ordinary user that owns the file. A root with unused host ids mostly cannot.
pub fn protect_own_program(cli: &crate::cli::Cli) -> Result<()> {
    let strangers = cli.users.are_unused(&cli.ipc.shared_with(&cli.network, &cli.users)?);
    if own_program::is_read_only()? || strangers && own_program::is_closed_to_unused_ids()? {
        return Ok(());
    }
    own_program::execute(&own_program::read_only()?).map(|never| match never {})
}

/// Hides the files of the first list, and makes those of the second read-only.
pub fn hide() -> Result<()> {
    let of_cpus = folders_of_cpus()?.into_iter().map(|cpu| cpu.join("thermal_throttle"));
    for path in MASKED.iter().map(PathBuf::from).chain(of_cpus) {
        // Not every kernel has all of them.
        let Some(kind) = what_is_at(&path)? else { continue };
        if kind.is_dir() {
            mount("tmpfs", path, "tmpfs", MsFlags::MS_RDONLY, "size=0k")?;
        } else {
            // By descriptor, and after a look at the device. A volume over /dev may have another file of that
            // name, or a link. That file would lie here, to be read and written (CVE-2025-31133).
            Detached::copy_of_device(Path::new("/dev/null"), (1, 3))?
                .attach_at(&open(&path, OFlag::O_PATH)?)?;
        }
    }
    for path in READ_ONLY.map(Path::new) {
        let Some(_) = what_is_at(path)? else { continue };
        mount(path, path, "", MsFlags::MS_BIND | MsFlags::MS_REC, "")?;
        // A remount clears each flag that it does not name. In a user namespace the kernel refuses that.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
        mount("none", path, "", MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, "")?;
    }
    Ok(())
}
