//! Where the bench takes place: state folders on the disk and in memory, the bare programs, and the bundles.
//!
//! All of it lies in one temporary folder, in a mount namespace of the bench's own. Man pages: tmpfs(5),
//! bwrap(1), crun(1), runc(8), strace(1).

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use checks::inside::{MASKED, READ_ONLY};
use common::security::seccomp::calls;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::measure::{Contender, Start};
use super::seen::{Held, Seen};
use crate::probe::docker::{self, CAPABILITIES};
use crate::workspace::{self, Build, Step};

pub const PLAIN: &str = "fork and exec";
pub const BWRAP: &str = "bwrap";
pub const OCI: [&str; 2] = ["crun", "runc"];

/// What crun and runc call the container.
const CONTAINER: &str = "congo.bench";

/// Which id of the host is root in the containers of crun and runc: one of Congo's own ranges.
const HOST_ID: u32 = 1_879_048_192;

/// The files that the runtimes put into a container.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// One temporary folder, and what is in it.
pub struct Yard {
    folder: TempDir,
    binaries: PathBuf,
    steps: Vec<Step>,
    /// On the disk, and in memory.
    pub disk: State,
    memory: State,
    /// The bare program that makes the containers of all levels.
    floor: PathBuf,
    /// The cgroup hierarchies, as it takes them.
    hierarchies: Vec<String>,
}

/// A state folder of Congo's, and the root that Congo makes in it from the host's programs.
pub struct State {
    pub home: PathBuf,
    pub root: PathBuf,
}

impl State {
    fn new(home: PathBuf, binary: &Path) -> Result<State> {
        fs::create_dir(&home)?;
        // What a runtime explains is what it does: it says where its root is, wherever a later Congo may put
        // it.
        let mut command = Command::new(binary);
        command.args(["--explain", "true"]).env("CONGO_HOME", &home).stdin(Stdio::null());
        let output = command.output().with_context(|| binary.display().to_string())?;
        let explained = String::from_utf8_lossy(&output.stderr);
        let root = explained.split("chroot(\"").nth(1).and_then(|rest| rest.split('"').next());
        let root = root.with_context(|| format!("{} does not run:\n{explained}", binary.display()))?.into();
        Ok(State { home, root })
    }
}

impl Yard {
    /// Makes all that is needed. The programs are built, unless there is a folder that has them.
    pub fn new(binaries: Option<&Path>) -> Result<Self> {
        let euid = nix::unistd::geteuid();
        ensure!(euid.is_root(), "steps 0 to 3 need root: sudo -E env \"PATH=$PATH\" cargo xtask bench");
        let steps = workspace::steps()?;
        let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
        let binaries = match binaries {
            Some(folder) => folder.canonicalize().with_context(|| folder.display().to_string())?,
            None => workspace::build(&names, Build::StaticRelease)?,
        };
        own_mounts().context("making a mount namespace of the bench's own")?;
        // Not in /tmp, which is in memory on many machines.
        let folder = tempfile::Builder::new().prefix("congo-bench-").tempdir_in("/var/tmp")?;
        ensure!(statfs(folder.path())?.filesystem_type() != TMPFS_MAGIC, "/var/tmp is not on a disk");
        let memory = folder.path().join("memory");
        fs::create_dir(&memory)?;
        mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        let first = binaries.join(names.first().context("there is no step")?);
        let disk = State::new(folder.path().join("disk"), &first)?;
        let memory = State::new(memory.join("state"), &first)?;
        let last = binaries.join(names.last().context("there is no step")?);
        let floor = compile_floor(folder.path(), &last, &disk)?;
        let hierarchies = hierarchies()?;
        Ok(Yard { folder, binaries, steps, disk, memory, floor, hierarchies })
    }

    /// The temporary folder, on the disk.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A step's program.
    pub fn binary(&self, number: usize) -> PathBuf {
        self.binaries.join(&self.steps[number].name)
    }

    /// A step by its number, with these options and its state in that folder.
    pub fn step(&self, number: u8, state: &State, options: &[&str]) -> Result<Contender> {
        let step = self.steps.iter().find(|step| step.number == number).context("no such step")?;
        let (binary, home) = (self.binaries.join(&step.name), state.home.clone());
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        let start = move |command: &[&str]| {
            let mut start = Command::new(&binary);
            start.args(&options).args(command).env("CONGO_HOME", &home).stdin(Stdio::null());
            start
        };
        let name = self.named(&step.name, state);
        let floor = (number > 0).then(|| self.named(&floor_of(number), state));
        Ok(Contender { name, floor, lacks: String::new(), start: Box::new(start) })
    }

    /// The bare program of a level.
    ///
    /// # Errors
    /// When it does not run, or does not make the same container as the step: then nothing is to be compared.
    pub fn floor(&self, level: u8, state: &State) -> Result<Contender> {
        let (floor, mut arguments) = (self.floor.clone(), vec![level.to_string()]);
        arguments.extend([&state.root, &state.home].map(|path| path.display().to_string()));
        arguments.extend(self.hierarchies.clone());
        let start = move |command: &[&str]| {
            let mut start = Command::new(&floor);
            start.args(&arguments).args(command).stdin(Stdio::null());
            start
        };
        let name = self.named(&floor_of(level), state);
        let floor = Contender { name, floor: None, lacks: String::new(), start: Box::new(start) };
        let step = self.step(level, state, &[])?;
        let differences = look(&floor)?.differences(&look(&step)?).join("; ");
        let names = format!("{} does not make the container of {}", floor.name, step.name);
        ensure!(differences.is_empty(), "{names}: {differences}");
        Ok(floor)
    }

    fn named(&self, name: &str, state: &State) -> String {
        if state.home == self.memory.home { format!("{name}, on tmpfs") } else { name.to_owned() }
    }

    /// Everybody who is here, and what is not here, and why.
    ///
    /// # Errors
    /// When a step does not run.
    pub fn contenders(&self) -> Result<(Vec<Contender>, Vec<String>)> {
        let root = self.disk.root.clone();
        let start = move |command: &[&str]| {
            let mut start = Command::new(root.join(&command[0][1..]));
            start.args(&command[1..]).stdin(Stdio::null());
            start
        };
        let plain =
            Contender { name: PLAIN.to_owned(), floor: None, lacks: String::new(), start: Box::new(start) };
        let (mut measured, mut absent) = (vec![plain], Vec::new());
        measured.push(self.step(0, &self.disk, &[])?);
        for (level, state) in [1, 2, 3, 4]
            .map(|level| (level, &self.disk))
            .into_iter()
            .chain([(3, &self.memory), (4, &self.memory)])
        {
            match self.floor(level, state) {
                Ok(floor) => measured.push(floor),
                Err(error) => absent.push(format!("{error:#}")),
            }
            measured.push(self.step(level, state, &[])?);
        }
        let equal = look(&self.step(4, &self.disk, &[])?)?;
        for name in [BWRAP].into_iter().chain(OCI) {
            let path = match checks::installed::program(name) {
                Ok(path) => path,
                Err(error) => {
                    absent.push(error);
                    continue;
                }
            };
            let start = if name == BWRAP { self.bwrap(path)? } else { self.oci(name, path)? };
            let mut contender = Contender { name: name.to_owned(), floor: None, lacks: String::new(), start };
            match contender.try_once().and_then(|()| look(&contender)) {
                Ok(seen) => {
                    contender.lacks = seen.lacks(&equal);
                    measured.push(contender);
                }
                Err(error) => absent.push(format!("{name}: {error:#}")),
            }
        }
        Ok((measured, absent))
    }

    /// bwrap, with as much of step 4's isolation as it has.
    fn bwrap(&self, path: PathBuf) -> Result<Start> {
        let mut arguments: Vec<String> = [
            "--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup",
            "--uid 0 --gid 0 --hostname congo --new-session --die-with-parent --as-pid-1 --clearenv",
            "--seccomp 0 --cap-drop ALL",
        ]
        .join(" ")
        .split(' ')
        .map(str::to_owned)
        .collect();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        for capability in CAPABILITIES {
            add(&["--cap-add", capability]);
        }
        for (name, value) in [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("TERM", "xterm")]
        {
            add(&["--setenv", name, value]);
        }
        add(&["--bind", &self.disk.root.display().to_string(), "/", "--proc", "/proc", "--dev", "/dev"]);
        add(&["--ro-bind", "/sys", "/sys", "--mqueue", "/dev/mqueue", "--tmpfs", "/dev/shm"]);
        for file in FILES {
            add(&["--bind", &self.file(file)?.display().to_string(), &format!("/etc/{file}")]);
        }
        for masked in MASKED.iter().filter(|path| Path::new(path).exists()) {
            match Path::new(masked).is_dir() {
                true => add(&["--tmpfs", masked, "--remount-ro", masked]),
                false => add(&["--ro-bind", "/dev/null", masked]),
            }
        }
        for unchanged in READ_ONLY.iter().filter(|path| Path::new(path).exists()) {
            add(&["--ro-bind", unchanged, unchanged]);
        }
        let filter = self.folder.path().join("filter");
        let output = Command::new(&self.floor).arg("filter").output()?;
        fs::write(&filter, output.stdout)?;
        Ok(Box::new(move |command: &[&str]| {
            let mut start = Command::new(&path);
            start.args(&arguments).args(command);
            // Its input is the filter; the commands read none.
            start.stdin(fs::File::open(&filter).map_or_else(|_| Stdio::null(), Stdio::from));
            start
        }))
    }

    /// An OCI runtime, with a bundle for each command.
    fn oci(&self, name: &str, path: PathBuf) -> Result<Start> {
        // In a user namespace the root's files must belong to its users.
        let root = self.folder.path().join("oci-root");
        if !root.exists() {
            let copied = Command::new("cp").arg("--archive").arg(&self.disk.root).arg(&root).status()?;
            ensure!(copied.success(), "cp failed");
            give_away(&root)?;
        }
        let bundles = self.folder.path().join(format!("{name}-bundles"));
        for command in [&super::TRUE[..], &super::SLEEP[..]] {
            let bundle = bundles.join(command[0].trim_start_matches("/bin/"));
            fs::create_dir_all(&bundle)?;
            fs::write(bundle.join("config.json"), self.config(name, &root, command)?.to_string())?;
        }
        let state = self.folder.path().join(name);
        Ok(Box::new(move |command: &[&str]| {
            let mut run = Command::new(&path);
            run.arg("--root").arg(&state).args(["run", "--bundle"]).stdin(Stdio::null());
            run.arg(bundles.join(command[0].trim_start_matches("/bin/"))).arg(CONTAINER);
            run
        }))
    }

    /// Docker's configuration of a container, with the users and the limits of step 4.
    fn config(&self, runtime: &str, root: &Path, command: &[&str]) -> Result<Value> {
        let mut config = docker::config(root, command, &seccomp());
        config["process"]["noNewPrivileges"] = json!(true);
        let mounts = config["mounts"].as_array_mut().context("mounts are a list")?;
        for file in FILES {
            let (source, destination) = (self.file(file)?, format!("/etc/{file}"));
            mounts.push(json!({ "destination": destination, "type": "bind", "source": source,
                                "options": ["bind", "nosuid", "nodev", "noexec"] }));
        }
        let linux = config["linux"].as_object_mut().context("linux is an object")?;
        linux["namespaces"].as_array_mut().context("a list")?.push(json!({ "type": "user" }));
        let ids = json!([{ "containerID": 0, "hostID": HOST_ID, "size": 65_536 }]);
        linux.extend([("uidMappings".to_owned(), ids.clone()), ("gidMappings".to_owned(), ids)]);
        // Not `congo-…`: a step that starts meanwhile would take it for a dead runtime's, and end it.
        linux.insert("cgroupsPath".into(), format!("/congo.bench.{runtime}").into());
        let resources = json!({
            "memory": { "limit": 128 << 20, "swap": 256 << 20 },
            "cpu": { "quota": 50_000, "period": 100_000 },
            "pids": { "limit": 64 },
        });
        linux.insert("resources".into(), resources);
        Ok(config)
    }

    /// A file that is mounted into a container of bwrap, crun or runc.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, "127.0.0.1\tcongo\n")?;
        Ok(path)
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        // A container that failed half-way is still known to its runtime, and its cgroup still there.
        for runtime in OCI {
            let state = self.folder.path().join(runtime);
            if state.join(CONTAINER).exists() {
                let mut delete = Command::new(runtime);
                let _ = delete.arg("--root").arg(state).args(["delete", "--force", CONTAINER]).status();
            }
        }
        let _ = umount2(&self.folder.path().join("memory"), MntFlags::MNT_DETACH);
        // The bare programs' record of the host's ids in use.
        let _ = fs::remove_dir("/run/congo.bench");
    }
}

fn floor_of(level: u8) -> String {
    format!("bare C program, level {level}")
}

/// What a container of this one is.
fn look(contender: &Contender) -> Result<Seen> {
    let held = Held::start(contender)?;
    Seen::of(held.inside).with_context(|| contender.name.clone())
}

/// Gives the bench mounts of its own. In these a hybrid host looks like one of pure cgroup v1: crun refuses a
/// host that has controllers in v2, too.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let hierarchies = super::seen::asked(checks::kernel::hierarchies())?;
    if hierarchies.iter().any(|hierarchy| !hierarchy.v2) {
        for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.v2) {
            umount2(&hierarchy.point, MntFlags::MNT_DETACH)?;
        }
    }
    Ok(())
}

/// Compiles the bare program, with the filter that step 4 loads: strace prints it as C.
fn compile_floor(folder: &Path, step4: &Path, state: &State) -> Result<PathBuf> {
    let trace = folder.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-v", "-e", "trace=seccomp", "-o"]).args([&trace, step4]).arg("true");
    let traced = strace.env("CONGO_HOME", &state.home).stdin(Stdio::null()).output();
    let traced = traced.context("strace is needed: apt install strace")?;
    ensure!(traced.status.success(), "strace: {}", String::from_utf8_lossy(&traced.stderr));
    let trace = fs::read_to_string(&trace)?;
    let filter = trace.split("filter=[").nth(1).and_then(|rest| rest.split("]}").next());
    let filter = filter.context("step 4 loads no filter that strace shows")?;
    fs::write(folder.join("filter.h"), format!("static struct sock_filter filter[] = {{{filter}}};\n"))?;

    let floor = folder.join("floor");
    let source = workspace::root().join("xtask/bench/floor.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-static", "-I"]).arg(folder).arg("-o").args([&floor, &source]);
    let output = cc.output().context("a C compiler, cc, is needed")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(floor)
}

/// The cgroup hierarchies, as the bare program takes them.
fn hierarchies() -> Result<Vec<String>> {
    let hierarchies = super::seen::asked(checks::kernel::hierarchies())?;
    let find = |controller: &str| {
        let has = |known: &String| known == controller;
        let found = hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(has));
        found.with_context(|| format!("no cgroup controller {controller}"))
    };
    let used = [find("memory")?, find("cpu")?, find("pids")?];
    let points = used.map(|hierarchy| hierarchy.point.display().to_string());
    match used.map(|hierarchy| hierarchy.v2) {
        [true, true, true] => Ok(["v2".to_owned()].into_iter().chain(points.into_iter().take(1)).collect()),
        [false, false, false] => Ok(["v1".to_owned()].into_iter().chain(points).collect()),
        _ => bail!("some controllers are in v1, some in v2"),
    }
}

/// Congo's built-in profile, as far as it names calls, in the form of the OCI specification.
fn seccomp() -> Value {
    let names: Vec<_> = calls::NAMES_OF_EVERYBODY.iter().flat_map(|names| names.split_whitespace()).collect();
    // A call that is allowed if its first argument is so.
    let allow = |name: &str, op: &str, value: u64| {
        let first = json!({ "index": 0, "value": value, "valueTwo": 0, "op": op });
        json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [first] })
    };
    let machine = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [machine],
        "syscalls": [
            { "names": names, "action": "SCMP_ACT_ALLOW" },
            { "names": ["chroot"], "action": "SCMP_ACT_ALLOW" },
            // No AF_ALG and no AF_VSOCK; no new namespaces.
            allow("socket", "SCMP_CMP_LT", 38),
            allow("socket", "SCMP_CMP_EQ", 39),
            allow("socket", "SCMP_CMP_GT", 40),
            allow("personality", "SCMP_CMP_EQ", 0),
            allow("clone", "SCMP_CMP_MASKED_EQ", 0x7E02_0000),
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
        ],
    })
}

/// Makes everything below belong to the container's users.
fn give_away(path: &Path) -> Result<()> {
    lchown(path, Some(HOST_ID), Some(HOST_ID)).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)? {
            give_away(&entry?.path())?;
        }
    }
    Ok(())
}
