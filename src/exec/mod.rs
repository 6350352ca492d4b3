//! The executor: builds the stale nodes of a plan, in parallel, through a builder and a runner.
//!
//! [`Executor::run`] starts a [`run_loop`]. That asks the [`schedule`] what is next, gives it to a
//! [`worker`], and tells the reporter what happened. A worker makes an [`attempt`] until the node ends;
//! each kind of node has a room of its own (`base`, `env`, `checkout`, `instance`, `evaluate`), with
//! free functions of a [`context`]. Nothing here knows of arguments and terminals. What was finished
//! stays whatever happens: an image gets its name only when it is whole, and is recorded after that.

mod attempt;
mod base;
mod checkout;
mod context;
mod control;
pub mod durations;
mod env;
mod error;
mod evaluate;
pub mod evaluation;
pub mod evaluation_files;
mod event_stream;
pub mod forecast;
mod instance;
mod mirror;
pub mod output;
mod quotas;
mod record;
mod remote;
pub(crate) mod requirements;
mod run_loop;
pub mod schedule;
mod settings;
mod setup_diff;
mod strict_log;
mod summary;
pub mod survey;
mod test_script;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc};

use crate::cache::image_source::ImageSource;
use crate::engine::Builder;
use crate::event::Reporter;
use crate::plan::Plan;
use crate::runner::TestRunner;
use crate::source::Mirrors;
use crate::store::Store;

pub use error::NodeError;
pub use settings::{ExecSettings, Interrupt};
pub use summary::{NodeStatus, NodeSummary, RunSummary};

use context::{Message, RunContext};
use run_loop::RunLoop;

/// Executes plans: one value serves any number of runs.
pub struct Executor {
    /// The engine that makes images.
    pub builder: Arc<dyn Builder>,
    /// What runs evaluations in them.
    pub runner: Arc<dyn TestRunner>,
    /// The state between runs.
    pub store: Arc<Store>,
    /// The mirrors of repositories, which checkouts and patches are made from.
    pub mirrors: Arc<Mirrors>,
    /// The settings of every run.
    pub settings: ExecSettings,
    /// What the plan's evaluations need; `None` for a plan of images.
    pub evaluations: Option<Arc<evaluation::EvaluationContext>>,
    /// Where images come from that the plan pulls by their keys.
    pub remote: Option<Arc<dyn ImageSource>>,
}

impl Executor {
    /// Brings every node of the plan onto the engine. Failures are part of the summary; the run
    /// goes on with what does not depend on them.
    pub async fn run(
        &self,
        plan: Arc<Plan>,
        reporter: &mut dyn Reporter,
        interrupt: &Interrupt,
    ) -> RunSummary {
        let (messages, inbox) = mpsc::unbounded_channel();
        let run = Arc::new(self.context(plan, messages));
        let mut summary = RunLoop::new(&run, reporter, interrupt).run(inbox).await;
        summary.evaluations = run.take_results();
        summary
    }

    fn context(&self, plan: Arc<Plan>, messages: mpsc::UnboundedSender<Message>) -> RunContext {
        RunContext {
            plan,
            builder: self.builder.clone(),
            runner: self.runner.clone(),
            store: self.store.clone(),
            builds: Semaphore::new(self.settings.builds.max(1)),
            settings: self.settings.clone(),
            evaluations: self.evaluations.clone(),
            remote: self.remote.clone(),
            remote_is_gone: AtomicBool::new(false),
            mirrors: self.mirrors.clone(),
            opened: Mutex::new(HashMap::new()),
            messages,
            evaluated: Mutex::new(HashMap::new()),
        }
    }
}
