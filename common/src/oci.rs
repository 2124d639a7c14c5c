//! Container images: OCI layouts, OCI archives and archives of `docker save`, unpacked into a store of
//! layers.
//!
//! Order: [`reference()`], [`Image::open`], which reads the documents and verifies them, [`Image::unpack`],
//! which unpacks the layers that the store does not have yet; after the run, [`commit()`]. An image is
//! written by others: whatever it says, nothing outside the store is touched, and nothing half-made is left.
//!
//! Sources: the OCI image specification v1.1, the Docker image specification v1.2.
//! Kernel objects: files, overlay mounts in a mount namespace that ends with the unpacking, flock(2). Man
//! pages: mount_namespaces(7), chroot(2), xattr(7).

mod apply;
mod choice;
mod commit;
mod config;
mod digest;
mod docker;
#[cfg(feature = "fuzz")]
mod fuzz;
mod image;
mod layer;
mod layout;
mod lost;
mod model;
mod name;
mod pack;
mod reference;
mod refusal;
mod source;
mod store;
mod tar;
#[cfg(test)]
mod tests;

pub use apply::Limits;
pub use commit::{Base, check_target, commit};
pub use config::Config;
#[cfg(feature = "fuzz")]
pub use fuzz::unpack_into;
pub use image::Image;
pub use layer::{Compression, decompress};
pub use model::platform;
pub use reference::{Reference, reference, target};
pub use tar::{Entries, Entry, Kind, Sparse};
