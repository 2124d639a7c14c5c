//! The environment of the command: not the host's, which may hold passwords and paths that mean nothing
//! inside.
//!
//! No kernel object: execve(2) copies the variables into the new program's stack, where `/proc/PID/environ`
//! shows them. See environ(7).

use common::run::process::Environment;

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
