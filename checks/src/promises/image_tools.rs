//! Images of other tools: a container's root is, to the last attribute, what `umoci unpack` makes of the
//! image.
//!
//! What a runtime mounts in every container is not compared: /proc, /dev, /sys and three files in /etc. Man
//! pages: umoci-unpack(1), umoci-repack(1), skopeo-copy(1), buildah(1).

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::container::Container;
use crate::image::{Home, Programs};
use crate::tree::{Tree, read_without, same};
use crate::{Check, Checked, Failure, Need, Subject, ensure};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        3,
        "image.umoci",
        "The root of an image that umoci made, and of skopeo's copies of it, is what umoci unpacks.",
        umoci,
    )
    .needs(&[Need::Root, Need::Program("umoci"), Need::Program("skopeo")])
    .hint("The difference names the path: look at the entries of each layer for it."),
    Check::since(
        3,
        "image.buildah",
        "The root of an image that buildah made is what umoci unpacks.",
        buildah,
    )
    .needs(&[Need::Root, Need::Program("umoci"), Need::Program("buildah"), Need::Program("unshare")])
    .hint("buildah writes a whiteout for each file of a removed folder, even if a file has taken the \
           folder's place."),
];

/// Runs a tool of the host; the words are separated by blanks.
pub(super) fn tool(folder: &Path, line: &str) -> Checked {
    let words: Vec<_> = line.split(' ').collect();
    tool_words(folder, &words)
}

fn tool_words(folder: &Path, words: &[&str]) -> Checked {
    let output =
        Command::new(words[0]).args(&words[1..]).current_dir(folder).stdin(Stdio::null()).output()?;
    ensure(output.status.success(), || {
        let stderr = String::from_utf8_lossy(&output.stderr);
        Failure::new(format!("{} works", words.join(" ")), format!("{}: {stderr:.300}", output.status))
    })
}

/// The files of a root, without those that every runtime mounts there.
pub(super) fn root(path: &Path) -> Result<Tree, Failure> {
    let mut tree = read_without(path, &["proc", "dev", "sys"])?;
    tree.retain(|path, _| {
        !["etc/hosts", "etc/hostname", "etc/resolv.conf"].iter().any(|it| path == Path::new(it))
    });
    Ok(tree)
}

/// The files of a container's root while it runs.
pub(super) fn container_root(container: &Container) -> Result<Tree, Failure> {
    root(&container.first()?.path("root/."))
}

/// Fails unless a container of the image has what umoci unpacked.
fn runs_as_unpacked(subject: &Subject, image: &str, expected: &Tree) -> Checked {
    let home = Home::new(subject, "tools-home")?;
    let container = home.hold(&[subject.as_host_root(), &["--image", image, "/commands/cat"]].concat())?;
    same(image, expected, &container_root(&container)?)
}

fn fill(root: &Path) -> Checked {
    Programs::of_host()?.install(root)?;
    let path = |name: &str| root.join(name);
    for folder in ["a/gone", "a/emptied", "a/to-file", "tmp"] {
        fs::create_dir_all(path(folder))?;
    }
    for (name, mode) in [
        ("a/su", 0o4755),
        ("a/ping", 0o755),
        ("a/gone/x", 0o640),
        ("a/emptied/x", 0o600),
        ("a/to-file/x", 0o644),
        ("a/to-folder", 0o644),
    ] {
        fs::write(path(name), name)?;
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(path("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::hard_link(path("a/su"), path("a/su2"))?;
    xattr::set(path("a"), "user.note", b"a=b\n\xff")?;
    xattr::set(
        path("a/ping"),
        "security.capability",
        &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    )?;
    chown(path("a"), Some(1000), Some(100_000))?;
    nix::unistd::mkfifo(&path("a/pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    let holes = fs::File::create(path("a/holes"))?;
    holes.set_len(3 << 20)?;
    holes.write_all_at(b"x", 2_000_000)?;
    Ok(symlink("su", path("a/link"))?)
}

fn change(root: &Path) -> Checked {
    let path = |name: &str| root.join(name);
    fs::remove_dir_all(path("a/gone"))?;
    fs::remove_file(path("a/emptied/x"))?;
    fs::remove_dir_all(path("a/to-file"))?;
    fs::write(path("a/to-file"), "file now")?;
    fs::remove_file(path("a/to-folder"))?;
    fs::create_dir(path("a/to-folder"))?;
    fs::write(path("a/to-folder/y"), "folder now")?;
    Ok(fs::set_permissions(path("a/su"), fs::Permissions::from_mode(0o700))?)
}

fn umoci(subject: &Subject) -> Checked {
    let at = subject.empty_folder("tools")?;
    tool(&at, "umoci init --layout layout")?;
    tool(&at, "umoci new --image layout:0")?;
    for (number, change) in [fill as fn(&Path) -> Checked, change].into_iter().enumerate() {
        tool(&at, &format!("umoci unpack --image layout:{number} bundle{number}"))?;
        change(&at.join(format!("bundle{number}/rootfs")))?;
        tool(&at, &format!("umoci repack --image layout:{} bundle{number}", number + 1))?;
    }
    tool(&at, "umoci unpack --image layout:2 expected")?;
    let expected = root(&at.join("expected/rootfs"))?;
    ensure(expected.len() > 20, || {
        Failure::new("an image with many files", format!("{:?}", expected.keys()))
    })?;
    tool(&at, "skopeo copy --quiet oci:layout:2 docker-archive:saved.tar:congo/checks:v1")?;
    tool(&at, "skopeo copy --quiet oci:layout:2 oci-archive:archive.tar:v1")?;
    tool(&at, "skopeo copy --quiet --dest-compress --dest-compress-format=zstd oci:layout:2 oci:zstd:v1")?;
    for image in ["layout:2", "saved.tar", "archive.tar:v1", "zstd:v1"] {
        runs_as_unpacked(subject, &at.join(image).display().to_string(), &expected)?;
    }
    Ok(fs::remove_dir_all(at)?)
}

fn buildah(subject: &Subject) -> Checked {
    let at = subject.empty_folder("tools")?;
    fs::create_dir(at.join("rootfs"))?;
    fill(&at.join("rootfs"))?;
    // In mounts of its own, which end with it.
    let script = "set -e; b() { buildah --storage-driver vfs --root $PWD/store --runroot $PWD/run \"$@\"; }
        c=$(b from scratch); m=$(b mount $c); cp -a rootfs/. $m/; b config --cmd /commands/cat --env A=b $c
        i=$(b commit -q $c); c=$(b from $i); m=$(b mount $c); rm -r $m/a/gone $m/a/to-file; echo z > \
                  $m/a/to-file
        b commit -q $c oci:$PWD/layout:two; b umount $c";
    tool_words(&at, &["unshare", "-m", "sh", "-c", script])?;
    tool(&at, "umoci unpack --image layout:two expected")?;
    let expected = root(&at.join("expected/rootfs"))?;
    runs_as_unpacked(subject, &at.join("layout:two").display().to_string(), &expected)?;
    Ok(fs::remove_dir_all(at)?)
}
