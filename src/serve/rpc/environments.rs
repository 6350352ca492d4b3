//! Environments: the commands that an agent may use in a session, and its actions.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gym::{Action, Command, CommandFile, CommandFileError, Environment};

use super::fault::{Fault, Kind};
use super::lines::Answer;
use super::params::{EnvAddCommands, EnvOpen, EnvStep};
use super::served::Served;
use super::under_way::Opened;

/// Where the repositories of R2E-Gym are.
const WORKDIR: &str = "/testbed";

/// How long an action may take where nothing is said of it.
const TIMEOUT: Duration = Duration::from_secs(90);

/// What is told of an environment that begins anew.
const RESET: &str = "Environment reset";

impl From<CommandFileError> for Fault {
    fn from(error: CommandFileError) -> Fault {
        Fault::bad_params(error.to_string())
    }
}

fn not_open() -> Fault {
    Fault::new(Kind::Refused, "the session has no environment").hint("`env.open` begins one")
}

/// Runs `env.open`.
pub(super) async fn open(served: Arc<Served>, params: EnvOpen) -> Answer {
    let mut opened = served.environment.lock().await;
    if opened.is_some() {
        let fault = Fault::new(Kind::Refused, "the session has an environment already");
        return Err(fault.hint("`env.reset` begins anew, `env.close` ends it"));
    }
    let environment = Environment::new(params.workdir.unwrap_or_else(|| WORKDIR.to_owned()));
    let timeout = params.timeout.map_or(TIMEOUT, |timeout| timeout.0);
    *opened = Some(Opened { environment, timeout });
    Ok(json!({}))
}

/// Runs `env.add_commands`. All files are read before the first one is installed.
pub(super) async fn add_commands(served: Arc<Served>, params: EnvAddCommands) -> Answer {
    let files = params.files.iter().map(|file| CommandFile::read(&file.name, &file.data.0));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let mut opened = served.environment.lock().await;
    let opened = opened.as_mut().ok_or_else(not_open)?;
    opened.environment.add(&*served.session(), files).await?;
    let commands: Vec<Value> = opened.environment.commands().iter().map(document).collect();
    Ok(json!({ "commands": commands }))
}

/// Returns what is told of a command.
fn document(command: &Command) -> Value {
    let Command { name, signature, docstring, end_name, arguments, .. } = command;
    let argument = |(name, settings): (&String, &Value)| {
        json!({
            "name": name,
            "required": settings["required"].as_bool(),
            "type": settings["type"].as_str(),
            "description": settings["description"].as_str(),
        })
    };
    let arguments = arguments.as_ref().map(|all| all.iter().map(argument).collect::<Vec<_>>());
    json!({
        "name": name,
        "signature": signature,
        "docstring": docstring,
        "end_name": end_name,
        "arguments": arguments,
    })
}

/// Runs `env.step`.
pub(super) async fn step(served: Arc<Served>, params: EnvStep) -> Answer {
    let mut opened = served.environment.lock().await;
    let opened = opened.as_mut().ok_or_else(not_open)?;
    let limit = params.timeout.map_or(opened.timeout, |timeout| timeout.0);
    let action = Action::read(&params.action);
    let step = opened.environment.step(&*served.session(), &action, limit).await?;
    // In the order in which they came.
    let parameters: Vec<Value> = action.parameters.iter().map(|pair| json!(pair)).collect();
    Ok(json!({
        "function": action.function,
        "parameters": parameters,
        "observation": step.observation,
        "output": step.output,
        "code": step.code,
        // A step has no reward of its own: `session.grade` has one.
        "reward": 0,
        "done": step.done,
        "duration": step.duration.as_secs_f64(),
    }))
}

/// Runs `env.reset`: the session is as it was started, and has the commands.
pub(super) async fn reset(served: Arc<Served>) -> Answer {
    let mut opened = served.environment.lock().await;
    let opened = opened.as_mut().ok_or_else(not_open)?;
    served.kept.reset(None).await?;
    opened.environment.reset(&*served.session()).await?;
    Ok(json!({ "observation": RESET }))
}

/// Runs `env.close`. The session lives on, with what was installed in it.
pub(super) async fn close(served: Arc<Served>) -> Answer {
    match served.environment.lock().await.take() {
        Some(_) => Ok(json!({})),
        None => Err(not_open()),
    }
}
