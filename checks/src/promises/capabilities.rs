//! The five sets of capabilities, as the kernel shows them after the exec. capabilities(7),
//! proc_pid_status(5).

use nix::unistd::geteuid;

use super::init::find;
use crate::container::Container;
use crate::kernel::{Process, myself};
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "cap.root",
        "Root has Docker's fourteen capabilities: bounding, permitted and effective, and no others.", root)
        .hint("PR_CAPBSET_DROP, capset(2), PR_CAP_AMBIENT_CLEAR_ALL. Look at CapInh, CapPrm, CapEff, \
               CapBnd, CapAmb."),
    Check::since(4, "cap.user",
        "Another user has no capabilities, and its programs can get no more than the fourteen.", user)
        .needs(&[Need::Root])
        .hint("The bounding set stays. The inheritable set is empty, or a file could give the capabilities \
               in it (CVE-2022-29162)."),
    Check::since(4, "cap.add", "--cap-add gives one more capability, or all that there are.", add)
        .hint("Take names with or without CAP_, in upper or lower case. ALL is the runtime's own bounding \
               set."),
    Check::since(4, "cap.drop",
        "--cap-drop takes one capability away, or all of them; a capability that --cap-add names stays.",
        drop_some)
        .needs(&[Need::Root])
        .hint("Take it from the bounding set, too, or a file with capabilities brings it back."),
    Check::since(4, "cap.user-keeps",
        "A capability that --cap-add gives to a user other than root passes through the exec, and works.",
        user_keeps)
        .needs(&[Need::Root])
        .hint("PR_SET_KEEPCAPS before setresuid(2); then the inheritable set, then the ambient one, which \
               needs it and the permitted one."),
    Check::since(4, "cap.init",
        "With --init, PID 1 has no more capabilities than the command, and the same filter.", init)
        .hint("Give up rights before the fork: init stays in the container, and never calls execve(2)."),
];

/// Those of these options that the caller may use: only root may choose who the container's users are.
pub(super) fn possible<'a>(options: &[&'a [&'a str]]) -> Vec<&'a [&'a str]> {
    let choose = ["--userns", "--uidmap", "--user"];
    let may = |options: &&&[&str]| geteuid().is_root() || !options.iter().any(|word| choose.contains(word));
    options.iter().filter(may).copied().collect()
}

/// Docker's.
const DOCKER: u64 = 0xa804_25fb;
const CHOWN: u64 = 1 << 0;
const NET_BIND_SERVICE: u64 = 1 << 10;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_TIME: u64 = 1 << 25;

/// The five sets in the kernel's order: inheritable, permitted, effective, bounding, ambient.
fn sets(process: Process) -> Result<[u64; 5], Failure> {
    let set = |field| {
        let text = process.status(field)?;
        u64::from_str_radix(&text, 16).map_err(|error| Failure::new(format!("{field} is a number"), error))
    };
    Ok([set("CapInh")?, set("CapPrm")?, set("CapEff")?, set("CapBnd")?, set("CapAmb")?])
}

/// As text: numbers of 19 digits say nothing.
fn shown(sets: [u64; 5]) -> String {
    let [inheritable, permitted, effective, bounding, ambient] = sets;
    format!("Inh {inheritable:x} Prm {permitted:x} Eff {effective:x} Bnd {bounding:x} Amb {ambient:x}")
}

/// Fails unless the command of a container with these options has these sets.
fn has(subject: &Subject, options: &[&str], expected: [u64; 5]) -> Checked {
    let container = subject.hold(options)?;
    expect(format!("the sets with {options:?}"), shown(expected), shown(sets(container.first()?)?))
}

/// What root has whose capabilities are these.
const fn of_root(set: u64) -> [u64; 5] {
    [0, set, set, set, 0]
}

/// All that there are for a runtime: those of its own bounding set, which is also the checks'.
fn all() -> Result<u64, Failure> {
    Ok(sets(myself())?[3])
}

fn root(subject: &Subject) -> Checked {
    let options: [&[&str]; 5] =
        [&[], &["--user", "0"], &["--user", "0:0"], &["--userns", "host"], &["--uidmap", "0:500000:10"]];
    for options in possible(&options) {
        has(subject, options, of_root(DOCKER))?;
    }
    Ok(())
}

fn user(subject: &Subject) -> Checked {
    for options in [&["--user", "1000"][..], &["--user", "1000:1000", "--userns", "host"]] {
        has(subject, options, [0, 0, 0, DOCKER, 0])?;
    }
    // Those that --cap-drop leaves are for root, too.
    has(subject, &["--user", "1000", "--cap-drop", "CHOWN"], [0, 0, 0, DOCKER & !CHOWN, 0])
}

fn add(subject: &Subject) -> Checked {
    has(subject, &["--cap-add", "SYS_TIME"], of_root(DOCKER | SYS_TIME))?;
    has(
        subject,
        &["--cap-add", "cap_sys_time", "--cap-add=Sys_Admin"],
        of_root(DOCKER | SYS_TIME | SYS_ADMIN),
    )?;
    // One that it has.
    has(subject, &["--cap-add", "CAP_CHOWN"], of_root(DOCKER))?;
    has(subject, &["--cap-add", "ALL"], of_root(all()?))?;
    has(subject, &["--cap-add", "all", "--cap-drop", "SYS_ADMIN"], of_root(all()? & !SYS_ADMIN))
}

fn drop_some(subject: &Subject) -> Checked {
    has(subject, &["--cap-drop", "chown"], of_root(DOCKER & !CHOWN))?;
    has(
        subject,
        &["--cap-drop", "CHOWN", "--cap-drop", "CAP_NET_BIND_SERVICE"],
        of_root(DOCKER & !CHOWN & !NET_BIND_SERVICE),
    )?;
    // One that it has not.
    has(subject, &["--cap-drop", "SYS_TIME"], of_root(DOCKER))?;
    has(subject, &["--cap-drop", "ALL"], of_root(0))?;
    has(subject, &["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"], of_root(NET_BIND_SERVICE))?;
    // What it is for: without it, root may not give files away.
    let script = "echo > /f && chown 1:1 /f 2>/dev/null && echo given; :";
    expect("what chown does", "given", subject.sh(&[], script)?.ok()?)?;
    expect("what chown does without CAP_CHOWN", "", subject.sh(&["--cap-drop", "CHOWN"], script)?.ok()?)
}

fn user_keeps(subject: &Subject) -> Checked {
    let options = ["--user", "1000", "--cap-add", "net_bind_service"];
    let own = NET_BIND_SERVICE;
    has(subject, &options, [own, own, own, DOCKER, own])?;
    let others = ["--user", "1000:1000", "--cap-drop", "ALL", "--cap-add", "net_bind_service"];
    has(subject, &others, [own, own, own, own, own])?;
    has(subject, &["--userns", "host", "--user", "1000", "--cap-add", "SYS_TIME"], {
        [SYS_TIME, SYS_TIME, SYS_TIME, DOCKER | SYS_TIME, SYS_TIME]
    })?;
    let write = |options: &[&str]| -> Result<String, Failure> {
        let script = "(echo x > /etc/new) 2>/dev/null && echo written || echo refused";
        Ok(subject.sh(options, script)?.ok()?.to_owned())
    };
    expect("writing to a folder of root's as a user", "refused", write(&["--user", "1000"])?.as_str())?;
    let options = ["--user", "1000", "--cap-add", "dac_override"];
    expect("the same as a user with DAC_OVERRIDE", "written", write(&options)?.as_str())
}

/// A container with an init, and its command: `cat`.
pub(super) fn with_init(subject: &Subject, options: &[&str]) -> Result<(Container, Process), Failure> {
    let container = subject.hold(&[&["--init"], options].concat())?;
    let first = container.first()?;
    let command = find(first, "cat")?;
    ensure(command != first, || Failure::new("an init as PID 1", "the command is"))?;
    Ok((container, command))
}

fn init(subject: &Subject) -> Checked {
    for (options, expected) in [
        (&[][..], of_root(DOCKER)),
        (&["--cap-drop", "ALL"], of_root(0)),
        (&["--userns", "host"], of_root(DOCKER)),
    ] {
        if possible(&[options]).is_empty() {
            continue;
        }
        let (container, command) = with_init(subject, options)?;
        for (who, process) in [("PID 1", container.first()?), ("the command", command)] {
            expect(format!("the sets of {who} with {options:?}"), shown(expected), shown(sets(process)?))?;
            expect(format!("Seccomp of {who}"), "2", process.status("Seccomp")?.as_str())?;
            expect(format!("NoNewPrivs of {who}"), "1", process.status("NoNewPrivs")?.as_str())?;
        }
    }
    Ok(())
}
