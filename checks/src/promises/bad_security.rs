//! Bad input to the options of step 4: refused in two lines, before anything is made.

use std::fs;

use super::bad_input::{each, error, refused};
use crate::container::Container;
use crate::needs::Need;
use crate::{Check, Checked, Subject, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "bad.userns",
        "An unknown mode of --userns, and a mode that this caller cannot have, are refused.", |it| {
        each(it, "--userns", &["", "Auto", "private", "container:1", "nomap"], &["auto", "host", "keep-id"])?;
        // A caller that is root already has no other ids to keep.
        refused(it, &["--userns", "keep-id", "true"], &["--userns", "keep-id", "auto", "host"])
    })
    .needs(&[Need::Root])
        .hint("The error lists the modes."),
    Check::since(4, "bad.uidmap",
        "Malformed maps, maps without the container's root, and maps that overlap or do not fit are refused.",
        maps)
        .needs(&[Need::Root])
        .hint("CONTAINER:HOST:SIZE; EINVAL from /proc/PID/uid_map comes too late to be understood."),
    Check::since(4, "bad.subuidname",
        "A user without subordinate ids is refused, and so is --subuidname together with other maps.", |it| {
        each(it, "--subuidname", &["", "a:b", "a b"], &["user's name"])?;
        refused(it, &["--subuidname", "no-such-user", "true"],
            &["--subuidname", "no-such-user", "/etc/subuid"])?;
        refused(it, &["--subuidname", "root", "--userns", "host", "true"], &["--subuidname", "--userns"])
    })
    .needs(&[Need::Root])
        .hint("The second line of the error says how to give a user subordinate ids."),
    Check::since(4, "bad.user", "A --user that is neither a name nor a number is refused.", |it| {
        each(it, "--user", &["", ":", ":b c", "a:b:c", "a b", "4294967295", "a/b"],
            &["NAME|UID[:GROUP|GID]"])
    })
    .hint("NAME|UID[:GROUP|GID]; 4294967295 is no user to the kernel."),
    Check::since(4, "bad.capability", "An unknown capability is refused.", |it| {
        for option in ["--cap-add", "--cap-drop"] {
            each(it, option, &["", "NET_ROOT", "CAP_", "12", "NET_ADMIN,SYS_TIME", "CAP_ALL"],
                &["capability", "NET_ADMIN"])?;
        }
        Ok(())
    })
    .hint("The second line of the error lists all capabilities."),
    Check::since(4, "bad.security-opt", "An unknown security option is refused.", |it| {
        let values = ["", "x", "no-new-privileges=", "no-new-privileges=1", "seccomp", "seccomp=",
            "apparmor=docker-default", "label"];
        each(it, "--security-opt", &values, &["expected"])
    })
    .hint("no-new-privileges[=true|false], seccomp=unconfined|builtin|FILE. Of what a security module does, \
           only its absence can be had."),
    Check::since(4, "bad.shared-with-two",
        "The network of one container and the memory of another cannot be shared, if the two have different \
         users.",
        with_two)
        .needs(&[Need::Root])
        .hint("setns(2) says EPERM: a process in one user namespace has no rights over a namespace that \
               belongs to another one."),
    Check::since(4, "bad.before-the-root",
        "Ids and containers that do not exist are refused before a root is built.", before_the_root)
        .needs(&[Need::Root])
        .hint("A first run that is refused leaves the state folder empty."),
];

fn with_two(subject: &Subject) -> Checked {
    let [one, other] = [subject.hold(&["--network", "none"])?, subject.hold(&["--network", "none"])?];
    let (network, ipc) = (format!("container:{}", one.first()?), format!("container:{}", other.first()?));
    let options = ["--network", network.as_str(), "--ipc", ipc.as_str(), "true"];
    refused(subject, &options, &["--ipc", &ipc, "other users"])
}

fn before_the_root(subject: &Subject) -> Checked {
    let home = subject.file("before-the-root");
    fs::create_dir_all(&home)?;
    for (option, value) in [
        ("--subuidname", "no-such-user"),
        ("--network", "container:2147483647"),
        ("--ipc", "container:2147483647"),
    ] {
        // Without a bridge, which does not go with the last one.
        let network: &[&str] = if option == "--network" { &[] } else { &["--network", "none"] };
        let mut command = subject.command(&[network, &[option, value, "true"]].concat());
        command.env("CONGO_HOME", &home);
        error(
            &Container::start(&mut command)?.output()?,
            125,
            &[option, value.trim_start_matches("container:")],
        )?;
        expect(
            format!("what {option} {value} has left in the state folder"),
            0,
            fs::read_dir(&home)?.count(),
        )?;
    }
    Ok(fs::remove_dir(home)?)
}

fn maps(subject: &Subject) -> Checked {
    let bad = ["", "0", "0:1", "0:1:0", "0:1:2:3", "a:0:1", "-1:0:1", "0:4294967295:1", "0:0:4294967296"];
    each(subject, "--uidmap", &bad, &["CONTAINER:HOST:SIZE"])?;
    for value in bad {
        let option = format!("--gidmap={value}");
        refused(
            subject,
            &["--uidmap", "0:500000:1", &option, "true"],
            &["--gidmap", value, "CONTAINER:HOST:SIZE"],
        )?;
    }
    let two = |first, second| ["--uidmap", first, "--uidmap", second, "true"];
    refused(subject, &two("0:500000:10", "9:600000:1"), &["--uidmap", "9:600000:1", "overlaps"])?;
    refused(subject, &two("0:500000:10", "10:500009:1"), &["--uidmap", "10:500009:1", "overlaps"])?;
    // Nobody would be there to mount anything.
    refused(subject, &["--uidmap", "1:500000:10", "true"], &["user 0", "0:HOST:SIZE"])?;
    refused(subject, &["--gidmap", "0:500000:10", "true"], &["--uidmap"])?;
    refused(subject, &["--userns", "auto", "--uidmap", "0:500000:10", "true"], &["--userns", "--uidmap"])
}
