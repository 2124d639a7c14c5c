//! Images: what one says about its container, and in which forms it comes.
//!
//! Sources: OCI image specification, config.md, image-layout.md, image-index.md; Docker image specification
//! v1.2.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use serde_json::{Value, json};

use super::bad_input::{error, refused};
use super::init::find;
use crate::image::{Archive, Home, INDEX, Layer, Layout, MANIFEST, architecture, base, config, saved, zstd};
use crate::tree::same;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(3, "image.environment",
        "The image's variables are set, and the user's options override them.", environment)
        .hint("Env of the config, then --env-file and --env."),
    Check::since(3, "image.command",
        "Entrypoint, Cmd, COMMAND and --entrypoint make the command as Docker has it.", command)
        .hint("COMMAND replaces Cmd; --entrypoint replaces Entrypoint and drops Cmd, and an empty one \
               leaves COMMAND alone."),
    Check::since(3, "image.workdir",
        "The command starts in the image's WorkingDir, unless --workdir names another directory.", workdir)
        .hint("WorkingDir of the config; it is made if it is missing."),
    Check::since(3, "image.volumes",
        "Each path of the image's Volumes is a volume, filled from the image and removed with the container.",
        volumes)
        .hint("An anonymous volume for each of the config's Volumes, unless -v has put another there."),
    Check::since(3, "image.stop-signal",
        "SIGTERM to the runtime reaches the command as the image's StopSignal.", stop_signal)
        .hint("StopSignal of the config; other signals stay what they are."),
    Check::since(3, "image.formats",
        "A layout folder, its archive, compressed too, and one of docker save give the same tree.", formats)
        .hint("An archive with index.json is OCI's; one with only manifest.json is Docker's."),
    Check::since(3, "image.tags",
        "The tag chooses the image. For an unknown tag, the error lists the image's tags.", tags)
        .hint("The annotation org.opencontainers.image.ref.name in index.json."),
    Check::since(3, "image.artifacts",
        "A signature, an attestation or an SBOM that lies before the image is never taken for it.", artifacts)
        .hint("Read artifactType, the media types of config and layers, and BuildKit's annotation \
               vnd.docker.reference.type."),
    Check::since(3, "image.candidates",
        "If several images can be meant, the error lists each with its platform and the value that means it.",
        candidates)
        .hint("An image without a tag of its own has still a digest."),
    Check::since(3, "image.no-orders-to-the-terminal",
        "If an image's PATH or platform has control characters, an error shows them as text.",
        no_orders)
        .hint("Escape each control character in the one place that writes errors."),
    Check::since(3, "image.platform",
        "From an image for several machines, the variant for this machine runs.", platform)
        .hint("An index in the index: take the manifest whose platform is this machine's."),
];

/// An image of the base alone, with this config.
fn plain(subject: &Subject, name: &str, more: Value) -> Result<String, Failure> {
    Ok(Layout::of(subject, name, &config(more), &[base()?])?.name())
}

fn environment(subject: &Subject) -> Checked {
    let env = ["PATH=/commands", "ONE=image", "TWO=image", "THREE=a=b c"];
    let image = plain(subject, "environment", json!({ "Env": env }))?;
    let container = subject.hold(&["--image", &image, "--env", "TWO=user"])?;
    let mut seen = container.first()?.environment()?;
    seen.retain(|it| ["PATH", "ONE", "TWO", "THREE"].iter().any(|name| it.starts_with(&format!("{name}="))));
    seen.sort();
    expect(
        "what of it is in /proc/PID/environ",
        vec!["ONE=image", "PATH=/commands", "THREE=a=b c", "TWO=user"],
        seen.iter().map(String::as_str).collect(),
    )
}

fn command(subject: &Subject) -> Checked {
    let both =
        json!({ "Entrypoint": ["sh", "-c", "echo \"entrypoint:$*\"", "sh"], "Cmd": ["cmd", "two words"] });
    let both = plain(subject, "command-both", both)?;
    let only = plain(subject, "command-only", json!({ "Cmd": ["sh", "-c", "echo cmd"] }))?;
    let emptied =
        plain(subject, "command-emptied", json!({ "Entrypoint": [""], "Cmd": ["sh", "-c", "echo cmd"] }))?;
    for (image, words, expected) in [
        (&both, &[][..], "entrypoint:cmd two words"),
        (&both, &["user", "x"], "entrypoint:user x"),
        // With its Cmd as arguments, it would fail.
        (&both, &["--entrypoint", "cat"], ""),
        (&both, &["--entrypoint", "sh", "--", "-c", "echo mine"], "mine"),
        (&both, &["--entrypoint", "", "sh", "-c", "echo none"], "none"),
        (&emptied, &[], "cmd"),
        (&only, &[], "cmd"),
        (&only, &["sh", "-c", "echo user"], "user"),
        (&only, &["--entrypoint", "sh", "--", "-c", "echo mine"], "mine"),
    ] {
        let arguments = [&["--image", image][..], words].concat();
        expect(format!("what {words:?} prints"), expected, subject.run(&arguments)?.ok()?)?;
    }
    Ok(())
}

fn workdir(subject: &Subject) -> Checked {
    let image = plain(subject, "workdir", json!({ "WorkingDir": "/srv/made" }))?;
    expect("pwd", "/srv/made", subject.sh(&["--image", &image], "pwd")?.ok()?)?;
    expect("pwd with --workdir", "/etc", subject.sh(&["--image", &image, "--workdir", "/etc"], "pwd")?.ok()?)
}

fn volumes(subject: &Subject) -> Checked {
    let layer = Layer::plain(Archive::default().folder("data").file("data/of-image", "filled"));
    let config = config(json!({ "Volumes": { "/x/../data": {}, "/none": {} } }));
    let image = Layout::of(subject, "volumes", &config, &[base()?, layer])?.name();
    let options = ["--image", image.as_str()];
    let container = subject.hold(&options)?;
    for point in ["/data", "/none"] {
        container.first()?.mount_at(point)?;
    }
    let inside = container.first()?.path("root/data/of-image");
    expect("what is in the volume", "filled", fs::read_to_string(inside)?.as_str())?;
    drop(container);
    subject.sh(&options, "echo x > /data/new")?.ok()?;
    let next = subject.sh(&options, "test -e /data/new && echo there; :")?;
    expect("what the next container has of what one has written", "", next.ok()?)?;
    let host = subject.empty_folder("volumes-host")?;
    fs::set_permissions(&host, fs::Permissions::from_mode(0o777))?;
    let volume = format!("{}:/data", host.display());
    subject.sh(&[&options[..], &["-v", &volume]].concat(), "echo x > /data/new")?.ok()?;
    ensure(host.join("new").exists(), || {
        Failure::new("-v at the place of a volume of the image wins", "it does not")
    })
}

fn stop_signal(subject: &Subject) -> Checked {
    let image = plain(subject, "stop-signal", json!({ "StopSignal": "usr1" }))?;
    let script = "for s in TERM USR1 INT; do trap \"echo got $s.\" $s; done
        sleep 1000 & echo ready; while :; do wait; done";
    let container = subject.hold_sh(&["--image", &image], script)?;
    container.signal(SIGINT)?;
    container.wait_for("got INT.")?;
    container.signal(SIGTERM)?;
    container.wait_for("got USR1.")?;
    ensure(!container.stdout().contains("TERM"), || Failure::new("SIGUSR1 in the place of SIGTERM", "both"))?;
    let container = subject.hold_sh(&["--image", &image, "--stop-signal", "INT"], script)?;
    container.signal(SIGTERM)?;
    container.wait_for("got INT.")?;
    // As images of systemd have it; the first one of glibc is 34.
    let image = plain(subject, "stop-signal-real-time", json!({ "StopSignal": "RTMIN+3" }))?;
    let container = subject.hold_sh(&["--image", &image, "--init"], "echo ready; exec sleep 1000")?;
    find(container.first()?, "sleep 1000")?;
    container.signal(SIGTERM)?;
    let status = container.output()?.status;
    ensure((128 + 37..128 + 39).contains(&status), || {
        Failure::new("SIGRTMIN+3 ends the command: status 165 or 166", status)
    })
}

fn formats(subject: &Subject) -> Checked {
    let lower = Archive::default()
        .folder("t")
        .file("t/a", "lower")
        .file("t/b", "lower")
        .folder("t/c")
        .symlink("t/l", "a");
    let upper = Archive::default().file("t/a", "upper").file("t/.wh.b", "").hard_link("t/h", "t/a");
    let layers = [base()?, Layer::gzip(lower)?, Layer::plain(upper)];
    let config = config(json!({}));
    let layout = Layout::of(subject, "formats", &config, &layers)?;
    let archive = layout.archive(subject, "formats.tar")?;
    let saved = saved(subject, "formats-saved.tar", "congo/checks:v1", &config, &layers)?;
    let mut trees = Vec::new();
    for image in [&layout.name(), &archive, &saved] {
        // What another form has unpacked must not do for this one.
        trees.push((image.clone(), Home::new(subject, "formats-home")?.tree(&["--image", image])?));
    }
    let (_, first) = &trees[0];
    let names: Vec<_> = first.keys().map(|path| path.display().to_string()).collect();
    expect(
        "what is in the folder /t",
        vec!["", "a", "c", "h", "l"],
        names.iter().map(String::as_str).collect(),
    )?;
    trees[1..].iter().try_for_each(|(image, tree)| same(image, first, tree))?;
    let plain = fs::read(&archive)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain)?;
    let gzip = gzip.finish()?;
    // As a tape pads it to whole blocks.
    let padded = [&gzip[..], &[0; 20_000]].concat();
    let zstd = zstd(&plain);
    for (end, compressed) in [("gz", gzip), ("padded.gz", padded), ("zst", zstd)] {
        let file = format!("{archive}.{end}");
        fs::write(&file, compressed)?;
        subject.run(&["--image", &file])?.ok()?;
    }
    subject.run(&["--image", &format!("{saved}:congo/checks:v1")])?.ok()?;
    subject.run(&["--image", &format!("{saved}:v1")])?.ok().map(drop)
}

/// An image that says a word.
fn saying(layout: &Layout, base: &Layer, word: &str) -> Result<Value, Failure> {
    let config = config(json!({ "Cmd": ["sh", "-c", format!("echo {word}")] }));
    Ok(layout.image(&config, std::slice::from_ref(base))?)
}

fn tags(subject: &Subject) -> Checked {
    let base = base()?;
    let mut layout = Layout::new(subject, "tags")?;
    for tag in ["one", "two"] {
        layout.add_tagged(saying(&layout, &base, tag)?, tag)?;
    }
    let image = layout.name();
    let tagged = |tag: &str| format!("{image}:{tag}");
    for tag in ["one", "two"] {
        expect(format!("what :{tag} says"), tag, subject.run(&["--image", &tagged(tag)])?.ok()?)?;
    }
    refused(subject, &["--image", &tagged("three")], &["three", "one", "two"])?;
    refused(subject, &["--image", &image], &["one", "two"])?;
    layout.add_tagged(saying(&layout, &base, "newest")?, "latest")?;
    expect("what it says without a tag", "newest", subject.run(&["--image", &image])?.ok()?)
}

fn platform(subject: &Subject) -> Checked {
    let base = base()?;
    let mut layout = Layout::new(subject, "platform")?;
    let mut manifests = Vec::new();
    for (os, machine) in [("linux", "mips64le"), ("windows", architecture()), ("linux", architecture())] {
        let mut manifest = saying(&layout, &base, &format!("{os}-{machine}"))?;
        manifest["platform"] = json!({ "os": os, "architecture": machine });
        manifests.push(manifest);
    }
    let others = manifests[..2].to_vec();
    let index =
        layout.document(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }))?;
    layout.add(index)?;
    let run = subject.run(&["--image", &layout.name()])?;
    expect("what it says", format!("linux-{}", architecture()).as_str(), run.ok()?)?;
    let mut layout = Layout::new(subject, "platform-others")?;
    let index = layout.document(INDEX, &json!({ "schemaVersion": 2, "manifests": others }))?;
    layout.add(index)?;
    refused(subject, &["--image", &layout.name()], &[architecture()])
}

fn artifacts(subject: &Subject) -> Checked {
    let base = base()?;
    let word = "ran";
    for (number, case) in ["artifactType", "config", "layers", "annotation", "descriptor", "unknown type"]
        .into_iter()
        .enumerate()
    {
        let mut layout = Layout::new(subject, &format!("artifacts-{number}"))?;
        let mut other = saying(&layout, &base, "not-an-image")?;
        let path = layout.blob_path(other["digest"].as_str().unwrap_or_default());
        let mut manifest: Value = serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)?;
        match case {
            // As ORAS and cosign 3 write it.
            "artifactType" => {
                manifest["artifactType"] = "application/vnd.dev.sigstore.bundle.v0.3+json".into();
            }
            "config" => manifest["config"]["mediaType"] = "application/vnd.oci.empty.v1+json".into(),
            // As older cosigns write it.
            "layers" => {
                let kind = "application/vnd.dev.cosign.simplesigning.v1+json";
                manifest["layers"] = json!([layout.blob(kind, b"{}")?]);
            }
            _ => {}
        }
        if ["artifactType", "config", "layers"].contains(&case) {
            other = layout.document(MANIFEST, &manifest)?;
        }
        match case {
            // As BuildKit writes it.
            "annotation" => {
                other["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
            }
            "descriptor" => other["artifactType"] = "application/spdx+json".into(),
            "unknown type" => other["mediaType"] = "application/vnd.example+json".into(),
            _ => {}
        }
        let alone = other.clone();
        layout.add(other)?;
        let image = saying(&layout, &base, word)?;
        layout.add(image)?;
        let run = subject.run(&["--image", &layout.name()])?;
        expect(format!("what the image says beside a document known by its {case}"), word, run.ok()?)?;
        layout.clear();
        layout.add(alone)?;
        refused(subject, &["--image", &layout.name()], &["is no image"])
            .map_err(|failure| failure.of(case))?;
    }
    Ok(())
}

fn candidates(subject: &Subject) -> Checked {
    let base = base()?;
    let mut layout = Layout::new(subject, "candidates")?;
    let mut values = Vec::new();
    let name = layout.name();
    for word in ["tagged", "untagged", "bare"] {
        let mut image = saying(&layout, &base, word)?;
        image["platform"] = json!({ "os": "linux", "architecture": architecture() });
        let digest = image["digest"].as_str().unwrap_or_default().to_owned();
        if word == "tagged" {
            values.push((word, format!("{name}:v1")));
            layout.add_tagged(image, "v1")?;
        } else {
            values.push((word, format!("{name}:{digest}")));
            layout.add(image)?;
        }
    }
    // An image for another machine is not meant.
    let mut far = saying(&layout, &base, "far")?;
    far["platform"] = json!({ "os": "linux", "architecture": "mips64le" });
    let of_far = far["digest"].as_str().unwrap_or_default().to_owned();
    layout.add(far)?;
    let run = subject.run(&["--image", &name])?;
    let platform = format!("linux/{}", architecture());
    let listed: Vec<_> = values.iter().map(|(_, value)| value.as_str()).chain([platform.as_str()]).collect();
    error(&run, 125, &listed)?;
    ensure(!run.stderr.contains(&of_far), || Failure::new("only images for this machine", &run.stderr))?;
    for (word, value) in &values {
        expect(format!("what {value} says"), *word, subject.run(&["--image", value])?.ok()?)?;
    }
    Ok(())
}

fn no_orders(subject: &Subject) -> Checked {
    let order = "\u{1b}]0;title\u{7}\u{9b}31m\r\nnext line";
    let of_path = plain(subject, "orders-path", json!({ "Env": [format!("PATH=/{order}")] }))?;
    let mut layout = Layout::new(subject, "orders-platform")?;
    let mut manifest = saying(&layout, &base()?, "nothing")?;
    manifest["platform"] = json!({ "os": order, "architecture": order });
    layout.add(manifest)?;
    for image in [of_path, layout.name()] {
        let output = subject.run(&["--image", &image, "no-such-command"])?;
        ensure(output.status != 0, || Failure::new("a refusal", "status 0"))?;
        ensure(output.stderr.contains("title"), || Failure::new("what it says of itself", &output.stderr))?;
        let lines: Vec<_> = output.stderr.lines().collect();
        let is_order = |line: &&str| line.contains(char::is_control) || line.starts_with("next line");
        ensure(!lines.iter().any(is_order), || {
            Failure::new("no control character in an error", format!("{:?}", output.stderr))
        })?;
    }
    Ok(())
}
