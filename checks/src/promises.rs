//! The checks, one file for each subject, and the subjects' names in the README's matrix.

use crate::Check;

mod bad_input;
mod bad_network;
mod bad_security;
mod bad_storage;
mod bridge;
mod capabilities;
mod cgroup;
mod cli;
mod concurrency;
mod death;
mod descriptors;
mod devices;
mod environment;
mod escape;
mod exit_status;
mod explain;
mod filesystem;
mod hostname;
mod idmap;
mod image;
mod image_commit;
mod image_debian;
mod image_hostile;
mod image_layers;
mod image_store;
mod image_tools;
mod init;
mod ipc;
mod limits;
mod names;
mod namespaces;
mod network;
mod overlay;
mod own_terminal;
mod process;
mod processes;
mod publish;
mod rootless;
mod rootless_network;
mod same_user;
mod seccomp;
mod security_calls;
mod security_files;
mod security_paths;
mod signals;
mod state;
mod streams;
mod sysctl;
mod sysfs;
mod terminal;
mod user;
mod user_namespace;
mod volume;
mod volume_shared;
mod volume_target;

/// All checks. The basic promises come first, since a learner sees the first failure first.
pub(crate) const ALL: &[&[Check]] = &[
    process::CHECKS,
    namespaces::CHECKS,
    hostname::CHECKS,
    filesystem::CHECKS,
    devices::CHECKS,
    escape::CHECKS,
    overlay::CHECKS,
    volume::CHECKS,
    volume_shared::CHECKS,
    volume_target::CHECKS,
    image::CHECKS,
    image_layers::CHECKS,
    image_hostile::CHECKS,
    image_store::CHECKS,
    image_commit::CHECKS,
    image_debian::CHECKS,
    image_tools::CHECKS,
    idmap::CHECKS,
    sysfs::CHECKS,
    user_namespace::CHECKS,
    user::CHECKS,
    capabilities::CHECKS,
    seccomp::CHECKS,
    same_user::CHECKS,
    security_calls::CHECKS,
    ipc::CHECKS,
    sysctl::CHECKS,
    processes::CHECKS,
    network::CHECKS,
    bridge::CHECKS,
    publish::CHECKS,
    names::CHECKS,
    cgroup::CHECKS,
    limits::CHECKS,
    environment::CHECKS,
    exit_status::CHECKS,
    signals::CHECKS,
    descriptors::CHECKS,
    streams::CHECKS,
    terminal::CHECKS,
    own_terminal::CHECKS,
    init::CHECKS,
    cli::CHECKS,
    explain::CHECKS,
    bad_input::CHECKS,
    bad_network::CHECKS,
    bad_storage::CHECKS,
    bad_security::CHECKS,
    concurrency::CHECKS,
    death::CHECKS,
    state::CHECKS,
    rootless::CHECKS,
    rootless_network::CHECKS,
    security_files::CHECKS,
    security_paths::CHECKS,
];

/// The part of the ids before the dot, and the promise that its checks test.
pub const SUBJECTS: &[(&str, &str)] = &[
    ("pid", "The command is PID 1 and sees only processes of its container"),
    ("namespace", "It has namespaces of its own"),
    ("hostname", "It has a host name of its own"),
    ("root", "It has a root filesystem of its own"),
    ("overlay", "Its changes to the root end with it, unless the user keeps them"),
    ("volume", "A volume outlives it, and shows only the files of its source"),
    ("image", "It runs an image, and becomes one"),
    ("mounts", "Its mounts stay its own"),
    ("proc", "It has a /proc of its own"),
    ("dev", "It has a minimal /dev"),
    ("sys", "It has a read-only /sys of its own"),
    ("userns", "Its users have no rights on the host"),
    ("user", "It runs as the user asked for"),
    ("cap", "It has the capabilities asked for, and no more"),
    ("seccomp", "It makes only the system calls that it needs"),
    ("security", "The kernel refuses it what no container needs"),
    ("cve", "Attacks that worked on other runtimes fail"),
    ("ipc", "It talks to no process of the host through shared memory or queues"),
    ("processes", "It is among other processes where the user asks for it, and leaves none there"),
    ("network", "It has a network of its own"),
    ("sysctl", "Settings of the kernel are changed for it alone"),
    ("bridge", "Containers on a bridge reach each other and the outside, but no other bridge"),
    ("publish", "Published ports lead into it, and no other ports do"),
    ("names", "It finds its own name, and others"),
    ("cgroup", "It is alone in a cgroup"),
    ("memory", "Memory is limited"),
    ("swap", "Swap is limited"),
    ("cpu", "Processor time is limited"),
    ("cpuset", "It runs on chosen processors"),
    ("pids", "The number of processes is limited"),
    ("ulimit", "Each process has the resource limits asked for"),
    ("env", "Its environment is exactly what was asked for"),
    ("workdir", "It starts in the working directory asked for"),
    ("exit", "The exit status is exact"),
    ("signal", "Signals reach it"),
    ("descriptor", "No descriptor leaks into it"),
    ("stream", "stdin, stdout and stderr pass unchanged"),
    ("terminal", "A terminal works, with job control"),
    ("init", "A small init can be PID 1, for commands that are not written as one"),
    ("cli", "--help helps"),
    ("explain", "--explain reports the actions that really happen"),
    ("bad", "Bad input is refused in two lines"),
    ("many", "Many containers run at once"),
    ("death", "It dies with the runtime, and leaves nothing behind"),
    ("rootless", "All of this works without root"),
];
