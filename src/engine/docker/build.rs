//! Building Dockerfiles, with BuildKit, and sealing the result.

use std::collections::{HashMap, HashSet};

use bollard::models::BuildInfoAux;
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion};
use futures_util::StreamExt as _;

use crate::dockerfile::external_images;
use crate::engine::step_mounts::FILE_TIME;
use crate::engine::{
    BuildRequest, EngineError, Image, ImageConfig, LayerRequest, LogSink, Result, check_platform,
};

use super::DockerEngine;
use super::dockerfile::{self, Prepared, USER};
use super::errors::failed;
use super::output::Output;

const ACTION: &str = "build a Dockerfile";

impl DockerEngine {
    /// Builds a Dockerfile, writes the config of the result anew, and names it.
    pub(super) async fn build_image(
        &self,
        request: &BuildRequest,
        log: &dyn LogSink,
    ) -> Result<Image> {
        let parents = self.parents(request).await?;
        // The shell form of a step on one image runs in that image's own shell.
        let shell = match parents.as_slice() {
            [parent] => parent.config.shell.as_slice(),
            _ => &[],
        };
        let scratch = match self.build_scratch(request, shell, log).await {
            Ok(scratch) => scratch,
            Err(error @ (EngineError::Step { .. } | EngineError::NoSpace { .. })) => {
                return Err(error);
            }
            Err(error) => {
                // The engine words it in many ways when a parent went away meanwhile.
                self.parents(request).await?;
                return Err(error);
            }
        };
        if let Err(error) =
            check_platform(scratch.id.as_str(), &scratch.platform, &request.platform)
        {
            self.remove_image(scratch.id.as_str()).await?;
            return Err(error);
        }
        let sealed = LayerRequest {
            parent: scratch.clone(),
            layers: Vec::new(),
            config: ImageConfig { labels: request.labels.clone(), ..scratch.config.clone() },
            tags: request.tags.clone(),
        };
        let loaded = self.load_layer(&sealed).await;
        let removed = self.remove_image(scratch.id.as_str()).await;
        let image = loaded?;
        removed?;
        Ok(image)
    }

    /// Looks at the images that the Dockerfile stands on: a build pulls nothing.
    async fn parents(&self, request: &BuildRequest) -> Result<Vec<Image>> {
        let mut parents = Vec::new();
        for reference in external_images(&request.dockerfile, &request.args) {
            let Some(found) = self.inspect_image(&reference).await? else {
                return Err(EngineError::NoSuchImage { reference });
            };
            check_platform(&reference, &found.platform, &request.platform)?;
            parents.push(found);
        }
        Ok(parents)
    }

    async fn build_scratch(
        &self,
        request: &BuildRequest,
        shell: &[String],
        log: &dyn LogSink,
    ) -> Result<Image> {
        let prepared =
            dockerfile::prepare(&request.dockerfile, &request.context, &request.host, shell);
        let context = context(&prepared);
        let mut output = Output::new(log);
        // The build API has no way for secrets.
        let plain = self.facts().await?.takes_context && request.host.secrets.is_empty();
        let id = if plain {
            self.build_context(request, context, &mut output).await?
        } else {
            self.solve(request, context, &mut output).await?
        };
        let image = self.inspect_image(&id).await?;
        image.ok_or(EngineError::NoSuchImage { reference: id })
    }

    /// Sends a context to the build API and returns the id of the scratch image.
    async fn build_context(
        &self,
        request: &BuildRequest,
        context: Vec<u8>,
        output: &mut Output<'_>,
    ) -> Result<String> {
        let labels = self.scratch_labels();
        let labels: HashMap<&str, &str> =
            labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let args: HashMap<&str, &str> =
            request.args.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let session = format!("imgforge-{:016x}", rand::random::<u64>());
        let mut options = BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .platform(request.platform.as_str())
            .labels(&labels)
            .buildargs(&args)
            // Every Docker since 18.09 has it, whichever builder its command prefers.
            .version(BuilderVersion::BuilderBuildKit)
            .session(&session)
            .nocache(request.no_cache)
            .rm(true)
            .forcerm(true);
        if let Some(network) = &request.host.network {
            options = options.networkmode(network);
        }
        let body = bollard::body_full(context.into());
        let mut answers = self.docker.build_image(options.build(), None, Some(body));
        let mut id = None;
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(bollard::errors::Error::DockerStreamError { error }) => {
                    return Err(output.failure(&error));
                }
                Err(error) => return Err(failed(ACTION, error)),
            };
            if let Some(text) = &answer.stream {
                output.text(text);
            }
            match answer.aux {
                Some(BuildInfoAux::BuildKit(status)) => output.status(&status),
                Some(BuildInfoAux::Default(image)) => id = image.id.or(id),
                None => {}
            }
        }
        id.ok_or_else(|| EngineError::Transient {
            action: ACTION.to_owned(),
            source: "the build ended without an image".into(),
        })
    }
}

/// Makes the context: files in a fixed order, with a constant time and owner.
fn context(prepared: &Prepared) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(FILE_TIME);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes).expect("a vector takes every byte");
    };
    add("Dockerfile", tar::EntryType::Regular, 0o644, prepared.dockerfile.as_bytes());
    // Directories are named, or the engine gives them the time of the build.
    let user = format!("{USER}/");
    let mut directories = HashSet::from([user.as_str()]);
    add(&user, tar::EntryType::Directory, 0o755, b"");
    for file in &prepared.files {
        for (at, _) in file.path.match_indices('/') {
            let directory = &file.path[..=at];
            if directories.insert(directory) {
                add(directory, tar::EntryType::Directory, 0o755, b"");
            }
        }
        let mode = if file.executable { 0o755 } else { 0o644 };
        add(&file.path, tar::EntryType::Regular, mode, &file.bytes);
    }
    archive.into_inner().expect("a vector takes every byte")
}
