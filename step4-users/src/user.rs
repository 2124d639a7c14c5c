//! The user that runs the command, as the container's own list of users knows it.
//!
//! Kernel objects: the user, group and supplementary groups of the process. Order: groups first, as only root
//! may set them; the user last. Man pages: credentials(7), setgroups(2), setresuid(2), passwd(5).

use std::fs::File;

use common::ids::passwd::{self, Identity};
use common::oci::Config;
use common::run::process::Environment;
use common::security::capability::keep_capabilities;
use common::sys::{give_streams, setgroups, setresgid, setresuid};
use common::values::{self, NameOrId, User, UsernsMode};
use common::{Context, Error, Result};
use nix::unistd::{getgid, getuid};

use crate::cli::Cli;

/// `--user` wins. Without it, `--userns keep-id` means the caller; otherwise the image's `User` counts.
pub fn choose(cli: &Cli, config: &Config) -> Result<Option<User>> {
    if cli.users.user.is_some() {
        return Ok(cli.users.user.clone());
    }
    if cli.users.userns == Some(UsernsMode::KeepId) {
        let (user, group) = (NameOrId::Id(getuid().as_raw()), NameOrId::Id(getgid().as_raw()));
        return Ok(Some(User { user, group: Some(group) }));
    }
    let named = config.user.as_deref().filter(|user| !user.is_empty());
    let read = |user: &str| {
        values::user(user).map_err(|why| Error::new(format!("the image's User {user:?}: {why}")))
    };
    named.map(read).transpose()
}

/// In the child, in its root: looks the user up in the container's /etc/passwd and /etc/group.
pub fn resolve(user: Option<&User>) -> Result<Option<Identity>> {
    let root = File::open("/").context("open /")?;
    user.map(|user| passwd::resolve(&root.into(), user)).transpose()
}

/// The variables, with the user's `HOME` where no other one is set. An empty one counts as none.
pub fn at_home(mut environment: Environment, identity: Option<&Identity>) -> Environment {
    let home = || identity.map_or("/root".into(), |identity| identity.home.clone().into());
    environment.retain(|name, value| name != "HOME" || !value.is_empty());
    environment.entry("HOME".into()).or_insert_with(home);
    environment
}

/// In the child: becomes that user.
pub fn become_it(identity: &Identity) -> Result<()> {
    // `/dev/stdout` is a path, and opening it takes the right to. A pipe of another user stays as it is.
    let _ = give_streams(identity.uid, identity.gid);
    // The kernel takes all capabilities from a process that leaves root. The next step decides which go.
    keep_capabilities()?;
    // The primary group is among them, or a setgid program could shed it (CVE-2022-36109).
    setgroups(identity.gid, &identity.groups)?;
    setresgid(identity.gid)?;
    setresuid(identity.uid)
}
