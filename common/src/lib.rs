//! The plumbing of Congo: what the lessons need and no lesson is about.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `attack` | what an attacker in a container would try, for the checks (feature `attack`) |
//! | [`cgroupfs`] | which cgroup hierarchy is mounted where; making, writing, joining and removing a cgroup |
//! | [`cli`] | the command line's errors in the runtimes' own form, with Docker's exit status |
//! | [`error`] | the one error type: what was being done, the errno, the likely cause |
//! | [`explain`] | the narration of `--explain` |
//! | [`handshake`] | "go", and "failed at this, with that errno", between parent and child |
//! | [`process`] | a safe clone, waiting, signals, the terminal, exec |
//! | [`rootfs`] | a root filesystem made from the host's own programs |
//! | [`syscall`] | one function per system call that the lessons make |
//! | `values` | the grammar of the options' values (feature `values`) |
//!
//! All `unsafe` code of the course lives in this crate.

#[cfg(feature = "attack")]
pub mod attack;
pub mod cgroupfs;
pub mod cli;
pub mod error;
pub mod explain;
pub mod handshake;
pub mod process;
pub mod rootfs;
pub mod syscall;
#[cfg(feature = "values")]
pub mod values;

pub use error::{Error, Hint, Result, tell};
