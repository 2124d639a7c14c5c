//! What the container may do.

use clap::Args;

use super::bytes;
use crate::values::{self, Named, SecurityOption};

/// What the container may do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security (since step 4)")]
pub struct Security {
    /// Give it a capability that it would not have, or ALL; repeatable.
    #[arg(
        long = "cap-add",
        value_name = "CAPABILITY", allow_hyphen_values = true,
        value_parser = values::capability
    )]
    pub cap_add: Vec<Named>,

    /// Take one from it, or ALL; repeatable.
    #[arg(
        long = "cap-drop",
        value_name = "CAPABILITY", allow_hyphen_values = true,
        value_parser = values::capability
    )]
    pub cap_drop: Vec<Named>,

    /// no-new-privileges[=true|false], or seccomp=unconfined|FILE; repeatable.
    #[arg(
        long = "security-opt",
        value_name = "OPTION", allow_hyphen_values = true,
        value_parser = bytes(values::security_opt)
    )]
    pub options: Vec<SecurityOption>,
}
