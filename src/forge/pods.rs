//! Where the tests of a run are run: on the engine, or as pods of a cluster.

use std::sync::Arc;

#[cfg(feature = "kubernetes")]
use anyhow::anyhow;

#[cfg(feature = "kubernetes")]
use crate::cache::registry::RegistryCache;
#[cfg(feature = "kubernetes")]
use crate::config;
use crate::engine::{Engine, EngineKind, OnEngine, SessionHost};
use crate::exec::evaluation::Elsewhere;
#[cfg(feature = "kubernetes")]
use crate::offline;
#[cfg(feature = "kubernetes")]
use crate::platform::Platform;
use crate::run_id::RunId;
#[cfg(feature = "kubernetes")]
use crate::runner::kubernetes::config::Settings;
#[cfg(feature = "kubernetes")]
use crate::runner::kubernetes::doctor::{Finding, IMAGES, Trouble};
#[cfg(feature = "kubernetes")]
use crate::runner::kubernetes::{self, Cluster, ClusterError, Opening};

#[cfg(feature = "kubernetes")]
use super::load::named_platform;
use super::open::engine_error;
#[cfg(feature = "kubernetes")]
use super::open::engine_identity;
use super::workload::Workload;
use super::{Error, ForgeOptions, LoadOptions, SourceOptions};
#[cfg(feature = "kubernetes")]
use super::{keys, registries};

/// How many pods are there at once where nobody says so.
#[cfg(feature = "kubernetes")]
const PODS: usize = 32;

/// Where the tests of a run are run.
#[derive(Debug, Clone, Default)]
pub enum RunnerChoice {
    /// On the engine.
    #[default]
    Local,
    /// As pods of a Kubernetes cluster.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Box<Settings>),
}

impl RunnerChoice {
    /// Tells whether tests and sessions are run as pods.
    pub fn in_pods(&self) -> bool {
        !matches!(self, RunnerChoice::Local)
    }

    /// Removes what dead runs left in the cluster, and what a run of that name has there; returns it.
    /// `None` where no cluster is meant.
    ///
    /// # Errors
    /// Exit code 3: the cluster does not answer, or does not let us.
    #[cfg_attr(not(feature = "kubernetes"), expect(unused_variables, reason = "no pods"))]
    pub async fn clean(&self, run_id: Option<&str>) -> Result<Option<Vec<String>>, Error> {
        match self {
            RunnerChoice::Local => Ok(None),
            #[cfg(feature = "kubernetes")]
            RunnerChoice::Kubernetes(settings) => {
                let removed = kubernetes::clean(settings, run_id).await;
                removed.map(Some).map_err(cluster_error)
            }
        }
    }

    /// Looks at the cluster, see [`kubernetes::doctor::look`], and tries a pod from the registry that pods
    /// get their images from, see [`kubernetes::trial::look`]. Empty where no cluster is meant.
    #[cfg(feature = "kubernetes")]
    pub async fn look(&self, forge: &ForgeOptions, sources: &SourceOptions) -> Vec<Finding> {
        let RunnerChoice::Kubernetes(settings) = self else { return Vec::new() };
        let mut findings = kubernetes::doctor::look(settings).await;
        let is_usable = !findings.iter().any(Finding::is_fatal);
        match registry_and_platform(forge, sources) {
            Ok((name, registry, platform)) => {
                // Offline no registry is asked what it has.
                let tried = match is_usable && !offline::is_on() {
                    true => kubernetes::trial::look(settings, &registry, &platform).await,
                    false => Vec::new(),
                };
                if tried.iter().all(|found| found.name != IMAGES) {
                    findings.push(Finding { name: IMAGES, detail: name, trouble: None });
                }
                findings.extend(tried);
            }
            Err(error) => findings.push(Finding {
                name: IMAGES,
                detail: error.to_string(),
                trouble: Some(Trouble {
                    is_fatal: true,
                    fix: error.hint().unwrap_or_default().to_owned(),
                }),
            }),
        }
        findings
    }

    /// Returns what is loaded for a run of that kind, before anything is asked for.
    ///
    /// # Errors
    /// Exit code 2: pods need a registry.
    #[cfg_attr(not(feature = "kubernetes"), expect(unused_variables, reason = "no pods"))]
    pub(super) fn load(
        &self,
        forge: &ForgeOptions,
        load: &LoadOptions,
    ) -> Result<LoadOptions, Error> {
        match self {
            RunnerChoice::Local => Ok(load.clone()),
            #[cfg(feature = "kubernetes")]
            RunnerChoice::Kubernetes(_) => {
                let catalog = forge.catalog()?;
                registry_of(&load.sources, &catalog)?;
                let workers = load.workers.or(catalog.defaults().max_workers);
                Ok(LoadOptions { workers: Some(workers.unwrap_or(PODS)), ..load.clone() })
            }
        }
    }

    /// Opens what starts sessions: the engine, or the cluster, under the name of a run. What a person is
    /// told goes to `told`.
    ///
    /// # Errors
    /// Exit code 2 where pods have no registry; 3 where engine or cluster do not answer, or do not let us.
    #[cfg_attr(not(feature = "kubernetes"), expect(unused_variables, reason = "no pods"))]
    pub async fn sessions(
        &self,
        forge: &ForgeOptions,
        sources: &SourceOptions,
        run_id: &str,
        told: &(dyn Fn(String) + Sync),
    ) -> Result<Sessions, Error> {
        match self {
            RunnerChoice::Local => {
                let engine = forge.connect().await.map_err(engine_error)?;
                let kind = engine.info().await.map_err(engine_error)?.kind;
                Ok(Sessions::on(engine, kind))
            }
            #[cfg(feature = "kubernetes")]
            RunnerChoice::Kubernetes(settings) => {
                let catalog = forge.catalog()?;
                let registry = registry_of(sources, &catalog)?;
                let opened = forge.open().await?;
                let registry = registries::registry_cache(&registry, &opened.info.platform)?
                    .trusting(keys::trusted(sources, &catalog)?)
                    .signing(keys::signer(sources, &*forge.password)?);
                let opening = Opening {
                    run_id,
                    platform: &opened.info.platform,
                    registry,
                    engine: opened.engine.clone(),
                    store: opened.store,
                    engine_identity: opened.identity,
                };
                let cluster = Cluster::open((**settings).clone(), opening, told);
                let cluster = Arc::new(cluster.await.map_err(cluster_error)?);
                told(format!("runner: {}", cluster.describe()));
                Ok(Sessions {
                    host: cluster.clone(),
                    kind: EngineKind::Kubernetes,
                    engine: opened.engine,
                    cluster: Some(cluster),
                })
            }
        }
    }

    /// Opens the cluster; `None` where the engine runs the tests.
    ///
    /// # Errors
    /// Exit code 2 for images that pods cannot have; 3 where the cluster does not answer, or does not let
    /// us.
    #[cfg_attr(not(feature = "kubernetes"), expect(unused_variables, reason = "no pods"))]
    pub(super) async fn open(
        &self,
        workload: &Workload,
        load: &LoadOptions,
        run_id: &RunId,
    ) -> Result<Opened, Error> {
        match self {
            RunnerChoice::Local => Ok(Opened::default()),
            #[cfg(feature = "kubernetes")]
            RunnerChoice::Kubernetes(settings) => {
                if let Some(namespace) = &workload.namespace {
                    let error = anyhow!(
                        "pods run images that are built here, and `--namespace {namespace}` asks for \
                         published ones"
                    );
                    return Err(Error::input(error).with_hint(Some(
                        "leave --namespace out, or use --runner local".to_owned(),
                    )));
                }
                let (engine, info) = workload.engine();
                let registry =
                    workload.registry(&registry_of(&load.sources, &workload.catalog)?)?;
                let text = run_id.to_string();
                let opening = Opening {
                    run_id: &text,
                    platform: &workload.platform,
                    registry,
                    engine: engine.clone(),
                    store: workload.store.clone(),
                    engine_identity: engine_identity(info),
                };
                let told = |text| workload.notices.remark(text);
                let cluster = Cluster::open((**settings).clone(), opening, told);
                let cluster = Arc::new(cluster.await.map_err(cluster_error)?);
                workload.notices.remark(format!("runner: {}", cluster.describe()));
                workload.notices.advise(
                    "pods do not bound the processes and files of tests: the podPidsLimit of the \
                     kubelet and the disk limit do",
                );
                Ok(Opened { cluster: Some(cluster), builds: config::default_workers(info.cpus) })
            }
        }
    }
}

/// What starts sessions.
#[derive(Clone)]
pub struct Sessions {
    /// What starts them.
    pub host: Arc<dyn SessionHost>,
    /// What they are.
    pub kind: EngineKind,
    /// The engine that has the images.
    pub engine: Arc<dyn Engine>,
    #[cfg(feature = "kubernetes")]
    cluster: Option<Arc<Cluster>>,
}

impl Sessions {
    fn on(engine: Arc<dyn Engine>, kind: EngineKind) -> Sessions {
        Sessions {
            host: Arc::new(OnEngine(engine.clone())),
            kind,
            engine,
            #[cfg(feature = "kubernetes")]
            cluster: None,
        }
    }

    /// Removes what is left of all of them in the cluster. What cannot be removed now is removed by the next
    /// run there.
    pub async fn end(&self) {
        #[cfg(feature = "kubernetes")]
        if let Some(cluster) = &self.cluster {
            let _ = cluster.end().await;
        }
    }
}

/// What runs tests elsewhere, open.
#[derive(Default)]
pub(super) struct Opened {
    #[cfg(feature = "kubernetes")]
    cluster: Option<Arc<Cluster>>,
    #[cfg(feature = "kubernetes")]
    builds: usize,
}

impl Opened {
    /// Returns it as evaluations take it.
    pub(super) fn elsewhere(&self) -> Option<Elsewhere> {
        #[cfg(feature = "kubernetes")]
        if let Some(cluster) = &self.cluster {
            return Some(Elsewhere { runner: cluster.clone(), builds: self.builds });
        }
        None
    }

    /// Removes what is left of the run there; that it could not is a warning.
    #[cfg_attr(not(feature = "kubernetes"), expect(unused_variables, reason = "no pods"))]
    pub(super) async fn end(&self, workload: &Workload) {
        #[cfg(feature = "kubernetes")]
        if let Some(cluster) = &self.cluster {
            match cluster.end().await {
                Ok(kept) if kept.is_empty() => {}
                Ok(kept) => workload.notices.remark(format!(
                    "kept: {}; `imgforge clean --runner kubernetes --run-id {}` removes them",
                    kept.join(", "),
                    cluster.run_id(),
                )),
                Err(error) => {
                    let text = format!("the next run removes what this one left: {error}");
                    workload.notices.warn(text);
                }
            }
        }
    }
}

/// Opens the registry that pods get their images from; returns with it its name, and the platform of the
/// images.
#[cfg(feature = "kubernetes")]
fn registry_and_platform(
    forge: &ForgeOptions,
    sources: &SourceOptions,
) -> Result<(String, RegistryCache, Platform), Error> {
    let catalog = forge.catalog()?;
    let name = registry_of(sources, &catalog)?;
    let platform = named_platform(sources, catalog.defaults())?.unwrap_or_else(Platform::host);
    let registry = registries::registry_cache(&name, &platform)?;
    let registry = registry.trusting(keys::trusted(sources, &catalog)?);
    Ok((name, registry, platform))
}

/// Returns the registry that pods get their images from.
#[cfg(feature = "kubernetes")]
fn registry_of(
    sources: &SourceOptions,
    catalog: &crate::catalog::Catalog,
) -> Result<String, Error> {
    let named = sources.cache_registry.as_ref().or(catalog.cache().registry.as_ref());
    named.filter(|name| !name.is_empty()).cloned().ok_or_else(|| {
        let error = anyhow!("pods get their images from a registry, and none is named");
        Error::input(error).with_hint(Some(
            "give --cache-registry with one that this machine may push to and the cluster pulls from"
                .to_owned(),
        ))
    })
}

#[cfg(feature = "kubernetes")]
fn cluster_error(error: ClusterError) -> Error {
    let hint = error.hint();
    Error::environment(error).with_hint(Some(hint))
}
