//! `cargo xtask doctor` on the machine that runs the test: as its caller, as an ordinary user, and where user
//! namespaces are forbidden. What it says is compared with what the kernel's files say.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use serde_json::Value;

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const NOBODY: u32 = 65534;

fn as_nobody() -> Command {
    // Through the link, as the folders on the path may be closed to nobody.
    let mut command = Command::new("/proc/self/fd/0");
    command.stdin(fs::File::open(XTASK).unwrap()).arg0("xtask").env("HOME", "/tmp").current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.gid(NOBODY).uid(NOBODY);
    }
    command
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output, text)
}

fn json(command: &mut Command) -> (Option<i32>, Value) {
    let (output, text) = run(command.args(["doctor", "--json"]));
    (output.status.code(), serde_json::from_str(&text).unwrap())
}

fn find<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|item| item[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value} in {list:#}"))
}

#[track_caller]
fn is_sound(code: Option<i32>, report: &Value) {
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 6);
    let all_run = steps.iter().all(|step| step["state"] == "works" || step["state"] == "limited");
    assert_eq!(code, Some(i32::from(!all_run)), "{report:#}");
    for line in report["facts"].as_array().unwrap() {
        let good = line["state"] == "works";
        assert_eq!(line["remedy"] == "", good, "a remedy exactly where something is lacking: {line:#}");
    }
}

fn kernel_says(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

/// What an attempt could leave behind.
fn host() -> (String, String, BTreeSet<String>) {
    let in_temp =
        fs::read_dir("/tmp").unwrap().flatten().map(|it| it.file_name().to_string_lossy().into_owned());
    let links = fs::read_dir("/sys/class/net").unwrap().flatten();
    let links = links.map(|it| it.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    (kernel_says("/proc/self/mountinfo"), links, in_temp.filter(|name| name.starts_with("congo")).collect())
}

#[test]
fn it_says_what_the_kernel_says_and_leaves_nothing() {
    let before = host();
    let (code, report) = json(&mut Command::new(XTASK));
    assert_eq!(host(), before);
    is_sound(code, &report);
    let facts = &report["facts"];
    let fact = |name: &str| find(facts, "name", name)["fact"].as_str().unwrap().to_owned();
    assert!(fact("kernel").contains(&kernel_says("/proc/sys/kernel/osrelease")));
    assert_eq!(fact("root").contains("you are root"), nix::unistd::geteuid().is_root());

    let mounts = kernel_says("/proc/self/mountinfo");
    let has_memory = |line: &str| line.contains(" - cgroup ") && line.ends_with(",memory");
    let layout = match (mounts.lines().any(has_memory), mounts.contains(" - cgroup2 ")) {
        (true, true) => "hybrid v1",
        (true, false) => "v1: limits go into the v1 hierarchies",
        (false, true) => "v2 at ",
        (false, false) => "no cgroup hierarchy is mounted",
    };
    assert!(fact("cgroup").contains(layout), "{}", fact("cgroup"));
    if layout.contains("v1") {
        assert!(fact("cgroup delegation").contains("in v1 there is no delegation"));
        assert_ne!(find(&report["steps"], "step", "step 4 as an ordinary user")["state"], "works");
    }
}

#[test]
fn the_text_has_the_lines_of_the_json() {
    let (code, report) = json(&mut Command::new(XTASK));
    let (output, text) = run(Command::new(XTASK).arg("doctor"));
    assert_eq!(output.status.code(), code);
    for line in report["facts"].as_array().unwrap() {
        let mark = match line["state"].as_str().unwrap() {
            "works" => '✓',
            "missing" => '✗',
            _ => '!',
        };
        let (name, fact, remedy) = (&line["name"], &line["fact"], line["remedy"].as_str().unwrap());
        let mut expected = format!("{mark} {}: {}", name.as_str().unwrap(), fact.as_str().unwrap());
        if !remedy.is_empty() {
            expected += &format!(" → {remedy}");
        }
        assert!(text.lines().any(|line| line == expected), "{expected:?} is not in:\n{text}");
    }
    let steps = text.split_once("\n\n").unwrap().1;
    assert_eq!(steps.lines().filter(|line| line.contains(" step ")).count(), 6, "{text}");
}

#[test]
fn an_ordinary_user_is_told_that_steps_0_to_3_need_root() {
    let (code, report) = json(&mut as_nobody());
    is_sound(code, &report);
    assert_eq!(code, Some(1), "what was not tried as root is not said to run");
    let root = find(&report["facts"], "name", "root");
    let user = if nix::unistd::geteuid().is_root() { NOBODY } else { nix::unistd::geteuid().as_raw() };
    assert!(root["fact"].as_str().unwrap().contains(&format!("user {user}")), "{root:#}");
    for step in ["step 0", "step 1", "step 2", "step 3"] {
        let verdict = find(&report["steps"], "step", step);
        assert!(["untried", "missing"].contains(&verdict["state"].as_str().unwrap()), "{verdict:#}");
        assert!(verdict["remedies"][0].as_str().unwrap().contains("su"), "{verdict:#}");
    }
}

#[test]
fn root_tries_for_the_user_who_called_sudo() {
    // In a folder like /root, which is closed to that user.
    let closed = fs::Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().permissions(closed).tempdir().unwrap();
    let copy = folder.path().join("xtask");
    fs::copy(XTASK, &copy).unwrap();
    let caller = nix::unistd::geteuid().as_raw();
    let user = if caller == 0 { 4321 } else { caller };
    let (_, report) = json(Command::new(copy).env("SUDO_UID", user.to_string()));
    let line = find(&report["facts"], "name", "user namespace for ordinary users");
    let fact = line["fact"].as_str().unwrap();
    assert!(line["state"] != "works" || fact.starts_with(&format!("user {user} made one")), "{line:#}");
    assert!(!fact.contains("starting a process"), "{line:#}");
    let ids = find(&report["facts"], "name", "subordinate ids")["fact"].as_str().unwrap();
    assert!(caller != 0 || ids.contains("for 4321"), "{ids}");
}

#[test]
fn no_mount_of_an_attempt_shows_where_mounts_are_shared() {
    // As systemd shares a host's. Private first, so that what goes wrong stays in here.
    let script = "mount --make-rprivate / && mount --make-rshared / && cat /proc/self/mountinfo > $1/before
        \"$0\" doctor > $1/said; cat /proc/self/mountinfo > $1/after";
    let folder = tempfile::tempdir().unwrap();
    let mut inside = Command::new("unshare");
    inside.arg("--mount");
    if !nix::unistd::geteuid().is_root() {
        inside.args(["--user", "--map-root-user"]);
    }
    let status = inside.args(["sh", "-c", script, XTASK]).arg(folder.path()).status().unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    if !status.success() {
        // Nowhere to try it: then the doctor must have found so, too.
        let (_, report) = json(&mut Command::new(XTASK));
        assert_ne!(find(&report["facts"], "name", "mnt namespace")["state"], "works");
        return;
    }
    assert!(read("before").contains("shared:") && read("said").contains(" overlay: "), "{}", read("said"));
    assert_eq!(read("after"), read("before"));
}

#[test]
fn where_user_namespaces_are_forbidden_it_says_so() {
    // The limit is one of the user namespace in which it is written: the host's stays.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor --json";
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user", "sh", "-c", script, XTASK]);
    let may = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status().unwrap().success();
    let (code, report) = if may { json(&mut inside) } else { json(&mut Command::new(XTASK)) };
    is_sound(code, &report);
    assert_eq!(code, Some(1));
    let line = find(&report["facts"], "name", "user namespace for ordinary users");
    assert_eq!(line["state"], "missing", "{line:#}");
    let verdict = find(&report["steps"], "step", "step 4 as an ordinary user");
    assert_eq!(verdict["state"], "missing", "{verdict:#}");
    if may {
        assert!(line["fact"].as_str().unwrap().contains("user.max_user_namespaces is 0"), "{line:#}");
        assert!(verdict["remedies"][0].as_str().unwrap().contains("sysctl -w user.max_user_namespaces="));
        let root = find(&report["facts"], "name", "root");
        assert!(root["fact"].as_str().unwrap().contains("root of a user namespace only"), "{root:#}");
    }
}
