//! The log of one node: everything that its build printed, in a file, never clipped.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::engine::LogSink;
use crate::key::Kind;

/// How many lines a failure shows.
const TAIL: usize = 20;

/// A node's log file, `<dir>/<kind>/<image with : as __>/build_image.log`.
pub struct NodeLog {
    path: PathBuf,
    state: Mutex<State>,
    watcher: Option<Arc<dyn LogSink>>,
}

struct State {
    file: File,
    lines: VecDeque<String>,
    partial: Vec<u8>,
}

impl NodeLog {
    /// Returns where the log of an image is.
    pub fn path_of(dir: &Path, kind: Kind, image: &str) -> PathBuf {
        let name = image.replace(':', "__").replace('/', "_");
        dir.join(kind.as_str()).join(name).join("build_image.log")
    }

    /// Starts the log of an image; what an earlier build left there is gone.
    pub fn create(dir: &Path, kind: Kind, image: &str) -> std::io::Result<NodeLog> {
        NodeLog::at(&NodeLog::path_of(dir, kind, image))
    }

    /// Starts a log at `path`; its directory is made.
    pub fn at(path: &Path) -> std::io::Result<NodeLog> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = File::create(path)?;
        let state = State { file, lines: VecDeque::new(), partial: Vec::new() };
        Ok(NodeLog { path: path.to_owned(), state: Mutex::new(state), watcher: None })
    }

    /// Lets somebody see what is written, as it comes.
    pub fn watched_by(self, watcher: Option<Arc<dyn LogSink>>) -> NodeLog {
        NodeLog { watcher, ..self }
    }

    /// Returns who sees what is written: what belongs to the node and goes elsewhere is theirs, too.
    pub fn watcher(&self) -> Option<&Arc<dyn LogSink>> {
        self.watcher.as_ref()
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the last lines.
    pub fn tail(&self) -> Vec<String> {
        let state = self.state.lock().expect("no writer panicked");
        let last = String::from_utf8_lossy(&state.partial);
        let last = Some(last.trim_end().to_owned()).filter(|line| !line.is_empty());
        let lines: Vec<String> = state.lines.iter().cloned().chain(last).collect();
        lines[lines.len().saturating_sub(TAIL)..].to_vec()
    }
}

impl LogSink for NodeLog {
    fn write(&self, bytes: &[u8]) {
        if let Some(watcher) = &self.watcher {
            watcher.write(bytes);
        }
        let mut state = self.state.lock().expect("no writer panicked");
        // A log that cannot be written must not fail the build; the disk guard ends the run.
        let _ = state.file.write_all(bytes);
        for byte in bytes {
            if *byte != b'\n' {
                // One endless line must not fill the memory.
                if state.partial.len() < 1 << 16 {
                    state.partial.push(*byte);
                }
                continue;
            }
            let line = std::mem::take(&mut state.partial);
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            state.lines.push_back(line);
            if state.lines.len() > TAIL {
                state.lines.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_twenty_lines_and_the_file_has_all() {
        let dir = tempfile::tempdir().unwrap();
        let log = NodeLog::create(dir.path(), Kind::Env, "imgforge/env:k").unwrap();
        for line in 0..50 {
            log.write(format!("line {line}\n").as_bytes());
        }
        log.write(b"no end");
        let tail = log.tail();
        assert_eq!((tail.len(), tail[0].as_str(), tail[19].as_str()), (20, "line 31", "no end"));
        assert!(log.path().ends_with("env/imgforge_env__k/build_image.log"));
        assert_eq!(std::fs::read_to_string(log.path()).unwrap().lines().count(), 51);
    }
}
