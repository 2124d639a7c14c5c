//! The exercises of step 3: more ways to mount, and a writable layer that has an end.
//!
//! Kernel objects: bind mounts with and without what is mounted below, a path beneath a volume, a second
//! overlay, a tmpfs below one. Looked at from outside: the host's folders, mountinfo, statvfs of the
//! container's root. Man pages: open_tree(2), openat2(2), mount(8) on overlay, tmpfs(5), statvfs(3).

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

use super::{Exercise, folder, is_refused};
use crate::kernel::listing;
use crate::{Checked, Failure, Subject, ensure, expect, tree};

pub(super) const EXERCISES: &[Exercise] = &[
    Exercise {
        id: "step3.bind-nonrecursive",
        step: 3,
        sentence: "Add bind-nonrecursive[=true|false] to --mount type=bind: the folder without the mounts \
                   below it.",
        hint: "open_tree(2) copies the mounts below only with AT_RECURSIVE. The key is for binds, and for no \
               volume.",
        needs: &[],
        run: bind_nonrecursive,
    },
    Exercise {
        id: "step3.volume-subpath",
        step: 3,
        sentence: "Add volume-subpath=PATH to --mount type=volume: only that folder of the volume, which \
                   must exist.",
        hint: "The writer of the volume may have put links in it. Open the path beneath the volume, \
               openat2(2), and copy the open folder: open_tree(2) follows /proc/self/fd/N.",
        needs: &[],
        run: volume_subpath,
    },
    Exercise {
        id: "step3.overlay-volume",
        step: 3,
        sentence: "Add the volume option O: the container may write, and the host's folder stays as it is.",
        hint: "One more overlay, the folder as its lower layer. Mount it when the mounts are private and \
               the host is still in sight, and take it along as a copy.",
        needs: &[],
        run: overlay_volume,
    },
    Exercise {
        id: "step3.storage-size",
        step: 3,
        sentence: "Add --storage-opt size=SIZE: the container can write that much into its root, and no \
                   more.",
        hint: "A tmpfs of that size for upper and work, mounted by the child. The parent does not see it: \
               --keep, --changes and --commit cannot go with it, and must say so.",
        needs: &[],
        run: storage_size,
    },
];

fn bind_nonrecursive(subject: &Subject) -> Checked {
    let path = folder(subject, "recursive")?;
    let below = path.join("below");
    fs::create_dir(&below)?;
    fs::write(below.join("hidden"), "")?;
    // In the mount namespace of the checks' own.
    mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
    fs::write(below.join("on-top"), "")?;
    let checked = with_a_mount_below(subject, &path);
    umount2(&below, MntFlags::MNT_DETACH)?;
    checked
}

fn with_a_mount_below(subject: &Subject, path: &Path) -> Checked {
    let value = |more: &str| format!("type=bind,source={},target=/mnt/it{more}", path.display());
    for (more, there) in
        [("", "on-top"), (",bind-nonrecursive=false", "on-top"), (",bind-nonrecursive", "hidden")]
    {
        let run = subject.run(&["--mount", &value(more), "ls", "/mnt/it/below"])?;
        expect(format!("what is in below with \"{more}\""), there, run.ok()?)?;
    }
    let container = subject.hold(&["--mount", &value(",bind-nonrecursive=true")])?;
    let mounts = container.first()?.mounts()?;
    let beneath = mounts.iter().filter(|mount| mount.point.starts_with("/mnt/it/")).count();
    expect("the number of mounts below the target", 0, beneath)?;
    let volume = "type=volume,source=checked,target=/mnt/it,bind-nonrecursive";
    is_refused(&subject.run(&["--mount", volume, "true"])?, "--mount")
}

fn volume_subpath(subject: &Subject) -> Checked {
    let outside = folder(subject, "outside")?;
    fs::write(outside.join("of-the-host"), "")?;
    let (absolute, up) = (outside.display(), format!("{}{}", "../".repeat(40), outside.display()));
    let fill = format!(
        "mkdir -p /v/sub/inner && echo it > /v/sub/inner/wanted && echo no > /v/sub/other && \
         ln -s {absolute} /v/absolute && ln -s {up} /v/sub/up"
    );
    subject.sh(&["-v", "sub-path:/v"], &fill)?.ok()?;
    let mounted = |at: &str, script: &str| {
        let value = format!("type=volume,source=sub-path,target=/mnt/it,volume-subpath={at}");
        subject.sh(&["--mount", &value], script)
    };
    let run = mounted("sub/inner", "ls /mnt/it; cat /mnt/it/wanted; echo back > /mnt/it/written")?;
    expect("what is in the volume's folder", "wanted\nit", run.ok()?)?;
    let back = subject.run(&["-v", "sub-path:/v", "cat", "/v/sub/inner/written"])?;
    expect("what the whole volume then has there", "back", back.ok()?)?;
    // Refused, or looked up beneath the volume; but never the host's.
    for at in ["absolute", "sub/up", &up, &format!("sub/{up}")] {
        let run = mounted(at, "ls -A /mnt/it")?;
        ensure(!run.stdout.contains("of-the-host"), || {
            Failure::new("no subpath leads out of the volume", format!("a folder of the host, by {at}"))
        })?;
    }
    is_refused(&mounted("sub/missing", "true")?, "missing")
}

fn overlay_volume(subject: &Subject) -> Checked {
    let path = folder(subject, "overlaid")?;
    for name in ["changed", "deleted"] {
        fs::write(path.join(name), "host")?;
    }
    fs::create_dir(path.join("sub"))?;
    fs::set_permissions(&path, Permissions::from_mode(0o1770))?;
    chown(&path, Some(1000), Some(1001))?;
    let before = tree::read(&path)?;
    let option = format!("{}:/mnt/it:O", path.display());
    let script = "cd /mnt/it && rm deleted && echo inside > changed && echo new > sub/soiled && cat changed \
                  sub/soiled && ls";
    let run = subject.sh(&["-v", &option], script)?;
    expect("what the container has", "inside\nnew\nchanged\nsub", run.ok()?)?;
    tree::same("the host\'s folder before and afterwards", &before, &tree::read(&path)?)?;
    let next = subject.run(&["-v", &option, "cat", "/mnt/it/changed", "/mnt/it/deleted"])?;
    expect("what the next container finds", "hosthost", next.ok()?)?;
    let left = listing(&subject.home(), 8).into_iter().find(|path| path.ends_with("soiled"));
    expect("what stays of its writing", None, left)?;
    let container = subject.hold(&["-v", &option])?;
    let inside = fs::metadata(container.first()?.path("root/mnt/it"))?;
    let found = format!("{:o} {} {}", inside.mode() & 0o7777, inside.uid(), inside.gid());
    expect("mode, owner and group of the folder in the container", "1770 1000 1001", &found)?;
    expect("the filesystem at the target", "overlay", &*container.first()?.mount_at("/mnt/it")?.kind)
}

fn storage_size(subject: &Subject) -> Checked {
    let options = ["--storage-opt", "size=8m"];
    let container = subject.hold(&options)?;
    let root = statvfs(&container.first()?.path("root/."))?;
    #[expect(clippy::useless_conversion, reason = "their types differ from machine to machine")]
    let size = u64::from(root.blocks()) * u64::from(root.fragment_size());
    expect("the size of the root's filesystem", 8 << 20, size)?;
    drop(container);
    let script = "head -c 16777216 /dev/zero > /big 2>/dev/null && echo all of it; rm /big; echo more > \
                  /small; cat /small";
    expect("what can be written", "more", subject.sh(&options, script)?.ok()?)?;
    for bad in ["8m", "size=abc", "size=", "inodes=8"] {
        is_refused(&subject.run(&["--storage-opt", bad, "true"])?, "--storage-opt")?;
    }
    let keep = ["--keep", "sized"];
    let fill = "head -c 16777216 /dev/zero > /big 2>/dev/null && echo all of it; rm /big; echo kept > /small";
    let run = subject.sh(&[&options[..], &keep].concat(), fill)?;
    if run.status == 125 {
        is_refused(&run, "--keep")?;
    } else {
        expect("what can be written with --keep", "", run.ok()?)?;
        let next = subject.run(&[&keep[..], &["cat", "/small"]].concat())?;
        expect("what --keep has kept", "kept", next.ok()?)?;
    }
    let run = subject.sh(&[&options[..], &["--changes"]].concat(), "echo new > /added")?;
    ensure(run.status == 125 || run.stderr.contains("A /added"), || {
        Failure::new("with --changes, it tells them or is refused", format!("{run:?}"))
    })
}
