//! A named volume that several containers have, one after the other or at once. No container loses what
//! another one has written, and none waits for ever. flock(2), proc_locks(5).

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use super::volume::folder;
use crate::image::Home;
use crate::kernel::{eventually, listing, read};
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "volume.in-use",
        "A volume that a container uses is neither filled nor emptied by another one, even when the other \
         one fails.",
        in_use)
        .hint("Each user of a volume holds a shared lock on it, flock(2). Only the sole user may fill it, or \
               remove incomplete files."),
    Check::since(3, "volume.whole-or-empty",
        "A volume that cannot be filled is empty afterwards, and later files in it stay.",
        whole_or_empty)
        .hint("When the copy fails, remove the copied files in the same run: the next run cannot tell them \
               from others."),
    Check::since(3, "volume.killed",
        "After a SIGKILL while a volume is filled, the next run fills it anew.", killed)
        .hint("Make a mark beside the data before you fill it, and change the mark afterwards. The lock is \
               free when the runtime is dead."),
    Check::since(3, "volume.lock-order",
        "Two runs with the same volumes, in whatever order, do not deadlock.", lock_order)
        .hint("Lock all of them in the order of their names, before the first is filled."),
    Check::since(3, "volume.waiting",
        "A run that waits until another one has filled a volume can be ended by Ctrl-C and SIGTERM.", waiting)
        .hint("Wait before the signals are blocked, and before there is anything to clean up."),
];

const SOON: Duration = Duration::from_secs(10);

/// Where the runtime keeps the named volume, with the lock on it.
fn kept(subject: &Subject, name: &str) -> Result<PathBuf, Failure> {
    let mut all = listing(&subject.home(), 3).into_iter();
    all.find(|path| path.ends_with(name))
        .ok_or_else(|| Failure::new(format!("a folder {name} in the state folder"), "none"))
}

fn in_use(subject: &Subject) -> Checked {
    let (used, other) = ("checked-in-use:/mnt/it", "checked-in-use:/etc");
    let script = "echo ready; read x; echo own > /mnt/it/own; echo written; read x; ls /mnt/it";
    let mut container = subject.hold_sh(&["-v", used], script)?;
    let run = subject.run(&["-v", other, "true"])?;
    run.ok()?;
    ensure(run.stderr.contains("checked-in-use"), || {
        Failure::new("a line on stderr that the volume is not filled", format!("{:?}", run.stderr))
    })?;
    // Nor this one: there is a file, and the volume is none.
    subject.run(&["-v", "checked-in-use:/etc/passwd", "true"])?.status_is(125)?;
    container.say("write")?;
    container.wait_for("written")?;
    let next = subject.sh(&["-v", used], "ls /mnt/it")?;
    expect("what the next one finds in the volume", "own", next.ok()?)?;
    container.say("end")?;
    expect("what the first one has in it", "ready\nwritten\nown", container.output()?.ok()?)?;
    expect("what is in it then", "own", subject.sh(&["-v", other], "ls /etc")?.ok()?)
}

fn whole_or_empty(subject: &Subject) -> Checked {
    let (layer, text) = folder(subject, "too-much")?;
    fs::create_dir(layer.join("data"))?;
    for number in 0..8 {
        fs::write(layer.join(format!("data/part-{number}")), vec![b'x'; 1 << 19])?;
    }
    // A state folder into which the half of it fits.
    let home = Home::new(subject, "small-home")?;
    mount(Some("tmpfs"), &home.path, Some("tmpfs"), MsFlags::empty(), Some("size=2m,mode=755"))?;
    let root = subject.root()?;
    let runs = || {
        // As the host's root: a copy of the root for other ids would not fit, either.
        let user = subject.as_host_root();
        let volume = ["--rootfs", root, "--layer", &text, "-v", "checked-too-much:/data"];
        home.run(&[user, &volume[..], &["true"]].concat())?.status_is(125)?;
        let mut left = listing(&home.path, 5).into_iter();
        let left = left.find(|path| path.to_string_lossy().contains("part-"));
        expect("what is left of the copy in the state folder", None, left)?;
        let other = ["--rootfs", root, "-v", "checked-too-much:/mnt/it", "sh", "-c"];
        home.run(&[user, &other[..], &["echo x > /mnt/it/own"]].concat())?.ok()?;
        let next = home.run(&[user, &other[..], &["ls /mnt/it"]].concat())?;
        expect("what is in the volume after a run that wrote to it", "own", next.ok()?)
    };
    let result = runs();
    umount2(&home.path, MntFlags::MNT_DETACH)?;
    result
}

fn killed(subject: &Subject) -> Checked {
    const FILES: usize = 3000;
    let (layer, text) = folder(subject, "many-to-fill-from")?;
    fs::create_dir(layer.join("data"))?;
    for number in 0..FILES {
        fs::write(layer.join(format!("data/{number}")), "")?;
    }
    for attempt in 0..10 {
        let name = format!("checked-killed-{attempt}");
        let options = ["--layer", &text, "-v", &format!("{name}:/data")];
        let run = subject.start(&[&options[..], &["true"]].concat())?;
        let files = |folder: &Path| listing(folder, 2).len();
        eventually(SOON, || kept(subject, &name).is_ok_and(|folder| files(&folder) > FILES / 10));
        let _ = run.signal(Signal::SIGKILL);
        // Its streams end when nothing of the container is left.
        let _ = run.output()?;
        let half = files(&kept(subject, &name)?) < FILES;
        let next = subject.sh(&options, "ls /data | wc -l")?;
        expect(
            "the number of files in the volume in the next run",
            FILES.to_string(),
            next.ok()?.trim().into(),
        )?;
        if half {
            return Ok(());
        }
    }
    Err(Failure::new("a kill in the midst of filling", "each came too late"))
}

/// The result of a run with two volumes, while another process has the volume that is first by name. That
/// process releases it when the run waits and `then` has looked at the folder of the other volume.
fn while_locked(
    subject: &Subject,
    names: [&str; 2],
    then: impl FnOnce(&Path, &crate::container::Container) -> Checked,
) -> Result<crate::container::Container, Failure> {
    for name in names {
        subject.run(&["-v", &format!("{name}:/mnt/it"), "true"])?.ok()?;
    }
    let (first, other) = (kept(subject, names[0])?, kept(subject, names[1])?);
    let lock = Flock::lock(File::open(&first)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let inode = format!(":{} ", fs::metadata(&first)?.ino());
    let run = subject.start(&[
        "-v",
        &format!("{}:/mnt/one", names[1]),
        "-v",
        &format!("{}:/mnt/two", names[0]),
        "true",
    ])?;
    let waits = || {
        let locks = read("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&inode))
    };
    ensure(eventually(SOON, waits), || {
        Failure::new(format!("the run waits for the lock on {}", first.display()), "it does not")
    })?;
    then(&other, &run)?;
    drop(lock);
    Ok(run)
}

fn lock_order(subject: &Subject) -> Checked {
    let run = while_locked(subject, ["checked-order-a", "checked-order-b"], |other, _| {
        let free = Flock::lock(File::open(other)?, FlockArg::LockExclusiveNonblock).is_ok();
        ensure(free, || {
            Failure::new("a run that waits for one volume has none that comes later by name", "it has")
        })
    })?;
    run.output()?.ok().map(drop)
}

fn waiting(subject: &Subject) -> Checked {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let run = while_locked(subject, ["checked-wait-a", "checked-wait-b"], |_, run| {
            run.signal(signal)?;
            let ended = eventually(SOON, || run.runtime().is_zombie());
            ensure(ended, || Failure::new(format!("{signal} ends the run that waits"), "it still waits"))
        })?;
        expect("how it ended", 128 + signal as i32, run.output()?.status)?;
    }
    Ok(())
}
