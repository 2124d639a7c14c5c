//! Images that want what no image may: each is refused in two lines, and nothing of it stays.
//!
//! A sound image is run first, so that a refusal is about the hostile one. Then the state folder and the
//! files around it must be as before, and a file outside untouched. An image that is only unusual must work.
//! Sources: OCI image specification, descriptor.md, image-layout.md, layer.md.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::EntryType;

use super::bad_input::error;
use crate::image::{Archive, Entry, Home, INDEX, LAYER, Layer, Layout, MANIFEST, base, config, digest};
use crate::{Check, Checked, Failure, Subject, expect, kernel};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        3,
        "image.hostile-names",
        "A layer with a name that leads out of it, or with a name that no file can have, is refused.",
        names,
    )
    .hint("Look at each part of a name before anything is made; `.wh...` would remove the folder above."),
    Check::since(
        3,
        "image.hostile-links",
        "A layer that writes through its own link, or links to a file that is not in the image, is refused.",
        links,
    )
    .hint("Unpack in a root of its own, and refuse paths through a link of the same layer."),
    Check::since(
        3,
        "image.hostile-entries",
        "A layer with a forged whiteout, of endless size, or with an unknown type is refused.",
        entries,
    )
    .hint("A device 0/0 is overlayfs's whiteout. A file that consists of a hole takes no byte in the \
           archive."),
    Check::since(
        3,
        "image.hostile-blobs",
        "A blob that is missing, cut, changed or of another size is refused.",
        blobs,
    )
    .hint(
        "Compare three things: the size and the digest of the blob, and the digest of the unpacked layer.",
    ),
    Check::since(
        3,
        "image.hostile-documents",
        "Malformed documents, documents that do not fit together, and circular references are refused.",
        documents,
    )
    .hint("Limit the size and the depth of all documents. A digest is no path until you have checked it."),
    Check::since(
        3,
        "image.unusual",
        "Unusual layers work: the same name twice, a file in the place of a link, an archive with nothing \
         but its end.",
        unusual,
    )
    .hint("Of two entries with one name the last counts. Never write through an existing file."),
];

/// A state folder, and images that are to be refused with it.
struct Trial<'a> {
    subject: &'a Subject,
    home: Home<'a>,
    victim: PathBuf,
    /// Below each layer that is tried: small, and unpacked already.
    lower: Layer,
    images: Vec<(String, String)>,
}

impl<'a> Trial<'a> {
    fn new(subject: &'a Subject) -> Result<Trial<'a>, Failure> {
        let folder = subject.empty_folder("victim")?;
        fs::write(folder.join("file"), "untouched")?;
        let home = Home::new(subject, "hostile-home")?;
        let lower = Layer::plain(Archive::default().folder("etc").file("etc/hosts", ""));
        Ok(Trial { subject, home, victim: folder, lower, images: Vec::new() })
    }

    /// A path of the host outside.
    fn victim(&self, name: &str) -> String {
        self.victim.join(name).display().to_string()
    }

    fn name(&self) -> String {
        format!("hostile-{}", self.images.len())
    }

    /// A layout into which the caller writes.
    fn layout(&mut self, case: &str) -> Result<Layout, Failure> {
        let layout = Layout::new(self.subject, &self.name())?;
        self.images.push((case.to_owned(), layout.name()));
        Ok(layout)
    }

    /// An image with such a layer on top of the base.
    fn layer(&mut self, case: &str, layer: Archive) -> Checked {
        let mut layout = self.layout(case)?;
        let image = layout.image(&config(json!({})), &[self.lower.clone(), Layer::plain(layer)])?;
        Ok(layout.add(image)?)
    }

    /// The files around it, two folders deep.
    fn around(&self) -> BTreeSet<PathBuf> {
        let folder = self.victim.ancestors().nth(2).unwrap_or(&self.victim);
        kernel::listing(folder, 2).into_iter().chain(kernel::listing(&self.victim, 1)).collect()
    }

    fn refused(self) -> Checked {
        let good = Layout::of(self.subject, "sound", &config(json!({})), &[self.lower.clone(), base()?])?;
        self.home.run(&["--image", &good.name()])?.ok()?;
        let (around, inside) = (self.around(), self.home.listing());
        for (case, image) in &self.images {
            let output = self.home.run(&["--image", image])?;
            error(&output, 125, &[]).map_err(|failure| failure.of(case))?;
            expect(format!("{case}: what is in the state folder"), &inside, &self.home.listing())?;
            expect(format!("{case}: what is around it"), &around, &self.around())?;
            let content = fs::read_to_string(self.victim.join("file")).unwrap_or_default();
            expect(format!("{case}: a file of the host"), "untouched", content.as_str())?;
        }
        Ok(())
    }
}

fn names(subject: &Subject) -> Checked {
    let mut trial = Trial::new(subject)?;
    let up = format!("{}{}", "../".repeat(16), trial.victim("new").trim_start_matches('/'));
    for name in ["../new", "t/../../new", "t/.wh...", ".wh..", "t/.wh.", &up] {
        // With a good file before it, which must not stay either.
        trial.layer(
            name,
            Archive::default().file("good", "x").record("path", name.as_bytes()).file("x", ""),
        )?;
    }
    for (case, name) in [
        ("a name of 5000 bytes", "part-of-it/".repeat(455)),
        ("a name of 5000 bytes and 2500 parts", "a/".repeat(2500)),
        ("a part of 256 bytes", "n".repeat(256)),
        ("a part of 5000 bytes", "n".repeat(5000)),
        ("a NUL byte", "n\0n".into()),
        ("a name of 5 MiB", "n".repeat(5 << 20)),
    ] {
        trial.layer(case, Archive::default().record("path", name.as_bytes()).file("x", ""))?;
    }
    trial.refused()
}

fn links(subject: &Subject) -> Checked {
    let mut trial = Trial::new(subject)?;
    let file = trial.victim("file");
    let up = format!("{}{}", "../".repeat(16), file.trim_start_matches('/'));
    trial
        .layer("links in a circle", Archive::default().symlink("l", "m").symlink("m", "l").file("l/f", ""))?;
    trial.layer("a link to itself", Archive::default().symlink("l", "l/x").folder("l/y"))?;
    for to in [&up, &file, "none", "etc", "/etc/none"] {
        trial.layer(&format!("a hard link to {to}"), Archive::default().hard_link("h", to))?;
    }
    trial.refused()
}

fn entries(subject: &Subject) -> Checked {
    let mut trial = Trial::new(subject)?;
    let of_kind =
        |kind, device| Archive::default().entry(&Entry { kind, name: b"x", device, ..Entry::default() });
    trial.layer("a device 0/0", of_kind(EntryType::Char, (0, 0)))?;
    trial.layer("a type that there is not", of_kind(EntryType::new(b'Z'), (0, 0)))?;
    trial.layer("a root that is a file", Archive::default().file("./", "").file(".", "x"))?;
    let hole =
        Archive::default().record("GNU.sparse.map", b"0,0").record("GNU.sparse.size", b"1099511627776");
    trial.layer("a hole of 1 TiB", hole.file("x", ""))?;
    let pieces = Archive::default().record("GNU.sparse.map", b"0,2,1,2").record("GNU.sparse.size", b"10");
    trial.layer("pieces that overlap", pieces.file("x", "data"))?;
    trial.layer(
        "an owner that is no number",
        Archive::default().record("uid", b"99999999999").file("x", ""),
    )?;
    trial.layer(
        "a record that is none",
        Archive::default()
            .entry(&Entry { kind: EntryType::XHeader, name: b"pax", data: b"9 path=", ..Entry::default() })
            .file("x", ""),
    )?;
    let mut cut = Archive::default().file("x", &"x".repeat(5000)).end();
    cut.truncate(2048);
    trial.blob("an archive that is cut", LAYER, &cut, &cut)?;
    trial.blob("an archive that is none", LAYER, &[b'x'; 4096], &[b'x'; 4096])?;
    trial.refused()
}

impl Trial<'_> {
    /// An image with the layer `blob`. Its configuration names the digest of `archive` instead.
    fn blob(&mut self, case: &str, media_type: &str, blob: &[u8], archive: &[u8]) -> Checked {
        let mut layout = self.layout(case)?;
        let layer = Layer { media_type: media_type.into(), blob: blob.into(), diff_id: digest(archive) };
        let image = layout.image(&config(json!({})), &[self.lower.clone(), layer])?;
        Ok(layout.add(image)?)
    }

    /// An image whose layer's blob is then changed on disk.
    fn changed(
        &mut self,
        case: &str,
        layer: &Layer,
        change: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Checked {
        let mut layout = self.layout(case)?;
        let path = layout.blob_path(&digest(&layer.blob));
        let image = layout.image(&config(json!({})), &[self.lower.clone(), layer.clone()])?;
        layout.add(image)?;
        Ok(change(&path)?)
    }
}

fn blobs(subject: &Subject) -> Checked {
    let mut trial = Trial::new(subject)?;
    let content = Archive::default().file("f", &"x".repeat(5000));
    let (gzip, zstd) = (Layer::gzip(content.clone())?, Layer::zstd(content.clone())?);
    let layer = Layer::plain(content);
    let plain = layer.blob.clone();
    for (kind, blob) in [("+gzip", &gzip.blob), ("+zstd", &zstd.blob)] {
        let kind = format!("{LAYER}{kind}");
        trial.blob("a compressed layer that is cut", &kind, &blob[..blob.len() - 9], &plain)?;
        trial.blob("a compressed layer that is not compressed", &kind, &plain, &plain)?;
        trial.blob("another archive than the config says", &kind, blob, b"another")?;
    }
    trial.blob("another plain archive than the config says", LAYER, &plain, b"another")?;
    trial.blob("a layer of a media type that there is not", "application/x-7z", &plain, &plain)?;
    let changed = plain.iter().map(|&byte| if byte == b'x' { b'y' } else { byte }).collect::<Vec<_>>();
    trial.changed("a blob that was changed", &layer, |path| fs::write(path, changed))?;
    let mut other = gzip.blob.clone();
    // The system that packed it: what it unpacks to is the same.
    other[9] ^= 1;
    trial.changed("a header of gzip that was changed", &gzip, |path| fs::write(path, other))?;
    trial.changed("a blob that is too long", &layer, |path| fs::write(path, [&plain[..], b"x"].concat()))?;
    trial.changed("a blob that is too short", &layer, |path| fs::write(path, &plain[1..]))?;
    trial.changed("a blob that is gone", &layer, |path| fs::remove_file(path))?;
    trial.changed("a blob that is a folder", &layer, |path| {
        fs::remove_file(path).and_then(|()| fs::create_dir(path))
    })?;
    trial.changed("a blob that is a pipe", &layer, |path| {
        fs::remove_file(path)?;
        Ok(nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU)?)
    })?;
    trial.refused()
}

impl Trial<'_> {
    /// A layout with this `index.json`.
    fn index(&mut self, case: &str, text: &str) -> Checked {
        let layout = self.layout(case)?;
        Ok(fs::write(layout.path.join("index.json"), text)?)
    }

    /// A layout whose index has what `make` returns.
    fn manifest(&mut self, case: &str, make: impl FnOnce(&Layout) -> std::io::Result<Value>) -> Checked {
        let mut layout = self.layout(case)?;
        let descriptor = make(&layout)?;
        Ok(layout.add(descriptor)?)
    }

    /// A file that is no archive of an image.
    fn file(&mut self, case: &str, content: &[u8]) -> Checked {
        let path = self.subject.write(&format!("{}.tar", self.name()), content)?;
        self.images.push((case.to_owned(), path));
        Ok(())
    }
}

fn documents(subject: &Subject) -> Checked {
    let mut trial = Trial::new(subject)?;
    trial.index("no image", r#"{"schemaVersion":2,"manifests":[]}"#)?;
    trial.index("no JSON", "}{")?;
    trial.index("an index of 5 MiB", &" ".repeat(5 << 20))?;
    trial.index("nested JSON", &"[".repeat(200_000))?;
    for name in ["sha256:../../../../../../../../etc/passwd", "sha256:", "md5:00", &digest(b"gone")] {
        let index = json!({ "manifests": [{ "mediaType": MANIFEST, "digest": name, "size": 4 }] });
        trial.index(&format!("a manifest {name}"), &index.to_string())?;
    }
    trial.manifest("a manifest of another type", |it| it.blob("text/html", b"{}"))?;
    trial.manifest("a manifest of nothing", |it| it.blob(MANIFEST, b"{}"))?;
    trial.manifest("a manifest with a wrong digest", |it| {
        let descriptor = it.image(&config(json!({})), &[])?;
        fs::write(it.blob_path(descriptor["digest"].as_str().unwrap_or_default()), "{}")?;
        Ok(descriptor)
    })?;
    let lower = trial.lower.clone();
    trial.manifest("more layers than the config has", |it| {
        let two = it.image(&config(json!({})), &[lower.clone(), lower.clone()])?;
        let one = it.image(&config(json!({})), std::slice::from_ref(&lower))?;
        let read = |name: &Value| fs::read(it.blob_path(name["digest"].as_str().unwrap_or_default()));
        let mut manifest: Value = serde_json::from_slice(&read(&two)?)?;
        manifest["config"] = serde_json::from_slice::<Value>(&read(&one)?)?["config"].clone();
        it.document(MANIFEST, &manifest)
    })?;
    trial.manifest("an index that names itself", |it| {
        // With a true digest that cannot be.
        let name = format!("sha256:{}", "0".repeat(64));
        let index = |size| json!({ "manifests": [{ "mediaType": INDEX, "digest": name, "size": size }] });
        let size = index(100).to_string().len();
        fs::write(it.blob_path(&name), index(size).to_string())?;
        Ok(json!({ "mediaType": INDEX, "digest": name, "size": size }))
    })?;
    trial.manifest("a thousand indexes in each other", |it| {
        let image = it.image(&config(json!({})), std::slice::from_ref(&lower))?;
        (0..1000).try_fold(image, |inner, _| it.document(INDEX, &json!({ "manifests": [inner] })))
    })?;
    trial.file("an empty file", b"")?;
    trial.file("a file of noise", &[0xa5; 4096])?;
    trial.file("an archive of something else", &Archive::default().file("x", "").end())?;
    let gone = json!([{ "Config": "../../../../etc/passwd", "RepoTags": [], "Layers": ["/etc/passwd"] }]);
    trial.file(
        "docker save's archive with paths of the host",
        &Archive::default().file("manifest.json", &gone.to_string()).end(),
    )?;
    let circle = Archive::default().symlink("manifest.json", "b").symlink("b", "manifest.json");
    trial.file("links in a circle", &circle.end())?;
    let layout = trial.layout("an index.json that is a link to a pipe")?;
    fs::remove_file(layout.path.join("index.json"))?;
    nix::unistd::mkfifo(&layout.path.join("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    symlink("pipe", layout.path.join("index.json"))?;
    trial.refused()
}

fn unusual(subject: &Subject) -> Checked {
    let trial = Trial::new(subject)?;
    let (outside, up) = (trial.victim(""), format!("{}etc", "../".repeat(9)));
    let layer = Archive::default()
        .folder("./")
        .folder("/")
        .record("path", b"/absolute")
        .file("x", "below the root")
        // As where /bin and /usr/bin have become one: the link comes before its folder.
        .symlink("merged", "all/merged")
        .file("merged/tool", "in all")
        .symlink("l", outside.trim_end_matches('/'))
        .file("l/file", "in the image")
        .symlink("up", &up)
        .folder("up/sub")
        .file("up/.wh.hosts", "")
        .file("up/passwd", "")
        .hard_link("passwd", "up/passwd")
        .file("./twice", "first")
        .file("twice", "second")
        .symlink("link", &trial.victim("file"))
        .file("link", "a file in its place")
        .folder("becomes-file")
        .file("becomes-file/x", "")
        .file("becomes-file", "now")
        .file("a//b/./c", "slashes")
        .file("becomes-folder", "")
        .folder("becomes-folder")
        .hard_link("hard", "twice")
        .hard_link("twice", "twice")
        .file(".wh..wh.plnk", "a note of aufs");
    // An archive may end without its blocks of zeroes; a layer may be empty.
    let layers = [base()?, Layer::plain(Archive::default()), Layer::plain(layer)];
    let image = Layout::of(subject, "unusual", &config(json!({})), &layers)?;
    let script = "for f in twice link becomes-file a/b/c hard absolute all/merged/tool $0/file; do cat /$f; \
                  echo; done; test -d /becomes-folder && test -d /etc/sub && test -f /passwd && echo folder";
    let run = trial.home.run(&["--image", &image.name(), "sh", "-c", script, &outside])?;
    let expected = "second\na file in its place\nnow\nslashes\nsecond\nbelow the root\nin all\nin the \
                    image\nfolder";
    expect("what is in the files", expected, run.ok()?)?;
    expect("the file that a link named", "untouched", fs::read_to_string(trial.victim("file"))?.as_str())
}
