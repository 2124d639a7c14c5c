//! A container that becomes an image: what it has is in the image, and nobody ever sees half of one.
//!
//! The checks change a container from outside, by its root in /proc, so they need no program of it. Sources:
//! OCI image specification, layer.md, "Representing Changes"; image-layout.md. Man page: rename(2).

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};

use super::bad_input::error;
use super::image_tools::{container_root, root, tool};
use super::volume::takes_little;
use crate::container::Container;
use crate::image::{Archive, Entry, Home, Layer, Layout, Programs, base, config};
use crate::kernel::{eventually, listing};
use crate::tree::same;
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "image.commit-and-run",
        "--commit makes an image that --image runs, with the root and the change.", commit)
        .hint("Store the root and the writable layer as a layer each; a whiteout becomes a file .wh.NAME."),
    Check::since(3, "image.commit-tree",
        "The committed image has all that the container has added, changed and deleted.", round_trip)
        // To give files away.
        .needs(&[Need::Root])
        .hint("overlayfs's whiteouts and opaque folders become .wh.NAME and .wh..wh..opq; hard links and \
               attributes are kept."),
    Check::since(3, "image.commit-holes",
        "A file with a hole of a GiB makes no large image, nor do zeroes of a layer take room.", holes)
        .hint("A tar archive can list a file's holes: \"Storing Sparse Files\" in the GNU tar manual. Of a \
               layer, leave out the blocks of zeroes, and set the size at the end."),
    Check::since(3, "image.commit-tags",
        "--commit adds a tag to an existing layout, and refuses anything else at its path before the run.",
        targets)
        .hint("Look at the path first: after the run, the container's changes would be lost."),
    Check::since(3, "image.commit-at-once",
        "When several runs begin the same layout at once, each finds its image in it.", at_once)
        // To follow what newuidmap starts.
        .needs(&[Need::Root, Need::Program("strace")])
        .hint("rename(2) with RENAME_NOREPLACE shows which run was first; the others add to its layout."),
    Check::since(3, "image.commit-layers",
        "An image of 128 layers runs, and becomes one of 129.", many_layers)
        .hint("The options of an overlay fit into one page if each layer is named by its descriptor."),
    Check::since(3, "image.commit-killed",
        "A SIGKILL during --commit leaves no incomplete image, and the next run removes the remains.", killed)
        .hint("Write beside the target, and rename(2) at the end. A lock marks the files of a living run."),
    Check::since(3, "image.commit-failed",
        "When the image cannot be made after the run, the container's changes are kept, and --keep can use \
         them.", failed)
        .hint("A full disk must not destroy hours of work: rename(2) the writable layer, and print its \
               name."),
    Check::since(3, "image.commit-tools",
        "skopeo and umoci take the image, with its command and its variables.", tools)
        .needs(&[Need::Root, Need::Program("umoci"), Need::Program("skopeo")])
        .hint("The base's config goes on; diff_ids are those of the uncompressed layers."),
];

fn failed(subject: &Subject) -> Checked {
    let folder = subject.empty_folder("commit-failed")?;
    let (out, volume) = (folder.join("image.tar"), format!("{}:/mnt/it", folder.display()));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    // Somebody else takes the name meanwhile.
    let script = "echo kept > /changed; echo x > /mnt/it/image.tar";
    let run = subject.sh(&["-v", &volume, "--commit", &out.display().to_string()], script)?;
    run.status_is(125)?;
    let name = run.stderr.split_once("--keep ").and_then(|(_, rest)| rest.split_whitespace().next());
    let name = name.ok_or_else(|| Failure::new("a line with --keep NAME", format!("{:?}", run.stderr)))?;
    expect("what the kept layer has", "kept", subject.sh(&["--keep", name], "cat /changed")?.ok()?)?;
    expect("what is at the path of the image", "x\n", fs::read_to_string(out)?.as_str())
}

/// A small root, made anew.
fn small_root(subject: &Subject) -> Result<String, Failure> {
    let root = subject.empty_folder("commit-root")?;
    Programs::of_host()?.install(&root)?;
    fs::write(root.join("deleted"), "base")?;
    fs::write(root.join("stays"), "base")?;
    Ok(root.display().to_string())
}

fn commit(subject: &Subject) -> Checked {
    let (root, folder) = (small_root(subject)?, subject.empty_folder("commit")?);
    let script = "echo changed > /of-the-image";
    for name in ["image.tar", "image"] {
        let out = folder.join(name).display().to_string();
        let container = subject.hold(
            &[subject.as_host_root(), &["--rootfs", &root, "--env", "PATH=/commands", "--commit", &out]]
                .concat(),
        )?;
        fs::remove_file(container.first()?.path("root/deleted"))?;
        container.output()?.ok()?;
        let words = ["--image", &out, "--env", "PATH=/commands", "sh", "-c"];
        let look = "cat /stays; test -e /deleted || echo ' and not what was deleted'";
        let run = subject.run(&[&words[..], &[look]].concat())?;
        expect(format!("what {name} has"), "base and not what was deleted", run.ok()?)?;
        let again = folder.join(format!("again-{name}")).display().to_string();
        let options = ["--commit", again.as_str()];
        subject.run(&[&options[..], &words, &[script]].concat())?.ok()?;
        let words = ["--image", &again, "--env", "PATH=/commands", "sh", "-c", "cat /of-the-image /stays"];
        expect("what an image on top of it has", "changed\nbase", subject.run(&words)?.ok()?)?;
    }
    Ok(())
}

fn round_trip(subject: &Subject) -> Checked {
    let mut layer = Archive::default();
    for folder in ["t", "t/gone", "t/anew", "t/anew/below", "t/to-file", "t/changed"] {
        layer = layer.folder(folder);
    }
    for file in ["gone/x", "anew/x", "anew/below/x", "to-file/x", "to-folder", "changed/x", "mode", "owner"] {
        layer = layer.file(&format!("t/{file}"), "base");
    }
    let image = Layout::of(subject, "tree", &config(json!({})), &[base()?, Layer::plain(layer)])?.name();
    let out = subject.empty_folder("tree-out")?.join("image.tar").display().to_string();
    let container =
        subject.hold(&[subject.as_host_root(), &["--image", &image, "--commit", &out]].concat())?;
    let at = container.first()?.path("root/t");
    change(&at)?;
    let expected = crate::tree::read(&at)?;
    container.output()?.ok()?;
    let home = Home::new(subject, "tree-home")?;
    same("the container and its image", &expected, &home.tree(&["--image", &out])?)
}

fn holes(subject: &Subject) -> Checked {
    // Written out, as Docker does it, and then a few bytes to read.
    let zeroes = [&[0; 8 << 20][..], b"end"].concat();
    let entry = Entry { name: b"t/zeroes", data: &zeroes, ..Entry::default() };
    let layer = Layer::gzip(Archive::default().folder("t").entry(&entry))?;
    let image = Layout::of(subject, "holes", &config(json!({})), &[base()?, layer])?.name();
    let out = subject.empty_folder("holes-out")?.join("image.tar").display().to_string();
    let options = ["--image", &image, "--commit", &out];
    let container = subject.hold(&[subject.as_host_root(), &options].concat())?;
    let at = container.first()?.path("root/t");
    let there = fs::metadata(at.join("zeroes"))?;
    expect("the size of a file of zeroes", zeroes.len() as u64, there.len())?;
    ensure(there.blocks() < 2048, || {
        Failure::new("its zeroes take no room", format!("{} blocks of 512 bytes", there.blocks()))
    })?;
    let file = fs::File::create(at.join("holes"))?;
    file.set_len(1 << 30)?;
    file.write_all_at(b"middle", 500_000_000)?;
    container.output()?.ok()?;
    let base = sizes(Path::new(&image))?;
    let size = fs::metadata(&out)?.len();
    ensure(size < base + (1 << 18), || {
        Failure::new(format!("an image of little more than {base} bytes"), format!("{size} bytes"))
    })?;
    let container = subject.hold(&[subject.as_host_root(), &["--image", &out]].concat())?;
    let found = fs::File::open(container.first()?.path("root/t/holes"))?;
    let mut middle = [0; 6];
    found.read_exact_at(&mut middle, 500_000_000)?;
    expect("what stands between the holes", b"middle", &middle)?;
    takes_little(&found.metadata()?)
}

/// How large the blobs of a layout are.
fn sizes(layout: &Path) -> std::io::Result<u64> {
    let blobs = fs::read_dir(layout.join("blobs/sha256"))?;
    blobs.map(|blob| Ok(blob?.metadata()?.len())).sum()
}

/// Does everything that makes a difference in a writable layer.
fn change(at: &Path) -> Checked {
    let path = |name: &str| at.join(name);
    fs::remove_dir_all(path("gone"))?;
    fs::remove_dir_all(path("anew"))?;
    fs::create_dir(path("anew"))?;
    fs::write(path("anew/y"), "new")?;
    fs::remove_dir_all(path("to-file"))?;
    fs::write(path("to-file"), "file")?;
    fs::remove_file(path("to-folder"))?;
    fs::create_dir(path("to-folder"))?;
    fs::write(path("changed/x"), "changed")?;
    fs::set_permissions(path("mode"), fs::Permissions::from_mode(0o4711))?;
    chown(path("owner"), Some(3_000_000_000), Some(100_000))?;
    fs::hard_link(path("changed/x"), path("hard"))?;
    symlink("nowhere", path("link"))?;
    xattr::set(path("hard"), "trusted.note", b"a=b\n\xff")?;
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    fs::write(path("n".repeat(255).as_str()), "a long name")?;
    fs::File::create(path("hole"))?.set_len(1 << 20)?;
    // Not to the second: a pax record has the rest.
    let time = std::time::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    Ok(fs::File::open(path("to-file"))?.set_modified(time)?)
}

fn targets(subject: &Subject) -> Checked {
    let folder = subject.empty_folder("targets")?;
    let image = Layout::of(subject, "targets-base", &config(json!({})), &[base()?])?.name();
    let layout = folder.join("layout").display().to_string();
    for word in ["one", "two"] {
        let tagged = format!("{layout}:{word}");
        let script = format!("echo {word} > /word");
        subject.run(&["--image", &image, "--commit", &tagged, "sh", "-c", &script])?.ok()?;
    }
    for word in ["one", "two"] {
        let run = subject.run(&["--image", &format!("{layout}:{word}"), "cat", "/word"])?;
        expect(format!("what the image :{word} has"), word, run.ok()?)?;
    }
    fs::write(folder.join("file"), "mine")?;
    fs::write(folder.join("file.tar"), "mine")?;
    fs::create_dir(folder.join("folder"))?;
    let before = listing(&folder, 3);
    for name in ["file", "file.tar", "folder", "none/image", "file/image"] {
        let out = folder.join(name).display().to_string();
        let output = subject.run(&["--image", &image, "--commit", &out, "sh", "-c", "echo ran"])?;
        error(&output, 125, &["--commit", name]).map_err(|failure| failure.of(name))?;
        expect(format!("{name}: what is in the folder"), &before, &listing(&folder, 3))?;
    }
    expect("the file", "mine", fs::read_to_string(folder.join("file"))?.as_str())
}

fn at_once(subject: &Subject) -> Checked {
    let image = Layout::of(subject, "at-once-base", &config(json!({})), &[base()?])?.name();
    let layout = subject.empty_folder("commit-at-once")?.join("layout").display().to_string();
    let words = ["one", "two", "three"];
    let mut started = vec![];
    for word in words {
        let (tagged, script) = (format!("{layout}:{word}"), format!("echo {word} > /word"));
        // Slow between the look at what is there and the rename.
        let arguments = ["--image", &image, "--commit", &tagged, "sh", "-c", &script];
        started.push(Container::start(&mut subject.command_slow_at("renameat2", &arguments))?);
    }
    for container in started {
        container.output()?.ok()?;
    }
    for word in words {
        let run = subject.run(&["--image", &format!("{layout}:{word}"), "cat", "/word"])?;
        expect(format!("what the image :{word} has"), word, run.ok()?)?;
    }
    Ok(())
}

fn many_layers(subject: &Subject) -> Checked {
    let numbers = 1..128;
    let layer = |number: i32| {
        let archive = Archive::default()
            .folder("t")
            .file(&format!("t/{number}"), "")
            .file("t/last", &number.to_string());
        Layer::plain(archive)
    };
    let layers: Vec<_> = [base()?].into_iter().chain(numbers.map(layer)).collect();
    let image = Layout::of(subject, "many-layers", &config(json!({})), &layers)?.name();
    let out = subject.empty_folder("many-layers-out")?.join("image").display().to_string();
    let script = "set -- /t/*; echo $# files, the last is $(cat /t/last); echo new > /t/last";
    let run = subject.run(&["--image", &image, "--commit", &out, "sh", "-c", script])?;
    expect("what 128 layers have", "128 files, the last is 127", run.ok()?)?;
    expect("what the 129th has", "new", subject.run(&["--image", &out, "cat", "/t/last"])?.ok()?)
}

fn killed(subject: &Subject) -> Checked {
    let image = Layout::of(subject, "commit-killed", &config(json!({})), &[base()?])?.name();
    let mut amidst = 0;
    for name in ["image.tar", "image"] {
        for moment in [0, 20, 80] {
            let folder = subject.empty_folder("commit-killed-out")?;
            let out = folder.join(name).display().to_string();
            let run = subject.start(&[
                "--image",
                &image,
                "--commit",
                &out,
                "sh",
                "-c",
                "echo ready; echo x > /new",
            ])?;
            // From here on it writes the image.
            let began = eventually(Duration::from_secs(10), || !listing(&folder, 1).is_empty());
            ensure(began, || Failure::new("the runtime writes beside the path of --commit", "it does not"))?;
            thread::sleep(Duration::from_millis(moment));
            let _ = run.signal(SIGKILL);
            amidst += usize::from(run.output()?.killed);
            let whole = || subject.run(&["--image", &out, "cat", "/new"])?.ok().map(drop);
            if Path::new(&out).exists() {
                whole()?;
                continue;
            }
            subject.run(&["--image", &image, "--commit", &out, "sh", "-c", "echo x > /new"])?.ok()?;
            whole()?;
            expect("what is in the folder of the image", [folder.join(name)].into(), listing(&folder, 1))?;
        }
    }
    ensure(amidst >= 2, || Failure::new("the check kills in the midst of --commit at least twice", amidst))
}

fn tools(subject: &Subject) -> Checked {
    let at = subject.empty_folder("commit-tools")?;
    let more = json!({ "Env": ["PATH=/commands", "A=b c"], "WorkingDir": "/etc", "StopSignal": "SIGINT" });
    let image = Layout::of(subject, "commit-base", &config(more.clone()), &[base()?])?.name();
    let name = |name: &str| at.join(name).display().to_string();
    for (out, words) in [
        ("layout:v1", ["--image", &image]),
        ("archive.tar:v1", ["--image", &image]),
        ("root:v1", ["--rootfs", &small_root(subject)?]),
    ] {
        let commit = ["--commit", &name(out), "--env", "PATH=/commands"].map(str::to_owned);
        let mut arguments: Vec<_> = words.to_vec();
        arguments.extend(commit.iter().map(String::as_str));
        let container = subject.hold(&[subject.as_host_root(), &arguments].concat())?;
        fs::write(container.first()?.path("root/new"), "x")?;
        // Other tools read our list of holes.
        fs::File::create(container.first()?.path("root/holes"))?.set_len(3 << 20)?;
        let tree = container_root(&container)?;
        container.output()?.ok()?;
        let archive = out.contains(".tar");
        let transport = if archive { "oci-archive" } else { "oci" };
        tool(&at, &format!("skopeo copy --quiet {transport}:{out} oci:copy:it"))?;
        tool(&at, "umoci unpack --image copy:it unpacked")?;
        let mut unpacked = root(&at.join("unpacked/rootfs"))?;
        let mut tree = tree;
        // The runtime has made these folders, to mount on them.
        for it in [&mut unpacked, &mut tree] {
            it.retain(|path, _| !path.as_os_str().is_empty() && path != Path::new("etc"));
        }
        same(out, &tree, &unpacked)?;
        fs::remove_dir_all(at.join("unpacked"))?;
        let told = Command::new("skopeo")
            .args(["inspect", "--config", &format!("{transport}:{out}")])
            .current_dir(&at)
            .output()?;
        let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
        if words[0] == "--image" {
            for key in ["Env", "WorkingDir", "StopSignal"] {
                expect(format!("{key} of the image"), &more[key], &told["config"][key])?;
            }
            expect("Cmd of the image", &json!(["cat"]), &told["config"]["Cmd"])?;
        }
        let layers = told["rootfs"]["diff_ids"].as_array().map(Vec::len);
        expect("the number of its layers", Some(2), layers)?;
    }
    Ok(fs::remove_dir_all(at)?)
}
