//! The ids of the container's users on the host. user_namespaces(7), subuid(5), mount_setattr(2).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::json;
use tar::EntryType;

use super::bad_input::with_mounts;
use super::volume::folder;
use crate::container::Container;
use crate::container::LIMIT;
use crate::image::{Archive, Entry, Layer, Layout, base, config};
use crate::kernel::{Process, eventually, listing, myself};
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "userns.auto",
        "The container has 65,536 ids of the host, in a range that no user and no other container has.", auto)
        .needs(&[Need::Root])
        .hint("clone(2) with CLONE_NEWUSER; the parent writes /proc/PID/uid_map and gid_map, once, before \
               the child goes on."),
    Check::since(4, "userns.own-range",
        "Two containers have different ids, and the ids of a container are free when it has ended.",
        own_range)
        .needs(&[Need::Root, Need::IdmappedMounts])
        .hint("A file for each range, and a lock on it, which the kernel releases whatever happens: \
               flock(2)."),
    Check::since(4, "userns.no-strangers",
        "A range that has an owner on the host is given to no container.", no_strangers)
        .needs(&[Need::Root, Need::IdmappedMounts])
        .hint("Look at /etc/passwd, /etc/group, /etc/subuid and /etc/subgid first."),
    Check::since(4, "userns.host",
        "With --userns host the container has no user namespace of its own.", of_host)
        .needs(&[Need::Root])
        .hint("Leave CLONE_NEWUSER out."),
    Check::since(4, "userns.shared",
        "A container that shares another one's network is in that one's user namespace.", shared)
        .needs(&[Need::Root])
        .hint("A network belongs to a user namespace. Join that one first: setns(2)."),
    Check::since(4, "userns.new-state-folder",
        "The first container of a state folder that is not there yet runs on a root of the user's.",
        new_state_folder)
        .not_new()
        .needs(&[Need::Root])
        .hint("Make the folder before you mount it with other owners."),
    Check::since(4, "userns.not-over-others",
        "--userns host does not go with --pid of a container that has users of its own.", not_over_others)
        .not_new()
        .needs(&[Need::Root])
        .hint("Root of the host's users could change the file that such a container's runtime executes."),
    Check::since(4, "userns.closed-layers",
        "While a container runs, its runtime has no folder open with the files of other containers.",
        closed_layers)
        .not_new()
        .needs(&[Need::Root])
        .hint("An idmapped mount of them is theirs who have the container's ids: close it when the overlay \
               is made."),
    Check::since(4, "userns.given", "--uidmap and --gidmap, repeated, are the container's maps.", given)
        .needs(&[Need::Root])
        .hint("Write all ranges at once: the kernel takes no second write."),
    Check::since(4, "userns.subordinate",
        "With --subuidname the container's ids are those of /etc/subuid and /etc/subgid.", subordinate)
        .needs(&[Need::Root])
        .hint("Take each line USER:FIRST:COUNT of the user, one after the other, from the container's 0 on."),
    Check::since(4, "userns.root-files",
        "The container sees the files of its root with their owners, and new files have its own ids on the \
         disk.",
        root_files)
        .not_new()
        .needs(&[Need::Root, Need::IdmappedMounts])
        .hint("Idmapped mounts of the layers, mount_setattr(2): without them all files belong to nobody."),
    Check::since(4, "userns.image-files",
        "The container sees files of an image with the image's owners.", image_files)
        .not_new()
        .needs(&[Need::Root])
        .hint("As with any other layer."),
    Check::since(4, "userns.volume",
        "In a volume, files of the host's users belong to nobody, and new files have the host's ids of the \
         container's range.",
        volume)
        .needs(&[Need::Root])
        .hint("A plain volume keeps the host's owners: use no idmapped mount."),
];

/// The host ids that Congo gives away.
const CONGOS: std::ops::Range<u32> = 0x7000_0000..0x7FFE_0000;

/// The lines of `/proc/PID/uid_map` or `gid_map`: the first id inside, the first one on the host, how many.
pub(super) fn map_of(process: Process, file: &str) -> Result<Vec<(u32, u32, u32)>, Failure> {
    let text = process.read(file)?;
    let numbers = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    Ok(text.lines().filter_map(numbers).collect())
}

/// The host's id of the container's root.
pub(super) fn first_id(container: &Container) -> Result<u32, Failure> {
    let map = map_of(container.first()?, "uid_map")?;
    map.first().map(|&(_, host, _)| host).ok_or_else(|| Failure::new("a map of users", "none"))
}

/// A real, an effective, a saved and a file system's id.
fn all_four(id: u32) -> String {
    [id; 4].map(|id| id.to_string()).join("\t")
}

fn auto(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    let first = container.first()?;
    let host = first_id(&container)?;
    ensure(CONGOS.contains(&host) && CONGOS.contains(&(host + 65535)), || {
        Failure::new(format!("65,536 ids of {CONGOS:?}"), host)
    })?;
    for (file, field) in [("uid_map", "Uid"), ("gid_map", "Gid")] {
        expect(file, vec![(0, host, 65536)], map_of(first, file)?)?;
        expect(format!("{field} on the host"), all_four(host), first.status(field)?)?;
    }
    expect("its supplementary groups", "", first.status("Groups")?.as_str())
}

fn own_range(subject: &Subject) -> Checked {
    let (one, other) = (subject.hold(&[])?, subject.hold(&[])?);
    let (lower, upper) = (first_id(&one)?, first_id(&other)?);
    ensure(lower.abs_diff(upper) >= 65536, || {
        Failure::new("ranges that do not overlap", format!("{lower} and {upper}"))
    })?;
    one.output()?.ok()?;
    let next = subject.hold(&[])?;
    expect("the range of a third one, when the first has ended", lower, first_id(&next)?)?;
    // A runtime that is killed cannot give anything back.
    next.signal(nix::sys::signal::Signal::SIGKILL)?;
    let gone = eventually(LIMIT, || !next.runtime().is_alive());
    ensure(gone, || Failure::new("the runtime ends by SIGKILL", "it still runs"))?;
    drop(next);
    expect("the range after a runtime was killed", lower, first_id(&subject.hold(&[])?)?)?;
    other.output()?.ok()?;
    let left = listing(&subject.home().join("run/ids"), 1);
    expect("what is left of ranges that were given back", 0, left.len())
}

/// A host on which these files of `/etc` have these lines more.
fn on_host_with(
    subject: &Subject,
    name: &str,
    files: &[(&str, String)],
) -> Result<Vec<(String, String)>, Failure> {
    let (path, _) = folder(subject, name)?;
    let mut mounts = Vec::new();
    for (file, more) in files {
        // Where a machine has none, there is nothing over which another can be mounted.
        let text =
            fs::read_to_string(file).map_err(|error| Failure::new(format!("{file} can be read"), error))?;
        let copy = path.join(file.trim_start_matches('/').replace('/', "-"));
        fs::write(&copy, format!("{text}\n{more}\n"))?;
        mounts.push((copy.display().to_string(), (*file).to_owned()));
    }
    Ok(mounts)
}

fn bind(mounts: &[(String, String)]) -> Checked {
    for (from, to) in mounts {
        mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(())
}

fn no_strangers(subject: &Subject) -> Checked {
    let taken = 0x7000_0000 + 17;
    let mounts =
        on_host_with(subject, "strangers", &[("/etc/passwd", format!("stranger:x:{taken}:0::/:/bin/sh"))])?;
    let mut command = subject.command(&["cat", "/proc/self/uid_map"]);
    let output = with_mounts(&mut command, || bind(&mounts))?;
    let map = output.ok()?.split_whitespace().collect::<Vec<_>>().join(" ");
    expect("the map", "0 1879113728 65536", map.as_str())
}

fn of_host(subject: &Subject) -> Checked {
    let container = subject.hold(&["--userns", "host"])?;
    let first = container.first()?;
    expect("its user namespace", myself().namespace("user")?, first.namespace("user")?)?;
    expect("Uid", all_four(0), first.status("Uid")?)
}

fn shared(subject: &Subject) -> Checked {
    let one = subject.hold(&["--network", "none"])?;
    let first = one.first()?;
    let other = subject.hold(&["--network", &format!("container:{first}")])?;
    let (its, theirs) = (other.first()?.namespace("user")?, first.namespace("user")?);
    expect("the user namespace of the second container", &theirs, &its)?;
    ensure(its != myself().namespace("user")?, || Failure::new("a user namespace of its own", "the host's"))
}

fn new_state_folder(subject: &Subject) -> Checked {
    let home = subject.empty_folder("to-be-made")?.join("home");
    let root = subject.root()?.to_owned();
    let options: &[&str] = if subject.step() == 0 { &[] } else { &["--rootfs", &root] };
    let mut command = subject.command(&[options, &["true"]].concat());
    let output = Container::start(command.env("CONGO_HOME", &home))?.output()?;
    output.ok().map(drop)
}

fn not_over_others(subject: &Subject) -> Checked {
    let one = subject.hold(&[])?;
    let option = format!("container:{}", one.first()?);
    let run = subject.run(&["--userns", "host", "--pid", &option, "true"])?;
    ensure(run.status == 125 && run.stderr.contains("--userns host"), || {
        Failure::new("it is refused with 125 and an error that names --userns host", format!("{run:?}"))
    })
}

fn closed_layers(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    for process in [container.runtime(), container.first()?] {
        for descriptor in fs::read_dir(format!("/proc/{process}/fd"))? {
            let folder = descriptor?.path().join("containers");
            ensure(folder.symlink_metadata().is_err(), || {
                Failure::new("no descriptor leads to the state folder", folder.display())
            })?;
        }
    }
    Ok(())
}

fn given(subject: &Subject) -> Checked {
    let options = ["--uidmap", "0:500000:1000", "--uidmap", "1000:700000:10"];
    let container = subject.hold(&options)?;
    let expected = vec![(0, 500_000, 1000), (1000, 700_000, 10)];
    for file in ["uid_map", "gid_map"] {
        expect(format!("{file} of {options:?}"), &expected, &map_of(container.first()?, file)?)?;
    }
    let options = ["--uidmap", "0:500000:1000", "--gidmap", "0:600000:2000", "--gidmap", "5000:1:1"];
    let container = subject.hold(&options)?;
    let first = container.first()?;
    expect("uid_map", vec![(0, 500_000, 1000)], map_of(first, "uid_map")?)?;
    expect("gid_map", vec![(0, 600_000, 2000), (5000, 1, 1)], map_of(first, "gid_map")?)?;
    expect("Uid on the host", all_four(500_000), first.status("Uid")?)?;
    expect("Gid on the host", all_four(600_000), first.status("Gid")?)
}

fn subordinate(subject: &Subject) -> Checked {
    let users = "other:1:1\nlender:300000:1000\nlender:500000:65536".to_owned();
    let groups = "lender:400000:70000".to_owned();
    let mounts = on_host_with(subject, "subordinate", &[("/etc/subuid", users), ("/etc/subgid", groups)])?;
    let arguments = ["--subuidname", "lender", "cat", "/proc/self/uid_map", "/proc/self/gid_map"];
    let output = with_mounts(&mut subject.command(&arguments), || bind(&mounts))?;
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let maps: Vec<_> = output.ok()?.lines().map(words).collect();
    expect(
        "the maps",
        vec!["0 300000 1000", "1000 500000 65536", "0 400000 70000"],
        maps.iter().map(String::as_str).collect(),
    )
}

/// What `stat` inside says about the owners of these files.
fn owners(subject: &Subject, options: &[&str], files: &[&str]) -> Result<Vec<String>, Failure> {
    let output = subject.run(&[options, &["stat", "-c", "%u:%g"], files].concat())?;
    Ok(output.ok()?.lines().map(str::to_owned).collect())
}

fn root_files(subject: &Subject) -> Checked {
    expect(
        "whose the default root is",
        vec!["0:0"; 2],
        owners(subject, &[], &["/", "/bin"])?.iter().map(String::as_str).collect(),
    )?;
    let root = Path::new(subject.root()?);
    let file = root.join("of-another");
    fs::write(&file, "")?;
    chown(&file, Some(1234), Some(4321))?;
    let options = ["--rootfs", subject.root()?, "--keep", "checked-owners"];
    let script = "stat -c %u:%g /of-another /etc; echo > /made; echo > /made-for; chown 55:66 /made-for; \
                  chown 7:8 /of-another";
    let output = subject.sh(&options, script)?;
    fs::remove_file(&file)?;
    expect("the owners inside", vec!["1234:4321", "0:0"], output.ok()?.lines().collect())?;
    // A kept layer is where its name is, whatever lies in between.
    let kept = listing(&subject.home().join("kept"), 4);
    for (name, owner) in [("made", (0, 0)), ("made-for", (55, 66)), ("of-another", (7, 8))] {
        let path = kept.iter().find(|path| path.ends_with(name));
        let path = path.ok_or_else(|| Failure::new(format!("{name} in the kept layer"), "none"))?;
        let metadata = fs::metadata(path)?;
        expect(format!("the owner of {name} on the disk"), owner, (metadata.uid(), metadata.gid()))?;
    }
    Ok(())
}

fn image_files(subject: &Subject) -> Checked {
    let entry =
        |name: &'static str, owner| Entry { name: name.as_bytes(), data: b"x", owner, ..Entry::default() };
    let layer = Archive::default()
        .entry(&Entry { kind: EntryType::Directory, mode: 0o700, data: b"", ..entry("t", (1000, 1000)) })
        .entry(&entry("t/of-root", (0, 0)))
        .entry(&entry("t/of-a-user", (1000, 50)))
        .entry(&entry("t/of-the-last", (65535, 65535)));
    let image = Layout::of(subject, "owners", &config(json!({})), &[base()?, Layer::plain(layer)])?.name();
    let container = subject.hold(&["--image", &image])?;
    let host = first_id(&container)?;
    let root = container.first()?.path("root/t");
    for (name, (user, group)) in
        [("", (1000, 1000)), ("of-root", (0, 0)), ("of-a-user", (1000, 50)), ("of-the-last", (65535, 65535))]
    {
        // Seen from the host, through the container's mount, they are the ids that it has there.
        let metadata = fs::symlink_metadata(root.join(name))?;
        let found = (metadata.uid().wrapping_sub(host), metadata.gid().wrapping_sub(host));
        expect(format!("the owner of /t/{name} inside"), (user, group), found)?;
    }
    Ok(())
}

fn volume(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "owners-of-a-volume")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    fs::write(path.join("of-the-hosts-root"), "")?;
    let volume = format!("{text}:/mnt/it");
    let script = "stat -c %u:%g /mnt/it/of-the-hosts-root; echo > /mnt/it/made; cat /proc/self/uid_map";
    let output = subject.sh(&["-v", &volume], script)?;
    let mut words = output.ok()?.split_whitespace();
    expect("whose a file of the host's root is inside", Some("65534:65534"), words.next())?;
    let host: u32 = words.nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    ensure(CONGOS.contains(&host), || Failure::new("an id of Congo's range", host))?;
    let metadata = fs::metadata(path.join("made"))?;
    expect("whose the file is that it made", (host, host), (metadata.uid(), metadata.gid()))
}
