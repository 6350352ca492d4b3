//! The directory of a run: taken for rows and predictions, and refused for others.

use crate::run::{Changes, Metadata, RunDir, RunError, RunLock, same_predictions, same_rows};
use crate::run_id::{NotARunId, RunId};
use crate::words;

use super::record::Record;
use super::{Error, Notices};

/// Reads the name of a run that a person wrote.
///
/// # Errors
/// No directory can be called so.
pub fn run_id(text: &str) -> Result<RunId, Error> {
    text.parse().map_err(|error: NotARunId| run_error(error.into()))
}

/// Makes the error of a run's directory.
pub(crate) fn run_error(error: RunError) -> Error {
    match &error {
        RunError::Name { .. } => Error::input(error).with_hint(Some(
            "such a name has 1 to 200 bytes, no `/`, and is not `.` or `..`".to_owned(),
        )),
        RunError::Metadata { .. } => Error::input(error),
        RunError::Other { .. } => Error::input(error).with_hint(Some(
            "name another --run-id: results are shared; or start it anew with --replace-run"
                .to_owned(),
        )),
        RunError::UnderWay { .. } => Error::input(error).with_hint(Some(
            "wait for it, or name another --run-id: results are shared".to_owned(),
        )),
        RunError::Unknown { known, .. } => {
            let hint = match known.as_slice() {
                [] => "runs are looked for below the current directory".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            Error::input(error).with_hint(Some(hint))
        }
        RunError::File { .. } => Error::environment(error).with_hint(Some(
            "`--output-dir` names another directory for logs and results".to_owned(),
        )),
    }
}

/// Takes the directory of a run whose rows and predictions are to be `metadata`'s.
pub(super) fn begin(
    dir: &RunDir,
    metadata: &Metadata,
    replace: bool,
    notices: &Notices,
) -> Result<RunLock, RunError> {
    let lock = dir.lock()?;
    let run_id = dir.run_id();
    match same_cut(dir) {
        Err(RunError::Other { .. }) if replace => dir.clear()?,
        same => same?,
    }
    let known = match dir.metadata() {
        Err(RunError::Metadata { .. }) if replace => {
            dir.clear()?;
            None
        }
        known => known?,
    };
    if let Some(known) = known {
        let changes =
            same_rows(run_id, &known, &metadata.dataset, &metadata.split).and_then(|()| {
                match (&known.imgforge, &metadata.imgforge) {
                    (Some(known), Some(now)) => same_predictions(run_id, known, now),
                    _ => Ok(Changes::default()),
                }
            });
        match changes {
            Err(RunError::Other { .. }) if replace => dir.clear()?,
            changes => say_changes(run_id, &changes?, notices),
        }
    }
    Record::remove(dir)?;
    dir.write_metadata(metadata)?;
    Ok(lock)
}

/// Tells whether what was evaluated under the run id was cut as what begins.
///
/// # Errors
/// [`RunError::Other`]: it was evaluated at once, in shards, or in another number of them.
fn same_cut(dir: &RunDir) -> Result<(), RunError> {
    let other = |what: String| Err(RunError::Other { run_id: dir.run_id().clone(), what });
    let known = dir.shards()?;
    let Some(shard) = dir.shard() else {
        return match known.first() {
            Some(one) => other(format!("it is in {} shards", one.count())),
            None => Ok(()),
        };
    };
    match known.iter().find(|known| known.count() != shard.count()) {
        Some(one) => {
            return other(format!("it is in {} shards, not in {}", one.count(), shard.count()));
        }
        None if !known.is_empty() => return Ok(()),
        None => {}
    }
    let whole = RunDir::at(dir.path().to_owned(), dir.run_id()).metadata();
    match whole {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(RunError::Metadata { .. }) => {
            other("it was evaluated at once, not in shards".to_owned())
        }
        Err(error) => Err(error),
    }
}

/// Says that the reports of a run are of a part of it now.
pub(crate) fn say_left_out(run_id: &RunId, count: usize, notices: &Notices) {
    if count > 0 {
        notices.advise(format!(
            "run `{run_id}` had {} that {} not chosen now; its reports are of the chosen ones",
            words::count(count, "instance"),
            words::are(count)
        ));
    }
}

/// Says what is not as it was when the run began.
fn say_changes(run_id: &RunId, changes: &Changes, notices: &Notices) {
    if !changes.changed.is_empty() {
        let shown: Vec<&str> = changes.changed.iter().take(10).map(String::as_str).collect();
        let more = match changes.changed.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notices.advise(format!(
            "predictions have changed since run `{run_id}` began, and are run again: {}{more}",
            shown.join(", ")
        ));
    }
    say_left_out(run_id, changes.left_out, notices);
}
