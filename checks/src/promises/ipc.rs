//! System V and POSIX objects for talking between processes: not with those of the host. ipc_namespaces(7),
//! sysvipc(7), mq_overview(7), shm_overview(7).

use std::fs;
use std::path::Path;

use common::sys::attack::{make_segment, remove_segment};
use nix::mqueue::{MQ_OFlag, MqAttr, mq_close, mq_open, mq_unlink};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use crate::host::SHARED_MEMORY;
use crate::kernel::{Process, myself, read};
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "ipc.segments",
        "The container does not see the host's System V shared memory, and the host does not see the \
         container's.",
        segments)
        .hint("clone(2) with CLONE_NEWIPC."),
    Check::since(2, "ipc.queues",
        "/dev/mqueue has the container's POSIX message queues, and no others.", queues)
        .hint("A filesystem of type mqueue shows the IPC namespace of the process that mounts it."),
    Check::since(2, "ipc.shared-memory",
        "/dev/shm is an empty, writable tmpfs of 64 MiB, for everybody.", shared_memory)
        .hint("size=64m, mode=1777; nosuid, nodev, noexec."),
    Check::since(2, "ipc.shm-size",
        "--shm-size sets the size of /dev/shm, and a larger file fails.", shm_size)
        .hint("size= among the options of the tmpfs."),
    Check::since(2, "ipc.container",
        "--ipc container:PID shares that container's segments, and its /dev/shm.", of_container)
        .hint("setns(2) with /proc/PID/ns/ipc. /dev/shm is a mount, and no part of the namespace: bind the \
               one of /proc/PID/root."),
    Check::since(2, "ipc.host", "--ipc host shares the host's segments, and its /dev/shm.", of_host)
        .hint("No CLONE_NEWIPC, and a bind mount of the host's /dev/shm."),
];

/// Fails unless a segment that is made in the one process's namespace is, or is not, listed in the other's.
fn shares(maker: Process, looker: Process, shared: bool) -> Checked {
    let id = maker.in_ipc(|| Ok(make_segment(4096)?))?;
    let list = looker.in_ipc(|| read("/proc/sysvipc/shm"));
    maker.in_ipc(|| Ok(remove_segment(id)?))?;
    // The second column is the id. Ids are counted for each namespace, so that another may have the same:
    // none has.
    let text = list?;
    let listed = text.lines().any(|line| line.split_whitespace().nth(1) == Some(&id.to_string()));
    ensure(listed == shared, || {
        let verb = |yes| if yes { "is" } else { "is not" };
        Failure::new(
            format!("a segment of {maker} {} listed in the IPC namespace of {looker}", verb(shared)),
            format!("it {}", verb(listed)),
        )
    })
}

fn segments(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    let first = container.first()?;
    shares(myself(), first, false)?;
    shares(first, myself(), false)?;
    // What a process inside is told.
    let id = make_segment(4096)?;
    let output = subject.run(&["cat", "/proc/sysvipc/shm"]);
    remove_segment(id)?;
    expect("the lines of /proc/sysvipc/shm inside, which has a title,", 1, output?.ok()?.lines().count())
}

/// Opens a message queue of this thread's IPC namespace, and closes it again.
fn opens(name: &str, flags: MQ_OFlag) -> nix::Result<()> {
    let room = MqAttr::new(0, 1, 16, 0);
    mq_close(mq_open(name, flags | MQ_OFlag::O_RDWR, Mode::S_IRUSR | Mode::S_IWUSR, Some(&room))?)
}

fn queues(subject: &Subject) -> Checked {
    const NAME: &str = "/congo-checks";
    opens(NAME, MQ_OFlag::O_CREAT).map_err(|errno| Failure::new("a message queue on the host", errno))?;
    let script = "ls -A /dev/mqueue; touch /dev/mqueue/inside || exit 1; echo ready; cat";
    let container = subject.hold_sh(&[], script);
    mq_unlink(NAME)?;
    let container = container?;
    expect("what /dev/mqueue has at first", "ready\n", &container.stdout())?;
    let first = container.first()?;
    expect("the filesystem at /dev/mqueue", "mqueue", &*first.mount_at("/dev/mqueue")?.kind)?;
    let opened = || Ok(opens("/inside", MQ_OFlag::empty()).is_ok());
    expect("whether the container's queue can be opened in its namespace", true, first.in_ipc(opened)?)?;
    expect("whether it can be opened on the host", false, opened()?)
}

fn shared_memory(subject: &Subject) -> Checked {
    let container =
        subject.hold_sh(&[], "ls -A /dev/shm; echo x > /dev/shm/file || exit 1; echo ready; cat")?;
    expect("what /dev/shm has at first", "ready\n", &container.stdout())?;
    let first = container.first()?;
    let mount = first.mount_at("/dev/shm")?;
    expect("its type", "tmpfs", mount.kind.as_str())?;
    for option in ["rw", "nosuid", "nodev", "noexec"] {
        ensure(mount.has(option), || Failure::new(format!("/dev/shm is mounted {option}"), &mount.options))?;
    }
    let shm = first.path("root/dev/shm");
    let found = nix::sys::statvfs::statvfs(&shm)?;
    expect("the size of /dev/shm", 64 << 20, found.blocks() * found.fragment_size())?;
    use std::os::unix::fs::MetadataExt;
    let mode = fs::metadata(&shm)?.mode() & 0o7777;
    expect("the mode of /dev/shm", "1777", &format!("{mode:o}"))
}

fn shm_size(subject: &Subject) -> Checked {
    // One byte more than fits.
    let script = "head -c 1048576 /dev/zero > /dev/shm/all && echo fits; echo 1 2>/dev/null > /dev/shm/more \
                  || echo full";
    let output = subject.sh(&["--shm-size", "1m"], script)?;
    expect("what a file of 1 MiB and one byte more come to", "fits\nfull", output.ok()?)
}

fn of_container(subject: &Subject) -> Checked {
    let one = subject.hold_sh(&[], "echo ready > /dev/shm/shared; echo ready; cat")?;
    let first = one.first()?;
    let options = ["--ipc", &format!("container:{first}")];
    // It reads what the other has written, and both may.
    let other = subject
        .hold_sh(&options, "read -r line < /dev/shm/shared; echo more >> /dev/shm/shared; echo $line; cat")?;
    let second = other.first()?;
    expect("the IPC namespace", first.namespace("ipc")?, second.namespace("ipc")?)?;
    shares(first, second, true)?;
    shares(second, myself(), false)?;
    if subject.step() >= 4 {
        let both = ["--ipc", &format!("container:{first}"), "--network", "bridge", "true"];
        super::bad_input::refused(subject, &both, &["--ipc container", "--network bridge"])?;
    }
    expect("the file of both", "ready\nmore\n", &read(second.path("root/dev/shm/shared"))?)?;
    let one = subject.hold_sh(&["--init"], "echo with init > /dev/shm/shared; echo ready; cat")?;
    let by_init = format!("container:{}", one.first()?);
    if !geteuid().is_root() {
        // An init of this user's is closed to everybody but root.
        return super::bad_input::refused(subject, &["--ipc", &by_init, "true"], &["--ipc", "--init"]);
    }
    let run = subject.sh(&["--ipc", &by_init], "cat /dev/shm/shared")?;
    expect("the file of one that has an init, by the PID of that", "with init", run.ok()?)
}

fn of_host(subject: &Subject) -> Checked {
    let container = subject.hold(&["--ipc", "host"])?;
    let first = container.first()?;
    shares(myself(), first, true)?;
    let mounts = first.mounts()?;
    for place in [SHARED_MEMORY, "/dev/mqueue"] {
        if let Some(mount) = mounts.iter().rfind(|mount| mount.point == place) {
            ensure(mount.has("nodev"), || {
                Failure::new(format!("nodev on {place}, wherever it comes from"), &mount.options)
            })?;
        }
    }
    let other = subject.hold(&["--ipc", &format!("container:{first}")])?;
    shares(myself(), other.first()?, true)?;
    // Under the checks' own prefix, since it is the host's.
    let name = format!("{}shared", crate::subject::PREFIX);
    let on_host = Path::new(SHARED_MEMORY).join(&name);
    fs::write(&on_host, "shared")?;
    let found = read(first.path("root/dev/shm").join(&name));
    fs::remove_file(on_host)?;
    expect("a file in /dev/shm", "shared", &found?)
}
