//! Starting the process that keeps a session.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::anyhow;
use clap::ValueEnum as _;

use crate::engine::EngineKind;
use crate::session::directory::SessionRecord;
use crate::session::order::SessionOrder;

use super::super::{Error, Global, open, render};
use super::keep::Answer;

/// Starts the process that keeps a session, and waits until it does. Without an engine it is the one that
/// was asked for; `words` are further options of it.
pub(in crate::cli) fn launch(
    global: &Global,
    engine: Option<EngineKind>,
    order: &SessionOrder,
    words: &[OsString],
) -> Result<SessionRecord, Error> {
    let answer = host(global, engine, order, words).map_err(|error| {
        Error::environment(anyhow::Error::from(error).context("cannot start the session's process"))
    })?;
    match answer {
        Some(Answer::Started { record, warnings }) => {
            for warning in warnings {
                render::warn(warning);
            }
            Ok(*record)
        }
        Some(Answer::Failed { message, hint, is_input }) => {
            let error = anyhow!("{message}");
            let error = match is_input {
                true => Error::input(error),
                false => Error::environment(error),
            };
            Err(error.with_hint(hint))
        }
        None => {
            let error = anyhow!("the session's process ended without an answer");
            Err(Error::environment(error))
        }
    }
}

/// Starts the process; returns what it answers.
fn host(
    global: &Global,
    engine: Option<EngineKind>,
    order: &SessionOrder,
    words: &[OsString],
) -> std::io::Result<Option<Answer>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--state-dir").arg(open::state_dir(global));
    if let Some(engine) = engine {
        command.args(["--engine", engine.name()]);
    } else if let Some(engine) = global.engine.to_possible_value() {
        command.args(["--engine", engine.get_name()]);
    }
    if let Some(config) = &global.config {
        command.arg("--config").arg(config);
    }
    for overlay in &global.overlay {
        command.arg("--overlay").arg(overlay);
    }
    command.args(["--quiet", "session", "keep"]).args(words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let text = serde_json::to_vec(order).expect("an order is valid JSON");
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text)?;
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    Ok(serde_json::from_str(&line).ok())
}
