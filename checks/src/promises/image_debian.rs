//! A distribution as an image: Debian in three layers runs its own programs.
//!
//! Of the root that `cargo xtask debian` has made, all but documentation and translations: as much again, and
//! nothing of it is run. Man pages: dpkg(1), python3(1).

use std::process::{Command, Stdio};

use serde_json::json;
use tar::EntryType;

use crate::image::{Archive, Entry, LAYER, Layer, Layout, digest};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect, needs};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[Check::since(
    3,
    "image.debian",
    "A Debian image of three layers runs dpkg, python3 and a script of its own.",
    debian,
)
.needs(&[Need::Debian, Need::Program("tar")])
.hint("Begin with the first failure; --explain shows which layers are unpacked.")];

/// The paths that are left out.
const NOT_RUN: [&str; 4] = ["./usr/share/doc", "./usr/share/locale", "./usr/share/man", "./var/cache"];

fn debian_layer() -> Result<Layer, Failure> {
    let root = needs::debian_root().map_err(|why| Failure::new("a Debian root", why))?;
    let mut tar = Command::new("tar");
    tar.arg("--directory").arg(root).args(["--create", "--numeric-owner", "--xattrs", "--format=pax"]);
    tar.args(NOT_RUN.map(|path| format!("--exclude={path}"))).arg(".");
    let output = tar.stdin(Stdio::null()).output()?;
    ensure(output.status.success(), || Failure::new("tar works", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Layer { media_type: LAYER.into(), diff_id: digest(&output.stdout), blob: output.stdout })
}

fn debian(subject: &Subject) -> Checked {
    let script = b"#!/bin/sh\n. /etc/os-release\necho \"$ID with $# arguments\"\n";
    let entry = |name, kind, data, mode| Entry { name, kind, data, mode, ..Entry::default() };
    let second = Archive::default()
        .entry(&entry(b"usr/local/bin/about", EntryType::Regular, script, 0o755))
        .file("etc/debian_version", "changed\n")
        .file("etc/.wh.shells", "")
        .folder("opt/to-file")
        .file("opt/to-file/x", "")
        .file("opt/to-folder", "");
    let third = Archive::default()
        .file("opt/to-file", "a file\n")
        .file("opt/.wh.to-folder", "")
        .folder("opt/to-folder")
        .file("opt/to-folder/y", "");
    let layers = [debian_layer()?, Layer::plain(second), Layer::plain(third)];
    let config = json!({ "Cmd": ["bash"], "Env": ["LANG=C.UTF-8"] });
    let image = Layout::of(subject, "debian", &config, &layers)?;
    let name = image.name();
    let run = |words: &[&str]| subject.run(&[&["--image", &name, "--cpus", "1"], words].concat());
    let version = run(&["dpkg", "--version"])?;
    ensure(version.ok()?.starts_with("Debian"), || Failure::new("the version of dpkg", &version.stdout))?;
    expect("what python3 prints", "6 * 7 = 42", run(&["python3", "-c", "print(f'6 * 7 = {6 * 7}')"])?.ok()?)?;
    expect("what the script prints", "debian with 2 arguments", run(&["about", "a", "b c"])?.ok()?)?;
    let look = "cat /etc/debian_version /opt/to-file; ls /opt/to-folder; test -e /etc/shells || echo \
                deleted; echo x > /gone";
    for run in [run(&["sh", "-c", look])?, run(&["sh", "-c", &format!("ls /gone 2>/dev/null; {look}")])?] {
        expect("what the layers have changed", "changed\na file\ny\ndeleted", run.ok()?)?;
    }
    Ok(std::fs::remove_dir_all(image.path)?)
}
