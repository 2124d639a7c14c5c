//! Volumes: a host's folder or file, a named volume, an anonymous one, memory; and mounts that they share.
//! open_tree(2), mount_setattr(2), mount_namespaces(7), tmpfs(5).

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use super::bad_input::refused;
use crate::container::Container;
use crate::kernel::{Mount, listing};
use crate::tree::{self, same};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "volume.bind", "A host's folder is mounted, and the container's files go there.", bind)
        .hint("open_tree(2) before the root is entered, move_mount(2) after it."),
    Check::since(3, "volume.relative",
        "`.`, `./DIR` and `../DIR` are folders of the host, relative to the caller's working directory.",
        relative)
        .hint("A source with neither a slash nor a dot at its beginning is a name."),
    Check::since(3, "volume.file", "A single file can be a volume.", file)
        .hint("A file is mounted on a file: make an empty one where none is."),
    Check::since(3, "volume.makes-source",
        "The runtime makes a folder that is missing on the host, and says so.", makes_source)
        .hint("As docker run -v does. --mount refuses it."),
    Check::since(3, "volume.read-only",
        "With :ro the container can write nothing, not even to a mount below the volume.", read_only)
        .hint("mount_setattr(2) with AT_RECURSIVE."),
    Check::since(3, "volume.private",
        "A later mount on the host does not appear in a volume, nor the other way round.", |it| {
        appears(it, &["", ":private", ":rprivate"], (false, false))
    })
        .hint("rprivate is Docker's default: the copy of a shared mount is shared, until you change that."),
    Check::since(3, "volume.rslave",
        "With rslave a later mount on the host appears in the volume, and not the other way round.", |it| {
        appears(it, &[":rslave", ":slave"], (true, false))
    })
        .hint("MS_SLAVE, while the source still shares with the host: copy it before you make the mounts \
               private."),
    Check::since(3, "volume.rshared", "With rshared each side sees the later mounts of the other.", |it| {
        appears(it, &[":rshared", ":ro,shared"], (true, true))
    })
        // The kernel lets nothing out of a user namespace.
        .needs(&[Need::Root])
        .hint("MS_SHARED, as rslave."),
    Check::since(3, "volume.not-handed-on",
        "A container that shares the memory of one with an rshared /dev/shm mounts nothing on the host.",
        not_handed_on)
        .needs(&[Need::Root])
        .hint("The copy of a mount of another container shares with the host what that mount shares."),
    Check::since(3, "volume.not-onto-host",
        "A mount in a mount that is shared with the host is refused, and the host does not get it.",
        not_onto_host)
        .needs(&[Need::Root])
        .hint("A mount in a shared mount is repeated in each of its peers, and the host's stays when the \
               container ends. Look at the target's mount in mountinfo before anything is made there."),
    Check::since(3, "volume.not-shared",
        "The options shared and slave are refused for a mount that is not shared.", not_shared)
        .not_new()
        .hint("The copy of a mount shares with the host what that mount shares: see the tags in mountinfo, \
               shared:N and master:N."),
    Check::since(3, "volume.named", "A named volume is filled from the root, and kept.", named)
        .hint("Fill it before you mount it over the folder that it is filled from."),
    Check::since(3, "volume.filled-exactly",
        "A filled volume has the same owners, modes, times, links and attributes as the root.",
        filled_exactly)
        // To give files away.
        .needs(&[Need::Root])
        .hint("For each file: owner, extended attributes, mode, times, in this order, as each changes one \
               that comes later."),
    Check::since(3, "volume.keeps-holes",
        "A file with a hole of a GiB takes no more room in the volume that is filled with it.", keeps_holes)
        .hint("lseek(2) with SEEK_DATA and SEEK_HOLE says where there is something to copy."),
    Check::since(3, "volume.filled-once",
        "A volume with files in it is not filled, and no volume is filled with nocopy.", filled_once)
        .hint("Look whether it is empty: deleted files must stay deleted."),
    Check::since(3, "volume.anonymous",
        "TARGET alone is a volume that is filled, and removed after the run.", anonymous)
        .hint("In the container's own folder."),
    Check::since(3, "volume.mount-option",
        "--mount knows type, source, target, readonly and the other keys.", mount_option)
        .hint("Docker's names src, dst, destination and ro mean the same."),
    Check::since(3, "volume.mount-missing",
        "--mount refuses a source that is missing, and makes no folder.", mount_missing)
        .not_new()
        .hint("Look at all sources before you make the first."),
    Check::since(3, "volume.tmpfs",
        "--tmpfs is memory with the size and mode of its options, nosuid, nodev and noexec.", tmpfs)
        .hint("Options of tmpfs(5); the flags are Docker's defaults."),
    Check::since(3, "volume.tmpfs-options",
        "--tmpfs takes uid, gid, nr_inodes and noatime; the ids are the container's.", tmpfs_options)
        // For an id other than the own one.
        .needs(&[Need::Root])
        .hint("A tmpfs reads uid= as an id of the user namespace of the process that mounts it."),
    Check::since(4, "volume.tmpfs-owner",
        "A --tmpfs of a user that the container does not have is refused.", tmpfs_owner)
        .hint("A number that its map lacks has no meaning in the container: user_namespaces(7)."),
    Check::since(3, "volume.tmpfs-like-folder",
        "--tmpfs over a folder takes its mode, owner and group, unless the options give others.",
        tmpfs_like_folder)
        // To give files away.
        .needs(&[Need::Root])
        .hint("Look at the folder before you mount over it; a folder that the runtime made has no say."),
    Check::since(3, "volume.consistency",
        "-v takes cached, delegated and consistent, and --mount consistency=: they change nothing.",
        consistency)
        .not_new()
        .hint("Docker Desktop had them; on Linux host and container have the same files."),
    Check::since(3, "volume.host-dev", "With -v /dev:/dev the host's devices work.", host_dev)
        .not_new()
        .hint("With MS_NODEV on a mount, no process can open a device in it."),
];

/// A folder on the host, empty.
pub(super) fn folder(subject: &Subject, name: &str) -> Result<(PathBuf, String), Failure> {
    let path = subject.file(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path)?;
    // From step 4 on the container's root is somebody else.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
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

fn relative(subject: &Subject) -> Checked {
    let (path, _) = folder(subject, "relative")?;
    for below in ["here", "here/below", "beside"] {
        fs::create_dir(path.join(below))?;
        fs::write(path.join(below).join("name"), below)?;
    }
    let script = "for f in one two three; do cat /mnt/$f/name; echo; done";
    let arguments =
        ["-v", ".:/mnt/one", "-v", "./below:/mnt/two", "-v", "../beside:/mnt/three", "sh", "-c", script];
    let mut command = subject.command(&arguments);
    let run = Container::start(command.current_dir(path.join("here")))?.output()?;
    expect("what the three volumes are", "here\nhere/below\nbeside", run.ok()?)
}

fn file(subject: &Subject) -> Checked {
    let file = subject.write("single", "outside")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    let (root, options) = (format!("{file}:/etc/single"), format!("{file}:/mnt/deep/single:ro"));
    let script =
        "cat /mnt/deep/single; echo inside > /etc/single; (echo no > /mnt/deep/single) 2>/dev/null; :";
    let run = subject.sh(&["-v", &root, "-v", &options], script)?;
    expect("what the container reads", "outside", run.ok()?)?;
    expect("what the host reads", "inside\n", fs::read_to_string(file)?.as_str())
}

fn makes_source(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "makes-source")?;
    let volume = format!("{text}/two/deep:/mnt/it");
    let run =
        Container::start(&mut subject.command_after("umask 077", &["-v", &volume, "ls", "-A", "/mnt/it"]))?
            .output()?;
    expect("what is in it", "", run.ok()?)?;
    for made in ["two", "two/deep"] {
        let mode = fs::metadata(path.join(made))?.mode() & 0o777;
        expect(
            format!("the mode of {made}, whatever the umask, in octal digits,"),
            "755",
            &*format!("{mode:o}"),
        )?;
    }
    ensure(run.stderr.contains(&format!("{text}/two/deep")), || {
        Failure::new("a line on stderr that names the new folder", format!("{:?}", run.stderr))
    })
}

/// Mounts a small tmpfs, in the mount namespace of the checks' own.
pub(super) fn mount_at(at: &Path) -> Checked {
    Ok(mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?)
}

fn read_only(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "bound-ro")?;
    let below = path.join("below");
    fs::create_dir(&below)?;
    mount_at(&below)?;
    fs::write(below.join("there"), "below")?;
    let script = "cat /mnt/it/below/there; echo; for f in one below/two; do (echo x > /mnt/it/$f) \
                  2>/dev/null && echo wrote $f; done; :";
    let run = subject.sh(&["-v", &format!("{text}:/mnt/it:ro")], script);
    // The host's own is not read-only for it.
    let host = fs::write(below.join("of-the-host"), "");
    umount2(&below, MntFlags::MNT_DETACH)?;
    expect("what it can read, and write", "below", run?.ok()?)?;
    Ok(host?)
}

/// Which mounts appear on the other side, while a container with a volume of this propagation runs. The host
/// makes one, which may appear in the container. The container makes another, which may appear on the host.
fn appear(subject: &Subject, propagation: &str) -> Result<(bool, bool), Failure> {
    let (path, text) = folder(subject, "propagated")?;
    for below in ["of-the-host", "of-the-container"] {
        fs::create_dir(path.join(below))?;
    }
    // A mount of its own, so that it is the top of what is shared.
    mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let seen = || {
        mount(None::<&str>, &path, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        let volume = format!("{text}:/mnt/it{propagation}");
        let program = crate::inside::install(Path::new(subject.root()?))?;
        let options = ["--rootfs", subject.root()?, "-v", &volume];
        let command = [&program, crate::inside::ASKED, crate::inside::MOUNT, "/mnt/it/of-the-container"];
        let mut container = subject.start(&[subject.as_host_root(), &options, &command].concat())?;
        container.wait_for("mounted")?;
        let on_host = is_mounted(&Mount::of_host()?, &path.join("of-the-container"));
        mount_at(&path.join("of-the-host"))?;
        let mounts = container.first()?.mounts()?;
        let inside = is_mounted(&mounts, Path::new("/mnt/it/of-the-host"));
        container.say("end")?;
        container.output()?.ok()?;
        Ok((inside, on_host))
    };
    let seen = seen();
    for below in ["of-the-host", "of-the-container", "."] {
        while umount2(&path.join(below), MntFlags::MNT_DETACH).is_ok() {}
    }
    seen
}

fn not_handed_on(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "handed-on")?;
    let (other, other_text) = folder(subject, "handed-on-other")?;
    fs::create_dir(path.join("below"))?;
    mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let seen = || {
        mount(None::<&str>, &path, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        let user = subject.as_host_root();
        let shared = subject.hold(&[user, &["-v", &format!("{text}:/dev/shm:rshared")]].concat())?;
        let (ipc, volume) =
            (format!("container:{}", shared.first()?), format!("{other_text}:/dev/shm/below"));
        let run = subject.run(&[user, &["--ipc", &ipc, "-v", &volume, "true"]].concat())?;
        run.ok()?;
        let on_host = is_mounted(&Mount::of_host()?, &path.join("below"));
        shared.output()?.status_is(0)?;
        Ok::<_, Failure>(on_host)
    };
    let seen = seen();
    for below in ["below", "."] {
        while umount2(&path.join(below), MntFlags::MNT_DETACH).is_ok() {}
    }
    fs::remove_dir_all(other)?;
    expect("whether the second container's volume is mounted on the host", false, seen?)
}

fn not_onto_host(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "onto-host")?;
    let (inner, inner_text) = folder(subject, "onto-host-inner")?;
    let (layer, layer_text) = folder(subject, "onto-host-layer")?;
    // With more names than the volume's target, so that it comes later.
    fs::create_dir_all(layer.join("a/way"))?;
    symlink("/mnt/it/there", layer.join("a/way/to"))?;
    for below in ["there", "below"] {
        fs::create_dir(path.join(below))?;
    }
    mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let tries = || {
        let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount_at(&path.join("below"))?;
        fs::create_dir(path.join("below/there"))?;
        mount(None::<&str>, &path, None::<&str>, shared, None::<&str>)?;
        let look = || {
            let mounts = Mount::of_host()?.into_iter().map(|mount| PathBuf::from(mount.point));
            let mounts: Vec<_> = mounts.filter(|point| point.starts_with(&path)).collect();
            Ok::<_, Failure>((mounts, listing(&path, 3)))
        };
        let before = look()?;
        let volume = |options: &str| format!("{text}:/mnt/it{options}");
        let inner_at = |target: &str| format!("{inner_text}:{target}");
        let bind = format!("type=bind,src={text},dst=/mnt/it,bind-propagation=rshared");
        let refuses = [
            (["-v", &volume(":rshared"), "--tmpfs", "/mnt/it/there"], "/mnt/it/there"),
            (["-v", &volume(":ro,shared"), "-v", &inner_at("/mnt/it/there")], "/mnt/it/there"),
            (["-v", &volume(":rshared"), "-v", &inner_at("/mnt/it/new/deep")], "/mnt/it/new/deep"),
            (["-v", &volume(":rshared"), "--device", "/dev/zero:/mnt/it/new"], "/mnt/it/new"),
            (["--mount", &bind, "--mount", "type=tmpfs,target=/mnt/it/there"], "/mnt/it/there"),
            // Without the `r`, a mount below stays as it is on the host.
            (["-v", &volume(":private"), "--tmpfs", "/mnt/it/below/there"], "/mnt/it/below/there"),
            (["-v", &volume(":slave"), "--tmpfs", "/mnt/it/below/new"], "/mnt/it/below/new"),
            (["-v", &volume(":rshared"), "-v", &inner_at("/a/way/to")], "/a/way/to"),
        ];
        for user in [&[][..], subject.as_host_root()] {
            for (options, place) in &refuses {
                let arguments = [user, &["--layer", &layer_text], options, &["true"]].concat();
                refused(subject, &arguments, &[place, "shared with the host", "rslave"])?;
                expect(format!("mounts and files of the host after {options:?}"), &before, &look()?)?;
            }
            for options in ["", ":rprivate", ":rslave"] {
                let tmpfs = ["--tmpfs", "/mnt/it/there", "--tmpfs", "/mnt/it/below/there"];
                let run = subject.run(&[user, &["-v", &volume(options)], &tmpfs, &["true"]].concat())?;
                run.ok()?;
                expect(format!("mounts and files of the host after {options:?}"), &before, &look()?)?;
            }
        }
        Ok(())
    };
    let tried = tries();
    for below in ["there", "new", "below/there", "below/new", "below", "."] {
        while umount2(&path.join(below), MntFlags::MNT_DETACH).is_ok() {}
    }
    fs::remove_dir_all(inner)?;
    tried
}

fn is_mounted(mounts: &[Mount], at: &Path) -> bool {
    mounts.iter().any(|mount| Path::new(&mount.point) == at)
}

/// Whether mounts appear, in the container and on the host, is for each of these propagations as expected.
fn appears(subject: &Subject, propagations: &[&str], expected: (bool, bool)) -> Checked {
    for propagation in propagations {
        let what =
            format!("with `{propagation}`, whether a mount appears in the container, and on the host,");
        expect(what, expected, appear(subject, propagation)?)?;
    }
    Ok(())
}

fn not_shared(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "not-shared")?;
    mount_at(&path)?;
    mount(None::<&str>, &path, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
    let run = |options: &str| {
        fs::create_dir_all(path.join("below"))?;
        subject.run(&["-v", &format!("{text}/below{options}"), "true"])
    };
    let refused = ["rshared", "shared", "rslave", "slave"].map(|option| run(&format!(":/mnt/it:{option}")));
    let (private, none) = (run(":/mnt/it:rprivate"), run(":/mnt/it"));
    umount2(&path, MntFlags::MNT_DETACH)?;
    for run in refused {
        super::bad_input::error(&run?, 125, &["not shared", &text])?;
    }
    private?.ok()?;
    none?.ok().map(drop)
}

fn named(subject: &Subject) -> Checked {
    let first =
        subject.sh(&["-v", "checked:/etc"], "cat /etc/group > /dev/null && echo kept > /etc/written")?;
    first.ok()?;
    let next = subject
        .sh(&["-v", "checked:/mnt/it"], "cat /mnt/it/written; test -s /mnt/it/group && echo filled")?;
    expect("what the next run finds in it", "kept\nfilled", next.ok()?)
}

fn filled_exactly(subject: &Subject) -> Checked {
    let (layer, text) = folder(subject, "to-fill-from")?;
    let data = layer.join("data");
    for below in ["data", "data/private", "data/sticky"] {
        fs::create_dir(layer.join(below))?;
    }
    for file in ["setuid", "private/of-somebody", "linked", "a\nname \\ with \"everything\""] {
        fs::write(data.join(file), file)?;
    }
    chown(data.join("private/of-somebody"), Some(1234), Some(5678))?;
    chown(data.join("setuid"), Some(12), Some(34))?;
    for (path, mode) in [("setuid", 0o6751), ("private", 0o700), ("sticky", 0o1777), (".", 0o2750)] {
        fs::set_permissions(data.join(path), fs::Permissions::from_mode(mode))?;
    }
    fs::hard_link(data.join("linked"), data.join("sticky/other-name"))?;
    symlink("/nowhere", data.join("link"))?;
    lchown(data.join("link"), Some(99), Some(100))?;
    mkfifo(&data.join("pipe"), Mode::S_IRWXU)?;
    drop(UnixListener::bind(data.join("socket"))?);
    mknod(&data.join("device"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3))?;
    // cap_net_raw=ep, as capabilities(7), "File capabilities", has it.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(data.join("setuid"), "security.capability", &capability)?;
    xattr::set(data.join("link"), "trusted.checked", b"of the link itself")?;
    xattr::set(data.join("private"), "trusted.checked", b"\0of a folder\xff")?;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(86400);
    fs::File::open(data.join("sticky"))?.set_modified(time)?;
    let options = ["--layer", &text, "-v", "checked-exactly:/data"];
    let container = subject.hold(&[subject.as_host_root(), &options].concat())?;
    let found = tree::read(&container.first()?.path("root/data"))?;
    same("the folder of the layer and the volume", &tree::read(&data)?, &found)
}

fn keeps_holes(subject: &Subject) -> Checked {
    let (layer, text) = folder(subject, "to-fill-sparsely")?;
    fs::create_dir(layer.join("data"))?;
    let file = fs::File::create(layer.join("data/holes"))?;
    file.set_len(1 << 30)?;
    file.write_all_at(b"middle", 500_000_000)?;
    let container = subject.hold(&["--layer", &text, "-v", "/data"])?;
    let copied = fs::File::open(container.first()?.path("root/data/holes"))?;
    let mut middle = [0; 6];
    copied.read_exact_at(&mut middle, 500_000_000)?;
    expect("what stands between the holes", b"middle", &middle)?;
    takes_little(&copied.metadata()?)
}

/// Fails unless a file of a GiB takes less than a MiB of the disk.
pub(super) fn takes_little(file: &fs::Metadata) -> Checked {
    expect("the size of a file with holes", 1 << 30, file.len())?;
    ensure(file.blocks() < 2048, || {
        Failure::new("its holes take no room", format!("{} blocks of 512 bytes", file.blocks()))
    })
}

fn filled_once(subject: &Subject) -> Checked {
    let (layer, text) = folder(subject, "to-fill-once")?;
    fs::create_dir(layer.join("data"))?;
    fs::write(layer.join("data/of-the-root"), "")?;
    let run = |volume: &str, script: &str| {
        let run = subject.sh(&["--layer", &text, "-v", volume], script)?;
        run.ok().map(str::to_owned)
    };
    run("checked-once:/data", "rm /data/of-the-root; echo > /data/own")?;
    expect("what is in a volume that was filled before", "own", &*run("checked-once:/data", "ls /data")?)?;
    run("checked-empty:/data:nocopy", ":")?;
    expect("what is in one with nocopy", "", &*run("checked-empty:/data:nocopy", "ls /data")?)?;
    expect("what is in it without", "of-the-root", &*run("checked-empty:/data", "ls /data")?)?;
    let script = "ls /data; touch /data/new 2>/dev/null || echo refused";
    let read_only = run("checked-read-only:/data:ro", script)?;
    expect("what is in a new one that is read-only", "of-the-root\nrefused", &*read_only)?;
    let nameless = subject.sh(&["--layer", &text, "--mount", "type=volume,target=/data,readonly"], script)?;
    expect("and in one without a name", "of-the-root\nrefused", nameless.ok()?)
}

fn anonymous(subject: &Subject) -> Checked {
    let before = listing(&subject.home(), 4);
    let container = subject.hold(&["-v", "/etc"])?;
    container.first()?.mount_at("/etc")?;
    let filled = container.first()?.path("root/etc/group");
    ensure(filled.exists(), || Failure::new("what the root has in /etc is in the volume", "no /etc/group"))?;
    container.output()?.ok()?;
    let after = listing(&subject.home(), 4);
    let new: Vec<_> = after.difference(&before).collect();
    expect("what is new in the state folder after the run", Vec::<&PathBuf>::new(), new)
}

fn mount_option(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "by:keys,\"quoted\"")?;
    fs::write(path.join("from-host"), "outside")?;
    let (layer, layer_text) = folder(subject, "by-keys-layer")?;
    fs::create_dir(layer.join("data"))?;
    fs::write(layer.join("data/of-the-root"), "")?;
    let quoted = text.replace('"', "\"\"");
    let options = [
        "--layer",
        &layer_text,
        "--mount",
        &format!("type=bind,\"source={quoted}\",target=/mnt/one"),
        "--mount",
        &format!("TYPE=bind,\"src={quoted}\",dst=/mnt/two,readonly,bind-propagation=rslave"),
        "--mount",
        "source=checked-keys,destination=/data,volume-nocopy=true",
        "--mount",
        "type=volume,target=/mnt/anonymous,ro=false",
        "--mount",
        "type=tmpfs,target=/mnt/memory,tmpfs-size=1m,tmpfs-mode=0710",
    ];
    let script = "cat /mnt/one/from-host /mnt/two/from-host; echo; ls /data; \
                  for f in one two anonymous memory; do (echo x > /mnt/$f/x) 2>/dev/null && echo $f; done; :";
    let run = subject.sh(&options, script)?;
    expect("what it reads, and can write to", "outsideoutside\none\nanonymous\nmemory", run.ok()?)
}

fn mount_missing(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "mount-missing")?;
    let volume = format!("{text}/made:/mnt/one");
    let mount = format!("type=bind,source={text}/missing,target=/mnt/two");
    refused(subject, &["-v", &volume, "--mount", &mount, "true"], &["--mount", &format!("{text}/missing")])?;
    // Nothing of the others either.
    expect("what is in the folder of both", 0, listing(&path, 1).len())
}

fn consistency(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "consistency")?;
    fs::write(path.join("file"), "outside")?;
    for options in ["cached", "ro,delegated", "consistent,ro"] {
        let run = subject.sh(&["-v", &format!("{text}:/mnt/it:{options}")], "cat /mnt/it/file")?;
        expect(format!("what the container reads with {options}"), "outside", run.ok()?)?;
    }
    let mount = format!("type=bind,source={text},target=/mnt/it,consistency=cached");
    expect(
        "what it reads with --mount",
        "outside",
        subject.sh(&["--mount", &mount], "cat /mnt/it/file")?.ok()?,
    )
}

fn host_dev(subject: &Subject) -> Checked {
    let script = "ls -d /dev/null /dev/zero; echo gone > /dev/null; head -c 3 /dev/zero | wc -c";
    let run = subject.sh(&["-v", "/dev:/dev"], script)?;
    let words: Vec<_> = run.ok()?.split_whitespace().collect();
    expect("what the devices give", vec!["/dev/null", "/dev/zero", "3"], words)
}

/// Mode, owner and group of `/mnt/it` in the container with this option `--tmpfs`, by its own `ls`.
fn looks(subject: &Subject, tmpfs: &str) -> Result<String, Failure> {
    let script = "ls -ldn /mnt/it | { read mode x user group x; echo $mode $user $group; }";
    let run = subject.sh(&["--rootfs", subject.root()?, "--tmpfs", tmpfs], script)?;
    Ok(run.ok()?.to_owned())
}

fn tmpfs_options(subject: &Subject) -> Checked {
    let options = "/mnt/it:uid=1000,gid=7,mode=750,nr_inodes=3,noatime";
    expect("mode, owner and group", "drwxr-x--- 1000 7", &looks(subject, options)?)?;
    let container = subject.hold(&["--tmpfs", options])?;
    let mount = container.first()?.mount_at("/mnt/it")?;
    ensure(mount.has("noatime"), || Failure::new("noatime", &mount.options))?;
    // The folder itself is one of the three.
    let script = "cd /mnt/it; for f in a b c; do echo > $f; done 2>/dev/null; ls";
    let run = subject.sh(&["--tmpfs", options], script)?;
    expect("the files that fit", "a\nb", run.ok()?)
}

fn tmpfs_owner(subject: &Subject) -> Checked {
    refused(subject, &["--tmpfs", "/mnt/it:uid=4000000000", "true"], &["--tmpfs", "uid=4000000000"])
}

fn tmpfs_like_folder(subject: &Subject) -> Checked {
    let below = Path::new(subject.root()?).join("mnt/it");
    fs::create_dir_all(&below)?;
    // Step 4's containers lack the last owner. The kernel shows it as 65534 there, as it does nobody's own.
    // A copy of the layer, where no mount can be idmapped, has given the folder to nobody.
    let lacking = match subject.step() {
        0..4 => "drwxr-x--x 70000 70000",
        _ if Need::IdmappedMounts.met().is_err() => "drwxr-x--x 65534 65534",
        _ => "drwxr-x--x 0 0",
    };
    let results = [
        (0o2751, (1000, 7), "/mnt/it", "drwxr-s--x 1000 7"),
        (0o2751, (1000, 7), "/mnt/it:mode=700,uid=5", "drwx------ 5 7"),
        (0o2751, (1000, 7), "/mnt/it:gid=0", "drwxr-s--x 1000 0"),
        (0o751, (65534, 65534), "/mnt/it", "drwxr-x--x 65534 65534"),
        (0o751, (70000, 70000), "/mnt/it", lacking),
    ]
    .map(|(mode, (user, group), option, expected)| {
        chown(&below, Some(user), Some(group))?;
        fs::set_permissions(&below, fs::Permissions::from_mode(mode))?;
        let what = format!("mode, owner and group with {option} over a folder of {user}:{group}");
        expect(what, expected, &looks(subject, option)?)
    });
    fs::remove_dir(below)?;
    results.into_iter().collect()
}

fn tmpfs(subject: &Subject) -> Checked {
    let container =
        subject.hold(&["--tmpfs", "/mnt/usual", "--tmpfs", "/mnt/own:size=1m,mode=0701,exec,ro"])?;
    let [usual, own] = ["/mnt/usual", "/mnt/own"].map(|at| container.first()?.mount_at(at));
    let (usual, own) = (usual?, own?);
    expect("what is mounted at both", ["tmpfs"; 2], [usual.kind.as_str(), own.kind.as_str()])?;
    for option in ["nosuid", "nodev", "noexec", "rw"] {
        ensure(usual.has(option), || Failure::new(format!("{option} is the default"), &usual.options))?;
    }
    let there = own.has("ro") && !own.options.contains("noexec");
    ensure(there, || Failure::new("`ro`, and `noexec` lifted", &own.options))?;
    ensure(own.filesystem_options.contains("size=1024k"), || {
        Failure::new("size=1024k", &own.filesystem_options)
    })?;
    let mode = |at: &str| Ok::<_, Failure>(fs::metadata(container.first()?.path(at))?.mode() & 0o7777);
    expect("the mode asked for", 0o701, mode("root/mnt/own")?)?;
    expect("the mode by default", 0o1777, mode("root/mnt/usual")?)?;
    let script = "dd if=/dev/zero of=/mnt/it/x bs=1024 count=100 2>/dev/null; ls -l /mnt/it | { read x; \
                  read x x x x size x; echo $size; }";
    let run = subject.sh(&["--tmpfs", "/mnt/it:size=64k"], script)?;
    expect("how much fits into 64k", "65536", run.ok()?)
}
