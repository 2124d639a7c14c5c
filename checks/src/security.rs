//! What other runtimes had to learn, and which checks show that it is learnt here: the table in step 4's
//! README, and of `cargo xtask security`.
//!
//! Told from the advisories of runc, crun, Docker and others, and from the kernel's. Touches nothing.

use std::fmt::Write;

use crate::{Check, all};

/// The subjects of which each check is a row of its own, if no attack names it.
const SUBJECTS: [&str; 2] = ["cve", "security"];

/// An attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attack {
    /// Its number or its name.
    pub name: String,
    /// What happened, and to whom.
    pub there: String,
    /// What keeps it from happening here.
    pub here: String,
    /// The checks that try it, or what it stands on.
    pub checks: Vec<&'static str>,
}

/// All attacks, those with a number first, the oldest of them first. A check whose attack has no story is
/// told by its sentence.
pub fn attacks() -> Vec<Attack> {
    let told = |&(name, there, here, checks): &Story| Attack {
        name: name.into(),
        there: there.into(),
        here: here.into(),
        checks: checks.to_vec(),
    };
    let mut attacks: Vec<_> = STORIES.iter().map(told).collect();
    let untold = all().filter(|check| SUBJECTS.contains(&check.subject()) && !is_told(check));
    attacks.extend(untold.map(|check| Attack {
        name: check.id.split_once('.').map_or(check.id, |(_, name)| name).replace('-', " "),
        there: "–".into(),
        here: check.sentence.trim_end_matches('.').into(),
        checks: vec![check.id],
    }));
    attacks
}

fn is_told(check: &Check) -> bool {
    STORIES.iter().any(|(_, _, _, checks)| checks.contains(&check.id))
}

/// The same as a table, for step 4's README.
pub fn table() -> String {
    let mut table = String::from("| attack | what happened | what keeps it from happening here | checks |\n");
    table += "| --- | --- | --- | --- |\n";
    for Attack { name, there, here, checks } in attacks() {
        let checks: Vec<_> = checks.iter().map(|check| format!("`{check}`")).collect();
        let _ = writeln!(table, "| {name} | {there} | {here} | {} |", checks.join(", "));
    }
    table
}

/// Name, what happened, what protects, checks.
type Story = (&'static str, &'static str, &'static str, &'static [&'static str]);

const STORIES: &[Story] = &[
    (
        "CVE-2017-5226",
        "bubblewrap: a program typed commands into the terminal that it shared with the caller's shell, by \
         TIOCSTI",
        "a session and a pseudo-terminal of its own; no descriptor of the caller's terminal",
        &["terminal.no-pushed-keys", "terminal.none-of-the-host"],
    ),
    (
        "CVE-2019-5736",
        "runc, LXC: a container had runc executed as `/proc/self/exe`, and wrote to that file, the host's \
         runc",
        "the runtime executes itself anew, from a read-only mount that is attached nowhere",
        &["cve.2019-5736", "cve.2019-5736-rootless"],
    ),
    (
        "CVE-2019-19921, CVE-2023-27561",
        "runc: where `/proc` of an image was a link, procfs was mounted elsewhere, and what was written to \
         `/proc` went nowhere",
        "a link at `/proc` is refused",
        &["cve.2019-19921"],
    ),
    (
        "CVE-2021-30465",
        "runc: the target of a volume was looked up, exchanged for a link, and then mounted on, on the host",
        "looked up and mounted on by one descriptor, when the host is out of sight",
        &["volume.race", "volume.target-links"],
    ),
    (
        "CVE-2022-0492",
        "the kernel: root of a user namespace could write to `release_agent` of cgroup v1, which root of \
         the host executes",
        "no CAP_SYS_ADMIN, and a seccomp filter that refuses mount and unshare; no cgroup filesystem inside",
        &["cve.2022-0492", "security.mount", "security.user-namespace"],
    ),
    (
        "CVE-2022-24769, CVE-2022-29162",
        "Docker, and later `runc exec`: the inheritable set was not empty, and a file with inheritable \
         capabilities gave them to any user",
        "the inheritable set is empty for root, and holds only what was added for another user",
        &["cve.2022-29162"],
    ),
    (
        "CVE-2022-36109",
        "Docker, later containerd, Podman and CRI-O: the user's group was not among the supplementary groups, \
         so a setgid program shed it, and with it what a file forbids that group",
        "the primary group is the first of the supplementary ones",
        &["user.number", "user.name", "user.image"],
    ),
    (
        "CVE-2023-25809",
        "runc without root: a `/sys` bound from the host was read-only, the cgroups mounted below it were \
         not",
        "read-only as a tree, before it is attached",
        &["cve.2023-25809", "sys.read-only"],
    ),
    (
        "CVE-2024-21626",
        "runc: a folder of the host was still open, and `/proc/self/fd/7` the working directory of an image",
        "all descriptors are closed before a path of the container is used",
        &[
            "cve.2024-21626",
            "root.workdir-by-descriptor",
            "root.command-by-descriptor",
            "root.file-by-descriptor",
            "descriptor.none-leaks",
        ],
    ),
    (
        "CVE-2024-45310",
        "runc: while missing folders of a target were made, one was exchanged for a link, and the rest made \
         on the host",
        "made from descriptor to descriptor, when the host is out of sight",
        &["cve.2024-45310"],
    ),
    (
        "CVE-2025-31133",
        "runc: `/dev/null` was exchanged for a link, and what that named lay, writable, in the place of \
         what was to be hidden",
        "`/dev/null` is opened, seen to be device 1:3, and mounted by descriptor",
        &["cve.2025-31133"],
    ),
    (
        "CVE-2025-52565",
        "runc: the same with the terminal, which was mounted at `/dev/console` before anything was hidden",
        "no `/dev/console`; a `/dev` with nothing of the image; the terminal is opened without its name, \
         last of all",
        &["cve.2025-52565"],
    ),
    (
        "CVE-2025-52881",
        "runc: what it wrote to files of `/proc` went to others, as a mount in a shared folder had replaced \
         them",
        "the parent writes to the host's `/proc`; the child mounts by `/proc/self/fd` only, and nothing is \
         mounted over procfs",
        &["cve.2025-52881", "volume.refused"],
    ),
    (
        "CVE-2026-41579, CVE-2026-47766",
        "runc, crun: where `/dev` of an image was a link, `ptmx` was removed and links were made in a \
         folder of the host",
        "`/dev` is touched when the host is out of sight; a link is refused",
        &["cve.2026-41579", "root.hostile-links"],
    ),
    (
        "a file by its handle (\"Shocker\")",
        "Docker before 1.0: open_by_handle_at opened any file of the disk of which the container had a part",
        "no CAP_DAC_READ_SEARCH, and a seccomp filter that refuses the call",
        &["cve.shocker", "security.file-handle"],
    ),
    (
        "options in a name",
        "whoever mounts an overlay: a `:` or a `,` in the name of a folder begins another layer, or another \
         option",
        "layers are named by descriptor",
        &["cve.overlay-options", "overlay.odd-names"],
    ),
    (
        "a second chroot",
        "whoever uses chroot: a root process climbs out",
        "pivot_root, and the host unmounted",
        &["root.escape"],
    ),
    (
        "what the kernel tells",
        "Docker: files of `/proc` and `/sys` told of the host, or changed it, and were hidden one after the \
         other",
        "Docker's list, to the last path",
        &["cve.masked-paths", "cve.read-only-paths"],
    ),
    (
        "the host's devices",
        "whoever binds `/dev/null` from the host: root in the container changes its mode, for all",
        "bound read-only, which does not keep anybody from using a device",
        &["dev.host-unchanged"],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_story_is_about_checks_that_there_are() {
        for (name, _, _, checks) in STORIES {
            assert!(!checks.is_empty(), "{name}");
            for id in *checks {
                assert!(all().any(|check| check.id == *id), "{name}: no check {id}");
            }
        }
    }

    #[test]
    fn every_check_of_an_attack_is_in_the_table() {
        let table = table();
        for check in all().filter(|check| SUBJECTS.contains(&check.subject())) {
            assert!(table.contains(&format!("`{}`", check.id)), "{}", check.id);
        }
        // A `|` would end a cell.
        assert!(table.lines().all(|line| line.matches('|').count() == 5), "{table}");
    }
}
