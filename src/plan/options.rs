//! How a plan is made, and how its instances are evaluated.

use std::collections::BTreeMap;

use crate::grade::Family;
use crate::key::{ImageId, Kind};
use crate::platform::Platform;
use crate::recipe::RunNetwork;
use crate::size::Bound;

/// The options of a plan.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// The platform of all images, such as `linux/amd64`.
    pub platform: Platform,
    /// Where published images come from; `None` builds everything.
    pub namespace: Option<String>,
    /// Whether published images are named by the namespace even where rows name their own.
    pub derive_images: bool,
    /// The tag of images that are named by the namespace, where that is not `latest`; then they are
    /// named by it even where rows name their own.
    pub image_tag: Option<String>,
    /// The last layer that is wanted: nodes above it are left out.
    pub up_to: Kind,
    /// How instances are evaluated; `None` stops at their images.
    pub evaluate: Option<EvaluateOptions>,
}

/// The options of evaluations.
#[derive(Debug, Clone, Default)]
pub struct EvaluateOptions {
    /// Seconds, instead of the catalog's.
    pub timeout: Option<u64>,
    /// Bytes of memory, instead of the catalog's.
    pub memory: Option<u64>,
    /// Thousandths of a processor, instead of the catalog's.
    pub milli_cpus: Option<u64>,
    /// Processes, instead of the catalog's.
    pub pids: Option<u64>,
    /// Bytes of files, instead of what is built in.
    pub disk: Option<Bound>,
    /// Files, instead of what is built in.
    pub files: Option<Bound>,
    /// Bytes of the log, instead of what is built in.
    pub log_size: Option<Bound>,
    /// The network, instead of the catalog's.
    pub network: Option<RunNetwork>,
    /// See [`EvaluationRecipe::strict`](crate::recipe::EvaluationRecipe::strict).
    pub strict: bool,
    /// How often every instance is run, at least once.
    pub repeat: u32,
    /// Whose rules the tests are prepared for.
    pub family: Family,
    /// See [`EvaluationRecipe::emulator`](crate::recipe::EvaluationRecipe::emulator).
    pub emulator: Option<String>,
    /// See [`EvaluationRecipe::in_pods`](crate::recipe::EvaluationRecipe::in_pods).
    pub in_pods: bool,
    /// The ids of published images that are here, by reference.
    pub image_ids: BTreeMap<String, ImageId>,
}
