//! Users and groups: user namespaces with their maps of ids, and the container's own list of users.

pub mod idmap;
pub mod passwd;
