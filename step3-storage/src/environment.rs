//! The environment of the command: not the host's, which may hold passwords and paths that mean nothing
//! inside.
//!
//! No kernel object: execve(2) copies the variables into the new program's stack, where `/proc/PID/environ`
//! shows them. See environ(7).

use std::env;
use std::ffi::OsString;

use common::Result;
use common::run::process::Environment;
use common::values;

use crate::cli::World;

/// The command's variables: the defaults, then the image's, then those of the files, then those of the
/// options. Where two have the same name, the later one counts.
pub fn build(world: &World, image: &[(OsString, OsString)]) -> Result<Environment> {
    let mut environment = defaults(world.hostname());
    environment.extend(image.iter().cloned());
    for file in &world.env_file {
        for (name, value) in values::env_file(file)? {
            // A name alone asks for the host's value. A variable that the host does not have is not set.
            if let Some(value) = value.or_else(|| env::var_os(&name)) {
                environment.insert(name, value);
            }
        }
    }
    for (name, value) in world.env.iter().cloned() {
        match value.or_else(|| env::var_os(&name)) {
            Some(value) => environment.insert(name, value),
            // As Docker does: `--env NAME` passes on the host's value, and the host has none.
            None => environment.remove(&name),
        };
    }
    Ok(environment)
}

/// The variables that every container has: Docker's, and TERM, which Docker sets for a terminal only.
pub fn defaults(hostname: &str) -> Environment {
    let variables = [
        // Without it, the runtime could not find `ls`.
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("HOSTNAME", hostname),
        // Nearly every terminal understands it. Without it, `less` and `vi` do not know how to draw.
        ("TERM", "xterm"),
    ];
    variables.map(|(name, value)| (name.into(), value.into())).into()
}
