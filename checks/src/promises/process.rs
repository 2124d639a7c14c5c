//! The process tree: PID 1, what it sees, and what becomes of orphans. pid_namespaces(7).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::geteuid;

use super::init::find;
use crate::container::LIMIT;
use crate::kernel::eventually;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "pid.is-one", "The command is PID 1 of a PID namespace of its own.", is_one)
        .hint("clone(2) with CLONE_NEWPID: the child is the first process of the new namespace. After \
               unshare(2) it would be the next child."),
    Check::since(0, "pid.own-processes-only",
        "/proc shows the container's processes and no others.", own_only)
        .hint("A proc filesystem shows the PID namespace of the process that mounts it: the child must \
               mount it, after the clone."),
    Check::since(0, "pid.adopts-orphans",
        "An orphan becomes a child of PID 1, which can reap it.", adopts_orphans)
        .hint("The kernel does this for the first process of a PID namespace: the command must be that \
               process, not a child of it."),
    Check::since(0, "pid.ends-all",
        "When PID 1 ends, all processes of the container end, and so does the runtime.", ends_all)
        .hint("The runtime waits for PID 1 only: the kernel kills the others. Does it wait for a stream to \
               be closed, too?"),
    Check::since(2, "pid.cidfile",
        "With --cidfile, a new file holds the PID that PID 1 has on the host, before the command begins.",
        cidfile)
        .hint("open(2) with O_CREAT and O_EXCL, in the parent, after the clone and before \"go\". It stays."),
];

fn is_one(subject: &Subject) -> Checked {
    subject.hold(&[])?.first()?;
    expect("what the shell sees as its own PID", "1", subject.sh(&[], "echo $$")?.ok()?)
}

fn cidfile(subject: &Subject) -> Checked {
    let path = subject.file("cidfile");
    let _ = fs::remove_file(&path);
    let option = ["--cidfile", &path.to_string_lossy()];
    let container = subject.hold(&option)?;
    expect("what the file says", container.first()?.to_string(), fs::read_to_string(&path)?)?;
    expect("the file's owner", geteuid().as_raw(), fs::metadata(&path)?.uid())?;
    // `container:PID` takes it.
    let network = format!("container:{}", fs::read_to_string(&path)?);
    subject.run(&["--network", &network, "true"])?.ok()?;
    container.output()?.status_is(0)?;
    ensure(path.exists(), || Failure::new("the file stays when the container has ended", "it is gone"))?;
    fs::remove_file(&path)?;
    // As for Docker, a container is there even if its command is not.
    subject.run(&[&option[..], &["no-such-command"]].concat())?.status_is(127)?;
    ensure(path.exists(), || Failure::new("a file for a command that is not found", "none"))?;
    Ok(fs::remove_file(&path)?)
}

fn own_only(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&[], "sleep 1000 & echo ready; cat")?;
    let first = container.first()?;
    let (mut shown, mut there) = (BTreeSet::new(), BTreeSet::new());
    // The shell may start `cat` between the two looks.
    let same = eventually(LIMIT, || {
        // Through the root of PID 1, the host reads the container's own /proc.
        let entries = fs::read_dir(first.path("root/proc")).into_iter().flatten().flatten();
        shown = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).collect();
        let processes = [vec![first], first.descendants()].concat();
        let ids = processes.iter().filter_map(|process| process.status("NSpid").ok());
        there = ids.filter_map(|ids| ids.split_whitespace().next_back()?.parse().ok()).collect();
        shown == there
    });
    ensure(same, || Failure::new(format!("/proc shows the processes {there:?}"), format!("{shown:?}")))
}

fn adopts_orphans(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&[], "(sleep 1000 &); echo ready; cat; :")?;
    let first = container.first()?;
    let orphan = find(first, "sleep 1000")?;
    expect("the orphan's parent", first.0.to_string(), orphan.status("PPid")?)?;
    orphan.end();
    // The `:` keeps the shell from becoming `cat`. It waits for that, and with the same call for every child
    // that it has.
    let reaped = eventually(LIMIT, || !orphan.path("status").exists());
    ensure(reaped, || Failure::new("PID 1 reaps the orphan", "it stays a zombie"))
}

fn ends_all(subject: &Subject) -> Checked {
    subject.sh(&[], "sleep 1000 & exit 3")?.status_is(3)
}
