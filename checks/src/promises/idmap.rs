//! The owners of files, where the container's users have other ids on the host: with and without idmapped
//! mounts.
//!
//! ramfs has no idmapped mounts in any kernel so far. So a root on it stands for all kernels and file systems
//! without them. Man pages: mount_setattr(2), user_namespaces(7).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::bad_input::refused;
use super::user_namespace::first_id;
use super::volume::folder;
use crate::container::Container;
use crate::image::{Home, Programs};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    // An ordinary user cannot map the ids of a mount, so no question arises.
    Check::since(4, "volume.idmap",
        "With :idmap, files of the host's root belong to the container's root. Without it they belong to \
         nobody.",
        volume)
        .needs(&[Need::Root])
        .hint("mount_setattr(2) with MOUNT_ATTR_IDMAP and the container's user namespace, while the mount \
               is attached nowhere."),
    Check::since(4, "bad.idmap",
        "If the file system cannot map owners, :idmap is refused, and the error names the file system.",
        refusal)
        .needs(&[Need::Root])
        .hint("EINVAL from mount_setattr(2) is an error: without the map, the container's root would own \
               none of the files."),
    Check::since(4, "overlay.without-idmap",
        "Where no mount can map owners, the container's users still own the files of the root.", root)
        .needs(&[Need::Root])
        .hint("Make a copy with chown(2), once, and again only when the original has changed."),
    Check::since(4, "image.commit-without-idmap",
        "An image made of such a container has the owners that the container saw.", commit)
        .needs(&[Need::Root])
        .hint("The disk has the host's ids: map them back."),
];

/// A folder with a secret of root and a file of somebody.
fn owned(subject: &Subject, name: &str) -> Result<String, Failure> {
    let (path, text) = folder(subject, name)?;
    fs::write(path.join("roots"), "secret")?;
    fs::set_permissions(path.join("roots"), PermissionsExt::from_mode(0o600))?;
    fs::write(path.join("somebodys"), "")?;
    chown(path.join("somebodys"), Some(7), Some(8))?;
    Ok(text)
}

fn owner(path: impl AsRef<Path>) -> Result<(u32, u32), Failure> {
    let there = fs::symlink_metadata(path)?;
    Ok((there.uid(), there.gid()))
}

fn volume(subject: &Subject) -> Checked {
    let text = owned(subject, "idmapped")?;
    let without = subject.sh(&["-v", &format!("{text}:/mnt/it")], "cat /mnt/it/roots 2>/dev/null; :")?;
    expect("what the container's root reads of root's without idmap", "", without.ok()?)?;
    let option = format!("{text}:/mnt/it:idmap");
    if Need::IdmappedMounts.met().is_err() {
        return refused(subject, &["-v", &option, "true"], &[&text, "Linux"]);
    }
    let script =
        "cat /mnt/it/roots; stat -c ' %u %g' /mnt/it/somebodys; touch /mnt/it/made; chown 9:10 /mnt/it/made";
    for option in [["-v", &option], ["--mount", &format!("type=bind,source={text},target=/mnt/it,idmap")]] {
        let run = subject.sh(&option, script)?;
        expect("what it sees with idmap", "secret 7 8", run.ok()?)?;
        expect("the owner on the host of what it makes", (9, 10), owner(Path::new(&text).join("made"))?)?;
        fs::remove_file(Path::new(&text).join("made"))?;
    }
    Ok(())
}

/// Does something with a folder on a ramfs.
fn on_ramfs<T>(
    subject: &Subject,
    name: &str,
    act: impl FnOnce(&Path) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let at = subject.empty_folder(name)?;
    mount(Some("ramfs"), &at, Some("ramfs"), MsFlags::empty(), Some("mode=755"))?;
    let result = act(&at);
    umount2(&at, MntFlags::MNT_DETACH)?;
    result
}

fn refusal(subject: &Subject) -> Checked {
    on_ramfs(subject, "refused", |at| {
        let text = at.display().to_string();
        refused(subject, &["-v", &format!("{text}:/mnt/it:idmap"), "true"], &[&text, "ramfs"])
    })?;
    refused(subject, &["-v", "data:/mnt/it:idmap", "true"], &["data:/mnt/it:idmap", "idmap"])
}

/// A root in which a file is somebody's and one is a secret of root.
fn fill(root: &Path) -> Checked {
    Programs::of_host()?.install(root)?;
    fs::create_dir(root.join("t"))?;
    fs::write(root.join("t/roots"), "secret")?;
    fs::set_permissions(root.join("t/roots"), PermissionsExt::from_mode(0o600))?;
    fs::write(root.join("t/somebodys"), "")?;
    Ok(chown(root.join("t/somebodys"), Some(7), Some(8))?)
}

/// The host's id of the container's root, which is another.
fn shifted(container: &Container) -> Result<u32, Failure> {
    let host = first_id(container)?;
    ensure(host > 0, || Failure::new("a user 0 that is not the host's", host)).map(|()| host)
}

fn root(subject: &Subject) -> Checked {
    // The copies stay in the state folder.
    let home = Home::new(subject, "without-idmap-home")?;
    on_ramfs(subject, "without-idmap", |at| {
        fill(at)?;
        let text = at.display().to_string();
        let options = ["--rootfs", &text, "--env", "PATH=/commands"];
        let script = "cat /t/roots; echo; echo ready; read end";
        let look = |expected: &str| -> Result<bool, Failure> {
            let words = [&options[..], &["sh", "-c", script]].concat();
            let mut container = Container::start(home.command(&words).stdin(Stdio::piped()))?;
            container.wait_for("ready")?;
            let first = container.first()?;
            let host = shifted(&container)?;
            expect(
                "the host's owner of somebody's",
                (host + 7, host + 8),
                owner(first.path("root/t/somebodys"))?,
            )?;
            // Where something is mounted, it is made, and by the container's root.
            expect("the host's owner of its /etc", (host, host), owner(first.path("root/etc"))?)?;
            container.say("end")?;
            let said = container.output()?;
            expect("what it reads of root's", expected, said.ok()?.lines().next().unwrap_or_default())?;
            Ok(said.stderr.contains("copied"))
        };
        ensure(look("secret")?, || Failure::new("that the copy is said", "not a word"))?;
        ensure(!look("secret")?, || Failure::new("one copy", "a second one"))?;
        fs::write(at.join("t/roots"), "changed")?;
        ensure(look("changed")?, || Failure::new("a new copy of a new root", "the old one"))
    })
}

fn commit(subject: &Subject) -> Checked {
    let out = subject.empty_folder("without-idmap-out")?.join("image.tar").display().to_string();
    let home = Home::new(subject, "without-idmap-home")?;
    on_ramfs(subject, "without-idmap-commit", |at| {
        fill(at)?;
        let text = at.display().to_string();
        let options = ["--rootfs", &text, "--env", "PATH=/commands", "--commit", &out, "cat"];
        let container = home.hold(&options)?;
        let (first, host) = (container.first()?, shifted(&container)?);
        for (name, user) in [("root/t/made", 0), ("root/t/roots", 3)] {
            fs::write(first.path(name), "made")?;
            chown(first.path(name), Some(host + user), Some(host + user))?;
        }
        container.output()?.ok().map(drop)
    })?;
    let tree = home.tree(&["--userns", "host", "--image", &out, "--env", "PATH=/commands", "cat"])?;
    let owners = ["made", "roots", "somebodys"].map(|name| tree.get(Path::new(name)).map(|it| it.owner));
    expect("who owns made, roots, somebodys", [Some((0, 0)), Some((3, 3)), Some((7, 8))], owners)
}
