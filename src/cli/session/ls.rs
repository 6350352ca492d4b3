//! `imgforge session ls`, `ps` and `stop`.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use crate::cli::out::{errln, out, outln};
use crate::engine::SandboxSession as _;
use crate::session::checkpoints::CheckpointRecord;
use crate::session::directory::{Directory, SessionRecord};
use crate::session::rpc::RemoteSession;

use super::super::{CommandResult, Error, Exit, Global, open, render};
use super::checkpoint::listed;
use super::{chain, directory, failed, found, not_found};

/// How many sessions are ended at once.
const AT_ONCE: usize = 16;

/// How long the host of a session may take to go after its session.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const TICK: Duration = Duration::from_millis(2);

/// Arguments of `session ls`.
#[derive(Debug, Args)]
pub(in crate::cli) struct LsArgs {
    /// List those as well that ended by themselves in the last day
    #[arg(short, long)]
    all: bool,
    /// List checkpoints
    #[arg(long, conflicts_with = "all")]
    checkpoints: bool,
}

/// Arguments of `session ps`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PsArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
}

/// Arguments of `session stats`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
}

/// Arguments of `session stop`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// The sessions: their names, their ids or the beginnings of those
    #[arg(value_name = "SESSION", help_heading = None, required_unless_present = "all")]
    sessions: Vec<String>,
    /// End all
    #[arg(short, long, conflicts_with = "sessions")]
    all: bool,
}

/// Runs `session ls`.
pub(super) fn ls(global: &Global, args: LsArgs) -> CommandResult {
    if args.checkpoints {
        return list_checkpoints(global);
    }
    let mut records = directory(global).list().map_err(not_found)?;
    records.retain(|record| args.all || record.ended.is_none());
    if global.json {
        outln!("{:#}", json!(records));
        return Ok(Exit::Success);
    }
    if records.is_empty() {
        if !global.quiet {
            errln!("no session");
        }
        return Ok(Exit::Success);
    }
    let rows = records.iter().map(row).collect::<Vec<_>>();
    out!("{}", table(&["ID", "NAME", "STATE", "AGE", "STARTED FROM"], &rows));
    Ok(Exit::Success)
}

fn list_checkpoints(global: &Global) -> CommandResult {
    let all = super::checkpoints(global).list().map_err(not_found)?;
    if global.json {
        let listed: Vec<_> = all.iter().map(|(record, _)| listed(record)).collect();
        outln!("{:#}", json!(listed));
        return Ok(Exit::Success);
    }
    if all.is_empty() {
        if !global.quiet {
            errln!("no checkpoint");
        }
        return Ok(Exit::Success);
    }
    let row = |(record, _): &(CheckpointRecord, _)| {
        let from = match &record.order.instance {
            Some(instance) => instance.instance_id.clone(),
            None => record.parent.clone(),
        };
        vec![record.id.clone(), record.session.clone(), age(record.created), from]
    };
    let rows = all.iter().map(row).collect::<Vec<_>>();
    out!("{}", table(&["ID", "SESSION", "AGE", "STARTED FROM"], &rows));
    Ok(Exit::Success)
}

/// Says how long ago something was, such as `5 min`.
fn age(created: jiff::Timestamp) -> String {
    let age = jiff::Timestamp::now().duration_since(created).as_secs();
    match age {
        ..120 => format!("{age} s"),
        120..7200 => format!("{} min", age / 60),
        _ => format!("{} h", age / 3600),
    }
}

/// Sets rows below their heads, as wide as they are.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&heads).chain(rows).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(record: &SessionRecord) -> Vec<String> {
    let state = match &record.ended {
        None => "runs".to_owned(),
        Some(ended) => ended.why.reason(),
    };
    let from = match &record.instance {
        Some(instance) => instance.instance_id.clone(),
        None => record.image.clone(),
    };
    let name = record.name.clone().unwrap_or_default();
    vec![record.id.clone(), name, state, age(record.created), from]
}

/// Runs `session ps`.
pub(super) async fn ps(global: &Global, args: PsArgs) -> CommandResult {
    let (_, session) = found(global, &args.session).await?;
    let processes = session.processes().await.map_err(failed)?;
    if global.json {
        outln!("{:#}", json!(processes));
        return Ok(Exit::Success);
    }
    let row = |process: &crate::engine::Process| {
        let numbers =
            [process.pid.to_string(), process.parent.to_string(), process.uid.to_string()];
        let mut row = numbers.to_vec();
        row.push(format!("{} s", process.cpu_seconds));
        row.push(process.command.clone());
        row
    };
    let rows = processes.iter().map(row).collect::<Vec<_>>();
    out!("{}", table(&["PID", "PARENT", "USER", "CPU", "COMMAND"], &rows));
    Ok(Exit::Success)
}

/// Runs `session stats`.
pub(super) async fn stats(global: &Global, args: StatsArgs) -> CommandResult {
    let (record, session) = found(global, &args.session).await?;
    let used = session.usage().await.map_err(failed)?;
    let age = jiff::Timestamp::now().duration_since(record.created);
    if global.json {
        let mut document = used.document();
        document["id"] = json!(record.id);
        document["age_ms"] = json!(age.as_millis());
        outln!("{document:#}");
        return Ok(Exit::Success);
    }
    let bytes = crate::disk::bytes_text;
    let most =
        used.most_memory.map_or_else(String::new, |most| format!(", at most {}", bytes(most)));
    outln!("processor  {:.1} s", used.cpu_nanos as f64 / 1e9);
    outln!("memory     {}{most}", bytes(used.memory));
    outln!("processes  {}", used.processes);
    outln!("written    {}", bytes(used.written));
    Ok(Exit::Success)
}

/// Runs `session stop`.
pub(super) async fn stop(global: &Global, args: StopArgs) -> CommandResult {
    let directory = directory(global);
    let records = match args.all {
        true => directory.list().map_err(not_found)?,
        false => {
            let found = args.sessions.iter().map(|text| directory.find(text));
            found.collect::<Result<_, _>>().map_err(not_found)?
        }
    };
    let (mut failures, mut ended) = (0, Vec::new());
    let stops = stream::iter(&records).map(async |record| (record, stop_one(global, record).await));
    let mut stopped = stops.buffered(AT_ONCE);
    while let Some((record, done)) = stopped.next().await {
        match done {
            Ok(()) if global.json => ended.push(&record.id),
            Ok(()) if !global.quiet => outln!("{}", record.id),
            Ok(()) => {}
            Err(error) => {
                failures += 1;
                render::warn(format!("session `{}`: {}", record.id, chain(&error)));
            }
        }
    }
    if global.json {
        outln!("{:#}", json!(ended));
    }
    if failures > 0 {
        let error = anyhow!("{failures} of {} sessions could not be ended", records.len());
        return Err(Error::environment(error).into());
    }
    Ok(Exit::Success)
}

async fn stop_one(global: &Global, record: &SessionRecord) -> Result<(), Error> {
    let directory = directory(global);
    if record.ended.is_some() {
        return directory.forget(record).map_err(not_found);
    }
    let told = tell_to_stop(&directory, record).await;
    // Its host goes a moment later, and takes the name along. One that ends by itself meanwhile cannot be
    // told any more, and goes as well.
    let until = Instant::now() + PATIENCE;
    while directory.lives(record) {
        if Instant::now() >= until {
            told?;
            let error = anyhow!("the process that keeps it, {}, does not end", record.host);
            return Err(Error::environment(error));
        }
        tokio::time::sleep(TICK).await;
    }
    directory.forget(record).map_err(not_found)
}

/// Tells the host of a session to end it. The host waits for its clients to go: none is left.
async fn tell_to_stop(directory: &Directory, record: &SessionRecord) -> Result<(), Error> {
    let stream = directory.connect(record).await.map_err(not_found)?;
    let session = RemoteSession::connect(stream).await.map_err(open::engine_failure)?;
    session.stop().await.map_err(open::engine_failure)?;
    Ok(())
}
