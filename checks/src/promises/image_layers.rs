//! An image's layers, one on top of the other, as they are seen in a container that is held.
//!
//! Sources: OCI image specification, layer.md, "Whiteouts" and "File Types"; pax(1) of POSIX. Man page:
//! inode(7).

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use tar::EntryType;

use crate::image::{Archive, Entry, Home, Layer, Layout, MTIME, base, config};
use crate::tree::{Tree, same};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "image.whiteouts",
        "A layer deletes, clears and replaces what the layers below have.", whiteouts)
        .hint(".wh.NAME removes NAME of the layers below, .wh..wh..opq all that they have in a folder."),
    Check::since(3, "image.attributes",
        "Files have the owners, modes, times, attributes and types that the layers say.", attributes)
        // Without it, many owners and all devices are left out.
        .needs(&[Need::Root])
        .hint("chown(2) removes setuid bits and capabilities, so call it first. A new file changes its \
               folder's time."),
    Check::since(3, "image.names",
        "Long names, names that are not UTF-8, and files with holes are unpacked exactly.", names)
        .hint("pax records, GNU's long names, and sparse files in the form 1.0 of pax."),
    Check::since(3, "image.compression",
        "Layers that are plain, gzip and zstd give the same tree.", compression)
        .hint("The media type says how a layer is compressed; gzip and zstd may be of several parts."),
];

/// The entry at a path, as `kind mode owner:group`, and a file's content.
fn lines(root: &Path, tree: &Tree) -> Vec<String> {
    let line = |(path, facts): (&std::path::PathBuf, &crate::tree::Facts)| {
        let content = fs::read_to_string(root.join(path)).ok().filter(|_| facts.kind == "file");
        format!("{} {} {}", path.display(), facts.kind, content.unwrap_or_default()).trim().to_owned()
    };
    tree.iter().map(line).collect()
}

/// The layers on top of a base in a container of which the folder `/t` is looked at.
fn look(
    subject: &Subject,
    name: &str,
    layers: Vec<Archive>,
    look: impl FnOnce(&Path, &Tree) -> Checked,
) -> Checked {
    let layers: Vec<_> = [base()?].into_iter().chain(layers.into_iter().map(Layer::plain)).collect();
    let image = Layout::of(subject, name, &config(json!({})), &layers)?.name();
    let container = subject.hold(&[subject.as_host_root(), &["--image", &image]].concat())?;
    let root = container.first()?.path("root/t");
    look(&root, &crate::tree::read(&root)?)
}

fn whiteouts(subject: &Subject) -> Checked {
    let mut lower = Archive::default().symlink("link", "t");
    for folder in
        ["t", "t/gone-folder", "t/opaque", "t/opaque/sub", "t/to-file", "t/there-and-back", "t/as-it-is"]
    {
        lower = lower.folder(folder);
    }
    for file in [
        "gone",
        "gone-folder/x",
        "opaque/below",
        "opaque/sub/below",
        "to-file/x",
        "there-and-back/old",
        "to-folder",
        "as-it-is/x",
    ] {
        lower = lower.file(&format!("t/{file}"), "lower");
    }
    let middle = Archive::default()
        .file("t/.wh.gone", "")
        .file("t/.wh.gone-folder", "")
        // Above what it hides, and what its own layer has stays: the order means nothing.
        .file("t/opaque/above", "middle")
        .file("t/opaque/.wh..wh..opq", "")
        .file("t/to-file", "middle")
        // As buildah writes it: each file of the folder that is gone.
        .file("t/to-file/.wh.x", "")
        .file("t/not-there/.wh.x", "")
        .hard_link("t/hard", "t/as-it-is/x")
        .file("t/.wh.to-folder", "")
        .folder("t/to-folder")
        .file("t/to-folder/y", "middle")
        .file("t/there-and-back", "middle")
        .file("link/through-link", "middle");
    let upper = Archive::default()
        .folder("t/there-and-back")
        .file("t/there-and-back/new", "upper")
        .file("t/gone", "upper")
        .file("t/.wh.never-there", "");
    look(subject, "whiteouts", vec![lower, middle, upper], |root, tree| {
        let expected = [
            "folder",
            "as-it-is folder",
            "as-it-is/x file lower",
            "gone file upper",
            "hard file lower",
            "opaque folder",
            "opaque/above file middle",
            "there-and-back folder",
            "there-and-back/new file upper",
            "through-link file middle",
            "to-file file middle",
            "to-folder folder",
            "to-folder/y file middle",
        ];
        expect("what is in the folder /t", expected.map(str::to_owned).to_vec(), lines(root, tree))
    })
}

/// A program's `cap_net_raw=ep`: capabilities(7), "File capabilities".
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One of each kind.
fn kinds() -> Archive {
    let device =
        |kind, name: &'static [u8], device| Entry { kind, name, device, mode: 0o620, ..Entry::default() };
    Archive::default()
        .folder("t")
        .entry(&Entry { name: b"t/setuid", data: b"#!", mode: 0o6755, owner: (7, 8), ..Entry::default() })
        .record("SCHILY.xattr.security.capability", &CAPABILITY)
        .entry(&Entry {
            name: b"t/capable",
            data: b"#!",
            mode: 0o755,
            owner: (1000, 1000),
            ..Entry::default()
        })
        .record("SCHILY.xattr.trusted.note", b"a=b\n\xff")
        .file("t/noted", "x")
        .record("uid", b"3000000000")
        .record("gid", b"100000")
        .record("mtime", b"1234567890.123456789")
        .file("t/owned", "x")
        .entry(&Entry { kind: EntryType::Directory, name: b"t/sticky", mode: 0o1777, ..Entry::default() })
        .file("t/sticky/x", "x")
        .hard_link("t/zz-hard", "t/setuid")
        .symlink("t/link", "/etc/passwd")
        .entry(&Entry { kind: EntryType::Fifo, name: b"t/pipe", mode: 0o600, ..Entry::default() })
        .entry(&device(EntryType::Char, b"t/null", (1, 3)))
        .entry(&device(EntryType::Block, b"t/disk", (7, 300)))
}

fn attributes(subject: &Subject) -> Checked {
    // The second layer makes a file in a folder of the first. The folder's time stays.
    let upper = Archive::default().file("t/sticky/.wh.x", "").file("t/sticky/y", "");
    look(subject, "attributes", vec![kinds(), upper], |root, tree| {
        for (name, expected) in [
            ("setuid", (0o6755, (7, 8))),
            ("capable", (0o755, (1000, 1000))),
            ("noted", (0o644, (0, 0))),
            ("owned", (0o644, (3_000_000_000, 100_000))),
            ("sticky", (0o1777, (0, 0))),
            ("zz-hard", (0o6755, (7, 8))),
            ("pipe", (0o600, (0, 0))),
            ("null", (0o620, (0, 0))),
        ] {
            let facts = tree.get(Path::new(name)).map(|it| (it.mode, it.owner));
            expect(format!("mode and owner of /t/{name}"), Some(expected), facts)?;
        }
        let kinds: Vec<_> = ["pipe", "null", "disk", "link"]
            .iter()
            .map(|it| tree.get(Path::new(it)).map_or("none", |it| it.kind))
            .collect();
        expect("the kinds of the others", vec!["pipe", "character device", "block device", "link"], kinds)?;
        let numbers = |name| fs::symlink_metadata(root.join(name)).map(|it| it.rdev());
        expect("the number of the device null", nix::sys::stat::makedev(1, 3), numbers("null")?)?;
        expect("the number of the device disk", nix::sys::stat::makedev(7, 300), numbers("disk")?)?;
        let xattr =
            |file: &str, name: &str| tree.get(Path::new(file)).and_then(|it| it.xattrs.get(name).cloned());
        expect("security.capability", Some(CAPABILITY.to_vec()), xattr("capable", "security.capability"))?;
        expect("trusted.note", Some(b"a=b\n\xff".to_vec()), xattr("noted", "trusted.note"))?;
        let time = |name: &str| tree.get(Path::new(name)).map(|it| it.mtime);
        expect("the time of a file", Some((1_234_567_890, 123_456_789)), time("owned"))?;
        for name in ["sticky", "", "link"] {
            expect(format!("the time of /t/{name}"), Some((MTIME.cast_signed(), 0)), time(name))?;
        }
        let same_as = tree.get(Path::new("zz-hard")).and_then(|it| it.same_as.clone());
        expect("of which file zz-hard is another name", Some("setuid".into()), same_as)
    })
}

fn names(subject: &Subject) -> Checked {
    // With the root's own path before it, still below the 4096 bytes that the kernel takes.
    let long = format!("t/{}end", format!("{}/", "part-of-a-name".repeat(14)).repeat(19));
    let gnu = format!("t/{}", "g".repeat(200));
    let map = [b"2\n4096\n4\n900000\n3\n".as_slice(), &[0; 512 - 18], b"dataend"].concat();
    let layer = Archive::default()
        .folder("t")
        .record("path", long.as_bytes())
        .file("short", "long")
        .entry(&Entry {
            kind: EntryType::GNULongName,
            name: b"././@LongLink",
            data: format!("{gnu}\0").as_bytes(),
            ..Entry::default()
        })
        .file("short", "gnu")
        .entry(&Entry {
            kind: EntryType::GNULongLink,
            name: b"././@LongLink",
            data: format!("{}\0", "l".repeat(300)).as_bytes(),
            ..Entry::default()
        })
        .symlink("t/link", "short")
        .entry(&Entry { name: b"t/not-utf8-\xff\xfe", data: b"x", ..Entry::default() })
        .record("GNU.sparse.major", b"1")
        .record("GNU.sparse.minor", b"0")
        .record("GNU.sparse.name", b"t/holes")
        .record("GNU.sparse.realsize", b"1000000")
        .entry(&Entry { name: b"GNUSparseFile.0/holes", data: &map, ..Entry::default() });
    ensure(long.len() > 3700, || Failure::new("a long name", long.len()))?;
    look(subject, "names", vec![layer], |root, _| {
        let text = |name: &str| fs::read_to_string(root.join(name.trim_start_matches("t/")));
        expect("the file with the long name", "long", text(&long)?.as_str())?;
        expect("the file with GNU's long name", "gnu", text(&gnu)?.as_str())?;
        let link = fs::read_link(root.join("link"))?;
        expect("the link with GNU's long target", "l".repeat(300), link.display().to_string())?;
        let name = root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe"));
        ensure(name.is_file(), || Failure::new("the file whose name is no UTF-8", "none"))?;
        let mut holes = vec![0; 1_000_000];
        (&mut holes[4096..]).write_all(b"data")?;
        (&mut holes[900_000..]).write_all(b"end")?;
        ensure(fs::read(root.join("holes"))? == holes, || {
            Failure::new("the file with holes is right", "it is not")
        })?;
        let blocks = fs::metadata(root.join("holes"))?.blocks();
        ensure(blocks < 200, || {
            Failure::new("its holes take no room", format!("{blocks} blocks of 512 bytes"))
        })
    })
}

fn compression(subject: &Subject) -> Checked {
    let base = base()?;
    let mut trees = Vec::new();
    for layer in [Layer::plain(kinds()), Layer::gzip(kinds())?, Layer::zstd(kinds())?] {
        let what = layer.media_type.clone();
        let image = Layout::of(subject, "compressed", &config(json!({})), &[base.clone(), layer])?.name();
        // What one has unpacked must not do for the next.
        trees.push((what, Home::new(subject, "compressed-home")?.tree(&["--image", &image])?));
    }
    let (_, first) = &trees[0];
    // An ordinary user makes no devices.
    let count = if nix::unistd::geteuid().is_root() { 12 } else { 10 };
    ensure(first.len() == count, || {
        Failure::new(format!("{count} files in the folder /t"), format!("{:?}", first.keys()))
    })?;
    trees[1..].iter().try_for_each(|(what, tree)| same(what, first, tree))
}
