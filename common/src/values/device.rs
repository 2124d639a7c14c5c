//! `--device`: a device of the host, or a folder of devices, and where the container finds it.
//!
//! Docker's permissions, such as `r`, are rules of a device cgroup. Congo makes none, so the only permissions
//! that can be given are all of them.
//! Man pages: null(4), inode(7); the kernel's admin-guide/devices.

use std::ffi::OsString;
use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::Invalid;
use super::path::{host_path, target, without_nul};

const FORM: &str = "expected HOST[:CONTAINER[:rwm]] with absolute paths, such as /dev/fuse";

/// In a folder of devices, and below it. `--device /:/host` would else look at each file of the host, for
/// minutes and in silence. `/dev` has some hundred.
const MOST_ENTRIES: usize = 10_000;

/// The devices of one option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(Vec<(PathBuf, PathBuf)>);

impl Devices {
    /// Each device's path on the host, and its path in the container.
    pub fn paths(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.0.iter().map(|(source, target)| (source.as_path(), target.as_path()))
    }
}

/// Reads a value of `--device`: `HOST[:CONTAINER[:rwm]]`. Looks for the device, or for all devices in the
/// folder and below it. Like Docker it follows no links in there, and stays on that file system.
///
/// # Errors
/// There is no device, or the folder has more than 10000 files; a path that is not absolute; permissions that
/// are not all of them.
pub fn devices(text: OsString) -> Result<Devices, Invalid> {
    let mut parts: Vec<_> = without_nul(&text)?.split(|&byte| byte == b':').collect();
    if parts.len() == 3 || parts.len() == 2 && is_permissions(parts[1]) {
        let given = parts.pop().unwrap_or_default();
        if !is_permissions(given) {
            return Err(FORM.into());
        }
        if given.len() < 3 {
            return Err("expected rwm as permissions, or none: Congo makes no device cgroup, so it cannot \
                        forbid one of them"
                .into());
        }
    }
    let (host, inside) = match parts[..] {
        [host] => (host, host),
        [host, inside] => (host, inside),
        _ => return Err(FORM.into()),
    };
    let source = host_path(host)?.filter(|path| path.is_absolute()).ok_or(FORM)?;
    let place = target(inside)?;
    let errno = |error: std::io::Error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        format!("expected a device of the host: {errno:?}: {}", errno.desc())
    };
    let there = fs::metadata(&source).map_err(errno)?;
    if is_device(there.file_type()) {
        return Ok(Devices(vec![(source, place)]));
    }
    if !there.is_dir() {
        return Err("expected a device of the host: this is something else".into());
    }
    let (mut found, mut left) = (Vec::new(), MOST_ENTRIES);
    if !find(&source, &there, &mut left, &mut found) {
        return Err(format!(
            "expected a device of the host, or a folder of devices: this folder has more than \
             {MOST_ENTRIES} files"
        )
        .into());
    }
    if found.is_empty() {
        return Err("expected a device of the host, or a folder of devices: there is none in it".into());
    }
    let at = |path: PathBuf| {
        let below = path.strip_prefix(&source).map(|below| place.join(below));
        below.map(|place| (path.clone(), place)).ok()
    };
    Ok(Devices(found.into_iter().filter_map(at).collect()))
}

/// One to three of the letters r, w and m, each once.
fn is_permissions(text: &[u8]) -> bool {
    let once = |letter| text.iter().filter(|&&it| it == letter).count() <= 1;
    !text.is_empty() && text.iter().all(|letter| b"rwm".contains(letter)) && b"rwm".iter().all(|&it| once(it))
}

fn is_device(kind: FileType) -> bool {
    kind.is_char_device() || kind.is_block_device()
}

/// Adds all devices in a folder and below it, in the order of their names. Each file counts against `left`.
/// When there are more files than that, it gives up and returns false.
fn find(folder: &Path, itself: &Metadata, left: &mut usize, found: &mut Vec<PathBuf>) -> bool {
    // A folder that cannot be read gives no devices, as with Docker.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).take(*left + 1).collect();
    let Some(rest) = left.checked_sub(paths.len()) else { return false };
    *left = rest;
    paths.sort();
    for path in paths {
        match fs::symlink_metadata(&path) {
            Ok(it) if is_device(it.file_type()) => found.push(path),
            Ok(it) if it.is_dir() && it.dev() == itself.dev() && !find(&path, &it, left, found) => {
                return false;
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::values::testing::refused;

    fn read(text: &str) -> Vec<(String, String)> {
        let text_of = |path: &Path| path.to_str().unwrap().to_owned();
        let devices = devices(text.into()).expect(text);
        devices.paths().map(|(source, target)| (text_of(source), text_of(target))).collect()
    }

    #[test]
    fn a_device_and_its_place() {
        let null = |place: &str| vec![("/dev/null".to_owned(), place.to_owned())];
        for text in ["/dev/null", "/dev/null:rwm", "/dev/null:mwr", "/dev/null:/dev/null:rwm"] {
            assert_eq!(read(text), null("/dev/null"), "{text}");
        }
        assert_eq!(read("/dev/null:/dev/hole"), null("/dev/hole"));
        assert_eq!(read("/dev/null:/a/../srv//hole:wrm"), null("/srv/hole"));
    }

    #[test]
    fn a_folder_of_devices() {
        let all = read("/dev:/host");
        assert!(all.contains(&("/dev/null".into(), "/host/null".into())), "{all:?}");
        // Another file system.
        assert!(!all.iter().any(|(source, _)| source.starts_with("/dev/pts/")), "{all:?}");
        // Links.
        assert!(!all.iter().any(|(source, _)| source == "/dev/stdin"), "{all:?}");
    }

    #[test]
    fn a_folder_with_too_many_files() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        let add = |number: usize| drop(File::create(below.join(number.to_string())).unwrap());
        // With the two folders, as many as are looked at.
        (2..MOST_ENTRIES).for_each(add);
        let text = folder.path().to_str().unwrap();
        refused(devices, "expected a device of the host, or a folder of devices: there is none", &[text]);
        add(MOST_ENTRIES);
        refused(devices, "expected a device of the host, or a folder of devices: this folder", &[text]);
    }

    #[test]
    fn what_is_no_device() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        refused(devices, "expected a device of the host: this is", &[file.to_str().unwrap()]);
        refused(devices, "expected a device of the host, or a folder", &[folder.path().to_str().unwrap()]);
        refused(devices, "expected a device of the host: ENOENT", &["/dev/no-such-device"]);
        let forms = [
            "",
            "null",
            "dev/null",
            ":/dev/null",
            "/dev/null:/x:rwm:r",
            "/dev/null:/x:rwx",
            "/dev/null:/x:rr",
            "/dev/null:/x:",
            "vendor.com/class=name",
        ];
        refused(devices, "expected HOST[:CONTAINER[:rwm]]", &forms);
        refused(devices, "expected an absolute path in the container", &["/dev/null:", "/dev/null:x"]);
        refused(devices, "expected another path than /", &["/dev/null:/"]);
        refused(devices, "expected a path outside of /proc and /sys", &["/dev/null:/proc/x"]);
        refused(devices, "a path cannot have a NUL byte", &["/dev/null\0"]);
    }

    #[test]
    fn permissions_that_nobody_would_enforce() {
        let less = ["/dev/null:r", "/dev/null:rw", "/dev/null:/dev/x:w", "/dev/null:/dev/x:mr"];
        refused(devices, "expected rwm as permissions, or none", &less);
    }
}
