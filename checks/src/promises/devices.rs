//! The devices in /dev: enough for programs to work, none that reaches the host. null(4), random(4), tty(4).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};

use super::bad_input::each;
use super::escape::with_link;
use super::security_files::host_users;
use crate::kernel::listing;
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        0,
        "dev.nodes",
        "/dev has null, zero, full, random, urandom and tty, open to everybody.",
        nodes,
    )
    .hint(
        "mknod(2) on a tmpfs with the numbers of the kernel's devices.txt; a umask takes permissions away.",
    ),
    Check::since(0, "dev.links", "/dev has fd, stdin, stdout, stderr and core.", links)
        .hint("Symbolic links into /proc/self/fd; core leads to /proc/kcore."),
    Check::since(
        0,
        "dev.nothing-else",
        "No other device is there: no disk, no memory, no kernel log.",
        nothing_else,
    )
    .hint("Begin with an empty tmpfs, not with the host's /dev."),
    Check::since(0, "dev.works", "The devices work.", works)
        .hint("Under a mount with MS_NODEV no process can open a device."),
    Check::since(0, "dev.host-unchanged",
        "The container changes no mode, owner or time of a device of the host.", host_unchanged)
        .hint("The bind mount shows the host's own file. Bind it read-only: every process can still read and \
               write the device itself."),
    Check::since(1, "dev.added",
        "--device gives the container a device of the host, at the path asked for, in /dev or elsewhere. Its \
         mode and owner stay the host's.", added)
        .hint("A bind mount of the host's file, opened before the host is out of sight, and read-only."),
    Check::since(1, "dev.added-folder", "--device with a folder gives all devices in it.", added_folder)
        .needs(&[Need::Root])
        .hint("Look for them on the host, and mount each one."),
    Check::since(1, "dev.added-by-link",
        "If the root has a link at the path of --device, nothing is made or mounted where it leads on the \
         host.", added_by_link)
        .not_new()
        .hint("Attach the mount when the host is out of sight, and resolve the path beneath the root."),
    Check::since(1, "bad.device",
        "A device that is not there, something else than a device, a relative path and permissions that \
         nothing would enforce are refused.", |it| {
        each(it, "--device", &["/dev/no-such", "/etc/passwd", "/dev/no-such:/dev/x"], &["a device"])?;
        each(it, "--device", &["dev/null", "", "/dev/null:/a:rwx", "/dev/null:/a:rwm:r"], &["HOST"])?;
        each(it, "--device", &["/dev/null:x", "/dev/null:/", "/dev/null:/proc/x"], &["expected"])?;
        each(it, "--device", &["/dev/null:r", "/dev/null:/dev/x:rw"], &["rwm", "device cgroup"])
    })
    .hint("Look at the device before anything is made. Without a device cgroup, nobody would enforce `r`."),
    Check::since(2, "dev.pts",
        "/dev/pts is a devpts of the container's own, and /dev/ptmx opens terminals in it.", pts)
        .hint("devpts with newinstance, for kernels before 4.7, and ptmxmode=0666; /dev/ptmx is a link to \
               pts/ptmx."),
];

const NODES: [(&str, (u64, u64)); 6] = [
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

/// What a container may have besides, for terminals: console, ptmx and the pseudo-terminals.
fn is_terminal((major, minor): (u64, u64)) -> bool {
    (major, minor) == (5, 1) || (major, minor) == (5, 2) || (136..=143).contains(&major)
}

fn nodes(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    let dev = container.first()?.path("root/dev");
    for (name, numbers) in NODES {
        let missing = |error| Failure::new(format!("/dev/{name} is there"), error);
        let metadata = fs::symlink_metadata(dev.join(name)).map_err(missing)?;
        ensure(metadata.file_type().is_char_device(), || {
            Failure::new(format!("/dev/{name} is a character device"), format!("{:?}", metadata.file_type()))
        })?;
        expect(
            format!("the number of /dev/{name}"),
            numbers,
            (major(metadata.rdev()), minor(metadata.rdev())),
        )?;
        expect(format!("the mode of /dev/{name}"), "666", &format!("{:o}", metadata.mode() & 0o777))?;
    }
    Ok(())
}

fn links(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
    ] {
        let link = fs::read_link(container.first()?.path("root/dev").join(name));
        let link = link.map_err(|error| Failure::new(format!("/dev/{name} is a symbolic link"), error))?;
        // `fd/0` would be as good.
        let link =
            std::path::Path::new("/dev").join(link).to_string_lossy().replace("/dev/fd/", "/proc/self/fd/");
        expect(format!("where /dev/{name} leads"), target, &link)?;
    }
    Ok(())
}

fn nothing_else(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    for path in listing(&container.first()?.path("root/dev"), 3) {
        let metadata = fs::symlink_metadata(&path)?;
        let numbers = (major(metadata.rdev()), minor(metadata.rdev()));
        let known = is_terminal(numbers) || NODES.iter().any(|(_, known)| *known == numbers);
        let harmless =
            !metadata.file_type().is_block_device() && (known || !metadata.file_type().is_char_device());
        ensure(harmless, || {
            Failure::new("only harmless devices", format!("{} {numbers:?}", path.display()))
        })?;
    }
    Ok(())
}

fn works(subject: &Subject) -> Checked {
    let script = "
        echo gone > /dev/null && cat /dev/null
        head -c 3 /dev/zero | od -An -tx1
        head -c 5 /dev/urandom | wc -c
        head -c 5 /dev/random | wc -c
        echo more 2> /dev/null > /dev/full || echo full
        echo written > /dev/stdout
        echo read | cat /dev/stdin
        echo complaint > /dev/stderr";
    let output = subject.sh(&[], script)?;
    let words: Vec<_> = output.ok()?.split_whitespace().collect();
    expect("what the devices give", vec!["00", "00", "00", "5", "5", "full", "written", "read"], words)?;
    expect("what went to /dev/stderr", "complaint\n", &output.stderr)
}

fn host_unchanged(subject: &Subject) -> Checked {
    let look = || -> Result<Vec<_>, Failure> {
        let of = |(name, _): &(&str, _)| {
            let it = fs::metadata(Path::new("/dev").join(name))?;
            Ok((it.mode(), it.uid(), it.gid(), it.ctime(), it.ctime_nsec()))
        };
        NODES.iter().map(of).collect()
    };
    let before = look()?;
    // What they are already, so that nothing is lost where it works; but the time of the change tells.
    let script = "cd /dev; chmod 666 null zero full random urandom tty; chown 0:0 null zero full random \
                  urandom; \
                  echo written > null && head -c 3 zero | od -An -tx1";
    let run = subject.sh(super::security_files::host_users(subject), &format!("exec 2>&1; {script}"))?;
    ensure(run.stdout.contains("00 00 00"), || Failure::new("devices that work", &run.stdout))?;
    expect("the modes, owners and times of the host's devices", before, look()?)
}

fn added(subject: &Subject) -> Checked {
    let of_host = || fs::metadata("/dev/zero").map(|it| (it.mode(), it.uid(), it.ctime(), it.ctime_nsec()));
    let before = of_host()?;
    // On a root of the checks' own, as the second one leaves an empty file in it until step 3.
    let options = [
        "--rootfs",
        subject.root()?,
        "--device",
        "/dev/zero:/dev/below/nought",
        "--device",
        "/dev/zero:/srv/nought:rwm",
        "--device",
        "/dev/full:rwm",
    ];
    // What it is already, so that nothing is lost where it works; but the time of the change tells.
    let script = "exec 2> /dev/null; \
                  for it in /dev/below/nought /srv/nought; do head -c 2 $it | od -An -tx1; done; \
                  chmod 666 /srv/nought /dev/below/nought; chown 0:0 /srv/nought; \
                  echo > /srv/nought && echo written";
    for userns in [&[], host_users(subject)] {
        let run = subject.sh(&[userns, &options].concat(), script)?;
        let words: Vec<_> = run.ok()?.split_whitespace().collect();
        expect("what the devices give", vec!["00", "00", "00", "00", "written"], words)?;
        expect("mode, owner and time of the host's device", before, of_host()?)?;
    }
    let container = subject.hold(&options)?;
    for path in ["root/dev/below/nought", "root/srv/nought"] {
        let it = fs::symlink_metadata(container.first()?.path(path))?;
        let number = it.file_type().is_char_device().then(|| (major(it.rdev()), minor(it.rdev())));
        expect(path, Some((1, 5)), number)?;
    }
    Ok(())
}

fn added_folder(subject: &Subject) -> Checked {
    let folder = subject.empty_folder("devices")?;
    fs::create_dir(folder.join("below"))?;
    fs::write(folder.join("file"), "no device")?;
    std::os::unix::fs::symlink("/dev/null", folder.join("link"))?;
    for (name, number) in [("nought", (1, 5)), ("below/full", (1, 7))] {
        let (major, minor) = number;
        mknod(&folder.join(name), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
    }
    if let Err(error) = fs::File::open(folder.join("nought")) {
        return Err(Failure::new("a temporary folder in which devices work: set TMPDIR", error));
    }
    let option = format!("{}:/dev/added", folder.display());
    let script = "cd /dev/added; find . -type f; find . -type l; find . -type c; head -c 1 nought | wc -c";
    let run = subject.sh(&["--device", &option], script)?;
    let mut lines: Vec<_> = run.ok()?.lines().collect();
    lines.sort_unstable();
    expect("what the folder has", vec!["./below/full", "./nought", "1"], lines)
}

fn added_by_link(subject: &Subject) -> Checked {
    let outside = subject.empty_folder("where-a-device-link-leads")?;
    let there = outside.join("file");
    let to = there.to_string_lossy().into_owned();
    for to in [to.clone(), format!("../../../../../../../..{to}")] {
        with_link(subject, "etc/device", &to, || {
            let options = ["--rootfs", subject.root()?, "--device", "/dev/zero:/etc/device"];
            let run = subject.sh(&options, "head -c 1 /etc/device | od -An -tx1")?;
            let harmless = run.status == 125 || run.stdout.trim() == "00";
            ensure(harmless, || Failure::new("a refusal, or the device in the root", &run.stdout))?;
            ensure(listing(&outside, 1).is_empty(), || {
                Failure::new("nothing where the link leads on the host", "a file was made there")
            })
        })?;
    }
    // A file that is really there stays as it is.
    fs::write(&there, "host's")?;
    with_link(subject, "etc/device", &to, || {
        subject.run(&["--rootfs", subject.root()?, "--device", "/dev/full:/etc/device", "true"]).map(drop)
    })?;
    expect("the host's file", "host's", &*fs::read_to_string(&there)?)
}

fn pts(subject: &Subject) -> Checked {
    let script = "ls /dev/pts; exec 3<> /dev/ptmx || exit 1; ls /dev/pts; echo ready; cat";
    let container = subject.hold_sh(&[], script)?;
    let listed = container.stdout();
    expect("what /dev/pts has before and after a terminal is opened", "ptmx\n0\nptmx\nready\n", &listed)?;
    let pts = container.first()?.path("root/dev/pts");
    expect("the filesystem at /dev/pts", "devpts", &*container.first()?.mount_at("/dev/pts")?.kind)?;
    let other = subject.hold(&[])?;
    for (whose, theirs) in
        [("the host's", "/dev/pts".into()), ("another container's", other.first()?.path("root/dev/pts"))]
    {
        // A host may have none.
        let same =
            fs::metadata(theirs).is_ok_and(|it| fs::metadata(&pts).is_ok_and(|own| own.dev() == it.dev()));
        ensure(!same, || Failure::new("an instance of its own", whose))?;
    }
    Ok(())
}
