//! What the facts mean: a line for each thing, with its remedy, and from the lines a verdict for each step.
//!
//! Pure: touches no kernel object. Rule of order: a cause that forbids a thing to everybody is told first.
//! Nothing else helps before that cause is gone. Man pages: user_namespaces(7), cgroups(7), subuid(5),
//! sysctl(8).

use std::fmt;

use super::{Facts, Line, State, Step, Tree, Verdict};
use crate::attempt::KINDS;
use State::{Limited, Missing, Untried, Works};

const ALL: &[Step] =
    &["step 0", "step 1", "step 2", "step 3", "step 4 as an ordinary user", "step 4 as root"];
const BY_ROOT: &[Step] = &["step 0", "step 1", "step 2", "step 3", "step 4 as root"];
const LIMITS: &[Step] = &["step 1", "step 2", "step 3", "step 4 as root"];
const NETWORKS: &[Step] = &["step 2", "step 3", "step 4 as root"];
const LESSON_OF_2: &[Step] = &["step 2"];
const LAYERS: &[Step] = &["step 3", "step 4 as root"];
const TERMINALS: &[Step] = &["step 2", "step 3", "step 4 as an ordinary user", "step 4 as root"];
const USERS: &[Step] = &["step 4 as an ordinary user", "step 4 as root"];
const AS_USER: &[Step] = &["step 4 as an ordinary user"];
const AS_ROOT: &[Step] = &["step 4 as root"];

const OLDEST: (u32, u32) = (5, 4);
/// What later kernels have brought.
const BROUGHT: [((u32, u32), &str); 5] = [
    ((5, 7), "CLONE_INTO_CGROUP"),
    ((5, 11), "overlay for ordinary users, CLOSE_RANGE_CLOEXEC"),
    ((5, 12), "mount_setattr with id-mapped mounts"),
    ((5, 14), "cgroup.kill"),
    ((5, 19), "overlays of id-mapped layers"),
];

const OTHER_KERNEL: &str = "boot another kernel, or use a virtual machine: cargo congo vm";
const OUTSIDE: &str = "run it on the host, or start the container with --privileged";

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.state.mark(), self.name, self.fact)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " → {}", self.remedy) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.state.mark(), self.step)?;
        // The lines above tell all; here the first cause, as without it nothing else helps.
        let first = self.because.first().map_or("", String::as_str);
        let remedy = self.remedies.first().map_or("", String::as_str);
        match self.state {
            Works => write!(f, "can run"),
            Limited => write!(f, "can run; limited: {}", self.because.join(", ")),
            Untried => write!(f, "not tried: {first} → {remedy}"),
            Missing => write!(f, "cannot run: because {first} → {remedy}"),
        }?;
        match self.because.len() {
            more @ 2.. if self.state == Missing => write!(f, " (and {} more, see ✗ above)", more - 1),
            _ => Ok(()),
        }
    }
}

impl State {
    fn mark(self) -> char {
        match self {
            Works => '✓',
            Limited | Untried => '!',
            Missing => '✗',
        }
    }
}

/// A verdict for each step: as good as the worst line that it needs.
pub fn verdicts(lines: &[Line]) -> Vec<Verdict> {
    let of_step = |&step: &Step| {
        let needed = || lines.iter().filter(move |line| line.steps.contains(&step));
        let state = needed().map(|line| line.state).max().unwrap_or(Works);
        let worst: Vec<_> = needed().filter(|line| line.state == state && state != Works).collect();
        let because = |line: &&Line| match state {
            Limited => line.name.clone(),
            _ => format!("{}: {}", line.name, line.fact),
        };
        let mut remedies: Vec<_> = worst.iter().map(|line| line.remedy.clone()).collect();
        remedies.dedup();
        Verdict { step, state, because: worst.iter().map(because).collect(), remedies }
    };
    ALL.iter().map(of_step).collect()
}

/// The name of a line, and the steps that need what it is about.
struct About<N>(N, &'static [Step]);

impl<N: ToString> About<N> {
    fn line(&self, state: State, fact: impl ToString, remedy: impl ToString) -> Line {
        let About(name, steps) = self;
        let (name, fact, remedy) = (name.to_string(), fact.to_string(), remedy.to_string());
        Line { name, state, fact, remedy, steps }
    }

    fn works(&self, fact: impl ToString) -> Line {
        self.line(Works, fact, "")
    }

    fn limited(&self, fact: impl ToString, remedy: impl ToString) -> Line {
        self.line(Limited, fact, remedy)
    }

    fn missing(&self, fact: impl ToString, remedy: impl ToString) -> Line {
        self.line(Missing, fact, remedy)
    }

    fn judge(&self, found: &Result<(), String>, fact: &str, bad: State, remedy: &str) -> Line {
        match found {
            Ok(()) => self.works(fact),
            Err(why) => self.line(bad, why, remedy),
        }
    }
}

impl Facts {
    /// A line for each thing that the course needs of a machine.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = vec![self.kernel(), self.place(), self.caller()];
        lines.extend(KINDS.map(|kind| self.namespace(kind)));
        lines.extend([self.user_namespace(), self.user_namespace_of_user(), self.layout()]);
        lines.extend(self.controllers());
        lines.extend([self.delegation(), self.overlay(), self.overlay_of_user(), self.subordinate_ids()]);
        for kind in ["veth", "bridge"] {
            let remedy = format!("sudo modprobe {kind}; until then no --network bridge");
            lines.push(self.tried(kind, &About(kind, NETWORKS), Limited, &remedy));
        }
        lines.extend([self.nft(), self.network_of_user(), self.busybox()]);
        lines.push(About("swap accounting", LIMITS).judge(
            &self.swap,
            "swap is counted for each cgroup",
            Limited,
            "none needed but for --memory-swap",
        ));
        lines.push(About("seccomp", USERS).judge(&self.seccomp, "there are filters", Missing, OTHER_KERNEL));
        lines.push(About("terminals", TERMINALS).judge(
            &self.terminal,
            "/dev/ptmx opens, and devpts is mounted",
            Limited,
            "sudo mount -t devpts -o ptmxmode=666 devpts /dev/pts",
        ));
        lines
    }

    fn is_root(&self) -> bool {
        self.uid == 0
    }

    fn is_wsl(&self) -> bool {
        self.release.to_lowercase().contains("microsoft")
    }

    fn is_wsl1(&self) -> bool {
        // WSL 2 is a real kernel, and calls itself microsoft-standard.
        self.is_wsl() && !self.release.contains("-standard")
    }

    fn is_container(&self) -> bool {
        // Each distribution in WSL 2 has a PID namespace of its own, and lacks nothing by that.
        !self.first_pid_namespace && !self.is_wsl()
    }

    fn failure(&self, attempt: &str) -> Option<&str> {
        self.tried.get(attempt)?.as_ref().err().map(String::as_str)
    }

    fn installed(&self, program: &str) -> bool {
        self.programs.contains(&program)
    }

    /// What to do where nothing in particular is known to be the cause.
    fn remedy(&self) -> &'static str {
        if self.is_container() { OUTSIDE } else { "see dmesg for what refused it; in a chroot, leave it" }
    }

    fn version(&self) -> (u32, u32) {
        let numbers = self.release.split(|c: char| !c.is_ascii_digit());
        let mut numbers = numbers.map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    fn kernel(&self) -> Line {
        let (it, release) = (About("kernel", ALL), &self.release);
        if self.is_wsl1() {
            let fact = format!("{release}: WSL 1, which is no Linux kernel and has no namespaces");
            return it.missing(fact, "in Windows: wsl --set-version DISTRIBUTION 2");
        }
        let version = self.version();
        if version < OLDEST {
            return it.missing(
                format!("{release} is older than 5.4, the oldest that the course takes"),
                OTHER_KERNEL,
            );
        }
        let later = BROUGHT.iter().filter(|(since, _)| version < *since);
        let later: Vec<_> = later.map(|((major, minor), what)| format!("{major}.{minor} {what}")).collect();
        if later.is_empty() {
            return it.works(format!("{release}, with all that the course can use"));
        }
        About("kernel", &[]).limited(
            format!("{release}; it lacks what came with {}", later.join("; ")),
            "a newer kernel, if you like",
        )
    }

    fn place(&self) -> Line {
        let it = About("machine", &[]);
        match self.marker.as_deref() {
            _ if self.is_wsl() => it.works("Windows Subsystem for Linux"),
            marker if self.is_container() => {
                let marker = marker.unwrap_or("the PID namespace is not the kernel's first");
                it.limited(
                    format!("a container ({marker})"),
                    format!("if something below is missing, {OUTSIDE}"),
                )
            }
            Some(marker) => it.works(format!("no container ({marker}, but the first PID namespace)")),
            None => it.works("no container"),
        }
    }

    fn caller(&self) -> Line {
        let (it, uid) = (About("root", BY_ROOT), self.uid);
        match &self.root {
            Ok(()) if self.first_user_namespace => it.works("you are root, with its privileges"),
            Ok(()) => {
                it.missing("you are root of a user namespace only, which makes no device nodes", OUTSIDE)
            }
            Err(why) if self.is_root() => it.missing(why, OUTSIDE),
            Err(_) if self.installed("sudo") => {
                it.line(Untried, format!("you are user {uid}; sudo is installed"), &self.as_root)
            }
            Err(_) => {
                let fact = format!("you are user {uid}, and sudo is not installed");
                it.missing(fact, "become root with su, or install sudo")
            }
        }
    }

    /// What root needs, and a user can try only as root of a user namespace.
    fn tried(&self, attempt: &str, it: &About<impl ToString>, bad: State, remedy: &str) -> Line {
        let name = it.0.to_string();
        match self.tried.get(attempt) {
            Some(Ok(fact)) if self.is_root() => it.works(fact),
            Some(Ok(fact)) => it.works(format!("{fact}, within a user namespace")),
            Some(Err(why)) if self.is_root() => it.line(bad, why, remedy),
            // That a user cannot says nothing about root, and that nobody is root stops the steps already.
            Some(Err(why)) => About(name, &[]).line(Untried, format!("not as a user: {why}"), &self.as_root),
            None => About(name, &[]).line(Untried, "not tried", &self.as_root),
        }
    }

    /// What forbids a kind of namespace to everybody, with its remedy.
    fn forbidden(&self, kind: &str) -> Option<(String, String)> {
        let sysctl = format!("user.max_{kind}_namespaces");
        match self.kinds.get(kind) {
            None => Some((format!("this kernel has no {kind} namespaces"), OTHER_KERNEL.into())),
            Some(Some(0)) => Some((format!("{sysctl} is 0"), set(&sysctl, 10_000))),
            Some(_) => None,
        }
    }

    fn namespace(&self, kind: &str) -> Line {
        let (steps, bad) = match kind {
            "mnt" | "uts" | "pid" => (BY_ROOT, Missing),
            // No step needs it; it is told so that all kinds are.
            "time" => (&[][..], Limited),
            _ => (NETWORKS, Missing),
        };
        let it = About(format!("{kind} namespace"), steps);
        match self.forbidden(kind) {
            Some((cause, remedy)) if self.failure(kind).is_some() => it.line(bad, cause, remedy),
            _ => self.tried(kind, &it, bad, self.remedy()),
        }
    }

    fn user_namespace(&self) -> Line {
        let it = About("user namespace", AS_ROOT);
        match (self.tried.get("user"), self.forbidden("user")) {
            (Some(Ok(fact)), _) => it.works(fact),
            (_, Some((cause, remedy))) => it.missing(cause, remedy),
            _ => self.tried("user", &it, Missing, self.remedy()),
        }
    }

    fn user_namespace_of_user(&self) -> Line {
        let it = About("user namespace for ordinary users", AS_USER);
        let why = match self.tried.get("user, users") {
            Some(Ok(fact)) => return it.works(fact),
            Some(Err(why)) => why,
            None => "not tried",
        };
        let apparmor = "kernel.apparmor_restrict_unprivileged_userns";
        let (cause, remedy) = if let Some(forbidden) = self.forbidden("user") {
            forbidden
        } else if self.clone_forbidden {
            let sysctl = "kernel.unprivileged_userns_clone";
            (format!("{sysctl} is 0"), set(sysctl, 1))
        } else if self.apparmor_restricts {
            let profile = "; or an AppArmor profile with \"userns,\" for step4-users";
            (format!("{apparmor} is 1"), set(apparmor, 0) + profile)
        } else if self.is_root() && !self.first_user_namespace {
            return it.line(Untried, why, "run it as that user");
        } else if self.is_container() && self.filtered {
            let remedy = "run it on the host, or start the container with --security-opt seccomp=unconfined";
            ("the container's seccomp filter refuses them".into(), remedy.into())
        } else {
            ("the kernel refuses them".into(), self.remedy().into())
        };
        it.missing(format!("{cause} ({why})"), remedy)
    }

    fn layout(&self) -> Line {
        let it = About("cgroup", BY_ROOT);
        let useful: Vec<_> = self.trees.iter().filter(|tree| tree.useful().next().is_some()).collect();
        let unified = self.trees.iter().find(|tree| tree.v2);
        let command_line = match self.systemd {
            true => "systemd.unified_cgroup_hierarchy=1",
            false => "cgroup_no_v1=all",
        };
        let to_v2 = format!("to have v2, boot with {command_line} on the kernel's command line");
        if self.trees.is_empty() {
            let remedy = "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup; in a chroot, leave it";
            return it.missing("no cgroup hierarchy is mounted", remedy);
        }
        if useful.is_empty() {
            return it.missing("mounted, without a controller that limits", to_v2);
        }
        if let Some((tree, why)) = useful.iter().find_map(|tree| Some((tree, tree.refused.as_ref()?))) {
            return it.missing(format!("no cgroup can be made in {}: {why}", tree.point), OUTSIDE);
        }
        if useful.iter().any(|tree| !tree.v2) {
            let layout = match unified {
                Some(tree) => format!("hybrid v1, with a v2 at {}", tree.point),
                None => "v1".into(),
            };
            // Root lacks nothing by it; what users lack, the line of the delegation tells.
            let fact = format!("{layout}: limits go into the v1 hierarchies, and an ordinary user gets none");
            return About("cgroup", &[]).limited(fact, to_v2);
        }
        let point = &useful[0].point;
        if useful[0].busy {
            let fact = format!("v2, but {point} has processes itself, so it cannot pass controllers on");
            let files = format!("$(cat {point}/cgroup.procs); do echo $p > {point}/init/cgroup.procs; done");
            return it.missing(fact, format!("mkdir {point}/init; for p in {files}"));
        }
        it.works(format!("v2 at {point}"))
    }

    fn controllers(&self) -> Vec<Line> {
        let of_version = |v2: bool| {
            let names: Vec<_> =
                self.trees.iter().filter(|tree| tree.v2 == v2).flat_map(Tree::useful).collect();
            let version = if v2 { "v2" } else { "v1" };
            (!names.is_empty()).then(|| format!("{} in {version}", names.join(", ")))
        };
        let found: Vec<_> = [false, true].into_iter().filter_map(of_version).collect();
        let found = (!found.is_empty()).then(|| About("controllers", &[]).works(found.join("; ")));
        let of_lack = |(name, why): (&&str, &String)| {
            // Without the others the default limits fail; this one has an option of its own.
            let (steps, state) = if *name == "cpuset" { (LIMITS, Limited) } else { (BY_ROOT, Missing) };
            let remedy = match self.trees.iter().any(|tree| !tree.v2 && tree.useful().next().is_some()) {
                true => "mount it; newer kernels have some in v2 only: see cgroup".into(),
                false => format!(
                    "take cgroup_disable={name} from the kernel's command line (Raspberry Pi: add \
                     cgroup_enable={name})"
                ),
            };
            About(format!("controller {name}"), steps).line(state, why, remedy)
        };
        // Where no hierarchy is mounted, its line tells it.
        let lacking = self.lacking.iter().filter(|_| !self.trees.is_empty());
        found.into_iter().chain(lacking.map(of_lack)).collect()
    }

    fn delegation(&self) -> Line {
        let it = About("cgroup delegation", AS_USER);
        let by_hand = "root makes a cgroup, gives it and its cgroup.procs and cgroup.subtree_control to the \
                       user \
                       with chown, and puts the user's shell into a cgroup below";
        let by_systemd = "systemd-run --user --scope -p Delegate=yes $SHELL, and there again; which \
                          controllers \
                          a user gets says Delegate= of user@.service";
        match self.tried.get("delegation, users") {
            _ if self.trees.iter().any(|tree| !tree.v2 && tree.useful().next().is_some()) => {
                it.limited("none: in v1 there is no delegation, so no limits", "see cgroup")
            }
            Some(Ok(found)) => it.works(found),
            Some(Err(why)) if self.user.is_some() => {
                it.limited(format!("no limits: {why}"), if self.systemd { by_systemd } else { by_hand })
            }
            _ => it.limited("not tried: no ordinary user is known", "run it as that user"),
        }
    }

    fn overlay(&self) -> Line {
        self.tried("overlay", &About("overlay", LAYERS), Missing, self.overlay_remedy("overlay"))
    }

    fn overlay_of_user(&self) -> Line {
        let name = "overlay for ordinary users";
        match self.failure("overlay, users") {
            None => About(name, AS_USER).works("mounted one within a user namespace"),
            // The line of the user namespace stops the step already.
            Some(_) if self.failure("user, users").is_some() => {
                About(name, &[]).missing("needs a user namespace", "see user namespace for ordinary users")
            }
            Some(why) if self.version() < (5, 11) => {
                About(name, AS_USER).missing(why, "a kernel from 5.11 on, or root")
            }
            Some(why) => About(name, AS_USER).missing(why, self.overlay_remedy("overlay, users")),
        }
    }

    fn overlay_remedy(&self, attempt: &str) -> &'static str {
        match self.failure(attempt) {
            Some(why) if why.contains("ENODEV") => {
                "sudo modprobe overlay; without such a module, another kernel, or cargo congo vm"
            }
            _ => self.remedy(),
        }
    }

    fn subordinate_ids(&self) -> Line {
        let it = About("subordinate ids", AS_USER);
        let Some((uid, name)) = &self.user else {
            return it.limited("no ordinary user is known whose ids to look up", "run it as that user");
        };
        let user = if name.is_empty() { &uid.to_string() } else { name };
        let programs: Vec<_> =
            ["newuidmap", "newgidmap"].into_iter().filter(|it| !self.installed(it)).collect();
        let files = [("uid", self.subordinate.0), ("gid", self.subordinate.1)];
        let files: Vec<_> = files.into_iter().filter(|(_, has)| !has).map(|(kind, _)| kind).collect();
        let (mut lacks, mut remedies) = (vec![], vec![]);
        if !programs.is_empty() {
            lacks.push(format!("{} not installed", programs.join(", ")));
            remedies.push("install uidmap (Fedora: shadow-utils; Arch, Alpine: shadow)".to_owned());
        }
        if !files.is_empty() {
            let each = |text: fn(&str) -> String, between| {
                files.iter().map(|kind| text(kind)).collect::<Vec<_>>().join(between)
            };
            lacks.push(format!("no line for {user} in {}", each(|kind| format!("/etc/sub{kind}"), ", ")));
            let options = each(|kind| format!("--add-sub{kind}s 100000-165535"), " ");
            remedies.push(format!("sudo usermod {options} {user}, or another range that is free"));
        }
        if lacks.is_empty() {
            return it.works(format!("newuidmap, newgidmap, and ids for {user}"));
        }
        it.limited(format!("a container has one user, its root: {}", lacks.join("; ")), remedies.join("; "))
    }

    fn nft(&self) -> Line {
        let it = About("nft", NETWORKS);
        if !self.installed("nft") {
            let kernel = self.failure("nft").unwrap_or_default();
            return it.limited(
                format!("nft is not installed; {kernel}"),
                "install nftables; until then nothing outside is reached over --network bridge",
            );
        }
        let modules = "sudo modprobe -a nf_tables nft_chain_nat nft_masq, or a kernel that has them";
        self.tried("nft", &it, Limited, modules)
    }

    fn busybox(&self) -> Line {
        let it = About("busybox", LESSON_OF_2);
        if self.installed("busybox") {
            return it.works("it is installed");
        }
        it.limited(
            "it is not installed",
            "install busybox; until then a container has no web server for the lesson's session",
        )
    }

    fn network_of_user(&self) -> Line {
        let it = About("network for ordinary users", AS_USER);
        match ["pasta", "slirp4netns"].into_iter().find(|it| self.installed(it)) {
            Some(program) => it.works(format!("{program} is installed")),
            None => it.limited(
                "neither pasta nor slirp4netns is installed",
                "install passt; until then a user's container does not reach the outside",
            ),
        }
    }
}

/// How to set a kernel parameter, now and at every start.
fn set(sysctl: &str, value: u32) -> String {
    format!("sudo sysctl -w {sysctl}={value}, and the same in /etc/sysctl.d to keep it")
}
