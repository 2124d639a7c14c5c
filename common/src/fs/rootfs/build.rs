//! The content of the root: which programs, and everything without which they would not work.
//!
//! First a plan is made, which only reads the host; then it is written. So a program of which a library is
//! missing leaves no trace, and nothing but the writing can fail half-way.
//! The layout is the host's own: each file at its own path, with the links that lead there. Where the host's
//! `/bin` is a link to `usr/bin`, it is one in the root; what a program finds relative to itself, it finds.
//! Source: hier(7).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::elf::{Loader, musl_path_file, parent};
use super::host::{Found, Host, inward};
use crate::sys::error::{Context, Error, Result};

/// The programs that a root has, as far as the host has them, or busybox can stand in for them.
const PROGRAMS: &str = "
    sh bash dash ash busybox coreutils
    arch b2sum base32 base64 basename cat chgrp chmod chown chroot cksum comm cp csplit cut date dd df dir
    dircolors dirname du echo env expand expr factor false fmt fold getent groups head hostid id install join
    link ln logname ls md5sum mkdir mkfifo mknod mktemp mv nice nl nohup nproc numfmt od paste pathchk pr
    printenv printf pwd readlink realpath rm rmdir seq sha1sum sha224sum sha256sum sha384sum sha512sum shred
    shuf sleep sort split stat stty sum sync tac tail tee test [ timeout touch tr true truncate tsort tty
    uname unexpand uniq unlink users vdir wc who whoami yes
    free kill pgrep pidof pkill pmap ps pstree sysctl top uptime vmstat w watch
    chrt column dmesg fallocate findmnt flock getopt hexdump ionice ipcmk ipcrm ipcs lsblk lscpu lsns more
    mount mountpoint nsenter pivot_root prlimit renice rev setpriv setsid taskset umount unshare
    arping bridge dnsdomainname hostname ifconfig ip nc netstat nslookup ping ping6 route ss tc traceroute
    wget awk clear cmp diff ed egrep fgrep find grep less reset sed strings tput vi which xargs xxd
    bunzip2 bzcat bzip2 cpio gunzip gzip tar unxz unzip xz xzcat zcat
    capsh getcap getpcaps setcap strace";

/// Where a shell in the container looks for programs.
const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where the descriptions of terminals are, and of which: without its own, `top`, `less` and `vi` refuse.
const TERMINFO: [&str; 4] = ["/etc/terminfo", "/lib/terminfo", "/usr/lib/terminfo", "/usr/share/terminfo"];
const TERMINALS: &str =
    "alacritty ansi dumb foot linux rxvt rxvt-unicode-256color screen screen-256color tmux
    tmux-256color vt100 vt220 xterm xterm-256color xterm-ghostty xterm-kitty";

/// The directories that every root has, with their modes. The empty ones are what the container mounts upon.
const DIRECTORIES: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

/// The files that every root has. The name service is asked to look into `/etc/hosts` before it asks the
/// network: without nsswitch.conf glibc does it the other way round. Vim complains of its missing
/// `defaults.vim` only where a user has no configuration.
const FILES: [(&str, &str); 6] = [
    ("root/.vimrc", ""),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hostname", "congo\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
];

/// What [`build`] has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// How many programs the root has.
    pub programs: usize,
    /// How many of them are links to busybox that the host does not have.
    pub from_busybox: usize,
    /// How many bytes were copied.
    pub bytes: u64,
    /// The programs that the host has and the root has not, each with the reason.
    pub left_out: Vec<(String, String)>,
}

/// Makes a root filesystem in the new directory `root` from the programs in the directories `search` of a
/// host.
///
/// `host` is the host's root directory, in general `/`; the directories of `search` are absolute paths in it.
/// Nothing in the root shares an inode with the host, so a container's root may write to all of it.
///
/// # Errors
///
/// When the host has no `sh` that works; when a file cannot be written (EACCES, ENOSPC, EROFS …), or `root`
/// is already there (EEXIST). An unfinished root remains.
pub fn build(host: &Path, search: &[&Path], root: &Path) -> Result<Built> {
    let host = Host { root: host };
    let plan = Plan::make(&host, search)?;
    let bytes = plan.write(&host, root)?;
    let left_out = plan.left_out.into_iter().collect();
    Ok(Built { programs: plan.programs.len(), from_busybox: plan.from_busybox, bytes, left_out })
}

/// What the root is going to have. All paths are the host's, absolute, and without links in their
/// directories.
#[derive(Default)]
struct Plan {
    directories: BTreeSet<PathBuf>,
    links: BTreeMap<PathBuf, PathBuf>,
    files: BTreeSet<PathBuf>,
    /// Each program's name and its file.
    programs: BTreeMap<String, PathBuf>,
    from_busybox: usize,
    left_out: BTreeMap<String, String>,
}

impl Plan {
    fn make(host: &Host, search: &[&Path]) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut loader = Loader::new(host);
        // First those directories that are links on a host with a merged /usr: what is in them goes through
        // the link. `lib64` is where most programs expect their loader.
        for directory in ["/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin"] {
            plan.directory(host, directory);
        }
        let mut scripts = Vec::new();
        for name in PROGRAMS.split_whitespace() {
            for directory in search {
                let Some(found) = host.resolve(&directory.join(name)) else { continue };
                match plan.program(host, &mut loader, name, directory, found) {
                    Ok(None) => break,
                    Ok(Some(script)) => {
                        scripts.push(script);
                        break;
                    }
                    Err(reason) => _ = plan.left_out.entry(name.to_owned()).or_insert(reason),
                }
            }
        }
        // Only now is it known which interpreters there are.
        for script in scripts {
            plan.script(host, script);
        }
        plan.fill_with_busybox(host);
        plan.ensure_shell(host)?;
        plan.left_out.retain(|name, _| !plan.programs.contains_key(name));
        plan.data(host, &mut loader);
        Ok(plan)
    }

    /// Takes a program with all that it needs. A script is handed back for later; what cannot run is refused.
    fn program(
        &mut self,
        host: &Host,
        loader: &mut Loader,
        name: &str,
        directory: &Path,
        found: Found,
    ) -> Result<Option<Script>, String> {
        let real = found.real.clone();
        let Some(object) = loader.object(&real) else {
            let bytes = host.read(&real).map_err(|error| error.to_string())?;
            let Some(line) = bytes.strip_prefix(b"#!") else { return Err("not a working program".into()) };
            let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).into_owned();
            return Ok(Some(Script { name: name.to_owned(), directory: directory.to_owned(), found, line }));
        };
        for needed in loader.needs(&real, &object)? {
            self.add(needed);
        }
        self.name(host, name, directory, found);
        Ok(None)
    }

    /// Takes a script if the program that reads it is there.
    fn script(&mut self, host: &Host, script: Script) {
        let mut words = script.line.split_whitespace();
        let interpreter = words.next().unwrap_or_default();
        let found = host.resolve(Path::new(interpreter)).filter(|found| self.files.contains(&found.real));
        // `#!/usr/bin/env NAME`: the interpreter that counts is NAME.
        let by_name = interpreter.ends_with("/env").then(|| words.next().unwrap_or_default());
        match found {
            Some(found) if by_name.is_none_or(|name| self.programs.contains_key(name)) => {
                self.add(found);
                self.name(host, &script.name, &script.directory, script.found);
            }
            _ => {
                let reason = format!("a script for {}", script.line.trim());
                self.left_out.entry(script.name).or_insert(reason);
            }
        }
    }

    /// The host's busybox stands in for programs that the host lacks, and for programs with missing
    /// libraries. It replaces no other program: learners should meet the tools that they know, and a
    /// distribution's own `ps`, `ip` and `mount` say more. Each applet is a link to busybox, which goes by
    /// argv\[0\].
    fn fill_with_busybox(&mut self, host: &Host) {
        let Some(busybox) = self.programs.get("busybox").cloned() else { return };
        // Asked, not guessed: which applets there are was chosen when it was compiled.
        let mut command = Command::new(host.path(&busybox));
        let output = command.arg("--list").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output();
        let applets = match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            refused => {
                let reason =
                    refused.map_or_else(|error| error.to_string(), |output| output.status.to_string());
                self.left_out.insert("busybox's applets".to_owned(), format!("busybox --list: {reason}"));
                return;
            }
        };
        let applets: BTreeSet<&str> = applets.lines().collect();
        let missing = PROGRAMS.split_whitespace().filter(|name| !self.programs.contains_key(*name));
        for name in missing.filter(|name| applets.contains(name)).collect::<Vec<_>>() {
            self.link(host, "/usr/bin", name, &busybox);
            self.programs.insert(name.to_owned(), busybox.clone());
            self.from_busybox += 1;
        }
    }

    /// `/bin/sh` is what a container starts, and what scripts name, wherever the host has its `sh`.
    fn ensure_shell(&mut self, host: &Host) -> Result<()> {
        let Some(shell) = self.programs.get("sh").cloned() else {
            let reason = self.left_out.get("sh").map_or("this host has none", String::as_str);
            return Err(Error::new(format!("make a root filesystem from this host: no usable sh: {reason}"))
                .hint("install a static busybox (Debian: busybox-static), or give a root with --rootfs"));
        };
        let leads_to_shell = host.resolve(Path::new("/bin/sh")).is_some_and(|found| {
            self.files.contains(&found.real) && found.links.iter().all(|(at, _)| self.links.contains_key(at))
        });
        if !leads_to_shell {
            self.link(host, "/bin", "sh", &shell);
        }
        Ok(())
    }

    /// What programs read besides libraries.
    fn data(&mut self, host: &Host, loader: &mut Loader) {
        let dynamic = self.programs.values().find_map(|real| {
            loader
                .object(real)
                .filter(|object| object.interpreter.is_some())
                .map(|object| (real.clone(), object))
        });
        if let Some((real, object)) = dynamic {
            loader.loaded_by_libc(&real, &object).into_iter().for_each(|found| self.add(found));
        }
        let musl = self.programs.values().filter_map(|program| loader.object(program)?.interpreter.clone());
        let musl: BTreeSet<_> = musl.filter_map(|interpreter| musl_path_file(&interpreter)).collect();
        let terminals = TERMINFO.iter().flat_map(|directory| {
            TERMINALS.split_whitespace().map(move |name| format!("{directory}/{}/{name}", &name[..1]))
        });
        for path in musl.into_iter().chain(terminals) {
            let found = host.resolve(Path::new(&path));
            found
                .filter(|found| host.path(&found.real).is_file())
                .into_iter()
                .for_each(|found| self.add(found));
        }
    }

    /// Takes a file, and the links on the way to it.
    fn add(&mut self, found: Found) {
        for (at, target) in found.links {
            self.links.entry(at).or_insert(target);
        }
        self.files.insert(found.real);
    }

    /// Takes a program's own file, and sees to it that a shell finds it under its name.
    fn name(&mut self, host: &Host, name: &str, directory: &Path, found: Found) {
        let real = found.real.clone();
        if PATH.iter().any(|known| directory == Path::new(known)) {
            self.add(found);
        } else {
            // Where a distribution keeps its programs elsewhere (NixOS, Guix).
            self.files.insert(found.real);
            self.link(host, "/usr/bin", name, &real);
        }
        self.programs.insert(name.to_owned(), real);
    }

    /// Puts a link to `target` into a directory of the host's layout.
    fn link(&mut self, host: &Host, directory: &str, name: &str, target: &Path) {
        let directory = self.directory(host, directory);
        self.links.insert(directory.join(name), target.to_owned());
    }

    /// Takes a directory as the host has it, a directory or a link; returns where it really is.
    fn directory(&mut self, host: &Host, path: &str) -> PathBuf {
        let Some(found) = host.resolve(Path::new(path)) else { return path.into() };
        self.links.extend(found.links);
        self.directories.insert(found.real.clone());
        found.real
    }

    /// Writes everything into the new directory `root`; returns the number of bytes copied.
    fn write(&self, host: &Host, root: &Path) -> Result<u64> {
        let at = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        fs::create_dir(root).at("make", root)?;
        set_mode(root, 0o755)?;
        // These first, while the root has no link through which one of them might be written elsewhere.
        for (directory, mode) in DIRECTORIES {
            make_directories(root, Path::new(directory))?;
            set_mode(&root.join(directory), mode)?;
        }
        for (path, content) in FILES {
            copy(&mut content.as_bytes(), &root.join(path), 0o644)?;
        }
        let mounts = root.join("etc/mtab");
        std::os::unix::fs::symlink("/proc/mounts", &mounts).at("make", &mounts)?;
        copy(&mut host.read_text("/etc/resolv.conf").as_bytes(), &root.join("etc/resolv.conf"), 0o644)?;
        for directory in &self.directories {
            make_directories(root, directory)?;
        }
        let mut first_copies = HashMap::new();
        let mut bytes = 0;
        for file in &self.files {
            make_directories(root, &parent(file))?;
            let (from, to) = (host.path(file), at(file));
            let mut source = File::open(&from).at("read", &from)?;
            let metadata = source.metadata().at("read", &from)?;
            // Programs that are one file under several names (busybox, uutils) remain one.
            if let Some(first) = first_copies.get(&(metadata.dev(), metadata.ino())) {
                fs::hard_link(first, &to).at("make", &to)?;
                continue;
            }
            // Everybody may read and execute. No copy keeps a set-user-ID bit: with it, users of the host
            // could become root, and the host's security updates do not reach the copy.
            let mode = if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            bytes += copy(&mut source, &to, mode)?;
            if metadata.nlink() > 1 {
                first_copies.insert((metadata.dev(), metadata.ino()), to);
            }
        }
        for (link, target) in self.links.iter().filter(|(link, _)| !self.files.contains(*link)) {
            make_directories(root, &parent(link))?;
            std::os::unix::fs::symlink(inward(&parent(link), target), at(link)).at("make", at(link))?;
        }
        Ok(bytes)
    }
}

/// A program that another program reads: what stands behind `#!` in its first line.
struct Script {
    name: String,
    directory: PathBuf,
    found: Found,
    line: String,
}

/// Makes `path` beneath `root` with all its directories. The modes are set, as the caller's umask may be
/// strict.
fn make_directories(root: &Path, path: &Path) -> Result<()> {
    let mut whole = root.to_owned();
    for name in path.strip_prefix("/").unwrap_or(path) {
        whole.push(name);
        match fs::create_dir(&whole) {
            Ok(()) => set_mode(&whole, 0o755)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).at("make", &whole),
        }
    }
    Ok(())
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).at("change", path)
}

/// Writes a new file with exactly this mode.
fn copy(source: &mut impl io::Read, to: &Path, mode: u32) -> Result<u64> {
    let copied: io::Result<u64> = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let bytes = io::copy(source, &mut file)?;
        file.flush()?;
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(bytes)
    })();
    copied.at("write", to)
}
