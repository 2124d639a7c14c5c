//! The plumbing of Congo: what the lessons need and no lesson is about.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`cgroupfs`] | which cgroup hierarchy is mounted where; making, writing, joining and removing a cgroup |
//! | [`cli`] | the command line's errors in the runtimes' own form, with Docker's exit status |
//! | [`error`] | the one error type: what was being done, the errno, the likely cause |
//! | [`explain`] | the narration of `--explain` |
//! | [`handshake`] | "go", and "failed at this, with that errno", between parent and child |
//! | `lease` | which bridges and addresses are taken, and by whom that still lives (feature `network`) |
//! | `image` | container images: their formats, the store of layers, a commit (feature `image`) |
//! | [`mount`] | mounts as descriptors: the newer mount calls |
//! | [`namespace`] | joining the namespaces of another process |
//! | `netlink` | links, addresses and routes: what `ip` does (feature `network`) |
//! | `nft` | the firewall's rules, through the program `nft` (feature `network`) |
//! | `port` | a port of the host, kept from others (feature `network`) |
//! | [`process`] | a safe clone, waiting, signals, exec |
//! | [`pty`] | the system calls of a pseudo-terminal |
//! | [`rootfs`] | a root filesystem made from the host's own programs |
//! | [`syscall`] | one function per system call that the lessons make |
//! | [`sysctl`] | the kernel's settings in `/proc/sys` |
//! | [`terminal`] | the caller's terminal, shared with the container or copied to and from its own |
//! | `values` | the grammar of the options' values (feature `values`) |
//!
//! All `unsafe` code of the course lives in this crate.

pub mod cgroupfs;
pub mod cli;
pub mod error;
pub mod explain;
pub mod handshake;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "network")]
pub mod lease;
pub mod mount;
pub mod namespace;
#[cfg(feature = "network")]
pub mod netlink;
#[cfg(feature = "network")]
pub mod nft;
#[cfg(feature = "network")]
pub mod port;
pub mod process;
pub mod pty;
pub mod rootfs;
pub mod syscall;
pub mod sysctl;
pub mod terminal;
#[cfg(test)]
mod testing;
#[cfg(feature = "values")]
pub mod values;

pub use error::{Error, Hint, Result, tell};
