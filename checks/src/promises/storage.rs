//! Layers and volumes, and a root that cannot be left. The kernel's filesystems/overlayfs, pivot_root(2),
//! open_tree(2).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{Check, Checked, Failure, Subject, ensure, expect, inside};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "root.escape", "A root process cannot climb out of the root by a second chroot.", escape)
        .hint("pivot_root(2), and umount2(2) of the old root: chroot(2) leaves the host mounted."),
    Check::since(3, "overlay.rootfs-untouched", "What a container writes, changes and deletes is in no later one, and DIR of --rootfs stays as it was.", untouched)
        .hint("An overlay: DIR is its lower layer, the upper one is new for each container."),
    Check::since(3, "overlay.keep", "With --keep NAME the next run goes on with what the last one wrote.", keep)
        .hint("The writable layer in a folder of that name."),
    Check::since(3, "overlay.changes", "--changes lists what was added, changed and deleted.", changes)
        .hint("The upper layer is the difference; a character device 0/0 in it is a whiteout."),
    Check::since(3, "volume.bind", "A host's folder is mounted, and what is written goes there.", bind)
        .hint("open_tree(2) before the root is entered, move_mount(2) after it."),
    Check::since(3, "volume.read-only", "With :ro nothing can be written, not even to a mount below it.", read_only)
        .hint("mount_setattr(2) with AT_RECURSIVE."),
    Check::since(3, "volume.named", "A named volume is filled from the root, and kept.", named)
        .hint("Fill it before it is mounted over what it is filled from."),
    Check::since(3, "volume.target-links", "A symbolic link in the root does not lead a volume to the host.", target_links)
        .hint("openat2(2), RESOLVE_IN_ROOT."),
    Check::since(3, "volume.refused", "A volume over / or /proc is refused.", refused)
        .not_new()
        .hint("Look at where the target leads, when it is open."),
];

fn escape(subject: &Subject) -> Checked {
    let secret = subject.write("to-be-read", "of the host")?;
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let run = subject.run(&["--rootfs", root, &program, inside::ASKED, inside::ESCAPE, &secret])?;
    // The line says that it was tried at all.
    expect("what it reads after a climb", "climbed=nothing", run.ok()?)
}

fn untouched(subject: &Subject) -> Checked {
    let root = Path::new(subject.root()?);
    let (changed, deleted, added) = (root.join("to-change"), root.join("to-delete"), root.join("added"));
    fs::write(&changed, "before")?;
    fs::write(&deleted, "there")?;
    let script = "echo after > /to-change; rm /to-delete; echo new > /added";
    let run = subject.sh(&["--rootfs", subject.root()?], script);
    let next = subject.sh(&["--rootfs", subject.root()?], "cat /to-change /to-delete; test ! -e /added");
    let now = fs::read_to_string(&changed);
    let (kept, strayed) = (deleted.exists(), added.exists());
    for file in [changed, deleted, added] {
        let _ = fs::remove_file(file);
    }
    run?.ok()?;
    expect("the changed file in DIR", "before", &now?)?;
    expect("whether the deleted file is in DIR", true, kept)?;
    expect("whether the new file is in DIR", false, strayed)?;
    expect("what the next container sees", "beforethere", next?.ok()?)
}

fn keep(subject: &Subject) -> Checked {
    subject.sh(&["--keep", "checked"], "echo kept > /written; rm /etc/passwd")?.ok()?;
    let next = subject.sh(&["--keep", "checked"], "cat /written; ls /etc/passwd 2>/dev/null; :")?;
    expect("what the next run sees", "kept", next.ok()?)?;
    let other = subject.sh(&["--keep", "another"], "ls /written 2>/dev/null; :")?;
    expect("what a run with another name sees", "", other.ok()?)
}

fn changes(subject: &Subject) -> Checked {
    let run = subject.sh(&["--changes"], "echo x >> /etc/group; rm /etc/passwd; echo new > /added")?;
    run.status_is(0)?;
    let mut listed: Vec<_> = run.stderr.lines().collect();
    listed.sort_unstable();
    expect("the list", vec!["A /added", "C /etc", "C /etc/group", "D /etc/passwd"], listed)
}

/// A folder on the host, empty.
fn folder(subject: &Subject, name: &str) -> Result<(PathBuf, String), Failure> {
    let path = subject.file(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path)?;
    let text = path.display().to_string();
    Ok((path, text))
}

fn bind(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "bound")?;
    fs::write(path.join("from-host"), "outside")?;
    let run = subject
        .sh(&["-v", &format!("{text}:/mnt/it")], "cat /mnt/it/from-host; echo inside > /mnt/it/back")?;
    expect("what the container reads", "outside", run.ok()?)?;
    expect("what the host reads", "inside\n", fs::read_to_string(path.join("back"))?.as_str())
}

fn read_only(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "bound-ro")?;
    let below = path.join("below");
    fs::create_dir(&below)?;
    // In the mount namespace of the checks' own.
    mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
    fs::write(below.join("there"), "below")?;
    let script = "cat /mnt/it/below/there; echo; for f in one below/two; do (echo x > /mnt/it/$f) 2>/dev/null && echo wrote $f; done; :";
    let run = subject.sh(&["-v", &format!("{text}:/mnt/it:ro")], script);
    umount2(&below, MntFlags::MNT_DETACH)?;
    expect("what it can read, and write", "below", run?.ok()?)
}

fn named(subject: &Subject) -> Checked {
    let first =
        subject.sh(&["-v", "checked:/etc"], "cat /etc/group > /dev/null && echo kept > /etc/written")?;
    first.ok()?;
    let next = subject
        .sh(&["-v", "checked:/mnt/it"], "cat /mnt/it/written; test -s /mnt/it/group && echo filled")?;
    expect("what the next run finds in it", "kept\nfilled", next.ok()?)
}

fn target_links(subject: &Subject) -> Checked {
    let (_, source) = folder(subject, "linked-source")?;
    let (outside, target) = folder(subject, "linked-target")?;
    let link = Path::new(subject.root()?).join("link-out");
    let _ = fs::remove_file(&link);
    symlink(&target, &link)?;
    let before = tree_names(&outside);
    let volume = format!("{source}:/link-out/new");
    let script = format!("echo x > {target}/new/written; :");
    let run = subject.sh(&["--rootfs", subject.root()?, "-v", &volume], &script);
    fs::remove_file(link)?;
    let after = tree_names(&outside);
    run?.ok()?;
    expect("what is in the host's folder that the link names", before, after)?;
    // Beneath the root, the link leads to a folder of the same name, which the volume is then mounted in.
    ensure(Path::new(&source).join("written").exists(), || {
        Failure::new("the volume is where the link leads inside", "elsewhere")
    })
}

fn tree_names(folder: &Path) -> Vec<PathBuf> {
    crate::kernel::listing(folder, 3).into_iter().collect()
}

fn refused(subject: &Subject) -> Checked {
    let (_, source) = folder(subject, "refused")?;
    for target in ["/", "/proc", "/proc/sys", "/etc/.."] {
        let run = subject.run(&["-v", &format!("{source}:{target}"), "true"])?;
        run.status_is(125)?;
    }
    // Not because of the source: another target is taken.
    subject.run(&["-v", &format!("{source}:/mnt/it"), "true"])?.ok().map(drop)
}
