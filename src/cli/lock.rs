//! `imgforge lock`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;

use crate::catalog::lock::{LockRequest, lock};
use crate::catalog::{Catalog, Environment, TextFile};
use crate::cli::out::{errln, out};
use crate::config;
use crate::engine::NoLog;
use crate::exec::requirements;
use crate::package_indexes;
use crate::recipe::env::RepoFiles;
use crate::requirements::pins;
use crate::source::Mirrors;

use super::open;
use super::{CommandResult, Error, Exit, Global, render};

/// Arguments of `lock`.
#[derive(Debug, Args)]
pub(super) struct LockArgs {
    /// The repository, OWNER/NAME
    repo: String,
    /// The version, as the catalog names it
    version: String,
    /// Consider no package that was uploaded after this date (YYYY-MM-DD) [default: the catalog's]
    #[arg(long)]
    date: Option<String>,
    /// The commit whose requirement files are read
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,
    /// Lock for this Python [default: the environment's]
    #[arg(long)]
    python: Option<String>,
    /// Write here [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where repositories come from, as for `build`
    #[arg(long, value_name = "TEMPLATE", env = "IMGFORGE_GIT_MIRROR", value_delimiter = ' ')]
    git_mirror: Vec<String>,
    /// The uv program
    #[arg(long, default_value = "uv", env = "IMGFORGE_UV")]
    uv: PathBuf,
}

/// Runs `lock`.
pub(super) async fn run(global: &Global, args: LockArgs) -> CommandResult {
    if let Some(date) = &args.date {
        check_date(date)?;
    }
    let catalog = open::catalog(global)?;
    let environment = catalog.unlocked(&args.repo, &args.version).map_err(|error| {
        let hint = error.hint();
        Error::input(error).with_hint(hint)
    })?;
    let (requirements, included) = match environment.requirements.is_empty() {
        true => Default::default(),
        false => read_requirements(global, &args, &catalog, &environment)?,
    };
    let date = args.date.clone().or(environment.cutoff).ok_or_else(|| {
        Error::input(anyhow!("say with --date as of when packages are considered"))
    })?;
    let python = args.python.clone().unwrap_or(environment.python);
    let request = LockRequest {
        repo: args.repo.clone(),
        version: args.version.clone(),
        python: python.clone(),
        date: date.clone(),
        packages: environment.packages,
        requirements,
        included,
        uv: args.uv.clone(),
        variables: uv_variables(global),
        no_index: package_indexes::no_index(&open::variable),
    };
    let locked = lock(request).await.map_err(|error| {
        let hint = error.hint().map(str::to_owned);
        Error::environment(error).with_hint(hint)
    })?;
    if let Some(path) = &args.output {
        std::fs::write(path, &locked)
            .with_context(|| format!("cannot write `{}`", path.display()))
            .map_err(Error::input)?;
    }
    if global.json {
        let document = json!({
            "repo": args.repo,
            "version": args.version,
            "python": python,
            "date": date,
            "path": args.output.as_ref().map(|path| path.display().to_string()),
            "pins": pins(&locked),
            "text": locked,
        });
        render::json(&document);
    } else if args.output.is_none() {
        out!("{locked}");
    }
    Ok(Exit::Success)
}

fn check_date(date: &str) -> Result<(), Error> {
    if date.parse::<jiff::civil::Date>().is_ok() || date.parse::<jiff::Timestamp>().is_ok() {
        return Ok(());
    }
    let error = anyhow!("`--date {date}` is no date");
    Err(Error::input(error).with_hint(Some("write it as 2024-10-15".to_owned())))
}

/// Returns the environment variables of uv: the indexes, and the certificates that it reads.
fn uv_variables(global: &Global) -> BTreeMap<String, String> {
    let mut variables = package_indexes::uv_variables(&open::variable);
    if global.offline {
        variables.insert("UV_OFFLINE".to_owned(), "1".to_owned());
    }
    // uv reads SSL_CERT_FILE.
    if let (None, Some(bundle)) = (open::variable("SSL_CERT_FILE"), open::variable("PIP_CERT")) {
        variables.insert("SSL_CERT_FILE".to_owned(), bundle);
    }
    variables
}

/// Reads the requirement files of an environment: those that it names, and those that these include.
fn read_requirements(
    global: &Global,
    args: &LockArgs,
    catalog: &Catalog,
    environment: &Environment,
) -> Result<(Vec<TextFile>, Vec<TextFile>), Error> {
    let commit = args.commit.as_ref().ok_or_else(|| {
        let what = format!("`{}` {} has requirement files", args.repo, args.version);
        let hint = "say with --commit where they are read".to_owned();
        Error::input(anyhow!(what)).with_hint(Some(hint))
    })?;
    let store = open::open_store(global)?;
    let templates = match args.git_mirror.as_slice() {
        [] => vec![config::GITHUB.to_owned()],
        templates => templates.to_vec(),
    };
    let mirrors = Mirrors::new(store.dir(), templates, catalog.mirrors().clone());
    let mirror = mirrors.mirror(&args.repo, &[commit], &NoLog).map_err(|error| {
        let hint = error.hint();
        Error::environment(error).with_hint(hint)
    })?;
    let (mut named, mut included) = (Vec::new(), Vec::new());
    for candidates in &environment.requirements {
        let group = RepoFiles {
            repo: args.repo.clone(),
            commit: commit.clone(),
            candidates: candidates.clone(),
        };
        let read =
            requirements::read(&mirror, &group, &environment.variables).map_err(Error::input)?;
        for note in &read.notes {
            errln!("warning: {note}");
        }
        let mut files = read.files.into_iter().map(|(path, bytes)| TextFile {
            path,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        });
        named.extend(files.next());
        included.extend(files);
    }
    Ok((named, included))
}
