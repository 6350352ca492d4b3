//! Building Dockerfiles: each step that changes files is a layer, cached by what it is made from.
//!
//! The text is read by [`read`], and [`plan`] says what its steps mean; neither knows files. Here the
//! steps are done.

mod changes;
mod context;
mod metadata;
mod parse;
mod shell_lexer;
mod stage;
mod step;

use std::collections::BTreeMap;

use oci_spec::image::Descriptor;
use tempfile::TempDir;

use crate::engine::{
    BuildRequest, EngineError, Image, ImageConfig, LogSink, Result, check_platform, step_mounts,
};
use crate::key::{DiffId, Digest};

use super::EmbeddedEngine;
use super::layers::layers_of;
use super::layout::file_error;
pub(crate) use changes::change_config;
use context::Context;
pub(crate) use parse::stages;
use parse::stages_to;
pub(crate) use stage::images;
use stage::{Action, Origin, Stage};

const ACTION: &str = "build a Dockerfile";

/// What a stage has come to.
#[derive(Clone, Default)]
pub(crate) struct Built {
    layers: Vec<(DiffId, Descriptor)>,
    config: ImageConfig,
}

impl Built {
    fn diff_ids(&self) -> Vec<DiffId> {
        self.layers.iter().map(|(diff_id, _)| diff_id.clone()).collect()
    }
}

/// What the steps of one build share.
struct Building<'a> {
    request: &'a BuildRequest,
    log: &'a dyn LogSink,
    /// What the host gives, as files.
    host: TempDir,
    /// The files beside the Dockerfile.
    context: Context,
    /// Identifies what the host gives: a step that was done with something else is done again.
    host_inputs_digest: String,
    stages: Vec<Built>,
}

fn refused(reason: impl Into<String>) -> EngineError {
    EngineError::Refused { action: ACTION.to_owned(), reason: reason.into() }
}

impl EmbeddedEngine {
    /// Builds a Dockerfile.
    pub(super) async fn build_image(
        &self,
        request: &BuildRequest,
        log: &dyn LogSink,
    ) -> Result<Image> {
        let target = request.as_docker.as_ref().and_then(|docker| docker.target.as_deref());
        let stages = stages_to(target, &request.dockerfile, &request.args).map_err(refused)?;
        // A build pulls nothing: what it stands on is here, or the build does not begin.
        let mut parents = BTreeMap::new();
        for reference in images(&stages) {
            let stored = self.needed(&reference)?;
            check_platform(&reference, &stored.platform, &request.platform)?;
            self.unpack(&stored, log).await?;
            let built = Built { layers: layers_of(&stored), config: stored.config.clone() };
            parents.insert(reference, built);
        }
        let mut building = Building {
            request,
            log,
            host: self.directory()?,
            context: Context::of(request, || self.directory())?,
            host_inputs_digest: host_inputs_digest(request),
            stages: Vec::new(),
        };
        self.write_host(&building)?;
        let total: usize = stages.iter().map(|stage| stage.steps.len()).sum();
        let mut number = 0;
        for stage in &stages {
            let mut built = match &stage.origin {
                Origin::Scratch => Built::default(),
                Origin::Stage(index) => building.stages[*index].clone(),
                Origin::Image(reference) => parents[reference].clone(),
            };
            match request.as_docker {
                // The name of what it stands on is not inherited.
                None => built.config.labels.clear(),
                Some(_) => built.config.disown(),
            }
            number = self.do_steps(&building, stage, &mut built, &parents, number, total).await?;
            building.stages.push(built);
        }
        let Some(built) = building.stages.pop() else { return Err(refused("it has no stage")) };
        if built.layers.is_empty() && request.as_docker.is_none() {
            return Err(refused("the image would have no files"));
        }
        let mut config = built.config;
        if request.as_docker.is_none() {
            config = ImageConfig { labels: BTreeMap::new(), ..config.sealed() };
        }
        config.labels.extend(request.labels.clone());
        self.make_image(&config, &request.platform, &built.layers, &request.tags)
    }

    async fn do_steps(
        &self,
        building: &Building<'_>,
        stage: &Stage,
        built: &mut Built,
        parents: &BTreeMap<String, Built>,
        mut number: usize,
        total: usize,
    ) -> Result<usize> {
        let mut variables = stage.variables(&built.config.env);
        for (index, step) in stage.steps.iter().enumerate() {
            number += 1;
            let head = format!("Step {number}/{total} : {}\n", step.text);
            building.log.write(head.as_bytes());
            if building.request.as_docker.is_none() && step.is_metadata() {
                continue;
            }
            let at = |reason: String| refused(format!("line {}: {reason}", step.line));
            let action = step.action(&mut variables, built).map_err(at)?;
            let later = &stage.steps[index + 1..];
            match action {
                Action::Config => {}
                Action::Run(run) => {
                    self.run_step(building, built, &run, &variables, &step.text, later).await?;
                }
                Action::Copy(copy) => {
                    let from = match &copy.from {
                        None => None,
                        Some(Origin::Scratch) => {
                            return Err(at("nothing can be copied from scratch".to_owned()));
                        }
                        Some(Origin::Stage(index)) => Some(&building.stages[*index]),
                        Some(Origin::Image(reference)) => Some(&parents[reference]),
                    };
                    self.copy_step(building, built, &copy, from).await?;
                }
            }
        }
        Ok(number)
    }

    /// Makes a directory that goes with its value, and after a kill with the next clean-up.
    fn directory(&self) -> Result<TempDir> {
        use std::os::unix::fs::PermissionsExt as _;
        let containers = self.snapshots.containers();
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", self.owner))
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(&containers);
        directory.map_err(file_error(ACTION, &containers))
    }

    fn write_host(&self, building: &Building<'_>) -> Result<()> {
        for mut file in step_mounts::files(&building.request.host) {
            if file.path == "apt.conf" && self.helper_client.identity.one_owner() {
                // There is no user `_apt` to become.
                file.bytes.extend_from_slice(b"APT::Sandbox::User \"root\";\n");
            }
            write(&building.host.path().join(&file.path), &file.bytes, file.executable)?;
        }
        Ok(())
    }
}

fn write(path: &std::path::Path, bytes: &[u8], executable: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = if executable { 0o755 } else { 0o644 };
    let write = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    };
    write().map_err(file_error(ACTION, path))
}

/// Identifies what a build gets from the host.
fn host_inputs_digest(request: &BuildRequest) -> String {
    let host = &request.host;
    let bundle = host.ca_bundle.as_ref().map(Digest::of);
    Digest::of(format!("{:?} {bundle:?} {:?}", host.variables, host.network)).to_string()
}
