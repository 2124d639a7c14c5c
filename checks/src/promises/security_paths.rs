//! Attacks by what an image or a volume has in the place of /proc, /sys and /dev; and what is hidden there.
//! path_resolution(7), proc(5), pty(7).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;

use super::escape::with_link;
use super::security_files::host_users;
use super::volume::folder;
use crate::container::{Container, Output};
use crate::kernel::Mount;
use crate::needs::Need;
use crate::terminal::Terminal;
use crate::{Check, Checked, Failure, Subject, ensure, expect, inside, tree};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(1, "cve.2019-19921",
        "If /proc of the root is a link, no procfs is mounted at its target.", proc_link)
        .hint("mkdir(2) does not follow a link at the end of its path, but mount(2) does. A /proc that the \
               image has made may fake its files (CVE-2023-27561)."),
    Check::since(1, "cve.2026-41579",
        "If /dev of the root is a link to a folder of the host, the runtime makes and removes nothing there.",
        dev_link)
        .hint("Touch /dev when the host is out of sight, and refuse a link (CVE-2026-47766 in crun)."),
    Check::since(4, "cve.2025-31133",
        "If a volume replaces /dev/null, hidden files still stay hidden.", null_link)
        .hint("Open /dev/null, check that it is device 1:3, and mount it by descriptor."),
    Check::since(2, "cve.2025-52565",
        "Links in the place of /dev/console, /dev/pts and /dev/ptmx do not redirect the container's \
         terminal.", console_link)
        .hint("Use a fresh /dev without files of the image, and open the terminal by TIOCGPTPEER, without \
               its name."),
    Check::since(3, "cve.2025-52881",
        "The runtime's writes to /proc do not go to files of the root, and nothing is mounted over files of \
         /proc.", fake_proc)
        .hint("Check the type of the filesystem before you write to /proc or mount by /proc/self/fd: \
               fstatfs(2)."),
    Check::since(4, "cve.masked-paths", "All paths that Docker hides in /proc and /sys are hidden.", masked)
        .hint("A read-only tmpfs over a folder, /dev/null over a file; after the volumes."),
    Check::since(4, "cve.read-only-paths",
        "All paths that Docker makes read-only in /proc cannot be written, even by the host's root.",
        read_only)
        .hint("A bind mount onto itself, then MS_REMOUNT|MS_BIND|MS_RDONLY."),
    Check::since(4, "cve.masks-or-nothing",
        "Where it cannot be told whether a path is there that is to be hidden, or made read-only, no command \
         runs.", masks_or_nothing)
        .needs(&[Need::Root, Need::Program("strace")])
        .hint("Only ENOENT means that nothing is there. After any other error of stat(2), or of reading a \
               folder, the file may lie open."),
];

/// What the container sees mounted at this place, of this kind; refused is as good.
fn mounted_or_refused(run: &Output, kind: &str, at: &str) -> Checked {
    if run.status == 125 {
        return ensure(run.stderr.contains(at), || {
            Failure::new(format!("an error that names {at}"), &run.stderr)
        });
    }
    let is_it = |line: &str| line.split(' ').nth(4) == Some(at) && line.contains(&format!(" - {kind} "));
    ensure(run.ok()?.lines().any(is_it), || {
        Failure::new(format!("a refusal, or a {kind} at {at} itself"), &run.stdout)
    })
}

fn proc_link(subject: &Subject) -> Checked {
    let fake = Path::new(subject.root()?).join("fake-proc");
    let _ = fs::remove_dir_all(&fake);
    fs::create_dir_all(fake.join("self/attr"))?;
    fs::write(fake.join("self/attr/exec"), "")?;
    let before = tree::read(&fake)?;
    for to in ["/fake-proc", "fake-proc", "../../fake-proc"] {
        for userns in [host_users(subject), &[]] {
            with_link(subject, "proc", to, || {
                let options = [userns, &["--rootfs", subject.root()?]].concat();
                // Where /proc is a link, the mount is seen at the place where it leads.
                let run =
                    subject.sh(&options, "cat /proc/self/mountinfo /fake-proc/self/mountinfo 2>&1; :")?;
                mounted_or_refused(&run, "proc", "/proc")
            })?;
        }
    }
    let after = tree::read(&fake)?;
    fs::remove_dir_all(&fake)?;
    tree::same("the folder where the link leads, before and afterwards", &before, &after)
}

fn dev_link(subject: &Subject) -> Checked {
    let (outside, text) = folder(subject, "dev-of-the-host")?;
    for name in ["ptmx", "null", "console"] {
        fs::write(outside.join(name), "of the host")?;
    }
    let before = tree::read(&outside)?;
    // There is a folder of that name in the root, too, so that the link leads somewhere inside.
    let inside = Path::new(subject.root()?).join(text.trim_start_matches('/'));
    fs::create_dir_all(&inside)?;
    for userns in [host_users(subject), &[]] {
        with_link(subject, "dev", &text, || {
            let options = [userns, &["--rootfs", subject.root()?]].concat();
            mounted_or_refused(&subject.sh(&options, "cat /proc/self/mountinfo")?, "tmpfs", "/dev")
        })?;
        tree::same("the host\'s folder before and afterwards", &before, &tree::read(&outside)?)?;
    }
    Ok(())
}

fn null_link(subject: &Subject) -> Checked {
    let (dev, text) = folder(subject, "dev-as-a-volume")?;
    let (null, volume) = (dev.join("null"), format!("{text}:/dev"));
    let file = subject.write("null-as-a-volume", "written")?;
    let hidden: Vec<_> = inside::MASKED.into_iter().filter(|path| Path::new(path).is_file()).collect();
    ensure(!hidden.is_empty(), || Failure::new("a file of this kernel that is to be hidden", "none"))?;
    // No larger than it needs to be: kcore is as long as the memory.
    let script = format!("for f in {}; do head -c 9 $f; done; echo read", hidden.join(" "));
    let judge = |what: &str, options: &[&str]| {
        let run = subject.sh(&[host_users(subject), options].concat(), &script)?;
        let empty = run.status == 125 || run.stdout == "read\n";
        ensure(empty, || {
            Failure::new(format!("with {what}: a refusal, or nothing to read"), format!("{:?}", run.stdout))
        })
    };
    judge("no volume", &[])?;
    judge("a file over /dev/null", &["-v", &format!("{file}:/dev/null")])?;
    judge("no null in /dev", &["-v", &volume])?;
    fs::write(&null, "written")?;
    judge("a file in the place of /dev/null", &["-v", &volume])?;
    for to in ["/proc/version", "/proc/sys/kernel/osrelease", "other"] {
        let _ = fs::remove_file(&null);
        fs::write(dev.join("other"), "written")?;
        symlink(to, &null)?;
        judge(&format!("a link to {to} in the place of /dev/null"), &["-v", &volume])?;
    }
    // As the host has it, nothing is in the way.
    let run = subject
        .sh(&["-v", "/dev/null:/mnt/null", "-v", "/dev/zero:/dev/zero"], "echo x > /mnt/null; echo ran")?;
    expect("what a container with the host's devices says", "ran", run.ok()?)
}

fn console_link(subject: &Subject) -> Checked {
    let (outside, text) = folder(subject, "where-the-console-leads")?;
    let dev = Path::new(subject.root()?).join("dev");
    let links = ["console", "ptmx", "pts", "tty", "null"];
    for name in links {
        fs::write(outside.join(name), "of the host")?;
        symlink(format!("{text}/{name}"), dev.join(name))?;
    }
    let inside = Path::new(subject.root()?).join(text.trim_start_matches('/'));
    fs::create_dir_all(&inside)?;
    let before = tree::read(&outside)?;
    let talk = || {
        let binary = subject.binary().to_string_lossy();
        let script = "tty; while read -r line; do case $line in *' /dev/pts '*) echo \"$line\";; esac; done \
                      < /proc/self/mountinfo; test -e /dev/console || echo no-console; exit 7";
        let options = [host_users(subject), &["--rootfs", subject.root()?, "sh", "-c", script]].concat();
        let mut terminal = Terminal::start(subject, &binary, &options)?;
        terminal.see("/dev/pts/0")?;
        terminal.see(" - devpts ")?;
        terminal.see("no-console")?;
        expect("the exit status", Some(7), terminal.exit_status()?)
    };
    let talked = talk();
    for name in links {
        fs::remove_file(dev.join(name))?;
    }
    talked?;
    tree::same("the files where the links lead, before and afterwards", &before, &tree::read(&outside)?)
}

fn fake_proc(subject: &Subject) -> Checked {
    let (layer, text) = folder(subject, "layer-with-a-proc")?;
    for folder in ["proc/self/attr", "proc/self/fd", "proc/thread-self/attr", "proc/1", "proc/sys/net/ipv4"] {
        fs::create_dir_all(layer.join(folder))?;
    }
    for name in [
        "self/attr/exec",
        "self/attr/keycreate",
        "self/uid_map",
        "self/oom_score_adj",
        "1/uid_map",
        "sys/net/ipv4/ip_forward",
        "sysrq-trigger",
    ] {
        fs::write(layer.join("proc").join(name), "fake\n")?;
    }
    for descriptor in 3..16 {
        fs::create_dir(layer.join(format!("proc/self/fd/{descriptor}")))?;
    }
    let (_, source) = folder(subject, "beside-a-proc")?;
    let volume = format!("{source}:/mnt/it");
    let options = ["--layer", &text, "--changes", "--init", "-v", &volume, "--tmpfs", "/mnt/memory"];
    let script = "read -r line < /proc/sys/net/ipv4/ip_forward; echo $line; cat /proc/self/mountinfo";
    let run = subject.sh(&options, script)?;
    mounted_or_refused(&run, "proc", "/proc")?;
    mounted_or_refused(&run, "tmpfs", "/mnt/memory")?;
    ensure(!run.ok()?.contains("fake"), || Failure::new("a /proc of the kernel's", "the layer's"))?;
    let touched: Vec<_> = run.stderr.lines().filter(|line| line.contains("/proc")).collect();
    expect("what is changed below /proc of the root", Vec::<&str>::new(), touched)?;
    for target in
        ["/proc/self/attr", "/proc/thread-self", "/proc/1", "/proc/sys/net", "/dev/fd", "/proc/../proc/self"]
    {
        for option in [["-v", &format!("{source}:{target}")], ["--tmpfs", target]] {
            let run = subject.run(&[&option[..], &["true"]].concat())?;
            run.status_is(125).map_err(|failure| failure.of(format_args!("{} at {target}", option[0])))?;
        }
    }
    Ok(())
}

/// Those of these paths that this kernel has, and where it has them.
fn there(paths: impl IntoIterator<Item = PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let found: Vec<_> = paths.into_iter().filter(|path| path.exists()).collect();
    ensure(!found.is_empty(), || Failure::new("a path of Docker's list on this kernel", "none"))?;
    Ok(found)
}

fn masks_or_nothing(subject: &Subject) -> Checked {
    for path in ["/proc/kcore", "/proc/sysrq-trigger", "/sys/devices/system/cpu"] {
        let run = Container::start(&mut subject.command_without(path, &["echo", "ran"]))?.output()?;
        ensure(run.status == 125 && run.stdout.is_empty() && run.stderr.contains(path), || {
            Failure::new(
                format!("when nobody may look at {path}: status 125, and an error about it"),
                format!("{}; stdout: {:?}; stderr: {:?}", run.ending(), run.stdout, run.stderr),
            )
        })?;
    }
    Ok(())
}

fn masked(subject: &Subject) -> Checked {
    let cpus = fs::read_dir("/sys/devices/system/cpu")?.flatten();
    let of_cpus = cpus.map(|cpu| cpu.path().join("thermal_throttle"));
    let paths = there(inside::MASKED.into_iter().map(PathBuf::from).chain(of_cpus))?;
    for options in [host_users(subject), &[], &["--network", "host"]] {
        let container = subject.hold(options)?;
        let first = container.first()?;
        let mounts = first.mounts()?;
        for path in &paths {
            let at = first.path("root").join(path.strip_prefix("/").unwrap_or(path));
            let seen = fs::metadata(&at)?;
            let hidden = if seen.is_dir() {
                let mount = mounts.iter().rfind(|mount: &&Mount| Path::new(&mount.point) == path);
                let read_only = mount.is_some_and(|mount| mount.has("ro"));
                read_only && fs::read_dir(&at)?.next().is_none()
            } else {
                seen.file_type().is_char_device() && seen.rdev() == makedev(1, 3)
            };
            ensure(hidden, || {
                Failure::new(format!("with {options:?}, {} is hidden", path.display()), "it can be read")
            })?;
        }
    }
    Ok(())
}

fn read_only(subject: &Subject) -> Checked {
    // Files below them that root of a host may write to. They are opened, and nothing is written.
    const FILES: [&str; 5] = [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/irq/default_smp_affinity",
    ];
    let container = subject.hold(host_users(subject))?;
    let mounts = container.first()?.mounts()?;
    for path in there(inside::READ_ONLY.map(PathBuf::from))? {
        let mount = mounts.iter().rfind(|mount: &&Mount| Path::new(&mount.point) == path);
        let read_only = mount.is_some_and(|mount| mount.has("ro"));
        ensure(read_only, || Failure::new(format!("a read-only mount at {}", path.display()), "none"))?;
    }
    let script = format!("for f in {}; do (: >> $f) 2>/dev/null && echo $f; done; :", FILES.join(" "));
    for userns in [host_users(subject), &[]] {
        expect("which files can be opened to be written", "", subject.sh(userns, &script)?.ok()?)?;
    }
    Ok(())
}
