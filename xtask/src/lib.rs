//! The tools behind `cargo xtask`, one module each. They are a library so that `cargo test` can use them too.

pub mod bench;
pub mod book;
mod built;
pub mod debian;
pub mod diff;
pub mod faults;
pub mod fuzz;
pub mod image;
pub mod probe;
pub mod prove;
pub mod readme;
pub mod security;
pub mod soak;
pub mod stages;
pub mod vm;

pub use congo::{check, doctor, workspace};
