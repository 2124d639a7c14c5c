//! Images made by hand, sound ones here and hostile ones in `hostile`.
//!
//! A layout lies in a folder of the test's own, beside the state folder. See the parent module.

/// Ends a test that unpacks an image, if this process is not root: layers are mounted, and have owners.
macro_rules! root_only {
    () => {
        if !nix::unistd::geteuid().is_root() {
            return skipped("to unpack an image one must be root");
        }
    };
}

mod hostile;
#[cfg(feature = "idmap")]
mod rootless;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ::tar::{EntryType, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::digest::Digest;
use super::*;
use crate::fs::xattr;
use crate::sys::error::Result;
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
        let config = self.blob(model::CONFIG, config(&diff_ids).as_bytes());
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

/// The config of an image for this machine.
fn config(diff_ids: &[String]) -> String {
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let run = json!({ "Cmd": ["sh"] });
    json!({ "architecture": model::architecture(), "os": "linux", "config": run, "rootfs": rootfs })
        .to_string()
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
        let mut header = header(kind, name, data.len());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_mode(mode);
        self.block(header, data);
    }

    fn block(&mut self, mut header: Header, data: &[u8]) {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(tar::BLOCK), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * tar::BLOCK]);
        self.0
    }
}

fn header(kind: EntryType, name: &[u8], size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    header
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

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| crate::fs::overlay::is_whiteout(&there))
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
                xattr::list(&path).unwrap().into_iter().filter(|it| !xattr::is_machines_own(it.as_bytes()));
            let mut xattrs: Vec<_> = names.map(|it| (xattr::get(&path, &it).unwrap(), it)).collect();
            xattrs.sort();
            let opaque = xattr::get(&path, "trusted.overlay.opaque").unwrap_or_default();
            let (mode, owner, time) = (it.mode(), (it.uid(), it.gid()), (it.mtime(), it.mtime_nsec()));
            let links = if it.is_dir() { 0 } else { it.nlink() };
            // The owner and the time of a whiteout mean nothing.
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
        .folder("gone-in-parts")
        .file("gone-in-parts/within/file", "1")
        .folder("opaque")
        .file("opaque/below", "1")
        .folder("becomes-file")
        .file("becomes-file/x", "1")
        .file("becomes-folder", "1")
        .pax("mtime", "-1.25")
        .file("old", "1")
        .file("deep/er/old", "1")
        .file("twice", "first")
        .file("twice", "second")
        .end();
    let upper = Archive::default()
        .file("bin/new", "through the link of the layer below")
        .file(".wh.gone", "")
        .file("gone-in-parts/within/.wh.file", "")
        .file(".wh.gone-in-parts", "")
        .folder("opaque")
        .file("opaque/above", "2")
        .file("opaque/.wh..wh..opq", "")
        .file("becomes-file", "2")
        .file("becomes-file/.wh.x", "")
        .file("not-there/.wh.x", "")
        .folder("becomes-folder")
        .file("becomes-folder/y", "2")
        .file("usr/bin/.wh.not-there", "")
        .file("deep/er/new", "2")
        .file("deep/.wh..wh..opq", "")
        .hard_link("su", "usr/bin/su")
        .end();
    [lower, upper]
}

#[test]
fn everything_that_a_layer_can_have() {
    root_only!();
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
    assert_eq!(xattr::get(&lower.join("usr/bin/ping"), "user.note"), Ok(b"a=b\nc".to_vec()));
    assert_eq!(xattr::get(&lower.join("usr/bin/ping"), "security.capability").unwrap().len(), 20);
    assert_eq!(stat(lower, "usr/bin/ping6").ino(), stat(lower, "usr/bin/ping").ino());
    assert!(stat(lower, "fifo").file_type().is_fifo());
    assert_eq!((stat(lower, "old").mtime(), stat(lower, "old").mtime_nsec()), (-2, 750_000_000));
    assert_eq!(stat(lower, "usr/bin").mtime(), 1_000_000_000);
    assert_eq!(read("twice"), "second");

    assert!(stat(upper, "usr/bin/new").is_file(), "the link of the layer below is followed");
    assert_eq!(stat(upper, "usr/bin").mtime(), 1_000_000_000, "a folder's time, as below");
    assert!(is_whiteout(&upper.join("gone")) && is_whiteout(&upper.join("gone-in-parts")));
    assert!(is_whiteout(&upper.join("opaque/below")) && stat(upper, "opaque/above").is_file());
    assert!(stat(upper, "deep/er/new").is_file() && is_whiteout(&upper.join("deep/er/old")));
    assert!(stat(upper, "becomes-file").is_file());
    assert_eq!(xattr::get(&upper.join("becomes-folder"), "trusted.overlay.opaque"), Ok(b"y".to_vec()));
    for path in ["usr/bin/not-there", "not-there"] {
        assert!(fs::symlink_metadata(upper.join(path)).is_err(), "{path}");
    }
    assert_eq!(stat(upper, "su").mode(), 0o104_755);
    assert_eq!(stat(&layout.state(), "layers").mode() & 0o777, 0o700);
    // The second time there is nothing to do: not even the blobs are needed.
    let image = Image::open(&layout.reference()).unwrap();
    fs::remove_dir_all(layout.path()).unwrap();
    assert_eq!(image.unpack(&layout.state()).unwrap(), layers);
}

#[test]
fn a_commit_gives_the_same_layers_again() {
    root_only!();
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
fn which_image_a_tag_means() {
    let layout = Layout::new();
    let tars = ["alpine", "busybox"].map(|name| Archive::default().file(name, "").end());
    let image = |number: usize, annotations: Value| {
        let tar = &tars[number];
        let mut manifest = layout.manifest(&[(model::LAYER, tar.clone(), tar.clone())]);
        manifest["annotations"] = annotations;
        manifest
    };
    let found = |tag: Option<&str>| {
        let image = Image::open(&Reference { tag: tag.map(Into::into), ..layout.reference() });
        image.map(|image| tars.iter().position(|tar| Digest::of(tar) == image.diff_ids[0]).unwrap())
    };
    // As `docker save` of two images names them.
    let saved = |name: &str| {
        let whole = format!("docker.io/library/{name}:latest");
        json!({ model::REF_NAME: "latest", model::IMAGE_NAME: whole })
    };
    layout.index(&[image(0, saved("alpine")), image(1, saved("busybox"))]);
    for (number, name) in ["alpine:latest", "docker.io/library/busybox:latest"].into_iter().enumerate() {
        assert_eq!(found(Some(name)).unwrap(), number);
    }
    for tag in [None, Some("latest")] {
        assert!(found(tag).unwrap_err().to_string().contains("several images"));
    }
    // As another tool made one without a tag, to which --commit has added one.
    layout.index(&[image(0, json!({})), image(1, json!({ model::REF_NAME: "latest" }))]);
    assert_eq!(found(None).unwrap(), 1);
}

#[test]
fn archives_of_docker_save() {
    root_only!();
    let [lower, upper] = rich();
    let diff_ids = [Digest::of(&lower).to_string(), Digest::of(&upper).to_string()];
    let config = config(&diff_ids);
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest = json!([
        {
            "Config": name,
            "RepoTags": ["debian:12", "debian:latest"],
            "Layers": ["a/layer.tar", "b/layer.tar"],
        },
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
    root_only!();
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

#[test]
fn an_opaque_folder_of_the_upper_layer_hides_what_is_below_in_the_image_too() {
    root_only!();
    let layout =
        Layout::plain(&[Archive::default().folder("d").file("d/below", "1").file("d/both", "1").end()]);
    let layers = layout.unpack().unwrap();
    let upper = layout.0.path().join("upper");
    fs::create_dir_all(upper.join("d")).unwrap();
    fs::write(upper.join("d/both"), "2").unwrap();
    xattr::set(&upper.join("d"), "trusted.overlay.opaque", b"y").unwrap();
    let target = Reference { path: layout.0.path().join("new"), tag: None };
    commit(&target, Base { image: None, folders: &layers }, &upper, &[]).unwrap();
    let layers = Image::open(&target).unwrap().unpack(&layout.state()).unwrap();
    assert!(is_whiteout(&layers[1].join("d/below")));
    assert_eq!(fs::read_to_string(layers[1].join("d/both")).unwrap(), "2");
}
