//! `results.json` in the directory of a run: what only the run itself knew, for `imgforge report`.
//!
//! A log does not say that its container was killed, that the image before it failed, or that its
//! verdict was that of an earlier run.

use serde::{Deserialize, Serialize};

use crate::report::{InstanceResult, RunReport, Span};
use crate::run::{RunDir, RunError, remove_file, write_whole};

/// The record of a run at its end, which no file of an instance holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Wall time of the run, in seconds.
    pub seconds: f64,
    /// The models, in their order.
    pub models: Vec<String>,
    /// Predictions for instances that the dataset does not have.
    pub unknown_ids: Vec<String>,
    /// The results, in their order, without what the files of the instances hold.
    pub results: Vec<InstanceResult>,
    /// The nodes that each worker ran, with their times.
    pub timeline: Vec<Span>,
}

impl Record {
    /// Returns what there is to keep of a run.
    pub(crate) fn of(report: &RunReport) -> Record {
        Record {
            seconds: report.seconds,
            models: report.models().into_iter().map(str::to_owned).collect(),
            unknown_ids: report.unknown_ids.clone(),
            results: report.results.clone(),
            timeline: report.timeline.clone(),
        }
    }

    /// Returns the result of a prediction.
    pub(crate) fn result(&self, model: &str, id: &str) -> Option<&InstanceResult> {
        self.results.iter().find(|one| one.model == model && one.instance_id == id)
    }

    /// Adds the record of another shard of the run. Their workers are different ones; shards run at the
    /// same time, so the longest says how long the run took.
    pub(crate) fn add(&mut self, other: Record) {
        let workers = self.timeline.iter().map(|span| span.worker + 1).max().unwrap_or(0);
        let spans = other.timeline.into_iter();
        self.timeline.extend(spans.map(|span| Span { worker: span.worker + workers, ..span }));
        self.seconds = self.seconds.max(other.seconds);
        self.results.extend(other.results);
    }

    /// Writes the record to the directory of the run, whole or not at all.
    pub(crate) fn write(&self, dir: &RunDir) -> Result<(), RunError> {
        let text = serde_json::to_vec(self).expect("plain values");
        let [_, path] = dir.records();
        write_whole(&path, &text)
    }

    /// Reads the record; `None` where the run did not come to its end, or the record is damaged.
    pub(crate) fn read(dir: &RunDir) -> Option<Record> {
        let [_, path] = dir.records();
        let text = std::fs::read(path).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes the record of an earlier invocation: it says nothing of the one that begins.
    pub(crate) fn remove(dir: &RunDir) -> Result<(), RunError> {
        let [_, path] = dir.records();
        remove_file(&path)
    }
}
