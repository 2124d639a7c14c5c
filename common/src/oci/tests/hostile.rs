//! Hostile images: what each of them tries, and with which words it is refused.
//!
//! Then the store must be empty, and all files beside it untouched:
//! [`Layout::refused`](super::Layout::refused). Images that are only unusual must work.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ::tar::EntryType;
use serde_json::json;

use super::super::*;
use super::{Archive, Digest, Layout, gzip, header, skipped};

#[test]
fn names_that_lead_elsewhere() {
    root_only!();
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
    root_only!();
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
    root_only!();
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
    root_only!();
    let link = |target: &str| Layout::plain(&[Archive::default().hard_link("l", target).end()]);
    link("../outside").refused("a hard link to a name with ..");
    link("/etc/passwd").refused("which is not in this image");
    link("none").refused("which is not in this image");
    let through = Archive::default().symlink("s", "/etc").hard_link("l", "s/passwd").end();
    Layout::plain(&[through]).refused("a symbolic link of the same layer");
}

#[test]
fn devices_are_kept_but_cannot_be_used_or_forge_whiteouts() {
    root_only!();
    let device = |major, minor, next: Archive| {
        let mut header = header(EntryType::Char, b"dev", 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        let mut archive = Archive::default();
        archive.block(header, b"");
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
    root_only!();
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
    // After the archive's end, where no reader of the archive looks.
    let mut behind = Archive::default().file("a", "").end();
    behind.resize(2 << 20, 0);
    Layout::plain(&[behind]).refused_within(limits, "is the limit");
}

#[test]
fn damaged_blobs() {
    root_only!();
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

    // Only the content changes: a changed header would already fail by its checksum.
    let other = tar.iter().map(|&byte| if byte == b'x' { b'y' } else { byte }).collect();
    for (bytes, words) in [
        (other, "its content has the digest"),
        ([&tar[..], &[0]].concat(), "are declared"),
        (tar[..tar.len() - 1].to_vec(), "are declared"),
    ] {
        let layout = Layout::plain(std::slice::from_ref(&tar));
        let blob = layout.path().join("blobs/sha256").join(Digest::of(&tar).hex());
        fs::write(&blob, bytes).unwrap();
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
    let named =
        |kind: &str, digest: &str, size: u64| json!({ "mediaType": kind, "digest": digest, "size": size });
    let tar = Archive::default().end();
    for (descriptor, words) in [
        (named("text/html", &Digest::of(b"").to_string(), 0), "unknown media type \"text/html\""),
        (named(model::MANIFEST, "sha256:../../../../etc/passwd", 0), "is no digest"),
        (named(model::MANIFEST, &Digest::of(b"gone").to_string(), 4), "has no blob"),
        (layout.blob(model::MANIFEST, b"{}"), "missing field"),
        (layout.blob(model::MANIFEST, &vec![b' '; (4 << 20) + 1]), "more than 4194304"),
        (
            layout.manifest(&[("application/x-7z", tar.clone(), tar)]),
            "unknown media type \"application/x-7z\"",
        ),
    ] {
        layout.index(&[descriptor]);
        layout.refused(words);
    }
}

#[test]
fn indexes_in_a_circle_or_too_deep() {
    let layout = Layout::new();
    // An index with true digests cannot name itself: its own digest would have to stand in it.
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
    root_only!();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let mut archive = Archive::default().pax("path", &long).file("short", "pax");
    let record = |archive: Archive, kind, text: String| {
        archive.with(kind, "././@LongLink", "", format!("{text}\0").as_bytes(), 0)
    };
    archive = record(archive, EntryType::GNULongName, "g".repeat(150)).file("short", "gnu");
    archive = record(archive, EntryType::GNULongLink, "t".repeat(300));
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
