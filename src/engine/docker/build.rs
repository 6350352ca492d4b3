//! Building Dockerfiles, with BuildKit, and sealing the result.

use std::collections::{HashMap, HashSet};

use bollard::models::BuildInfoAux;
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion};
use futures_util::StreamExt as _;

use crate::catalog::ContextFile;
use crate::engine::{
    BuildRequest, Engine as _, EngineError, Image, ImageConfig, LayerRequest, LogSink, Result,
    label,
};

use super::DockerEngine;
use super::dockerfile;
use super::errors::{exit_code, failed, said};

impl DockerEngine {
    /// Builds a Dockerfile, writes the config of the result anew, and names it.
    pub(super) async fn build_image(
        &self,
        request: &BuildRequest,
        log: &dyn LogSink,
    ) -> Result<Image> {
        let scratch = self.build_scratch(request, log).await?;
        let sealed = LayerRequest {
            parent: scratch.clone(),
            layer: None,
            config: ImageConfig { labels: request.labels.clone(), ..scratch.config.clone() },
            tags: request.tags.clone(),
        };
        let loaded = self.load_layer(&sealed).await;
        let removed = self.remove(&scratch.id).await;
        let image = loaded?;
        removed?;
        Ok(image)
    }

    async fn build_scratch(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image> {
        let prepared = dockerfile::prepare(&request.dockerfile, &request.host);
        let context = context(&prepared, &request.context);
        let labels = HashMap::from([(label::SCRATCH, self.owner.as_str())]);
        let args: HashMap<&str, &str> =
            request.args.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let session = format!("imgforge-{:016x}", rand::random::<u64>());
        let mut options = BuildImageOptionsBuilder::new()
            .version(BuilderVersion::BuilderBuildKit)
            .session(&session)
            .dockerfile("Dockerfile")
            .platform(&request.platform)
            .labels(&labels)
            .buildargs(&args)
            .rm(true)
            .forcerm(true);
        if let Some(network) = &request.host.network {
            options = options.networkmode(network);
        }
        let body = bollard::body_full(context.into());
        let mut answers = self.docker.build_image(options.build(), None, Some(body));
        let mut output = Output { log, named: HashSet::new(), step: String::new() };
        let mut id = None;
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(bollard::errors::Error::DockerStreamError { error }) => {
                    return Err(output.failure(&error));
                }
                Err(error) => return Err(failed("build a Dockerfile", error)),
            };
            if let Some(message) = answer.error_detail.and_then(|detail| detail.message) {
                return Err(output.failure(&message));
            }
            if let Some(text) = &answer.stream {
                log.write(text.as_bytes());
            }
            match answer.aux {
                Some(BuildInfoAux::BuildKit(status)) => output.status(&status),
                Some(BuildInfoAux::Default(image)) => id = image.id.or(id),
                None => {}
            }
        }
        let id = id.ok_or_else(|| EngineError::Transient {
            action: "build a Dockerfile".to_owned(),
            source: "the build ended without an image".into(),
        })?;
        let image = self.inspect(&id).await?;
        image.ok_or(EngineError::NoSuchImage { reference: id })
    }
}

/// Writes BuildKit's progress as text.
struct Output<'a> {
    log: &'a dyn LogSink,
    named: HashSet<String>,
    step: String,
}

impl Output<'_> {
    fn status(&mut self, status: &bollard::moby::buildkit::v1::StatusResponse) {
        for vertex in &status.vertexes {
            if vertex.started.is_some() && self.named.insert(vertex.digest.clone()) {
                let name = readable(&vertex.name);
                self.log.write(format!("#{} {name}\n", self.named.len()).as_bytes());
                if name.contains("RUN ") {
                    self.step = name;
                }
            }
        }
        for line in &status.logs {
            self.log.write(&line.msg);
        }
    }

    fn failure(&self, message: &str) -> EngineError {
        if let Some(code) = exit_code(message) {
            return EngineError::Step { step: self.step.clone(), code };
        }
        let absent =
            ["pull access denied", "not found: does not exist", "failed to resolve source"];
        if absent.iter().any(|words| message.contains(words))
            && let Some(reference) = named_image(message)
        {
            return EngineError::NoSuchImage { reference };
        }
        said("build a Dockerfile", message)
    }
}

/// Finds the image in BuildKit's words: `docker.io/imgforge/env:…: not found` and the like.
fn named_image(message: &str) -> Option<String> {
    message.split_whitespace().find_map(|word| {
        let word = word.trim_matches(|c: char| ":,\"'`".contains(c));
        let image = word
            .strip_prefix("docker.io/")
            .map_or(word, |image| image.strip_prefix("library/").unwrap_or(image));
        (word.contains('/') && image.contains(':')).then(|| image.to_owned())
    })
}

/// Shows a step without what was added to it.
fn readable(name: &str) -> String {
    let Some((before, after)) = name.split_once("RUN ") else { return name.to_owned() };
    let command = after.split_once("[\"/bin/sh\",\"/mnt/step\",").map_or(after, |(_, rest)| rest);
    let command = command.strip_suffix(']').unwrap_or(command);
    let words: Vec<String> =
        serde_json::from_str(&format!("[{command}]")).unwrap_or_else(|_| vec![command.to_owned()]);
    let shown = match words.as_slice() {
        [shell, flag, script] if shell.ends_with("sh") && flag == "-c" => script.clone(),
        words => words.join(" "),
    };
    let shown = shown.lines().next().unwrap_or("").to_owned()
        + if shown.lines().count() > 1 { " …" } else { "" };
    format!("{before}RUN {shown}")
}

/// Makes the context: files in a fixed order, with a constant time and owner.
fn context(prepared: &dockerfile::Prepared, files: &[ContextFile]) -> Vec<u8> {
    const FILE_TIME: u64 = 1_577_836_800;
    let mut archive = tar::Builder::new(Vec::new());
    let dockerfile = ContextFile {
        path: "Dockerfile".to_owned(),
        executable: false,
        bytes: prepared.dockerfile.clone().into_bytes(),
    };
    let mut directories = HashSet::new();
    for file in std::iter::once(&dockerfile).chain(&prepared.files).chain(files) {
        // Directories are named, or the engine gives them the time of the build.
        for (at, _) in file.path.match_indices('/') {
            let directory = &file.path[..=at];
            if directories.insert(directory.to_owned()) {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_mtime(FILE_TIME);
                header.set_size(0);
                archive
                    .append_data(&mut header, directory, std::io::empty())
                    .expect("a vector takes every byte");
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(if file.executable { 0o755 } else { 0o644 });
        header.set_mtime(FILE_TIME);
        header.set_size(file.bytes.len() as u64);
        archive
            .append_data(&mut header, &file.path, file.bytes.as_slice())
            .expect("a vector takes every byte");
    }
    archive.into_inner().expect("a vector takes every byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_shown_as_they_were_written() {
        let name = "[stage-1 2/3] RUN --mount=type=bind,from=imgforge-host,target=/mnt [\"/bin/sh\",\"/mnt/step\",\"/bin/sh\",\"-c\",\"apt-get update\"]";
        assert_eq!(readable(name), "[stage-1 2/3] RUN apt-get update");
        assert_eq!(readable("[internal] load context"), "[internal] load context");
    }

    #[test]
    fn a_missing_parent_is_named() {
        let message = "docker.io/imgforge/env:abc: not found: does not exist";
        assert_eq!(named_image(message).as_deref(), Some("imgforge/env:abc"));
    }
}
