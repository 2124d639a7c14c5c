//! The command lines into which faults are injected.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use checks::Subject;
use checks::kernel::listing;

use super::trace::{Condition, Start};

/// An ordinary user who owns nothing on the machine.
const NOBODY: u32 = 65534;

/// Says what the container is, as far as /proc does not tell it from outside, and has a status of its own.
const SCRIPT: &str = "read name </proc/sys/kernel/hostname; echo \"$name\"; \
                      cat /etc/hosts /etc/hostname /etc/resolv.conf 2>/dev/null; exit 3";

/// The same where the container is to have work for `--commit` and `--changes`.
const WORKING: &str = "read name </proc/sys/kernel/hostname; echo \"$name\"; \
                       cat /etc/hosts /etc/hostname /etc/resolv.conf 2>/dev/null; \
                       echo new >/root/new; rm -f /etc/passwd; exit 3";

/// A command line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Its name: `plain`.
    pub name: &'static str,
    options: Vec<String>,
    command: &'static [&'static str],
    /// Whether its streams are a terminal.
    pub terminal: bool,
    /// Whether an ordinary user starts it.
    pub user: bool,
}

impl Line {
    /// The same with another command. One that cannot be executed stays.
    pub fn running(&self, script: &'static [&'static str]) -> Line {
        let command = if self.command.len() > 1 { script } else { self.command };
        Line { command, ..self.clone() }
    }

    /// The same with one more option.
    pub fn with(mut self, option: &str) -> Line {
        self.options.push(option.into());
        self
    }
}

/// What the lines of a step need beside the runtime, below the subject's folder.
#[derive(Debug)]
pub struct Scene<'a> {
    subject: &'a Subject,
    /// The ordinary user's state folder and temporary files.
    own: PathBuf,
}

impl<'a> Scene<'a> {
    /// Prepares it.
    ///
    /// # Errors
    /// When a file cannot be written, or the runtime cannot make an image.
    pub fn set(subject: &'a Subject) -> Result<Scene<'a>> {
        let own = subject.file("nobody");
        for name in ["home", "tmp"] {
            fs::create_dir_all(own.join(name))?;
            std::os::unix::fs::chown(own.join(name), Some(NOBODY), Some(NOBODY))?;
        }
        for (name, text) in
            [("variables", "FROM_FILE=yes\n"), ("layer/added", "layer\n"), ("volume/file", "v\n")]
        {
            let path = subject.file(name);
            fs::create_dir_all(path.parent().context("it has one")?)?;
            fs::write(path, text)?;
        }
        let scene = Scene { subject, own };
        if subject.step() >= 3 {
            let image = format!("{}:one", subject.file("image").display());
            let mut make = subject.command(&["--commit", &image, "sh", "-c", "echo image >/image"]);
            let made = make.stdout(Stdio::null()).status()?;
            ensure!(made.success(), "--commit {image}: {made}");
        }
        Ok(scene)
    }

    /// The command lines of the subject's step.
    pub fn lines(&self) -> Vec<Line> {
        let line = |name, options: &[&str], command| Line {
            name,
            options: options.iter().map(|&option| self.fill(option)).collect(),
            command,
            terminal: false,
            user: false,
        };
        let script: &[&str] = &["sh", "-c", SCRIPT];
        let step = self.subject.step();
        let mut lines = vec![
            line("plain", &[], script),
            line("fails", &[], &["/no/such/command"]),
            Line { terminal: true, ..line("terminal", &[], script) },
        ];
        let mut all = vec![];
        if step >= 1 {
            all.extend([
                "--hostname=web",
                "--env=A=b",
                "--env-file=$F/variables",
                "--workdir=/srv",
                "--memory=64m",
                "--memory-swap=96m",
                "--cpu-shares=512",
                "--cpus=0.7",
                "--cpuset-cpus=0",
                "--cpuset-mems=0",
                "--pids-limit=32",
                "--ulimit=nofile=512:1024",
                "--device=/dev/zero:/dev/nothing",
            ]);
        }
        if step >= 2 {
            all.extend([
                "--network=bridge",
                "--publish=127.0.0.1:18080:80",
                "--dns=192.0.2.1",
                "--dns-search=example.org",
                "--dns-option=ndots:2",
                "--add-host=db:192.0.2.9",
                "--shm-size=32m",
                "--sysctl=net.ipv4.ip_unprivileged_port_start=80",
                "--init",
                "--stop-signal=QUIT",
                "--stop-timeout=5",
                "--cidfile=$F/cid",
            ]);
        }
        if step >= 3 {
            all.extend([
                "--layer=$F/layer",
                "--changes",
                "--volume=$F/volume:/data:ro",
                "--volume=named:/named",
                "--tmpfs=/scratch:size=1m",
                "--mount=type=bind,source=$F/volume,target=/bound",
            ]);
            lines.push(line("image", &["--image=$F/image:one", "--read-only"], script));
            lines.push(line("keep", &["--keep=work"], script));
            let commit = ["--image=$F/image:one", "--commit=$F/out.tar", "--changes"];
            lines.push(line("commit", &commit, &["sh", "-c", WORKING]));
        }
        if step >= 4 {
            all.extend(["--user=1000:1000", "--cap-drop=ALL", "--cap-add=NET_BIND_SERVICE"]);
            lines.push(line(
                "host-users",
                &["--userns=host", "--security-opt=no-new-privileges=false"],
                script,
            ));
            lines.push(Line { user: true, ..line("user", &[], script) });
        }
        if step >= 1 {
            lines.push(line("all", &all, script));
        }
        lines
    }

    fn fill(&self, option: &str) -> String {
        option.replace("$F", self.subject.file("").to_string_lossy().trim_end_matches('/'))
    }

    /// Removes what a run of a line makes on purpose, and the next one would refuse to overwrite.
    pub fn reset(&self) {
        for name in ["cid", "out.tar"] {
            let _ = fs::remove_file(self.subject.file(name));
        }
        let _ = fs::remove_dir_all(self.subject.home().join("kept"));
    }

    /// The line, ready to be started.
    ///
    /// # Errors
    /// When a word has a zero in it.
    pub fn start(&self, line: &Line) -> Result<Start> {
        let word = |text: &OsStr| CString::new(text.as_bytes()).context("a zero in a word");
        let words = [self.subject.binary().as_os_str().to_owned()].into_iter();
        let words = words.chain(line.options.iter().map(OsString::from));
        let words = words.chain(line.command.iter().map(OsString::from));
        let words = words.map(|text| word(&text)).collect::<Result<_>>()?;
        let mut variables: Vec<(OsString, OsString)> =
            self.subject.environment().into_iter().map(|(name, value)| (name.into(), value)).collect();
        if line.user {
            variables.extend([
                ("CONGO_HOME".into(), self.own.join("home").into()),
                ("TMPDIR".into(), self.own.join("tmp").into()),
                ("HOME".into(), "/nonexistent".into()),
            ]);
        }
        variables.push(("PATH".into(), std::env::var_os("PATH").unwrap_or_default()));
        // The last one of a name counts.
        let variables: std::collections::BTreeMap<_, _> = variables.into_iter().collect();
        let variable = |(name, value): (OsString, OsString)| {
            let mut text = name;
            text.push("=");
            text.push(value);
            word(&text)
        };
        let environment = variables.into_iter().map(variable).collect::<Result<_>>()?;
        let user = line.user.then_some(NOBODY);
        Ok(Start { words, environment, user, terminal: line.terminal, condition: Condition::default() })
    }

    /// The state folder of a line, and the id of its owner.
    pub fn home(&self, line: &Line) -> (PathBuf, u32) {
        if line.user { (self.own.join("home"), NOBODY) } else { (self.subject.home(), 0) }
    }

    /// The ordinary user's files, but not what is in roots.
    pub fn files_of_user(&self) -> BTreeSet<PathBuf> {
        let is_in_root =
            |path: &Path| path.ancestors().skip(1).any(|it| it != Path::new("/") && it.join("proc").is_dir());
        listing(&self.own, 4).into_iter().filter(|path| !is_in_root(path)).collect()
    }
}
