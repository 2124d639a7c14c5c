//! The root of layers: none of them changes but the container's own, which goes with it or stays under a
//! name. The kernel's filesystems/overlayfs.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::geteuid;

use super::bad_input::error;
use super::volume::folder;
use crate::container::{Container, Output};
use crate::kernel::listing;
use crate::tree::{self, same};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "overlay.rootfs-untouched",
        "No later container sees the changes of an earlier one, and the folder of --rootfs stays as it was.",
        untouched)
        .hint("An overlay: the folder is its lower layer, and the upper one is new for each container."),
    Check::since(3, "overlay.layer-untouched",
        "Appending, chmod, rename and rm -r leave a layer as it was, to the last attribute.", layer_untouched)
        .hint("All of these copy a file up before they change it, as long as the layer is no upper one."),
    Check::since(3, "overlay.layers",
        "--layer DIR lies on top of the root, a later one on top of an earlier one. Whiteouts and opaque \
         folders hide the files below.", layers)
        .hint("lowerdir= has the topmost first. A whiteout is a character device 0/0, an opaque folder has \
               trusted.overlay.opaque=y: the kernel knows both."),
    Check::since(3, "overlay.many-layers", "A container can have 128 layers.", many_layers)
        .hint("mount(2) takes one page of options: give the layers by short names, such as /proc/self/fd/N."),
    Check::since(3, "overlay.odd-names",
        "Any character can be in the path of a root, of a layer and of CONGO_HOME.", odd_names)
        .hint("`:`, `,` and `\\` have a meaning in the options of an overlay; /proc/self/fd/N has none of \
               them."),
    Check::since(
        3,
        "overlay.umask",
        "Whatever the caller's umask, all users of the container may enter its root and its volumes.",
        any_umask,
    )
    .hint("The mode of the upper layer is that of the root: chmod(2), or umask(2) before mkdir(2)."),
    Check::since(3, "overlay.goes",
        "The writable layer is removed after a run, even if the run failed. If the runtime was killed, the \
         next run removes it.", goes)
        .hint("A lock on the container's folder tells the next run whether its runtime still lives."),
    Check::since(3, "overlay.deep",
        "A writable layer with more nested folders than the runtime may open is removed, too.", deep)
        .not_new()
        .hint("Open a folder in the one above and come back by `..`: two descriptors are enough for any \
               depth."),
    Check::since(3, "overlay.keep",
        "With --keep NAME the next run goes on with the files of the last one.", keep)
        .hint("Keep the writable layer in a folder of that name."),
    Check::since(3, "overlay.keep-in-use",
        "Only one container at a time has the layer of a name.", keep_in_use)
        .hint("Two overlays with one upper layer are undefined. Take a lock, and refuse the second \
               container."),
    Check::since(3, "overlay.keep-survives",
        "A layer of --keep is still there after its runtime was killed.", keep_survives)
        .hint("The code that removes the layers of dead runtimes must not look there."),
    Check::since(3, "overlay.volatile",
        "The kernel need not save a writable layer that goes with its container: the overlay is volatile. \
         With --keep it is not.", volatile)
        .needs(&[Need::VolatileOverlay])
        .hint("Without the option `volatile`, the end of an overlay waits until all that anybody has written \
               to this disk is saved."),
    Check::since(3, "overlay.read-only",
        "With --read-only the root cannot be written to; /dev, /dev/shm, volumes and tmpfs can.", read_only)
        .hint("Remount the one mount of the root, with MS_BIND, when all mount points and the working \
               directory are made."),
    Check::since(3, "overlay.changes", "--changes lists the added, changed and deleted files.", changes)
        .hint("The upper layer is the difference; a character device 0/0 in it is a whiteout."),
    Check::since(3, "overlay.changes-replaced",
        "--changes is right about files that were removed and made again, as the same or as something else.",
        changes_replaced)
        .hint("A folder that was made again is opaque, and has no whiteouts for its old files. Files that a \
               layer has below a link do not count."),
    Check::since(3, "overlay.changes-in-one-line",
        "--changes gives each file one line, and shows control characters in its name as text.",
        changes_in_one_line)
        .hint("A file's name may have a newline or an escape in it."),
    Check::since(3, "overlay.changes-of-the-runtime",
        "--changes does not list mount points that the runtime made.", changes_of_the_runtime)
        .hint("Docker makes /proc, /dev, /sys and the files in /etc in a layer of their own, between the \
               image's and the writable one."),
    Check::since(3, "overlay.mtab",
        "/etc/mtab leads to /proc/mounts where the root has none, and DIR stays as it is.", mtab)
        .hint("In the layer of the mount points, so that it is no change of the container."),
];

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

fn layer_untouched(subject: &Subject) -> Checked {
    let (layer, text) = folder(subject, "layer")?;
    for below in ["its", "its/deep", "its/gone"] {
        fs::create_dir(layer.join(below))?;
    }
    for file in ["appended", "moded", "renamed", "its/deep/one", "its/gone/two", "linked"] {
        fs::write(layer.join(file), file)?;
    }
    fs::hard_link(layer.join("linked"), layer.join("its/other-name"))?;
    symlink("appended", layer.join("link"))?;
    let before = tree::read(&layer)?;
    let script = "echo more >> /link && chmod 4711 /moded && mv /renamed /its/moved && rm -r /its/gone && \
                  echo more >> /linked && chmod 700 /its/deep && touch /its/deep/one && rm /link && cat \
                  /appended";
    let run = subject.sh(&["--layer", &text], script)?;
    // The line says that it was done at all.
    expect("what the container makes of a file", "appendedmore", run.ok()?)?;
    same("the layer before and afterwards", &before, &tree::read(&layer)?)
}

/// What only an overlay can read: a name that is gone, and a folder that has nothing of those below.
fn hide(layer: &Path, whiteout: &str, opaque: &str) -> Checked {
    mknod(&layer.join(whiteout), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?;
    fs::create_dir(layer.join(opaque))?;
    // What an ordinary user's overlay looks for, as trusted attributes are for root only.
    let attribute = if geteuid().is_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
    Ok(xattr::set(layer.join(opaque), attribute, b"y")?)
}

fn layers(subject: &Subject) -> Checked {
    let (lower, lower_text) = folder(subject, "lower")?;
    let (upper, upper_text) = folder(subject, "upper")?;
    for name in ["gone", "hidden", "stays"] {
        fs::create_dir(lower.join(name))?;
        fs::write(lower.join(name).join("of-lower"), "")?;
    }
    fs::write(lower.join("both"), "lower")?;
    fs::write(upper.join("both"), "upper")?;
    hide(&upper, "gone", "hidden")?;
    fs::write(upper.join("hidden/of-upper"), "")?;
    let script = "cat /both; echo; ls -d /gone 2>/dev/null; ls /hidden /stays; test -e /bin/sh && echo root";
    let run = subject.sh(&["--layer", &lower_text, "--layer", &upper_text], script)?;
    let expected = "upper\n/hidden:\nof-upper\n\n/stays:\nof-lower\nroot";
    expect("what the container sees", expected, run.ok()?)
}

fn many_layers(subject: &Subject) -> Checked {
    let (all, text) = folder(subject, "many-layers")?;
    let mut options = vec![];
    for number in 1..=128 {
        // Long, so that the paths of all of them do not fit into one page.
        let name = format!("{number:0>60}");
        fs::create_dir(all.join(&name))?;
        fs::create_dir(all.join(&name).join("numbers"))?;
        fs::write(all.join(&name).join("numbers").join(number.to_string()), "")?;
        fs::write(all.join(&name).join("topmost"), number.to_string())?;
        options.extend(["--layer".to_owned(), format!("{text}/{name}")]);
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let run = subject.sh(&options, "set -- /numbers/*; echo $# $(cat /topmost)")?;
    expect("how many layers there are, and which is on top", "128 128", run.ok()?)
}

fn odd_names(subject: &Subject) -> Checked {
    let odd = |of: &str| {
        let name = [of.as_bytes(), b" a:b,c\\d\"e'f\ng\\040h\xff=i%s"].concat();
        subject.file("odd").join(OsStr::from_bytes(&name))
    };
    let (_, plain) = folder(subject, "odd")?;
    let (root, layer, home) = (odd("root"), odd("layer"), odd("home"));
    for folder in [&layer, &home] {
        fs::create_dir(folder)?;
    }
    fs::write(layer.join("of-the-layer"), "layer")?;
    let usual = PathBuf::from(subject.root()?);
    fs::rename(&usual, &root)?;
    let run = || {
        let arguments: [&OsStr; 6] = [
            "--rootfs".as_ref(),
            root.as_ref(),
            "--layer".as_ref(),
            layer.as_ref(),
            "sh".as_ref(),
            "-c".as_ref(),
        ];
        let script = "cat /of-the-layer && echo x > /of-the-layer && cat /of-the-layer";
        let mut command = subject.command(&[&arguments[..], &[script.as_ref()]].concat());
        Container::start(command.env("CONGO_HOME", &home))?.output()
    };
    let run = run();
    fs::rename(&root, &usual)?;
    let left = tree::read(&layer)?.len();
    fs::remove_dir_all(plain)?;
    expect("what the container reads in a layer, before and after it writes", "layerx", run?.ok()?)?;
    expect("the number of files in the layer", 2, left)
}

fn any_umask(subject: &Subject) -> Checked {
    // Where the root has no /etc, the runtime makes one to mount on.
    let (layer, text) = folder(subject, "layer-without-etc")?;
    fs::set_permissions(&layer, fs::Permissions::from_mode(0o755))?;
    let whiteout = layer.join("etc");
    mknod(&whiteout, SFlag::S_IFCHR, Mode::S_IRUSR, 0).map_err(std::io::Error::from)?;
    let volumes = ["-v", "checked-umask:/new/volume", "-v", "/new/anonymous", "--workdir", "/work/dir"];
    let arguments = [&volumes[..], &["--layer", &text, "sh", "-c", "echo ready; cat"]].concat();
    let container = Container::start(subject.command_after("umask 077", &arguments).stdin(Stdio::piped()))?;
    container.wait_for("ready")?;
    for path in ["", "etc", "new", "new/volume", "new/anonymous", "work", "work/dir"] {
        let mode = fs::metadata(container.first()?.path("root").join(path))?.mode() & 0o777;
        expect(format!("the mode of /{path}, in octal digits,"), "755", &*format!("{mode:o}"))?;
    }
    Ok(())
}

/// Where a file of this name is in the state folder, whatever the runtime calls what is around it.
fn in_state(subject: &Subject, name: &str) -> Vec<PathBuf> {
    listing(&subject.home(), 6).into_iter().filter(|path| path.ends_with(name)).collect()
}

fn goes(subject: &Subject) -> Checked {
    let none: Vec<PathBuf> = vec![];
    let mark = "echo x > /written-by-a-container";
    let gone = |when: &str| {
        let what = format!("where in the state folder the file is {when}");
        expect(what, none.clone(), in_state(subject, "written-by-a-container"))
    };
    let container = subject.hold_sh(&[], &format!("{mark}; echo ready; cat"))?;
    ensure(!in_state(subject, "written-by-a-container").is_empty(), || {
        Failure::new("while the container runs, its file is in the state folder", "not there")
    })?;
    container.output()?.ok()?;
    gone("after the run")?;
    subject.sh(&[], &format!("{mark}; exit 3"))?.status_is(3)?;
    gone("after exit 3")?;
    subject.run(&["--workdir", "/written-by-a-container", "no-such-command"])?.status_is(127)?;
    gone("after 127")?;
    let container = subject.hold_sh(&[], &format!("{mark}; echo ready; cat"))?;
    container.signal(Signal::SIGKILL)?;
    drop(container.output());
    subject.run(&["true"])?.ok()?;
    gone("after the runtime was killed, and the next one has run,")
}

fn deep(subject: &Subject) -> Checked {
    let before = listing(&subject.home(), 2);
    let script = "deep=$(for n in 1 2 3 4 5 6 7 8 9 10; do printf a/b/c/d/e/f/g/h/i/j/; done); \
                  mkdir -p /deep/$deep$deep$deep$deep$deep$deep && echo made";
    let mut command = subject.command_after("ulimit -n 256", &["sh", "-c", script]);
    let run = Container::start(&mut command)?.output()?;
    expect("what the container says", "made", run.ok()?)?;
    expect("what the runtime says", "", &run.stderr)?;
    expect("what is in the state folder, as before,", before, listing(&subject.home(), 2))
}

fn keep(subject: &Subject) -> Checked {
    subject.sh(&["--keep", "checked"], "echo kept > /written; rm /etc/passwd")?.ok()?;
    let next = subject.sh(&["--keep", "checked"], "cat /written; ls /etc/passwd 2>/dev/null; :")?;
    expect("what the next run sees", "kept", next.ok()?)?;
    let other = subject.sh(&["--keep", "another"], "ls /written 2>/dev/null; :")?;
    expect("what a run with another name sees", "", other.ok()?)
}

fn keep_in_use(subject: &Subject) -> Checked {
    let first =
        subject.hold_sh(&["--keep", "checked-use"], "echo first > /who; echo ready; read x; cat /who")?;
    let second = subject.sh(&["--keep", "checked-use"], "echo second > /who")?;
    error(&second, 125, &["--keep", "checked-use"])?;
    // Others are not in the way.
    subject.sh(&["--keep", "checked-other"], "echo other > /who")?.ok()?;
    let first = first.output()?;
    expect("what the first one has", "ready\nfirst", first.ok()?)?;
    expect("what the next one has", "first", subject.sh(&["--keep", "checked-use"], "cat /who")?.ok()?)
}

fn keep_survives(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&["--keep", "checked-kill"], "echo kept > /written; echo ready; cat")?;
    container.signal(Signal::SIGKILL)?;
    drop(container.output());
    // The container dies with its runtime, but not at the same moment.
    let next = || subject.sh(&["--keep", "checked-kill"], "cat /written");
    subject.run(&["true"])?.ok()?;
    expect("what the next run sees", "kept", next()?.ok()?)
}

fn volatile(subject: &Subject) -> Checked {
    for (options, expected) in [(&[][..], true), (&["--keep", "checked-volatile"], false)] {
        let root = subject.hold(options)?.first()?.mount_at("/")?;
        // The kernel writes it as `volatile`, and later kernels as `fsync=volatile`.
        let found = root.filesystem_options.split(',').any(|option| option.ends_with("volatile"));
        expect(
            format!("whether the overlay at / is volatile, with the options {options:?},"),
            expected,
            found,
        )?;
    }
    Ok(())
}

fn read_only(subject: &Subject) -> Checked {
    let (_, source) = folder(subject, "beside-read-only")?;
    let volume = format!("{source}:/mnt/it");
    let options = ["--read-only", "--workdir", "/made/for/it", "-v", &volume, "--tmpfs", "/mnt/memory"];
    let script = "pwd; for f in /x /etc/x /etc/hosts /made/for/it/x /dev/shm/x /dev/x /dev/null /mnt/it/x \
                  /mnt/memory/x; do \
                  (echo x > $f) 2>/dev/null && echo $f; done; :";
    let expected = "/made/for/it\n/dev/shm/x\n/dev/x\n/dev/null\n/mnt/it/x\n/mnt/memory/x";
    expect("where it is, and what it can write", expected, subject.sh(&options, script)?.ok()?)?;
    let options_of_root = |options: &[&str]| -> Result<BTreeSet<String>, Failure> {
        let root = subject.hold(options)?.first()?.mount_at("/")?;
        Ok(root.options.split(',').map(str::to_owned).collect())
    };
    // Nothing else is another: a device in an image stays none.
    let mut expected = options_of_root(&[])?;
    expected.remove("rw");
    expected.insert("ro".into());
    expect("the options of the mount at /", expected, options_of_root(&["--read-only"])?)
}

/// What a runtime has said, but not that it has copied a root: where there are no idmapped mounts, it has to.
fn said(run: &Output) -> impl Iterator<Item = &str> {
    run.stderr.lines().filter(|line| !line.starts_with("congo: no idmapped mounts"))
}

/// The lines of `--changes`, by path.
fn listed(subject: &Subject, options: &[&str], script: &str) -> Result<Vec<String>, Failure> {
    let run = subject.sh(&[options, &["--changes"]].concat(), script)?;
    run.status_is(0)?;
    let mut lines: Vec<_> = said(&run).map(str::to_owned).collect();
    lines.sort_by_key(|line| line.chars().skip(2).collect::<String>());
    Ok(lines)
}

fn changes(subject: &Subject) -> Checked {
    let found = listed(subject, &[], "echo x >> /etc/group; rm /etc/passwd; echo new > /added")?;
    expect(
        "the list",
        ["A /added", "C /etc", "C /etc/group", "D /etc/passwd"].map(str::to_owned).to_vec(),
        found,
    )
}

fn changes_replaced(subject: &Subject) -> Checked {
    let (layer, text) = folder(subject, "to-replace")?;
    let (above, above_text) = folder(subject, "to-replace-above")?;
    for below in ["again", "again/old-folder", "becomes-file"] {
        fs::create_dir(layer.join(below))?;
    }
    for file in ["again/kept", "again/old", "becomes-file/in-it", "becomes-folder", "twice"] {
        fs::write(layer.join(file), file)?;
    }
    // Followed on the host, it leads to a folder that has such a file.
    symlink("/etc", layer.join("becomes-own"))?;
    hide(&above, "gone-already", "again-above")?;
    let script = "cd /; rm -r again; mkdir again; echo > again/kept; echo > again/new; rm -r becomes-file; \
                  echo > becomes-file; rm becomes-folder; mkdir becomes-folder; echo > becomes-folder/in-it; \
                  rm becomes-own; mkdir becomes-own; echo > becomes-own/passwd; rm twice; echo > twice; \
                  echo > gone-already; echo > made; rm made";
    let found = listed(subject, &["--layer", &text, "--layer", &above_text], script)?;
    let expected = [
        "C /again",
        "C /again/kept",
        "A /again/new",
        "D /again/old",
        "D /again/old-folder",
        "C /becomes-file",
        "C /becomes-folder",
        "A /becomes-folder/in-it",
        "C /becomes-own",
        "A /becomes-own/passwd",
        "A /gone-already",
        "C /twice",
    ];
    expect("the list", expected.map(str::to_owned).to_vec(), found)
}

fn changes_in_one_line(subject: &Subject) -> Checked {
    let script = "name=$(printf '/one\\nD two\\033[31m'); echo > \"$name\"";
    let found = listed(subject, &[], script)?;
    let clean = found.len() == 1 && !found.iter().any(|line| line.contains('\u{1b}'));
    ensure(clean, || Failure::new("one line without control characters", format!("{found:?}")))
}

fn mtab(subject: &Subject) -> Checked {
    let own = Path::new(subject.root()?).join("etc/mtab");
    let before = fs::read_link(&own);
    let _ = fs::remove_file(&own);
    let container = subject.hold(&["--rootfs", subject.root()?])?;
    let link = fs::read_link(container.first()?.path("root/etc/mtab"));
    drop(container);
    let strayed = fs::symlink_metadata(&own).is_ok();
    fs::write(&own, "own")?;
    let other = subject.sh(&["--rootfs", subject.root()?], "cat /etc/mtab");
    fs::remove_file(&own)?;
    if let Ok(target) = before {
        std::os::unix::fs::symlink(target, &own)?;
    }
    let link = link.map_err(|error| Failure::new("/etc/mtab is a symbolic link", error))?;
    expect("where /etc/mtab leads", Path::new("/proc/mounts"), link.as_path())?;
    ensure(!strayed, || Failure::new("DIR as it was", "an etc/mtab in it"))?;
    expect("the root's own /etc/mtab", "own", other?.ok()?)
}

fn changes_of_the_runtime(subject: &Subject) -> Checked {
    // A root that has nothing to mount on, and even no /etc: what is needed to run a command is put over it.
    let (bare, text) = folder(subject, "bare-root")?;
    let usual = PathBuf::from(subject.root()?);
    let mut mounts: Vec<OsString> = vec!["--rootfs".into(), text.into(), "--changes".into()];
    for entry in fs::read_dir(&usual)?.flatten() {
        let name = entry.file_name();
        if !["proc", "dev", "sys", "etc", "mnt", "tmp", "run", "var"].iter().any(|own| name == *own) {
            fs::rename(entry.path(), bare.join(&name))?;
        }
    }
    let mut command = mounts.clone();
    command.extend(["true".into()]);
    let run = Container::start(&mut subject.command(&command)).and_then(Container::output);
    mounts.extend(["sh", "-c", "echo x > /etc/mine; mkdir /mine"].map(OsString::from));
    let next = Container::start(&mut subject.command(&mounts)).and_then(Container::output);
    for entry in fs::read_dir(&bare)?.flatten() {
        fs::rename(entry.path(), usual.join(entry.file_name()))?;
    }
    let run = run?;
    run.status_is(0)?;
    expect("the list after a command that does nothing", None, said(&run).next())?;
    let next = next?;
    next.status_is(0)?;
    let mut lines: Vec<_> = said(&next).filter(|line| !line.ends_with(" /etc")).collect();
    lines.sort_unstable();
    expect("the list after one that makes a file beside them", vec!["A /etc/mine", "A /mine"], lines)?;
    expect("the links of DIR", 2, fs::metadata(bare)?.nlink())
}
