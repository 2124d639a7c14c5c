//! Files: paths that stay beneath a root, mounts, trees, cgroup and sysctl files, and a root made from the
//! host's programs.

pub mod cgroupfs;
pub(crate) mod claim;
pub(crate) mod holes;
pub mod mount;
pub mod overlay;
pub(crate) mod own;
pub mod path;
pub mod rootfs;
pub mod sysctl;
pub mod tree;
pub(crate) mod xattr;
