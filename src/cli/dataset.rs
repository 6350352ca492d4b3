//! `imgforge dataset`.

use std::collections::BTreeMap;

use anyhow::anyhow;
use clap::Subcommand;
use serde_json::json;

use crate::engine::LogSink;
use crate::source::Mirrors;

use super::context::{self, ChosenInstances};
use super::{Chosen, CommandResult, Exit, Failure, Global};

/// Commands of `dataset`.
#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// List instances
    Ls {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Show one instance
    Show {
        /// The instance
        id: String,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Check every row, its environment in the catalog, and its commit in its repository
    Check {
        #[command(flatten)]
        chosen: Chosen,
        /// Where repositories come from, as for `build`; without it commits are not looked for
        #[arg(long, value_name = "TEMPLATE", env = "IMGFORGE_GIT_MIRROR", value_delimiter = ' ')]
        git_mirror: Vec<String>,
    },
}

struct Quiet;

impl LogSink for Quiet {
    fn write(&self, _: &[u8]) {}
}

/// Runs `dataset`.
pub(super) async fn run(global: &Global, command: DatasetCommand) -> CommandResult {
    match command {
        DatasetCommand::Ls { chosen } => {
            let instances = context::choose(&chosen, None).await?.instances;
            if global.json {
                super::render::json(&instances).map_err(Failure::environment)?;
            } else {
                for instance in &instances {
                    println!(
                        "{}\t{}\t{}\t{}",
                        instance.instance_id, instance.repo, instance.version, instance.base_commit
                    );
                }
            }
            Ok(Exit::Success)
        }
        DatasetCommand::Show { id, mut chosen } => {
            chosen.instance_ids = vec![id];
            let instances = context::choose(&chosen, None).await?.instances;
            let instance = &instances[0];
            if global.json {
                super::render::json(instance).map_err(Failure::environment)?;
                return Ok(Exit::Success);
            }
            println!("instance     {}", instance.instance_id);
            println!("repo         {} {}", instance.repo, instance.version);
            println!("base commit  {}", instance.base_commit);
            if let Some(image) = &instance.image {
                println!("image        {image}");
            }
            println!("FAIL_TO_PASS {}", instance.FAIL_TO_PASS.len());
            println!("PASS_TO_PASS {}", instance.PASS_TO_PASS.len());
            println!("\n{}\n{}", instance.patch, instance.test_patch);
            Ok(Exit::Success)
        }
        DatasetCommand::Check { chosen, git_mirror } => check(global, chosen, git_mirror).await,
    }
}

async fn check(global: &Global, chosen: Chosen, git_mirror: Vec<String>) -> CommandResult {
    let catalog = context::catalog(global)?;
    let store = context::open_store(global)?;
    let ChosenInstances { instances, mirrors: demo_mirrors, .. } =
        context::choose(&chosen, Some(&store)).await?;
    let mut problems: Vec<(String, String)> = Vec::new();
    let mut commits: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for instance in &instances {
        let id = &instance.instance_id;
        let mut wrong = |what: String| problems.push((id.clone(), what));
        if let Err(error) = catalog.environment(&instance.repo, &instance.version, Some(instance)) {
            wrong(error.to_string());
        }
        if instance.test_patch.trim().is_empty() {
            wrong("`test_patch` is empty".to_owned());
        }
        if instance.FAIL_TO_PASS.is_empty() {
            wrong("`FAIL_TO_PASS` is empty".to_owned());
        }
        commits.entry(&instance.repo).or_default().push((id, &instance.base_commit));
    }
    let mut map = catalog.mirrors().clone();
    map.extend(demo_mirrors);
    let look = !git_mirror.is_empty() || !map.is_empty();
    let mirrors = Mirrors::new(store.dir(), git_mirror, map);
    for (repo, commits) in commits.into_iter().filter(|_| look) {
        for (id, commit) in commits {
            if mirrors.sources(repo).is_empty() {
                continue;
            }
            if let Err(error) = mirrors.mirror(repo, &[commit], &Quiet) {
                problems.push((id.to_owned(), error.to_string()));
            }
        }
    }
    if global.json {
        let rows: Vec<_> = problems
            .iter()
            .map(|(id, problem)| json!({ "instance_id": id, "problem": problem }))
            .collect();
        super::render::json(&rows).map_err(Failure::environment)?;
    }
    if problems.is_empty() {
        if !global.quiet {
            eprintln!("{} instances, nothing is wrong", instances.len());
        }
        return Ok(Exit::Success);
    }
    if !global.json {
        for (id, problem) in &problems {
            println!("{id}: {problem}");
        }
    }
    Err(Failure::input(anyhow!("{} problems in {} instances", problems.len(), instances.len())))
}
