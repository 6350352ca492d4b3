//! A registry as a cache: one repository for each kind, the key as the tag.
//!
//! A registry has no locks: the first image of a key stays, and what stands on another build of it
//! is not pushed, so that what a registry holds fits together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::engine::reference::{self, NotAPlace, Reference};
use crate::engine::registry::{self, Access, Described, Registry, RegistryClient};
use crate::engine::retry::retried;
use crate::engine::{Builder, EngineError, Image, LayerStorage, LogSink, NoLog, Result, label};
use crate::key::{DiffId, Key, Kind};
use crate::plan::name;
use crate::platform::Platform;
use crate::retry::QUESTION;
use crate::sign::{NotSigned, PrivateKey, PublicKey};

use super::check::Checker;
use super::from_image::{self, FromImage};
use super::image_source::{ImageSource, Lookup, error_text};
use super::provenance::{self, PROVENANCE};
use super::sbom::{CYCLONEDX, Inventory};
use super::signature;

#[cfg(feature = "kubernetes")]
mod added;

/// How many images are asked for, or pushed, at once.
const AT_ONCE: usize = 4;

/// How many images in a row may fail, with none between them that is told of, before the registry is
/// taken to be at fault itself.
const FAILURES: usize = 2;

/// A registry and a path in it.
pub struct RegistryCache {
    base: String,
    platform: Platform,
    client_config: Option<PathBuf>,
    registry: tokio::sync::OnceCell<Arc<Registry>>,
    /// What it was told of an image, by name: from then on the name means that.
    told: Mutex<HashMap<String, Told>>,
    /// Whose signatures images need; without any they need none.
    trusted: Vec<PublicKey>,
    /// The manifests that one of them signed.
    verified: Mutex<HashSet<String>>,
    /// What signs images that are pushed.
    signer: Option<Signer>,
}

/// A private key, for signing images that are pushed.
#[derive(Debug)]
pub struct Signer {
    /// The private key itself.
    pub key: PrivateKey,
    /// A URI that stands for who built the images, for their provenance.
    pub builder: Option<String>,
}

/// What a registry told of an image.
#[derive(Debug, Clone)]
struct Told {
    /// What it is for: a registry that many share has images by key for every platform.
    platform: Platform,
    /// The digest of its manifest.
    manifest: String,
}

/// An image that is to be pushed.
#[derive(Debug, Clone)]
pub struct ToPush {
    /// The kind.
    pub kind: Kind,
    /// The key.
    pub key: Key,
}

/// What became of an image that was to be pushed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "status", content = "reason")]
pub enum Pushed {
    /// The image is in the registry now.
    Pushed,
    /// The registry had the image before.
    There,
    /// The registry has another build of it, which stays.
    Differs,
    /// It stands on another build than the registry has.
    OnOther,
    /// The image could not be pushed, for this reason.
    Failed(String),
}

/// An image that was to be pushed, with what became of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PushedImage {
    /// The key.
    pub key: Key,
    /// The kind.
    pub kind: Kind,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Pushed,
    /// Bytes that travelled: layers, and the config.
    pub bytes: u64,
}

impl RegistryCache {
    /// Makes the cache of `place`, such as `ghcr.io/me`, for images of one platform. Credentials are
    /// read from Docker's client configuration.
    ///
    /// # Errors
    /// What names no place in a registry.
    pub fn new(
        place: &str,
        platform: &Platform,
        client_config: Option<PathBuf>,
    ) -> std::result::Result<RegistryCache, NotAPlace> {
        let base = reference::place(place)?;
        let registry = tokio::sync::OnceCell::new();
        let (platform, told) = (platform.to_owned(), Mutex::default());
        let (trusted, verified, signer) = (Vec::new(), Mutex::default(), None);
        Ok(RegistryCache {
            base,
            platform,
            client_config,
            registry,
            told,
            trusted,
            verified,
            signer,
        })
    }

    /// Makes every image that none of `keys` signed as if it were not there.
    #[must_use]
    pub fn trusting(self, keys: Vec<PublicKey>) -> RegistryCache {
        RegistryCache { trusted: keys, ..self }
    }

    /// Signs what is pushed, and what is there already and is the same; says of images that were built
    /// here how that was, and of environments what is installed in them.
    #[must_use]
    pub fn signing(self, signer: Option<Signer>) -> RegistryCache {
        RegistryCache { signer, ..self }
    }

    fn reference(&self, image: &str) -> Result<Reference> {
        Ok(format!("{}/{image}", self.base).parse()?)
    }

    /// The repositories of the cache, without the registry.
    fn repositories(&self) -> Vec<String> {
        let path = self.base.split_once('/').map_or("", |(_, path)| path);
        let of = |kind: &str| format!("{path}/imgforge/{kind}").trim_start_matches('/').to_owned();
        Kind::IMAGES.iter().map(|kind| of(kind.as_str())).chain([of(name::FROM)]).collect()
    }

    /// Opens a repository, to read of it; all share one client.
    async fn open(&self, image: &str) -> Result<RegistryClient> {
        self.open_for(Access::Pull, image).await
    }

    async fn open_for(&self, access: Access, image: &str) -> Result<RegistryClient> {
        self.client(access, &self.reference(image)?).await
    }

    async fn client(&self, access: Access, reference: &Reference) -> Result<RegistryClient> {
        let open = || registry::open(self.client_config.as_ref(), reference, &NoLog);
        let registry = self.registry.get_or_try_init(open).await?.clone();
        Ok(RegistryClient::of(registry, access, reference))
    }

    /// Asks for an image that a trusted key signed, where images need that.
    async fn ask_trusted(&self, image: &str) -> Result<Option<Described>> {
        let Some(described) = self.ask(image).await? else { return Ok(None) };
        let digest = described.manifest.clone();
        if self.is_verified(&digest) {
            return Ok(Some(described));
        }
        let asked = self.open(image).await?;
        match signature::verify(&asked, &digest, &self.trusted).await? {
            Ok(()) => {
                self.verified.lock().expect("no holder panics").insert(digest);
                Ok(Some(described))
            }
            Err(why) => {
                let reference = self.reference(image)?.to_string();
                Err(EngineError::Unsigned { reference, digest, why })
            }
        }
    }

    /// Tells whether a manifest may be taken: it was verified, or nothing has to be.
    fn is_verified(&self, digest: &str) -> bool {
        self.trusted.is_empty() || self.verified.lock().expect("no holder panics").contains(digest)
    }

    async fn ask(&self, image: &str) -> Result<Option<Described>> {
        let asked = self.open(image).await?;
        let described = retried(&NoLog, QUESTION, || asked.describe(&self.platform)).await?;
        if let Some(described) = &described {
            let platform = described.image.platform.clone();
            let told = Told { platform, manifest: described.manifest.clone() };
            self.told.lock().expect("no holder panics").insert(image.to_owned(), told);
        }
        Ok(described)
    }

    /// Returns every image that the registry holds, from the tags of its repositories.
    pub async fn list(&self) -> Result<Vec<(Kind, Key)>> {
        let mut images = Vec::new();
        let mut denied = None;
        let mut answered = false;
        for kind in Kind::IMAGES {
            let asked = self.open(&format!("imgforge/{kind}:latest")).await?;
            match retried(&NoLog, QUESTION, || asked.tags()).await {
                Ok(tags) => {
                    answered = true;
                    images.extend(tags.iter().filter_map(|tag| Some((kind, tag.parse().ok()?))));
                }
                // So some registries say that there is no such repository.
                Err(error @ EngineError::Denied { .. }) => denied = Some(error),
                Err(error) => return Err(error),
            }
        }
        match denied {
            Some(error) if !answered => Err(error),
            _ => Ok(images),
        }
    }

    /// Returns the reference by digest under which the registry has an image, as whoever pulls it there
    /// names it; `None` where it has none that is to be trusted.
    ///
    /// # Errors
    /// Those of the registry.
    pub async fn digest_reference(&self, kind: Kind, key: &Key) -> Result<Option<String>> {
        let Some(there) = self.ask_trusted(&name::image(kind, key)).await? else { return Ok(None) };
        Ok(Some(format!("{}/imgforge/{kind}@{}", self.base, there.manifest)))
    }

    /// Pushes images that the checker's engine has, parents before children, and the `FROM` images of
    /// bases. One that is not what its name says is not handed on.
    /// `told` hears of each as it ends. Once an image was pushed a failure is that of one image.
    pub async fn push(
        &self,
        checker: &Checker<'_>,
        images: &[ToPush],
        told: &(dyn Fn(&PushedImage) + Sync),
    ) -> Result<Vec<PushedImage>> {
        let pushing = Pushing::new(self, checker);
        let mut ended = Vec::new();
        for kind in Kind::IMAGES {
            let level = images.iter().filter(|image| image.kind == kind).cloned();
            let level: Vec<ToPush> = level.collect();
            let pushing = &pushing;
            let pushed: Vec<PushedImage> = stream::iter(level)
                .map(|image| async move {
                    let pushed = pushing.one(&image).await?;
                    told(&pushed);
                    Ok::<_, EngineError>(pushed)
                })
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            ended.extend(pushed);
        }
        for (key, why) in pushing.list_packages().await {
            for image in ended.iter_mut().filter(|image| image.key == key) {
                image.outcome = Pushed::Failed(format!("its packages are not listed: {why}"));
            }
        }
        Ok(ended)
    }
}

/// An environment that was signed and has no list of its packages yet.
struct Unlisted {
    key: Key,
    image: Image,
    /// The digest of its manifest.
    manifest: String,
}

/// What the pushes of one call share.
struct Pushing<'a> {
    cache: &'a RegistryCache,
    checker: &'a Checker<'a>,
    engine: &'a dyn LayerStorage,
    siblings: Vec<String>,
    /// Blobs that the registry is known to have.
    blobs: Mutex<HashSet<String>>,
    /// The layers of every image that is there, as tars.
    layers: Mutex<HashMap<Key, Vec<DiffId>>>,
    /// Whether an image was pushed.
    works: AtomicBool,
    unlisted: Mutex<Vec<Unlisted>>,
}

impl<'a> Pushing<'a> {
    fn new(cache: &'a RegistryCache, checker: &'a Checker<'a>) -> Pushing<'a> {
        Pushing {
            cache,
            checker,
            engine: checker.engine(),
            siblings: cache.repositories(),
            blobs: Mutex::default(),
            layers: Mutex::default(),
            works: AtomicBool::new(false),
            unlisted: Mutex::default(),
        }
    }
}

impl Pushing<'_> {
    fn note(&self, key: &Key, described: &Described) {
        let mut blobs = self.blobs.lock().expect("no holder panics");
        blobs.extend(described.layers.iter().map(|(digest, _)| digest.clone()));
        let mut layers = self.layers.lock().expect("no holder panics");
        layers.insert(*key, described.image.diff_ids.clone());
    }

    async fn one(&self, image: &ToPush) -> Result<PushedImage> {
        let ended =
            |outcome, bytes| PushedImage { key: image.key, kind: image.kind, outcome, bytes };
        match self.try_one(image).await {
            Ok((outcome, bytes)) => {
                if outcome == Pushed::Pushed {
                    self.works.store(true, Ordering::Relaxed);
                }
                Ok(ended(outcome, bytes))
            }
            Err(error) if self.works.load(Ordering::Relaxed) => {
                Ok(ended(Pushed::Failed(error_text(&error)), 0))
            }
            // A registry that takes nothing takes none of the others either.
            Err(error) => Err(error),
        }
    }

    async fn try_one(&self, image: &ToPush) -> Result<(Pushed, u64)> {
        let name = name::image(image.kind, &image.key);
        let missing = || EngineError::NoSuchImage { reference: name.clone() };
        let local = match self.checker.here(image.kind, &image.key).await?.ok_or_else(missing)? {
            Ok(local) => local,
            Err(wrong) => return Ok((Pushed::Failed(wrong.to_string()), 0)),
        };
        let there = match self.cache.ask_trusted(&name).await {
            // So some registries say that there is no such repository: the push decides. And what is
            // as if it were not there gives way.
            Err(EngineError::Denied { .. } | EngineError::Unsigned { .. }) => None,
            there => there?,
        };
        if let Some(there) = there {
            self.note(&image.key, &there);
            if there.image.diff_ids != local.diff_ids {
                return Ok((Pushed::Differs, 0));
            }
            let ended = self.sign(&name, &local, &there).await?;
            let mut bytes = 0;
            if ended.is_none() {
                if image.kind == Kind::Base && self.cache.signer.is_some() {
                    bytes += self.push_externals(&local).await?;
                }
                self.attest(image, &name, &local, &there).await?;
            }
            return Ok((ended.unwrap_or(Pushed::There), bytes));
        }
        let parent = local.config.labels.get(label::PARENT).and_then(|text| text.parse().ok());
        if let Some(parent) = parent
            && !self.fits(&parent, &local, image.kind).await?
        {
            return Ok((Pushed::OnOther, 0));
        }
        let mut bytes = 0;
        if image.kind == Kind::Base {
            bytes += self.push_externals(&local).await?;
        }
        bytes += self.send(&name, &name).await?;
        let mut ended = Pushed::Pushed;
        if let Some(there) = self.cache.ask(&name).await? {
            self.note(&image.key, &there);
            match self.sign(&name, &local, &there).await? {
                Some(failed) => ended = failed,
                None => self.attest(image, &name, &local, &there).await?,
            }
        }
        Ok((ended, bytes))
    }

    /// Signs an image of the registry that is the one here, where images are signed; returns how the
    /// push ended where it cannot be. What the registry says it has is not signed for that.
    async fn sign(&self, name: &str, local: &Image, there: &Described) -> Result<Option<Pushed>> {
        let Some(signer) = &self.cache.signer else { return Ok(None) };
        if !is_same(local, there) {
            let why =
                "the registry has another image under its name: that is not signed".to_owned();
            return Ok(Some(Pushed::Failed(why)));
        }
        let asked = self.cache.open_for(Access::Push, name).await?;
        signature::sign(&asked, &there.manifest, &signer.key).await?;
        Ok(None)
    }

    /// Says of an image that is signed how it was built, where that was here; notes an environment
    /// whose packages are not listed yet.
    async fn attest(
        &self,
        image: &ToPush,
        name: &str,
        local: &Image,
        there: &Described,
    ) -> Result<()> {
        let Some(signer) = &self.cache.signer else { return Ok(()) };
        let asked = self.cache.open_for(Access::Push, name).await?;
        let digest = &there.manifest;
        let is_attested =
            |predicate| signature::is_attested(&asked, digest, predicate, &signer.key);
        if let Some(build) = self.checker.built(&image.key, local)
            && let Some(told) = provenance::predicate(local, build, signer.builder.as_deref())
            && !is_attested(PROVENANCE).await?
        {
            signature::attest(&asked, digest, PROVENANCE, told, &signer.key).await?;
        }
        if image.kind == Kind::Env && !is_attested(CYCLONEDX).await? {
            let key = image.key;
            let (image, manifest) = (local.clone(), digest.clone());
            let unlisted = Unlisted { key, image, manifest };
            self.unlisted.lock().expect("no holder panics").push(unlisted);
        }
        Ok(())
    }

    /// Lists the packages of environments that were signed; reads each layer once. Returns which could
    /// not be listed, and why: they are pushed and signed all the same.
    async fn list_packages(&self) -> Vec<(Key, String)> {
        let unlisted = std::mem::take(&mut *self.unlisted.lock().expect("no holder panics"));
        let Some(signer) = self.cache.signer.as_ref().filter(|_| !unlisted.is_empty()) else {
            return Vec::new();
        };
        let images: Vec<Image> = unlisted.iter().map(|env| env.image.clone()).collect();
        let inventory = Arc::new(Inventory::default());
        let read = self.engine.read_layers(&images, inventory.clone()).await;
        let mut failed = Vec::new();
        for env in unlisted {
            let name = name::image(Kind::Env, &env.key);
            let listed = match inventory.document(&name, &env.manifest, &env.image) {
                Some(document) => {
                    self.attest_packages(&name, &env.manifest, document, signer).await
                }
                None => Err(match &read {
                    Err(error) => error_text(error),
                    Ok(()) => "the engine did not give all of its layers".to_owned(),
                }),
            };
            failed.extend(listed.err().map(|why| (env.key, why)));
        }
        failed
    }

    async fn attest_packages(
        &self,
        name: &str,
        manifest: &str,
        document: serde_json::Value,
        signer: &Signer,
    ) -> std::result::Result<(), String> {
        let attest = async {
            let asked = self.cache.open_for(Access::Push, name).await?;
            signature::attest(&asked, manifest, CYCLONEDX, document, &signer.key).await
        };
        attest.await.map_err(|error: EngineError| error_text(&error))
    }

    /// Tells whether an image stands on what the registry has under its parent's key.
    async fn fits(&self, parent: &Key, local: &Image, kind: Kind) -> Result<bool> {
        let known = self.layers.lock().expect("no holder panics").get(parent).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                let at = Kind::IMAGES.iter().position(|known| *known == kind).unwrap_or(1);
                let below = Kind::IMAGES[at.saturating_sub(1)];
                let there = match self.cache.ask_trusted(&name::image(below, parent)).await {
                    Err(EngineError::Unsigned { .. }) => None,
                    there => there?,
                };
                // Its parent is pushed some other time, or never: it can be had without.
                let Some(there) = there else { return Ok(true) };
                self.note(parent, &there);
                there.image.diff_ids
            }
        };
        Ok(local.diff_ids.starts_with(&known))
    }

    /// Pushes what a base stands on: whoever pulls the base has to know the identity of that.
    async fn push_externals(&self, base: &Image) -> Result<u64> {
        let mut bytes = 0;
        for (from, local, image) in from_image::external_images(self.engine, base).await? {
            let name = name::from_image(&from.reference, &from.platform);
            let there = self.cache.ask(&name).await?;
            let other = |there: Described| {
                there.image.diff_ids != image.diff_ids
                    || (self.cache.signer.is_some() && !is_same(&image, &there))
            };
            if there.is_none_or(other) {
                bytes += self.send(&local, &name).await?;
            }
            if let Some(there) = self.cache.ask(&name).await?
                && let Some(Pushed::Failed(reason)) = self.sign(&name, &image, &there).await?
            {
                let action = format!("sign `{name}`");
                return Err(EngineError::Refused { action, reason });
            }
        }
        Ok(bytes)
    }

    /// Pushes an image under a name of the registry; returns the bytes that travelled.
    async fn send(&self, image: &str, name: &str) -> Result<u64> {
        let target = self.cache.reference(name)?;
        self.engine.tag(image, &target).await?;
        let sent = self.engine.push(&target, &self.siblings, &NoLog).await;
        self.engine.remove(target.as_str()).await?;
        let sent = sent?;
        let Some(there) = self.cache.ask(name).await? else { return Ok(0) };
        let travelled: u64 = match &sent.layers {
            Some(layers) => {
                let sizes = there.image.diff_ids.iter().zip(&there.layers);
                let sizes = sizes.filter(|(id, _)| layers.contains(*id));
                sizes.map(|(_, (_, size))| *size).fold(0, u64::saturating_add)
            }
            // The engine does not tell: what no image of the registry had, as far as it is known.
            None => {
                let blobs = self.blobs.lock().expect("no holder panics");
                let new = there.layers.iter().filter(|(digest, _)| !blobs.contains(digest));
                new.map(|(_, size)| *size).fold(0, u64::saturating_add)
            }
        };
        let mut blobs = self.blobs.lock().expect("no holder panics");
        blobs.extend(there.layers.into_iter().map(|(digest, _)| digest));
        Ok(travelled)
    }
}

/// Tells whether a registry has that very image. An id is the digest of the config, and of the manifest
/// on Docker's newer store.
fn is_same(local: &Image, there: &Described) -> bool {
    local.id == there.image.id || local.id == *there.manifest.as_str()
}

#[async_trait]
impl ImageSource for RegistryCache {
    fn describe(&self) -> String {
        format!("registry `{}`", self.base)
    }

    async fn lookup(&self, images: &[(Kind, Key)]) -> Result<Lookup> {
        let mut asking = Asking::default();
        let mut left = images.iter().copied();
        // Until something is told of, one question at a time: a registry that is down, or busy, is
        // not asked hundreds.
        while !asking.answered {
            let Some((kind, key)) = left.next() else { break };
            if !asking.denied.contains_key(&kind) {
                asking.take(kind, key, self.offer(kind, key).await)?;
            }
        }
        let left: Vec<(Kind, Key)> =
            left.filter(|(kind, _)| !asking.denied.contains_key(kind)).collect();
        let mut answers = stream::iter(left)
            .map(|(kind, key)| async move { (kind, key, self.offer(kind, key).await) })
            .buffer_unordered(AT_ONCE * 2);
        while let Some((kind, key, answer)) = answers.next().await {
            if let Err(error) = asking.take(kind, key, answer) {
                asking.untold.push(error);
                break;
            }
        }
        drop(answers);
        asking.ended()
    }

    async fn external_images(&self, reference: &str) -> Result<Vec<Image>> {
        let described = self.ask_trusted(&name::from_image(reference, &self.platform)).await?;
        let image = described.map(|described| described.image);
        // One that an older imgforge pushed may be for another platform than its name says.
        Ok(image.into_iter().filter(|image| image.platform.matches(&self.platform)).collect())
    }

    async fn fetch(
        &self,
        engine: &dyn Builder,
        kind: Kind,
        key: &Key,
        _: Option<&Image>,
        log: &dyn LogSink,
    ) -> Result<()> {
        let name = name::image(kind, key);
        self.bring_as(engine, &name, &name, log).await
    }

    async fn fetch_external(
        &self,
        engine: &dyn Builder,
        from: &FromImage,
        log: &dyn LogSink,
    ) -> Result<()> {
        let name = name::from_image(&from.reference, &self.platform);
        self.bring_as(engine, &name, &from.own_name(), log).await
    }
}

/// What became of questions to a registry.
#[derive(Default)]
struct Asking {
    images: HashMap<Key, Image>,
    /// What is there and no trusted key signed.
    unsigned: HashMap<Key, EngineError>,
    /// Repositories that may not be read, each with the first refusal.
    denied: BTreeMap<Kind, EngineError>,
    untold: Vec<EngineError>,
    /// Whether a question was answered.
    answered: bool,
    /// How many failed since then.
    failures: usize,
}

impl Asking {
    /// Takes an answer.
    ///
    /// # Errors
    /// What the registry itself is at fault for; no more questions help.
    fn take(&mut self, kind: Kind, key: Key, answer: Result<Option<Image>>) -> Result<()> {
        match answer {
            Ok(offer) => {
                self.answered = true;
                self.failures = 0;
                self.images.extend(offer.map(|image| (key, image)));
                Ok(())
            }
            Err(error @ EngineError::Unsigned { .. }) => {
                self.answered = true;
                self.failures = 0;
                self.unsigned.insert(key, error);
                Ok(())
            }
            Err(error @ EngineError::Denied { .. }) => {
                self.denied.entry(kind).or_insert(error);
                Ok(())
            }
            Err(error) => {
                self.failures += 1;
                match error.is_of_registry() || self.failures >= FAILURES {
                    true => Err(error),
                    // What is damaged there is not offered.
                    false => {
                        self.untold.push(error);
                        Ok(())
                    }
                }
            }
        }
    }

    fn ended(mut self) -> Result<Lookup> {
        let first = self.untold.len();
        self.untold.extend(self.denied.into_values());
        if !self.answered && !self.untold.is_empty() {
            // A refusal says more than what else went wrong.
            let at = if first < self.untold.len() { first } else { 0 };
            return Err(self.untold.swap_remove(at));
        }
        Ok(Lookup { images: self.images, unsigned: self.unsigned, untold: self.untold })
    }
}

impl RegistryCache {
    /// Asks for one image, whatever it says of itself: who takes it looks at that, and says why not.
    async fn offer(&self, kind: Kind, key: Key) -> Result<Option<Image>> {
        let described = self.ask_trusted(&name::image(kind, &key)).await?;
        Ok(described.map(|described| described.image))
    }

    async fn bring_as(
        &self,
        engine: &dyn Builder,
        name: &str,
        local: &str,
        log: &dyn LogSink,
    ) -> Result<()> {
        let source = self.reference(name)?;
        let known = self.told.lock().expect("no holder panics").get(name).cloned();
        if known.is_none_or(|told| !self.is_verified(&told.manifest)) {
            self.ask_trusted(name).await?;
        }
        let told = self.told.lock().expect("no holder panics").get(name).cloned();
        let missing = || EngineError::NotFound {
            reference: source.to_string(),
            reason: "the registry does not have it".to_owned(),
        };
        let Told { platform, manifest } = told.ok_or_else(missing)?;
        if !self.is_verified(&manifest) {
            let why = NotSigned::Unsigned;
            let reference = source.to_string();
            return Err(EngineError::Unsigned { reference, digest: manifest, why });
        }
        // What was looked at, and not what the name means by now.
        let source = source.at(&manifest)?;
        let image = engine.pull(&source, &platform, log).await?;
        engine.tag(image.id.as_str(), &local.parse()?).await?;
        engine.remove(source.as_str()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_repository_of_the_cache_may_have_a_layer() {
        let cache =
            RegistryCache::new("ghcr.io/Me/", &Platform::written("linux/amd64"), None).unwrap();
        assert_eq!(cache.repositories()[1], "me/imgforge/env");
        let cache =
            RegistryCache::new("127.0.0.1:5000", &Platform::written("linux/amd64"), None).unwrap();
        assert_eq!(cache.repositories()[0], "imgforge/base");
    }
}
