//! Where layers are kept unpacked: once for all images, whoever unpacks them, and however often somebody is
//! killed at it.
//!
//! The checks have a state folder of their own each, and look at it from outside. Man pages: rename(2),
//! flock(2).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::json;

use super::bad_input::error;
use crate::container::Container;
use crate::image::{Archive, Home, LAYER, Layer, Layout, base, config, digest};
use crate::kernel::eventually;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        3,
        "image.shared",
        "A layer of two images that twenty containers use is on disk once.",
        shared,
    )
    .hint("Store unpacked layers by the digest of the layer and of the layers below it."),
    Check::since(3, "image.at-once", "Two runs that unpack the same image at once both work.", at_once)
        .hint("One waits for the other: flock(2). A finished layer gets its name by rename(2)."),
    Check::since(
        3,
        "image.killed",
        "After a SIGKILL during unpacking the next run works, and no incomplete layer stays.",
        killed,
    )
    .hint("Unpack beside the target, rename(2) the whole layer, and remove folders with other names."),
    Check::since(
        3,
        "image.hostile-depth",
        "A refused layer with more nested folders than the runtime may open leaves nothing behind.",
        depth,
    )
    .hint("Open a folder in the one above and come back by `..`: two descriptors are enough for any depth."),
    Check::since(
        3,
        "image.left-over",
        "Remains of a killed unpacking that nobody can remove do not keep an image from being unpacked.",
        left_over,
    )
    .hint("Say that they stay, and go on."),
];

/// A file that only one layer has.
const SIZE: usize = 300_000;

fn large(content: u8) -> Archive {
    let data = vec![content; SIZE];
    Archive::default().folder("t").file(&format!("t/large-{content}"), &String::from_utf8_lossy(&data))
}

/// All files below, by size: the inodes, each once.
fn files(folder: &Path, found: &mut BTreeMap<u64, BTreeSet<u64>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let there = fs::symlink_metadata(entry.path())?;
        if there.is_dir() {
            files(&entry.path(), found)?;
        } else if there.is_file() {
            found.entry(there.len()).or_default().insert(there.ino());
        }
    }
    Ok(())
}

fn shared(subject: &Subject) -> Checked {
    let lower = [base()?, Layer::plain(large(b'a'))];
    let home = Home::new(subject, "shared-home")?;
    let mut images = Vec::new();
    for name in ["one", "two"] {
        let own = Layer::plain(Archive::default().file("t/own", name));
        let layers = [&lower[..], &[own]].concat();
        images.push(Layout::of(subject, &format!("shared-{name}"), &config(json!({})), &layers)?.name());
    }
    let mut containers = Vec::new();
    for number in 0..20 {
        // All at once they take their time. An ordinary user has no such limit.
        let faster: &[&str] = if nix::unistd::geteuid().is_root() { &["--cpus", "2"] } else { &[] };
        containers.push(home.hold(&[&["--image", images[number % 2].as_str()], faster].concat())?);
    }
    for (number, container) in containers.iter().enumerate() {
        let own = fs::read_to_string(container.first()?.path("root/t/own"))?;
        expect("what the image's own layer has", ["one", "two"][number % 2], own.as_str())?;
    }
    let mut found = BTreeMap::new();
    files(&home.path.join("layers"), &mut found)?;
    let copies = found.get(&(SIZE as u64)).map_or(0, BTreeSet::len);
    expect("how many copies of the shared layer's file are on disk", 1, copies)
}

fn at_once(subject: &Subject) -> Checked {
    // Large enough that the second comes while the first is at it.
    let layers = [base()?, Layer::plain(many(400))];
    let image = Layout::of(subject, "at-once", &config(json!({})), &layers)?.name();
    let home = Home::new(subject, "at-once-home")?;
    let start =
        || Container::start(home.command(&["--image", &image, "sh", "-c", WHOLE]).stdin(Stdio::null()));
    let runs = [start()?, start()?, start()?];
    for run in runs {
        expect("whether the image is whole", "whole", run.output()?.ok()?)?;
    }
    expect("what is in the state folder", of_one_run(subject, &image)?, home.listing())
}

/// So many small files, of which `/t/last` comes last.
fn many(count: usize) -> Archive {
    let files =
        (0..count).fold(Archive::default().folder("t"), |archive, n| archive.file(&format!("t/{n}"), "x"));
    files.file("t/last", "x")
}

const WHOLE: &str = "test -e /t/0 && test -e /t/last && echo whole";

/// What one run that nobody disturbs leaves in its state folder.
fn of_one_run(subject: &Subject, image: &str) -> Result<BTreeSet<std::path::PathBuf>, Failure> {
    let home = Home::new(subject, "one-run-home")?;
    expect("whether the image is whole", "whole", home.run(&["--image", image, "sh", "-c", WHOLE])?.ok()?)?;
    Ok(home.listing())
}

fn killed(subject: &Subject) -> Checked {
    let layers = [base()?, Layer::gzip(many(400))?];
    let image = Layout::of(subject, "killed", &config(json!({})), &layers)?.name();
    let expected = of_one_run(subject, &image)?;
    let mut amidst = 0;
    for moment in [0, 5, 20, 60] {
        let home = Home::new(subject, "killed-home")?;
        let run = Container::start(&mut home.command(&["--image", &image, "sh", "-c", WHOLE]))?;
        // From here on it unpacks.
        let began = eventually(Duration::from_secs(10), || home.listing().len() > 1);
        ensure(began, || Failure::new("the runtime writes to its state folder", "it does not"))?;
        thread::sleep(Duration::from_millis(moment));
        let _ = run.signal(SIGKILL);
        amidst += usize::from(run.output()?.stdout.is_empty());
        expect(
            "whether the image is whole in the next run",
            "whole",
            home.run(&["--image", &image, "sh", "-c", WHOLE])?.ok()?,
        )?;
        expect(
            format!("what is in the state folder after a kill at {moment} ms"),
            &expected,
            &home.listing(),
        )?;
    }
    ensure(amidst >= 1, || Failure::new("the check kills in the midst of unpacking at least once", amidst))
}

fn depth(subject: &Subject) -> Checked {
    let home = Home::new(subject, "depth-home")?;
    let sound = Layout::of(subject, "depth-sound", &config(json!({})), &[base()?])?.name();
    home.run(&["--image", &sound])?.ok()?;
    let before = home.listing();
    let deep = Archive::default().record("path", "a/".repeat(500).as_bytes()).folder("x").end();
    // Only its digest tells, when all of it has been unpacked.
    let layer = Layer { media_type: LAYER.into(), blob: deep, diff_id: digest(b"another") };
    let image = Layout::of(subject, "depth", &config(json!({})), &[base()?, layer])?.name();
    let mut command = home.command_after("ulimit -n 256", &["--image", &image]);
    error(&Container::start(&mut command)?.output()?, 125, &[])?;
    expect("what is in the state folder, as before,", before, home.listing())
}

fn left_over(subject: &Subject) -> Checked {
    let home = Home::new(subject, "left-over-home")?;
    let sound = Layout::of(subject, "left-over", &config(json!({})), &[base()?])?.name();
    let left = home.path.join("layers/.unpacking-0/upper");
    fs::create_dir_all(&left)?;
    // Somebody looks at it.
    mount(Some("tmpfs"), &left, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
    let run = home.run(&["--image", &sound, "sh", "-c", "echo works"]);
    umount2(&left, MntFlags::MNT_DETACH)?;
    let run = run?;
    expect("what the container says", "works", run.ok()?)?;
    ensure(run.stderr.contains(".unpacking-0"), || {
        Failure::new("a line on stderr that names what stays", format!("{:?}", run.stderr))
    })
}
