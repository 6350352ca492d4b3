//! The image that work on an instance begins in.

use anyhow::anyhow;

use crate::event::Reporter;
use crate::exec::RunSummary;
use crate::key::Kind;
use crate::plan::Status;
use crate::store::Lease;

use super::{BuildOptions, Error, Forge, LoadOptions};

/// The image of an instance that has its repository and its dependencies, and none of its tests.
pub enum Checkout {
    /// The image is there, and stays as long as this lives.
    Ready {
        /// Its name in the engine.
        image: String,
        /// What keeps it from being collected.
        lease: Option<Lease>,
    },
    /// It could not be made.
    Failed(RunSummary),
}

/// Where an image is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// On the engine.
    Here,
    /// In the registry that pods get their images from: what that has stays there.
    InRegistry,
}

impl Needed {
    /// Returns where a session needs its image.
    pub fn by_session(in_pod: bool) -> Needed {
        if in_pod { Needed::InRegistry } else { Needed::Here }
    }
}

impl Forge {
    /// Finds the image that work on an instance begins in, and builds it where it is missing. `build` is
    /// called where something is to be built.
    ///
    /// # Errors
    /// Bad input, and an instance whose image is published: its layers are not known.
    pub async fn checkout(
        &self,
        load: &LoadOptions,
        needed: Needed,
        build: impl FnOnce() -> Result<(BuildOptions, Box<dyn Reporter>), Error>,
    ) -> Result<Checkout, Error> {
        let workload = self.load(load).await?;
        // Not the instance image: that has the tests.
        let plan = workload.plan(&workload.work, Kind::Checkout, None)?;
        let assessed = workload.assess(plan, false, &Default::default()).await?;
        assessed.name_fresh().await?;
        let plan = assessed.plan();
        let [target] = &plan.targets[..] else {
            let chosen = load.selection.instance_ids.join(", ");
            return Err(Error::input(anyhow!("`{chosen}` is not one instance")));
        };
        let node = &plan.graph[target.node];
        let image = node.image.clone();
        if node.kind() != Kind::Checkout {
            let error = anyhow!("`{image}` is a published image: the layers are not known");
            let hint = "`--namespace none` builds them here, or start it by `--image`";
            return Err(Error::input(error).with_hint(Some(hint.to_owned())));
        }
        if needed == Needed::InRegistry && node.status == Status::Pull && load.remote.is_none() {
            assessed.note_use().await?;
        } else if assessed.is_stale() {
            let (options, reporter) = build()?;
            let summary = assessed.build(&options, reporter).await?;
            if summary.interrupted || summary.failed + summary.skipped > 0 {
                return Ok(Checkout::Failed(summary));
            }
        } else {
            assessed.note_use().await?;
        }
        Ok(Checkout::Ready { image, lease: assessed.into_lease() })
    }
}
