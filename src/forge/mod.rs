//! The library's door: what the command line, a server or a binding for another language does with
//! imgforge.
//!
//! A [`Forge`] is opened with options, and instances of a dataset are loaded into it. Their images are
//! planned, assessed against what is here, and built; predictions are evaluated.
//!
//! Nothing is printed: warnings and remarks go to [`Notices`], what happens in a run to a
//! [`Reporter`](crate::event::Reporter).

mod assessed;
mod budget;
pub(crate) mod bundle_in_use;
mod checkout;
mod engines;
mod error;
pub(crate) mod evaluate;
mod from_images;
pub(crate) mod keys;
mod load;
mod merge;
mod notices;
pub(crate) mod open;
mod options;
mod outcomes;
pub(crate) mod password;
pub(crate) mod platform;
mod pods;
mod predictions;
mod preflight;
pub(crate) mod push;
pub(crate) mod record;
pub(crate) mod registries;
mod remote_images;
pub(crate) mod results;
pub(crate) mod rows;
pub(crate) mod run_directory;
mod run_report;
mod run_targets;
mod saved_run;
mod shards;
pub(crate) mod unfit;
mod workload;

use std::sync::Arc;

use crate::store::Store;

pub(crate) use assessed::remove_own;
pub use assessed::{AssessedPlan, BUILD_LOGS, BuildOptions};
pub(crate) use budget::limits;
pub use checkout::{Checkout, Needed};
pub use error::{Error, ErrorKind};
pub use evaluate::{Ended, Evaluation, RunOptions};
pub(crate) use load::namespace;
pub use merge::MergeOptions;
pub use notices::{Notice, Notices};
pub use open::Opened;
pub use options::{EngineChoice, ForgeOptions, LoadOptions, Selection, SourceOptions};
pub use password::Password;
pub use pods::{RunnerChoice, Sessions};
pub use predictions::Submission;
pub use run_directory::run_id;
pub use saved_run::{SavedRun, SavedRunOptions};
pub use shards::ShardOptions;
pub use workload::Workload;

/// A state directory that is open, with the options of everything that is done in it.
pub struct Forge {
    options: ForgeOptions,
    store: Arc<Store>,
}

impl Forge {
    /// Opens the state directory.
    ///
    /// # Errors
    /// It cannot be used, or a newer imgforge wrote it.
    pub fn open(options: ForgeOptions) -> Result<Forge, Error> {
        let store = options.open_store()?;
        Ok(Forge { options, store })
    }

    /// Returns the options.
    pub fn options(&self) -> &ForgeOptions {
        &self.options
    }

    /// Reads the catalog, the rows and the predictions, connects to the engine, and finds out what the
    /// `FROM` images are.
    ///
    /// # Errors
    /// Bad input, before anything is started; an engine or a `FROM` image that a build needs and that
    /// cannot be had.
    pub async fn load(&self, options: &LoadOptions) -> Result<Workload, Error> {
        load::load(&self.options, self.store.clone(), options).await
    }
}
