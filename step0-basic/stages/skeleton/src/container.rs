//! The story of a container, in kernel order: the parent's side, and the child's side.
//!
//! The parent stays on the host: it prepares (`plan.rs`), clones the child, waits for it, and cleans up.
//! The child arranges its new world from within, and then becomes the command. It can do so because a
//! namespace is a property of a process: what the child mounts or names is seen in its namespaces only.
//! Man pages: namespaces(7), clone(2), pid_namespaces(7), mount_namespaces(7), uts_namespaces(7).

use common::run::process;
use common::{Error, Result, explain};

use crate::cli::Cli;

/// The parent's side. Returns the command's exit status.
///
/// # Errors
/// Always.
pub fn run(cli: &Cli) -> Result<u8> {
    process::require_root()?;
    if cli.explain {
        explain::start()?;
    }
    Err(Error::new(format!("{:?} cannot be run yet: this runtime does nothing", cli.command)))
}
