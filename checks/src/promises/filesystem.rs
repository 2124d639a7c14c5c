//! The root filesystem, the mounts and /proc. chroot(2), mount_namespaces(7), proc(5).

use std::fs;
use std::path::Path;

use crate::kernel::{Mount, identity, listing};
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "root.is-own", "The container's root is not the host's.", is_own)
        .hint("chroot(2) by the child, after the mounts are made."),
    Check::since(0, "root.hides-the-host",
        "No path leads to a file of the host, not even through `..`.", hides_the_host)
        .hint("After chroot(2) the working directory still lies outside: chdir(\"/\")."),
    Check::since(0, "mounts.private", "The container's mounts are private.", private)
        .hint("Begin with mount(NULL, \"/\", NULL, MS_REC|MS_PRIVATE, NULL). Under systemd every mount is \
               shared, and a new mount namespace keeps that."),
    Check::since(0, "mounts.host-untouched",
        "A running container does not change the host's mounts.", host_untouched)
        .hint("Make the mounts private before the first mount, in the child."),
    Check::since(0, "proc.is-own", "/proc is a proc filesystem that the container mounted.", proc_is_own)
        .hint("mount(\"proc\", \"/proc\", \"proc\", …) in the child."),
    Check::since(1, "root.option", "--rootfs DIR makes DIR the root.", option)
        .hint("chroot(2) to the directory, resolved on the host."),
    Check::since(1, "root.relative",
        "--rootfs takes a relative path and one that goes through a symbolic link.", relative)
        .hint("Resolve it before anything changes the working directory."),
    Check::since(1, "root.left-as-it-was",
        "A run leaves no file behind in the folder of --rootfs.", left_as_it_was)
        .hint("Mount a tmpfs before you make device nodes."),
];

fn is_own(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    let its_root = identity(container.first()?.path("root/."))?;
    ensure(its_root != identity("/")?, || Failure::new("a root of its own", "the host's root"))
}

fn hides_the_host(subject: &Subject) -> Checked {
    let marker = subject.write("of-the-host", "secret")?;
    let script = format!("cat {marker} ./{marker} ../../../../../../../..{marker}; :");
    expect("what the container reads of a host's file", "", subject.sh(&[], &script)?.ok()?)?;
    let container = subject.hold(&[])?;
    let inside = format!("{}{marker}", container.first()?.path("root").display());
    ensure(!Path::new(&inside).exists(), || Failure::new("the host's file is not in the container", inside))
}

fn private(subject: &Subject) -> Checked {
    let mounts = subject.hold(&[])?.first()?.mounts()?;
    let tied: Vec<_> = mounts.iter().filter(|mount| !mount.propagation.is_empty()).collect();
    let found =
        || tied.iter().map(|mount| format!("{} is {}", mount.point, mount.propagation)).collect::<Vec<_>>();
    ensure(tied.is_empty(), || Failure::new("no mount that shares with the host", found().join(", ")))
}

fn host_untouched(subject: &Subject) -> Checked {
    let before = Mount::of_host()?;
    // `mount` may not be in the root: what the runtime itself mounts is there in any case.
    let _container = subject.hold_sh(&[], "mount -t tmpfs none /tmp; echo ready; cat")?;
    let during = Mount::of_host()?;
    let new: Vec<_> =
        during.iter().filter(|mount| !before.contains(mount)).map(|mount| &mount.point).collect();
    ensure(before == during, || {
        Failure::new("the same mounts as before", format!("new on the host: {new:?}"))
    })
}

fn proc_is_own(subject: &Subject) -> Checked {
    expect("the filesystem at /proc", "proc", &*subject.hold(&[])?.first()?.mount_at("/proc")?.kind)
}

fn option(subject: &Subject) -> Checked {
    let root = subject.root()?;
    // By what is in it: the root may be the directory itself, or a layer above it.
    let (there, marker) = (Path::new(root).join("of-this-root"), "of-this-root");
    fs::write(&there, "this one")?;
    let container = subject.hold(&["--rootfs", root]);
    let seen =
        container.and_then(|container| Ok(fs::read_to_string(container.first()?.path("root").join(marker))?));
    fs::remove_file(there)?;
    expect("a file of the directory, in the container's root", "this one", &seen?)
}

fn relative(subject: &Subject) -> Checked {
    let root = Path::new(subject.root()?);
    let link = subject.file("link-to-root");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(root, &link)?;
    for (from, path) in [(root.parent(), "root"), (Some(root), "."), (link.parent(), "link-to-root")] {
        let mut command = subject.command(&["--rootfs", path, "true"]);
        command.current_dir(from.unwrap_or(root));
        crate::container::Container::start(&mut command)?.output()?.ok()?;
    }
    Ok(())
}

fn left_as_it_was(subject: &Subject) -> Checked {
    let root = subject.root()?;
    let before = listing(Path::new(root), 3);
    subject.run(&["--rootfs", root, "true"])?.ok()?;
    let after = listing(Path::new(root), 3);
    let new: Vec<_> = after.difference(&before).collect();
    ensure(new.is_empty(), || Failure::new("the directory as it was before the run", format!("new: {new:?}")))
}
