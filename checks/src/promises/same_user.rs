//! Pairs with step 3, where root of a container is the host's root: what it can do there, and here not.
//! user_namespaces(7), kill(2), mknod(2), sysctl(8).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::volume::folder;
use crate::kernel::{Process, eventually, read};
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect, inside};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        4,
        "userns.host-file",
        "The container's root cannot read a file of the host's root through a volume.",
        host_file,
    )
    .needs(&[Need::Root])
        .hint("In the user namespace that file belongs to nobody, so CAP_DAC_OVERRIDE does not count for \
               it."),
    Check::since(
        4,
        "userns.host-process",
        "The container's root cannot send a signal to a process of the host's root, even if it sees the \
         process.",
        host_process,
    )
    .needs(&[Need::Root])
        .hint("kill(2) compares the ids on the host: /proc/PID/status."),
    Check::since(4, "userns.device", "The container can make no device node that works.", device)
        .needs(&[Need::Root])
        .hint("Only root of the first user namespace may call mknod(2), whatever CAP_MKNOD says. If the \
               container's root is that root, MS_NODEV helps."),
    Check::since(
        4,
        "userns.sysctl",
        "The container changes no setting of the kernel, not even of a network that it shares with the host.",
        sysctl,
    )
    .needs(&[Need::Root])
        .hint(
        "In a user namespace, the files of /proc/sys belong to another user; and /proc/sys is mounted \
         read-only.",
    ),
];

fn host_file(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "of-the-hosts-root")?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    let file = path.join("secret");
    fs::write(&file, "of the host")?;
    fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    let script = "echo \"read: $(cat /mnt/it/secret)\"; echo changed > /mnt/it/secret; :";
    let output = subject.sh(&["-v", &format!("{text}:/mnt/it")], &format!("({script}) 2>/dev/null"))?;
    expect("what it reads", "read:", output.ok()?)?;
    expect("what is in the file", "of the host", read(file)?.as_str())
}

fn host_process(subject: &Subject) -> Checked {
    let mut target = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?;
    let result = signal(subject, Process(target.id().cast_signed()));
    let _ = target.kill();
    target.wait()?;
    result
}

fn signal(subject: &Subject, target: Process) -> Checked {
    let container = subject.hold(&[])?;
    // No option shares the host's PID namespace. So a process that the host has already becomes who the
    // container's root is.
    let mut process = Command::new("/proc/self/exe");
    process.args([inside::ASKED, inside::SIGNAL]).args([container.first()?.to_string(), target.to_string()]);
    let output = process.stdin(Stdio::null()).output()?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    expect("the answer to kill(2)", "signal=EPERM", answer.trim_end())?;
    let ended = eventually(std::time::Duration::from_millis(200), || !target.is_alive());
    ensure(!ended, || Failure::new("the host's process still runs", "it has ended"))
}

fn device(subject: &Subject) -> Checked {
    // The kernel's zeros: a disk would be no different to the kernel, but to us.
    let (folder, text) = super::volume::folder(subject, "for-devices")?;
    let volumes = ["-v", &format!("{text}:/mnt/host"), "-v", "for-devices:/mnt/named"];
    let script = "for at in / /dev/ /mnt/host/ /mnt/named/; do
        mknod ${at}zeros c 1 5 && echo made
        head -c 2 ${at}zeros | od -An -tx1
        done 2>/dev/null; echo tried";
    let made = |options: &[&str]| -> Result<String, Failure> {
        Ok(subject.sh(&[options, &volumes].concat(), script)?.ok()?.to_owned())
    };
    expect("what comes of a new device", "tried", made(&[])?.as_str())?;
    // Root of the host's is let make one, which then is none: a mount can have that said.
    let host = ["--userns", "host"];
    expect(
        format!("what comes of it with {host:?}"),
        "made\nmade\nmade\nmade\ntried",
        made(&host)?.as_str(),
    )?;
    // Nor does one that is there already, and is for everybody.
    fs::set_permissions(folder.join("zeros"), fs::Permissions::from_mode(0o666))?;
    let found = subject.sh(&volumes, "head -c 2 /mnt/host/zeros 2>/dev/null | od -An -tx1; echo tried")?;
    expect("what a device in a folder of the host's gives", "tried", found.ok()?)
}

fn sysctl(subject: &Subject) -> Checked {
    // Of the network that the checks have made for themselves.
    let file = "/proc/sys/net/ipv4/ip_default_ttl";
    let before = read(file)?;
    let script = "cat /proc/sys/net/ipv4/ip_default_ttl; echo 77 > /proc/sys/net/ipv4/ip_default_ttl; :";
    let script = format!("({script}) 2>/dev/null");
    let options: &[&[&str]] = match subject.step() {
        0..4 => &[&[]],
        _ => &[&[], &["--userns", "host"], &["--userns", "host", "--user", "0:0"]],
    };
    for options in options {
        let output = subject.sh(&[&["--network", "host"], *options].concat(), &script)?;
        let after = read(file)?;
        fs::write(file, &before)?;
        // It is the same setting that it looks at.
        expect("what it reads", before.trim_end(), output.ok()?)?;
        expect(format!("with {options:?}, the setting"), &before, &after)?;
    }
    Ok(())
}
