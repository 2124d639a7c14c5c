//! `--tmpfs`: a file system in memory, and its options.
//!
//! It ends in mount(2) of a tmpfs in the container. tmpfs(5).

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::{OFlag, openat};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, fstat};

use super::path::{target, without_nul};
use super::{Invalid, size, whole};
use crate::sys::error::{Context, Error, Result};

const OPTIONS: &str = "expected size=, nr_blocks=, nr_inodes=, mode=, uid=, gid=, mpol=, ro, rw, \
                       [no]exec, [no]suid, [no]dev, [no]atime, [no]diratime, [no]relatime, \
                       [no]strictatime, sync, async, dirsync, joined by commas";

const POLICIES: &str = "expected mpol=default, local, prefer:NODE, bind:NODES or interleave:NODES, such as \
                        mpol=bind:0-1,3; =static or =relative may stand before the colon";

/// The three rules by which a file's time of access changes. One of them holds.
const ACCESS_TIMES: MsFlags = MsFlags::MS_NOATIME.union(MsFlags::MS_RELATIME).union(MsFlags::MS_STRICTATIME);

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

    /// Sets the owner or the group of its topmost directory: an id of the container.
    fn set_id(&mut self, key: &str, text: &str) -> Result<(), Invalid> {
        // The largest one means "no change" to chown(2).
        let id = whole::<u32>(text).filter(|&id| id < u32::MAX);
        self.add(format!("{key}={}", id.ok_or("expected a number as uid= and gid=, such as 1000")?));
        Ok(())
    }

    /// Sets how many blocks of a page, or files, fit in.
    fn set_count(&mut self, key: &str, text: &str) -> Result<(), Invalid> {
        // tmpfs(5) takes 0 for no limit.
        let count = size(text).ok().filter(|&count| count > 0);
        let expected = "expected a number as nr_inodes= and nr_blocks=, such as 1000 or 10k";
        self.add(format!("{key}={}", count.ok_or(expected)?));
        Ok(())
    }

    /// Sets on which memory of a NUMA machine its pages lie. The kernel looks whether this machine has these
    /// nodes.
    fn set_policy(&mut self, text: &str) -> Result<(), Invalid> {
        let (policy, nodes) = text.split_once(':').unwrap_or((text, ""));
        let (name, flag) = policy.split_once('=').unwrap_or((policy, "static"));
        let is_number = |text: &str| whole::<u16>(text).is_some();
        let is_range = |text: &str| {
            text.split_once('-').map_or(is_number(text), |(first, last)| is_number(first) && is_number(last))
        };
        let is_policy = match name {
            "default" | "local" => name == text,
            "prefer" => text == name || is_number(nodes),
            "interleave" if text == name => true,
            "bind" | "interleave" => nodes.split(',').all(is_range),
            _ => false,
        };
        if !is_policy || !["static", "relative"].contains(&flag) {
            return Err(POLICIES.into());
        }
        self.add(format!("mpol={text}"));
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
            "noatime" => self.set_access_times(MsFlags::MS_NOATIME),
            "relatime" => self.set_access_times(MsFlags::MS_RELATIME),
            "strictatime" => self.set_access_times(MsFlags::MS_STRICTATIME),
            "atime" => self.flags -= MsFlags::MS_NOATIME,
            "norelatime" => self.flags -= MsFlags::MS_RELATIME,
            "nostrictatime" => self.flags -= MsFlags::MS_STRICTATIME,
            "nodiratime" | "diratime" => self.flags.set(MsFlags::MS_NODIRATIME, word == "nodiratime"),
            "sync" | "async" => self.flags.set(MsFlags::MS_SYNCHRONOUS, word == "sync"),
            "dirsync" => self.flags |= MsFlags::MS_DIRSYNC,
            "defaults" => {}
            _ => return Err(OPTIONS.into()),
        }
        Ok(())
    }

    fn set_access_times(&mut self, rule: MsFlags) {
        self.flags = (self.flags - ACCESS_TIMES) | rule;
    }

    /// The options that mount(2) takes as data, read in the container. The tmpfs may hide a directory. Then
    /// it takes over the mode, owner and group of that directory, unless the user gives others. So a process
    /// that may write to `/tmp` still may.
    ///
    /// # Errors
    /// The container has no such user or group as the user gives.
    pub fn options_over(&self, hidden: Option<&OwnedFd>) -> Result<String> {
        let given = |key: &str| self.options.split(',').rev().find_map(|word| word.strip_prefix(key));
        for (key, map) in [("uid=", "uid_map"), ("gid=", "gid_map")] {
            let Some(id) = given(key).and_then(whole) else { continue };
            if !is_mapped(id, map)? {
                let target = self.target.display();
                return Err(Error::new(format!("--tmpfs {target}: {key}{id}: the container has no such id"))
                    .hint(format!("its ids are those in /proc/self/{map}: see --uidmap and --gidmap")));
            }
        }
        let mut all = self.clone();
        if let Some(hidden) = hidden {
            let status = fstat(hidden).context("fstat")?;
            if given("mode=").is_none() {
                all.add(format!("mode={:o}", status.st_mode & 0o7777));
            }
            for (key, map, id) in [("uid=", "uid_map", status.st_uid), ("gid=", "gid_map", status.st_gid)] {
                // A directory on the disk may belong to a user that the container does not have.
                let is_there = || -> Result<bool> {
                    Ok(is_mapped(id, map)? && (id != overflow(key)? || owner_is_mapped(hidden)))
                };
                if given(key).is_none() && id != 0 && is_there()? {
                    all.add(format!("{key}{id}"));
                }
            }
        }
        Ok(all.options)
    }
}

/// Whether the user namespace of this process has the id.
fn is_mapped(id: u32, map: &str) -> Result<bool> {
    let path = format!("/proc/self/{map}");
    let text = fs::read_to_string(&path).context(format_args!("read {path}"))?;
    let has = |line: &str| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u32>().ok());
        numbers
            .next()
            .zip(numbers.nth(1))
            .is_some_and(|(first, count)| id.checked_sub(first).is_some_and(|distance| distance < count))
    };
    Ok(text.lines().any(has))
}

/// The id that stands for each one that this process's user namespace lacks: user_namespaces(7). Often it is
/// an id of the namespace, too.
fn overflow(key: &str) -> Result<u32> {
    let path = format!("/proc/sys/kernel/overflow{}", key.trim_end_matches('='));
    let text = fs::read_to_string(&path).context(format_args!("read {path}"))?;
    whole(text.trim()).ok_or_else(|| Error::new(format!("{path}: no id: {text:?}")))
}

/// Whether the user namespace has the directory's owner; this process asks as the namespace's root. With
/// `O_NOATIME` the kernel opens a file only for its owner, or for the root of a namespace that has its
/// owner's id.
fn owner_is_mapped(directory: &OwnedFd) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME | OFlag::O_CLOEXEC;
    openat(directory, ".", flags, Mode::empty()).is_ok()
}

/// Reads a value of `--tmpfs`: `TARGET[:OPTIONS]`.
///
/// # Errors
/// A target that is not absolute, or `/`; an option that is none.
pub fn tmpfs(text: OsString) -> Result<Tmpfs, Invalid> {
    let mut parts = without_nul(&text)?.splitn(2, |&byte| byte == b':');
    let mut tmpfs = Tmpfs::new(target(parts.next().unwrap_or_default())?);
    let Some(options) = parts.next() else { return Ok(tmpfs) };
    for word in words(str::from_utf8(options).map_err(|_| OPTIONS)?) {
        match word.split_once('=') {
            Some(("size", value)) => tmpfs.set_size(value)?,
            Some(("mode", value)) => tmpfs.set_mode(value)?,
            Some((key @ ("uid" | "gid"), value)) => tmpfs.set_id(key, value)?,
            Some((key @ ("nr_inodes" | "nr_blocks"), value)) => tmpfs.set_count(key, value)?,
            Some(("mpol", value)) => tmpfs.set_policy(value)?,
            Some(_) => return Err(OPTIONS.into()),
            None => tmpfs.set_flag(word)?,
        }
    }
    Ok(tmpfs)
}

/// The options between the commas. A comma in front of a digit belongs to a list of nodes: tmpfs(5).
fn words(options: &str) -> Vec<&str> {
    let (mut words, mut start) = (Vec::new(), 0);
    for (at, _) in options.match_indices(',') {
        if !options[at + 1..].starts_with(|next: char| next.is_ascii_digit()) {
            words.push(&options[start..at]);
            start = at + 1;
        }
    }
    words.push(&options[start..]);
    words
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::values::testing::refused;

    fn read(text: &str) -> Tmpfs {
        tmpfs(text.into()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_last_rule_of_access_times_counts() {
        let usual = read("/x").flags;
        for (text, more) in [
            ("/x:noatime", MsFlags::MS_NOATIME),
            ("/x:noatime,strictatime", MsFlags::MS_STRICTATIME),
            ("/x:relatime,nodiratime", MsFlags::MS_RELATIME | MsFlags::MS_NODIRATIME),
            ("/x:noatime,atime", MsFlags::empty()),
            ("/x:defaults,relatime,norelatime,strictatime,nostrictatime", MsFlags::empty()),
            ("/x:sync,dirsync", MsFlags::MS_SYNCHRONOUS | MsFlags::MS_DIRSYNC),
            ("/x:sync,async,nodiratime,diratime", MsFlags::empty()),
        ] {
            assert_eq!(read(text).flags, usual | more, "{text}");
        }
        let options = read("/x:uid=1000,gid=0,nr_inodes=2k,nr_blocks=10").options;
        assert_eq!(options, "uid=1000,gid=0,nr_inodes=2048,nr_blocks=10");
    }

    #[test]
    fn a_policy_for_its_memory() {
        for text in [
            "mpol=default",
            "mpol=local",
            "mpol=prefer",
            "mpol=prefer=static:1",
            "mpol=bind:0-1,3",
            "mpol=interleave=relative:0,2-3",
        ] {
            assert_eq!(read(&format!("/x:{text}")).options, text);
            let among = read(&format!("/x:size=4k,{text},mode=700,noatime"));
            assert_eq!(among.options, format!("size=4096,{text},mode=700"));
        }
        let none =
            ["", "none", "local:0", "default=static", "prefer:0-1", "prefer:", "bind", "bind:", "bind:a"];
        let none = none.into_iter().chain(["bind:0,", "bind=static", "bind=no:0", "bind:0-", "interleave:"]);
        for text in none {
            let error = tmpfs(format!("/x:mpol={text}").into()).unwrap_err().to_string();
            assert!(error.starts_with("expected "), "{text}: {error}");
        }
        refused(|text: &str| tmpfs(text.into()), OPTIONS, &["/x:ro,1", "/x:1", "/x:mode=700,,", "/x:é,1"]);
    }

    #[test]
    fn it_takes_over_what_it_hides() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1751)).unwrap();
        let hidden: OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        let its = folder.path().metadata().unwrap();
        let owners = |mut options: String| {
            for (key, id) in [("uid", its.uid()), ("gid", its.gid())] {
                if id != 0 {
                    options += &format!(",{key}={id}");
                }
            }
            options
        };
        let over = |text: &str| read(text).options_over(Some(&hidden)).unwrap();
        assert_eq!(over("/x"), owners("mode=1751".into()));
        assert_eq!(over("/x:size=1m,mode=700"), owners("size=1048576,mode=700".into()));
        assert_eq!(over("/x:uid=0,gid=0,mode=1"), "uid=0,gid=0,mode=1");
        assert_eq!(read("/x:size=4k").options_over(None).unwrap(), "size=4096");
    }
}
