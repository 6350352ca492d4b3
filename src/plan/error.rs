//! Instances that cannot be planned.

use crate::catalog::CatalogError;
use crate::recipe::strict;

/// An instance that cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The catalog does not say how it is built.
    #[error("instance `{instance_id}` cannot be planned")]
    Catalog {
        /// The `instance_id` of the row.
        instance_id: String,
        /// The error of the catalog.
        #[source]
        source: Box<CatalogError>,
    },
    /// Images come from the rows alone, and this one names none.
    #[error("instance `{instance_id}` names no image for this platform")]
    NoImage {
        /// The `instance_id` of the row.
        instance_id: String,
    },
    /// The published name is not one that an engine takes.
    #[error("instance `{instance_id}`: `{reference}` is not a valid image name")]
    Name {
        /// The `instance_id` of the row.
        instance_id: String,
        /// The name that follows from namespace and row.
        reference: String,
    },
    /// The strict rules need the parts of its script.
    #[error("instance `{instance_id}` cannot be evaluated under `--strict`")]
    Script {
        /// The `instance_id` of the row.
        instance_id: String,
        /// The construct of the script that is not understood.
        #[source]
        source: strict::UnreadableScript,
    },
}
