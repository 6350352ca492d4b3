//! Command lines of the `swebench` harness: how its spellings become ours, and what is said of the
//! options that have no counterpart here.

mod spelling;
#[cfg(test)]
mod tests;

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use super::help::heading;
use super::render::warn;
use super::{Error, Global};

pub(super) use spelling::translate;

/// The dataset that the harness takes where none is named.
pub(super) const DEFAULT_DATASET: &str = "SWE-bench/SWE-bench_Lite";

/// Options of the harness that imgforge takes, so that scripts run as they are.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = heading::SWEBENCH)]
pub(super) struct SwebenchArgs {
    /// Does nothing: images are kept; `cache gc` bounds them
    #[arg(long, value_enum, value_name = "LEVEL", hide_short_help = true)]
    cache_level: Option<CacheLevel>,
    /// Does nothing: images are kept; `cache gc` bounds them
    #[arg(long, hide_short_help = true)]
    clean: bool,
    /// Does nothing: imgforge keeps few files open
    #[arg(long, value_name = "N", hide_short_help = true)]
    open_file_limit: Option<u64>,
    /// Does nothing: environment images are named by their keys
    #[arg(long, value_name = "TAG", hide_short_help = true)]
    env_image_tag: Option<String>,
    /// Refused: tests run on the engine of this machine
    #[arg(long, hide_short_help = true)]
    modal: bool,
    /// Refused: images are built from the dataset's rows
    #[arg(long, value_name = "REPO", hide_short_help = true)]
    task_repo: Option<String>,
}

/// Which images the harness would keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CacheLevel {
    None,
    Base,
    Env,
    /// All of them, as imgforge does
    Instance,
}

impl SwebenchArgs {
    /// Refuses what would evaluate something else, and says what does nothing.
    pub(super) fn check(&self, global: &Global) -> Result<(), Error> {
        if self.modal {
            let error = anyhow!("imgforge does not run tests on Modal, but on an engine here");
            return Err(Error::input(error).with_hint(Some("leave out --modal".to_owned())));
        }
        if let Some(repo) = &self.task_repo {
            let error =
                anyhow!("imgforge does not read task repositories, so `{repo}` is not evaluated");
            return Err(Error::input(error).with_hint(Some(
                "name a dataset that was made from it: an id on the hub, or a .jsonl file"
                    .to_owned(),
            )));
        }
        if !global.quiet {
            self.notes().into_iter().for_each(warn);
        }
        Ok(())
    }

    #[cfg(test)]
    fn is_refused(&self) -> bool {
        self.modal || self.task_repo.is_some()
    }

    /// Says of each option that was given and does nothing what to use instead.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let level = self.cache_level.filter(|level| *level != CacheLevel::Instance);
        if level.is_some() || self.clean {
            notes.push(
                "images are kept whatever --cache_level and --clean say; `imgforge cache gc`, or \
                 `keep-bytes` below [cache] in images.toml, bounds them"
                    .to_owned(),
            );
        }
        if self.open_file_limit.is_some() {
            notes.push("--open_file_limit does nothing: imgforge keeps few files open".to_owned());
        }
        if self.env_image_tag.as_deref().is_some_and(|tag| tag != "latest") {
            notes.push(
                "--env_image_tag does nothing: environment images are named by their keys"
                    .to_owned(),
            );
        }
        notes
    }
}
