//! `build`: an image of a Dockerfile, as clients without BuildKit ask for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::dockerfile::external_images;
use crate::engine::{AsDocker, BuildRequest, EngineError, HostAccess, Image, LogSink};
use crate::platform::Platform;

use super::answer::{Answer, Refusal, streamed};
use super::build_context;
use super::call::Call;
use super::id::new_id;
use super::images::reference_of;
use super::server::Server;
use super::told::{Failure, Told};

/// What BuildKit calls itself as a builder.
const BUILD_KIT: &str = "2";

/// How the names begin of images that nobody named.
const UNNAMED: &str = "imgforge/build:";

/// Parameters that nothing comes of.
const NOT_GIVEN: [&str; 9] = [
    "memory",
    "memswap",
    "cpushares",
    "cpusetcpus",
    "cpuperiod",
    "cpuquota",
    "shmsize",
    "squash",
    "extrahosts",
];

/// Gives what a build says to a client, whole lines at a time.
struct Lines {
    sender: mpsc::UnboundedSender<Value>,
    is_quiet: bool,
    rest: Mutex<Vec<u8>>,
}

impl Lines {
    fn send(&self, bytes: &[u8]) {
        if !self.is_quiet && !bytes.is_empty() {
            // A client that has left is told nothing.
            let text = String::from_utf8_lossy(bytes);
            let _ = self.sender.send(json!({ "stream": text }));
        }
    }

    /// Gives what has no end of a line.
    fn finish(&self) {
        let rest = std::mem::take(&mut *self.rest.lock().unwrap_or_else(PoisonError::into_inner));
        self.send(&rest);
    }
}

impl LogSink for Lines {
    fn write(&self, bytes: &[u8]) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.extend_from_slice(bytes);
        if let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') {
            let whole: Vec<u8> = rest.drain(..=end).collect();
            drop(rest);
            self.send(&whole);
        }
    }
}

/// Builds an image. What is wrong with the request is refused before anything is told.
pub(super) async fn build(server: &Arc<Server>, call: &mut Call) -> Answer {
    if call.parameter("version") == Some(BUILD_KIT) {
        return Err(Refusal::unserved("BuildKit is not served: set DOCKER_BUILDKIT=0"));
    }
    if let Some(remote) = call.parameter("remote") {
        return Err(Refusal::unserved(format!(
            "`remote={remote}` is not fetched: a build takes its files from the request"
        )));
    }
    let mut request = request(server, call)?;
    let name = call.parameter("dockerfile").unwrap_or("Dockerfile").to_owned();
    let is_quiet = call.is_set("q");
    let pulls = call.is_set("pull");
    let lacks: Vec<&str> = NOT_GIVEN.into_iter().filter(|name| call.is_set(name)).collect();
    let lacks: Vec<String> =
        lacks.into_iter().map(|name| format!("`{name}` is not given to a build")).collect();
    server.settings.check(&lacks)?;
    let context = build_context::receive(call, &server.settings.scratch_dir).await?;
    request.dockerfile = build_context::dockerfile(context.path(), &name)?;
    build_context::forget_ignored(context.path(), &name)?;
    if let Some(docker) = &mut request.as_docker {
        context.path().clone_into(&mut docker.context);
    }
    let (sender, lines) = mpsc::unbounded_channel();
    let log = Lines { sender, is_quiet, rest: Mutex::default() };
    for lack in lacks {
        log.send(format!(" ---> [Warning] {lack}\n").as_bytes());
    }
    let server = server.clone();
    let work = tokio::spawn(async move {
        let built = run(&server, &request, pulls, &log).await;
        log.finish();
        tell(&log, &request, built, context)
    });
    Ok(streamed("application/json", Told { lines, work, first: None }.stream()))
}

/// Reads what is asked for, but for the Dockerfile and its context.
fn request(server: &Server, call: &Call) -> Result<BuildRequest, Refusal> {
    let map = |name: &str| -> Result<BTreeMap<String, Option<String>>, Refusal> {
        let Some(text) = call.parameter(name) else { return Ok(BTreeMap::new()) };
        serde_json::from_str::<Option<_>>(text)
            .map(Option::unwrap_or_default)
            .map_err(|error| Refusal::bad(format!("invalid {name}: {error}")))
    };
    let set = |map: BTreeMap<String, Option<String>>| {
        map.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    };
    let mut tags: Vec<String> = call.all("t").map(str::to_owned).collect();
    for tag in &tags {
        reference_of(tag)?;
    }
    if tags.is_empty() {
        // An image without a name is collected.
        tags.push(format!("{UNNAMED}{}", &new_id()[..12]));
    }
    let platform = match call.parameter("platform") {
        Some(text) => text
            .parse::<Platform>()
            .map_err(|_| Refusal::bad(format!("invalid platform: {text}")))?,
        None => server.info.platform.clone(),
    };
    let mut host: HostAccess = server.settings.host.clone();
    if call.parameter("networkmode") == Some("none") {
        host.network = Some("none".to_owned());
    }
    Ok(BuildRequest {
        dockerfile: String::new(),
        context: Vec::new(),
        args: set(map("buildargs")?),
        platform,
        labels: set(map("labels")?),
        tags,
        host,
        no_cache: call.is_set("nocache"),
        as_docker: Some(AsDocker {
            context: std::path::PathBuf::new(),
            target: call.parameter("target").map(str::to_owned),
        }),
    })
}

/// Pulls what the Dockerfile stands on and is not here, and builds it.
async fn run(
    server: &Server,
    request: &BuildRequest,
    pulls: bool,
    log: &Lines,
) -> Result<Image, EngineError> {
    for reference in external_images(&request.dockerfile, &request.args) {
        if !pulls && server.engine.inspect(&reference).await?.is_some() {
            continue;
        }
        // What is no name is for the builder to say.
        if let Ok(name) = reference.parse() {
            server.engine.pull(&name, &request.platform, log).await?;
        }
    }
    server.engine.build(request, log).await
}

/// Says a step as Docker does: what it runs.
fn in_words(step: &str) -> String {
    let (word, command) = step.split_once(char::is_whitespace).unwrap_or((step, ""));
    let command = command.trim();
    match word.eq_ignore_ascii_case("RUN") && !command.starts_with('[') {
        true => format!("/bin/sh -c {command}"),
        false => command.to_owned(),
    }
}

/// Tells how a build ended; the context goes with it.
fn tell(
    log: &Lines,
    request: &BuildRequest,
    built: Result<Image, EngineError>,
    _context: TempDir,
) -> Result<(), Failure> {
    let image = built.map_err(|error| match &error {
        EngineError::Step { step, code } => Failure {
            message: format!("The command '{}' returned a non-zero code: {code}", in_words(step)),
            code: Some(*code),
        },
        error => Failure::of(error),
    })?;
    let id = image.id.to_string();
    let digits = id.trim_start_matches("sha256:");
    if log.is_quiet {
        let _ = log.sender.send(json!({ "stream": format!("{id}\n") }));
        return Ok(());
    }
    let _ = log.sender.send(json!({ "aux": { "ID": id } }));
    log.send(format!("Successfully built {}\n", &digits[..12.min(digits.len())]).as_bytes());
    for tag in request.tags.iter().filter(|tag| !tag.starts_with(UNNAMED)) {
        let (repository, tag) = crate::engine::reference::split_tag(tag);
        let tag = if tag.is_empty() { "latest" } else { tag };
        log.send(format!("Successfully tagged {repository}:{tag}\n").as_bytes());
    }
    Ok(())
}
