//! Images made by hand, for cases that no check of an image covers. These are the smaller limits, forms that
//! no tool writes any more, and which image a name means.
//!
//! A layout lies in a folder of the test's own, beside the state folder. See the parent module, and the
//! checks `image.*`.

/// Ends a test that unpacks an image, if this process is not root: layers are mounted, and have owners.
macro_rules! root_only {
    () => {
        if !nix::unistd::geteuid().is_root() {
            return skipped("to unpack an image one must be root");
        }
    };
}

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use ::tar::{EntryType, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::digest::Digest;
use super::*;
use crate::sys::error::Result;
use crate::testing::skipped;

/// An OCI layout in the making, beside a state folder.
struct Layout(TempDir);

impl Layout {
    fn new() -> Layout {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("image/blobs/sha256")).unwrap();
        fs::write(folder.path().join("image/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
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
    fn refused(&self, limits: Limits, words: &str) {
        let error =
            Image::open(&self.reference()).and_then(|image| image.unpack_within(&self.state(), limits));
        let error = error.map(|_| panic!("not refused: {words}")).unwrap_err();
        assert!(error.to_string().contains(words), "{words:?} is not in: {error}");
        let left = fs::read_dir(self.state().join("layers")).into_iter().flatten().flatten();
        let left: Vec<_> = left.map(|it| it.file_name()).filter(|name| name != ".lock").collect();
        assert!(left.is_empty(), "left in the store: {left:?}");
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

    fn symlink(self, name: &str, link: &str) -> Archive {
        self.with(EntryType::Symlink, name, link, b"", 0o777)
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

#[test]
fn an_unpacked_image_needs_no_blobs_and_lets_nobody_in() {
    root_only!();
    let layout = Layout::plain(&[Archive::default().file("a", "").end()]);
    let layers = layout.unpack().unwrap();
    assert_eq!(fs::metadata(layout.state().join("layers")).unwrap().mode() & 0o777, 0o700);
    let image = Image::open(&layout.reference()).unwrap();
    fs::remove_dir_all(layout.path()).unwrap();
    assert_eq!(image.unpack(&layout.state()).unwrap(), layers);
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

/// The program that runs is "image", and no other descriptor is read as an image. Each of them says in
/// another way what it is.
#[test]
fn what_is_no_image_is_never_chosen() {
    let layout = Layout::new();
    let image = layout.manifest(&[]);
    let tar = Archive::default().file("x", "").end();
    let rootfs = layout.blob(model::LAYER, &tar);
    let signed = layout.blob("application/vnd.dev.cosign.simplesigning.v1+json", b"{}");
    let config = layout.blob(model::CONFIG, config(&[Digest::of(&tar).to_string()]).as_bytes());
    let empty = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let document = |config: &Value, layer: &Value, artifact_type: &str| {
        let manifest = json!({
            "schemaVersion": 2, "artifactType": artifact_type, "config": config, "layers": [layer],
        });
        layout.blob(model::MANIFEST, manifest.to_string().as_bytes())
    };
    let with = |key: &str, value: Value| {
        let mut descriptor = document(&config, &rootfs, "");
        descriptor[key] = value;
        descriptor
    };
    let sbom = "application/spdx+json";
    let index = json!({ "manifests": [document(&config, &rootfs, "")], "artifactType": sbom });
    for (other, found) in [
        (document(&config, &rootfs, sbom), sbom),
        (document(&empty, &rootfs, ""), "application/vnd.oci.empty.v1+json"),
        (document(&config, &signed, ""), "application/vnd.dev.cosign.simplesigning.v1+json"),
        (with("artifactType", sbom.into()), sbom),
        (
            with("annotations", json!({ model::REFERENCE_TYPE: "attestation-manifest" })),
            "attestation-manifest",
        ),
        (with("platform", json!({ "os": "unknown", "architecture": "unknown" })), "unknown/unknown"),
        (layout.blob(model::INDEX, index.to_string().as_bytes()), sbom),
        (layout.blob("application/xml", b"<x/>"), "application/xml"),
    ] {
        for order in [[&other, &image], [&image, &other]] {
            layout.index(&order.map(Clone::clone));
            let opened = Image::open(&layout.reference()).unwrap_or_else(|error| panic!("{found}: {error}"));
            assert_eq!(opened.layers.len(), 0, "{found}");
        }
        layout.index(&[other]);
        let error = Image::open(&layout.reference()).unwrap_err();
        assert!(error.to_string().contains("is no image"), "{found}: {error}");
        assert!(format!("{error:?}").contains(&format!("found: {found}")), "{error:?}");
    }
    // The type of an image, said in the field for other types. Docker's old types of a config.
    for kind in [model::CONFIG, model::DOCKER_CONFIG, "application/octet-stream"] {
        let config = json!({ "mediaType": kind, "digest": config["digest"], "size": config["size"] });
        layout.index(&[document(&config, &rootfs, kind)]);
        assert_eq!(Image::open(&layout.reference()).unwrap().layers.len(), 1);
    }
}

#[test]
fn several_images_are_listed_with_what_to_write() {
    let layout = Layout::new();
    let image = |word: &str, machine: &str, annotations: Value| {
        let rootfs = json!({ "type": "layers", "diff_ids": [] });
        let config = json!({ "architecture": machine, "os": "linux", "rootfs": rootfs, "word": word });
        let config = layout.blob(model::CONFIG, config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string();
        let mut descriptor = layout.blob(model::MANIFEST, manifest.as_bytes());
        descriptor["annotations"] = annotations;
        descriptor
    };
    let open = |tag: Option<&str>| Image::open(&Reference { tag: tag.map(Into::into), ..layout.reference() });
    let word = |tag: Option<&str>| {
        let document: Value = serde_json::from_slice(&open(tag).unwrap().document).unwrap();
        document["word"].as_str().unwrap().to_owned()
    };
    let (here, path) = (model::architecture(), layout.path().display().to_string());
    let [one, two] = ["one", "two"].map(|name| image(name, here, json!({ model::REF_NAME: name })));
    let [left, right] = ["left", "right"].map(|name| image(name, here, json!({})));
    let digest = |it: &Value| it["digest"].as_str().unwrap().to_owned();

    layout.index(&[one.clone(), two, left.clone(), right.clone()]);
    let error = open(None).unwrap_err();
    assert!(error.to_string().contains("several images"), "{error}");
    let hint = format!("{error:?}");
    for line in [
        format!("{path}:one ({}, linux/{here})", &digest(&one)[..19]),
        format!("{path}:{} (linux/{here})", digest(&left)),
        format!("{path}:{} (linux/{here})", digest(&right)),
    ] {
        assert!(hint.contains(&line), "{line:?} is not in: {hint}");
    }
    // What the error says is right.
    assert_eq!([Some("one"), Some("two")].map(word), ["one", "two"]);
    assert_eq!(word(Some(&digest(&right))), "right");
    let none = digest(&layout.blob(model::LAYER, b""));
    assert!(open(Some(&none)).unwrap_err().to_string().contains("no image is at"));

    // The config tells the machine where the index does not.
    layout.index(&[image("far", "vax", json!({})), left.clone()]);
    assert_eq!(word(None), "left");
    // The same image under two tags is one image.
    let mut again = one.clone();
    again["annotations"] = json!({ model::REF_NAME: "again" });
    layout.index(&[one, again]);
    assert_eq!(word(None), "one");
    // Variants of one image: the lowest runs everywhere.
    let variant = |image: &Value, variant: &str| {
        let mut image = image.clone();
        image["platform"] = json!({ "os": "linux", "architecture": here, "variant": variant });
        image
    };
    layout.index(&[variant(&left, "v3"), variant(&right, "v2")]);
    assert_eq!(word(None), "right");
    layout.index(&[variant(&left, "v2"), variant(&right, "v2")]);
    assert!(format!("{:?}", open(None)).contains(&format!("{} (linux/{here}/v2)", digest(&left))));
}

#[test]
fn archives_of_docker_save() {
    root_only!();
    let [lower, upper] = ["lower", "upper"].map(|name| Archive::default().file(name, "").end());
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
    let unpack = |tag| open(tag).unwrap().unpack(&folder.path().join("state")).unwrap();
    for tag in [None, Some("latest"), Some("12"), Some("debian:12")] {
        assert_eq!(unpack(tag).len(), 2);
    }
    assert_eq!(open(Some(&format!("sha256:{}", name.trim_end_matches(".json")))).unwrap().layers.len(), 2);
    let error = open(Some("11")).unwrap_err();
    assert!(error.to_string().contains("no image has the tag \"11\""), "{error}");
    assert!(format!("{error:?}").contains("debian:12, debian:latest, other:1"), "{error:?}");
    // The base of a commit: its layers become blobs.
    let image = open(None).unwrap();
    let target = Reference { path: folder.path().join("new"), tag: None };
    commit(&target, Base { image: Some(&image), folders: &[] }, &unpack(None)[1], &[]).unwrap();
    assert_eq!(Image::open(&target).unwrap().layers.len(), 3);

    fs::write(&path, archive(&format!("{config} "))).unwrap();
    assert!(open(None).unwrap_err().to_string().contains("its content has the digest"));
    fs::write(&path, gzip(&archive(&config))).unwrap();
    assert_eq!(unpack(None).len(), 2, "an archive that is compressed as a whole");
    let (compressed, halves) = (gzip(&archive(&config)), archive(&config));
    let (one, other) = halves.split_at(700);
    let members = [gzip(one), gzip(other)].concat();
    for (padded, count) in [(&compressed, 1), (&compressed, 20_000), (&members, 512)] {
        fs::write(&path, [&padded[..], &vec![0; count]].concat()).unwrap();
        assert_eq!(unpack(None).len(), 2, "zeros follow, {count} of them");
    }
    for other in [&b"x"[..], b"\0x", &[&[0; 9][..], &compressed].concat()] {
        fs::write(&path, [&compressed[..], other].concat()).unwrap();
        let opened = open(None).and_then(|image| image.unpack(&folder.path().join("state-padded")));
        assert!(opened.is_err(), "something else follows");
    }
    fs::write(&path, &compressed[..compressed.len() - 3]).unwrap();
    assert!(open(None).and_then(|image| image.unpack(&folder.path().join("state-cut"))).is_err());
    fs::write(&path, b"BZh9").unwrap();
    assert!(format!("{:?}", open(None).unwrap_err()).contains("compressed by bzip2"));
    fs::write(&path, b"").unwrap();
    assert!(open(None).unwrap_err().to_string().contains("no tar archive"));
}

#[test]
fn a_symlink_of_the_layer_below_leads_to_a_place_in_the_image() {
    root_only!();
    let victim = tempfile::tempdir().unwrap();
    let path = victim.path().to_str().unwrap();
    let below = Archive::default().symlink("l", path).symlink("up", "../../../../..").end();
    let above = Archive::default().file("l/hostile", "x").file("up/hostile", "x").end();
    let layout = Layout::plain(&[below, above]);
    let layers = layout.unpack().unwrap();
    assert!(layers[1].join(&path[1..]).join("hostile").is_file(), "the folder is made in the image");
    assert!(layers[1].join("hostile").is_file(), "the root is its own parent");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 0);
}

#[test]
fn bombs() {
    root_only!();
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    let zeroes = Archive::default().with(EntryType::Regular, "zeroes", "", &vec![0; 2 << 20], 0o644).end();
    let layout = Layout::new();
    layout.index(&[layout.manifest(&[(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        gzip(&zeroes),
        zeroes,
    )])]);
    layout.refused(limits, "is the limit");
    let many = (0..101).fold(Archive::default(), |archive, n| archive.file(&n.to_string(), "")).end();
    Layout::plain(&[many]).refused(limits, "more than 100 entries");
    // A file that is all hole takes no byte of the archive.
    let hole = Archive::default()
        .pax("GNU.sparse.map", "0,0")
        .pax("GNU.sparse.size", "9000000")
        .file("hole", "")
        .end();
    Layout::plain(&[hole]).refused(limits, "is the limit");
    // After the archive's end, where no reader of the archive looks.
    let mut behind = Archive::default().file("a", "").end();
    behind.resize(2 << 20, 0);
    Layout::plain(&[behind]).refused(limits, "is the limit");
}

#[test]
fn indexes_that_are_too_deep_or_too_many() {
    let layout = Layout::new();
    let mut inner = layout.manifest(&[]);
    for depth in 0..6 {
        let index = json!({ "schemaVersion": 2, "manifests": [inner] });
        inner = layout.blob(model::INDEX, index.to_string().as_bytes());
        layout.index(std::slice::from_ref(&inner));
        if depth < 4 {
            Image::open(&layout.reference()).unwrap();
        } else {
            layout.refused(Limits::default(), "without an end");
        }
    }
    let empty =
        |n: usize| layout.blob(model::INDEX, json!({ "manifests": [], "n": n }).to_string().as_bytes());
    layout.index(&(0..40).map(empty).collect::<Vec<_>>());
    layout.refused(Limits::default(), "without an end");
}

#[test]
fn sparse_files() {
    root_only!();
    let expected = [vec![0; 4096], b"data".to_vec(), vec![0; 4092], b"end".to_vec(), vec![0; 1805]].concat();
    let mut map = b"2\n4096\n4\n8192\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"dataend");
    let mut gnu = header(EntryType::GNUSparse, b"gnu", 7);
    let fields = gnu.as_gnu_mut().unwrap();
    fields.sparse[0].offset.copy_from_slice(b"00000010000\0");
    fields.sparse[0].numbytes.copy_from_slice(b"00000000004\0");
    fields.set_is_extended(true);
    fields.realsize.copy_from_slice(b"00000023420\0");
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
    archive.block(gnu, &[&extended[..], b"dataend"].concat());
    let layers = Layout::plain(&[archive.file("last", "").end()]);
    let root = &layers.unpack().unwrap()[0];
    for name in ["pax-0.1", "pax-1.0", "gnu"] {
        assert_eq!(fs::read(root.join(name)).unwrap(), expected, "{name}");
    }
    assert!(root.join("last").is_file());
    for (map, words) in
        [("8,4", "overlap or lie outside"), ("0,2", "not as long as its data"), ("0,2,3", "list of pieces")]
    {
        let archive = Archive::default().pax("GNU.sparse.map", map).pax("GNU.sparse.size", "10");
        Layout::plain(&[archive.file("x", "data").end()]).refused(Limits::default(), words);
    }
}
