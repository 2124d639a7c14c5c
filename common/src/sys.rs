//! The kernel's interface: one function for each system call, with its narration and its error.
//!
//! All `unsafe` code of the course stands on this floor. The functions of [`calls`] can be used as
//! `sys::mount`.

#[cfg(feature = "attack")]
pub mod attack;
pub mod calls;
pub(crate) mod clone;
pub(crate) mod descriptors;
pub mod error;
pub mod explain;
#[cfg(feature = "seccomp")]
pub(crate) mod filter;
pub(crate) mod folder;
#[cfg(any(feature = "idmap", feature = "seccomp"))]
pub(crate) mod kernel;
pub mod keyring;
pub(crate) mod memory;
pub(crate) mod mounts;
pub mod namespace;
pub(crate) mod pidfd;
pub mod privilege;
pub mod pty;
pub(crate) mod short;
pub(crate) mod signal;

pub use calls::*;
