//! The options of the runtimes, in groups, one file a group; a step's `cli.rs` says which groups it has.
//!
//! Each group is a part of a clap command line. A value on its own is checked by its grammar, in
//! [`values`](crate::values). A group's `check` refuses values that contradict each other. It looks at the
//! options and at the host's files, and changes nothing.

use std::ffi::OsString;

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::values::Invalid;

#[cfg(feature = "network")]
mod ipc;
mod limits;
#[cfg(feature = "network")]
mod network;
#[cfg(feature = "image")]
mod root;
#[cfg(feature = "seccomp")]
mod security;
#[cfg(feature = "network")]
mod session;
mod taken;
#[cfg(feature = "idmap")]
mod users;
#[cfg(feature = "image")]
mod volumes;
mod world;

#[cfg(feature = "network")]
pub use ipc::Ipc;
pub use limits::Limits;
#[cfg(feature = "network")]
pub use network::Network;
#[cfg(feature = "image")]
pub use root::Root;
#[cfg(feature = "seccomp")]
pub use security::Security;
#[cfg(feature = "network")]
pub use session::Session;
pub use taken::Taken;
#[cfg(feature = "idmap")]
pub use users::Users;
#[cfg(feature = "image")]
pub use volumes::Volumes;
pub use world::World;

/// A parser for values that need not be UTF-8, such as paths.
fn bytes<T: Clone + Send + Sync + 'static>(
    read: fn(OsString) -> Result<T, Invalid>,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(read)
}
