//! What is asked of whoever knows datasets: images to begin in, and grades.

use std::any::Any;

use async_trait::async_trait;
use serde::Serialize;

use crate::session::order::InstanceName;

use super::events::EventSink;
use super::fault::Fault;

/// The image that work on an instance begins in. It is there as long as this lives.
pub struct ImageOfInstance {
    /// Its name in the engine.
    pub image: String,
    /// What keeps it.
    pub kept: Box<dyn Any + Send>,
}

/// A patch to grade.
#[derive(Debug, Clone)]
pub struct GradeOrder {
    /// The instance.
    pub instance: InstanceName,
    /// The patch.
    pub patch: String,
    /// What the model is called.
    pub model: String,
    /// How many seconds the tests may take; without it as `imgforge eval` does.
    pub timeout: Option<u64>,
    /// Whether the stricter rules count.
    pub strict: bool,
}

/// The grade of a patch.
#[derive(Debug, Clone, Serialize)]
pub struct Graded {
    /// Whether the instance is resolved; nothing where there is no verdict.
    pub resolved: Option<bool>,
    /// The verdict, by the name that it has in reports.
    pub verdict: String,
    /// Why there is no better one.
    pub reason: Option<String>,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// The results of the tests as the harness's report has them; nothing where none were read.
    pub tests: serde_json::Value,
    /// Whether an earlier run of the same inputs was graded.
    pub cached: bool,
    /// Seconds of running the tests.
    pub seconds: f64,
    /// What the tests printed: at most the last mebibyte, in base64.
    pub output: String,
}

/// Knows datasets.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Finds the image that work on an instance begins in, and builds it where it is missing.
    /// `events` is told what goes on.
    async fn image(
        &self,
        instance: &InstanceName,
        events: &EventSink,
    ) -> Result<ImageOfInstance, Fault>;

    /// Grades a patch, in a fresh container. `events` is told what goes on.
    async fn grade(&self, order: &GradeOrder, events: &EventSink) -> Result<Graded, Fault>;
}
