//! What BuildKit reports, as text for a log, and what it says when a build fails.

use std::collections::{HashMap, VecDeque};

use bollard::moby::buildkit::v1::StatusResponse;

use crate::engine::{EngineError, LogSink};

use super::errors::{exit_code, is_cancelled, is_no_space, runs_command, said};

const ACTION: &str = "build a Dockerfile";

/// How much of a step's output is kept to tell why it failed.
const TAIL: usize = 16 << 10;

/// Writes BuildKit's progress as text.
pub(super) struct Output<'a> {
    log: &'a dyn LogSink,
    steps: HashMap<String, String>,
    failed: Option<String>,
    last: Option<String>,
    tail: VecDeque<u8>,
}

impl<'a> Output<'a> {
    pub(super) fn new(log: &'a dyn LogSink) -> Self {
        let (steps, tail) = (HashMap::new(), VecDeque::new());
        Output { log, steps, failed: None, last: None, tail }
    }

    /// Writes text of the engine as it is.
    pub(super) fn text(&mut self, text: &str) {
        self.write(text.as_bytes());
    }

    /// Writes the steps that began and what they said.
    pub(super) fn status(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            if vertex.started.is_some() && !self.steps.contains_key(&vertex.digest) {
                let name = readable(&vertex.name);
                let number = self.steps.len() + 1;
                let cached = if vertex.cached { " (cached)" } else { "" };
                self.write(format!("#{number} {name}{cached}\n").as_bytes());
                if runs_command(&name) {
                    self.last = Some(name.clone());
                }
                self.steps.insert(vertex.digest.clone(), name);
            }
            if !vertex.error.is_empty() && !is_cancelled(&vertex.error) {
                self.failed = self.steps.get(&vertex.digest).cloned();
            }
        }
        for line in &status.logs {
            self.write(&line.msg);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.log.write(bytes);
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    /// Makes an error of the engine's last words.
    pub(super) fn failure(&self, message: &str) -> EngineError {
        let Some(code) = exit_code(message) else { return said(ACTION, message) };
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        if is_no_space(&String::from_utf8_lossy(&tail)) {
            return EngineError::NoSpace { action: ACTION.to_owned() };
        }
        let step = self.failed.clone().or_else(|| self.last.clone()).or_else(|| quoted(message));
        EngineError::Step { step: step.unwrap_or_else(|| "RUN".to_owned()), code }
    }
}

/// Reads the step from words such as ``process "/bin/sh -c false" did not complete``.
fn quoted(message: &str) -> Option<String> {
    let (_, after) = message.split_once("process \"")?;
    let (command, _) = after.split_once("\" did not complete")?;
    let command = command.replace("\\\"", "\"").replace("\\n", "\n");
    Some(format!("RUN {}", first_line(unwrapped(&command))))
}

/// Shows a step without what was added to it. BuildKit names it by its list of words, in which
/// quotes are not escaped: no JSON.
fn readable(name: &str) -> String {
    let Some((before, after)) = name.split_once("RUN ") else { return name.to_owned() };
    let wrapped = after.split_once("/step\",\"").and_then(|(_, rest)| rest.split_once("\",\""));
    let Some((_, list)) = wrapped else { return format!("{before}RUN {}", first_line(after)) };
    let list = list.strip_suffix("\"]").unwrap_or(list);
    let shown = match list.split_once("\",\"") {
        Some((shell, rest)) if shell.ends_with("sh") => match rest.split_once("\",\"") {
            Some(("-c", script)) => script.to_owned(),
            Some((script, words)) if script.ends_with("/copy") => format!("copy {words}"),
            _ => list.to_owned(),
        },
        _ => list.to_owned(),
    };
    format!("{before}RUN {}", first_line(&shown.replace("\",\"", " ").replace("\\n", "\n")))
}

/// Drops the wrapper of a step from its command line.
fn unwrapped(command: &str) -> &str {
    let step = command.split_once("/step ").and_then(|(_, rest)| rest.split_once(' '));
    let command = step.map_or(command, |(_, rest)| rest);
    let shells = ["/bin/sh -c ", "/bin/bash -c ", "bash -c "];
    shells.iter().find_map(|shell| command.strip_prefix(shell)).unwrap_or(command)
}

fn first_line(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("");
    if lines.next().is_some() { format!("{first} …") } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use crate::engine::NoLog;

    use super::*;

    #[test]
    fn steps_are_shown_as_they_were_written() {
        let name = "[stage-1 2/3] RUN --mount=type=bind,from=imgforge-host,target=/dev/imgforge [\"/bin/sh\",\"/dev/imgforge/step\",\"tmp\",\"/bin/sh\",\"-c\",\"apt-get update\"]";
        assert_eq!(readable(name), "[stage-1 2/3] RUN apt-get update");
        let name = r#"[2/2] RUN --mount=x ["/bin/sh","/dev/imgforge/step","tmp","/bin/sh","-c","echo "$A" && b"]"#;
        assert_eq!(readable(name), r#"[2/2] RUN echo "$A" && b"#);
        let name = r#"RUN ["/bin/sh","/dev/imgforge/step","tmp","/bin/sh","/dev/imgforge/copy","a","/b/"]"#;
        assert_eq!(readable(name), "RUN copy a /b/");
        let name = r#"RUN ["/bin/sh","/dev/imgforge/step","tmp","bash","-c","set -e\nmake\n"]"#;
        assert_eq!(readable(name), "RUN set -e …");
        assert_eq!(readable("[internal] load context"), "[internal] load context");
        assert_eq!(readable("[1/2] RUN echo a"), "[1/2] RUN echo a");
    }

    #[test]
    fn the_step_is_found_in_the_words_of_a_builder_without_progress() {
        let message = r#"process "/bin/sh /dev/imgforge/step tmp /bin/sh -c echo \"a\"; exit 3" did not complete successfully: exit code: 3"#;
        let error = Output::new(&NoLog).failure(message);
        assert_eq!(error.to_string(), "step `RUN echo \"a\"; exit 3` exited with code 3");
    }

    #[test]
    fn a_step_that_failed_on_a_full_disk_is_no_failure_of_the_step() {
        let mut output = Output::new(&NoLog);
        output.text("OSError: [Errno 28] No space left on device\n");
        let error = output.failure("executor failed running [/bin/sh]: exit code: 1");
        assert!(matches!(error, EngineError::NoSpace { .. }), "{error:?}");
    }
}
