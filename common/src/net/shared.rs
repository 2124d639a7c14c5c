//! The names of another container that go with its network, for `--network container:PID`: `/etc/hosts`,
//! `/etc/resolv.conf`, and its host name.
//!
//! Kernel object: the link `/proc/PID/root`, which leads to the root of that process. All files beneath it
//! belong to that container, which may be hostile. A symbolic link there must not lead this process to a file
//! of the host. A named pipe must not make it wait. A file of procfs must not tell facts that only the host's
//! root may know.
//! Man pages: proc_pid_root(5), openat2(2), open(2) on O_PATH, uts_namespaces(7), setns(2).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{geteuid, gethostname};

use crate::fs::path::open_beneath;
use crate::run::helper::Helper;
use crate::sys::error::{Context, Error, Result};
use crate::sys::namespace::{check_namespace, enter, is_own_namespace, open_of};

/// The longest file that is taken. All names of the container's have to fit in a tmpfs of 1 MiB.
const LONGEST: i64 = 1 << 18;

/// Reads a file of the container that the process `pid` is in. `None`: it has none of this name. `option` is
/// what the user wrote, for the error: `--network container:1234`.
///
/// # Errors
/// EACCES, ESRCH; the file is no regular one, one of the kernel's own, or too long.
pub fn read(pid: i32, path: &str, option: &str) -> Result<Option<String>> {
    let of_option = |error: Error| Error::new(format!("{option}: {error}"));
    let root = open_of(pid, "root", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(of_option)?;
    read_beneath(&root, Path::new(path)).map_err(of_option)
}

/// The host name of the container that the process `pid` is in. Its UTS namespace tells it: what the
/// container has in `/etc/hostname` need not be true. A helper joins that namespace. An ordinary user has the
/// right to do so only in the container's user namespace.
///
/// # Errors
/// ESRCH; EPERM when the container is another user's; EAGAIN at a limit of processes.
pub fn hostname(pid: i32, option: &str) -> Result<String> {
    let its = |kind| check_namespace(pid, kind, option);
    let (name, users) = (its("uts")?, its("user")?);
    let joins_name = !is_own_namespace(&name, "uts")?;
    let joins_users = joins_name && !geteuid().is_root() && !is_own_namespace(&users, "user")?;
    let helper = Helper::start("reading the host name of the other container", |end| {
        if joins_users {
            enter(&users, CloneFlags::CLONE_NEWUSER)?;
        }
        if joins_name {
            enter(&name, CloneFlags::CLONE_NEWUTS)?;
        }
        end.answer(gethostname().context("gethostname")?.as_encoded_bytes());
        Ok(())
    })?;
    let answer = helper.finish().map_err(|error| Error::new(format!("{option}: {error}")))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn read_beneath(root: &OwnedFd, path: &Path) -> Result<Option<String>> {
    let found = match open_beneath(root, path) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(None),
        found => found?,
    };
    let status = fstat(&found).at("fstat", path)?;
    let filesystem = fstatfs(&found).at("fstatfs", path)?.filesystem_type();
    let is_kernels = filesystem == PROC_SUPER_MAGIC || filesystem == SYSFS_MAGIC;
    // Looked at before it is opened: to open a device or a pipe may already do something.
    if is_kernels || SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Err(Error::new(format!("{} of that container is no regular file", path.display())));
    }
    if status.st_size > LONGEST {
        let (path, size) = (path.display(), status.st_size);
        return Err(Error::new(format!("{path} of that container has {size} bytes, more than {LONGEST}")));
    }
    // Reads the file that was checked, even if another file has its name meanwhile. The file may grow, so no
    // more than its checked size is read.
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).at("open", path)?;
    let mut bytes = Vec::new();
    file.take(status.st_size.unsigned_abs()).read_to_end(&mut bytes).at("read", path)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        let root = File::open(folder.path()).unwrap().into();
        (folder, root)
    }

    #[test]
    fn a_file_of_the_container() {
        let (folder, root) = root();
        let hosts = Path::new("/etc/hosts");
        assert_eq!(read_beneath(&root, hosts), Ok(None));
        fs::write(folder.path().join("etc/hosts"), "127.0.0.1\tlocalhost\n").unwrap();
        assert_eq!(read_beneath(&root, hosts).unwrap().unwrap(), "127.0.0.1\tlocalhost\n");
        assert_eq!(read(std::process::id().cast_signed(), "/no/such/file", "--network"), Ok(None));
        let own =
            read(std::process::id().cast_signed(), folder.path().join("etc/hosts").to_str().unwrap(), "");
        assert_eq!(own.unwrap().unwrap(), "127.0.0.1\tlocalhost\n");
    }

    #[test]
    fn no_link_leads_to_the_host() {
        let (outside, _) = root();
        let secret = outside.path().join("secret");
        fs::write(&secret, "of the host").unwrap();
        let (folder, root) = root();
        let hosts = folder.path().join("etc/hosts");
        let up = Path::new("../../../../../../../..").join(secret.strip_prefix("/").unwrap());
        for target in [secret, up, "/proc/self/root/etc/passwd".into()] {
            symlink(&target, &hosts).unwrap();
            // There is no such file beneath the root.
            assert_eq!(read_beneath(&root, Path::new("/etc/hosts")), Ok(None), "{target:?}");
            fs::remove_file(&hosts).unwrap();
        }
        fs::write(folder.path().join("other"), "of the container").unwrap();
        symlink("/other", &hosts).unwrap();
        assert_eq!(read_beneath(&root, Path::new("/etc/hosts")).unwrap().unwrap(), "of the container");
    }

    #[test]
    fn what_is_no_file_of_names() {
        let (folder, root) = root();
        let hosts = folder.path().join("etc/hosts");
        let refused = |words: &str| {
            let error = read_beneath(&root, Path::new("/etc/hosts")).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        };
        // It would wait for a writer.
        mkfifo(&hosts, Mode::S_IRWXU).unwrap();
        refused("/etc/hosts of that container is no regular file");
        fs::remove_file(&hosts).unwrap();
        fs::create_dir(&hosts).unwrap();
        refused("is no regular file");
        fs::remove_dir(&hosts).unwrap();
        File::create(&hosts).unwrap().set_len(LONGEST.unsigned_abs() + 1).unwrap();
        refused("more than 262144");
        // As in a container, where procfs is beneath the root.
        let of_host = File::open("/").unwrap().into();
        let error = read_beneath(&of_host, Path::new("/proc/version")).unwrap_err();
        assert!(error.to_string().contains("is no regular file"), "{error}");
    }
}
