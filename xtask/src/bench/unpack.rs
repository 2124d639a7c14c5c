//! `cargo xtask bench unpack`: how fast an image's layer becomes files, beside umoci and tar.
//!
//! The layer is Debian, from `cargo xtask debian`. Each run begins with an empty folder on the disk. Congo's
//! runs include the start of a container. Man pages: umoci-unpack(1), skopeo-copy(1), tar(1).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::measure::Times;
use super::targets::{Bound, Verdict};
use super::yard::Yard;
use super::{Common, machine, plot};
use crate::debian;

/// Measure how long Congo, umoci and tar take to unpack a Debian of some 170 MB.
#[derive(clap::Args)]
pub struct Args {
    /// How often each unpacks it
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Fail unless the target is met
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    common: Common,
}

const GZIP: &str = "Congo, gzip";
const UMOCI: &str = "umoci unpack, gzip";

pub fn run(args: &Args) -> Result<ExitCode> {
    let yard = Yard::new(args.common.binaries.as_deref())?;
    let folder = yard.folder();
    let size = layouts(&debian::root()?, folder)?;
    let congo = |layout: &'static str| {
        let mut command = Command::new(yard.binary(4));
        command.args(["--image", &format!("{}:it", folder.join(layout).display()), "true"]);
        move |target: &Path| {
            command.env("CONGO_HOME", target);
            command.status()
        }
    };
    let mut gzip = congo("gzip");
    let mut zstd = congo("zstd");
    let image = format!("{}:it", folder.join("gzip").display());
    let mut umoci = |target: &Path| {
        Command::new("umoci").args(["unpack", "--image", &image]).arg(target.join("bundle")).status()
    };
    let layer = folder.join("layer.tar.gz");
    let mut tar = |target: &Path| {
        let mut tar = Command::new("tar");
        tar.args(["--numeric-owner", "-xzf"]).arg(&layer).arg("-C").arg(target).status()
    };
    type Unpack<'a> = &'a mut dyn FnMut(&Path) -> std::io::Result<std::process::ExitStatus>;
    let contenders: [(&str, Unpack<'_>); 4] =
        [(GZIP, &mut gzip), ("Congo, zstd", &mut zstd), (UMOCI, &mut umoci), ("tar -xz", &mut tar)];
    let mut times = Times::default();
    let names = contenders.each_ref().map(|(name, _)| *name);
    let mut contenders = contenders;
    for _ in 0..args.runs {
        for (name, unpack) in &mut contenders {
            let target = tempfile::tempdir_in(folder)?;
            let start = Instant::now();
            let status = unpack(target.path()).with_context(|| format!("starting {name}"))?;
            let time = start.elapsed().as_secs_f64();
            ensure!(status.success(), "{name}: {status}");
            times.0.entry(name.to_string()).or_default().push(time);
        }
    }

    let mut text = format!(
        "{}\n{}\n\n| a layer of {} MB by | median, s | MB/s | × {GZIP} |\n| --- | ---: | ---: | ---: |\n",
        machine()?,
        args.common.build(),
        size / 1_000_000,
    );
    for name in names {
        let [_, median, _] = times.quartiles(name).context("measured")?;
        let ratio = times.ratio(name, GZIP).context("measured")?;
        let speed = size as f64 / 1e6 / median;
        let _ = writeln!(text, "| {name} | {median:.2} | {speed:.0} | {ratio:.2} |");
    }
    let mut verdicts = Vec::new();
    if args.check {
        let ratio = times.ratio(UMOCI, GZIP).context("measured");
        verdicts.push(Verdict::new("umoci against Congo", Bound::AtLeast(3.0), " ×", ratio));
    }
    let bars = names.iter().filter_map(|&name| Some((name, times.quartiles(name)?)));
    let title = "Unpacking a Debian layer, in milliseconds";
    args.common.publish("unpack", title, &text, &verdicts, plot::bars(title, &machine()?, bars))
}

/// Makes an OCI layout of that root with a layer of each compression. Returns the size of the layer.
fn layouts(root: &Path, folder: &Path) -> Result<u64> {
    let tar = folder.join("layer.tar");
    let run = |command: &mut Command| -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("{name} is needed: apt install {name}"))?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let of = |name: &str| format!("{}:it", folder.join(name).display());
    run(Command::new("tar").args(["--numeric-owner", "-C"]).arg(root).arg("-cf").arg(&tar).arg("."))?;
    run(Command::new("umoci").args(["init", "--layout"]).arg(folder.join("gzip")))?;
    run(Command::new("umoci").args(["new", "--image", &of("gzip")]))?;
    run(Command::new("umoci").args(["raw", "add-layer", "--image", &of("gzip")]).arg(&tar))?;
    let copy = ["copy", "--quiet", "--dest-compress", "--dest-compress-format=zstd"];
    run(Command::new("skopeo").args(copy).args([of("gzip"), of("zstd")].map(|name| format!("oci:{name}"))))?;
    run(Command::new("gzip").arg("--keep").arg(&tar))?;
    Ok(fs::metadata(&tar)?.len())
}
