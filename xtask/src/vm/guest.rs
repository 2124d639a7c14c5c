//! One virtual machine: started in QEMU, given a command, ended.
//!
//! A guest has no disk and no network. The command's stdin, stdout, stderr and status travel over four
//! virtio-serial ports, apart from the console, so that the kernel's messages never mix with the output. The
//! processor is emulated (TCG): that works everywhere and needs no rights, while KVM may be forbidden,
//! absent, or, in a cloud machine, there and broken. Man page: qemu-system(1).

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::initramfs::{self, Archive};
use super::kernel::Kernel;
use super::programs::Programs;
use crate::workspace;

/// Which cgroup file systems the guest mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Cgroup {
    /// Each controller in a hierarchy of its own, as Debian 10 and RHEL 8 have it.
    V1,
    /// As v1, and an empty v2 hierarchy beside it.
    Hybrid,
    /// One hierarchy with all controllers, as every distribution has it since 2021.
    V2,
}

impl std::fmt::Display for Cgroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cgroup::V1 => "v1",
            Cgroup::Hybrid => "hybrid",
            Cgroup::V2 => "v2",
        })
    }
}

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The kernel to boot. The machine is of its architecture, and so are all programs.
    pub kernel: Kernel,
    /// The cgroup layout.
    pub cgroup: Cgroup,
    /// Whether the command runs as uid 1000 instead of root; on v2 in a subtree delegated to that user.
    pub user: bool,
    /// MiB of memory. The guest's files lie in it too.
    pub memory: u32,
    /// Programs that the guest gets besides [`TOOLS`], in `/congo`, the first folder of its PATH.
    pub programs: Vec<PathBuf>,
}

/// What the guest loads at boot. The network's modules are for the steps that have networks of their own.
const MODULES: &str = "virtio_pci virtio_console overlay loop tun veth bridge \
    nf_tables nf_conntrack nf_nat nft_chain_nat nft_ct nft_nat nft_masq nft_fib nft_fib_inet nft_fib_ipv4 \
                       nft_fib_ipv6 \
    nft_reject_inet dummy macvlan";

/// The programs that the guest has of the host, or of Debian's packages. The checks need them, and busybox
/// has no such one, or one that can do less. Also what starts others, since busybox's takes its own `ip`,
/// whatever PATH says. What the host lacks, the guest lacks: then the checks that need it are skipped. On a
/// processor that has AVX2, pasta becomes its second program.
const TOOLS: [&str; 12] = [
    "ip",
    "ipcmk",
    "newgidmap",
    "newuidmap",
    "nft",
    "nsenter",
    "pasta",
    "pasta.avx2",
    "sh",
    "slirp4netns",
    "strace",
    "unshare",
];

/// The ports, in the order of their numbers, from 1; `init.sh` knows them by number.
const PORTS: [&str; 4] = ["stdin", "stdout", "stderr", "status"];

impl Guest {
    /// Runs a command in the guest and returns its exit status.
    ///
    /// # Errors
    /// When QEMU cannot be started, the kernel panics, or `limit` passes; with the last lines of the console.
    pub fn run(
        &self,
        command: &[String],
        mut stdin: impl Read + Send + 'static,
        stdout: &mut (impl Write + Send),
        stderr: &mut (impl Write + Send),
        limit: Duration,
    ) -> Result<u8> {
        let deadline = Instant::now() + limit;
        let end = format!("\u{1e}{:016x}", RandomState::new().build_hasher().finish());
        let settings = format!("END='{end}'\n");
        let initramfs = self.initramfs(&settings, command)?;
        let mut console = tempfile::tempfile()?;
        let sockets = tempfile::tempdir()?;
        let mut qemu = self.qemu(&initramfs)?;
        qemu.arg("-serial").arg(format!("file:{}", path_of(&console)));
        qemu.args(["-device", "virtio-serial-pci"]);
        let mut listeners = Vec::new();
        for (name, number) in PORTS.iter().zip(1..) {
            let path = sockets.path().join(name);
            listeners.push(UnixListener::bind(&path).context("making a socket for the guest's output")?);
            qemu.arg("-chardev").arg(format!("socket,id={name},path={}", path.display()));
            qemu.arg("-device").arg(format!("virtserialport,chardev={name},nr={number}"));
        }
        let child = qemu.stdin(Stdio::null()).spawn().context("starting QEMU")?;
        let mut machine = Machine(child);
        let mut streams = Vec::new();
        for listener in &listeners {
            streams.push(accept(listener, &mut machine)?);
        }
        // QEMU holds everything now; a Ctrl-C leaves no file behind.
        drop(sockets);
        let [to_guest, from_stdout, from_stderr, status] =
            <[UnixStream; 4]>::try_from(streams).expect("four ports");

        // Not joined: it may wait for input that never comes. Only one direction is shut: of a socket that is
        // closed QEMU drops what it has not yet read.
        let input = to_guest.try_clone()?;
        thread::spawn(move || {
            // An error is no failure: the guest may end without reading all of it.
            let _ = io::copy(&mut stdin, &mut &input);
            let _ = input.shutdown(Shutdown::Write);
        });
        let copy = |from: UnixStream, to: &mut dyn Write| {
            let copied = copy_until(from, to, end.as_bytes());
            if copied.is_err() {
                // Nobody reads any more: wakes the main thread, which waits for the status.
                let _ = status.shutdown(Shutdown::Both);
            }
            copied.context("passing on the guest's output")
        };
        let ended = thread::scope(|scope| {
            let out = scope.spawn(|| copy(from_stdout, stdout));
            let err = scope.spawn(|| copy(from_stderr, stderr));
            let ended = wait_for_status(&status, deadline);
            if ended.is_err() {
                machine.end();
            }
            let copied = [out, err].map(|thread| thread.join().expect("the thread does not panic"));
            copied.into_iter().collect::<Result<Vec<()>>>().map(|_| ended)
        })?;
        drop(to_guest);
        ended.map_err(|error| {
            let log = read(&mut console);
            let timed_out = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind());
            let why = match log.split_once("Kernel panic - not syncing: ") {
                Some((_, words)) => {
                    format!("its kernel panicked: {}", words.lines().next().unwrap_or_default())
                }
                None if timed_out => {
                    format!("the command did not end within {} s (more: --timeout SECONDS)", limit.as_secs())
                }
                None => format!("it gave no exit status: {error}"),
            };
            let (release, cgroup) = (&self.kernel.release, self.cgroup);
            anyhow!(
                "the guest ({release}, cgroup {cgroup}) was given up: {why}; the end of its console:{}",
                tail(&log)
            )
        })
    }

    /// Gives the user a shell on the guest's console, until it powers off.
    ///
    /// # Errors
    /// When QEMU cannot be started or fails.
    pub fn shell(&self) -> Result<()> {
        let size = Command::new("stty").arg("size").stdin(Stdio::inherit()).output();
        let size =
            size.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let (rows, columns) = size.trim().split_once(' ').unwrap_or(("24", "80"));
        let term = std::env::var("TERM").unwrap_or_else(|_| "vt100".into());
        let settings = format!("INTERACTIVE=1\nROWS={rows}\nCOLUMNS={columns}\nTERM={}\n", quoted(&term));
        let initramfs = self.initramfs(&settings, &[])?;
        eprintln!(
            "xtask: Linux {}, cgroup {}. Nothing here outlives the machine: `exit` powers it off, Ctrl-A X \
             ends it at \
             once.",
            self.kernel.release, self.cgroup
        );
        // mon:stdio: the terminal is raw, Ctrl-C goes to the guest, and Ctrl-A leads to QEMU's own commands.
        let status = self.qemu(&initramfs)?.args(["-serial", "mon:stdio"]).status();
        ensure!(status.context("starting QEMU")?.success(), "QEMU failed");
        Ok(())
    }

    fn qemu(&self, initramfs: &File) -> Result<Command> {
        let architecture = self.kernel.architecture;
        let (program, package) = architecture.qemu();
        let qemu = initramfs::on_path(program).with_context(|| {
            format!("{program} is not on PATH: install it (Debian, Ubuntu: apt install {package})")
        })?;
        // An xtask that is killed must not leave a machine behind.
        let mut command = match initramfs::on_path("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(qemu);
                command
            }
            None => Command::new(qemu),
        };
        let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2));
        command.args(["-no-user-config", "-nodefaults", "-accel", "tcg"]).args(architecture.machine());
        command.arg("-m").arg(self.memory.to_string()).arg("-smp").arg(cpus.to_string());
        command.args(["-display", "none", "-no-reboot", "-initrd"]).arg(path_of(initramfs));
        command.arg("-kernel").arg(&self.kernel.image);
        // panic=-1 reboots at once, which -no-reboot turns into the end. The mitigations guard against
        // attacks on a processor that is not there.
        let console = architecture.console();
        command.arg("-append");
        command.arg(format!("console={console} quiet panic=-1 oops=panic mitigations=off"));
        Ok(command)
    }

    fn initramfs(&self, settings: &str, command: &[String]) -> Result<File> {
        let mut archive = Archive::default();
        ["bin", "home/user", "root"].iter().for_each(|folder| archive.directory(folder));
        archive.file("init", 0o755, include_bytes!("init.sh"));
        let programs = Programs::of(self.kernel.architecture)?;
        let busybox = programs.busybox()?;
        archive.file("bin/busybox", 0o755, &fs::read(&busybox).context("reading busybox")?);
        for tool in TOOLS.into_iter().filter_map(|tool| programs.find(tool)) {
            if let Err(error) = archive.program("bin", &programs.root, &tool) {
                eprintln!("xtask: the guest does without {}: {error:#}", tool.display());
            }
        }
        for program in &self.programs {
            archive.program("congo", Path::new("/"), program)?;
        }
        let etc = [
            (
                "passwd",
                "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
            ),
            ("group", "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n"),
            ("subuid", "user:100000:65536\n"),
            ("subgid", "user:100000:65536\n"),
            ("hosts", "127.0.0.1 localhost lab\n::1 localhost\n"),
            // An address for documentation: no name is ever looked up.
            ("resolv.conf", "nameserver 192.0.2.53\n"),
            ("os-release", "ID=congo-lab\nPRETTY_NAME=\"Congo's lab\"\n"),
        ];
        for (name, content) in etc {
            archive.file(&format!("etc/{name}"), 0o644, content.as_bytes());
        }
        archive.file("lab/rough.sh", 0o755, include_bytes!("rough.sh"));
        // The checks look for the steps where the workspace was when they were built.
        for step in workspace::steps()? {
            archive.directory(initramfs::text(&workspace::root().join(step.name))?);
        }
        let mut loaded = Vec::new();
        for module in self.kernel.modules(MODULES)? {
            archive.file(&format!("lab/modules/{}.ko", module.name), 0o644, &module.bytes);
            loaded.push(module.name);
        }
        let user = if self.user { "user" } else { "root" };
        let (cgroup, modules) = (self.cgroup, loaded.join(" "));
        let console = self.kernel.architecture.console();
        let settings = format!(
            "{settings}CGROUP={cgroup}\nLAB_USER={user}\nMODULES='{modules}'\nCONSOLE=/dev/{console}\n"
        );
        archive.file("lab/settings", 0o644, settings.as_bytes());
        let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
        archive.file("lab/command", 0o755, format!("#!/bin/sh\nexec {}\n", words.join(" ")).as_bytes());
        let mut file = tempfile::tempfile()?;
        file.write_all(&archive.finish()).context("writing the initramfs")?;
        Ok(file)
    }
}

/// A name by which QEMU can open a file that has none: it is gone with its last descriptor, whatever happens.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A running QEMU, ended when dropped.
struct Machine(Child);

impl Machine {
    fn end(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until QEMU connects to a socket, which it does before it starts the guest.
fn accept(listener: &UnixListener, machine: &mut Machine) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(status) = machine.0.try_wait()? {
            bail!("QEMU ended before it started the guest ({status})");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Copies what the guest writes, until the mark that ends it or until QEMU is gone.
fn copy_until(mut from: impl Read, to: &mut dyn Write, end: &[u8]) -> io::Result<()> {
    let (mut buffer, mut held) = (vec![0; 1 << 16], Vec::new());
    loop {
        let count = from.read(&mut buffer)?;
        held.extend_from_slice(&buffer[..count]);
        if let Some(at) = held.windows(end.len()).position(|window| window == end) {
            to.write_all(&held[..at])?;
            return to.flush();
        }
        // Only what could be the beginning of the mark waits for the next read: a prompt must appear at once.
        let kept = (1..end.len()).rev().find(|&count| held.ends_with(&end[..count])).unwrap_or(0);
        let kept = if count == 0 { 0 } else { kept };
        to.write_all(&held[..held.len() - kept])?;
        to.flush()?;
        held.drain(..held.len() - kept);
        if count == 0 {
            return Ok(());
        }
    }
}

fn wait_for_status(port: &UnixStream, deadline: Instant) -> io::Result<u8> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    port.set_read_timeout(Some(left))?;
    let mut line = String::new();
    BufReader::new(port).read_line(&mut line)?;
    line.trim().parse().map_err(|_| io::Error::other(format!("{line:?} came in its place")))
}

fn read(console: &mut File) -> String {
    let mut bytes = Vec::new();
    match console.rewind().and_then(|()| console.read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    }
}

/// The last lines of a console, one below the other.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().map(|line| format!("\n  | {}", line.trim_end())).collect();
    if lines.is_empty() { " it is empty".into() } else { lines[lines.len().saturating_sub(24)..].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one by one, as a socket may.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    fn copied(pieces: &[&'static [u8]]) -> Vec<u8> {
        let mut to = Vec::new();
        copy_until(Pieces(pieces.to_vec()), &mut to, b"<end>").unwrap();
        to
    }

    #[test]
    fn output_ends_at_the_mark_wherever_it_is_cut() {
        assert_eq!(copied(&[b"one<end>two"]), b"one");
        assert_eq!(copied(&[b"one<e", b"nd>two"]), b"one");
        assert_eq!(copied(&[b"one<", b"e", b"n", b"d", b">"]), b"one");
        assert_eq!(copied(&[b"a<e", b"<end>"]), b"a<e");
    }

    #[test]
    fn output_of_a_guest_that_died_is_kept() {
        assert_eq!(copied(&[b"one", b"two<en"]), b"onetwo<en");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        for word in ["", "a b", "it's", "$HOME `id` \"", "-n"] {
            let output =
                Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(output.stdout, word.as_bytes());
        }
    }
}
