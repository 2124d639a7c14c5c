//! The plumbing of Congo: what the lessons need and no lesson is about.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `attack` | what an attacker in a container would try, for the checks (feature `attack`) |
//! | `capability` | names and sets of capabilities, and a thread's five sets (feature `capability`) |
//! | [`cgroupfs`] | which cgroup hierarchy is mounted where; making, writing, joining and removing a cgroup |
//! | [`cli`] | the command line's errors in the runtimes' own form, with Docker's exit status |
//! | [`error`] | the one error type: what was being done, the errno, the likely cause |
//! | [`explain`] | the narration of `--explain` |
//! | [`handshake`] | "go", and "failed at this, with that errno", between parent and child |
//! | [`keyring`] | a session keyring of one's own |
//! | `lease` | which bridges and addresses are taken, and by whom that still lives (feature `network`) |
//! | `idmap` | user namespaces: maps of ids, subordinate ids, ids of the host for each container (feature `idmap`) |
//! | `image` | container images: their formats, the store of layers, a commit (feature `image`) |
//! | [`mount`] | mounts as descriptors: the newer mount calls |
//! | [`namespace`] | joining the namespaces of another process |
//! | `netlink` | links, addresses and routes: what `ip` does (feature `network`) |
//! | `nft` | the firewall's rules, through the program `nft` (feature `network`) |
//! | `own_program` | the runtime's own file, as nobody can change it (feature `idmap`) |
//! | `passwd` | who a user is, as the container's own `/etc/passwd` says (feature `idmap`) |
//! | [`path`] | resolving a path beneath a root, so that nothing leads outside |
//! | `port` | a port of the host, kept from others (feature `network`) |
//! | [`privilege`] | what root may do here: on the host, or in a user namespace |
//! | [`process`] | a safe clone, waiting, signals, exec |
//! | [`pty`] | the system calls of a pseudo-terminal |
//! | [`rootfs`] | a root filesystem made from the host's own programs |
//! | `seccomp` | which system calls a process may make: profiles and filters (feature `seccomp`) |
//! | [`state`] | the folders of containers and volumes, and who may use them |
//! | [`syscall`] | one function per system call that the lessons make |
//! | [`sysctl`] | the kernel's settings in `/proc/sys` |
//! | [`terminal`] | the caller's terminal, shared with the container or copied to and from its own |
//! | [`tree`] | copying and removing a tree of files as it is |
//! | `usernet` | a network for who is not root, through pasta or slirp4netns (feature `network`) |
//! | `values` | the grammar of the options' values (feature `values`) |
//!
//! All `unsafe` code of the course lives in this crate.

#[cfg(feature = "attack")]
pub mod attack;
#[cfg(feature = "capability")]
pub mod capability;
pub mod cgroupfs;
pub mod cli;
pub mod error;
pub mod explain;
pub mod handshake;
#[cfg(feature = "idmap")]
pub mod idmap;
#[cfg(feature = "image")]
pub mod image;
#[cfg(any(feature = "idmap", feature = "seccomp"))]
mod kernel;
pub mod keyring;
#[cfg(feature = "network")]
pub mod lease;
mod lock;
pub mod mount;
pub mod namespace;
#[cfg(feature = "network")]
pub mod netlink;
#[cfg(feature = "network")]
pub mod nft;
#[cfg(feature = "idmap")]
pub mod own_program;
#[cfg(feature = "idmap")]
pub mod passwd;
pub mod path;
#[cfg(feature = "network")]
pub mod port;
pub mod privilege;
pub mod process;
#[cfg(any(feature = "idmap", feature = "network"))]
mod program;
pub mod pty;
pub mod rootfs;
#[cfg(feature = "seccomp")]
pub mod seccomp;
pub mod state;
pub mod syscall;
pub mod sysctl;
pub mod terminal;
#[cfg(test)]
mod testing;
pub mod tree;
#[cfg(feature = "network")]
pub mod usernet;
#[cfg(feature = "values")]
pub mod values;

pub use error::{Error, Hint, Result, printable, tell};
