//! Roots made from this machine, and from hosts made up in a temporary folder. These have a merged /usr or
//! not, programs that are broken, and libraries in places where only the loader's rules find them.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use tempfile::TempDir;

use super::elf::{Loader, Object};
use super::host::{Host, inward};
use super::*;
use crate::testing::{in_mount_namespace, skipped};

/// A host made up in a temporary folder from programs of this machine.
struct Fake {
    folder: TempDir,
}

impl Fake {
    /// One with a merged /usr has links where one without has directories.
    fn new(merged: bool) -> Fake {
        let fake = Fake { folder: tempfile::tempdir().unwrap() };
        for name in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(fake.at(&format!("/usr/{name}"))).unwrap();
            match merged {
                true => symlink(format!("usr/{name}"), fake.at(&format!("/{name}"))).unwrap(),
                false => fs::create_dir(fake.at(&format!("/{name}"))).unwrap(),
            }
        }
        fake
    }

    /// One with a shell that works.
    fn with_shell(merged: bool) -> Fake {
        let fake = Fake::new(merged);
        fake.program("sh", "/bin/sh");
        fake
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
        fs::set_permissions(self.at(path), Permissions::from_mode(0o755)).unwrap();
    }

    fn link(&self, target: &str, path: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        symlink(target, self.at(path)).unwrap();
    }

    /// Copies the program `name` of this machine to `path`, and what ldd says that it needs to where ldd says
    /// it is.
    fn program(&self, name: &str, path: &str) {
        let real = which(name);
        self.write(path, fs::read(&real).unwrap());
        for library in ldd(&real) {
            self.write(library.to_str().unwrap(), fs::read(&library).unwrap());
        }
    }

    /// Compiles a C program or library of this text to `path`, and gives it what it needs of this machine.
    fn compile(&self, path: &str, text: &str, options: &[&str]) {
        let source = self.folder.path().join("source.c");
        fs::write(&source, text).unwrap();
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-x", "c", "-o"]).arg(self.at(path)).arg(&source).args(["-x", "none"]).args(options);
        assert!(cc.current_dir(self.folder.path()).status().unwrap().success(), "{cc:?}");
        // What it needs beyond libc is what the test is about.
        for library in ldd(Path::new("/bin/sh")) {
            self.write(library.to_str().unwrap(), fs::read(&library).unwrap());
        }
    }

    /// Makes a root of it.
    fn build(&self) -> Result<(PathBuf, Built)> {
        let search = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/opt/tools"].map(Path::new);
        let root = self.folder.path().join("root");
        _ = fs::remove_dir_all(&root);
        build(self.folder.path(), &search, &root).map(|built| (root, built))
    }
}

fn which(name: &str) -> PathBuf {
    let found = SEARCH.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("this test needs {name}"))
}

/// The libraries of a program as ldd(1) sees them: another opinion than that of the code under test.
fn ldd(program: &Path) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("not found"), "{text}");
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// May this process have mounts of its own? Tried on a thread that ends, as it cannot be undone; root in
/// somebody else's container may not either.
fn may_mount() -> bool {
    std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNS).is_ok()).join().unwrap()
}

/// Checks the output of a shell in the root, if this process may mount the root's /proc and enter the root.
fn prints(root: &Path, script: &str, expected: &str) {
    if !may_mount() {
        return skipped("nothing was run in the root, for which one must be root");
    }
    // In mounts of its own, with /proc: a loader finds $ORIGIN through it.
    let enter = "mount -t proc proc \"$0/proc\" && \
                 PATH=/usr/sbin:/usr/bin:/sbin:/bin exec \"$(command -v chroot)\" \"$0\" /bin/sh -c \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", enter]).arg(root).arg(script);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{errors}", output.status);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{script}");
}

/// Everything in a directory, at any depth.
fn walk(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    let mut next = 0;
    while next < all.len() {
        if fs::symlink_metadata(&all[next]).unwrap().is_dir() {
            all.extend(fs::read_dir(&all[next]).unwrap().map(|entry| entry.unwrap().path()));
        }
        next += 1;
    }
    all
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn reason<'a>(built: &'a Built, name: &str) -> Option<&'a str> {
    built.left_out.iter().find(|(left_out, _)| left_out == name).map(|(_, reason)| reason.as_str())
}

#[test]
fn a_root_shares_nothing_with_the_host_and_hides_nothing_from_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let built = build(Path::new("/"), &SEARCH.map(Path::new), &root).unwrap();
    assert!(built.programs > 50, "{built:?}");
    for path in walk(&root) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let on_host = Path::new("/").join(path.strip_prefix(&root).unwrap());
        if path == root.join("etc/mtab") {
            // It leads to the container's own procfs, which is mounted later.
            assert_eq!(fs::read_link(&path).unwrap(), Path::new("/proc/mounts"));
        } else if metadata.is_symlink() {
            let target = fs::canonicalize(&path).unwrap();
            assert!(target.starts_with(root.canonicalize().unwrap()), "{path:?} leads to {target:?}");
        } else if metadata.is_file() {
            assert_eq!(metadata.mode() & 0o7444, 0o444, "{path:?}");
            let same = |host: fs::Metadata| (host.dev(), host.ino()) == (metadata.dev(), metadata.ino());
            assert!(!fs::metadata(on_host).is_ok_and(same), "{path:?} is the host's own file");
        }
    }
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        ["tmp", "var/tmp", "root", "proc", "etc", ""].map(mode),
        [0o1777, 0o1777, 0o700, 0o755, 0o755, 0o755]
    );
    for empty in ["proc", "sys", "dev", "run", "tmp"] {
        assert_eq!(names(&root.join(empty)), BTreeSet::new(), "{empty}");
    }
}

#[test]
fn the_libraries_of_every_program_are_those_that_ldd_names() {
    let host = Host { root: Path::new("/") };
    let mut loader = Loader::new(&host);
    let mut compared = 0;
    for name in
        ["sh", "bash", "ls", "ps", "top", "mount", "ip", "tar", "grep", "awk", "less", "vi", "cargo", "cc"]
    {
        let Some(found) = SEARCH.iter().find_map(|at| host.resolve(&Path::new(at).join(name))) else {
            continue;
        };
        let Some(object) = loader.object(&found.real) else { continue };
        let needs: BTreeSet<_> =
            loader.needs(&found.real, &object).unwrap().into_iter().map(|found| found.real).collect();
        let real = |path: PathBuf| path.canonicalize().unwrap();
        assert_eq!(needs, ldd(&found.real).into_iter().map(real).collect(), "{name}");
        compared += 1;
    }
    assert!(compared > 4, "only {compared} programs of this host were compared");
}

#[test]
fn hosts_with_and_without_a_merged_usr_keep_their_layout() {
    for merged in [true, false] {
        let fake = Fake::with_shell(merged);
        fake.program("cat", "/bin/cat");
        fake.program("sort", "/usr/bin/sort");
        let (root, built) = fake.build().unwrap();
        let kind = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().is_symlink();
        assert_eq!(["bin", "sbin", "lib", "usr/bin"].map(kind), [merged, merged, merged, false]);
        assert_eq!((built.programs, &built.left_out), (3, &vec![]), "merged: {merged}");
        assert_eq!(root.join("usr/bin/cat").exists(), merged);
        prints(&root, "printf 'b\\na\\n' | /usr/bin/sort | /bin/cat", "a\nb\n");
    }
}

#[test]
fn links_to_programs_work_as_on_the_host() {
    let fake = Fake::new(true);
    fake.program("sh", "/usr/bin/dash");
    fake.link("dash", "/usr/bin/sh");
    fake.program("cat", "/usr/lib/tools/cat-1.0");
    fake.link("/etc/alternatives/cat", "/usr/bin/cat");
    // Absolute, through the link /bin, and with a `..` too many, which ends at the root.
    fake.link("../../../bin/cat.chosen", "/etc/alternatives/cat");
    fake.link("../lib/tools/cat-1.0", "/usr/bin/cat.chosen");
    fake.link("top", "/usr/bin/top");
    let (root, built) = fake.build().unwrap();
    assert_eq!(built.programs, 3, "sh, dash and cat, but not top, which is a loop: {built:?}");
    assert_eq!(fs::read_link(root.join("usr/bin/sh")).unwrap(), Path::new("dash"));
    assert_eq!(fs::read_link(root.join("usr/bin/cat")).unwrap(), Path::new("../../etc/alternatives/cat"));
    assert!(
        root.join("etc/alternatives/cat").canonicalize().unwrap().starts_with(root.canonicalize().unwrap())
    );
    prints(&root, "echo meow | cat", "meow\n");
}

#[test]
fn programs_outside_of_the_path_get_a_link_in_it() {
    let fake = Fake::new(false);
    fake.program("sh", "/opt/tools/sh");
    fake.program("cat", "/opt/store/cat");
    fake.link("../store/cat", "/opt/tools/cat");
    let (root, _) = fake.build().unwrap();
    assert!(is_whole(&root));
    assert!(root.join("usr/bin/cat").canonicalize().unwrap().ends_with("root/opt/store/cat"));
    prints(&root, "echo meow | cat; command -v sh", "meow\n/usr/bin/sh\n");
}

#[test]
fn what_cannot_run_is_left_out_and_named() {
    let fake = Fake::with_shell(true);
    // Cut off in its data, behind all that the loader reads.
    fake.compile("/bin/ls", "int data[99999] = { 1 }; int main(void) { return data[0]; }", &[]);
    let program = fs::read(fake.at("/bin/ls")).unwrap();
    fake.write("/bin/ls", &program[..program.len() / 2]);
    fake.program("env", "/usr/bin/env");
    fake.write("/bin/cat", "no program at all");
    fake.write("/bin/which", "#! /bin/sh -e\necho from a script\n");
    fake.write("/bin/gunzip", "#!/usr/bin/env sh\n");
    fake.write("/bin/zcat", "#!/usr/bin/perl\n");
    fake.write("/bin/xzcat", "#!/usr/bin/env perl\n");
    library(&fake, "/usr/lib", "gone", 7, &[]);
    library(&fake, "/usr/lib", "here", 7, &[]);
    let both = "int gone(void); int here(void); int main(void) { return gone() + here(); }";
    fake.compile("/bin/ps", both, &["-Wl,--no-as-needed", "usr/lib/libgone.so", "usr/lib/libhere.so"]);
    fs::remove_file(fake.at("/usr/lib/libgone.so")).unwrap();
    nix::unistd::mkfifo(&fake.at("/bin/id"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (root, built) = fake.build().unwrap();
    assert_eq!(built.programs, 4, "{built:?}");
    for (name, expected) in [
        ("ls", "not a working program"),
        ("cat", "not a working program"),
        ("zcat", "a script for /usr/bin/perl"),
        ("xzcat", "a script for /usr/bin/env perl"),
        ("ps", "libgone.so is missing"),
    ] {
        assert_eq!(reason(&built, name), Some(expected), "{name}");
    }
    assert!(reason(&built, "id").is_some());
    let left: BTreeSet<_> = ["sh", "env", "gunzip", "which"].map(str::to_owned).into();
    assert_eq!(names(&root.join("usr/bin")), left);
    assert!(!root.join("usr/lib/libhere.so").exists(), "a library that only a left-out program needs");
    let line = describe(&built, false, Path::new("/x"));
    assert!(line.contains("4 programs (") && line.contains("ps (libgone.so is missing)"), "{line}");
    assert_eq!(line.lines().count(), 1);
    prints(&root, "which", "from a script\n");
}

/// Stands in for busybox: lists three applets, and else says by which name it was called.
const BUSYBOX: &str = r#"
    #include <stdio.h>
    #include <string.h>
    #include <unistd.h>
    int main(int argc, char **argv) {
        if (argc > 1 && !strcmp(argv[1], "--list")) { puts("cat\nping\nsh\nno-program-of-ours"); return 0; }
        char *name = strrchr(argv[0], '/');
        printf("applet %s\n", name ? name + 1 : argv[0]);
        return 0;
    }"#;

#[test]
fn busybox_stands_in_for_what_is_missing_only() {
    let fake = Fake::with_shell(false);
    fake.compile("/bin/busybox", BUSYBOX, &[]);
    fake.program("cat", "/bin/cat");
    let (root, built) = fake.build().unwrap();
    assert_eq!(
        (built.programs, built.from_busybox),
        (4, 1),
        "sh, busybox, cat, and ping as its applet: {built:?}"
    );
    prints(&root, "echo real | cat; ping", "real\napplet ping\n");
    assert!(describe(&built, false, &root).contains("1 of them by busybox"));
    fake.compile("/bin/busybox", "int main(void) { return 3; }", &[]);
    let (_, built) = fake.build().unwrap();
    assert_eq!(reason(&built, "busybox's applets"), Some("busybox --list: exit status: 3"));
}

#[test]
fn busybox_stands_in_for_a_shell_that_does_not_work() {
    for merged in [true, false] {
        let fake = Fake::new(merged);
        fake.write("/bin/sh", "broken");
        fake.compile("/usr/bin/busybox", BUSYBOX, &[]);
        let (root, built) = fake.build().unwrap();
        assert!(is_whole(&root) && reason(&built, "sh").is_none(), "{built:?}");
        prints(&root, "", "applet sh\n");
    }
}

#[test]
fn what_no_program_names_comes_too() {
    let fake = Fake::with_shell(true);
    fake.compile("/usr/lib/libnss_files.so.2", "int x;", &["-shared"]);
    fake.write("/usr/share/terminfo/x/xterm", "xterm");
    fake.link("../../../usr/share/terminfo/x/xterm", "/etc/terminfo/l/linux");
    fake.write("/usr/share/terminfo/q/qnx", "qnx");
    let (root, built) = fake.build().unwrap();
    assert_eq!(built.programs, 1);
    assert!(root.join("lib/libnss_files.so.2").exists(), "a libc before 2.34 loads it itself");
    assert_eq!(fs::read(root.join("etc/terminfo/l/linux")).unwrap(), b"xterm");
    assert!(!root.join("usr/share/terminfo/q").exists());
}

#[test]
fn names_of_one_file_remain_one_file() {
    let fake = Fake::with_shell(true);
    fake.program("cat", "/usr/bin/cat");
    for name in ["tac", "ls"] {
        fs::hard_link(fake.at("/usr/bin/cat"), fake.at("/usr/bin").join(name)).unwrap();
    }
    let (root, built) = fake.build().unwrap();
    assert_eq!(built.programs, 4);
    assert_eq!(fs::metadata(root.join("bin/ls")).unwrap().nlink(), 3, "and none of them is the host's");
}

#[test]
fn a_host_without_a_shell_is_refused() {
    let fake = Fake::new(true);
    fake.program("cat", "/bin/cat");
    let error = fake.build().unwrap_err();
    assert_eq!(error.to_string(), "make a root filesystem from this host: no usable sh: this host has none");
    fake.write("/bin/sh", "#!/bin/sh\n");
    let error = fake.build().unwrap_err();
    assert!(error.to_string().ends_with("no usable sh: a script for /bin/sh"), "{error}");
}

/// Compiles the library `name` to `directory`; its function returns `number`, and may need another library.
fn library(fake: &Fake, directory: &str, name: &str, number: u32, options: &[&str]) {
    let text = match options.is_empty() {
        true => format!("int {name}(void) {{ return {number}; }}"),
        false => format!("int deep(void); int {name}(void) {{ return {number} + deep(); }}"),
    };
    let soname = format!("-Wl,-soname,lib{name}.so");
    let options = [&["-shared", "-fPIC", &soname], options].concat();
    fake.compile(&format!("{directory}/lib{name}.so"), &text, &options);
}

/// A program that prints what its libraries return.
fn user_of(fake: &Fake, path: &str, name: &str, options: &[&str]) {
    let text =
        format!("#include <stdio.h>\nint {name}(void); int main(void) {{ printf(\"%d\\n\", {name}()); }}");
    fake.compile(path, &text, options);
}

#[test]
fn libraries_are_found_where_the_loader_finds_them() {
    let fake = Fake::with_shell(true);
    let unresolved = "-Wl,--allow-shlib-undefined";
    // DT_RUNPATH with $ORIGIN; of a library too, which finds its own neighbour.
    library(&fake, "/opt/a/deps", "deep", 1, &[]);
    library(&fake, "/nowhere", "one", 99, &[]);
    library(&fake, "/opt/a/lib", "one", 10, &["opt/a/deps/libdeep.so", "-Wl,-rpath,${ORIGIN}/../deps"]);
    let options =
        ["opt/a/lib/libone.so", "-Wl,--enable-new-dtags,-rpath,nowhere:$ORIGIN/../../opt/a/lib", unresolved];
    user_of(&fake, "/usr/bin/ls", "one", &options);
    // DT_RPATH of the program counts for the libraries of its libraries.
    library(&fake, "/opt/b", "two", 20, &["opt/a/deps/libdeep.so"]);
    let options = ["opt/b/libtwo.so", "-Wl,--disable-new-dtags,-rpath,/opt/b:/opt/a/deps", unresolved];
    user_of(&fake, "/usr/bin/cat", "two", &options);
    // DT_RUNPATH does not, so this one has no libdeep.
    let options = ["opt/b/libtwo.so", "-Wl,--enable-new-dtags,-rpath,/opt/b:/opt/a/deps", unresolved];
    user_of(&fake, "/usr/bin/id", "two", &options);
    // Nor does DT_RPATH for the libraries of a library that has a DT_RUNPATH.
    library(
        &fake,
        "/opt/b",
        "five",
        50,
        &["opt/a/deps/libdeep.so", "-Wl,--enable-new-dtags,-rpath,/nowhere"],
    );
    let options = ["opt/b/libfive.so", "-Wl,--disable-new-dtags,-rpath,/opt/b:/opt/a/deps", unresolved];
    user_of(&fake, "/usr/bin/od", "five", &options);
    // Only ld.so.conf names this one; the root's loader, which has no cache, must find it all the same.
    library(&fake, "/opt/c", "three", 30, &[]);
    user_of(&fake, "/usr/bin/wc", "three", &["opt/c/libthree.so"]);
    fake.write("/etc/ld.so.conf", "# comment\ninclude /etc/ld.so.conf.d/*.conf\n");
    fake.write("/etc/ld.so.conf.d/x.conf", "include ../ld.so.conf\n/opt/empty\n/opt/c # here\n");
    fake.write("/etc/ld.so.conf.d/a.conf.old", "/opt/wrong\n");
    library(&fake, "/opt/wrong", "three", 99, &[]);
    // The same, but another program brings its own of this name to where libc is.
    let libc = ldd(Path::new("/bin/sh")).into_iter().find(|path| path.ends_with("libc.so.6")).unwrap();
    let beside_libc = libc.parent().unwrap().to_str().unwrap();
    library(&fake, beside_libc, "six", 66, &[]);
    library(&fake, "/opt/c", "six", 60, &[]);
    user_of(&fake, "/usr/bin/nl", "six", &["opt/c/libsix.so"]);
    user_of(&fake, "/usr/bin/mv", "six", &["opt/c/libsix.so", &format!("-Wl,-rpath,{beside_libc}")]);
    // In a built-in directory, behind a file of the same name that is for another machine, and a broken one.
    library(&fake, "/usr/lib", "four", 40, &[]);
    user_of(&fake, "/usr/bin/tr", "four", &["usr/lib/libfour.so"]);
    let mut foreign = fs::read(fake.at("/usr/lib/libfour.so")).unwrap();
    foreign[18] ^= 1;
    fake.write("/usr/lib64/libfour.so", foreign);
    fake.write("/opt/empty/libfour.so", "\x7fELF");

    let (root, built) = fake.build().unwrap();
    let missing = |name: &str| (name.to_owned(), "libdeep.so is missing".to_owned());
    assert_eq!(built.left_out, [missing("id"), missing("od")]);
    assert!(!root.join("usr/lib64/libfour.so").exists());
    prints(&root, "ls && cat && wc && tr && mv", "11\n21\n30\n40\n66\n");
}

#[test]
fn programs_of_musl_follow_its_own_rules() {
    let fake = Fake::with_shell(false);
    // It cannot run here, but be read: a loader, and a libc that is the loader itself and not a file.
    fake.compile("/lib/ld-musl-any.so.1", "int x;", &["-shared", "-nostdlib"]);
    let musl = |path, name, options: &[&str]| {
        let loader = [
            "-nostdlib",
            "-nostartfiles",
            "-Wl,-e,main,--no-as-needed,--dynamic-linker=/lib/ld-musl-any.so.1",
        ];
        fake.compile(
            path,
            &format!("int {name}(void); int main(void) {{ return {name}(); }}"),
            &[&loader, options].concat(),
        );
    };
    for (path, text) in [
        ("/gone/libc.musl-any.so.1", "int c;"),
        ("/usr/lib/liba.so", "int a(void) { return 0; }"),
        ("/usr/lib64/libb.so", "int b(void) { return 0; }"),
    ] {
        let soname = format!("-Wl,-soname,{}", path.rsplit('/').next().unwrap());
        fake.compile(path, text, &["-shared", "-nostdlib", "-fPIC", &soname]);
    }
    musl("/bin/ls", "a", &["usr/lib/liba.so", "gone/libc.musl-any.so.1"]);
    musl("/bin/cat", "b", &["usr/lib64/libb.so"]);
    fs::remove_dir_all(fake.at("/gone")).unwrap();

    // glibc looks into /usr/lib64, musl does not.
    let (root, built) = fake.build().unwrap();
    assert_eq!(built.left_out, [("cat".to_owned(), "libb.so is missing".to_owned())]);
    assert!(root.join("lib/ld-musl-any.so.1").exists() && root.join("usr/lib/liba.so").exists());
    // Unless it is told to, and then it looks nowhere else.
    fake.write("/etc/ld-musl-any.path", "/nowhere\n/usr/lib64\n");
    let (root, built) = fake.build().unwrap();
    assert_eq!(built.left_out, [("ls".to_owned(), "liba.so is missing".to_owned())]);
    assert!(root.join("etc/ld-musl-any.path").exists(), "the root's loader must be told the same");
}

#[test]
fn a_program_runs_where_it_and_its_libraries_alone_are() {
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let needed = libraries(Path::new("/"), Path::new("/bin/sh")).unwrap();
    let named: BTreeSet<_> = ldd(&shell).into_iter().map(|path| path.canonicalize().unwrap()).collect();
    assert!(named.is_subset(&needed.files), "{named:?} in {needed:?}");

    let bare = Fake { folder: tempfile::tempdir().unwrap() };
    fs::create_dir(bare.at("/proc")).unwrap();
    for (at, target) in &needed.links {
        bare.link(target.to_str().unwrap(), at.to_str().unwrap());
    }
    for file in &needed.files {
        assert_eq!(file, &file.canonicalize().unwrap());
        bare.write(file.to_str().unwrap(), fs::read(file).unwrap());
    }
    bare.write("/bin/sh", fs::read(shell).unwrap());
    prints(bare.folder.path(), "echo $((6 * 7))", "42\n");
}

#[test]
fn who_needs_no_library_gets_none_and_a_missing_one_is_named() {
    let fake = Fake::with_shell(true);
    let of = |path: &str| libraries(fake.folder.path(), Path::new(path));
    fake.write("/bin/script", "#!/bin/sh\n");
    fake.compile("/bin/static", "int main(void) { return 0; }", &["-static", "-nostdlib", "-Wl,-e,main"]);
    assert_eq!(of("/bin/script").unwrap(), Libraries::default());
    assert_eq!(of("/bin/static").unwrap(), Libraries::default());
    assert!(!of("/bin/sh").unwrap().files.is_empty());
    library(&fake, "/opt", "gone", 1, &[]);
    user_of(&fake, "/bin/ls", "gone", &["opt/libgone.so"]);
    assert_eq!(
        of("/bin/ls").unwrap_err().to_string(),
        "take /bin/ls with its libraries: libgone.so is missing"
    );
    assert!(of("/bin/no-such").unwrap_err().to_string().ends_with("there is no such file"));
}

#[test]
fn a_damaged_root_is_built_anew_unless_something_is_mounted_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let rootfs = folder.path().join("with space");
    let fake = Fake::with_shell(false);
    let run = || install(fake.folder.path(), &[Path::new("/bin")], &rootfs);
    run().unwrap();
    let shell = rootfs.join("host/bin/sh");
    let damage: [&dyn Fn(); 5] = [
        &|| fs::remove_file(&shell).unwrap(),
        &|| fs::remove_file(&shell).and_then(|()| fs::create_dir(&shell)).unwrap(),
        &|| fs::write(&shell, "").unwrap(),
        &|| fs::set_permissions(&shell, Permissions::from_mode(0o644)).unwrap(),
        &|| {
            fs::remove_dir_all(rootfs.join("host")).and_then(|()| fs::write(rootfs.join("host"), "")).unwrap()
        },
    ];
    for damage in damage {
        damage();
        assert!(run().unwrap().is_some());
        assert!(run().unwrap().is_none(), "a whole root is left alone");
        assert_eq!(names(&rootfs), [".host.lock", "host"].map(str::to_owned).into());
    }
}

#[test]
fn a_root_in_which_something_is_mounted_stays() {
    in_mount_namespace(|home| {
        let (rootfs, precious) = (home.join("with space"), home.join("precious"));
        let fake = Fake::with_shell(false);
        let run = || install(fake.folder.path(), &[Path::new("/bin")], &rootfs);
        run().unwrap();
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("data"), "").unwrap();
        let (none, at) = (None::<&str>, rootfs.join("host/tmp"));
        mount(Some(&precious), &at, none, MsFlags::MS_BIND, none).unwrap();
        fs::remove_file(rootfs.join("host/bin/sh")).unwrap();
        let error = run().unwrap_err();
        assert!(error.to_string().contains("something is mounted on"), "{error}");
        assert!(precious.join("data").exists() && at.join("data").exists());
    });
}

#[test]
fn a_full_or_read_only_disk_is_an_error_that_leaves_nothing() {
    in_mount_namespace(|home| {
        for (flags, errno, hint) in [
            (MsFlags::empty(), Errno::ENOSPC, "CONGO_HOME"),
            (MsFlags::MS_RDONLY, Errno::EROFS, "that you can write to"),
        ] {
            mount(Some("x"), home, Some("tmpfs"), flags, Some("size=1m,mode=755")).unwrap();
            let error = default_root_in(home).unwrap_err();
            assert_eq!((error.errno(), error.status()), (Some(errno), 125), "{error}");
            assert!(format!("{error:?}").contains(hint), "{error:?}");
            if errno == Errno::ENOSPC {
                assert_eq!(names(&home.join("rootfs")), [".host.lock".to_owned()].into());
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = install(Path::new("/"), &[], &folder.path().join("file/rootfs")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOTDIR), "{error}");
}

/// Calls [`default_root`] in a process of its own, for the tests that need one.
#[test]
#[ignore = "a part of other tests, which start it"]
fn in_a_child() {
    if std::env::var_os("CONGO_TEST_CHILD").is_some() {
        default_root().unwrap();
    }
}

/// That process, with a umask that hides from others whatever is made carelessly.
fn child(state: &Path) -> Command {
    let mut command = Command::new("sh");
    let test = format!("{}::in_a_child", module_path!().split_once("::").unwrap().1);
    command.args(["-c", "umask 077; exec \"$0\" --ignored --exact \"$1\" --nocapture"]);
    command.arg(std::env::current_exe().unwrap()).arg(test);
    command
        .env("CONGO_HOME", state)
        .env("CONGO_TEST_CHILD", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn the_first_run_says_one_line_and_the_second_nothing() {
    let state = tempfile::tempdir().unwrap();
    let run = || String::from_utf8(child(state.path()).output().unwrap().stderr).unwrap();
    let first = run();
    assert_eq!(
        first.lines().filter(|line| line.starts_with("congo: built a root filesystem of ")).count(),
        1,
        "{first}"
    );
    assert!(first.contains(&format!("in {}", state.path().join("rootfs/host").display())), "{first}");
    assert!(!run().contains("congo"));
    for path in walk(&state.path().join("rootfs")) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(
            metadata.mode() & 0o004 != 0 || path.ends_with("host/root") || path.ends_with(".host.lock"),
            "{path:?}"
        );
    }
    fs::remove_file(state.path().join("rootfs/host/bin/sh")).unwrap();
    assert!(run().contains(", as its /bin/sh was gone"));
}

#[test]
fn folders_follow_the_environment() {
    type Of = fn(&dyn Fn(&str) -> Option<OsString>, bool) -> Result<PathBuf>;
    let (state, run): (Of, Of) = (|get, root| state_dir_of(get, root), |get, root| run_dir_of(get, root));
    let (home, xdg) = (("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/7"));
    for (of, variables, is_root, expected) in [
        (state, &[home][..], true, "/var/lib/congo"),
        (state, &[home], false, "/home/a/.local/share/congo"),
        (state, &[home, ("XDG_DATA_HOME", "/data")], false, "/data/congo"),
        (state, &[home, ("XDG_DATA_HOME", "data")], false, "/home/a/.local/share/congo"),
        (state, &[home, ("CONGO_HOME", "/x")], true, "/x"),
        (state, &[home, ("CONGO_HOME", "")], true, "/var/lib/congo"),
        (state, &[("CONGO_HOME", "x")], true, "CONGO_HOME=x: not an absolute path"),
        (state, &[], false, "find the state folder: HOME is not set"),
        (run, &[xdg], true, "/run/congo"),
        (run, &[xdg], false, "/run/user/7/congo"),
        (run, &[xdg, ("CONGO_HOME", "/x")], true, "/x/run"),
        (run, &[("CONGO_HOME", "")], true, "/run/congo"),
        (run, &[("CONGO_HOME", "x")], false, "CONGO_HOME=x: not an absolute path"),
        (run, &[("XDG_RUNTIME_DIR", "run")], false, "find the runtime folder: XDG_RUNTIME_DIR is not set"),
    ] {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, it)| it.into());
        let found =
            of(&get, is_root).map_or_else(|error| error.to_string(), |path| path.display().to_string());
        assert_eq!(found, expected, "{variables:?}, root: {is_root}");
    }
}

#[test]
fn links_lead_inward() {
    for (parent, target, link) in [
        ("/usr/bin", "/usr/bin/busybox", "busybox"),
        ("/usr/bin", "/etc/alternatives/vi", "../../etc/alternatives/vi"),
        ("/", "/usr/bin", "usr/bin"),
        ("/usr/bin", "../lib/x", "../lib/x"),
        ("/usr", "../../../etc/x", "../etc/x"),
        ("/usr", "a/../../../x", "a/../../x"),
        ("/", "..", "."),
    ] {
        assert_eq!(inward(Path::new(parent), Path::new(target)), Path::new(link), "{parent} {target}");
    }
}

proptest! {
    /// Whatever a file contains, it is read or refused: no panic, no endless loop.
    #[test]
    fn broken_elf_files_are_refused(
        changes in prop::collection::vec((0usize..4096, any::<u8>()), 1..20), length in 0usize..200_000,
    ) {
        let mut bytes = fs::read("/bin/sh").unwrap();
        prop_assert!(Object::parse(&bytes).is_some());
        bytes.truncate(length);
        let at_most = bytes.len().max(1);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at % at_most) {
                *byte = value;
            }
        }
        _ = Object::parse(&bytes);
    }

    #[test]
    fn no_link_leads_out_of_the_root(
        parent in "(/[a-c]{1,2}){0,4}", target in "/?([a-c]{1,2}/|\\.\\./|\\./){0,8}",
    ) {
        let parent = Path::new("/").join(parent);
        let mut depth = parent.components().count() as i32 - 1;
        for component in inward(&parent, Path::new(&target)).components() {
            match component {
                std::path::Component::ParentDir => depth -= 1,
                std::path::Component::Normal(_) => depth += 1,
                std::path::Component::CurDir => {}
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert!(depth >= 0);
        }
    }
}
