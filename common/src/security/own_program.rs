//! The file that this process executes: whether a container could change it, and a form in which nobody can.
//!
//! Kernel objects: `/proc/self/exe`, and a read-only mount of one file that is attached nowhere. Nobody can
//! remount such a mount, so it is read-only for good. Kernels before 5.12 cannot do that: there it is a copy
//! in memory with seals. A process keeps its program's mount for as long as it runs, so the way to get
//! another one is exec.
//! Man pages: proc_pid_exe(5), open_tree(2), mount_setattr(2), memfd_create(2), execveat(2).

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use nix::sys::statvfs::FsFlags;

use crate::explain;
use crate::fs::mount::Detached;
use crate::ids::idmap::{own, start_in_user_namespace, unused_ids};
use crate::sys::error::{Context, Error, Result, errno};
use crate::sys::{call, unshare};

const EXE: &str = "/proc/self/exe";

/// Whether nobody can change the file that this process executes: it lies on a read-only mount, or is sealed.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn is_read_only() -> Result<bool> {
    let exe = open(EXE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at("look at", EXE)?;
    let system = fstatfs(&exe).at("look at", EXE)?;
    if system.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    if system.filesystem_type() != TMPFS_MAGIC {
        // Our files in memory are the kernel's tmpfs.
        return Ok(false);
    }
    // Some users may execute a file and not read it. Congo's files in memory can be read by their user. So a
    // file that cannot be read is none of those.
    let seals = File::open(EXE).ok().and_then(|exe| fcntl(&exe, FcntlArg::F_GET_SEALS).ok());
    Ok(seals.is_some_and(|seals| SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_WRITE)))
}

/// On these file systems only owner, group, mode and access list decide which process may write. On those of
/// a network and on FUSE another machine or a program decides. statfs(2).
const BY_OWNER: [FsType; 5] =
    [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC];

/// Whether processes with only [unused ids](unused_ids) of the host, as users and as groups, cannot change
/// the file that this process executes. They must not be able to write to it. Nor may they give themselves
/// the right to, with all capabilities of a user namespace. In doubt the answer is that they can.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn is_closed_to_unused_ids() -> Result<bool> {
    is_closed_to(&unused_ids())
}

fn is_closed_to(ids: &Range<u32>) -> Result<bool> {
    // The link leads to the file itself. Something else may lie at its path, or over it.
    let exe = open(EXE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at("look at", EXE)?;
    let file = fstat(&exe).at("look at", EXE)?;
    // Its owner may do everything. So may the root of a user namespace that has both of these ids.
    let is_strangers = !ids.contains(&file.st_uid) && !ids.contains(&file.st_gid);
    let others_may_write = file.st_mode & Mode::S_IWOTH.bits() != 0;
    let by_owner = BY_OWNER.contains(&fstatfs(&exe).at("look at", EXE)?.filesystem_type());
    Ok(is_strangers && !others_may_write && by_owner && !has_access_list())
}

/// Whether the file has an access list, which may give any user the right to write: acl(5).
fn has_access_list() -> bool {
    let list = xattr::get_deref(EXE, "system.posix_acl_access").map_err(|error| errno(&error));
    // EOPNOTSUPP: this file system has no such lists.
    !matches!(list, Ok(None) | Err(Errno::EOPNOTSUPP))
}

/// That file once more, as a read-only mount, or else as a copy. This process must have one thread.
///
/// # Errors
/// When neither can be had; the copy needs as much memory as the program is long.
pub fn read_only() -> Result<OwnedFd> {
    let mounted = match mount_of(Path::new(EXE)) {
        // An ordinary user is root in a user namespace, and the mount outlives that.
        Err(error) if error.errno() == Some(Errno::EPERM) => mount_in_user_namespace(),
        result => result,
    };
    match mounted {
        Ok(Some(mount)) => Ok(mount),
        Ok(None) | Err(_) => sealed_copy(),
    }
}

/// Executes it in the place of this process, with the same arguments and variables.
///
/// # Errors
/// EACCES when it may not be executed.
pub fn execute(program: &OwnedFd) -> Result<Infallible> {
    let nul = |_| Error::new("a NUL byte in an argument or in the environment");
    let c_string = |text: OsString| CString::new(text.into_vec()).map_err(nul);
    let arguments = std::env::args_os().map(c_string).collect::<Result<Vec<_>>>()?;
    let variables = std::env::vars_os().chain(explain::hand_over()).map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        c_string(variable)
    });
    let variables = variables.collect::<Result<Vec<_>>>()?;
    let line = || format!("execveat({}, \"\", argv, envp, AT_EMPTY_PATH)", program.as_raw_fd());
    // Told before it is done, as it does not return.
    explain::line(line(), "(the same program)", "execveat(2), proc_pid_exe(5)");
    let Err(errno) = nix::unistd::execveat(program, c"", &arguments, &variables, AtFlags::AT_EMPTY_PATH);
    Err(Error::from_errno(line(), errno))
}

/// `None` when this kernel cannot make a mount read-only that is attached nowhere.
fn mount_of(path: &Path) -> Result<Option<OwnedFd>> {
    let mut mount = Detached::copy_of(path)?;
    mount.make_read_only()?;
    Ok(mount.into_read_only())
}

fn mount_in_user_namespace() -> Result<Option<OwnedFd>> {
    let helper = start_in_user_namespace(&own(), |parent| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // By its path: the link leads to a mount of the other namespace, which may not be copied here.
        let path = fs::read_link(EXE).at("readlink", EXE)?;
        let (here, there) = (fs::metadata(EXE).at("stat", EXE)?, fs::metadata(&path).at("stat", &path)?);
        if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
            return Err(Error::new(format!("{}: another file than {EXE}", path.display())));
        }
        match mount_of(&path)? {
            Some(mount) => parent.send(mount),
            None => Ok(()),
        }
    })?;
    helper.descriptor()
}

/// Seals are for ever, and hold for everybody.
fn sealed_copy() -> Result<OwnedFd> {
    let copy = call(
        "memfd_create(2)",
        || "memfd_create(\"congo\", MFD_CLOEXEC|MFD_ALLOW_SEALING)".into(),
        || memfd_create("congo", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING),
    )?;
    let mut file = File::from(copy);
    let copied = File::open(EXE).and_then(|mut exe| io::copy(&mut exe, &mut file));
    copied.context(format_args!("copy {EXE} into memory"))?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    call(
        "F_ADD_SEALS(2const)",
        || {
            format!(
                "fcntl({}, F_ADD_SEALS, F_SEAL_SEAL|F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_WRITE)",
                file.as_raw_fd()
            )
        },
        || fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map(drop),
    )?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    fn write(descriptor: impl AsFd) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd());
        File::options().write(true).open(path)?.write_all(b"x")
    }

    #[test]
    fn a_sealed_copy_is_the_program_and_cannot_be_written() {
        let copy = sealed_copy().unwrap();
        assert_eq!(write(&copy).unwrap_err().raw_os_error(), Some(Errno::EPERM as i32));
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert!(fs::read(path).unwrap() == fs::read(EXE).unwrap());
    }

    #[test]
    fn a_read_only_mount_is_the_program_and_cannot_be_written() {
        let Ok(Some(mount)) = mount_of(Path::new(EXE)) else {
            eprintln!("skipped: not root, or a kernel before 5.12");
            return;
        };
        // The write may fail with ETXTBSY, as long as the file runs. The change of the mode below does not
        // depend on that.
        assert!(write(&mount).is_err());
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        let mode = fs::metadata(&path).unwrap().permissions();
        assert_eq!(fs::set_permissions(&path, mode).unwrap_err().raw_os_error(), Some(Errno::EROFS as i32));
        let identity = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino())).unwrap();
        assert_eq!(identity(&path), identity(EXE));
    }

    #[test]
    fn the_tests_own_program_can_be_written() {
        assert!(!is_read_only().unwrap());
        let owner = fs::metadata(EXE).unwrap().uid();
        assert!(!is_closed_to(&(owner..owner + 1)).unwrap());
    }
}
