//! What outlives a process: a container's own folders, and the volumes that containers share.

#[cfg(any(feature = "idmap", feature = "network"))]
pub(crate) mod hash;
pub mod state;
