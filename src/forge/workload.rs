//! The workload of a forge: chosen instances with their engine, sources of images and catalog, from which
//! plans are made.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;

use crate::cache::check::Checker;
use crate::cache::image_source::ImageSource;
use crate::cache::registry::RegistryCache;
use crate::catalog::Catalog;
use crate::dataset::{Instance, Refused};
use crate::engine::{Engine, EngineInfo};
use crate::exec::Interrupt;
use crate::key::Kind;
use crate::plan::{EvaluateOptions, Plan, PlanOptions, Planner, Work};
use crate::platform::Platform;
use crate::run::shards::ShardSettings;
use crate::source::Mirrors;
use crate::store::Store;

use super::open::engine_identity;
use super::predictions::Submission;
use super::{Error, Notices, Password, SourceOptions, keys, registries};

/// Instances with their predictions, and all that plans of them are made from.
pub struct Workload {
    /// The catalog, read once for all plans.
    pub(super) catalog: Catalog,
    /// The engine, when one answers.
    pub engine: Option<(Arc<dyn Engine>, EngineInfo)>,
    /// The state directory, open.
    pub store: Arc<Store>,
    /// The mirrors of repositories.
    pub mirrors: Arc<Mirrors>,
    /// The number of nodes that run at once, at least 1.
    pub workers: usize,
    /// The path of the dataset, or its id on the hub.
    pub dataset: String,
    /// The chosen instances.
    pub instances: Vec<Arc<Instance>>,
    /// The chosen instances, each with a prediction or without; those of the shard.
    pub work: Vec<Work>,
    /// Which part of the work that is; `None` where it is all of it.
    pub shard: Option<ShardSettings>,
    /// The chosen instances that are left out, and why.
    pub refused: Vec<Refused>,
    /// The predictions as they were submitted, those for other instances included.
    pub(super) submission: Submission,
    /// The platform of all images, such as `linux/amd64`.
    pub platform: Platform,
    /// What runs it, where that is not the engine's own.
    pub(super) emulator: Option<String>,
    /// The registry namespace of published images; `None` builds everything.
    pub namespace: Option<String>,
    /// Whether their names follow from it even where rows name their own.
    pub(super) derive_images: bool,
    /// Their tag, where that is not `latest`.
    pub(super) image_tag: Option<String>,
    /// Where images come from that are not built here.
    pub(super) remote: Option<Arc<dyn ImageSource>>,
    /// Whether that was named for this very command.
    pub(super) remote_required: bool,
    /// Whether what cannot be had from there is built.
    pub(super) fallback_to_build: bool,
    /// The registry that gets the images which are built here.
    pub(super) push_to: Option<RegistryCache>,
    /// The identities of the `FROM` images, by their references.
    pub(super) base_identities: BTreeMap<String, String>,
    pub(super) notices: Notices,
    pub(super) interrupts: Arc<dyn Fn() -> Interrupt + Send + Sync>,
    pub(super) output_dir: PathBuf,
    pub(super) sources: SourceOptions,
    pub(super) password: Arc<Password>,
    /// The records that answer for the package index; the network does where there are none.
    pub(super) package_index: Option<PathBuf>,
    /// How long the `FROM` images took, before there was a plan.
    pub(super) fetched: std::time::Duration,
    /// Where what comes from an archive is unpacked.
    pub(super) scratch: Arc<tempfile::TempDir>,
}

impl Workload {
    /// Returns the ids of the chosen instances, those included that are left out, in the order of
    /// the dataset.
    pub fn chosen(&self) -> Vec<String> {
        let good: HashSet<&str> =
            self.instances.iter().map(|one| one.instance_id.as_str()).collect();
        let mut bad =
            self.refused.iter().filter(|one| !good.contains(one.instance_id.as_str())).peekable();
        let mut ids = Vec::new();
        for (at, instance) in self.instances.iter().enumerate() {
            while let Some(one) = bad.next_if(|one| one.before <= at) {
                ids.push(one.instance_id.clone());
            }
            ids.push(instance.instance_id.clone());
        }
        ids.extend(bad.map(|one| one.instance_id.clone()));
        ids
    }

    /// Returns the same in another engine and state, where nothing comes from elsewhere.
    pub fn in_engine(&self, engine: Arc<dyn Engine>, info: EngineInfo, store: Arc<Store>) -> Self {
        Workload {
            catalog: self.catalog.clone(),
            engine: Some((engine, info)),
            store,
            mirrors: self.mirrors.clone(),
            workers: self.workers,
            dataset: self.dataset.clone(),
            instances: self.instances.clone(),
            work: self.work.clone(),
            shard: self.shard.clone(),
            refused: self.refused.clone(),
            submission: Submission::default(),
            platform: self.platform.clone(),
            emulator: self.emulator.clone(),
            namespace: None,
            derive_images: false,
            image_tag: None,
            remote: None,
            remote_required: false,
            fallback_to_build: true,
            push_to: None,
            base_identities: self.base_identities.clone(),
            notices: self.notices.clone(),
            interrupts: self.interrupts.clone(),
            output_dir: self.output_dir.clone(),
            sources: self.sources.clone(),
            password: self.password.clone(),
            package_index: None,
            fetched: std::time::Duration::ZERO,
            scratch: self.scratch.clone(),
        }
    }

    /// Returns the engine.
    ///
    /// # Panics
    /// The workload was loaded for something that builds nothing, and no engine answered.
    pub fn engine(&self) -> (&Arc<dyn Engine>, &EngineInfo) {
        let (engine, info) =
            self.engine.as_ref().expect("what is loaded for a build has an engine");
        (engine, info)
    }

    /// Opens a registry that images are pushed to, with the keys of the options.
    ///
    /// # Errors
    /// It is no registry, or a key cannot be used.
    pub fn registry(&self, name: &str) -> Result<RegistryCache, Error> {
        let keys = keys::trusted(&self.sources, &self.catalog)?;
        let signer = keys::signer(&self.sources, &*self.password)?;
        Ok(registries::registry_cache(name, &self.platform)?.trusting(keys).signing(signer))
    }

    /// Returns the engine's name, or `none`.
    pub fn engine_name(&self) -> &str {
        self.engine.as_ref().map_or("none", |(_, info)| info.kind.name())
    }

    /// Returns what checks the engine's images.
    pub fn checker(&self) -> Result<Checker<'_>, Error> {
        let (engine, info) = self.engine();
        let known = self.store.verified_images(&engine_identity(info));
        Ok(Checker::new(&**engine, known.map_err(Error::environment)?))
    }

    /// Plans `work` up to a kind of image, and its evaluations where their options are given.
    pub fn plan(
        &self,
        work: &[Work],
        up_to: Kind,
        evaluate: Option<EvaluateOptions>,
    ) -> Result<Plan, Error> {
        let (platform, namespace) = (self.platform.clone(), self.namespace.clone());
        let (derive_images, image_tag) = (self.derive_images, self.image_tag.clone());
        let options =
            PlanOptions { platform, namespace, derive_images, image_tag, up_to, evaluate };
        let planner = Planner::new(&self.catalog, options, &self.base_identities);
        planner.plan(work).map_err(|errors| {
            let count = errors.len();
            let mut texts: Vec<String> = errors
                .iter()
                .take(10)
                .map(|error| {
                    let cause = std::error::Error::source(error);
                    cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))
                })
                .collect();
            if count > 10 {
                texts.push(format!("and {} more", count - 10));
            }
            Error::input(anyhow!("{}", texts.join("\n  "))).with_hint(Some(
                "add the version to images.toml, or to images.local.toml beside it".to_owned(),
            ))
        })
    }
}
