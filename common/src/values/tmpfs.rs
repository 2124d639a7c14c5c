//! `--tmpfs`: a file system in memory, and its options.
//!
//! It ends in mount(2) of a tmpfs in the container. tmpfs(5).

use std::ffi::OsString;
use std::path::PathBuf;

use nix::mount::MsFlags;

use super::size;
use super::volume::{read_target, without_nul};

const OPTIONS: &str = "expected options among size=64m, mode=1777, ro, rw, noexec, exec, nosuid, suid, nodev, dev, with \
                       commas between them";

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where the container finds it: an absolute path, cleaned, and not `/`.
    pub target: PathBuf,
    /// What mount(2) takes as data: `size=67108864,mode=1777`, or less.
    pub options: String,
    /// What mount(2) takes as flags, without MS_RDONLY.
    pub flags: MsFlags,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

impl Tmpfs {
    /// With Docker's flags: a place for data only, not for programs that get other rights.
    pub(super) fn new(target: PathBuf) -> Tmpfs {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        Tmpfs { target, options: String::new(), flags, read_only: false }
    }

    pub(super) fn add(&mut self, option: &str) {
        let comma = if self.options.is_empty() { "" } else { "," };
        self.options += &format!("{comma}{option}");
    }
}

/// Reads a value of `--tmpfs`: `TARGET[:OPTIONS]`.
///
/// # Errors
///
/// A target that is not absolute, or `/`; an option that is none.
pub fn tmpfs(text: OsString) -> Result<Tmpfs, String> {
    let bytes = without_nul(&text)?;
    let colon = bytes.iter().position(|&byte| byte == b':');
    let (target, options) = colon.map_or((bytes, None), |at| (&bytes[..at], Some(&bytes[at + 1..])));
    let mut tmpfs = Tmpfs::new(read_target(target)?);
    let Some(options) = options else { return Ok(tmpfs) };
    for word in std::str::from_utf8(options).map_err(|_| OPTIONS)?.split(',') {
        match word.split_once('=') {
            Some(("size", value)) => tmpfs.add(&tmpfs_size(value)?),
            Some(("mode", value)) => tmpfs.add(&tmpfs_mode(value)?),
            Some(_) => return Err(OPTIONS.into()),
            None => flag(&mut tmpfs, word)?,
        }
    }
    Ok(tmpfs)
}

fn flag(tmpfs: &mut Tmpfs, word: &str) -> Result<(), String> {
    let (flag, on) = match word {
        "ro" | "rw" => {
            tmpfs.read_only = word == "ro";
            return Ok(());
        }
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        _ => return Err(OPTIONS.into()),
    };
    tmpfs.flags.set(flag, on);
    Ok(())
}

/// A size, or a part of the host's memory, which tmpfs(5) takes as well.
pub(super) fn tmpfs_size(text: &str) -> Result<String, String> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = super::whole::<u8>(percent).filter(|percent| (1..=100).contains(percent));
        return percent
            .map(|percent| format!("size={percent}%"))
            .ok_or("expected a size of 1% to 100%".into());
    }
    match size(text)? {
        // tmpfs(5) takes it for no limit.
        0 => Err("expected a size of at least one byte".into()),
        bytes => Ok(format!("size={bytes}")),
    }
}

/// The permissions of its topmost directory.
pub(super) fn tmpfs_mode(text: &str) -> Result<String, String> {
    let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = octal.then(|| u32::from_str_radix(text, 8).ok()).flatten().filter(|&mode| mode <= 0o7777);
    mode.map(|mode| format!("mode={mode:o}"))
        .ok_or_else(|| "expected a mode as chmod takes it in digits, such as 1777".into())
}
