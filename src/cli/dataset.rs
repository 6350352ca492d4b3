//! `imgforge dataset`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::out::{errln, outln};
use crate::dataset::{Instance, full_name};
use crate::engine::NoLog;
use crate::forge::rows::{self, ChosenInstances};
use crate::forge::run_directory::run_error;
use crate::forge::{self, Ended, Evaluation, RunOptions, platform, unfit};
use crate::key::{Digest, Kind};
use crate::plan::PlanOptions;
use crate::plan::check::Purpose;
use crate::platform::Platform;
use crate::report::Verdict;
use crate::run::write_whole;
use crate::source::Mirrors;
use crate::words;

use super::chosen::Choice;
use super::eval::Wanted;
use super::eval_options::EvalOptions;
use super::execute::ExecArgs;
use super::help::heading;
use super::open;
use super::{Chosen, CommandResult, Error, Exit, Global, Sources};
use super::{refusal, results};

/// Commands of `dataset`.
#[derive(Debug, Subcommand)]
pub(super) enum DatasetCommand {
    /// List instances
    Ls {
        #[command(flatten)]
        chosen: Choice,
    },
    /// Show one instance
    Show {
        /// The instance
        id: String,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Check every row as eval would: its columns, its environment, its log parser, the tests that
    /// it expects, and its commit in its repository
    Check(Box<CheckArgs>),
}

/// Arguments of `dataset check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    chosen: Choice,
    /// Run every instance with its own patch and without: the first must resolve, the second must
    /// not
    #[arg(long, help_heading = heading::RUN)]
    gold: bool,
    /// What the run of --gold is called [default: check-<dataset>, begun anew each time]
    #[arg(long, alias = "run_id", value_name = "ID", help_heading = heading::RUN)]
    run_id: Option<String>,
    #[command(flatten)]
    run: EvalOptions,
    #[command(flatten)]
    // Without --git-mirror commits are not looked for.
    sources: Sources,
    #[command(flatten)]
    exec: ExecArgs,
}

/// Runs `dataset`.
pub(super) async fn run(global: &Global, command: DatasetCommand) -> CommandResult {
    match command {
        DatasetCommand::Ls { chosen } => {
            let ChosenInstances { instances, refused, .. } =
                global.forge_options().choose(&chosen.selection()).await?;
            unfit::warn(&global.notices(), &refused);
            if global.json {
                super::render::json(&instances);
            } else {
                for instance in &instances {
                    outln!(
                        "{}\t{}\t{}\t{}",
                        instance.instance_id,
                        instance.repo,
                        instance.version,
                        instance.base_commit
                    );
                }
            }
            Ok(refusal::exit(Exit::Success, &refused))
        }
        DatasetCommand::Show { id, mut chosen } => {
            chosen.instance_ids = vec![id];
            let ChosenInstances { instances, refused, .. } =
                global.forge_options().choose(&chosen.selection()).await?;
            let Some(instance) = instances.first() else {
                return Err(unfit::none_left(&refused, None).into());
            };
            if global.json {
                super::render::json(instance);
                return Ok(Exit::Success);
            }
            outln!("instance     {}", instance.instance_id);
            outln!("repo         {} {}", instance.repo, instance.version);
            outln!("base commit  {}", instance.base_commit);
            if let Some(image) = &instance.image {
                outln!("image        {image}");
            }
            outln!("FAIL_TO_PASS {}", instance.FAIL_TO_PASS.len());
            outln!("PASS_TO_PASS {}", instance.PASS_TO_PASS.len());
            outln!("\n{}", instance.patch.to_string_lossy());
            outln!("{}", instance.test_patch.to_string_lossy());
            Ok(Exit::Success)
        }
        DatasetCommand::Check(args) => check(global, *args).await,
    }
}

/// Names the run of a dataset's check: no two datasets share one.
fn check_run(chosen: &Chosen) -> String {
    let full = full_name(&chosen.dataset);
    let path = std::path::Path::new(full);
    let (name, more) = match path.canonicalize() {
        Ok(place) => {
            let stem = path.file_stem().map_or(String::new(), |stem| stem.display().to_string());
            let digest = Digest::of(place.as_os_str().as_encoded_bytes()).to_string();
            (stem, format!("-{}", &digest[..6]))
        }
        Err(_) => (full.to_owned(), String::new()),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).take(100).collect();
    let split = match chosen.split.as_str() {
        "test" => String::new(),
        split => format!("-{}", split.chars().map(plain).collect::<String>()),
    };
    format!("check-{name}{split}{more}")
}

/// Runs every instance with the gold patch and without, and lists what does not hold.
async fn check_gold(global: &Global, args: &CheckArgs) -> Result<Vec<(String, String)>, Error> {
    let run_id = args.run_id.clone().unwrap_or_else(|| check_run(&args.chosen));
    let wanted = Wanted {
        chosen: &args.chosen,
        sources: &args.sources,
        predictions: &["gold".to_owned(), "empty".to_owned()],
        exec: &args.exec,
        run: &args.run,
        shard: None,
    };
    let options = RunOptions { replace: args.run_id.is_none(), ..wanted.options(global, &run_id)? };
    let Evaluation { report, ended, .. } = &wanted.evaluate(global, &options).await?;
    let unfinished = || anyhow!("the check did not come to its end");
    match ended {
        Ended::Complete | Ended::SomeFailed => {}
        Ended::Impossible => return Err(Error::environment(unfinished())),
        Ended::Interrupted => return Err(Error::interrupted(unfinished())),
    }
    let mut problems = Vec::new();
    for result in &report.results {
        let what = match (result.model.as_str(), result.verdict) {
            ("gold", Verdict::Resolved) | ("empty", Verdict::Unresolved) => continue,
            ("gold", verdict) => format!("with the gold patch it is {verdict}"),
            (_, Verdict::Resolved) => "it is resolved without any patch".to_owned(),
            (_, verdict) => format!("without a patch it is {verdict}"),
        };
        let failing = result.failing_tests();
        let more = match (result.model.as_str(), failing.as_slice()) {
            ("gold", [first, ..]) => format!(": {} tests fail, such as `{first}`", failing.len()),
            _ => result.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}")),
        };
        problems.push((result.instance_id.clone(), format!("{what}{more}")));
    }
    let path =
        open::output_dir(global).join(results::DIRECTORY).join(&run_id).join("problems.jsonl");
    let rows: String = problems
        .iter()
        .map(|(id, problem)| json!({ "instance_id": id, "problem": problem }).to_string() + "\n")
        .collect();
    write_whole(&path, rows.as_bytes()).map_err(run_error)?;
    if !global.quiet {
        match problems.len() {
            0 => errln!("every instance holds: its own patch resolves it, and nothing else does"),
            1 => errln!("1 instance does not hold, see `{}`", path.display()),
            more => errln!("{more} instances do not hold, see `{}`", path.display()),
        }
    }
    Ok(problems)
}

async fn check(global: &Global, args: CheckArgs) -> CommandResult {
    let (chosen, git_mirror) = (&args.chosen, args.sources.git_mirror.clone());
    let catalog = open::catalog(global)?;
    let store = open::open_store(global)?;
    let ChosenInstances { instances, refused, mirrors: demo_mirrors, .. } =
        rows::choose(&chosen.selection(), store.dir(), &global.notices()).await?;
    let mut problems: Vec<(String, String)> =
        refused.into_iter().map(|one| (one.instance_id, one.why)).collect();
    let count = instances.len() + problems.len();
    let instances: Vec<Arc<Instance>> = instances.into_iter().map(Arc::new).collect();
    let (sources, defaults) = (args.sources.options(), catalog.defaults());
    let platform = sources.platform.as_ref().or(defaults.platform.as_ref());
    let platform = platform.map(|text| platform::read(text)).transpose()?;
    let platform = platform.unwrap_or_else(Platform::host);
    let options = PlanOptions {
        namespace: forge::namespace(&sources, &chosen.selection(), defaults, &platform)?,
        platform,
        derive_images: args.sources.derive_images,
        image_tag: sources.image_tag,
        up_to: Kind::Instance,
        evaluate: Some(args.run.options()),
    };
    let check = unfit::Check { catalog: &catalog, options, purpose: Purpose::Run };
    let mut unfit = check.unfit(&instances);
    let mut commits: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (at, instance) in instances.iter().enumerate() {
        let id = &instance.instance_id;
        let mut wrong = |what: String| problems.push((id.clone(), what));
        for why in unfit.remove(&at).unwrap_or_default() {
            wrong(why.text());
        }
        if instance.test_patch.is_blank() {
            wrong("`test_patch` is empty".to_owned());
        }
        if instance.FAIL_TO_PASS.is_empty() && !instance.PASS_TO_PASS.is_empty() {
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
            if let Err(error) = mirrors.mirror(repo, &[commit], &NoLog) {
                problems.push((id.to_owned(), error.to_string()));
            }
        }
    }
    if args.gold {
        problems.extend(check_gold(global, &args).await?);
    }
    if global.json {
        let rows: Vec<_> = problems
            .iter()
            .map(|(id, problem)| json!({ "instance_id": id, "problem": problem }))
            .collect();
        super::render::json(&rows);
    }
    if problems.is_empty() {
        if !global.quiet {
            errln!("{}, nothing is wrong", words::count(count, "instance"));
        }
        return Ok(Exit::Success);
    }
    if !global.json {
        for (id, problem) in &problems {
            outln!("{id}: {problem}");
        }
    }
    let (problems, instances) =
        (words::count(problems.len(), "problem"), words::count(count, "instance"));
    Err(Error::input(anyhow!("{problems} in {instances}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_of_every_dataset_is_a_run_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path.to_str().unwrap().to_owned()
        };
        let name = |dataset: &str, split: &str| check_run(&Chosen::one(dataset, split, None));
        assert_eq!(name("lite", "test"), name("SWE-bench/SWE-bench_Lite", "test"));
        let (a, b) = (path("a/rows.jsonl"), path("b/rows.jsonl"));
        let all = [name("lite", "test"), name("lite", "dev"), name(&a, "test"), name(&b, "test")];
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), 4, "{all:?}");
        assert!(all[2].starts_with("check-rows-") && !all[0].contains('/'), "{all:?}");
    }
}
