//! The attempts: each does on the kernel what a step will do, and leaves nothing when its process has ended.
//! What can stay is a kernel module that the kernel loads for it.
//!
//! Order: `user` comes first and changes the whole process, which must have one thread. Every other attempt
//! runs in a thread with namespaces of its own. Links and tables are made in a network namespace, mounts in a
//! private mount namespace, never in the host's. Man pages: unshare(2), user_namespaces(7), netlink(7),
//! rtnetlink(7), nft(8).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;
use nix::unistd::{AccessFlags, access, getegid, geteuid};

use crate::installed::installed;
use crate::kernel::myself;
use crate::netlink::{attribute, request};

/// The controllers that the steps use.
pub(crate) const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "cpuset"];

/// The kinds of namespace, as `/proc/self/ns` names them, without `user`.
pub(crate) const KINDS: [&str; 7] = ["mnt", "uts", "pid", "ipc", "net", "cgroup", "time"];

/// What an attempt found, or why it failed.
pub(crate) type Tried = Result<String, String>;

/// Tries these, in this order, and returns what the last one found: `user`, a kind of namespace, `overlay`,
/// `veth`, `bridge`, `nft`, `delegation`. After `user` the process stays in a user namespace, as its root.
///
/// # Errors
/// In words: the call that failed, with its errno.
pub fn attempt(names: &[impl AsRef<str>]) -> Tried {
    names.iter().try_fold(String::new(), |_, name| match name.as_ref() {
        "user" => user_namespace(),
        "overlay" => in_thread(overlay),
        "veth" => in_thread(|| link("veth")),
        "bridge" => in_thread(|| link("bridge")),
        "nft" => in_thread(nft),
        "delegation" => delegation(),
        kind if KINDS.contains(&kind) => {
            let kind = KINDS.into_iter().find(|it| *it == kind).unwrap_or_default();
            namespace(kind).map(|()| "made one".into())
        }
        other => Err(format!("no attempt \"{other}\"")),
    })
}

/// Makes a namespace of this kind, as `/proc/self/ns` names it, and lets go of it.
///
/// # Errors
/// In words: what the kernel says.
pub(crate) fn namespace(kind: &str) -> Result<(), String> {
    let flag = match kind {
        "mnt" => CloneFlags::CLONE_NEWNS,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "net" => CloneFlags::CLONE_NEWNET,
        "pid" => CloneFlags::CLONE_NEWPID,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        // Not among nix's names yet.
        "time" => CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME),
        _ => return Err(format!("no attempt at a {kind} namespace")),
    };
    try_namespaces(flag).map_err(|errno| format!("this kernel refuses a {kind} namespace: {errno}"))
}

/// Tries to make namespaces, in a thread, with which they go.
pub(crate) fn try_namespaces(flags: CloneFlags) -> nix::Result<()> {
    thread::spawn(move || unshare(flags)).join().unwrap_or(Err(nix::Error::EFAULT))
}

fn in_thread(action: impl FnOnce() -> Tried + Send + 'static) -> Tried {
    thread::spawn(action).join().unwrap_or_else(|_| Err("the attempt broke off".into()))
}

/// Puts the call's name before its error.
fn named<T, E: std::fmt::Display>(call: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{call}: {error}"))
}

fn user_namespace() -> Tried {
    let (uid, gid) = (geteuid(), getegid());
    named("unshare(CLONE_NEWUSER)", unshare(CloneFlags::CLONE_NEWUSER))?;
    // Without privilege over the group, setgroups(2) must be given up before gid_map: user_namespaces(7).
    for (file, line) in
        [("setgroups", "deny".into()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        let path = Path::new("/proc/self").join(file);
        named(&format!("writing {}", path.display()), fs::write(&path, line))?;
    }
    // AppArmor's restriction lets the namespace be made, and refuses what it is made for.
    named("unshare(CLONE_NEWNS) in a user namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    Ok(format!("user {uid} made one, and is root in it"))
}

fn overlay() -> Tried {
    named("unshare(CLONE_NEWNS)", unshare(CloneFlags::CLONE_NEWNS))?;
    // Before the first mount, or it would show on the host.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    named("making mounts private", mount(None::<&str>, "/", None::<&str>, private, None::<&str>))?;
    // Over /proc, as it is the one folder that is surely there.
    let base = Path::new("/proc");
    let tmpfs = mount(Some("tmpfs"), base, Some("tmpfs"), MsFlags::empty(), None::<&str>);
    named("mounting a tmpfs", tmpfs)?;
    for folder in ["lower", "upper", "work", "merged"] {
        named("mkdir on the tmpfs", fs::create_dir(base.join(folder)))?;
    }
    let data = "lowerdir=/proc/lower,upperdir=/proc/upper,workdir=/proc/work";
    let merged = base.join("merged");
    let result = mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(data));
    named("mounting an overlay", result)?;
    named("writing to the overlay", fs::write(merged.join("file"), ""))?;
    match base.join("upper/file").exists() {
        true => Ok("mounted one on a tmpfs, and wrote to it".into()),
        false => Err("what was written to the overlay is not in its upper layer".into()),
    }
}

fn new_network() -> Result<(), String> {
    named("unshare(CLONE_NEWNET)", unshare(CloneFlags::CLONE_NEWNET))
}

fn link(kind: &str) -> Tried {
    new_network()?;
    // struct ifinfomsg, all zero: the kernel picks the name and the number.
    let mut body = vec![0; 16];
    body.extend(attribute(libc::IFLA_LINKINFO, &attribute(libc::IFLA_INFO_KIND, kind.as_bytes())));
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let made = request(SockProtocol::NetlinkRoute, i32::from(libc::RTM_NEWLINK), create, &body);
    named(&format!("making a {kind} link"), made)?;
    Ok("made one in a network namespace".into())
}

fn nft() -> Tried {
    new_network()?;
    let Some(path) = installed("nft") else {
        // struct nfgenmsg. The question is harmless: which generation of rules is this?
        let question = (libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_GETGEN;
        let answer = request(SockProtocol::NetlinkNetFilter, question, 0, &[0; 4]);
        return Err(match answer {
            Ok(()) => "the kernel has nf_tables".into(),
            Err(errno) => format!("the kernel has no nf_tables: {errno}"),
        });
    };
    let rules = "table inet congo {
        chain out { type nat hook postrouting priority 100; ip saddr 10.44.0.0/16 masquerade; }
        chain in { type nat hook prerouting priority -100; tcp dport 80 dnat ip to 10.44.0.2; }
    }";
    let mut nft = Command::new(path);
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = named("starting nft", nft.spawn())?;
    if let Some(mut stdin) = running.stdin.take() {
        // Should nft have ended already, its own message says why.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = named("waiting for nft", running.wait_with_output())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok("loaded rules for NAT in a network namespace".into()),
        false => Err(format!("nft: {}", complaint.lines().next().unwrap_or("failed without a word"))),
    }
}

/// Looks, as the user of step 4, for the cgroup that the step would use. It lies above the user's own one, as
/// a cgroup with processes cannot pass controllers on.
fn delegation() -> Tried {
    let cgroup = myself().cgroup().map_err(|failure| failure.found)?;
    let own = cgroup.folder("memory").map_err(|failure| failure.found)?;
    let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    let found = own
        .ancestors()
        .skip(1)
        .find(|folder| writable(folder) && writable(&folder.join("cgroup.subtree_control")))
        .ok_or_else(|| format!("no cgroup above {} belongs to the user", own.display()))?;
    let has = named("cgroup.controllers", fs::read_to_string(found.join("cgroup.controllers")))?;
    let lacks = |name: &&str| !has.split_whitespace().any(|it| it == *name);
    let lacking: Vec<_> = CONTROLLERS.into_iter().filter(lacks).collect();
    // A user is seldom given this one, and seldom asks for it.
    match lacking[..] {
        [] | ["cpuset"] => Ok(format!("{}, with {}", found.display(), has.trim())),
        _ => Err(format!("{} has no controller {}", found.display(), lacking.join(", "))),
    }
}
