//! Running a plan: what `build` and `eval` share.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;

use crate::config;
use crate::engine::HostAccess;
use crate::event::Reporter;
use crate::exec::RunSummary;
use crate::forge::{self, AssessedPlan, BuildOptions, LoadOptions};
use crate::progress::{Fanout, NdjsonReporter, PlainReporter, TtyReporter};

use super::help::heading;
use super::open;
use super::progress::Mode;
use super::{Chosen, Error, Exit, Global, Sources};

/// How a plan is run.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::BUILD)]
pub(super) struct ExecArgs {
    /// How many images and evaluations are done at once [default: 3/4 of the processors, at most
    /// 24]
    #[arg(short = 'j', long, visible_alias = "workers", aliases = ["max_workers", "num-workers"], env = "IMGFORGE_MAX_WORKERS",
        value_parser = super::workers)]
    pub max_workers: Option<usize>,
    /// Go on with what does not depend on a failed image (the default)
    #[arg(long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Start nothing more after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Write events as NDJSON while it runs; - is stdout
    #[arg(long, value_name = "FILE", env = "IMGFORGE_EVENTS", help_heading = heading::OUTPUT)]
    events: Option<PathBuf>,
    /// Certificates that build steps trust, `none` for the image's own [default: the host's]
    #[arg(long, value_name = "FILE", env = "IMGFORGE_CA_BUNDLE")]
    ca_bundle: Option<PathBuf>,
    /// The network of build steps, such as host
    #[arg(long, value_name = "MODE", env = "IMGFORGE_BUILD_NETWORK")]
    build_network: Option<String>,
    /// A file for `RUN --mount=type=secret`, as id=ID,src=FILE
    #[arg(long, value_name = "id=ID,src=FILE", value_parser = secret)]
    secret: Vec<(String, PathBuf)>,
    /// Stop before the disk has less than this free, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 2, env = "IMGFORGE_MIN_FREE")]
    pub min_free: u64,
    /// How often something is tried that fails for a passing reason
    #[arg(long, value_name = "N", default_value_t = 4, env = "IMGFORGE_ATTEMPTS")]
    attempts: u32,
    /// The same without the first time
    #[arg(long, value_name = "N", conflicts_with = "attempts", env = "IMGFORGE_RETRIES")]
    retries: Option<u32>,
}

impl ExecArgs {
    /// Returns what is loaded for a build of instances.
    pub(super) fn load_options(&self, chosen: &Chosen, sources: &Sources) -> LoadOptions {
        LoadOptions {
            workers: self.max_workers,
            min_free: self.min_free << 30,
            ..LoadOptions::of_build(chosen.selection(), sources.options())
        }
    }

    /// Builds a plan.
    pub(super) async fn build(
        &self,
        global: &Global,
        plan: &AssessedPlan<'_>,
    ) -> Result<RunSummary, Error> {
        let (options, reporter) = (self.options(global)?, self.reporter(global)?);
        plan.build(&options, reporter).await
    }

    /// Returns how a plan is run.
    ///
    /// # Errors
    /// A bundle of certificates that cannot be read.
    pub(super) fn options(&self, global: &Global) -> Result<BuildOptions, Error> {
        Ok(BuildOptions {
            fail_fast: self.fail_fast,
            attempts: self.retries.map_or(self.attempts, |more| more.saturating_add(1)),
            host: HostAccess { secrets: self.secret.iter().cloned().collect(), ..self.host()? },
            min_free: self.min_free << 30,
            told: global.progress_mode().told(global.verbose),
        })
    }

    /// Reads what build steps get from the host.
    ///
    /// # Errors
    /// A bundle of certificates that cannot be read.
    pub(super) fn host(&self) -> Result<HostAccess, Error> {
        let network = match crate::offline::is_on() {
            true => Some("none".to_owned()),
            false => self.build_network.clone(),
        };
        let host = config::host_access(open::variable, self.ca_bundle.as_deref(), network);
        host.map_err(|error| {
            let what = match &self.ca_bundle {
                Some(path) => format!("cannot read the CA bundle `{}`", path.display()),
                None => "cannot read the CA bundle".to_owned(),
            };
            Error::input(anyhow::Error::from(error).context(what))
        })
    }

    /// Returns what shows the events of a run, and writes them where that was asked for.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn reporter(&self, global: &Global) -> Result<Box<dyn Reporter>, forge::Error> {
        let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
        let output = global.verbose > 0;
        match global.progress_mode() {
            Mode::None => {}
            Mode::Tty => reporters.push(Box::new(TtyReporter::new(output))),
            Mode::Plain => reporters.push(Box::new(PlainReporter::new(std::io::stderr(), output))),
            Mode::Json => reporters.push(Box::new(NdjsonReporter::new(std::io::stderr(), output))),
        }
        if let Some(path) = &self.events {
            if path.as_os_str() == "-" {
                reporters.push(Box::new(NdjsonReporter::new(super::out::Stdout, false)));
            } else {
                let file = File::create(path).map_err(|error| {
                    let text = format!("cannot write `{}`", path.display());
                    forge::Error::input(anyhow::Error::from(error).context(text))
                })?;
                reporters.push(Box::new(NdjsonReporter::new(file, false)));
            }
        }
        Ok(Box::new(Fanout(reporters)))
    }
}

/// Returns how a run ends the process.
pub(super) fn exit_of(summary: &RunSummary) -> Exit {
    if summary.interrupted {
        Exit::Interrupted
    } else if summary.out_of_space || summary.is_nothing_possible() {
        Exit::Environment
    } else if summary.failed + summary.skipped > 0 {
        Exit::SomeFailed
    } else {
        Exit::Success
    }
}

/// Reads `id=ID,src=FILE`, as `docker build --secret` takes it; the file has to be there.
fn secret(text: &str) -> Result<(String, PathBuf), String> {
    let (mut id, mut path) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => path = Some(PathBuf::from(value)),
            Some(("type", "file")) => {}
            _ => return Err(format!("`{part}` is neither id=ID nor src=FILE")),
        }
    }
    let (Some(id), Some(path)) = (id, path) else {
        return Err("id=ID and src=FILE are both needed".to_owned());
    };
    match path.canonicalize() {
        Ok(path) => Ok((id, path)),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    }
}
