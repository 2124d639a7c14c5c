//! What outlives a process: the state folders, the locks on them, and sweeping after a runtime that was killed.

pub(crate) mod lock;
pub mod state;
