//! Ways out of the root: by a process in it, and by links that somebody has put into the root. pivot_root(2),
//! proc_pid_fd(5), path_resolution(7).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::volume::folder;
use crate::kernel::listing;
use crate::{Check, Checked, Failure, Subject, ensure, expect, inside};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "root.escape", "A root process cannot climb out of the root by a second chroot.", escape)
        .hint("pivot_root(2), and umount2(2) of the old root: chroot(2) leaves the host mounted."),
    Check::since(3, "root.workdir-by-descriptor",
        "A working directory cannot lead to the host through a descriptor of the runtime.",
        workdir_by_descriptor)
        .not_new()
        .hint("/proc/self/fd/7/.. is a way out as long as descriptor 7 is a folder of the host. Close all \
               descriptors before chdir(2) (CVE-2024-21626)."),
    Check::since(3, "root.command-by-descriptor",
        "The container cannot execute a host's file through a descriptor of the runtime.",
        command_by_descriptor)
        .hint("The kernel finds the file of an exec, and its interpreter, before it closes descriptors \
               marked close-on-exec. Close them yourself, all but the socket to the parent."),
    Check::since(3, "root.file-by-descriptor",
        "If /etc/hosts is a link through a descriptor of the runtime, no file is made on the host.",
        file_by_descriptor)
        .not_new()
        .hint("openat2(2), RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS, before a mount point is made."),
    Check::since(3, "root.hostile-links",
        "If /proc, /sys, /dev, /etc or files in them are links, nothing is mounted or made on the host at \
         their targets.", hostile_links)
        .not_new()
        .hint("Mount after pivot_root(2), when the host is out of sight. Refuse a link at /proc, or writes \
               to /proc/self/attr go elsewhere (CVE-2019-19921)."),
];

/// The descriptors of the runtime that could be a folder of the host.
pub(super) const DESCRIPTORS: std::ops::Range<i32> = 3..13;

fn escape(subject: &Subject) -> Checked {
    let secret = subject.write("to-be-read", "of the host")?;
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let run = subject.run(&["--rootfs", root, &program, inside::ASKED, inside::ESCAPE, &secret])?;
    // The line says that it was tried at all.
    expect("what it reads after a climb", "climbed=nothing", run.ok()?)
}

/// A path from a descriptor up to the root of where it lies, and down to a file of the host.
fn out_by(descriptor: i32, file: &str) -> String {
    format!("/proc/self/fd/{descriptor}{}{file}", "/..".repeat(16))
}

fn workdir_by_descriptor(subject: &Subject) -> Checked {
    let secret = subject.write("to-be-read", "of the host")?;
    let beyond = secret.trim_start_matches('/');
    for descriptor in DESCRIPTORS {
        let folder = format!("/proc/self/fd/{descriptor}");
        let script = format!("cat {}{beyond} 2>/dev/null; :", "../".repeat(16));
        // Refused, or a folder of the container.
        let run = subject.sh(&["--workdir", &folder], &script)?;
        expect(format!("what is read from the working directory {folder}"), "", &run.stdout)?;
    }
    // Not because nothing is read from any.
    let run =
        subject.sh(&["--workdir", "/proc/self"], "cd /proc/self && read name _ < stat && echo looked")?;
    expect("what is read from /proc/self", "looked", run.ok()?)
}

fn command_by_descriptor(subject: &Subject) -> Checked {
    // No script: the kernel would have to find the script once more, for its interpreter.
    let (host, _) = folder(subject, "shell-of-the-host")?;
    let shell = host.join("sh");
    fs::copy(Path::new(subject.root()?).join("bin/sh"), &shell)?;
    for descriptor in DESCRIPTORS {
        let command = out_by(descriptor, &shell.to_string_lossy());
        let run = subject.run(&["--hostname", "x", &command, "-c", "echo executed"])?;
        ensure(run.status == 127 && run.stdout.is_empty(), || {
            Failure::new(format!("{command} is not found, 127"), format!("{}: {}", run.ending(), run.stdout))
        })?;
    }
    Ok(())
}

/// Does something with a link in the root, in the place of what was there.
pub(super) fn with_link(subject: &Subject, at: &str, to: &str, act: impl FnOnce() -> Checked) -> Checked {
    let link = Path::new(subject.root()?).join(at);
    let aside = Path::new(subject.root()?).join("put-aside");
    let was_there = fs::rename(&link, &aside).is_ok();
    let result = symlink(to, &link).map_err(Failure::from).and_then(|()| act());
    fs::remove_file(&link)?;
    if was_there {
        fs::rename(aside, link)?;
    }
    result
}

fn file_by_descriptor(subject: &Subject) -> Checked {
    let made = subject.file("made-by-a-link");
    for descriptor in DESCRIPTORS {
        with_link(subject, "etc/hosts", &out_by(descriptor, &made.to_string_lossy()), || {
            subject.run(&["--rootfs", subject.root()?, "true"]).map(drop)
        })?;
        let there = fs::remove_file(&made).is_ok();
        ensure(!there, || {
            Failure::new("no new file on the host", format!("one by descriptor {descriptor}"))
        })?;
    }
    Ok(())
}

fn hostile_links(subject: &Subject) -> Checked {
    let outside = subject.file("where-links-lead");
    let _ = fs::remove_dir_all(&outside);
    for folder in ["", "proc", "self", "attr"] {
        fs::create_dir(outside.join(folder))?;
    }
    let before: Vec<PathBuf> = listing(&outside, 3).into_iter().collect();
    let to = outside.to_string_lossy().into_owned();
    for (at, below) in
        [("proc", ""), ("sys", ""), ("dev", ""), ("etc", ""), ("etc/hosts", "/file"), ("etc/resolv.conf", "")]
    {
        let to = format!("{to}{below}");
        with_link(subject, at, &to, || {
            let options = ["--rootfs", subject.root()?, "--workdir", "/etc/below"];
            let run = subject.sh(&options, "read name _ < /proc/self/mountinfo && echo proc")?;
            // A /proc that somebody else has made could hold false answers.
            let harmless = run.status == 125 || run.stdout == "proc\n" || run.status == 127;
            ensure(harmless, || {
                Failure::new(format!("with a link at /{at}: a refusal, or a /proc"), run.ending())
            })
        })?;
        let after: Vec<PathBuf> = listing(&outside, 3).into_iter().collect();
        expect(format!("what is on the host where /{at} leads"), &before, &after)?;
    }
    Ok(())
}
