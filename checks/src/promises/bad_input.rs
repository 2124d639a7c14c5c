//! Bad input: refused with Docker's exit status, in two lines at most, which name the option, the value and
//! what is accepted. That nothing was changed on the way is the guard's to see.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::container::{Container, Output};
use crate::kernel::hierarchies;
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "bad.option", "An option that does not exist is refused.", |it| {
        refused(it, &["--no-such-option", "true"], &["--no-such-option"])
    })
    .hint("Exit status 125: the command was never run."),
    Check::since(0, "bad.switch", "A switch whose value is neither true nor false is refused.", |it| {
        each(it, "--explain", &["yes", "", "2", "tRUE"], &["true"])
    })
    .hint("As Go's strconv.ParseBool: 1, t, T, TRUE, true, True, and the same for false."),
    Check::since(
        0,
        "bad.not-root",
        "Without root the error says that root is missing, and how to get it.",
        not_root,
    )
    .until(4)
    .hint("EPERM alone helps nobody: name root, or sudo."),
    Check::since(
        0,
        "bad.no-controller",
        "Where a cgroup controller is missing, the error names it.",
        no_controller,
    )
    .needs(&[Need::Controller("pids")])
    .hint(
        "Find the hierarchies in /proc/self/mountinfo. A limit that cannot be set is an error, not a \
         warning.",
    ),
    Check::since(1, "bad.rootfs-missing", "A rootfs that does not exist is refused.", |it| {
        refused(it, &["--rootfs", "/no/such/dir", "true"], &["--rootfs", "/no/such/dir"])
    })
    .hint("Look at the directory before anything is made."),
    Check::since(1, "bad.rootfs-file", "A rootfs that is no directory is refused.", |it| {
        refused(it, &["--rootfs", "/etc/passwd", "true"], &["--rootfs", "/etc/passwd", "directory"])
    })
    .hint("ENOTDIR."),
    Check::since(1, "bad.rootfs-link", "A rootfs whose /dev is a symbolic link is refused.", dev_is_a_link)
        .hint("A mount follows the link, to any place: lstat(2) first."),
    Check::since(
        1,
        "bad.rootfs-empty",
        "A rootfs without the command gives 127 and names the command.",
        rootfs_empty,
    )
    .hint("ENOENT from execve(2), after the mount points were made, or could not be."),
    Check::since(
        1,
        "bad.command-not-executable",
        "A command in the rootfs without the x bit gives 126.",
        not_executable,
    )
    .hint("EACCES from execve(2)."),
    Check::since(1, "bad.memory", "Sizes below 6 MiB, negative sizes and words are refused.", |it| {
        each(it, "--memory", &["1k", "-5m", "abc", "", "5m", "1.5.5g", "99999999999g"], &["6"])
    })
    .hint("The error names the accepted sizes: at least 6m."),
    Check::since(1, "bad.memory-swap", "A --memory-swap that is less than --memory is refused.", |it| {
        refused(
            it,
            &["--memory", "64m", "--memory-swap", "32m", "true"],
            &["--memory-swap", "32", "--memory", "64"],
        )?;
        refused(it, &["--memory", "0", "--memory-swap", "32m", "true"], &["--memory-swap", "32", "--memory"])
    })
    .needs(&[Need::Controller("memory")])
    .hint("The sum cannot be smaller than one of its parts."),
    Check::since(
        1,
        "bad.cpus",
        "More processors than the host has, less than 0.01 and words are refused.",
        |it| each(it, "--cpus", &["0.001", "9999", "-1", "abc", "nan", "inf", ""], &["0.01"]),
    )
    .hint("The error names the accepted range: 0.01 to the number of processors."),
    Check::since(
        1,
        "bad.cpu-time",
        "Periods and quotas out of range are refused, and --cpus beside one of them.",
        cpu_time,
    )
    .hint("--cpus is a quota, too: which one should count?"),
    Check::since(1, "bad.cpu-shares", "Shares out of range are refused.", |it| {
        each(it, "--cpu-shares", &["1", "262145", "-1", "abc"], &["2", "262144"])
    })
    .hint("The kernel would silently move such values into its range."),
    Check::since(
        1,
        "bad.cpuset-cpus",
        "Processors that the host does not have and malformed lists are refused.",
        |it| each(it, "--cpuset-cpus", &["9999", "a", "1-0", "0,,1", ""], &[]),
    )
    .needs(&[Need::Controller("cpuset")])
    .hint("`0-2,4` is a list."),
    Check::since(1, "bad.cpuset-mems", "Memory nodes that the host does not have are refused.", |it| {
        each(it, "--cpuset-mems", &["9999", "a", "1-0", "0,,1", ""], &["memory node"])
    })
    .needs(&[Need::Controller("cpuset")])
    .hint("/sys/devices/system/node/has_memory lists them; without that file there is node 0."),
    Check::since(1, "bad.pids-limit", "Words, and negative numbers other than -1, are refused.", |it| {
        each(it, "--pids-limit", &["-2", "abc", "1.5", ""], &["-1"])
    })
    .hint("The error names the accepted values: 1 and more, or -1."),
    Check::since(
        1,
        "bad.ulimit",
        "Unknown names, a soft limit above the hard one and words are refused.",
        |it| each(it, "--ulimit", &["nosuch=1", "nofile=2:1", "nofile=abc", "nofile", "nofile=1:2:3"], &[]),
    )
    .hint("Check the option first: EINVAL from setrlimit(2) comes too late to be understood."),
    Check::since(1, "bad.env", "A variable without a name is refused.", |it| {
        each(it, "--env", &["=x", "=", ""], &["NAME"])
    })
    .hint("NAME=VALUE or NAME."),
    Check::since(1, "bad.env-file-missing", "An env-file that does not exist is refused.", |it| {
        refused(it, &["--env-file", "/no/such/file", "true"], &["--env-file", "/no/such/file"])
    })
    .hint("ENOENT."),
    Check::since(
        1,
        "bad.env-file-line",
        "A line with a blank in the variable's name is refused, and the error gives the line's number.",
        env_file_line,
    )
    .hint("Count lines from 1, with blank lines and comments."),
    Check::since(1, "bad.workdir", "A relative working directory is refused.", |it| {
        each(it, "--workdir", &["srv", "./srv", ""], &["/"])
    })
    .hint("It is a path in the container: relative to what?"),
    Check::since(
        1,
        "bad.hostname",
        "An empty host name, one of more than 64 bytes and one with a newline are refused.",
        hostname,
    )
    .hint("sethostname(2) takes up to 64 bytes of any kind, so the runtime itself must refuse the newline."),
];

fn cpu_time(subject: &Subject) -> Checked {
    each(subject, "--cpu-period", &["999", "1000001", "-1", "abc", ""], &["1000", "1000000"])?;
    each(subject, "--cpu-quota", &["999", "-2", "abc", ""], &["1000", "-1"])?;
    for option in ["--cpu-period", "--cpu-quota"] {
        refused(subject, &["--cpus", "0.5", option, "50000", "true"], &["--cpus", option])?;
    }
    // Half of it would be too little for the kernel.
    refused(subject, &["--cpu-period", "1000", "true"], &["--cpu-period", "--cpu-quota"])
}

/// Fails unless the runtime refuses: status 125, an error in one or two lines with these words, nothing else.
pub(super) fn refused(subject: &Subject, arguments: &[&str], words: &[&str]) -> Checked {
    error(&subject.run(arguments)?, 125, words).map_err(|failure| {
        let shown: Vec<_> = arguments.iter().map(|argument| format!("{argument:.40?}")).collect();
        failure.of(format_args!("with {}", shown.join(" ")))
    })
}

pub(super) fn error(output: &Output, status: i32, words: &[&str]) -> Checked {
    output.status_is(status)?;
    let stderr = &output.stderr;
    let found = || format!("{stderr:.400?}");
    // Said once for each layer, where there are no idmapped mounts: it is no part of the error.
    let lines =
        stderr.lines().filter(|line| !line.starts_with("congo: no idmapped mounts here, so ")).count();
    ensure((1..=2).contains(&lines), || Failure::new("an error in one or two lines", found()))?;
    ensure(!stderr.contains("panicked"), || Failure::new("an error, no panic", found()))?;
    ensure(output.stdout.is_empty(), || Failure::new("nothing on stdout", format!("{:?}", output.stdout)))?;
    for word in words {
        ensure(stderr.contains(word), || Failure::new(format!("an error that says {word:?}"), found()))?;
    }
    Ok(())
}

/// Fails unless the option is refused with each of these values, and the error names both.
pub(super) fn each(subject: &Subject, option: &str, values: &[&str], accepted: &[&str]) -> Checked {
    for value in values {
        // As one word, since a value that begins with `-` could be taken for an option.
        let words = [&[option, value], accepted].concat();
        refused(subject, &[&format!("{option}={value}"), "true"], &words)?;
    }
    Ok(())
}

fn not_root(subject: &Subject) -> Checked {
    // The binary may lie where only root may look.
    let copy = subject.file("runtime");
    fs::copy(subject.binary(), &copy)?;
    let mut command = Command::new(&copy);
    command.arg("true").envs(subject.environment()).uid(65534).gid(65534).current_dir("/");
    let output = Container::start(&mut command)?.output();
    fs::remove_file(copy)?;
    error(&output?, 125, &["root"])
}

/// Runs the runtime to its end in a mount namespace of its own, after `change` was made to the mounts there.
pub(super) fn with_mounts(
    command: &mut Command,
    change: impl FnOnce() -> Checked + Send,
) -> Result<Output, Failure> {
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            change()?;
            Container::start(command)?.output()
        });
        run.join().unwrap_or_else(|_| Err(Failure::new("a run with other mounts", "the check itself failed")))
    })
}

/// Takes a hierarchy away: from v1 that of pids, from v2 all there is.
fn no_controller(subject: &Subject) -> Checked {
    let take_away = || {
        for hierarchy in hierarchies()? {
            if hierarchy.controllers.iter().any(|name| name == "pids") {
                umount2(&hierarchy.point, MntFlags::MNT_DETACH)?;
            }
        }
        Ok(())
    };
    let output = with_mounts(&mut subject.command(&["true"]), take_away)?;
    error(&output, 125, &["cgroup"])?;
    // With v2, the others are gone with it: any of them may be named.
    let named = ["pids", "memory", "cpu"].iter().any(|name| output.stderr.contains(name));
    ensure(named, || Failure::new("an error that names the controller", format!("{:?}", output.stderr)))
}

fn rootfs_empty(subject: &Subject) -> Checked {
    let root = subject.file("empty-root");
    fs::create_dir_all(&root)?;
    let output = subject.run(&["--rootfs", &root.to_string_lossy(), "no-such-command"]);
    fs::remove_dir_all(root)?;
    error(&output?, 127, &["no-such-command"])
}

fn dev_is_a_link(subject: &Subject) -> Checked {
    let root = subject.file("linked");
    fs::create_dir_all(root.join("proc"))?;
    if !root.join("dev").is_symlink() {
        std::os::unix::fs::symlink("/", root.join("dev"))?;
    }
    refused(subject, &["--rootfs", &root.to_string_lossy(), "true"], &["/dev"])
}

fn not_executable(subject: &Subject) -> Checked {
    let file = std::path::Path::new(subject.root()?).join("not-executable");
    fs::write(&file, "#!/bin/sh\n")?;
    let output = subject.run(&["--rootfs", subject.root()?, "/not-executable"]);
    fs::remove_file(file)?;
    error(&output?, 126, &["/not-executable"])
}

fn env_file_line(subject: &Subject) -> Checked {
    for (text, line) in [("# comment\n\na b=c\n", "3"), ("=x\n", "1")] {
        let path = subject.write("bad-env-file", text)?;
        refused(subject, &["--env-file", &path, "true"], &["--env-file", &path, line])?;
    }
    Ok(())
}

fn hostname(subject: &Subject) -> Checked {
    each(subject, "--hostname", &[""], &[])?;
    refused(subject, &["--hostname", "a\nb", "true"], &["--hostname"])?;
    for length in [65, 4096] {
        // Too long to be repeated word for word: the limit says more.
        refused(subject, &["--hostname", &"h".repeat(length), "true"], &["--hostname", "64"])?;
    }
    Ok(())
}
