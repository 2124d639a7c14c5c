//! A root filesystem with no download: made once from the host's own programs, then found in the state
//! folder.
//!
//! Kernel objects: files, symbolic links, and one flock(2) on a file beside the root. Order: take the lock,
//! sweep what a killed build left, build beside the final place, rename(2). So there is never half a root
//! under the final name, even when a build is interrupted. Of two first runs at once one builds and the other
//! waits.
//! Man pages: hier(7), flock(2), rename(2).

mod build;
mod elf;
mod host;
mod libraries;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;

use crate::fs::claim::{Claim, Make, sweep};
use crate::fs::own::{Access, check_own, own_folder, refuse_link};
use crate::fs::tree::{nothing_mounted_in, remove_tree};
use crate::sys::error::{Context, Error, Result, tell};
use crate::sys::privilege::Privilege;
pub use build::{Built, build};
pub use libraries::{Libraries, libraries};

/// The name of the root that is made from the host.
const NAME: &str = "host";

/// Where the host's programs are looked for, the distribution's own directories first: what an administrator
/// put under /usr/local may be anything. The last three are NixOS's and Guix's.
const SEARCH: [&str; 9] = [
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/run/current-system/sw/bin",
    "/run/current-system/profile/bin",
    "/run/current-system/profile/sbin",
];

/// The folder in which Congo keeps what lasts: `$CONGO_HOME` if that is set, else `/var/lib/congo` for root,
/// else
/// `$XDG_DATA_HOME/congo` or `~/.local/share/congo`. It need not exist.
///
/// Source: the XDG Base Directory Specification, for users.
///
/// # Errors
///
/// When `CONGO_HOME` is not absolute, or a user has no home folder. When the folder is a link, belongs to
/// another user than root and the caller, or others may write to it.
pub fn state_dir() -> Result<PathBuf> {
    // Once for a start: what it was asked for first, it stays.
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let found = check_own(state_dir_of(|name| std::env::var_os(name), Privilege::caller_is_root())?)?;
    Ok(FOUND.get_or_init(|| found).clone())
}

fn state_dir_of(variable: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Result<PathBuf> {
    choose(&variable, is_root, "", "/var/lib/congo", "find the state folder: HOME is not set", || {
        absolute(&variable, "XDG_DATA_HOME")
            .or_else(|| absolute(&variable, "HOME").map(|home| home.join(".local/share")))
    })
}

/// The folder in which Congo keeps what a reboot may forget: `$CONGO_HOME/run` if that is set, else
/// `/run/congo` for root, else `$XDG_RUNTIME_DIR/congo`. It need not exist.
///
/// # Errors
///
/// When `CONGO_HOME` is not absolute, or a user has no runtime folder; those of [`state_dir`].
pub fn run_dir() -> Result<PathBuf> {
    let folder = run_dir_of(|name| std::env::var_os(name), Privilege::caller_is_root())?;
    // With `CONGO_HOME`, this folder lies in the state folder, so the folders above it count, too.
    if std::env::var_os("CONGO_HOME").is_some() {
        state_dir()?;
    }
    check_own(folder)
}

fn run_dir_of(variable: impl Fn(&str) -> Option<OsString>, is_root: bool) -> Result<PathBuf> {
    let missing = "find the runtime folder: XDG_RUNTIME_DIR is not set";
    choose(&variable, is_root, "run", "/run/congo", missing, || absolute(&variable, "XDG_RUNTIME_DIR"))
}

/// The folder `part` of `$CONGO_HOME`, else `roots` for root, else `congo` in the folder that `users` finds.
fn choose(
    variable: &impl Fn(&str) -> Option<OsString>,
    is_root: bool,
    part: &str,
    roots: &str,
    missing: &str,
    users: impl FnOnce() -> Option<PathBuf>,
) -> Result<PathBuf> {
    match variable("CONGO_HOME").filter(|value| !value.is_empty()).map(PathBuf::from) {
        // The variable was set for Congo alone, so a mistake in it is an error.
        Some(home) if !home.is_absolute() => {
            let what = format!("CONGO_HOME={}: not an absolute path", home.display());
            Err(Error::new(what).hint("give it a path that starts with /, or unset it"))
        }
        Some(home) if part.is_empty() => Ok(home),
        Some(home) => Ok(home.join(part)),
        None if is_root => Ok(roots.into()),
        None => users()
            .map(|folder| folder.join("congo"))
            .ok_or_else(|| Error::new(missing).hint("set CONGO_HOME to a folder that you can write to")),
    }
}

/// The XDG specification says to ignore a path that is not absolute.
fn absolute(variable: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The root filesystem made from this host's programs, `host` in the folder `rootfs` of [`state_dir`].
///
/// The first call builds it, and says so in one line on stderr. Later calls cost one stat(2), of its
/// `/bin/sh`. No container starts without that file, and a container that removes files at random most likely
/// removes it. When it is gone, the root is built anew, and everything that containers had written to the
/// root is lost.
///
/// # Errors
///
/// Those of [`state_dir`] and [`build()`]; no part of a root remains then.
pub fn default_root() -> Result<PathBuf> {
    default_root_in(&state_dir()?)
}

/// The same in another folder than [`state_dir`], where its files are to have other owners.
///
/// # Errors
///
/// Those of [`build()`]; no part of a root remains then.
pub fn default_root_in(state: &Path) -> Result<PathBuf> {
    // A start asks twice: before it has users of its own, and after.
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    match found.as_ref().filter(|root| **root == state.join("rootfs").join(NAME)) {
        Some(root) => Ok(root.clone()),
        None => find_or_build(state).inspect(|root| *found = Some(root.clone())),
    }
}

fn find_or_build(state: &Path) -> Result<PathBuf> {
    check_own(state.to_owned())?;
    let folder = check_own(state.join("rootfs"))?;
    let root = folder.join(NAME);
    refuse_link(&root)?;
    if is_whole(&root) {
        return Ok(root);
    }
    let was_there = fs::symlink_metadata(&root).is_ok();
    if let Some(built) = install(Path::new("/"), &SEARCH.map(Path::new), &folder).map_err(advised)? {
        tell(format_args!("congo: {}", describe(&built, was_there, &root)));
    }
    Ok(root)
}

/// What to do when a file of the root cannot be made.
fn advised(error: Error) -> Error {
    match error.errno() {
        Some(Errno::ENOSPC | Errno::EDQUOT) => {
            error.hint("free 100 MiB, or set CONGO_HOME to a folder on another disk")
        }
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
            error.hint("set CONGO_HOME to a folder that you can write to")
        }
        _ => error,
    }
}

/// One line about a root that was built.
fn describe(built: &Built, was_there: bool, root: &Path) -> String {
    let Built { programs, from_busybox, bytes, left_out } = built;
    let verb = if was_there { "rebuilt" } else { "built" };
    let cause = if was_there { ", as its /bin/sh was gone" } else { "" };
    let busybox =
        if *from_busybox > 0 { format!(", {from_busybox} of them by busybox") } else { String::new() };
    let mib = bytes.div_ceil(1 << 20);
    let root = root.display();
    let mut line = format!(
        "{verb} a root filesystem of {programs} programs ({mib} MiB{busybox}) from this host in {root}{cause}"
    );
    for (index, (name, reason)) in left_out.iter().enumerate() {
        line += &format!("{}{name} ({reason})", if index == 0 { "; left out: " } else { ", " });
    }
    line
}

/// Can a container start in it? Its links lead nowhere outside, so looking from outside sees what is inside.
fn is_whole(root: &Path) -> bool {
    let shell = fs::metadata(root.join("bin/sh"));
    shell.is_ok_and(|shell| shell.is_file() && shell.len() > 0 && shell.mode() & 0o111 != 0)
}

/// Puts a root under [`NAME`] into `folder`, unless a whole one is there.
fn install(host: &Path, search: &[&Path], folder: &Path) -> Result<Option<Built>> {
    for directory in [folder.parent().unwrap_or(folder), folder] {
        own_folder(directory, Access::All)?;
    }
    let root = folder.join(NAME);
    // Waits until no other process builds.
    let _claim = Claim::wait(Make::File, &folder.join(format!(".{NAME}.lock")))?;
    // Another process may have built it while this one waited.
    if is_whole(&root) {
        return Ok(None);
    }
    nothing_mounted_in(&root)?;
    let unfinished = format!(".{NAME}.building-");
    // Nobody else builds now, so what is unfinished was left by a runtime that was killed.
    sweep(folder, |name| name.as_bytes().starts_with(unfinished.as_bytes()), remove_tree)?;
    let pid = std::process::id();
    let building = folder.join(format!("{unfinished}{pid}"));
    let built = build(host, search, &building).and_then(|built| {
        if fs::symlink_metadata(&root).is_ok() {
            // Renamed first, as to remove it takes time, in which this process may be killed.
            let damaged = folder.join(format!("{unfinished}{pid}-damaged"));
            fs::rename(&root, &damaged).at("move", &root)?;
            remove_tree(&damaged)?;
        }
        fs::rename(&building, &root).at("make", &root)?;
        Ok(built)
    });
    if built.is_err() {
        // The error that is already there says more than one about the clean-up.
        _ = remove_tree(&building);
    }
    built.map(Some)
}
