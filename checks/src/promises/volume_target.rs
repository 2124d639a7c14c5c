//! Where volumes are mounted: beneath the container's root, whatever links are there, and whoever changes
//! them meanwhile. openat2(2), move_mount(2), renameat2(2).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::volume::folder;
use crate::container::Container;
use crate::kernel::{Mount, listing};
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "volume.target-links",
        "A symbolic link in the root does not lead a volume to the host.", target_links)
        .hint("openat2(2), RESOLVE_IN_ROOT."),
    Check::since(3, "volume.target-made",
        "A missing TARGET is made, with the folders above it, even at the end of a link whose target is \
         missing.", target_made)
        .hint("Walk from name to name, and follow links by hand: O_CREAT with O_EXCL follows none."),
    Check::since(3, "volume.nested", "A volume can lie in another, in whatever order they are given.", nested)
        .hint("Docker sorts by the number of names in TARGET."),
    Check::since(3, "volume.over-files",
        "A volume can lie over a file in /dev, and over /etc/hosts.", over_files)
        .hint("The volumes come last."),
    Check::since(3, "volume.refused",
        "A volume over /, /proc or /sys is refused, even through a link, and no volume before it leaves \
         anything behind.", refused)
        .not_new()
        .hint("Open the target, and look at its filesystem: statfs(2) tells procfs and sysfs."),
    Check::since(3, "volume.race",
        "A process that shares a volume, and swaps a folder in it with a link, cannot lead a mount to the \
         host.", race)
        .hint("Look TARGET up and mount on it by the same descriptor, when the host is out of sight \
               (CVE-2021-30465)."),
    Check::since(3, "volume.old-kernel",
        "Without mount_setattr(2) and openat2(2), links still lead nowhere, and :ro is still recursive.",
        old_kernel)
        .needs(&[Need::Program("strace")])
        .hint("ENOSYS: before 5.12 remount each mount below it, before 5.6 walk from name to name with \
               O_PATH|O_NOFOLLOW."),
];

/// A layer with this link in it.
fn with_link(subject: &Subject, name: &str, to: &str) -> Result<String, Failure> {
    let (layer, text) = folder(subject, "layer-with-a-link")?;
    symlink(to, layer.join(name))?;
    Ok(text)
}

fn target_links(subject: &Subject) -> Checked {
    let (_, source) = folder(subject, "linked-source")?;
    let (outside, target) = folder(subject, "linked-target")?;
    let link = Path::new(subject.root()?).join("link-out");
    let _ = fs::remove_file(&link);
    symlink(&target, &link)?;
    let before = listing(&outside, 3);
    let volume = format!("{source}:/link-out/new");
    let script = format!("echo x > {target}/new/written; :");
    let run = subject.sh(&["--rootfs", subject.root()?, "-v", &volume], &script);
    fs::remove_file(link)?;
    let after = listing(&outside, 3);
    run?.ok()?;
    expect("what is in the host's folder that the link names", before, after)?;
    // Beneath the root, the link leads to a folder of the same name, which the volume is then mounted in.
    ensure(Path::new(&source).join("written").exists(), || {
        Failure::new("the volume is where the link leads inside", "elsewhere")
    })
}

fn target_made(subject: &Subject) -> Checked {
    let (source, text) = folder(subject, "made-source")?;
    fs::write(source.join("file"), "a file")?;
    let layer = with_link(subject, "dangling", "somewhere/../else/deep")?;
    let volume = |target: &str| format!("{text}:{target}");
    let one = format!("{text}/file:/new/for/a-file");
    let options = ["--layer", &layer, "-v", &volume("/dangling"), "-v", &volume("/made/for/it"), "-v", &one];
    // `somewhere` is made, too, as `..` is only there if it is.
    let script = "cat /else/deep/file /made/for/it/file /new/for/a-file";
    expect("what the three volumes have", "a filea filea file", subject.sh(&options, script)?.ok()?)
}

fn nested(subject: &Subject) -> Checked {
    let (outer, outer_text) = folder(subject, "outer")?;
    let (inner, inner_text) = folder(subject, "inner")?;
    fs::write(outer.join("name"), "outer")?;
    fs::write(inner.join("name"), "inner")?;
    let volumes = [format!("{outer_text}:/mnt/it"), format!("{inner_text}:/mnt/it/in/it")];
    for [first, second] in [[0, 1], [1, 0]] {
        let options = ["-v", &volumes[first], "-v", &volumes[second]];
        let run = subject.sh(&options, "cat /mnt/it/name; echo; cat /mnt/it/in/it/name")?;
        expect("the two volumes", "outer\ninner", run.ok()?)?;
    }
    let run = subject.run(&["-v", &volumes[0], "--tmpfs", "/mnt/it/../it", "true"])?;
    super::bad_input::error(&run, 125, &["/mnt/it"])
}

fn over_files(subject: &Subject) -> Checked {
    let file = subject.write("over-files", "of the volume\n")?;
    let (root, options) = (format!("{file}:/dev/of-the-host"), format!("{file}:/etc/hosts"));
    let run = subject.sh(&["-v", &root, "-v", &options], "cat /dev/of-the-host /etc/hosts")?;
    expect("what is in both", "of the volume\nof the volume", run.ok()?)
}

fn refused(subject: &Subject) -> Checked {
    let (source, text) = folder(subject, "refused")?;
    let volume = |target: &str| format!("{text}:{target}");
    // But for copies of a root for other ids, where there are no idmapped mounts.
    let shifted = subject.home().join("shifted");
    let state = || {
        let all = listing(&subject.home(), 3).into_iter();
        all.filter(|path| !path.starts_with(&shifted)).collect::<Vec<_>>()
    };
    for target in ["/", "/proc", "/proc/sys", "/etc/..", "/sys", "/sys/fs/cgroup"] {
        subject.run(&["-v", &volume(target), "true"])?.status_is(125)?;
    }
    let before = (state(), Mount::of_host()?);
    for (to, target) in
        [("/proc", "/to"), ("/proc", "/to/sys"), ("/sys", "/to"), ("/", "/to"), ("..", "/to/.")]
    {
        let layer = with_link(subject, "to", to)?;
        let options = [
            "--layer",
            &layer,
            "-v",
            &volume("/a"),
            "-v",
            "/b",
            "--tmpfs",
            "/c",
            "-v",
            &volume(target),
            "true",
        ];
        let run = subject.run(&options)?;
        run.status_is(125).map_err(|failure| failure.of(format_args!("at {target}, a link to {to}")))?;
        ensure(before == (state(), Mount::of_host()?), || {
            Failure::new("the mounts and the state folder as before", "new ones")
        })?;
    }
    // Nor is a volume filled from there, which may have no end.
    let layer = with_link(subject, "to", "/sys/devices/system/cpu")?;
    subject.run(&["--layer", &layer, "-v", "checked-refused:/to", "true"])?.status_is(125)?;
    let copied = |path: &PathBuf| path.ends_with("possible");
    ensure(!listing(&subject.home(), 5).iter().any(copied), || {
        Failure::new("nothing of sysfs in the state folder", "a copy")
    })?;
    // Not because of the source: another target is taken.
    subject.run(&["-v", &volume("/mnt/it"), "true"])?.ok()?;
    expect("what is in the source", 0, listing(&source, 1).len())
}

/// Exchanges two names of a folder, again and again, until told to stop.
fn exchange(folder: &Path, stop: &AtomicBool) -> Checked {
    let (one, other) = (folder.join("exchanged"), folder.join("link"));
    while !stop.load(Ordering::Relaxed) {
        renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE)?;
    }
    Ok(())
}

fn race(subject: &Subject) -> Checked {
    let (_, volume) = folder(subject, "mounted-in-shared")?;
    raced(subject, &volume, "deep")
}

/// Mounts a volume at a path below the folder that is exchanged, again and again; nothing may happen on the
/// host.
pub(super) fn raced(subject: &Subject, volume: &str, below: &str) -> Checked {
    let (shared, shared_text) = folder(subject, "shared")?;
    let (outside, outside_text) = folder(subject, "outside-of-all")?;
    fs::create_dir(shared.join("exchanged"))?;
    fs::set_permissions(shared.join("exchanged"), fs::Permissions::from_mode(0o777))?;
    symlink(&outside_text, shared.join("link"))?;
    let volumes = [format!("{shared_text}:/mnt/shared"), format!("{volume}:/mnt/shared/exchanged/{below}")];
    let before = Mount::of_host()?;
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(1);
    let runs = || {
        let mut mounted = 0;
        for number in 0.. {
            if number >= 4 && Instant::now() > end {
                break;
            }
            // Refused is as good as mounted where the link leads inside.
            let run = subject.sh(&["-v", &volumes[0], "-v", &volumes[1]], "echo x > /mnt/shared/mark")?;
            mounted += i32::from(run.status == 0);
            expect("the mounts of the host", &before, &Mount::of_host()?)?;
            let new: Vec<PathBuf> = listing(&outside, 3).into_iter().collect();
            expect("what is new where the link leads on the host", Vec::<PathBuf>::new(), new)?;
        }
        ensure(mounted > 0, || Failure::new("a container that runs", "none"))
    };
    thread::scope(|scope| {
        let exchanging = scope.spawn(|| exchange(&shared, &stop));
        let result = runs();
        stop.store(true, Ordering::Relaxed);
        let exchanged = exchanging.join().unwrap_or_else(|_| Err(Failure::new("a race", "a panic")));
        result.and(exchanged)
    })
}

fn old_kernel(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "old-kernel")?;
    let (outside, outside_text) = folder(subject, "old-kernel-outside")?;
    let layer = with_link(subject, "to", &outside_text)?;
    let below = path.join("below");
    fs::create_dir(&below)?;
    mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::MS_NOEXEC, Some("size=64k"))?;
    let script = format!(
        "for f in one below/two; do (echo x > {outside_text}/new/$f) 2>/dev/null && echo wrote $f; done; \
         grep /new /proc/self/mountinfo | while read x x x x at options x; do echo $options; done"
    );
    let volume = format!("{text}:/to/new:ro");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=mount_setattr,openat2"]);
    command.args(["-e", "inject=mount_setattr,openat2:error=ENOSYS"]).arg(subject.binary());
    command.args(["--layer", &layer, "-v", &volume, "sh", "-c", &script]);
    let run = Container::start(command.envs(subject.environment())).and_then(Container::output);
    umount2(&below, MntFlags::MNT_DETACH)?;
    let run = run?;
    let lines: Vec<_> = run.ok()?.lines().collect();
    let read_only = lines.len() == 2 && lines.iter().all(|line| line.split(',').any(|option| option == "ro"));
    ensure(read_only, || Failure::new("two mounts, both read-only", format!("{lines:?}")))?;
    // A remount gives all flags anew: those that the mount had must not be lost.
    ensure(lines.last().is_some_and(|line| line.contains("noexec")), || {
        Failure::new("the mount below still is noexec", format!("{lines:?}"))
    })?;
    expect("what is new where the link leads on the host", 0, listing(&outside, 3).len())
}
