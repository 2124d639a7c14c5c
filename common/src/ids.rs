//! Users and groups: user namespaces with their maps of ids, the container's own list of users, and what root
//! may do.

#[cfg(feature = "idmap")]
pub mod idmap;
#[cfg(feature = "idmap")]
pub mod passwd;
pub mod privilege;
