//! The life of a process: its start, what it tells its parent, its terminal, its end.

#[cfg(feature = "network")]
pub(crate) mod cidfile;
pub mod cli;
pub mod handshake;
pub mod helper;
#[cfg(feature = "network")]
pub mod pids;
pub mod process;
#[cfg(any(feature = "idmap", feature = "network"))]
pub(crate) mod program;
pub mod terminal;
