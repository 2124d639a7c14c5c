//! Without root: the container's users on the host, the owners of its files, and the messages about what it
//! lacks.
//!
//! Man pages: user_namespaces(7), newuidmap(1), subuid(5), cgroups(7) on delegation.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::bad_input::error;
use super::sysfs;
use crate::container::Container;
use crate::image::{Archive, Entry, Layer, Layout, base, config};
use crate::kernel::Process;
use crate::needs;
use crate::user::{SUBORDINATE, User, with_subordinate_ids};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "rootless.one-user",
        "Without subordinate ids the container has one user, root: on the host it is the caller. The \
         runtime says so once.", one_user)
        .needs(&[Need::UsersOverlay])
        .hint("/proc/PID/uid_map with one id; setgroups must be denied before gid_map is written: \
               user_namespaces(7)."),
    Check::since(4, "rootless.many-users",
        "With subordinate ids root is the caller, and each other user is one of these ids.", many_users)
        .needs(&[Need::Root, Need::UsersOverlay, Need::Subordinate])
        .hint("Run newuidmap and newgidmap in a process outside of the new namespace."),
    Check::since(4, "rootless.keep-id",
        "With --userns keep-id the caller has its own id inside, too.", keep_id)
        .needs(&[Need::Root, Need::UsersOverlay, Need::Subordinate])
        .hint("Map the subordinate ids around the caller's own id; root is one of them."),
    Check::since(4, "rootless.cidfile",
        "The file of --cidfile belongs to the caller, with --userns keep-id, too.", cidfile)
        .needs(&[Need::Root, Need::UsersOverlay, Need::Subordinate])
        .hint("The runtime may have become another user by then. As root of its namespace it can give the \
               file to the caller: chown(2)."),
    Check::since(4, "rootless.not-joined",
        "Root does not share the network of a user's container, in whose user namespace that user may do \
         everything.", not_joined)
        .needs(&[Need::Root, Need::UsersOverlay])
        .hint("ioctl_ns(2), NS_GET_OWNER_UID."),
    Check::since(4, "rootless.image-owners",
        "With subordinate ids the files of an image have the owners that the image says.", image_owners)
        .needs(&[Need::Root, Need::UsersOverlay, Need::Subordinate])
        .hint("Unpack as root of a user namespace with the container's ids: chown(2) works there."),
    Check::since(4, "rootless.image-one-owner",
        "Without subordinate ids all files belong to root, with the modes that the image says. The runtime \
         says so once.",
        image_one_owner)
        .needs(&[Need::UsersOverlay])
        .hint("chown(2) to an id that is not mapped fails with EINVAL. Most images work all the same."),
    Check::since(4, "rootless.state",
        "An ordinary user's containers leave files only in that user's folders, as XDG defines them.", state)
        .needs(&[Need::UsersOverlay])
        .hint("$XDG_DATA_HOME/congo, else ~/.local/share/congo. Root of a user namespace is still that \
               user."),
    Check::since(4, "rootless.overlay",
        "The root is an overlay. If the kernel has none for ordinary users, the error names a kernel version \
         that has.", overlay)
        .hint("Linux 5.11: the option userxattr."),
    Check::since(4, "rootless.host-network",
        "With the host's network /sys shows the host's links, but none of the host's mounts below /sys.",
        host_network)
        .needs(&[Need::UsersOverlay])
        .hint("The kernel does not take the mounts of a user namespace apart: cover those below /sys."),
    Check::since(4, "rootless.shared-volume",
        "An ordinary user gets later mounts of the host with rslave. The option shared is refused, with the \
         reason.", shared_volume)
        .needs(&[Need::Root, Need::UsersOverlay])
        .hint("In a user namespace the copy of a shared mount is a slave: mount_namespaces(7)."),
    Check::since(4, "rootless.limit-refused",
        "A limit that the user sets, and that this user cannot have, is refused. The error says what helps.",
        limit_refused)
        .needs(&[Need::UsersOverlay, Need::NoDelegation])
        .hint("systemd-run --user --scope -p Delegate=yes."),
    Check::since(4, "rootless.limit-missing",
        "If the user sets no limit and can have none, the runtime says so once.", limit_missing)
        .needs(&[Need::UsersOverlay, Need::NoDelegation])
        .hint("A container without its default limits is better than none, if its user knows."),
    Check::since(4, "rootless.limit-delegated",
        "In a part of cgroup v2 that belongs to the user, limits work, and no cgroup stays.", limit_delegated)
        .needs(&[Need::Root, Need::UsersOverlay, Need::DelegableCgroup])
        .hint("Find the nearest cgroup above the runtime's own one that the user may write to, with its \
               cgroup.procs: cgroups(7), \"delegation\"."),
];

fn one_user(subject: &Subject) -> Checked {
    let user = User::new(subject, "one-user")?;
    let container = user.hold(&[])?;
    let first = container.first()?;
    let id = user.id.to_string();
    expect("the map of users", ["0", &id, "1"].join(" "), map(first, "uid_map")?)?;
    expect("setgroups", "deny", first.read("setgroups")?.trim())?;
    expect("the user on the host, four times", [&*id; 4].join("\t"), first.status("Uid")?)?;
    let own = container.runtime().namespace("user")?;
    ensure(first.namespace("user")? != own, || {
        Failure::new("a user namespace of the container's own", "the runtime's")
    })?;
    let said = container.output()?.stderr;
    ensure(said.matches("/etc/subuid").count() == 1, || Failure::new("one line about /etc/subuid", &said))?;
    let again = user.run(&["sh", "-c", "id -u; id -g"])?;
    expect("who it is inside", "0\n0", again.ok()?)?;
    expect("what the second one says", "", again.stderr.as_str())
}

/// A map in one line.
fn map(process: Process, file: &str) -> Result<String, Failure> {
    let text = process.read(file)?;
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(lines.collect::<Vec<_>>().join(", "))
}

fn many_users(subject: &Subject) -> Checked {
    let user = User::new(subject, "many-users")?;
    with_subordinate_ids(subject, || {
        let script = "echo > /tmp/of-1000; chown 1000:2000 /tmp/of-1000; echo ready; cat";
        let container = Container::start(
            user.command(&["--user", "0:0", "sh", "-c", script]).stdin(std::process::Stdio::piped()),
        )?;
        container.wait_for("ready")?;
        let first = container.first()?;
        let (start, count) = SUBORDINATE;
        for file in ["uid_map", "gid_map"] {
            expect(file, format!("0 {} 1, 1 {start} {count}", user.id), map(first, file)?)?;
        }
        expect("setgroups", "allow", first.read("setgroups")?.trim())?;
        let file = fs::metadata(first.path("root/tmp/of-1000"))?;
        expect(
            "the host's owner of a file of 1000:2000",
            (start + 999, start + 1999),
            (file.uid(), file.gid()),
        )?;
        drop(container);
        let groups = user.run(&["--user", "1000:2000", "sh", "-c", "id -u; id -g; id -G"])?;
        expect("who a user of it is", "1000\n2000\n2000", groups.ok()?)?;
        expect(
            "what is said",
            "",
            groups
                .stderr
                .replace("congo: built", "")
                .lines()
                .find(|it| it.contains("subuid"))
                .unwrap_or_default(),
        )
    })
}

fn keep_id(subject: &Subject) -> Checked {
    let user = User::new(subject, "keep-id")?;
    with_subordinate_ids(subject, || {
        // What this one has is the caller's, and must not be the other's root.
        user.run(&["true"])?.ok()?;
        let container = user.hold(&["--userns", "keep-id"])?;
        let first = container.first()?;
        let id = user.id.to_string();
        let own = map(first, "uid_map")?;
        let found = own.split(", ").find(|range| range.starts_with(&format!("{id} ")));
        expect("its own id", Some(format!("{id} {id} 1").as_str()), found)?;
        expect("the user on the host, four times", [&*id; 4].join("\t"), first.status("Uid")?)?;
        drop(container);
        let run = user.run(&["--userns", "keep-id", "sh", "-c", "id -u; stat -c %u /bin/sh /"])?;
        expect("who it is inside, and whose the root is", format!("{id}\n0\n0").as_str(), run.ok()?)
    })
}

fn cidfile(subject: &Subject) -> Checked {
    let user = User::new(subject, "cidfile-user")?;
    with_subordinate_ids(subject, || {
        for mode in ["auto", "keep-id"] {
            let path = user.folder.join(format!("pid-{mode}"));
            let container = user.hold(&["--userns", mode, "--cidfile", &path.to_string_lossy()])?;
            let with = |failure: Failure| failure.of(format_args!("with --userns {mode}"));
            let first = container.first()?.to_string();
            expect("what the file says", first, fs::read_to_string(&path)?).map_err(with)?;
            let there = fs::metadata(&path)?;
            let owner = (there.uid(), there.gid());
            expect("the file's owner and group", (user.id, user.id), owner).map_err(with)?;
        }
        Ok(())
    })
}

fn not_joined(subject: &Subject) -> Checked {
    let user = User::new(subject, "not-joined")?;
    let container = user.hold(&["--network", "none"])?;
    let network = format!("container:{}", container.first()?);
    super::bad_input::refused(
        subject,
        &["--network", &network, "true"],
        &["--network", &network, "another user's"],
    )
}

/// An image with files of several owners, one of them set-user-ID.
fn owned(subject: &Subject, name: &str) -> Result<String, Failure> {
    let layer = Archive::default()
        .folder("t")
        .entry(&Entry { name: b"t/setuid", data: b"#!", mode: 0o4755, owner: (7, 8), ..Entry::default() })
        .entry(&Entry {
            name: b"t/of-1000",
            data: b"x",
            mode: 0o640,
            owner: (1000, 1000),
            ..Entry::default()
        });
    Ok(Layout::of(subject, name, &config(json!({})), &[base()?, Layer::plain(layer)])?.name())
}

/// Mode and owners of the two.
fn owners(process: Process) -> Result<[(u32, u32, u32); 2], Failure> {
    let facts = |name: &str| -> Result<_, Failure> {
        let file = fs::metadata(process.path("root/t").join(name))?;
        Ok((file.mode() & 0o7777, file.uid(), file.gid()))
    };
    Ok([facts("setuid")?, facts("of-1000")?])
}

fn image_owners(subject: &Subject) -> Checked {
    let user = User::new(subject, "image-owners")?;
    let image = owned(subject, "owned-by-many")?;
    let start = SUBORDINATE.0 - 1;
    with_subordinate_ids(subject, || {
        let container = user.hold(&["--image", &image])?;
        let expected = [(0o4755, start + 7, start + 8), (0o640, start + 1000, start + 1000)];
        expect("modes and owners on the host", expected, owners(container.first()?)?)
    })
}

fn image_one_owner(subject: &Subject) -> Checked {
    let user = User::new(subject, "image-one-owner")?;
    let image = owned(subject, "owned-by-one")?;
    let container = user.hold(&["--image", &image])?;
    let expected = [(0o4755, user.id, user.id), (0o640, user.id, user.id)];
    expect("modes and owners on the host", expected, owners(container.first()?)?)?;
    let said = container.output()?.stderr;
    ensure(said.matches("2 owners").count() == 1, || Failure::new("a line about 2 owners", &said))?;
    expect("what the second one says", "", user.run(&["--image", &image])?.stderr.as_str())
}

fn state(subject: &Subject) -> Checked {
    let user = User::new(subject, "state")?;
    let mut command = user.command(&["true"]);
    command.env_remove("CONGO_HOME").env("HOME", &user.folder);
    for name in ["XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    let run = Container::start(&mut command)?.output()?;
    run.ok()?;
    let complaint = run.stderr.lines().find(|line| line.contains("step") || line.contains("XDG"));
    expect("what it complains of", None, complaint)?;
    let names = |folder: &str| -> Result<Vec<String>, Failure> {
        let entries = fs::read_dir(user.folder.join(folder))?.flatten();
        let mut names: Vec<_> = entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    };
    expect("what is in the home folder", vec![".local".to_owned()], names("")?)?;
    expect("what is in ~/.local/share", vec!["congo".to_owned()], names(".local/share")?)
}

fn overlay(subject: &Subject) -> Checked {
    let user = User::new(subject, "overlay")?;
    if needs::users_overlay().is_err() {
        // A message that is printed once comes with the first.
        user.run(&["true"])?;
        return error(&user.run(&["true"])?, 125, &["overlay", "5.11"]);
    }
    let container = user.hold(&[])?;
    let root = container.first()?.mount_at("/")?;
    expect("what is mounted at /", "overlay", root.kind.as_str())?;
    ensure(root.filesystem_options.contains("userxattr"), || {
        Failure::new("an overlay with userxattr", &root.filesystem_options)
    })
}

fn shared_volume(subject: &Subject) -> Checked {
    let user = User::new(subject, "shared-volume")?;
    user.run(&["true"])?.ok()?;
    let (path, text) = super::volume::folder(subject, "shared-by-host")?;
    super::volume::mount_at(&path)?;
    let tried = mount(None::<&str>, &path, None::<&str>, MsFlags::MS_SHARED, None::<&str>)
        .map_err(Failure::from)
        .and_then(|()| {
            let of = |kind: &str| format!("{text}:/mnt/it:{kind}");
            let slave = user.hold(&["-v", &of("rslave")])?;
            let tag = slave.first()?.mount_at("/mnt/it")?.propagation;
            Ok((user.run(&["-v", &of("shared"), "true"])?, tag))
        });
    umount2(&path, MntFlags::MNT_DETACH)?;
    let (refused, tag) = tried?;
    ensure(tag.starts_with("master:"), || Failure::new("a slave of the host's mount", &tag))?;
    error(&refused, 125, &["--volume", &text, "an ordinary user", "rslave"])
}

fn limit_refused(subject: &Subject) -> Checked {
    let user = User::new(subject, "limit-refused")?;
    user.run(&["true"])?.ok()?;
    // The default, too, when it is asked for.
    for limit in [["--memory", "64m"], ["--memory", "128m"], ["--pids-limit", "5"], ["--cpus", "1"]] {
        let run = user.run(&[&limit[..], &["true"]].concat())?;
        error(&run, 125, &["cgroup", "systemd-run --user --scope -p Delegate=yes"])?;
    }
    // No cgroup is needed for this one.
    let run = user.run(&["--ulimit", "nofile=99", "sh", "-c", "ulimit -n"])?;
    expect("a limit of the process alone", "99", run.ok()?)
}

fn limit_missing(subject: &Subject) -> Checked {
    let user = User::new(subject, "limit-missing")?;
    let said = user.run(&["true"])?;
    said.ok()?;
    let about = |text: &str| text.matches("have no limit of ").count();
    ensure(about(&said.stderr) == 1, || Failure::new("a line that says so", &said.stderr))?;
    ensure(said.stderr.contains("memory, cpu, pids"), || Failure::new("which there are not", &said.stderr))?;
    expect("how often the second one says it", 0, about(&user.run(&["true"])?.stderr))
}

fn limit_delegated(subject: &Subject) -> Checked {
    let user = User::new(subject, "delegated")?;
    let delegated = crate::delegation::Delegated::new(user.id)?;
    let container =
        delegated.within(|| user.hold(&["--memory", "64m", "--pids-limit", "20", "--cpus", "0.5"]))?;
    let cgroup = container.first()?.cgroup()?;
    let folder = cgroup.folder("memory")?.to_owned();
    ensure(folder.parent() == Some(delegated.folder()), || {
        Failure::new(format!("a cgroup in {}", delegated.folder().display()), folder.display())
    })?;
    expect("the limit of memory", Some(64 << 20), cgroup.limit("memory.limit_in_bytes", "memory.max")?)?;
    expect("the limit of processes", Some(20), cgroup.limit("pids.max", "pids.max")?)?;
    expect("processor time", Some(0.5), cgroup.cpus()?)?;
    container.output()?.ok()?;
    ensure(!folder.exists(), || Failure::new("the cgroup is gone", folder.display()))?;
    Ok(())
}

fn host_network(subject: &Subject) -> Checked {
    let user = User::new(subject, "host-network")?;
    let seen = user.run(&["--network", "host", "sh", "-c", sysfs::LOOK_BELOW])?;
    expect("what /sys shows beside the link lo", sysfs::NOTHING_BELOW, seen.ok()?.trim())
}
