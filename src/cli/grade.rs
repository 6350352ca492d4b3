//! `imgforge grade`.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;

use crate::cli::out::{errln, outln};
use crate::dataset::Instance;
use crate::forge::unfit;
use crate::grade::{self, Expected, ReadError, Rules, RulesError};

use super::help::heading;
use super::{Chosen, CommandResult, Error, Exit, Global};

/// Arguments of `grade`.
#[derive(Debug, Args)]
pub(super) struct GradeArgs {
    /// The log; - is the standard input
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The parser, such as parse_log_pytest [default: the instance's]
    #[arg(long, value_name = "NAME", required_unless_present = "dataset")]
    parser: Option<String>,
    /// The dataset of the instance
    #[arg(short, long, aliases = ["dataset_name", "dataset-name"], value_name = "NAME",
        requires = "instance_id", help_heading = heading::DATASET)]
    dataset: Option<String>,
    /// The split
    #[arg(long, default_value = "test", help_heading = heading::DATASET)]
    split: String,
    /// The instance
    #[arg(short, long, alias = "instance_ids", alias = "instance-ids", value_name = "ID",
        help_heading = heading::DATASET)]
    instance_id: Option<String>,
}

/// Opens a log; `-` is the standard input, which is kept because it is read more than once.
fn open(path: &Path) -> io::Result<File> {
    if path.as_os_str() != "-" {
        return File::open(path);
    }
    let mut file = tempfile::tempfile()?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    file.rewind()?;
    Ok(file)
}

/// Runs `grade`.
pub(super) async fn run(global: &Global, args: GradeArgs) -> CommandResult {
    let mut instance = instance(global, &args).await?;
    if let (Some(instance), Some(name)) = (&mut instance, &args.parser) {
        instance.log_parser = Some(name.clone());
    }
    let row = instance.clone().unwrap_or_else(|| Instance {
        instance_id: args.instance_id.clone().unwrap_or_default(),
        log_parser: args.parser.clone(),
        ..Instance::default()
    });
    let rules = rules(&args, &row, instance.is_some())?;
    let file = open(&args.log)
        .with_context(|| format!("cannot read `{}`", args.log.display()))
        .map_err(Error::input)?;
    let mut log = BufReader::new(file);
    let (instance_id, version) = (&row.instance_id, &row.version);
    let context = grade::Context { instance_id, version, strict: false, runs: None };
    let reading = grade::read_log(&mut log, rules.parser, &context);
    let reading = reading.map_err(|error| match error {
        ReadError::Io(source) => Error::environment(source),
        other => {
            Error::input(anyhow!(other).context(format!("cannot grade `{}`", args.log.display())))
        }
    })?;
    let tests = instance.as_ref().filter(|_| reading.found).map(|instance| {
        grade::tests_status(
            &reading.status_map,
            &Expected {
                eval_type: rules.eval_type,
                fail_to_pass: &instance.FAIL_TO_PASS,
                pass_to_pass: &instance.PASS_TO_PASS,
            },
        )
    });
    let resolution = tests.as_ref().map(grade::TestsStatus::resolution);
    let infra = match reading.found {
        true => None,
        false => log
            .seek(SeekFrom::Start(0))
            .and_then(|_| grade::classify(&mut log))
            .map_err(Error::environment)?,
    };
    if global.json {
        let resolved = instance.as_ref().map(|_| resolution == Some(grade::Resolution::Full));
        super::render::json(&json!({
            "status_map": reading.status_map,
            "found": reading.found,
            "not_found_reason": reading.not_found.as_ref().map(ToString::to_string),
            "exit_code": reading.exit_code,
            "resolved": resolved,
            "resolution": resolution,
            "tests_status": tests,
            "infra_failure": infra.is_some_and(|infra| infra.tier == grade::Tier::Environment),
            "infra_failure_reason": infra.map(|infra| infra.reason),
            "grader": grade::GRADER,
        }));
        return Ok(Exit::Success);
    }
    for (test, status) in reading.status_map.iter() {
        outln!("{status} {test}");
    }
    if let Some(reason) = &reading.not_found {
        super::render::warn(format!("no results: {reason}"));
    }
    if let Some(resolution) = resolution {
        errln!("{resolution}");
    }
    Ok(Exit::Success)
}

/// Reads the row of the instance, where a dataset is named.
async fn instance(global: &Global, args: &GradeArgs) -> Result<Option<Instance>, Error> {
    let Some(dataset) = &args.dataset else { return Ok(None) };
    let chosen = Chosen::one(dataset, &args.split, args.instance_id.as_deref());
    let mut chosen = global.forge_options().choose(&chosen.selection()).await?;
    match chosen.instances.pop() {
        Some(instance) => Ok(Some(instance)),
        None => Err(unfit::none_left(&chosen.refused, None)),
    }
}

/// Returns the rules of a row; without one from a dataset, those of the parser that is named.
fn rules(args: &GradeArgs, row: &Instance, of_dataset: bool) -> Result<Rules, Error> {
    let rules = match &args.parser {
        Some(name) if !of_dataset => Rules::of_parser(name),
        _ => Rules::of(row),
    };
    rules.map_err(|error| {
        let hint = error.hint();
        match (&args.parser, &error) {
            (Some(name), RulesError::UnknownParser { .. }) => {
                Error::input(anyhow!("no parser is called `{name}`")).with_hint(hint)
            }
            _ => Error::input(error).with_hint(hint),
        }
    })
}
