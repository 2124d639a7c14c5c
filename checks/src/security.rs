//! Attacks that worked on other runtimes, and the checks that try them here: the table of the book's page
//! `security.md`, and of `cargo xtask security`.
//!
//! Sources: the advisories of runc, crun, Docker and others, and the kernel's. Touches nothing.

use std::fmt::Write;

use crate::{Check, all};

/// A check of these subjects gets a row of its own in the table, if no attack names it.
const SUBJECTS: [&str; 2] = ["cve", "security"];

/// An attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attack {
    /// Its number or its name.
    pub name: String,
    /// What happened, and which program it hit.
    pub there: String,
    /// What keeps it from happening here.
    pub here: String,
    /// The checks that try it, or that test the protections against it.
    pub checks: Vec<&'static str>,
}

/// All attacks, those with a number first, the oldest of them first. If an attack has no story, the sentence
/// of its check stands for it.
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

/// The same as a table, for docs/src/security.md.
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
        "bubblewrap: a program shared the terminal with the caller's shell, and typed commands into it, by \
         TIOCSTI",
        "a session and a pseudo-terminal of its own; no descriptor of the caller's terminal",
        &["terminal.no-pushed-keys", "terminal.none-of-the-host"],
    ),
    (
        "CVE-2019-5736",
        "runc, LXC: a container made the runtime execute `/proc/self/exe`, and wrote to that file: the \
         host's runc",
        "the runtime executes itself anew, from a read-only mount that is attached nowhere. That is not \
         needed where the container's ids give no right to the file",
        &["cve.2019-5736", "cve.2019-5736-options", "cve.2019-5736-file", "cve.2019-5736-rootless"],
    ),
    (
        "CVE-2019-19921, CVE-2023-27561",
        "runc: `/proc` of an image was a link. procfs was then mounted elsewhere, and runc's writes to \
         `/proc` had no effect",
        "a link at `/proc` is refused",
        &["cve.2019-19921"],
    ),
    (
        "CVE-2021-30465",
        "runc: it looked up a volume's target. Another process replaced the target by a link, and runc \
         mounted on the host",
        "one descriptor serves the look-up and the mount, when the host is out of sight",
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
        "Docker, and later `runc exec`: the inheritable set was not empty, so a file with inheritable \
         capabilities gave them to any user",
        "the inheritable set is empty for root; for another user it holds only the added capabilities",
        &["cve.2022-29162"],
    ),
    (
        "CVE-2022-36109",
        "Docker, later containerd, Podman and CRI-O: the user's group was not among the supplementary \
         groups. A setgid program left the group, and a file that forbids something to the group no longer \
         did",
        "the primary group is the first of the supplementary ones",
        &["user.number", "user.name", "user.image"],
    ),
    (
        "CVE-2023-25809",
        "runc without root: a `/sys` bound from the host was read-only, but the cgroups mounted below it \
         were writable",
        "the whole tree is read-only before it is attached",
        &["cve.2023-25809", "sys.read-only"],
    ),
    (
        "CVE-2024-21626",
        "runc: a folder of the host was still open, and an image had `/proc/self/fd/7` as its working \
         directory",
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
        "runc: it made the missing folders of a target. An attacker replaced one by a link, and runc made \
         the rest on the host",
        "each folder is made by the descriptor of the one above it, when the host is out of sight",
        &["cve.2024-45310"],
    ),
    (
        "CVE-2025-31133",
        "runc: a link replaced `/dev/null`. The link's target then lay, writable, over the file that runc \
         wanted to hide",
        "the child opens `/dev/null`, checks that it is device 1:3, and mounts it by descriptor",
        &["cve.2025-31133"],
    ),
    (
        "CVE-2025-52565",
        "runc: the same attack on the terminal, which runc mounted at `/dev/console` before it had hidden \
         anything",
        "no `/dev/console`; no file of the image in `/dev`; the child opens the terminal without its name, \
         last of all",
        &["cve.2025-52565"],
    ),
    (
        "CVE-2025-52881",
        "runc: a mount in a shared folder had replaced files of `/proc`, so runc wrote to other files",
        "the parent writes to the host's `/proc`; the child mounts by `/proc/self/fd` only, and nothing is \
         mounted over procfs",
        &["cve.2025-52881", "volume.refused"],
    ),
    (
        "CVE-2026-41579, CVE-2026-47766",
        "runc, crun: `/dev` of an image was a link. The runtime then removed `ptmx` and made links in a \
         folder of the host",
        "the child touches `/dev` only when the host is out of sight; a link is refused",
        &["cve.2026-41579", "root.hostile-links"],
    ),
    (
        "a file by its handle (\"Shocker\")",
        "Docker before 1.0: the container saw a part of a disk, and open_by_handle_at opened any file of \
         that disk",
        "no CAP_DAC_READ_SEARCH, and a seccomp filter that refuses the call",
        &["cve.shocker", "security.file-handle"],
    ),
    (
        "options in a name",
        "any runtime that mounts an overlay: a `:` or a `,` in a folder's name begins another layer, or \
         another option",
        "the mount names layers by descriptor",
        &["cve.overlay-options", "overlay.odd-names"],
    ),
    (
        "locks of everybody",
        "any runtime that waits for flock(2): another user who can open the file can hold its lock for ever",
        "only root can open the files and folders that root's runtime locks; a blocked signal ends the wait",
        &["many.private-locks", "signal.ends-waiting"],
    ),
    (
        "a state folder of somebody else's",
        "any runtime that cleans up as root: another user prepared its folder. A link in it leads root to \
         other files, which root removes or overwrites",
        "the folders must belong to root or the caller, and be writable for nobody else; no link is followed",
        &["bad.state-folder"],
    ),
    (
        "a second chroot",
        "any runtime that uses chroot: a root process climbs out",
        "pivot_root, and the host unmounted",
        &["root.escape"],
    ),
    (
        "what the kernel tells",
        "Docker: files of `/proc` and `/sys` told about the host, or changed it. They were hidden one after \
         the other",
        "the child hides Docker's whole list of paths",
        &["cve.masked-paths", "cve.read-only-paths", "cve.masks-or-nothing"],
    ),
    (
        "the host's devices",
        "any runtime that binds `/dev/null` from the host: root in the container changes its mode, for all \
         processes",
        "the device is bound read-only; that protects its mode, and every process can still use the device",
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
