//! Images that other tools make are unpacked by Congo as umoci unpacks them; what Congo makes, other tools
//! take.
//!
//! Three layers add, change and delete, put a file in the place of a folder and a folder in that of a file,
//! and back. Each is tried in every form that skopeo writes. Needs root, umoci and skopeo; buildah for its
//! own images; docker-registry for one that is fetched, in a network of the test's own.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use common::oci::{Base, Image, commit, reference, target};
use xtask::image::compare;

/// Says by name why a test is not run.
fn lacks(tools: &[&str]) -> bool {
    let is_there = |tool: &&str| Command::new(tool).arg("--version").output().is_ok();
    let mut missing: Vec<_> =
        tools.iter().filter(|tool| !is_there(tool)).map(|tool| (*tool).to_owned()).collect();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".into());
    }
    if !missing.is_empty() {
        let name = thread::current().name().unwrap_or_default().to_owned();
        common::tell(format_args!("skipped {name}: it needs {}", missing.join(", ")));
    }
    !missing.is_empty()
}

fn run(folder: &Path, line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn same(image: &Path, tag: &str, least: usize) {
    let mut value = image.as_os_str().to_owned();
    value.push(tag);
    let (entries, differences) = compare(&reference(value).unwrap()).unwrap();
    let told: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{}{tag}:\n{}", image.display(), told.join("\n"));
    println!("{}{tag}: {entries} entries, 0 differences", image.display());
    assert!(entries >= least, "{entries} entries only");
}

/// The first layer: one of everything.
fn fill(root: &Path) {
    let path = |name: &str| root.join(name);
    for folder in ["usr/bin", "dir/sub", "tofile", "tmp", "empty"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    fs::set_permissions(path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("usr/bin", path("bin")).unwrap();
    for (name, mode) in
        [("usr/bin/su", 0o4755), ("usr/bin/ping", 0o755), ("dir/sub/f", 0o640), ("dir/gone", 0o644)]
    {
        fs::write(path(name), name).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(path("usr/bin/su"), path("usr/bin/su2")).unwrap();
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(path("usr/bin/ping"), "security.capability", &capability).unwrap();
    xattr::set(path("dir"), "user.note", b"a=b\n\xff").unwrap();
    chown(path("dir"), Some(1000), Some(100_000)).unwrap();
    fs::write(path("tofolder"), "file").unwrap();
    fs::write(path("tofile/x"), "folder").unwrap();
    for (name, kind, device) in [("fifo", "p", ""), ("null", "c", " 1 3"), ("loop", "b", " 7 0")] {
        run(root, &format!("mknod {name} {kind}{device}"));
    }
    let hole = fs::File::create(path("hole")).unwrap();
    hole.set_len(3 << 20).unwrap();
    hole.write_all_at(b"x", 2_000_000).unwrap();
    let long = format!("{}/{}", "l".repeat(150), "n".repeat(200));
    fs::create_dir(path(&"l".repeat(150))).unwrap();
    fs::write(path(&long), "long").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not-utf8-\xff")), "x").unwrap();
}

/// The second one changes, deletes, and exchanges files and folders.
fn change(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::remove_file(path("dir/gone")).unwrap();
    fs::remove_dir_all(path("dir/sub")).unwrap();
    fs::create_dir(path("dir/sub")).unwrap();
    fs::write(path("dir/sub/g"), "new").unwrap();
    fs::remove_dir_all(path("tofile")).unwrap();
    fs::write(path("tofile"), "file now").unwrap();
    fs::remove_file(path("tofolder")).unwrap();
    fs::create_dir(path("tofolder")).unwrap();
    fs::write(path("tofolder/y"), "folder now").unwrap();
    fs::set_permissions(path("usr/bin/ping"), fs::Permissions::from_mode(0o700)).unwrap();
}

/// The third one turns some of it back.
fn change_back(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::remove_file(path("tofile")).unwrap();
    fs::create_dir(path("tofile")).unwrap();
    fs::write(path("tofile/x"), "folder again").unwrap();
    fs::remove_dir_all(path("tofolder")).unwrap();
    fs::write(path("tofolder"), "file again").unwrap();
    fs::write(path("dir/gone"), "back").unwrap();
    fs::remove_file(path("bin")).unwrap();
    fs::create_dir(path("bin")).unwrap();
    fs::hard_link(path("usr/bin/su"), path("bin/su3")).unwrap();
}

#[test]
fn images_of_umoci_and_skopeo() {
    if lacks(&["umoci", "skopeo"]) {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let at = work.path();
    run(at, "umoci init --layout layout");
    run(at, "umoci new --image layout:0");
    for (number, change) in [fill as fn(&Path), change, change_back].into_iter().enumerate() {
        run(at, &format!("umoci unpack --image layout:{number} bundle{number}"));
        change(&at.join(format!("bundle{number}/rootfs")));
        run(at, &format!("umoci repack --image layout:{} bundle{number}", number + 1));
    }
    for tag in [":0", ":1", ":2", ":3"] {
        same(&at.join("layout"), tag, if tag == ":0" { 1 } else { 22 });
    }
    run(at, "skopeo copy oci:layout:3 docker-archive:saved.tar:congo/test:v1");
    run(at, "skopeo copy oci:layout:3 oci-archive:archive.tar:v1");
    run(at, "skopeo copy --dest-compress --dest-compress-format=zstd oci:layout:3 oci:zstd:v1");
    same(&at.join("saved.tar"), ":v1", 22);
    same(&at.join("archive.tar"), ":v1", 22);
    same(&at.join("zstd"), "", 22);

    // What Congo makes of it: three layers with one more on top, here with what the second had changed.
    let image = Image::open(&reference(at.join("saved.tar").into()).unwrap()).unwrap();
    let layers = image.unpack(&at.join("state")).unwrap();
    for name in ["new:v1", "new.tar:v1"] {
        let new = target(at.join(name).into()).unwrap();
        commit(&new, Base { image: Some(&image), folders: &[] }, &layers[1], &["sh".into()]).unwrap();
        same(&new.path, ":v1", 22);
    }
    run(at, "skopeo inspect oci:new:v1");
    run(at, "skopeo inspect oci-archive:new.tar:v1");
    // From folders alone, as without an image.
    let new = target(at.join("folders:v1").into()).unwrap();
    commit(&new, Base { image: None, folders: &layers[..1] }, &layers[1], &["sh".into()]).unwrap();
    same(&new.path, ":v1", 22);
}

#[test]
fn an_image_of_buildah() {
    if lacks(&["buildah", "umoci", "skopeo", "unshare"]) {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    // Its mounts are to end with it.
    let script = "set -e; b() { buildah --storage-driver vfs --root $PWD/store --runroot $PWD/run \"$@\"; }
        c=$(b from scratch); m=$(b mount $c); mkdir -p $m/bin $m/a; cp /bin/cat $m/bin/; ln -s cat \
                  $m/bin/dog; echo hi > $m/a/x
        b config --cmd /bin/cat --env A=b --volume /v --stop-signal SIGINT $c; i=$(b commit -q $c); b \
                  umount $c >&2
        c=$(b from $i); m=$(b mount $c); rm -r $m/a; echo z > $m/a; b commit -q $c oci:$PWD/layout:two; b \
                  umount $c";
    let output =
        Command::new("unshare").args(["-m", "bash", "-c", script]).current_dir(work.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&work.path().join("layout"), ":two", 5);
    let image = Image::open(&reference(work.path().join("layout").into()).unwrap()).unwrap();
    assert_eq!(image.config.cmd, ["/bin/cat"]);
    assert!(image.config.env.contains(&("A".into(), "b".into())));
    assert_eq!(image.config.volumes, [Path::new("/v")]);
    assert_eq!(image.config.stop_signal, Some(nix::sys::signal::Signal::SIGINT.into()));
}

/// A registry at 127.0.0.1:5000 of the thread's network, until the value is dropped.
struct Registry(Child);

impl Registry {
    const ADDRESS: &str = "127.0.0.1:5000";

    fn start(folder: &Path) -> Registry {
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nhttp: {{ addr: \"{}\" }}\nstorage: {{ filesystem: {{ \
             rootdirectory: \"{}\" }} }}\n",
            Registry::ADDRESS,
            folder.join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        let command = command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry(command.spawn().unwrap());
        for _ in 0..400 {
            if TcpStream::connect(Registry::ADDRESS).is_ok() {
                return registry;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("the registry does not answer");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `cargo xtask image pull` in a folder; this registry has no TLS.
fn pull(at: &Path, name: &str, folder: &str) -> Output {
    let insecure = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", Registry::ADDRESS);
    let config = at.join(".config/containers");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("registries.conf"), insecure).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["image", "pull", name, folder]).current_dir(at);
    // Where skopeo looks first; not each version of it knows a variable for that.
    command.env("HOME", at).output().unwrap()
}

/// What a file of an image holds.
fn content(image: &Path, tag: &str, name: &str) -> String {
    let mut value = image.as_os_str().to_owned();
    value.push(tag);
    let image = Image::open(&reference(value).unwrap()).unwrap();
    let state = tempfile::tempdir().unwrap();
    let layers = image.unpack(state.path()).unwrap();
    fs::read_to_string(layers.last().unwrap().join(name)).unwrap()
}

#[test]
fn an_image_is_fetched_from_a_registry() {
    if lacks(&["docker-registry", "skopeo"]) {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let at = work.path();
    for tag in ["v1", "latest"] {
        let layer = at.join(format!("layer-{tag}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("which"), tag).unwrap();
        let made = target(at.join(format!("made:{tag}")).into()).unwrap();
        commit(&made, Base::default(), &layer, &["sh".into()]).unwrap();
    }
    let in_own_network = || {
        checks::host::own_network().unwrap();
        let _registry = Registry::start(at);
        for tag in ["v1", "latest"] {
            let to = format!("docker://{}/congo/made:{tag}", Registry::ADDRESS);
            run(at, &format!("skopeo copy --dest-tls-verify=false oci:made:{tag} {to}"));
        }
        let name = format!("{}/congo/made", Registry::ADDRESS);
        // The second one goes into the folder of the first.
        for (name, tag) in [(format!("{name}:v1"), ":v1"), (name.clone(), ":latest")] {
            let output = pull(at, &name, "pulled");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(stdout.ends_with(&format!("Now: --image pulled{tag}\n")), "{stdout}");
        }
        let output = pull(at, &format!("{name}:missing"), "pulled");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains("skopeo failed"), "{stderr}");
    };
    thread::scope(|scope| scope.spawn(in_own_network).join()).unwrap();
    for tag in ["v1", "latest"] {
        assert_eq!(content(&at.join("pulled"), &format!(":{tag}"), "which"), tag);
    }
}

#[test]
fn without_skopeo_an_image_is_not_fetched() {
    let nothing = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["image", "pull", "debian:12", "debian"]).current_dir(&nothing);
    let output = command.env("PATH", nothing.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("skopeo is not installed") && stderr.contains("apt install skopeo"), "{stderr}");
}
