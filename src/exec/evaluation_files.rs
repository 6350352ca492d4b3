//! The files of one evaluation: its script, its log as it comes, its report, and those of an earlier run
//! with the same inputs.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::engine::LogSink;
use crate::grade;
use crate::key::Key;
use crate::recipe::EvaluationRecipe;
use crate::recipe::marks::NOT_READY_MARK;
use crate::report::harness;
use crate::run::{file, write_whole};
use crate::store::StoreError;

use super::NodeError;
use super::evaluation::{EvaluationResult, RunFacts, RunTarget};

/// The output of a script, on disk as it comes. The first failure to write is kept.
pub(super) struct Output {
    file: Mutex<File>,
    failed: AtomicBool,
    error: Mutex<Option<std::io::Error>>,
    wake: Notify,
    watcher: Option<Arc<dyn LogSink>>,
}

impl Output {
    pub(super) fn create(
        path: &Path,
        watcher: Option<Arc<dyn LogSink>>,
    ) -> std::io::Result<Output> {
        Ok(Output {
            file: Mutex::new(File::create(path)?),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            wake: Notify::new(),
            watcher,
        })
    }

    /// Waits for a failure to write.
    pub(super) async fn failure(&self) -> std::io::Error {
        loop {
            if let Some(error) = self.error.lock().expect("no writer panicked").take() {
                return error;
            }
            self.wake.notified().await;
        }
    }

    /// Returns the failure to write that nobody waited for.
    pub(super) fn into_failure(self) -> Option<std::io::Error> {
        self.error.into_inner().expect("no writer panicked")
    }
}

impl LogSink for Output {
    fn write(&self, bytes: &[u8]) {
        if let Some(watcher) = &self.watcher {
            watcher.write(bytes);
        }
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let written = self.file.lock().expect("no writer panicked").write_all(bytes);
        if let Err(error) = written {
            self.failed.store(true, Ordering::Relaxed);
            *self.error.lock().expect("no writer panicked") = Some(error);
            self.wake.notify_one();
        }
    }
}

/// Writes what is known before a run, and removes what an earlier one left.
pub(super) fn prepare(target: &RunTarget, recipe: &EvaluationRecipe) -> Result<(), NodeError> {
    for name in [file::REPORT, file::OUTPUT] {
        let path = target.dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(NodeError::File { path, source }),
        }
    }
    write_whole(&target.dir.join(file::SCRIPT), recipe.script.as_bytes())?;
    write_whole(&target.dir.join(file::PATCH), target.patch.as_bytes())?;
    Ok(())
}

/// Returns what the end of a log says is wrong with the image.
pub(super) fn not_ready(path: &Path) -> Result<Option<String>, NodeError> {
    let read = || -> std::io::Result<Option<String>> {
        let mut log = File::open(path)?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(1000)))?;
        let mut end = Vec::new();
        log.read_to_end(&mut end)?;
        let end = String::from_utf8_lossy(&end);
        let mut said =
            end.lines().rev().take(3).filter_map(|line| line.strip_prefix(NOT_READY_MARK));
        Ok(said.next().map(str::to_owned))
    };
    read().map_err(|source| NodeError::File { path: path.to_owned(), source })
}

pub(super) fn append(path: &Path, text: &str) -> Result<(), NodeError> {
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.append(true).open(path);
    let written = open.as_mut().map_err(|error| std::io::Error::from(error.kind()));
    let written = written.and_then(|file| file.write_all(text.as_bytes()));
    written.map_err(|source| NodeError::File { path: path.to_owned(), source })
}

/// Gives the logs of the first target to the others.
pub(super) fn share(targets: &[RunTarget]) -> Result<(), NodeError> {
    for target in &targets[1..] {
        for name in [file::OUTPUT, file::LOG] {
            let path = target.dir.join(name);
            std::fs::copy(targets[0].dir.join(name), &path)
                .map_err(|source| NodeError::File { path, source })?;
        }
    }
    Ok(())
}

/// Grades the log at `path`.
pub fn grade_file(path: &Path, target: &RunTarget) -> Result<grade::Graded, NodeError> {
    let error = |source| NodeError::File { path: path.to_owned(), source };
    let mut log = BufReader::with_capacity(1 << 16, File::open(path).map_err(error)?);
    let graded = grade::grade(&mut log, &target.rules, &target.instance);
    graded.map_err(|source| NodeError::Grade { path: path.to_owned(), source })
}

/// Takes the result of an earlier run: writes its files and grades its log anew. `None` when there
/// is none, or its log is damaged.
pub fn reuse(
    store: &crate::store::Store,
    key: Key,
    recipe: &EvaluationRecipe,
    targets: &[RunTarget],
) -> Result<Option<EvaluationResult>, NodeError> {
    let Some(record) = store.result(&key)? else { return Ok(None) };
    for target in targets {
        prepare(target, recipe)?;
    }
    let first = &targets[0];
    let path = first.dir.join(file::OUTPUT);
    match store.write_log(&record.log, &path) {
        Ok(()) => {}
        Err(StoreError::Blob(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let text = format!(
        "the log of an earlier run with the same inputs was graded\nkey {key}\nimage {}\n\
         ended after {:.2} s with code {}\n>>>>> Applied Patch\n",
        record.image_id, record.seconds, record.exit_code
    );
    write_whole(&first.dir.join(file::LOG), text.as_bytes())?;
    share(targets)?;
    let graded = grade_file(&path, first)?;
    let facts = RunFacts {
        seconds: record.seconds,
        cached: true,
        image_id: record.image_id,
        key,
        notes: record.notes,
    };
    let evaluated = facts.graded(graded);
    write_reports(targets, &evaluated)?;
    Ok(Some(evaluated))
}

/// Takes the result that the run itself left in its directory: it goes on on another machine, where nothing
/// is known of it. The log is graded anew; it counts where the report beside it says that tests with the
/// same key came to a verdict by it. `None` where there is none.
pub fn resume(
    key: Key,
    recipe: &EvaluationRecipe,
    targets: &[RunTarget],
) -> Result<Option<EvaluationResult>, NodeError> {
    let first = &targets[0];
    let path = first.dir.join(file::OUTPUT);
    let Some(kept) = kept(&first.dir, &first.instance.instance_id) else { return Ok(None) };
    let own = &kept["imgforge"];
    let judged = matches!(own["verdict"].as_str(), Some("resolved" | "unresolved"));
    if !judged || kept["infra_failure"] != false || own["key"] != key.to_string() || !path.is_file()
    {
        return Ok(None);
    }
    let facts = RunFacts {
        seconds: own["test_seconds"].as_f64().unwrap_or(0.0),
        cached: true,
        image_id: own["image_id"].as_str().unwrap_or_default().into(),
        key,
        notes: serde_json::from_value(own["tree"].clone()).unwrap_or_default(),
    };
    let evaluated = facts.graded(grade_file(&path, first)?);
    // Those that have come since have no files yet.
    for target in &targets[1..] {
        prepare(target, recipe)?;
    }
    share(targets)?;
    write_reports(targets, &evaluated)?;
    Ok(Some(evaluated))
}

/// Reads what the `report.json` in the directory of an instance says of it.
pub fn kept(dir: &Path, id: &str) -> Option<serde_json::Value> {
    let text = std::fs::read(dir.join(file::REPORT)).ok()?;
    let mut report: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(report.get_mut(id)?.take())
}

/// Writes `report.json` for every target, where the harness has one.
pub(super) fn write_reports(
    targets: &[RunTarget],
    evaluated: &EvaluationResult,
) -> Result<(), NodeError> {
    for target in targets {
        let result = target.result(evaluated);
        if let Some(report) = harness::instance_report(&result, &grade::GRADER) {
            let text = serde_json::to_vec_pretty(&report).expect("reports are plain values");
            write_whole(&target.dir.join(file::REPORT), &text)?;
        }
    }
    Ok(())
}
