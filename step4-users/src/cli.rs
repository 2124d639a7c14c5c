//! The options that a user can give. The groups of options stand in `common::options`.

use std::ffi::OsString;

use clap::Parser;
pub use common::options::{Ipc, Limits, Network, Root, Security, Session, Users, Volumes, World};

/// Runs a command in a container, as `docker run` does, without a daemon.
#[derive(Debug, Parser)]
#[command(version, about, args_override_self = true)]
// An image may name a directory, too.
#[command(mut_arg("workdir", |arg| arg.help(WORKDIR)))]
pub struct Cli {
    /// Tell every action on the kernel, in order, with its man page.
    #[arg(long)]
    pub explain: bool,

    /// The container's surroundings: its root, its name, its variables.
    #[command(flatten)]
    pub world: World,

    /// The most that the container may use.
    #[command(flatten)]
    pub limits: Limits,

    /// The network that it is in.
    #[command(flatten)]
    pub network: Network,

    /// The partner with which it shares memory and messages.
    #[command(flatten)]
    pub ipc: Ipc,

    /// Its terminal and its PID 1.
    #[command(flatten)]
    pub session: Session,

    /// The layers of its root.
    #[command(flatten)]
    pub root: Root,

    /// The mounts in it.
    #[command(flatten)]
    pub volumes: Volumes,

    /// The host's ids of its users.
    #[command(flatten)]
    pub users: Users,

    /// Its rights.
    #[command(flatten)]
    pub security: Security,

    /// The command to run, with its arguments [default: the image's, else /bin/sh].
    #[arg(value_name = "COMMAND", trailing_var_arg = true, help_heading = "Arguments")]
    pub command: Vec<OsString>,
}

const WORKDIR: &str = "The working directory, absolute; made if it is missing [default: the image's, else /]";
