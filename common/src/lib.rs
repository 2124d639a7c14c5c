//! The plumbing of Congo: what the lessons need and no lesson is about.
//!
//! The modules are floors of a house. A file may use files of its own floor and of the floors below it.
//!
//! | floor | what it is for |
//! | --- | --- |
//! | [`sys`] | one function for each system call, the narration of `--explain`, the error type; all `unsafe` code |
//! | [`run`] | the life of a process: a safe clone, the handshake, helpers, terminals, waiting, exec |
//! | [`fs`] | paths beneath a root, mounts, trees of files, cgroup files, a root made from the host's programs |
//! | [`keep`] | what outlives a process: state folders, locks, and sweeping after a dead runtime |
//! | `ids` | user namespaces and the ids in them, users and groups (feature `idmap`) |
//! | `security` | capabilities, seccomp filters, the runtime's own file (features `capability`, `seccomp`, `idmap`) |
//! | `net` | links, addresses, firewall rules, leases, a network for ordinary users (feature `network`) |
//! | `oci` | container images: their formats, the store of layers, a commit (feature `image`) |
//! | `values` | the grammar of the options' values (feature `values`) |
//! | `options` | the groups of options, and the checks of each (feature `values`) |

#![deny(unsafe_code)]

// A test tries a lesson's own file, which calls this crate by its name.
#[cfg(test)]
extern crate self as common;

pub mod fs;
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

pub use sys::error::{Context, Error, Hint, Result, printable, tell};
pub use sys::explain;
