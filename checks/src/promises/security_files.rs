//! Attacks by which files of the host were read or written from within containers of other runtimes. Each is
//! tried as its inventors did, and does no harm where it succeeds. proc_pid_exe(5), open_by_handle_at(2),
//! cgroups(7).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::mkfifo;

use super::volume::folder;
use super::volume_target::raced;
use crate::container::{Container, LIMIT, Output};
use crate::inside::{self, files};
use crate::kernel::{Mount, eventually, identity};
use crate::needs::Need;
use crate::subject::FIRST_LIMIT;
use crate::tree;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "cve.2019-5736",
        "The container's root cannot change the runtime's own file, neither by /proc/1/exe nor by a command \
         that begins with `#!/proc/self/exe`.", own_program)
        .hint("Execute yourself anew, at the beginning, from a read-only mount that is attached nowhere, or \
               from a sealed memfd_create(2)."),
    Check::since(4, "cve.2019-5736-options",
        "Options by which the container's root may be the owner of the runtime's file have the runtime \
         execute a file that nobody can change.", by_options)
        .needs(&[Need::Root])
        .hint("--userns host, --uidmap, and --network, --ipc or --pid of a container with such ids."),
    Check::since(4, "cve.2019-5736-file",
        "A file of the runtime's to which ids of the container have a right has the runtime execute a file \
         that nobody can change.", by_file)
        .needs(&[Need::Root])
        .hint("Its owner, its group, the rights of all others, and an access list: acl(5)."),
    Check::since(4, "cve.2019-5736-rootless",
        "The container of an ordinary user cannot change it either, though that user owns the file.",
        own_program_rootless)
        .needs(&[Need::Rootless])
        .hint("A mount can be made read-only in a user namespace, be sent through a socket, and outlive the \
               namespace."),
    Check::since(3, "cve.2024-21626",
        "A link in the root does not lead the working directory, nor an interpreter, to the host through a \
         descriptor of the runtime.", by_descriptor)
        .hint("/proc/self/fd/7 is a path: close all descriptors before you use the container's paths."),
    Check::since(3, "cve.2024-45310",
        "A process that shares a volume, and swaps a folder in it with a link, cannot have a file made on \
         the host.", made_on_host)
        .hint("Make missing folders in the same way as you look up the rest: from descriptor to descriptor, \
               with the host out of sight."),
    Check::since(4, "cve.2022-0492",
        "The container mounts no cgroup filesystem, and finds no release_agent that it could write to, as \
         root or in a user namespace of its own.", release_agent)
        .hint("mount(2) takes CAP_SYS_ADMIN; and the seccomp filter refuses unshare(2) without that \
               capability."),
    Check::since(2, "cve.2023-25809",
        "With the host's network, too, each mount of sysfs and of cgroups is read-only.", writable_cgroup)
        .hint("Mounts below /sys do not become read-only with /sys: mount_setattr(2) with AT_RECURSIVE."),
    Check::since(4, "cve.shocker",
        "A file handle opens no file of the host, even on a filesystem of which the container has a part.",
        by_handle)
        .hint("With CAP_DAC_READ_SEARCH, open_by_handle_at(2) ignores every root: drop it, and leave the \
               call out of the seccomp profile."),
    Check::since(3, "cve.overlay-options",
        "A layer's name cannot add options to the overlay.", overlay_options)
        .hint("`:` and `,` mean something in the options of an overlay: name the layers as /proc/self/fd/N."),
];

/// So that it is root of the host who attacks, with the rights that a container has.
pub(super) fn host_users(subject: &Subject) -> &'static [&'static str] {
    if subject.step() < 4 || !nix::unistd::geteuid().is_root() { &[] } else { &["--userns", "host"] }
}

/// The first of the host's ids that containers get.
const CONGOS: u32 = 0x7000_0000;

/// An ordinary user.
const NOBODY: u32 = 65534;

/// The runtime of an ordinary user that owns its file, and a state folder.
fn as_nobody(subject: &Subject, arguments: &[&str]) -> Result<(PathBuf, Command), Failure> {
    let home = subject.file("of-nobody");
    let binary = home.join("runtime");
    if !home.exists() {
        fs::create_dir(&home)?;
        fs::copy(subject.binary(), &binary)?;
        chown(&home, Some(NOBODY), Some(NOBODY))?;
        chown(&binary, Some(NOBODY), Some(NOBODY))?;
    }
    let mut command = Command::new(&binary);
    command.args(arguments).envs(subject.environment()).env("CONGO_HOME", &home).env("TMPDIR", &home);
    // Without supplementary groups: that is what the standard library does for root.
    command.uid(NOBODY).gid(NOBODY).stdin(std::process::Stdio::piped());
    Ok((binary, command))
}

/// Judges what an attack on a file has printed. That a file is being executed keeps nobody from it for long.
fn judge(file: &Path, before: &fs::Metadata, printed: &str) -> Checked {
    let expected = format!("{} cannot be written, nor its mode be set", file.display());
    let failure = || Failure::new(&expected, printed);
    let word = |name: &str| printed.split_whitespace().find_map(|word| word.strip_prefix(name));
    let (Some(found), write, chmod) = (word("file="), word("write="), word("chmod=")) else {
        return Err(Failure::new("the attack is tried", printed));
    };
    // A copy may be changed. Of the file itself ETXTBSY says that it is in use just now, and that alone keeps
    // nobody out.
    if found == format!("{}:{}", before.dev(), before.ino()) {
        ensure(chmod == Some("EROFS") || !matches!(write, None | Some("done" | "ETXTBSY")), failure)?;
        ensure(write != Some("done") && !matches!(chmod, None | Some("done")), failure)?;
    }
    let changed = |it: &fs::Metadata| (it.ctime(), it.ctime_nsec(), it.size());
    ensure(changed(before) == changed(&fs::metadata(file)?), failure)
}

fn own_program(subject: &Subject) -> Checked {
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let before = fs::metadata(subject.binary())?;
    let layer = executes_runtime(subject)?;
    for users in [host_users(subject), &[]] {
        let options = [users, &["--rootfs", root]].concat();
        // The init is the runtime, which has become no other program.
        let attack = ["--init", &program, inside::ASKED, files::OVERWRITE, "/proc/1/exe"];
        let run = subject.run(&[&options[..], &attack].concat())?;
        judge(subject.binary(), &before, run.ok()?)?;
        as_interpreter(
            subject.binary(),
            subject.command(&[&options[..], &["--layer", &layer, "/attack"]].concat()),
        )?;
    }
    Ok(())
}

/// Looks from outside at the file that a waiting runtime executes: one on a read-only mount, or a copy. `how`
/// says for what reason it must be that.
fn is_protected(container: &Container, binary: &Path, how: &str) -> Checked {
    let exe = container.runtime().path("exe");
    let is_copy = identity(&exe)? != identity(binary)?;
    let is_read_only = statvfs(&exe).is_ok_and(|it| it.flags().contains(FsFlags::ST_RDONLY));
    ensure(is_copy || is_read_only, || {
        let expected = format!("{how}: the runtime executes a read-only mount of its file, or a copy");
        Failure::new(expected, "the file itself, on a mount that can be written to")
    })
}

fn by_options(subject: &Subject) -> Checked {
    let owner = &["--uidmap", "0:0:65536"][..];
    let sharing = subject.hold(owner)?;
    let shared = format!("container:{}", sharing.first()?.0);
    for options in [owner, &["--userns", "host"], &["--network", &shared], &["--ipc", &shared]] {
        is_protected(&subject.hold(options)?, subject.binary(), &options.join(" "))?;
    }
    Ok(())
}

/// Gives somebody a right to a file.
type Give<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;

fn by_file(subject: &Subject) -> Checked {
    // As an access list of version 2: the owner, that user, the group, the mask, all others.
    let entry = |tag: u16, rights: u16, id: u32| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let list =
        [entry(1, 7, none), entry(2, 7, CONGOS), entry(4, 5, none), entry(16, 7, none), entry(32, 5, none)];
    let list = [2_u32.to_le_bytes().to_vec(), list.concat()].concat();
    let ways: [(&str, Give<'_>); 4] = [
        ("the container's root may own it", &|file| chown(file, Some(CONGOS), None)),
        ("its group may write, which may be the container's", &|file| {
            chown(file, None, Some(CONGOS))?;
            fs::set_permissions(file, fs::Permissions::from_mode(0o775))
        }),
        ("everybody may write", &|file| fs::set_permissions(file, fs::Permissions::from_mode(0o757))),
        ("its access list names a user of the container", &|file| {
            match xattr::set(file, "system.posix_acl_access", &list) {
                // No such lists on this file system.
                Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                    fs::set_permissions(file, fs::Permissions::from_mode(0o757))
                }
                set => set,
            }
        }),
    ];
    let (folder, _) = folder(subject, "runtimes")?;
    for (number, (how, give)) in ways.into_iter().enumerate() {
        let binary = folder.join(number.to_string());
        fs::copy(subject.binary(), &binary)?;
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
        give(&binary)?;
        let mut command = Command::new(&binary);
        command.arg("cat").envs(subject.environment()).stdin(std::process::Stdio::piped());
        let mut container = Container::start(&mut command)?;
        container.say("ready")?;
        container.wait_for("ready")?;
        is_protected(&container, &binary, how)?;
    }
    Ok(())
}

fn own_program_rootless(subject: &Subject) -> Checked {
    let (_, mut command) = as_nobody(subject, &["true"])?;
    Container::start(&mut command)?.output_within(FIRST_LIMIT)?.ok()?;
    let layer = executes_runtime(subject)?;
    // The root of an overlay has the owner of its uppermost layer.
    chown(Path::new(&layer), Some(NOBODY), Some(NOBODY))?;
    let (binary, command) = as_nobody(subject, &["--layer", &layer, "/attack"])?;
    as_interpreter(&binary, command)
}

/// A layer with a command that has the runtime executed in the container, and a file for which its dynamic
/// loader waits.
fn executes_runtime(subject: &Subject) -> Result<String, Failure> {
    let (layer, text) = folder(subject, "executes-the-runtime")?;
    // With the loader, if the root has none.
    inside::install(&layer)?;
    fs::create_dir(layer.join("etc"))?;
    mkfifo(&layer.join("etc/ld.so.preload"), Mode::from_bits_truncate(0o644))?;
    fs::write(layer.join("attack"), "#!/proc/self/exe\n")?;
    fs::set_permissions(layer.join("attack"), fs::Permissions::from_mode(0o755))?;
    Ok(text)
}

fn as_interpreter(binary: &Path, mut command: Command) -> Checked {
    let before = fs::metadata(binary)?;
    let container = Container::start(&mut command)?;
    let mut found = None;
    let ended = || container.runtime().is_zombie();
    eventually(LIMIT, || {
        found = container.first().ok().filter(|it| it.command_line().starts_with("/proc/self/exe"));
        found.is_some() || ended()
    });
    let Some(first) = found else {
        // A program that is linked statically has no loader that waits: it was executed, and is gone.
        let head = fs::read(binary)?.into_iter().take(8192).collect::<Vec<_>>();
        let is_static = !head.windows(4).any(|bytes| bytes == b"/ld-");
        return ensure(is_static, || {
            let end = container
                .output()
                .map_or("it still runs".into(), |end| format!("{}: {}", end.ending(), end.stderr));
            Failure::new(
                "the runtime is executed by a command with `#!/proc/self/exe`, and its loader waits",
                end,
            )
        });
    };
    let attack = Command::new("/proc/self/exe")
        .args([inside::ASKED, files::OVERWRITE, "/proc/1/exe", &first.to_string()])
        .output()?;
    judge(binary, &before, &String::from_utf8_lossy(&attack.stdout))
}

fn by_descriptor(subject: &Subject) -> Checked {
    let secret = subject.write("to-be-read", "of the host")?;
    let (host, _) = folder(subject, "shell-of-the-host")?;
    fs::copy(Path::new(subject.root()?).join("bin/sh"), host.join("sh"))?;
    let (layer, text) = folder(subject, "layer-to-descriptors")?;
    let (link, script) = (layer.join("link"), layer.join("script"));
    let up = "../".repeat(16);
    let read = format!("cat {up}{} 2>/dev/null; :", secret.trim_start_matches('/'));
    for descriptor in super::escape::DESCRIPTORS {
        let _ = fs::remove_file(&link);
        symlink(format!("/proc/self/fd/{descriptor}"), &link)?;
        let run = subject.sh(&["--layer", &text, "--workdir", "/link"], &read)?;
        expect(
            format!("what is read in a working directory that is descriptor {descriptor}"),
            "",
            &run.stdout,
        )?;
        let interpreter = format!("#!/link/{up}{}\necho executed\n", host.join("sh").display());
        fs::write(&script, interpreter)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let run = subject.run(&["--layer", &text, "/script"])?;
        expect(format!("what a script's interpreter by descriptor {descriptor} says"), "", &run.stdout)?;
    }
    // Not because links lead nowhere.
    fs::remove_file(&link)?;
    symlink("/proc/self", &link)?;
    let run = subject.sh(&["--layer", &text, "--workdir", "/link"], "read name _ < stat && echo looked")?;
    expect("what is read by a link to /proc/self", "looked", run.ok()?)
}

fn made_on_host(subject: &Subject) -> Checked {
    let file = subject.write("mounted-in-shared-file", "")?;
    raced(subject, &file, "new/file")
}

fn release_agent(subject: &Subject) -> Checked {
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    // Capabilities and the filter alone must do, without the user namespace and with it.
    for userns in [host_users(subject), &[]] {
        let options = [userns, &["--rootfs", root, &program, inside::ASKED, files::CGROUPS]].concat();
        let run = subject.run(&options)?;
        let found = run.ok()?;
        let tried = found.contains("root-mount=") && found.contains("unshare=");
        ensure(tried && !found.contains("=done"), || {
            Failure::new("no cgroup filesystem is mounted, and no user namespace made", found)
        })?;
    }
    Ok(())
}

fn writable_cgroup(subject: &Subject) -> Checked {
    let networks: [&[&str]; 3] = [&[], &["--network", "host"], &["--network", "host", "--ipc", "host"]];
    for network in networks {
        let container = subject.hold(&[host_users(subject), network].concat())?;
        let of_kernel = |mount: &Mount| mount.kind == "sysfs" || mount.kind.starts_with("cgroup");
        let mounts: Vec<_> = container.first()?.mounts()?.into_iter().filter(of_kernel).collect();
        ensure(mounts.iter().any(|mount| mount.kind == "sysfs"), || Failure::new("a sysfs", "none"))?;
        for mount in mounts {
            let read_only = mount.has("ro");
            ensure(read_only, || {
                Failure::new(
                    format!("with {network:?}, {} at {} is ro", mount.kind, mount.point),
                    mount.options,
                )
            })?;
        }
    }
    Ok(())
}

fn by_handle(subject: &Subject) -> Checked {
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let secret = subject.write("to-be-read-by-handle", "of-the-host")?;
    let (_, part) = folder(subject, "a-part-of-the-host")?;
    let handle = files::handle_of(Path::new(&secret))?;
    let volume = format!("{part}:/mnt/part");
    let attack = [&program, inside::ASKED, files::HANDLE, "/mnt/part", &handle];
    for userns in [host_users(subject), &[]] {
        let run = subject.run(&[userns, &["--rootfs", root, "-v", &volume], &attack].concat())?;
        let found = run.ok()?.to_owned();
        expect("what is read of the host by a handle", "read=EPERM", found.as_str())?;
    }
    Ok(())
}

/// What each of the folders has.
fn listed(folders: &[PathBuf]) -> Result<Vec<tree::Tree>, Failure> {
    Ok(folders.iter().map(|folder| tree::read(folder)).collect::<std::io::Result<_>>()?)
}

fn overlay_options(subject: &Subject) -> Checked {
    let (base, base_text) = folder(subject, "options")?;
    let victims = ["victim", "victim-upper", "victim-work"].map(|name| base.join(name));
    for victim in &victims {
        fs::create_dir(victim)?;
        fs::write(victim.join("of-the-host"), "kept")?;
    }
    fs::create_dir(base.join("it"))?;
    let before = listed(&victims)?;
    // As far as a single name can hold them. If the kernel read the name as options, the rest would be
    // another layer, another place to write to, and a flag.
    let names = [
        "it:victim",
        "it,upperdir=victim-upper,workdir=victim-work",
        "it\\,metacopy=on",
        "it,lowerdir=victim",
    ];
    for name in names {
        let layer = base.join(name);
        fs::create_dir(&layer)?;
        fs::write(layer.join("of-the-layer"), "read")?;
        let text = format!("{base_text}/{name}");
        let mut command = subject.command(&[
            "--layer",
            &text,
            "sh",
            "-c",
            "cat /of-the-layer; test -e /of-the-host && echo victim; echo x > /written; rm -f /of-the-host; \
             :",
        ]);
        // Relative paths among the options would begin here.
        let run: Output = Container::start(command.current_dir(&base))?.output()?;
        expect(format!("what a container with the layer {name:?} reads"), "read", run.ok()?)?;
        let after = listed(&victims)?;
        let found: Vec<_> =
            before.iter().zip(&after).flat_map(|(one, other)| tree::differences(one, other)).collect();
        ensure(found.is_empty(), || {
            Failure::new(
                format!("with the layer {name:?} the folders beside it stay as they are"),
                "they changed",
            )
        })?;
    }
    Ok(())
}
