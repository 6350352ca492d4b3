//! A program on a terminal that a client speaks with, a text at a time.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use regex::bytes::Regex;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::engine::{
    Exec, ExecEnd, ExecHandle, ExecRequest, Input, Output, Outputs, Result, SandboxSession,
    WindowSize,
};

use super::failure::Failure;
use super::text::MOST_OUTPUT;

/// The terminal, as SWE-ReX has it.
const SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

/// How long a terminal is silent once its program has ended, before its rest is given up.
const SILENCE: Duration = Duration::from_millis(100);

/// The longest word of the state that a program is given: the kernel takes 128 KiB.
const WORD: usize = 100_000;

/// Takes on the state of a shell, which comes in words, and runs the command, the first one.
const TAKE_ON: &str = r#"stty -echo 2>/dev/null
shopt -s expand_aliases
IFS=
eval "${*:2}" 2>/dev/null
eval "set --
$1""#;

/// Prints the state of a shell: its variables, functions, aliases and its directory. The exit code of the
/// last command stays.
pub(super) const STATE: &str = r#"(__imgforge_code=$?
declare -p; declare -f; alias -p; printf 'cd -- %q\n' "$PWD"
exit $__imgforge_code)"#;

/// A program under way.
pub(super) struct Program {
    input: Box<dyn AsyncWrite + Send + Unpin>,
    output: BoxStream<'static, Result<Output>>,
    handle: std::sync::Arc<dyn ExecHandle>,
    /// What it printed and nobody was told yet.
    held: Vec<u8>,
}

/// Why a wait for a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// It printed what was waited for.
    Matched {
        /// What was waited for, as the client wrote it.
        expected: String,
        /// What it printed before that.
        before: Vec<u8>,
    },
    /// It ended.
    Ended {
        /// What it printed.
        before: Vec<u8>,
        /// How it ended.
        end: ExecEnd,
    },
    /// Neither came in time; what it printed is kept for the next wait.
    Late,
}

impl Program {
    /// Starts a command on a terminal, with the state of a shell.
    pub(super) async fn start(
        session: &dyn SandboxSession,
        state: &str,
        command: &str,
    ) -> std::result::Result<Program, Failure> {
        let fixed = ["/bin/bash", "--noprofile", "--norc", "-c", TAKE_ON, "bash", command];
        let mut words: Vec<String> = fixed.map(str::to_owned).into();
        let mut rest = state;
        while !rest.is_empty() {
            let mut end = rest.len().min(WORD);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (word, more) = rest.split_at(end);
            words.push(word.to_owned());
            rest = more;
        }
        let request = ExecRequest {
            command: words,
            variables: [("TERM".to_owned(), "dumb".to_owned())].into(),
            input: Input::Held,
            outputs: Outputs::Terminal(SIZE),
            ..ExecRequest::default()
        };
        let Exec { input, output, handle } = session.spawn(&request).await?;
        match input {
            Some(input) => Ok(Program { input, output, handle, held: Vec::new() }),
            None => Err(Failure::unexpected("a program on a terminal", &handle.end().await?.end)),
        }
    }

    /// Returns it as a command of the session.
    pub(super) fn handle(&self) -> std::sync::Arc<dyn ExecHandle> {
        self.handle.clone()
    }

    /// Types a line. A program that has ended does not read it.
    pub(super) async fn say(&mut self, text: &str) {
        let _ = self.input.write_all(text.as_bytes()).await;
        let _ = self.input.write_all(b"\n").await;
        let _ = self.input.flush().await;
    }

    /// Waits until it prints one of these, or ends, or the time is over.
    pub(super) async fn wait(
        &mut self,
        expected: &[String],
        limit: Option<Duration>,
    ) -> Result<Waited> {
        let patterns: Vec<Regex> = expected.iter().map(|text| pattern(text)).collect();
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut is_open = true;
        loop {
            let found = patterns.iter().enumerate().filter_map(|(index, pattern)| {
                // What is nothing at all says nothing.
                let found = pattern.find_iter(&self.held).find(|found| !found.is_empty())?;
                Some((found.start(), index, found.end()))
            });
            if let Some((start, index, end)) = found.min() {
                let mut before: Vec<u8> = self.held.drain(..end).collect();
                before.truncate(start);
                return Ok(Waited::Matched { expected: expected[index].clone(), before });
            }
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let ended = self.handle.end();
            tokio::select! {
                biased;
                piece = self.output.next(), if is_open => match piece.transpose() {
                    Ok(Some(Output::Out(bytes) | Output::Error(bytes))) => self.hold(&bytes),
                    // A terminal whose program has ended may say so as an error.
                    Ok(None) | Err(_) => is_open = false,
                },
                ended = ended => {
                    let end = ended?.end;
                    while is_open
                        && let Ok(Some(Ok(Output::Out(bytes)))) =
                            tokio::time::timeout(SILENCE, self.output.next()).await
                    {
                        self.hold(&bytes);
                    }
                    return Ok(Waited::Ended { before: std::mem::take(&mut self.held), end });
                }
                () = late => return Ok(Waited::Late),
            }
        }
    }

    /// Keeps what it prints, the last of it where it is very much.
    fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let over = self.held.len().saturating_sub(MOST_OUTPUT);
        self.held.drain(..over);
    }
}

/// Makes a pattern of what is waited for: a regular expression, as SWE-ReX takes it, or the text itself.
fn pattern(text: &str) -> Regex {
    let literal = regex::escape(text);
    Regex::new(&format!("(?s:{text})|{literal}"))
        .or_else(|_| Regex::new(&literal))
        .expect("an escaped text is a pattern")
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn what_is_waited_for_is_a_pattern_or_the_text_itself() {
        for (text, printed) in [
            (">>> ", "a\n>>> "),
            ("(gdb) ", "x\n(gdb) "),
            ("a.c", "a\nc"),
            ("[", "x["),
            ("$", "# $"),
        ] {
            assert!(pattern(text).is_match(printed.as_bytes()), "{text}");
        }
        assert!(!pattern(">>> ").is_match(b"... "));
    }
}
