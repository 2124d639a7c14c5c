//! Images made by hand, sound ones and hostile ones.
//!
//! Each hostile image is refused with a text that names what is wrong; then the store must be empty, and what lies beside
//! it untouched. See the parent module.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ::tar::{EntryType, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::skipped;

/// An OCI layout in the making, beside a state folder.
struct Layout(TempDir);

impl Layout {
    fn new() -> Layout {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("image/blobs/sha256")).unwrap();
        fs::write(folder.path().join("image/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(folder.path().join("outside"), "untouched").unwrap();
        Layout(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn reference(&self) -> Reference {
        Reference { path: self.path(), tag: None }
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }

    /// A manifest of these layers: media type, blob, tar archive.
    fn manifest(&self, layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|(_, _, tar)| Digest::of(tar).to_string()).collect();
        let config = json!({ "architecture": model::architecture(), "os": "linux", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = self.blob(model::CONFIG, config.to_string().as_bytes());
        let layers: Vec<_> = layers.iter().map(|(kind, blob, _)| self.blob(kind, blob)).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.blob(model::MANIFEST, manifest.to_string().as_bytes())
    }

    /// The image of these plain layers.
    fn plain(archives: &[Vec<u8>]) -> Layout {
        let layout = Layout::new();
        let layers: Vec<_> = archives.iter().map(|tar| (model::LAYER, tar.clone(), tar.clone())).collect();
        layout.index(&[layout.manifest(&layers)]);
        layout
    }

    fn unpack(&self) -> Result<Vec<PathBuf>> {
        Image::open(&self.reference())?.unpack(&self.state())
    }

    /// Must be refused with these words, and must leave nothing.
    fn refused(&self, words: &str) {
        self.refused_within(Limits::default(), words);
    }

    fn refused_within(&self, limits: Limits, words: &str) {
        let error =
            Image::open(&self.reference()).and_then(|image| image.unpack_within(&self.state(), limits));
        let error = error.map(|_| panic!("not refused: {words}")).unwrap_err();
        assert!(error.to_string().contains(words), "{words:?} is not in: {error}");
        assert_eq!(error.status(), 125);
        let left: Vec<_> =
            fs::read_dir(self.state().join("layers")).into_iter().flatten().flatten().collect();
        let left: Vec<_> = left.into_iter().map(|it| it.file_name()).filter(|name| name != ".lock").collect();
        assert!(left.is_empty(), "left in the store: {left:?}");
        assert_eq!(fs::read_to_string(self.0.path().join("outside")).unwrap(), "untouched");
        let there = fs::read_dir(self.0.path()).unwrap().count();
        assert!(there <= 3, "something was made beside the store");
    }
}

/// An archive in the making, which takes what the `tar` crate would refuse to write.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn with(mut self, kind: EntryType, name: &str, link: &str, data: &[u8], mode: u32) -> Archive {
        self.push(kind, name.as_bytes(), link.as_bytes(), data, mode);
        self
    }

    fn file(self, name: &str, data: &str) -> Archive {
        self.with(EntryType::Regular, name, "", data.as_bytes(), 0o644)
    }

    fn folder(self, name: &str) -> Archive {
        self.with(EntryType::Directory, name, "", b"", 0o755)
    }

    fn symlink(self, name: &str, link: &str) -> Archive {
        self.with(EntryType::Symlink, name, link, b"", 0o777)
    }

    fn hard_link(self, name: &str, link: &str) -> Archive {
        self.with(EntryType::Link, name, link, b"", 0o644)
    }

    /// A pax record before the next entry.
    fn pax(self, key: &str, value: &str) -> Archive {
        let rest = format!(" {key}={value}\n");
        let length =
            (rest.len() + 1..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
        self.with(EntryType::XHeader, "pax", "", format!("{length}{rest}").as_bytes(), 0o644)
    }

    fn push(&mut self, kind: EntryType, name: &[u8], link: &[u8], data: &[u8], mode: u32) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.block(&header, data);
    }

    fn block(&mut self, header: &Header, data: &[u8]) {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(tar::BLOCK), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * tar::BLOCK]);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    // In two frames, with one between them that is to be skipped.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    [::zstd::encode_all(first, 1).unwrap(), skipped, ::zstd::encode_all(second, 1).unwrap()].concat()
}

/// Layers are mounted and have owners.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skipped("to unpack an image one must be root");
    }
    is_root
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_char_device() && it.rdev() == 0)
}

/// The facts about a tree, without overlay's notes.
fn facts(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut facts = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let own = [folder.clone()].into_iter().filter(|it| it == root);
        for path in fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path()).chain(own) {
            let it = fs::symlink_metadata(&path).unwrap();
            let content = if it.is_file() {
                Digest::of(&fs::read(&path).unwrap()).to_string()
            } else {
                fs::read_link(&path).map(|it| it.display().to_string()).unwrap_or_default()
            };
            let names =
                xattr::list(&path).unwrap().into_iter().filter(|it| !xattr::is_machines_own(it.to_bytes()));
            let mut xattrs: Vec<_> = names.map(|it| (xattr::get(&path, &it).unwrap(), it)).collect();
            xattrs.sort();
            let opaque = xattr::get(&path, c"trusted.overlay.opaque").unwrap_or_default();
            let (mode, owner, time) = (it.mode(), (it.uid(), it.gid()), (it.mtime(), it.mtime_nsec()));
            let links = if it.is_dir() { 0 } else { it.nlink() };
            // Who whites a file out, and when, is nobody's concern.
            let fact = if is_whiteout(&path) {
                "whiteout".into()
            } else {
                format!("{mode:o} {owner:?} {time:?} {links} {} {content} {xattrs:?} {opaque:?}", it.rdev())
            };
            facts.insert(path.strip_prefix(root).unwrap().to_owned(), fact);
            if it.is_dir() && path != folder {
                folders.push(path);
            }
        }
    }
    facts
}

/// A lower and an upper layer with everything that a layer can have.
fn rich() -> [Vec<u8>; 2] {
    let capability = "\x01\0\0\x02\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let lower = Archive::default()
        .folder("./")
        .folder("usr/bin")
        .symlink("bin", "usr/bin")
        .with(EntryType::Regular, "usr/bin/su", "", b"#!", 0o4755)
        .pax("SCHILY.xattr.security.capability", capability)
        .pax("SCHILY.xattr.user.note", "a=b\nc")
        .file("usr/bin/ping", "x")
        .hard_link("usr/bin/ping6", "usr/bin/ping")
        .with(EntryType::Fifo, "fifo", "", b"", 0o600)
        .folder("gone")
        .file("gone/file", "1")
        .folder("opaque")
        .file("opaque/below", "1")
        .folder("becomes-file")
        .file("becomes-file/x", "1")
        .file("becomes-folder", "1")
        .pax("mtime", "-1.25")
        .file("old", "1")
        .file("twice", "first")
        .file("twice", "second")
        .end();
    let upper = Archive::default()
        .file("bin/new", "through the link of the layer below")
        .file(".wh.gone", "")
        .folder("opaque")
        .file("opaque/above", "2")
        .file("opaque/.wh..wh..opq", "")
        .file("becomes-file", "2")
        .folder("becomes-folder")
        .file("becomes-folder/y", "2")
        .file("usr/bin/.wh.not-there", "")
        .hard_link("su", "usr/bin/su")
        .end();
    [lower, upper]
}

#[test]
fn everything_that_a_layer_can_have() {
    if !is_root() {
        return;
    }
    let [lower, upper] = rich();
    let layout = Layout::new();
    layout.index(&[layout.manifest(&[
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&lower), lower),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd(&upper), upper),
    ])]);
    let layers = layout.unpack().unwrap();
    let [lower, upper] = layers.as_slice() else { panic!("{layers:?}") };
    let read = |path: &str| fs::read_to_string(lower.join(path)).unwrap();
    let stat = |layer: &Path, path: &str| fs::symlink_metadata(layer.join(path)).unwrap();
    assert_eq!(stat(lower, "usr/bin/su").mode(), 0o104_755);
    assert_eq!(xattr::get(&lower.join("usr/bin/ping"), c"user.note"), Ok(b"a=b\nc".to_vec()));
    assert_eq!(xattr::get(&lower.join("usr/bin/ping"), c"security.capability").unwrap().len(), 20);
    assert_eq!(stat(lower, "usr/bin/ping6").ino(), stat(lower, "usr/bin/ping").ino());
    assert!(stat(lower, "fifo").file_type().is_fifo());
    assert_eq!((stat(lower, "old").mtime(), stat(lower, "old").mtime_nsec()), (-2, 750_000_000));
    assert_eq!(stat(lower, "usr/bin").mtime(), 1_000_000_000);
    assert_eq!(read("twice"), "second");

    assert!(stat(upper, "usr/bin/new").is_file(), "the link of the layer below is followed");
    assert_eq!(stat(upper, "usr/bin").mtime(), 1_000_000_000, "a folder's time, as below");
    assert!(is_whiteout(&upper.join("gone")));
    assert!(is_whiteout(&upper.join("opaque/below")) && stat(upper, "opaque/above").is_file());
    assert!(stat(upper, "becomes-file").is_file());
    assert_eq!(xattr::get(&upper.join("becomes-folder"), c"trusted.overlay.opaque"), Ok(b"y".to_vec()));
    assert!(fs::symlink_metadata(upper.join("usr/bin/not-there")).is_err());
    assert_eq!(stat(upper, "su").mode(), 0o104_755);
    assert_eq!(stat(&layout.state(), "layers").mode() & 0o777, 0o700);
    // The second time there is nothing to do: not even the blobs are needed.
    let image = Image::open(&layout.reference()).unwrap();
    fs::remove_dir_all(layout.path()).unwrap();
    assert_eq!(image.unpack(&layout.state()).unwrap(), layers);
}

#[test]
fn a_commit_gives_the_same_layers_again() {
    if !is_root() {
        return;
    }
    let layout = Layout::plain(&rich());
    let layers = layout.unpack().unwrap();
    let work = tempfile::tempdir().unwrap();
    for (name, tag) in [("image.tar", None), ("folder", Some("v1".to_owned()))] {
        let target = Reference { path: work.path().join(name), tag };
        let base = Base { image: None, folders: &layers[..1] };
        commit(&target, base, &layers[1], &["sh".into(), "-c".into()]).unwrap();
        let image = Image::open(&target).unwrap();
        let again = image.unpack(&work.path().join("state")).unwrap();
        for (before, after) in layers.iter().zip(&again) {
            let (before, after) = (facts(before), facts(after));
            let differ: Vec<_> =
                before.iter().filter(|(path, fact)| after.get(*path) != Some(fact)).collect();
            assert!(differ.is_empty() && before.len() == after.len(), "{differ:#?}\n{after:#?}");
        }
        let left: Vec<_> = fs::read_dir(work.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert!(!left.iter().any(|it| it.to_string_lossy().starts_with('.')), "{left:?}");
    }
    // A second image, on the first one, in the same folder.
    let first = Image::open(&Reference { path: work.path().join("folder"), tag: Some("v1".into()) }).unwrap();
    let upper = work.path().join("upper");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("more"), "3").unwrap();
    let target = Reference { path: work.path().join("folder"), tag: Some("v2".into()) };
    commit(&target, Base { image: Some(&first), folders: &[] }, &upper, &["true".into()]).unwrap();
    assert_eq!(Image::open(&target).unwrap().layers.len(), 3);
    let error = Image::open(&Reference { path: target.path.clone(), tag: None }).unwrap_err();
    assert!(error.to_string().contains("several images"), "{error}");
    let other = Reference { path: upper.clone(), tag: None };
    let error = commit(&other, Base::default(), &upper, &[]).unwrap_err();
    assert!(error.to_string().contains("no OCI layout"), "{error}");
}

#[test]
fn names_that_lead_elsewhere() {
    if !is_root() {
        return;
    }
    for (name, words) in [
        ("../outside", "a name with .."),
        ("a/../../outside", "a name with .."),
        ("/outside", "an absolute name"),
        ("a/.wh...", "a whiteout of no file"),
        (".wh..", "a whiteout of no file"),
    ] {
        Layout::plain(&[Archive::default().file("good", "x").file(name, "hostile").end()]).refused(words);
    }
}

#[test]
fn a_symlink_that_is_written_through() {
    if !is_root() {
        return;
    }
    let victim = tempfile::tempdir().unwrap();
    let parent = victim.path().to_str().unwrap();
    let outside = victim.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let outside = outside.to_str().unwrap();
    Layout::plain(&[Archive::default().symlink("l", parent).file("l/outside", "hostile").end()])
        .refused("a symbolic link of the same layer");
    // The file takes the link's place: nothing is written through it.
    let layout = Layout::plain(&[Archive::default().symlink("l", outside).file("l", "mine").end()]);
    let layers = layout.unpack().unwrap();
    assert_eq!(fs::read_to_string(layers[0].join("l")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(outside).unwrap(), "untouched");
}

#[test]
fn a_symlink_of_the_layer_below_leads_to_a_place_in_the_image() {
    if !is_root() {
        return;
    }
    let victim = tempfile::tempdir().unwrap();
    let path = victim.path().to_str().unwrap();
    let below = Archive::default().symlink("l", path).symlink("up", "../../../../..").end();
    // As the place is not in the image, there is no folder to write into.
    Layout::plain(&[below.clone(), Archive::default().file("l/hostile", "x").end()]).unpack().unwrap_err();
    let layout = Layout::plain(&[below, Archive::default().file("up/hostile", "x").end()]);
    let layers = layout.unpack().unwrap();
    assert!(layers[1].join("hostile").is_file(), "the root is its own parent");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 0);
}

#[test]
fn hard_links_to_what_is_not_in_the_image() {
    if !is_root() {
        return;
    }
    let link = |target: &str| Layout::plain(&[Archive::default().hard_link("l", target).end()]);
    link("../outside").refused("a hard link to a name with ..");
    link("/etc/passwd").refused("which is not in this image");
    link("none").refused("which is not in this image");
    let through = Archive::default().symlink("s", "/etc").hard_link("l", "s/passwd").end();
    Layout::plain(&[through]).refused("a symbolic link of the same layer");
}

#[test]
fn devices_are_kept_but_cannot_be_used_or_forge_whiteouts() {
    if !is_root() {
        return;
    }
    let device = |major, minor, next: Archive| {
        let mut header = Header::new_gnu();
        header.set_path("dev").unwrap();
        header.set_entry_type(EntryType::Char);
        header.set_mode(0o666);
        (header.set_uid(0), header.set_gid(0), header.set_size(0), header.set_mtime(0));
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        let mut archive = Archive::default();
        archive.block(&header, b"");
        archive.0.extend_from_slice(&next.0);
        archive.end()
    };
    Layout::plain(&[device(0, 0, Archive::default())]).refused("the device 0:0");
    let layers = Layout::plain(&[device(1, 3, Archive::default())]);
    let path = layers.unpack().unwrap()[0].join("dev");
    assert_eq!(fs::metadata(path).unwrap().rdev(), nix::sys::stat::makedev(1, 3));
    let layers = Layout::plain(&[device(1, 3, Archive::default().file("dev", "replaced"))]);
    assert_eq!(fs::read_to_string(layers.unpack().unwrap()[0].join("dev")).unwrap(), "replaced");
}

#[test]
fn bombs() {
    if !is_root() {
        return;
    }
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    let zeroes = Archive::default().with(EntryType::Regular, "zeroes", "", &vec![0; 2 << 20], 0o644).end();
    let layout = Layout::new();
    layout.index(&[layout.manifest(&[(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        gzip(&zeroes),
        zeroes,
    )])]);
    layout.refused_within(limits, "is the limit");
    let many = (0..101).fold(Archive::default(), |archive, n| archive.file(&n.to_string(), "")).end();
    Layout::plain(&[many]).refused_within(limits, "more than 100 entries");
    // A file that is all hole takes no byte of the archive.
    let hole = Archive::default()
        .pax("GNU.sparse.map", "0,0")
        .pax("GNU.sparse.size", "9000000")
        .file("hole", "")
        .end();
    Layout::plain(&[hole]).refused_within(limits, "is the limit");
    // After the archive's end, where nobody looks.
    let mut behind = Archive::default().file("a", "").end();
    behind.resize(2 << 20, 0);
    Layout::plain(&[behind]).refused_within(limits, "is the limit");
}

#[test]
fn damaged_blobs() {
    if !is_root() {
        return;
    }
    let tar = Archive::default().file("a", &"x".repeat(5000)).end();
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layout = Layout::new();
    let mut cut = gzip(&tar);
    cut.truncate(cut.len() / 2);
    layout.index(&[layout.manifest(&[(kind, cut, tar.clone())])]);
    layout.refused("ends too early");

    let layout = Layout::new();
    layout.index(&[layout.manifest(&[(kind, gzip(&tar), b"another".to_vec())])]);
    layout.refused("and the config says");

    for (change, words) in [
        ((|bytes| bytes[100] ^= 1) as fn(&mut Vec<u8>), "its content has the digest"),
        (|bytes| bytes.push(0), "are declared"),
        (|bytes| bytes.truncate(bytes.len() - 1), "are declared"),
    ] {
        let layout = Layout::plain(std::slice::from_ref(&tar));
        let blob = layout.path().join("blobs/sha256").join(Digest::of(&tar).hex());
        let mut bytes = tar.clone();
        change(&mut bytes);
        fs::write(&blob, bytes).unwrap();
        if words.contains("digest") {
            // A changed header is seen by its checksum, which is not what is tried here.
            fs::write(
                &blob,
                tar.iter().map(|&byte| if byte == b'x' { b'y' } else { byte }).collect::<Vec<_>>(),
            )
            .unwrap();
        }
        layout.refused(words);
        fs::remove_file(&blob).unwrap();
        layout.refused("has no blob");
    }
}

#[test]
fn documents_that_are_wrong() {
    let layout = Layout::new();
    layout.refused("no index.json");
    layout.index(&[]);
    layout.refused("no image is in it");
    layout.index(&[json!({ "mediaType": "text/html", "digest": Digest::of(b"").to_string(), "size": 0 })]);
    layout.refused("unknown media type \"text/html\"");
    layout.index(&[
        json!({ "mediaType": model::MANIFEST, "digest": "sha256:../../../../etc/passwd", "size": 0 }),
    ]);
    layout.refused("is no digest");
    layout.index(&[layout.blob(model::MANIFEST, b"{}")]);
    layout.refused("missing field");
    let tar = Archive::default().end();
    layout.index(&[layout.manifest(&[("application/x-7z", tar.clone(), tar)])]);
    layout.refused("unknown media type \"application/x-7z\"");
    layout.index(&[
        json!({ "mediaType": model::MANIFEST, "digest": Digest::of(b"gone").to_string(), "size": 4 }),
    ]);
    layout.refused("has no blob");
    layout.index(&[layout.blob(model::MANIFEST, &vec![b' '; (4 << 20) + 1])]);
    layout.refused("more than 4194304");
}

#[test]
fn indexes_in_a_circle_or_too_deep() {
    let layout = Layout::new();
    // That an index names itself cannot be with true digests: its own would have to stand in it.
    let text = json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": model::INDEX, "digest": format!("sha256:{}", "0".repeat(64)), "size": 177 }] });
    fs::write(layout.path().join("blobs/sha256").join("0".repeat(64)), text.to_string()).unwrap();
    let size = text.to_string().len();
    layout.index(&[
        json!({ "mediaType": model::INDEX, "digest": format!("sha256:{}", "0".repeat(64)), "size": size }),
    ]);
    layout.refused("its content has the digest");
    let mut inner = layout.manifest(&[]);
    for depth in 0..6 {
        let index = json!({ "schemaVersion": 2, "manifests": [inner] });
        inner = layout.blob(model::INDEX, index.to_string().as_bytes());
        layout.index(std::slice::from_ref(&inner));
        if depth < 4 {
            Image::open(&layout.reference()).unwrap();
        } else {
            layout.refused("without an end");
        }
    }
    // Not deep, but many.
    let empty =
        |n: usize| layout.blob(model::INDEX, json!({ "manifests": [], "n": n }).to_string().as_bytes());
    layout.index(&(0..40).map(empty).collect::<Vec<_>>());
    layout.refused("without an end");
}

#[test]
fn names_of_any_kind() {
    if !is_root() {
        return;
    }
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let mut archive = Archive::default().pax("path", &long).file("short", "pax");
    archive = archive.with(
        EntryType::GNULongName,
        "././@LongLink",
        "",
        format!("{}\0", "g".repeat(150)).as_bytes(),
        0,
    );
    archive = archive.file("short", "gnu");
    archive = archive.with(
        EntryType::GNULongLink,
        "././@LongLink",
        "",
        format!("{}\0", "t".repeat(300)).as_bytes(),
        0,
    );
    archive = archive.symlink("link", "short");
    archive.push(EntryType::Regular, b"not-utf8-\xff\xfe", b"", b"x", 0o600);
    let layers = Layout::plain(&[archive.end()]);
    let root = &layers.unpack().unwrap()[0];
    assert_eq!(fs::read_to_string(root.join(long)).unwrap(), "pax");
    assert_eq!(fs::read_to_string(root.join("g".repeat(150))).unwrap(), "gnu");
    assert_eq!(fs::read_link(root.join("link")).unwrap().as_os_str().len(), 300);
    use std::os::unix::ffi::OsStrExt;
    assert!(root.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe")).is_file());

    let of = |name: String| Layout::plain(&[Archive::default().pax("path", &name).file("x", "").end()]);
    of("a/".repeat(2500)).refused("more than 512 parts");
    of(format!("{}/", "a".repeat(250)).repeat(20)).refused("more than 4096 bytes");
    of("n".repeat(5000)).refused("more than 255 bytes");
    of("n\0".into()).refused("a NUL byte");
    of("n".repeat(5 << 20)).refused("before an entry");
}

#[test]
fn sparse_files() {
    if !is_root() {
        return;
    }
    let expected = [vec![0; 4096], b"data".to_vec(), vec![0; 4092], b"end".to_vec(), vec![0; 1805]].concat();
    let mut map = b"2\n4096\n4\n8192\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"dataend");
    let mut gnu = Header::new_gnu();
    gnu.set_path("gnu").unwrap();
    gnu.set_entry_type(EntryType::GNUSparse);
    (gnu.set_uid(0), gnu.set_gid(0), gnu.set_mtime(0), gnu.set_mode(0o644), gnu.set_size(7));
    let fields = gnu.as_gnu_mut().unwrap();
    fields.sparse[0].offset.copy_from_slice(b"00000010000\0");
    fields.sparse[0].numbytes.copy_from_slice(b"00000000004\0");
    fields.set_is_extended(true);
    fields.realsize.copy_from_slice(b"00000023420\0");
    gnu.set_cksum();
    let mut extended = [0; 512];
    extended[..24].copy_from_slice(b"00000020000\x0000000000003\0");
    let mut archive = Archive::default()
        .pax("GNU.sparse.map", "4096,4,8192,3")
        .pax("GNU.sparse.size", "10000")
        .file("pax-0.1", "dataend")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.name", "pax-1.0")
        .pax("GNU.sparse.realsize", "10000")
        .with(EntryType::Regular, "GNUSparseFile.0/x", "", &map, 0o644);
    archive.0.extend_from_slice(gnu.as_bytes());
    archive.0.extend_from_slice(&extended);
    archive.0.extend_from_slice(b"dataend");
    archive.0.resize(archive.0.len().next_multiple_of(512), 0);
    let layers = Layout::plain(&[archive.file("last", "").end()]);
    let root = &layers.unpack().unwrap()[0];
    for name in ["pax-0.1", "pax-1.0", "gnu"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), expected, "{name}");
    }
    assert!(root.join("last").is_file());
    let bad = |map: &str| {
        Layout::plain(&[Archive::default()
            .pax("GNU.sparse.map", map)
            .pax("GNU.sparse.size", "10")
            .file("x", "data")
            .end()])
    };
    bad("0,2,1,2").refused("overlap or lie outside");
    bad("8,4").refused("overlap or lie outside");
    bad("0,2").refused("not as long as its data");
    bad("0,2,3").refused("list of pieces");
}

#[test]
fn archives_of_docker_save() {
    if !is_root() {
        return;
    }
    let [lower, upper] = rich();
    let diff_ids = [Digest::of(&lower).to_string(), Digest::of(&upper).to_string()];
    let config = json!({ "architecture": model::architecture(), "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = config.to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest = json!([
        { "Config": name, "RepoTags": ["debian:12", "debian:latest"], "Layers": ["a/layer.tar", "b/layer.tar"] },
        { "Config": "none.json", "RepoTags": ["other:1"], "Layers": [] }
    ]);
    let archive = |config: &str| {
        Archive::default()
            .with(EntryType::Regular, "c/layer.tar", "", &lower, 0o644)
            .symlink("a/layer.tar", "../c/layer.tar")
            .with(EntryType::Regular, "b/layer.tar", "", &gzip(&upper), 0o644)
            .file(&name[..64], "x")
            .pax("path", &name)
            .file("config", config)
            .symlink("circle", "circle")
            .file("manifest.json", &manifest.to_string())
            .end()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.tar");
    fs::write(&path, archive(&config)).unwrap();
    let open =
        |tag: Option<&str>| Image::open(&Reference { path: path.clone(), tag: tag.map(str::to_owned) });
    for tag in [None, Some("latest"), Some("12"), Some("debian:12")] {
        assert_eq!(open(tag).unwrap().unpack(&folder.path().join("state")).unwrap().len(), 2);
    }
    let error = open(Some("11")).unwrap_err();
    assert!(error.to_string().contains("no image has the tag \"11\""), "{error}");
    assert!(format!("{error:?}").contains("debian:12, debian:latest, other:1"), "{error:?}");
    // The base of a commit: its layers become blobs.
    let image = open(None).unwrap();
    let target = Reference { path: folder.path().join("new"), tag: None };
    commit(
        &target,
        Base { image: Some(&image), folders: &[] },
        &folder.path().join("state/layers").join(chain(&image)),
        &[],
    )
    .unwrap();
    assert_eq!(Image::open(&target).unwrap().layers.len(), 3);

    fs::write(&path, archive(&format!("{config} "))).unwrap();
    assert!(open(None).unwrap_err().to_string().contains("its content has the digest"));
    fs::write(&path, gzip(&archive(&config))).unwrap();
    assert!(format!("{:?}", open(None).unwrap_err()).contains("it is compressed"));
    fs::write(&path, b"").unwrap();
    assert!(open(None).unwrap_err().to_string().contains("no tar archive"));
}

/// The folder of an image's highest layer.
fn chain(image: &Image) -> String {
    image.diff_ids.iter().copied().reduce(Digest::chain).unwrap().hex()
}

#[test]
fn what_a_killed_unpacking_left_is_swept_and_two_at_once_are_one() {
    if !is_root() {
        return;
    }
    let layout = Layout::plain(&rich());
    let left = layout.state().join("layers/.unpacking-1/upper/a");
    fs::create_dir_all(&left).unwrap();
    let layers = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| layout.unpack().unwrap())).collect();
        all.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(layers.iter().all(|it| *it == layers[0]));
    assert!(!left.exists());
    assert_eq!(fs::read_dir(layout.state().join("layers")).unwrap().count(), 3, "two layers and the lock");
}

#[test]
fn the_image_for_this_machine() {
    let layout = Layout::new();
    let mut here = layout.manifest(&[]);
    let mut other = layout.blob(model::MANIFEST, b"{}");
    here["platform"] = json!({ "architecture": model::architecture(), "os": "linux", "variant": "v8" });
    other["platform"] = json!({ "architecture": "mips", "os": "linux" });
    layout.index(&[other.clone(), here]);
    Image::open(&layout.reference()).unwrap();
    layout.index(&[other]);
    layout.refused("not for this machine");
    let error = Image::open(&layout.reference()).unwrap_err();
    assert!(format!("{error:?}").contains("it is for linux/mips"));
}
