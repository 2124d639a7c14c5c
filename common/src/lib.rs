//! The plumbing of Congo: what the lessons need and no lesson is about.
//!
//! The modules are floors of a house: each builds mainly on those above it in this table.
//!
//! | floor | what it is for |
//! | --- | --- |
//! | [`sys`] | one function a system call, the narration of `--explain`, the error type; all `unsafe` code |
//! | [`run`] | the life of a process: a safe clone, the handshake, terminals, waiting, exec |
//! | [`fs`] | paths beneath a root, mounts, trees, claims, cgroup files, the root from the host |
//! | [`keep`] | what outlives a process: the folders of containers, kept layers, named volumes |
//! | `values` | the grammar of the options' values (feature `values`) |
//! | `ids` | user namespaces and the ids in them, users and groups (feature `idmap`) |
//! | `security` | capabilities, seccomp filters, the runtime's own file |
//! | `net` | links, addresses, rules, leases, a network for ordinary users (feature `network`) |
//! | `oci` | container images: their formats, the store of layers, a commit (feature `image`) |
//! | `options` | the groups of options, and the checks of each (feature `values`) |

#![deny(unsafe_code)]

// A test tries a lesson's own file, which calls this crate by its name.
#[cfg(test)]
extern crate self as common;

pub mod fs;
#[cfg(feature = "idmap")]
pub mod ids;
pub mod keep;
#[cfg(feature = "network")]
pub mod net;
#[cfg(feature = "image")]
pub mod oci;
#[cfg(feature = "values")]
pub mod options;
pub mod run;
#[cfg(any(feature = "capability", feature = "idmap", feature = "seccomp"))]
pub mod security;
#[allow(unsafe_code)]
pub mod sys;
#[cfg(test)]
mod testing;
#[cfg(feature = "values")]
pub mod values;

pub use sys::error::{Context, Error, Hint, Result, tell};
pub use sys::explain;
