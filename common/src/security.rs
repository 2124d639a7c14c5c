//! What a container may do: capabilities, seccomp filters, and the runtime's own file.

#[cfg(feature = "capability")]
pub mod capability;
#[cfg(feature = "idmap")]
pub mod own_program;
#[cfg(feature = "seccomp")]
pub mod seccomp;
