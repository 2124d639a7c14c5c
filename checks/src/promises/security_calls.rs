//! What a container has no business to ask of the kernel. capabilities(7), seccomp(2), keyrings(7),
//! ptrace(2).
//!
//! Each call has harmless arguments, to which the kernel has an answer of its own. So the answer tells its
//! source. EPERM comes from the protection. Another errno, in a container with all rights, shows that the
//! kernel carried the call out.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use common::sys::attack;
use common::sys::keyring::join_session_keyring;
use nix::unistd::geteuid;

use super::capabilities::possible;
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect, inside};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "security.mount",
        "The container cannot mount: neither by mount(2) nor by any of the newer mount calls.", |it| {
        refused(it, &["mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick",
            "open_tree", "move_mount", "mount_setattr"])
    })
    .hint("Each new call needs its line in the profile; only CAP_SYS_ADMIN opens it."),
    Check::since(4, "security.unshare", "The container makes and joins no namespaces.", |it| {
        refused(it, &["unshare(CLONE_NEWNS)", "setns", "clone(CLONE_NEWNS)"])
    })
    .hint("unshare, setns, and clone with any of the CLONE_NEW flags, by a mask on its first argument."),
    Check::since(4, "security.user-namespace",
        "The container makes no user namespace, in which it would have all capabilities again.", |it| {
        refused(it, &["unshare(CLONE_NEWUSER)", "clone(CLONE_NEWUSER)"])
    })
    .hint("The kernel asks for no capability, so only the filter forbids it. Most holes were in code behind \
           that call."),
    Check::since(4, "security.clone3", "clone3 fails with ENOSYS, since no filter can see its flags.", clone3)
        .hint("With ENOSYS, the C library calls clone instead; with EPERM it gives up."),
    Check::since(4, "security.bpf",
        "The container loads no programs into the kernel.", |it| refused(it, &["bpf"]))
        .hint("bpf(2), whatever the sysctl kernel.unprivileged_bpf_disabled says."),
    Check::since(4, "security.perf",
        "The container measures no process with perf.", |it| refused(it, &["perf_event_open"]))
        .hint("perf_event_open(2), whatever the sysctl kernel.perf_event_paranoid says."),
    Check::since(4, "security.keyring-calls",
        "The container uses no keyrings, since keyrings know no namespace.", |it| {
        refused(it, &["keyctl", "add_key", "request_key"])
    })
    .hint("keyctl, add_key and request_key are not in the profile."),
    Check::since(4, "security.file-handle",
        "The container opens no file by its handle.", |it| refused(it, &["open_by_handle_at"]))
        .hint("A handle leads to any file of a file system, whatever is mounted: the attack called Shocker. \
               CAP_DAC_READ_SEARCH."),
    Check::since(4, "security.sockets",
        "The container has no sockets of the kernel's ciphers (AF_ALG), and none to the hypervisor \
         (AF_VSOCK).", |it| {
        refused(it, &["socket(AF_ALG)", "socket(AF_VSOCK)"])
    })
    .hint("Compare the first argument of socket(2), all 64 bits of it."),
    Check::since(4, "security.kexec", "The container loads no other kernel, even as the host's root.", |it| {
        refused_to_host_root(it, &["kexec_load", "kexec_file_load"])
    })
    .needs(&[Need::Root])
        .hint("CAP_SYS_BOOT; and no line in the profile."),
    Check::since(4, "security.module",
        "The container loads and removes no modules of the kernel, even as the host's root.", |it| {
        refused_to_host_root(it, &["init_module", "finit_module", "delete_module"])
    })
    .needs(&[Need::Root])
        .hint("CAP_SYS_MODULE, and the profile's line for containers that have it."),
    Check::since(4, "security.raw-socket",
        "Without CAP_NET_RAW the container has no raw sockets.", raw_socket)
        .needs(&[Need::Root])
        .hint("--cap-drop: the effective and the permitted set, too, not the bounding set alone."),
    Check::since(4, "security.other-abi",
        "A system call of the 32-bit ABI ends the process, since its number means another call.", other_abi)
        .needs(&[Need::Abi32])
        .hint("The filter looks at seccomp_data.arch first: a list of numbers is good for one ABI."),
    Check::since(4, "security.ptrace-init",
        "No process of the container can trace an init, which is a process of the runtime.", ptrace_init)
        .hint("PR_SET_DUMPABLE 0, for the time between the capabilities and the exec. An init never calls \
               exec."),
    Check::since(4, "security.keyring",
        "The container has a session keyring of its own, without the caller's keys.", keyring)
        .needs(&[Need::Keyrings])
        .hint("keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: a user namespace does not replace the keyring."),
    Check::since(4, "security.setuid", "A set-user-ID program of root gives its user no rights.", setuid)
        .needs(&[Need::Root])
        .hint("no_new_privs."),
    Check::since(4, "security.file-capabilities",
        "A file with capabilities gives its user none, unless no-new-privileges is off.",
        file_capabilities)
        .needs(&[Need::Root])
        .hint("no_new_privs; and without it, no more than the bounding set."),
    Check::since(4, "cve.2022-29162",
        "A file with inheritable capabilities gives no process any, even with no-new-privileges off.",
        inheritable)
        .needs(&[Need::Root])
        .hint("capset(2): the inheritable set is empty. Docker and runc filled it, so that such files \
               worked for any user."),
];

/// Without any of the walls, and with harmless arguments: what the kernel says.
const NO_WALLS: [&str; 6] = ["--userns", "host", "--cap-add", "ALL", "--security-opt", "seccomp=unconfined"];

const UNFILTERED: [&str; 2] = ["--security-opt", "seccomp=unconfined"];

/// What the checks' own program prints, doing these things in a container with these options.
fn act(subject: &Subject, options: &[&str], words: &[&str]) -> Result<String, Failure> {
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let run = subject.run(&[options, &["--rootfs", root, &program, inside::ASKED], words].concat())?;
    Ok(run.ok()?.to_owned())
}

/// What it says to each of these calls.
fn answers(subject: &Subject, options: &[&str], calls: &[&str]) -> Result<Vec<String>, Failure> {
    let output = act(subject, options, &[&[inside::CALL], calls].concat())?;
    let answers: Vec<_> =
        output.lines().filter_map(|line| Some(line.rsplit_once('=')?.1.to_owned())).collect();
    expect("the number of answers", calls.len(), answers.len())?;
    Ok(answers)
}

fn expect_refused(subject: &Subject, options: &[&str], calls: &[&str]) -> Checked {
    for (call, answer) in calls.iter().zip(answers(subject, options, calls)?) {
        expect(format!("with {options:?}, the answer to {call}"), "EPERM", answer.as_str())?;
    }
    Ok(())
}

/// That it is not the kernel, nor the arguments, that says EPERM in any case.
fn expect_made_without_walls(subject: &Subject, calls: &[&str]) -> Checked {
    for (call, answer) in calls.iter().zip(answers(subject, &NO_WALLS, calls)?) {
        ensure(answer != "EPERM" && answer != "unknown", || {
            Failure::new(format!("without walls, an answer of the kernel's to {call}"), &answer)
        })?;
    }
    Ok(())
}

/// Refused as a rule, and by the filter alone, too: where the container's root is the host's.
fn refused(subject: &Subject, calls: &[&str]) -> Checked {
    for options in possible(&[&[], &["--user", "1000"], &["--userns", "host"]]) {
        expect_refused(subject, options, calls)?;
    }
    // To who is not root, the kernel itself says EPERM to some of them.
    if geteuid().is_root() { expect_made_without_walls(subject, calls) } else { Ok(()) }
}

/// Refused by the capabilities alone, too: with neither a user namespace nor a filter. A kernel may be built
/// without such calls.
fn refused_to_host_root(subject: &Subject, calls: &[&str]) -> Checked {
    refused(subject, calls)?;
    let options = ["--userns", "host", UNFILTERED[0], UNFILTERED[1]];
    for (call, answer) in calls.iter().zip(answers(subject, &options, calls)?) {
        ensure(answer == "EPERM" || answer == "ENOSYS", || {
            Failure::new(format!("with {options:?}, the answer EPERM to {call}"), &answer)
        })?;
    }
    Ok(())
}

fn clone3(subject: &Subject) -> Checked {
    expect("clone3 as a rule", "clone3=ENOSYS", act(subject, &[], &[inside::CALL, "clone3"])?.as_str())?;
    if !geteuid().is_root() {
        return Ok(());
    }
    expect(
        "clone3 without walls",
        "clone3=EINVAL",
        act(subject, &NO_WALLS, &[inside::CALL, "clone3"])?.as_str(),
    )
}

fn raw_socket(subject: &Subject) -> Checked {
    let calls = ["socket(AF_INET, SOCK_RAW)", "socket(AF_PACKET)"];
    expect_refused(subject, &["--cap-drop", "NET_RAW"], &calls)?;
    expect_refused(subject, &["--user", "1000"], &calls)?;
    // It is one of the fourteen.
    expect("with it", vec!["ok"; 2], answers(subject, &[], &calls)?.iter().map(String::as_str).collect())
}

fn other_abi(subject: &Subject) -> Checked {
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let words = ["--rootfs", root, &program, inside::ASKED, inside::CALL_32_BIT];
    // SIGSYS.
    subject.run(&words)?.status_is(128 + 31)?;
    let without = subject.run(&[&UNFILTERED[..], &words].concat())?;
    expect("without a filter", "call-32-bit=ok", without.ok()?)
}

fn ptrace_init(subject: &Subject) -> Checked {
    for options in possible(&[&["--init"], &["--init", "--userns", "host"]]) {
        let answer = act(subject, options, &[inside::TRACE, "1"])?;
        expect(format!("with {options:?}, tracing PID 1"), "trace=EPERM", answer.as_str())?;
    }
    // Its own processes are its own business.
    let script = |program: &str| format!("{program} {} {} $$", inside::ASKED, inside::TRACE);
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let output = subject.sh(&["--rootfs", root, "--init"], &format!("{}; :", script(&program)))?;
    expect("tracing the shell that started it", "trace=ok", output.ok()?)
}

fn keyring(subject: &Subject) -> Checked {
    let name = c"congo-checks";
    // A thread can have a session keyring of its own, which goes with it.
    let with_key = || {
        let lacks = |error| Failure::new("a session keyring for the check", error);
        join_session_keyring().map_err(|error| lacks(error.to_string()))?;
        attack::add_key(name, b"secret")?;
        attack::find_key(name)?;
        // As no filter answers for the kernel.
        let options: &[&[&str]] = match subject.step() {
            0..4 => &[&[]],
            _ => &[&UNFILTERED, &["--userns", "host", UNFILTERED[0], UNFILTERED[1]]],
        };
        for options in possible(options) {
            let answer = act(subject, options, &[inside::FIND_KEY, "congo-checks"])?;
            expect(format!("with {options:?}, looking for the key"), "find-key=ENOKEY", answer.as_str())?;
        }
        Ok(())
    };
    thread::scope(|scope| scope.spawn(with_key).join())
        .unwrap_or_else(|_| Err(Failure::new("the check works", "its thread broke off")))
}

/// Does something with the checks' own program in the root, changed in some way.
fn with_program(
    subject: &Subject,
    change: impl FnOnce(&Path) -> std::io::Result<()>,
    act: impl FnOnce() -> Checked,
) -> Checked {
    let program = inside::install(Path::new(subject.root()?))?;
    let file: PathBuf = Path::new(subject.root()?).join(program.trim_start_matches('/'));
    let result = change(&file).map_err(Failure::from).and_then(|()| act());
    let _ = xattr::remove(&file, CAPABILITY);
    fs::set_permissions(&file, Permissions::from_mode(0o755))?;
    result
}

fn setuid(subject: &Subject) -> Checked {
    let change = |file: &Path| fs::set_permissions(file, Permissions::from_mode(0o6755));
    with_program(subject, change, || {
        let words = [inside::STATUS, "Uid", "Gid", "CapEff"];
        let found = act(subject, &["--user", "1000:1000"], &words)?;
        let expected = "Uid=1000 1000 1000 1000\nGid=1000 1000 1000 1000\nCapEff=0000000000000000";
        expect("who it is", expected, found.as_str())
    })
}

const CAPABILITY: &str = "security.capability";

/// The attribute of a file with CAP_NET_RAW: `struct vfs_cap_data`, capabilities(7).
fn attribute(permitted: bool) -> Vec<u8> {
    const REVISION_2: u32 = 0x0200_0000;
    const EFFECTIVE: u32 = 1;
    const NET_RAW: u32 = 1 << 13;
    let (permitted, inheritable) = if permitted { (NET_RAW, 0) } else { (0, NET_RAW) };
    [REVISION_2 | EFFECTIVE, permitted, inheritable, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

const NEW_PRIVILEGES: [&str; 2] = ["--security-opt", "no-new-privileges=false"];

/// Which capabilities a program with this attribute has, run as an ordinary user of the container.
fn permitted(subject: &Subject, options: &[&str]) -> Result<String, Failure> {
    act(subject, &[&["--user", "1000"], options].concat(), &[inside::STATUS, "CapPrm"])
}

fn file_capabilities(subject: &Subject) -> Checked {
    with_program(
        subject,
        |file| xattr::set(file, CAPABILITY, &attribute(true)),
        || {
            expect("CapPrm as a rule", "CapPrm=0000000000000000", permitted(subject, &[])?.as_str())?;
            // An image's ping, say.
            let gained = permitted(subject, &NEW_PRIVILEGES)?;
            expect("CapPrm with no-new-privileges=false", "CapPrm=0000000000002000", gained.as_str())?;
            // The kernel executes no file that needs what is not in the bounding set.
            let dropped = permitted(subject, &[&NEW_PRIVILEGES[..], &["--cap-drop", "NET_RAW"]].concat());
            ensure(dropped.is_err(), || {
                Failure::new("no CAP_NET_RAW with --cap-drop", format!("{dropped:?}"))
            })
        },
    )
}

fn inheritable(subject: &Subject) -> Checked {
    with_program(
        subject,
        |file| xattr::set(file, CAPABILITY, &attribute(false)),
        || {
            let words = [inside::STATUS, "CapInh", "CapPrm"];
            let found = act(subject, &[&["--user", "1000"][..], &NEW_PRIVILEGES].concat(), &words)?;
            expect("what it has", "CapInh=0000000000000000\nCapPrm=0000000000000000", found.as_str())?;
            // By a user that root has become: `su` in the container.
            let root = act(subject, &NEW_PRIVILEGES, &[inside::STATUS, "CapInh"])?;
            expect("what root could hand on", "CapInh=0000000000000000", root.as_str())
        },
    )
}
