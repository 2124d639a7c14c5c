//! `cargo xtask image`: fetches images for those who have a registry, and compares how they are unpacked.
//!
//! The course itself needs no registry: an image is a folder or an archive. To fetch one is skopeo's work. To
//! compare is to unpack twice, by Congo and by umoci, and to look at each file of both trees; Congo's layers
//! are mounted in a mount namespace that ends with the comparison. Man pages: skopeo-copy(1),
//! umoci-unpack(1), mount_namespaces(7).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use checks::tree::{self, Tree};
use clap::builder::TypedValueParser;
use common::oci::{Image, Reference, reference};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Fetch images, and compare how they are unpacked.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Fetch an image from a registry into an OCI layout folder, for --image DIR:TAG (needs skopeo)
    Pull {
        /// Its name, as docker pull takes it: debian:12
        name: String,
        /// The folder, which is made, or gets one more image
        folder: PathBuf,
    },
    /// Unpack an image by Congo and by umoci, and compare the trees (needs root, umoci and skopeo)
    Compare {
        /// PATH[:TAG], as --image takes it
        #[arg(value_parser = clap::builder::OsStringValueParser::new().try_map(reference))]
        image: Reference,
    },
}

/// Does what was asked for.
///
/// # Errors
/// A tool is missing or fails; the image is refused.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Pull { name, folder } => pull(name, folder),
        What::Compare { image } => {
            let (entries, differences) = compare(image)?;
            for difference in &differences {
                println!("{difference}");
            }
            println!("{entries} entries, {} differences", differences.len());
            Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn pull(name: &str, folder: &Path) -> Result<ExitCode> {
    let tag = tag_of(name);
    ensure!(
        !folder.as_os_str().to_string_lossy().contains(':'),
        "{}: skopeo takes no folder with a colon in its name",
        folder.display()
    );
    let mut target = OsString::from("oci:");
    target.push(folder);
    target.push(format!(":{tag}"));
    tool("skopeo", ["copy".as_ref(), format!("docker://{name}").as_ref(), target.as_os_str()])?;
    println!("Now: --image {}:{tag}", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// The tag of an image's name; a digest has none that an option could take.
fn tag_of(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once('@') {
        Some(_) => "latest",
        None => last.split_once(':').map_or("latest", |(_, tag)| tag),
    }
}

/// Runs a tool, which says by itself what goes wrong.
fn tool<'a>(name: &str, args: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    match Command::new(name).args(args).status() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{name} is not installed: it is in your distribution's packages, apt install {name}")
        }
        status => ensure!(status.with_context(|| format!("starting {name}"))?.success(), "{name} failed"),
    }
    Ok(())
}

/// How many entries an image has, unpacked by Congo, and which are not as umoci unpacks them.
///
/// # Errors
/// A tool is missing or fails; the image is refused; not root.
pub fn compare(image: &Reference) -> Result<(usize, Vec<tree::Difference>)> {
    let work = tempfile::tempdir()?;
    let ours = ours(image, work.path())?;
    // umoci reads layout folders only, and no zstd.
    let layout = work.path().join("layout");
    let transport = transport(image)?;
    let mut from = OsString::from(transport);
    from.push(&image.path);
    // In a docker archive skopeo wants the whole name, or none where there is one image.
    if let Some(tag) = image.tag.as_ref().filter(|tag| transport != "docker-archive:" || tag.contains(':')) {
        from.push(format!(":{tag}"));
    }
    let to = format!("oci:{}:it", layout.display());
    let copy = ["copy", "--quiet", "--dest-compress", "--dest-compress-format=gzip"].map(OsStr::new);
    tool("skopeo", copy.into_iter().chain([from.as_os_str(), to.as_ref()]))?;
    let bundle = work.path().join("bundle");
    let name = format!("{}:it", layout.display());
    tool("umoci", ["unpack".as_ref(), "--image".as_ref(), name.as_ref(), bundle.as_os_str()])?;
    let theirs = tree::read(&bundle.join("rootfs"))?;
    Ok((ours.len(), tree::differences(&ours, &theirs)))
}

/// skopeo's word for the form of an image.
fn transport(image: &Reference) -> Result<&'static str> {
    if image.path.is_dir() {
        return Ok("oci:");
    }
    let output = Command::new("tar").arg("-tf").arg(&image.path).output().context("starting tar")?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_layout = names.lines().any(|name| name.trim_start_matches("./") == "index.json");
    Ok(if is_layout { "oci-archive:" } else { "docker-archive:" })
}

/// The tree of the layers that Congo unpacks, as a container sees it.
fn ours(image: &Reference, work: &Path) -> Result<Tree> {
    let image = Image::open(image).map_err(|error| anyhow!("{error}"))?;
    let layers = image.unpack(&work.join("state")).map_err(|error| anyhow!("{error}"))?;
    if let [only] = layers.as_slice() {
        return Ok(tree::read(only)?);
    }
    let root = work.join("merged");
    std::fs::create_dir(&root)?;
    // On a thread of its own, as it does not come back to the host's mounts.
    let mounted = move || {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS): are you root?")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let open: Vec<_> = layers.iter().rev().map(File::open).collect::<Result<_, _>>()?;
        let names: Vec<_> =
            open.iter().map(|it| format!("/proc/thread-self/fd/{}", it.as_raw_fd())).collect();
        let options = format!("lowerdir={}", names.join(":"));
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))
            .context("mounting an overlay")?;
        Ok(tree::read(&root)?)
    };
    thread::spawn(mounted).join().map_err(|_| anyhow!("the comparison panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        assert_eq!(tag_of("debian"), "latest");
        assert_eq!(tag_of("debian:12"), "12");
        assert_eq!(tag_of("localhost:5000/debian"), "latest");
        assert_eq!(tag_of("localhost:5000/a/debian:x.y"), "x.y");
        assert_eq!(tag_of("debian@sha256:00"), "latest");
    }
}
