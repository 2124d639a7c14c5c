//! A container's writable layer as a new image: `--commit`.
//!
//! Order: the blobs are written into a folder beside the target, each named by its digest. Then `index.json`
//! makes an image of them. At last rename(2) makes the whole image appear. The folder is locked (flock(2)). A
//! layout that exists already gets the blobs first and the index last, so that it is whole at every moment.
//! Sources: OCI image specification, image-layout.md, manifest.md, config.md.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::digest::{Digest, Summing};
use super::image::Image;
use super::layer::{Compression, Stream, broken};
use super::model::{
    CONFIG, Descriptor, INDEX, Index, LAYER, MANIFEST, Manifest, Platform, REF_NAME, architecture, parse,
};
use super::pack::{Holes, pack};
use super::reference::Reference;
use crate::fs::claim::{Claim, are_random, random_digits, sweep};
use crate::fs::tree::remove_tree;
use crate::sys::error::{Context, Error, Result};
use crate::sys::folder::names_in;

/// What the new layer goes on top of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Base<'a> {
    /// The image, if there was one: its layers and its config go on.
    pub image: Option<&'a Image>,
    /// The other lower layers, lowest first: `--rootfs` or the default root, and each `--layer`.
    pub folders: &'a [PathBuf],
}

/// Writes an image of the base and `upper`, an overlay's writable layer: a layout folder, or an archive where
/// the path ends in `.tar`. A layout that is there gets the image added; its tag, `latest` without another
/// one, then is this image's alone. `created_by` is the command that has changed something, for the history.
///
/// `SOURCE_DATE_EPOCH`, if set, is the time that is noted, in the place of now.
///
/// # Errors
/// The path exists, and is no layout. A blob of the base is damaged. A file of `upper` cannot be in an image.
/// The file system is full. Nothing is left then.
pub fn commit(target: &Reference, base: Base<'_>, upper: &Path, created_by: &[OsString]) -> Result<()> {
    let path = target.path.as_path();
    let is_archive = is_archive(path);
    check_target(target)?;
    let work = Work::new(path)?;
    let descriptor = work.image(base, upper, created_by)?;
    let tag = target.tag.as_deref().unwrap_or("latest");
    if is_archive {
        work.finish(descriptor, tag, Vec::new())?;
        let archive = work.beside.join("archive");
        let file = File::create_new(&archive).at("make", &archive)?;
        let mut file = BufWriter::new(file);
        pack(&work.folder, Holes::Written, &mut file)?;
        file.flush().at("write", &archive)?;
        // Before the archive has its name: once it has, no later commit sweeps the leftovers of a killed
        // runtime.
        remove_tree(&work.folder)?;
        return appear(&archive, path);
    }
    if !path.is_dir() {
        work.finish(descriptor.clone(), tag, Vec::new())?;
        match appear(&work.folder, path) {
            // Another runtime was first. Its layout gets this image, too.
            Err(error) if error.errno() == Some(Errno::EEXIST) && path.is_dir() => check_target(target)?,
            result => return result,
        }
    }
    work.join(path, descriptor, tag)
}

fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "tar")
}

/// Whether an image can be made there, as far as can be said before the container has run.
///
/// # Errors
/// There is something else already; there is no folder for it.
pub fn check_target(target: &Reference) -> Result<()> {
    let path = target.path.as_path();
    let refused =
        |why: &str, hint: &str| Err(Error::new(format!("--commit {}: {why}", path.display())).hint(hint));
    if let Ok(there) = fs::symlink_metadata(path) {
        let is_layout =
            path.is_dir() && path.join("oci-layout").is_file() && path.join("index.json").is_file();
        if !is_layout || is_archive(path) {
            let is = if there.is_dir() { "a folder that is no OCI layout" } else { "a file" };
            let hint = "give a path that does not exist, or that of an OCI layout folder";
            return refused(&format!("there is {is} already"), hint);
        }
        return Ok(());
    }
    let is_folder = match fs::metadata(folder_of(path)) {
        Ok(there) => there.is_dir(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => false,
        Err(error) => return Err(error).at("--commit", folder_of(path)),
    };
    if !is_folder {
        let hint = "the folder in which the image is to be must exist";
        return refused(&format!("{} is no folder", folder_of(path).display()), hint);
    }
    Ok(())
}

/// Where a path lies.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Gives the finished image its name, unless another file has that name by now.
fn appear(from: &Path, to: &Path) -> Result<()> {
    let result = renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE);
    result.at("--commit", to)
}

/// A layout in the making, in a folder beside the target. The drop removes it. If a runtime was killed, the
/// next one removes its folder, as the folder's lock is free.
struct Work {
    beside: PathBuf,
    folder: PathBuf,
    _claim: Claim,
}

impl Drop for Work {
    fn drop(&mut self) {
        _ = remove_tree(&self.beside);
    }
}

impl Work {
    fn new(path: &Path) -> Result<Work> {
        let name = path.file_name().ok_or_else(|| {
            Error::new(format!("--commit {}: no name of a file or a folder", path.display()))
        })?;
        let mut begin = OsString::from(".");
        begin.push(name);
        begin.push(".commit-");
        // The unfinished layouts of killed runtimes lie beside the target. A layout that cannot be removed
        // must not keep an image from being made. The folder is the user's, and so may be other names there.
        let is_work = |name: &OsStr| name.as_bytes().strip_prefix(begin.as_bytes()).is_some_and(are_random);
        let _ = sweep(folder_of(path), is_work, remove_tree);
        begin.push(random_digits());
        let beside = path.with_file_name(begin);
        // For its owner only: another user who can open the folder could lock it.
        let make = || DirBuilder::new().mode(0o700).create(&beside).map(|()| beside.clone());
        let claim = Claim::new(|| make().at("make", &beside))?;
        let folder = beside.join("layout");
        fs::create_dir_all(folder.join("blobs/sha256")).at("make", &folder)?;
        Ok(Work { beside, folder, _claim: claim })
    }

    /// Writes layers, config and manifest, and returns the manifest's descriptor.
    fn image(&self, base: Base<'_>, upper: &Path, created_by: &[OsString]) -> Result<Descriptor> {
        let mut config: Value = match base.image {
            Some(image) => serde_json::from_slice(&image.document)
                .map_err(|error| Error::new(format!("the image's config: {error}")))?,
            None => json!({ "architecture": architecture(), "os": "linux", "config": {} }),
        };
        if !config.is_object() {
            return Err(Error::new("the image's config is no JSON object"));
        }
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        if let Some(image) = base.image {
            layers.extend(self.copy_layers(image)?);
            diff_ids.extend_from_slice(&image.diff_ids);
        }
        let folders =
            base.folders.iter().map(|folder| (folder.as_path(), format!("the folder {}", folder.display())));
        let command: Vec<_> = created_by.iter().map(|word| word.to_string_lossy()).collect();
        let created = timestamp();
        for (folder, created_by) in folders.chain([(upper, command.join(" "))]) {
            let (descriptor, diff_id) = self.layer(folder)?;
            layers.push(descriptor);
            diff_ids.push(diff_id);
            add_history(&mut config, json!({ "created": created, "created_by": created_by }));
        }
        config["created"] = created.into();
        let diff_ids: Vec<_> = diff_ids.iter().map(Digest::to_string).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = self.document(CONFIG, &config)?;
        let (media_type, rest) = (MANIFEST.into(), BTreeMap::new());
        let manifest = Manifest { schema_version: 2, media_type, config, layers, rest };
        self.document(MANIFEST, &manifest)
    }

    /// The base's layers as they are, except that each is verified on its way.
    fn copy_layers(&self, image: &Image) -> Result<Vec<Descriptor>> {
        let mut descriptors = Vec::new();
        for (layer, &diff_id) in image.layers.iter().zip(&image.diff_ids) {
            let what = format!("layer {diff_id} of the image {}", image.source.path().display());
            let blob =
                image.source.find(&layer.member)?.ok_or_else(|| Error::new(format!("{what}: it is gone")))?;
            let failed = |error: io::Error| broken(&what, &error);
            let (descriptor, ()) = self.blob(&format!("{LAYER}{}", layer.compression.suffix()), |file| {
                let copying = Copying { from: blob, to: file };
                let stream = Stream::new(copying, layer.compression, layer.digest, diff_id, u64::MAX)
                    .map_err(failed)?;
                stream.verify(&what)
            })?;
            descriptors.push(descriptor);
        }
        Ok(descriptors)
    }

    /// A folder as a layer: its blob, and the digest of its tar archive.
    fn layer(&self, folder: &Path) -> Result<(Descriptor, Digest)> {
        self.blob(&format!("{LAYER}{}", Compression::Gzip.suffix()), |file| {
            // No time and no name in gzip's header: flate2 writes none.
            let mut archive = Summing::new(GzEncoder::new(file, Level::default()), u64::MAX);
            pack(folder, Holes::Listed, &mut archive)?;
            let digest = archive.sum.digest();
            archive.inner.finish().at("pack", folder)?;
            Ok(digest)
        })
    }

    /// Writes a blob, and names it when its digest is known.
    fn blob<T>(
        &self,
        media_type: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<T>,
    ) -> Result<(Descriptor, T)> {
        let unnamed = self.folder.join("blobs/sha256/unnamed");
        let file = File::create(&unnamed).at("write", &unnamed)?;
        let mut file = Summing::new(BufWriter::new(file), u64::MAX);
        let result = write(&mut file)?;
        file.flush().at("write", &unnamed)?;
        let digest = file.sum.digest();
        fs::rename(&unnamed, self.folder.join("blobs/sha256").join(digest.hex())).at("write", &unnamed)?;
        let descriptor = Descriptor {
            media_type: media_type.into(),
            digest: digest.to_string(),
            size: file.sum.count(),
            platform: None,
            annotations: BTreeMap::new(),
            rest: BTreeMap::new(),
        };
        Ok((descriptor, result))
    }

    fn document(&self, media_type: &str, value: &impl serde::Serialize) -> Result<Descriptor> {
        let text =
            serde_json::to_vec(value).map_err(|error| Error::new(format!("write a manifest: {error}")))?;
        Ok(self.blob(media_type, |file| file.write_all(&text).at("write", &self.folder))?.0)
    }

    /// Writes what makes a layout of the blobs. `others` are the images that are in it already.
    fn finish(&self, mut descriptor: Descriptor, tag: &str, mut others: Vec<Descriptor>) -> Result<()> {
        descriptor.annotations.insert(REF_NAME.into(), tag.into());
        descriptor.platform =
            Some(Platform { architecture: architecture().into(), os: "linux".into(), rest: BTreeMap::new() });
        others.retain(|it| it.annotations.get(REF_NAME).map(String::as_str) != Some(tag));
        others.push(descriptor);
        let rest =
            BTreeMap::from([("schemaVersion".to_owned(), 2.into()), ("mediaType".to_owned(), INDEX.into())]);
        let index = serde_json::to_vec(&Index { manifests: others, rest });
        let index = index.map_err(|error| Error::new(format!("write index.json: {error}")))?;
        for (name, content) in
            [("oci-layout", &br#"{"imageLayoutVersion":"1.0.0"}"#[..]), ("index.json", &index)]
        {
            let file = self.folder.join(name);
            fs::write(&file, content).at("write", &file)?;
        }
        Ok(())
    }

    /// Moves everything into a layout that is there.
    fn join(&self, layout: &Path, descriptor: Descriptor, tag: &str) -> Result<()> {
        // If two commits run at once, the second adds its image to the layout of the first.
        let _claim = Claim::of(&layout.canonicalize().at("open", layout)?, FlockOperation::LockExclusive)?;
        let index = layout.join("index.json");
        let document = fs::read(&index).at("read", &index)?;
        let there: Index = parse(&document, || index.display().to_string())?;
        self.finish(descriptor, tag, there.manifests)?;
        let from = self.folder.join("blobs/sha256");
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("make", &blobs)?;
        for blob in names_in(&from).at("read", &from)? {
            let to = blobs.join(&blob);
            // One of this name has this content.
            if !to.exists() {
                fs::rename(from.join(&blob), &to).at("make", &to)?;
            }
        }
        fs::rename(self.folder.join("index.json"), &index).at("write", &index)
    }
}

/// A config may have no history, or `null` for it.
fn add_history(config: &mut Value, entry: Value) {
    match &mut config["history"] {
        Value::Array(list) => list.push(entry),
        other => *other = json!([entry]),
    }
}

/// Copies to `to` all that is read from `from`.
struct Copying<R, W> {
    from: R,
    to: W,
}

impl<R: io::Read, W: Write> io::Read for Copying<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// Now, as RFC 3339 has it, in UTC.
fn timestamp() -> String {
    let set = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    rfc3339(set.unwrap_or(now))
}

fn rfc3339(seconds: u64) -> String {
    // Counted in years that begin in March, so that the leap day is the last one; 400 of them have 146097
    // days.
    let days = seconds / 86400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}Z", era * 400 + year + carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_looked_at_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("loop", folder.path().join("loop")).unwrap();
        let told = |name: &str| {
            let target = Reference { path: folder.path().join(name), tag: None };
            check_target(&target).map_err(|error| (error.errno(), error.to_string()))
        };
        told("new.tar").unwrap();
        let (errno, text) = told("none/new.tar").unwrap_err();
        assert!(errno.is_none() && text.contains("none is no folder"), "{text}");
        assert_eq!(told("loop/new.tar").unwrap_err().0, Some(Errno::ELOOP));
    }

    #[test]
    fn what_the_user_has_beside_the_image_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [notes, old, left] = ["notes", "old", "0123456789ab"].map(|end| {
            let path = folder.path().join(format!(".image.commit-{end}"));
            fs::create_dir(&path).unwrap();
            path
        });
        let work = Work::new(&folder.path().join("image")).unwrap();
        assert!(notes.exists() && old.exists());
        assert!(!left.exists(), "that one is of a killed runtime");
        let name = work.beside.file_name().unwrap().as_bytes();
        assert!(are_random(name.strip_prefix(b".image.commit-").unwrap()));
    }

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_709_164_800), "2024-02-29T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
