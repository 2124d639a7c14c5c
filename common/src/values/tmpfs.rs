//! `--tmpfs`: a file system in memory, and its options.
//!
//! It ends in mount(2) of a tmpfs in the container. tmpfs(5).

use std::ffi::OsString;
use std::path::PathBuf;

use nix::mount::MsFlags;

use super::path::{target, without_nul};
use super::{Invalid, size, whole};

const OPTIONS: &str = "expected options among size=64m, mode=1777, ro, rw, noexec, exec, nosuid, suid, \
                       nodev, dev, with commas between them";

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

    /// Sets its size, or a part of the host's memory as its size, which tmpfs(5) takes as well.
    pub(super) fn set_size(&mut self, text: &str) -> Result<(), Invalid> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = whole::<u8>(percent).filter(|percent| (1..=100).contains(percent));
            self.add(format!("size={}%", percent.ok_or("expected a size of 1% to 100%")?));
            return Ok(());
        }
        match size(text)? {
            // tmpfs(5) takes it for no limit.
            0 => return Err("expected a size of at least one byte".into()),
            bytes => self.add(format!("size={bytes}")),
        }
        Ok(())
    }

    /// Sets the permissions of its topmost directory.
    pub(super) fn set_mode(&mut self, text: &str) -> Result<(), Invalid> {
        let is_octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| is_octal && mode <= 0o7777);
        self.add(format!(
            "mode={:o}",
            mode.ok_or("expected a mode as chmod takes it in digits, such as 1777")?
        ));
        Ok(())
    }

    fn add(&mut self, option: String) {
        let comma = if self.options.is_empty() { "" } else { "," };
        self.options += &format!("{comma}{option}");
    }

    /// Of two words about the same flag, the last counts.
    fn set_flag(&mut self, word: &str) -> Result<(), Invalid> {
        match word {
            "ro" | "rw" => self.read_only = word == "ro",
            "noexec" | "exec" => self.flags.set(MsFlags::MS_NOEXEC, word == "noexec"),
            "nosuid" | "suid" => self.flags.set(MsFlags::MS_NOSUID, word == "nosuid"),
            "nodev" | "dev" => self.flags.set(MsFlags::MS_NODEV, word == "nodev"),
            _ => return Err(OPTIONS.into()),
        }
        Ok(())
    }
}

/// Reads a value of `--tmpfs`: `TARGET[:OPTIONS]`.
///
/// # Errors
/// A target that is not absolute, or `/`; an option that is none.
pub fn tmpfs(text: OsString) -> Result<Tmpfs, Invalid> {
    let mut parts = without_nul(&text)?.splitn(2, |&byte| byte == b':');
    let mut tmpfs = Tmpfs::new(target(parts.next().unwrap_or_default())?);
    let Some(options) = parts.next() else { return Ok(tmpfs) };
    for word in str::from_utf8(options).map_err(|_| OPTIONS)?.split(',') {
        match word.split_once('=') {
            Some(("size", value)) => tmpfs.set_size(value)?,
            Some(("mode", value)) => tmpfs.set_mode(value)?,
            Some(_) => return Err(OPTIONS.into()),
            None => tmpfs.set_flag(word)?,
        }
    }
    Ok(tmpfs)
}
