//! The events of runs, as lines of JSON.
//!
//! A line is one `write(2)` on a file that is open for appending: whoever reads while runs write, or after
//! one was killed, finds whole lines, and at most the last one unfinished.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;
use serde::Serialize;

use super::report::{CommandEnd, Stage, StageStatus, Truncated};

/// Something that happened in a run.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SmokeEvent<'a> {
    /// Always the first event of a run.
    RunStarted {
        /// What the configuration calls it.
        name: Option<&'a str>,
        /// The image, as the configuration names it.
        image: &'a str,
        /// The repository, without a password.
        source: &'a str,
        /// The branch, tag or commit.
        #[serde(rename = "ref")]
        reference: &'a str,
        /// Whether the tests are to fail.
        expected_fail: bool,
        /// Whether it is a dry run.
        dry_run: bool,
    },
    /// A stage begins.
    StageStarted {
        /// Which one.
        stage: Stage,
    },
    /// A command ended.
    Command {
        /// The stage that it is of.
        stage: Stage,
        /// Counts from 1 in each stage.
        number: usize,
        /// Program and arguments.
        cmd: &'a [String],
        /// How it ended.
        end: CommandEnd,
        /// Its exit code, where it has one.
        exit: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// In seconds.
        duration: f64,
        /// How much of the outputs is missing in its result.
        truncated: Truncated,
        /// The file of its result below the artifacts of the run.
        log: Option<&'a str>,
    },
    /// A stage ended, or was skipped.
    StageFinished {
        /// Which one.
        stage: Stage,
        /// How it ended.
        status: StageStatus,
        /// Why it failed, was skipped, or is remarkable.
        reason: Option<&'a str>,
        /// In seconds.
        duration: f64,
    },
    /// Always the last event of a run.
    RunFinished {
        /// Whether it was a success.
        success: bool,
        /// The first stage that failed.
        failure_stage: Option<Stage>,
        /// Why there is no success.
        failure_reason: Option<&'a str>,
        /// In seconds.
        duration: Option<f64>,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    time: Timestamp,
    run: &'a str,
    #[serde(flatten)]
    event: &'a SmokeEvent<'a>,
}

/// Where events go. Runs may share it.
pub struct Events(Mutex<Writer>);

struct Writer {
    to: Box<dyn Write + Send>,
    failure: Option<io::Error>,
}

impl Events {
    /// Appends to a file, which is made where it is not there. A line that another run left unfinished ends
    /// here.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(path: &Path) -> io::Result<Events> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        if !ends_a_line(&mut file)? {
            file.write_all(b"\n")?;
        }
        Ok(Events::to(file))
    }

    /// Writes to anything; each line is given to it at once.
    pub fn to(writer: impl Write + Send + 'static) -> Events {
        Events(Mutex::new(Writer { to: Box::new(writer), failure: None }))
    }

    /// Writes a line.
    pub(super) fn tell(&self, run: &str, seq: u64, event: &SmokeEvent<'_>) {
        let line = Line { seq, time: Timestamp::now(), run, event };
        let mut line = serde_json::to_vec(&line).expect("events are plain values");
        line.push(b'\n');
        let mut writer = self.0.lock().expect("no writer panics");
        if let Err(error) = writer.to.write_all(&line).and_then(|()| writer.to.flush()) {
            writer.failure.get_or_insert(error);
        }
    }

    /// Returns why not all of the lines could be written, once.
    pub fn failure(&self) -> Option<io::Error> {
        self.0.lock().expect("no writer panics").failure.take()
    }
}

/// Tells whether a file is empty or ends with the end of a line. What is no regular file has no end.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    if !file.metadata()?.is_file() || file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_left_unfinished_does_not_spoil_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let tell = || {
            let events = Events::append(&path).unwrap();
            events.tell("one", 0, &SmokeEvent::StageStarted { stage: Stage::Start });
            assert!(events.failure().is_none());
        };
        tell();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\":").unwrap();
        tell();
        tell();
        let text = std::fs::read_to_string(&path).unwrap();
        let read = |line| serde_json::from_str::<serde_json::Value>(line).is_ok();
        assert_eq!(text.lines().map(read).collect::<Vec<_>>(), [true, false, true, true]);
    }
}
