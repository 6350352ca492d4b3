//! The cache: which images there are and what room they take, bounding it, and checking it.
//!
//! [`inventory`] joins the engine's images with the index into values; [`usage`] and [`eviction`] are
//! pure. Nothing here touches an image without imgforge's labels.

pub mod archive;
pub mod check;
pub mod collect;
pub mod destination;
pub mod eviction;
pub mod external;
pub mod from_image;
pub mod image_source;
pub mod inventory;
pub mod provenance;
pub mod registry;
pub mod sbom;
mod signature;
#[cfg(test)]
mod testing;
pub mod usage;
pub mod verify;

pub use collect::{Collected, Collector};
pub use eviction::Limits;
pub use inventory::{CacheError, CacheInventory, CachedImage};
