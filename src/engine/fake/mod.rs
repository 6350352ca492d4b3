//! An engine in memory, for tests of what stands on [`Engine`].
//!
//! Equal requests give equal images, as on a real engine: ids and layers are digests of what was
//! asked. Failures and delays are scripted by call and reference, calls are recorded in the order
//! in which they began, and time is tokio's, so a paused clock works.

mod session;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::dockerfile;
use crate::engine::reference::Reference;
use crate::engine::{
    AttachRequest, Attached, BuildRequest, Builder, EngineError, EngineInfo, EngineKind, Image,
    Images, LayerConsumer, LayerRequest, LayerStorage, ListedImage, LogSink, Pruned, PushSummary,
    Removed, Result, Runner, SandboxEnd, SandboxRequest, SandboxSession, SessionRequest,
    check_platform, label,
};
use crate::key::{DiffId, Digest, ImageId};
use crate::owner::{Judge, Liveness};
use crate::platform::Platform;
use crate::run_id::RunId;

/// The methods of [`Engine`] that can be scripted and are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// [`Engine::images`]; its reference is empty.
    Images,
    /// [`Engine::inspect`].
    Inspect,
    /// [`Engine::pull`].
    Pull,
    /// [`Engine::build`]; its reference is the first tag.
    Build,
    /// [`Engine::load`]; its reference is the first tag.
    Load,
    /// [`Engine::tag`]; its reference is the new name.
    Tag,
    /// [`Engine::remove`].
    Remove,
    /// [`Engine::push`].
    Push,
    /// [`Engine::prune`]; its reference is empty.
    Sweep,
    /// [`Engine::run`].
    Run,
    /// [`Engine::start`]; its reference is the image.
    Start,
    /// [`Engine::run_script`]; its reference is the image.
    RunScript,
}

/// One recorded call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// What it was about.
    pub reference: String,
}

type MakeError = Box<dyn Fn() -> EngineError + Send>;

struct Failure {
    method: Method,
    reference: String,
    times: usize,
    make: MakeError,
}

/// A command's scripted end.
struct Answer {
    word: String,
    output: Vec<u8>,
    code: i64,
}

/// A sandbox's scripted end.
struct SandboxAnswer {
    word: String,
    output: Vec<u8>,
    control: Vec<u8>,
    end: SandboxEnd,
}

#[derive(Default)]
struct State {
    images: BTreeMap<ImageId, Image>,
    registry: BTreeMap<String, Image>,
    calls: Vec<Call>,
    failures: Vec<Failure>,
    delays: Vec<(Method, String, Duration)>,
    answers: Vec<Answer>,
    sandboxes: Vec<SandboxAnswer>,
    in_use: HashSet<ImageId>,
    running: usize,
    peak: usize,
}

/// An engine that holds images as values.
pub struct FakeEngine {
    info: EngineInfo,
    state: Mutex<State>,
    checkpoints: session::Checkpoints,
}

impl Default for FakeEngine {
    fn default() -> Self {
        let info = EngineInfo {
            kind: EngineKind::Fake,
            version: "1.0".to_owned(),
            api_version: "1.41".to_owned(),
            platform: Platform::written("linux/amd64"),
            store: "memory".to_owned(),
            cpus: 4,
            memory: 8 << 30,
            root: None,
            limitations: Vec::new(),
        };
        FakeEngine { info, state: Mutex::default(), checkpoints: session::Checkpoints::default() }
    }
}

impl FakeEngine {
    /// Makes an engine without images.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an engine that says it has `cpus` processors.
    #[must_use]
    pub fn with_cpus(mut self, cpus: usize) -> Self {
        self.info.cpus = cpus;
        self
    }

    /// Puts an image with one layer, made from its name, on the engine.
    #[must_use]
    pub fn with_image(self, reference: &str) -> Self {
        let image = self.image_named(reference);
        self.put(image);
        self
    }

    /// Puts an image in the registry that [`Engine::pull`] reads.
    #[must_use]
    pub fn with_published(self, reference: &str) -> Self {
        let image = self.image_named(reference);
        self.lock().registry.insert(reference.to_owned(), image);
        self
    }

    /// Makes the next `times` calls of `method` for references that contain `reference` fail.
    pub fn fail(
        &self,
        method: Method,
        reference: &str,
        times: usize,
        make: impl Fn() -> EngineError + Send + 'static,
    ) {
        let reference = reference.to_owned();
        self.lock().failures.push(Failure { method, reference, times, make: Box::new(make) });
    }

    /// Makes calls of `method` for references that contain `reference` take `time`.
    pub fn delay(&self, method: Method, reference: &str, time: Duration) {
        self.lock().delays.push((method, reference.to_owned(), time));
    }

    /// Makes [`Engine::run`] end with `output` and `code` when a word of the command contains
    /// `word`. Other commands print nothing and end with 0.
    pub fn answer(&self, word: &str, output: &[u8], code: i64) {
        let answer = Answer { word: word.to_owned(), output: output.to_vec(), code };
        self.lock().answers.push(answer);
    }

    /// Makes [`Engine::run_script`] print `output`, write `control` and end so when a file or a
    /// label of the request contains `word`. Other sandboxes print nothing and exit with 0.
    pub fn sandbox(&self, word: &str, output: &[u8], control: &[u8], end: SandboxEnd) {
        let (word, output, control) = (word.to_owned(), output.to_vec(), control.to_vec());
        self.lock().sandboxes.push(SandboxAnswer { word, output, control, end });
    }

    /// Makes a container stand on an image.
    pub fn use_image(&self, id: &ImageId) {
        self.lock().in_use.insert(id.clone());
    }

    /// Puts an image on the engine under its own tags.
    pub fn put(&self, image: Image) {
        self.lock().images.insert(image.id.clone(), image);
    }

    /// Returns the recorded calls, in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Returns the references of the recorded calls of one method.
    pub fn called(&self, method: Method) -> Vec<String> {
        let calls = self.calls().into_iter();
        calls.filter(|call| call.method == method).map(|call| call.reference).collect()
    }

    /// Forgets the recorded calls.
    pub fn forget_calls(&self) {
        self.lock().calls.clear();
    }

    /// Returns how many builds, loads, pulls and runs were under way at once, at most.
    pub fn peak(&self) -> usize {
        self.lock().peak
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn image_named(&self, reference: &str) -> Image {
        Image {
            id: Digest::of(format!("image {reference}")).into(),
            tags: vec![reference.to_owned()],
            diff_ids: vec![Digest::of(format!("layer {reference}")).into()],
            platform: self.info.platform.clone(),
            size: 1 << 20,
            ..Image::default()
        }
    }

    /// Records a call, lets its time pass and makes it fail when it is to.
    async fn enter(&self, method: Method, reference: &str) -> Result<Running<'_>> {
        let works = matches!(
            method,
            Method::Build | Method::Load | Method::Pull | Method::Run | Method::RunScript
        );
        let (running, time) = {
            let mut state = self.lock();
            state.calls.push(Call { method, reference: reference.to_owned() });
            if works {
                state.running += 1;
                state.peak = state.peak.max(state.running);
            }
            let meant = state
                .delays
                .iter()
                .find(|(of, part, _)| *of == method && reference.contains(part.as_str()));
            (Running { engine: self, works }, meant.map(|(_, _, time)| *time))
        };
        if let Some(time) = time {
            tokio::time::sleep(time).await;
        }
        let mut state = self.lock();
        let failure = state.failures.iter_mut().find(|failure| {
            failure.times > 0 && failure.method == method && reference.contains(&failure.reference)
        });
        match failure {
            Some(failure) => {
                failure.times -= 1;
                let error = (failure.make)();
                drop(state);
                drop(running);
                Err(error)
            }
            None => Ok(running),
        }
    }

    fn find(&self, reference: &str) -> Option<Image> {
        let state = self.lock();
        let named = |image: &&Image| {
            image.id == *reference || image.tags.iter().any(|tag| tag == reference)
        };
        state.images.values().find(named).cloned()
    }

    /// Adds an image and moves its tags from whatever had them.
    fn add(&self, mut image: Image) -> Image {
        let mut state = self.lock();
        for other in state.images.values_mut() {
            other.tags.retain(|tag| !image.tags.contains(tag));
        }
        if let Some(known) = state.images.get(&image.id) {
            let kept = known.tags.iter().filter(|tag| !image.tags.contains(tag)).cloned();
            let kept: Vec<String> = kept.collect();
            image.tags.extend(kept);
        }
        state.images.insert(image.id.clone(), image.clone());
        image
    }
}

/// Counts a call as under way until it is dropped, also when its future is.
struct Running<'a> {
    engine: &'a FakeEngine,
    works: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.works {
            self.engine.lock().running -= 1;
        }
    }
}

fn first(tags: &[String]) -> String {
    tags.first().cloned().unwrap_or_default()
}

#[async_trait]
impl Images for FakeEngine {
    async fn images(&self) -> Result<Vec<ListedImage>> {
        let _running = self.enter(Method::Images, "").await?;
        let listed = |image: &Image| ListedImage {
            id: image.id.clone(),
            tags: image.tags.clone(),
            labels: image.config.labels.clone(),
            size: image.size,
        };
        Ok(self.lock().images.values().map(listed).collect())
    }

    async fn inspect(&self, reference: &str) -> Result<Option<Image>> {
        let _running = self.enter(Method::Inspect, reference).await?;
        Ok(self.find(reference))
    }

    async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Image> {
        let _running = self.enter(Method::Pull, reference.as_str()).await?;
        let published = self.lock().registry.get(reference.as_str()).cloned();
        let image = published.ok_or_else(|| EngineError::Pull {
            reference: reference.to_string(),
            reason: "manifest unknown".to_owned(),
        })?;
        check_platform(reference.as_str(), &image.platform, platform)?;
        log.write(format!("pulled {reference}\n").as_bytes());
        Ok(self.add(image))
    }

    async fn push(
        &self,
        reference: &Reference,
        _: &[String],
        log: &dyn LogSink,
    ) -> Result<PushSummary> {
        let _running = self.enter(Method::Push, reference.as_str()).await?;
        let missing = || EngineError::NoSuchImage { reference: reference.to_string() };
        let image = self.find(reference.as_str()).ok_or_else(missing)?;
        log.write(format!("pushed {reference}\n").as_bytes());
        let sent = PushSummary { layers: Some(image.diff_ids.clone()) };
        self.lock().registry.insert(reference.to_string(), image);
        Ok(sent)
    }

    async fn tag(&self, image: &str, name: &Reference) -> Result<()> {
        let _running = self.enter(Method::Tag, name.as_str()).await?;
        let missing = || EngineError::NoSuchImage { reference: image.to_owned() };
        let found = self.find(image).ok_or_else(missing)?;
        self.add(Image { tags: vec![name.to_string()], ..found });
        Ok(())
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        let _running = self.enter(Method::Remove, reference).await?;
        let mut state = self.lock();
        state.images.remove(reference);
        state.images.retain(|_, image| {
            let before = image.tags.len();
            image.tags.retain(|tag| tag != reference);
            image.tags.len() == before || !image.tags.is_empty()
        });
        Ok(())
    }
}

#[async_trait]
impl Builder for FakeEngine {
    async fn build(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image> {
        let _running = self.enter(Method::Build, &first(&request.tags)).await?;
        let mut image = Image::default();
        for reference in dockerfile::external_images(&request.dockerfile, &request.args) {
            match self.find(&reference) {
                Some(parent) => {
                    check_platform(&reference, &parent.platform, &request.platform)?;
                    image = parent;
                }
                None => return Err(EngineError::NoSuchImage { reference }),
            }
        }
        if request.no_cache {
            log.write(b"#0 without the cache\n");
        }
        for (number, line) in request.dockerfile.lines().enumerate() {
            log.write(format!("#{} {line}\n", number + 1).as_bytes());
        }
        let files: Vec<_> = request
            .context
            .iter()
            .map(|file| (&file.path, file.executable, Digest::of(&file.bytes)))
            .collect();
        let asked = json!([request.dockerfile, files, request.args, request.platform]);
        image.diff_ids.push(Digest::of(asked.to_string()).into());
        image.platform.clone_from(&request.platform);
        image.config.labels.clone_from(&request.labels);
        image.tags.clone_from(&request.tags);
        image.size += 1 << 20;
        image.id = id_of(&image).into();
        Ok(self.add(image))
    }

    async fn load(&self, request: &LayerRequest) -> Result<Image> {
        let _running = self.enter(Method::Load, &first(&request.tags)).await?;
        let stands = !request.parent.diff_ids.is_empty();
        if stands && self.find(request.parent.id.as_str()).is_none() {
            let parent = &request.parent;
            let reference = parent.name().to_owned();
            return Err(EngineError::NoSuchImage { reference });
        }
        let mut image = request.parent.clone();
        for layer in &request.layers {
            if let Err(source) = std::fs::metadata(&layer.path) {
                return Err(EngineError::File { path: layer.path.clone(), source });
            }
            image.diff_ids.push(layer.diff_id.into());
            image.size += layer.size;
        }
        image.config.clone_from(&request.config);
        image.tags.clone_from(&request.tags);
        image.repo_digests.clear();
        image.id = id_of(&image).into();
        Ok(self.add(image))
    }

    async fn run(&self, reference: &str, command: &[String], log: &dyn LogSink) -> Result<i64> {
        let _running = self.enter(Method::Run, reference).await?;
        if self.find(reference).is_none() {
            return Err(EngineError::NoSuchImage { reference: reference.to_owned() });
        }
        let state = self.lock();
        let meant = |answer: &&Answer| command.iter().any(|word| word.contains(&answer.word));
        let Some(answer) = state.answers.iter().find(meant) else { return Ok(0) };
        log.write(&answer.output);
        Ok(answer.code)
    }
}

#[async_trait]
impl LayerStorage for FakeEngine {
    async fn read_layers(&self, _: &[Image], _: Arc<dyn LayerConsumer>) -> Result<()> {
        Err(EngineError::Unsupported {
            engine: EngineKind::Fake,
            action: "read layers",
            why: "they are names only",
        })
    }

    async fn images_in_use(&self) -> Result<HashSet<ImageId>> {
        Ok(self.lock().in_use.clone())
    }

    fn layer_storage_ids(&self, diff_ids: &[DiffId]) -> Vec<String> {
        diff_ids.iter().map(DiffId::to_string).collect()
    }

    async fn layer_disk_usage(&self, names: &[String]) -> Result<Vec<Option<u64>>> {
        Ok(names.iter().map(|_| Some(1 << 20)).collect())
    }

    async fn prune(&self, _: bool) -> Result<Pruned> {
        let _running = self.enter(Method::Sweep, "").await?;
        Ok(Pruned::default())
    }
}

#[async_trait]
impl Runner for FakeEngine {
    async fn info(&self) -> Result<EngineInfo> {
        Ok(self.info.clone())
    }

    async fn start(
        &self,
        request: &SessionRequest,
        _log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        let _running = self.enter(Method::Start, &request.image).await?;
        if let Some((image, files)) = self.checkpoints.find(&request.image) {
            return session::start(request, &image, Some(&files), &self.checkpoints);
        }
        let missing = || EngineError::NoSuchImage { reference: request.image.clone() };
        let image = self.find(&request.image).ok_or_else(missing)?;
        session::start(request, &image.config, None, &self.checkpoints)
    }

    async fn run_script(
        &self,
        request: &SandboxRequest,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        let _running = self.enter(Method::RunScript, &request.image).await?;
        if self.find(&request.image).is_none() {
            return Err(EngineError::NoSuchImage { reference: request.image.clone() });
        }
        let state = self.lock();
        let meant = |answer: &&SandboxAnswer| {
            let word = answer.word.as_str();
            let held = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(word);
            request.files.iter().any(|(_, bytes)| held(bytes))
                || request.labels.values().any(|value| value.contains(word))
        };
        let Some(answer) = state.sandboxes.iter().find(meant) else {
            return Ok(SandboxEnd::Exited(0));
        };
        log.write(&answer.output);
        control.write(&answer.control);
        Ok(answer.end)
    }

    async fn attach(&self, _: &AttachRequest) -> Result<Attached> {
        Err(EngineError::Unsupported {
            engine: EngineKind::Fake,
            action: "attach to a command",
            why: "commands are words only",
        })
    }

    async fn remove_run(&self, _run_id: &RunId, _judge: &Judge<'_>) -> Result<Removed> {
        Ok(Removed::default())
    }

    async fn remove_scratch(&self, judge: &Judge<'_>) -> Result<Removed> {
        let mut found = Removed::default();
        self.lock().images.retain(|_, image| {
            let Some(owner) = image.config.labels.get(label::SCRATCH) else { return true };
            let name = format!("image {}", image.name());
            match judge(owner, None) {
                Liveness::Alive => return true,
                Liveness::Elsewhere => found.kept.push(name),
                Liveness::Dead => {
                    found.removed.push(name);
                    return false;
                }
            }
            true
        });
        Ok(found)
    }
}

/// The digest of what a config would hold.
fn id_of(image: &Image) -> String {
    let config = &image.config;
    let parts = json!([
        image.diff_ids,
        image.platform,
        config.env,
        config.cmd,
        config.entrypoint,
        config.working_dir,
        config.user,
        config.shell,
        config.labels,
    ]);
    Digest::of(parts.to_string()).oci()
}

#[cfg(test)]
mod tests {
    use crate::engine::NoLog;

    use super::*;

    fn request(dockerfile: &str, tag: &str) -> BuildRequest {
        BuildRequest {
            dockerfile: dockerfile.to_owned(),
            context: Vec::new(),
            args: BTreeMap::new(),
            platform: Platform::written("linux/amd64"),
            labels: BTreeMap::new(),
            tags: vec![tag.to_owned()],
            host: crate::engine::HostAccess::default(),
            no_cache: false,
            as_docker: None,
        }
    }

    #[tokio::test]
    async fn equal_requests_give_equal_images_on_two_engines() {
        let (one, two) = (FakeEngine::new(), FakeEngine::new());
        let (one, two) = (one.with_image("debian:12"), two.with_image("debian:12"));
        let first = one.build(&request("FROM debian:12\nRUN a\n", "x:1"), &NoLog).await.unwrap();
        let second = two.build(&request("FROM debian:12\nRUN a\n", "x:1"), &NoLog).await.unwrap();
        let other = two.build(&request("FROM debian:12\nRUN b\n", "x:1"), &NoLog).await.unwrap();
        assert_eq!(first, second);
        assert_ne!(first.id, other.id);
        assert_eq!(first.diff_ids[0], one.inspect("debian:12").await.unwrap().unwrap().diff_ids[0]);
        let old = two.inspect(second.id.as_str()).await.unwrap().unwrap();
        assert!(old.tags.is_empty(), "a name belongs to one image");
    }

    #[tokio::test]
    async fn a_scripted_failure_comes_as_often_as_it_was_asked_for() {
        let engine = FakeEngine::new().with_image("debian:12");
        engine.fail(Method::Build, "x:", 1, || EngineError::NoSpace { action: "build".into() });
        let request = request("FROM debian:12\n", "x:1");
        let error = engine.build(&request, &NoLog).await.unwrap_err();
        assert!(matches!(error, EngineError::NoSpace { .. }));
        engine.build(&request, &NoLog).await.unwrap();
        assert_eq!(engine.called(Method::Build), ["x:1", "x:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_passes_on_the_paused_clock_and_calls_overlap() {
        let engine = FakeEngine::new().with_image("debian:12");
        engine.delay(Method::Build, "", Duration::from_secs(60));
        let began = tokio::time::Instant::now();
        let (one, two) = (request("FROM debian:12\n", "x:1"), request("FROM debian:12\n", "x:2"));
        let (one, two) = tokio::join!(engine.build(&one, &NoLog), engine.build(&two, &NoLog));
        one.unwrap();
        two.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(60));
        assert_eq!(engine.peak(), 2);
    }

    #[tokio::test]
    async fn an_image_goes_with_its_last_name() {
        let engine = FakeEngine::new().with_image("a:1");
        let id = engine.inspect("a:1").await.unwrap().unwrap().id;
        engine.tag(id.as_str(), &"b:1".parse().unwrap()).await.unwrap();
        engine.remove("a:1").await.unwrap();
        assert_eq!(engine.inspect(id.as_str()).await.unwrap().unwrap().tags, ["b:1"]);
        engine.remove("b:1").await.unwrap();
        assert_eq!(engine.inspect(id.as_str()).await.unwrap(), None);
    }
}
