//! `imgforge session grade`.

use anyhow::anyhow;
use clap::{Args, FromArgMatches as _};
use serde_json::json;

use crate::session::git::{self, PatchOptions};

use super::super::{Cli, Command, CommandResult, Error, Global, eval, help};
use super::found;
use super::git::git_failed;

/// Arguments of `session grade`.
#[derive(Debug, Args)]
pub(in crate::cli) struct GradeArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// What the model is called in reports
    #[arg(long, value_name = "NAME", default_value = "session")]
    model: String,
    /// Options of `imgforge eval`, such as `-- --strict --run-id first`
    #[arg(value_name = "OPTION", help_heading = None, last = true)]
    options: Vec<String>,
}

/// Runs `session grade`: what was changed since the session began is a prediction, and is evaluated as
/// any.
pub(super) async fn run(global: &Global, args: GradeArgs) -> CommandResult {
    let (record, session) = found(global, &args.session).await?;
    let Some(instance) = record.instance else {
        let error =
            anyhow!("session `{}` was started from an image, and is of no instance", record.id);
        let hint = "start it with -d and -i; `imgforge session patch` prints what was changed";
        return Err(Error::input(error).with_hint(Some(hint.to_owned())).into());
    };
    let wanted = PatchOptions {
        base: record.base,
        untracked: true,
        working_dir: record.repository,
        ..PatchOptions::default()
    };
    let patch = git::patch(&session, &wanted).await.map_err(git_failed)?;
    drop(session);
    let patch = String::from_utf8(patch).map_err(|_| {
        let error = anyhow!("the patch is not UTF-8, and a prediction has to be");
        Error::input(error).with_hint(Some("`imgforge session patch` writes its bytes".to_owned()))
    })?;
    let prediction = json!({
        "instance_id": instance.instance_id,
        "model_name_or_path": args.model,
        "model_patch": patch,
    });
    let dir = tempfile::tempdir().map_err(Error::environment)?;
    let path = dir.path().join("prediction.jsonl");
    std::fs::write(&path, format!("{prediction}\n")).map_err(Error::environment)?;
    let mut words = ["imgforge", "eval", "-d"].map(std::ffi::OsString::from).to_vec();
    words.push(instance.dataset.into());
    words.extend(["--split".into(), instance.split.into(), "-i".into()]);
    words.push(instance.instance_id.into());
    words.push("-p".into());
    words.push(path.into_os_string());
    words.extend(args.options.into_iter().map(std::ffi::OsString::from));
    let wrong = |error: clap::Error| {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::input(anyhow!("{text}"))
            .with_hint(Some("`imgforge eval --help` lists the options".to_owned()))
    };
    let matches = help::command().try_get_matches_from(words).map_err(wrong)?;
    let Cli { command, global: given } = Cli::from_arg_matches(&matches).map_err(wrong)?;
    let global = &given.over(global);
    match command {
        Command::Eval(args) => eval::run(global, *args).await,
        _ => Err(Error::input(anyhow!("the options are not those of `imgforge eval`")).into()),
    }
}
