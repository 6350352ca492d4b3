//! Where the scripts of evaluations run: on an engine of this machine, or as pods of a cluster.

#[cfg(feature = "kubernetes")]
pub mod kubernetes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{self, Builder, Engine, Image, LogSink, Result, SandboxEnd, SandboxRequest};
use crate::key::{Key, Kind};

/// The longest time for which a session is kept in a pod, and how long where nobody says so: what a dead
/// machine leaves ends then by itself.
pub const POD_SESSION: Duration = Duration::from_secs(24 * 60 * 60);

/// An image that tests are to run in.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// The image on the engine that made it.
    pub image: &'a Image,
    /// Its name there.
    pub name: &'a str,
    /// Kind and key of all it stands on, the lowest first, and its own as the last; empty for an image
    /// that somebody else published.
    pub chain: &'a [(Kind, Key)],
}

/// The tests of an evaluation.
#[derive(Clone, Copy)]
pub struct Tests<'a> {
    /// The script, and what it may do; its image is what [`TestRunner::offer`] returned.
    pub request: &'a SandboxRequest,
    /// The key of the evaluation.
    pub key: &'a Key,
    /// The key of the environment image below.
    pub environment: Option<&'a Key>,
    /// Hears what is waited for.
    pub tell: &'a (dyn Fn(String) + Sync),
}

/// Runs the tests of evaluations. Images are named as the machines of the runner name them.
#[async_trait]
pub trait TestRunner: Send + Sync {
    /// Tells whether the tests run on the machine of the engine that makes the images, and write to its
    /// disk.
    fn is_here(&self) -> bool {
        true
    }

    /// Returns what makes the images of a run. `left` are those that need not be on the engine: they are
    /// in the registry that the machines of the runner pull from, or are made there.
    fn builder(self: Arc<Self>, engine: Arc<dyn Engine>, _left: HashSet<Key>) -> Arc<dyn Builder> {
        engine
    }

    /// Brings an image to where the machines of the runner find it, and returns its name there.
    async fn offer(&self, offer: &Offer<'_>) -> Result<String>;

    /// Runs tests to their end, as [`engine::Runner::run_script`] does. Output comes byte for byte, when it
    /// does: at once, or when all of it is known to be whole.
    async fn run_tests(
        &self,
        tests: &Tests<'_>,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd>;
}

/// Runs tests on an engine of this machine.
pub struct OnEngine(pub Arc<dyn engine::Runner>);

#[async_trait]
impl TestRunner for OnEngine {
    async fn offer(&self, offer: &Offer<'_>) -> Result<String> {
        Ok(offer.name.to_owned())
    }

    async fn run_tests(
        &self,
        tests: &Tests<'_>,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        self.0.run_script(tests.request, log, control).await
    }
}
