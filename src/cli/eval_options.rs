//! Options of running tests: limits, sandbox, rules, repetitions.

use clap::Args;

use crate::grade::Family;
use crate::plan::EvaluateOptions;
use crate::recipe::RunNetwork;
use crate::size::Bound;

use super::help::heading;

/// How tests are run.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = heading::RUN)]
pub(super) struct EvalOptions {
    /// How long the tests of an instance may take: seconds, or such as 5m or 1h30m [default: that of
    /// images.toml, else 1800]
    #[arg(short, long, value_name = "TIME", env = "IMGFORGE_TIMEOUT", help_heading = heading::LIMITS,
        value_parser = seconds)]
    pub timeout: Option<u64>,
    /// What tests can reach [default: that of images.toml, else none]
    #[arg(long, value_enum, env = "IMGFORGE_NETWORK")]
    pub network: Option<RunNetwork>,
    /// Memory of each run, such as 4g [default: that of images.toml, else 8g]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::memory, env = "IMGFORGE_MEMORY",
        help_heading = heading::LIMITS)]
    pub memory: Option<u64>,
    /// Processors of each run, such as 1.5 [default: that of images.toml, else all]
    #[arg(long, value_name = "N", value_parser = crate::size::milli_cpus, env = "IMGFORGE_CPUS",
        help_heading = heading::LIMITS)]
    pub cpus: Option<u64>,
    /// Processes and threads of each run [default: that of images.toml, else 4096]
    #[arg(long, value_name = "N", env = "IMGFORGE_PIDS_LIMIT", help_heading = heading::LIMITS,
        value_parser = clap::value_parser!(u64).range(16..))]
    pub pids_limit: Option<u64>,
    /// Bytes of files that each run may write, such as 5g, or none; never more than its share of what
    /// the disk has free [default: 20g]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::bytes_bound,
        env = "IMGFORGE_DISK", help_heading = heading::LIMITS)]
    pub disk: Option<Bound>,
    /// Files and directories that each run may make, or none [default: 1000000]
    #[arg(long, value_name = "N", value_parser = crate::size::files_bound, env = "IMGFORGE_FILES",
        help_heading = heading::LIMITS)]
    pub files: Option<Bound>,
    /// Bytes of output that each run may have, or none [default: 1g]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::bytes_bound,
        env = "IMGFORGE_LOG_SIZE", help_heading = heading::LIMITS)]
    pub log_size: Option<Bound>,
    /// Run everything, also what was run before with the same inputs
    #[arg(long, env = "IMGFORGE_NO_RESULT_CACHE")]
    pub no_result_cache: bool,
    /// Whose rules compare a log with what is expected
    #[arg(long, value_enum, default_value_t, env = "IMGFORGE_GRADING")]
    pub grading: Family,
    /// Grade more strictly than the harness: what a patch changed among the tests and of their
    /// configuration is put back, its code runs as a user without rights, counts must agree
    #[arg(long, env = "IMGFORGE_STRICT")]
    pub strict: bool,
    /// End with status 1 where a log has what that of an honest run does not have
    #[arg(long, env = "IMGFORGE_FAIL_ON_SUSPICION")]
    pub fail_on_suspicion: bool,
    /// Run each instance so often; resolved is what is resolved every time
    #[arg(long, value_name = "N", default_value_t = 1, env = "IMGFORGE_REPEAT",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
}

/// Reads a time: a number of seconds, or a number with its unit.
fn seconds(text: &str) -> Result<u64, String> {
    let whole = match text.trim().parse::<u64>() {
        Ok(seconds) => Some(seconds),
        Err(_) => text
            .trim()
            .parse::<jiff::SignedDuration>()
            .ok()
            .filter(|time| time.subsec_nanos() == 0)
            .and_then(|time| u64::try_from(time.as_secs()).ok()),
    };
    match whole {
        Some(0) => Err("at least one second is needed".to_owned()),
        Some(seconds) => Ok(seconds),
        None => Err("it is no time: write seconds (300), or 5m, 90s, 1h30m".to_owned()),
    }
}

impl EvalOptions {
    /// Returns what a plan is told of it.
    pub(super) fn options(&self) -> EvaluateOptions {
        EvaluateOptions {
            timeout: self.timeout,
            memory: self.memory,
            milli_cpus: self.cpus,
            pids: self.pids_limit,
            disk: self.disk,
            files: self.files,
            log_size: self.log_size,
            network: self.network,
            strict: self.strict,
            family: self.grading,
            repeat: self.repeat.max(1),
            ..EvaluateOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_their_unit() {
        let good = [("300", 300), ("5m", 300), ("90s", 90), ("1h30m", 5400), (" 2 m ", 120)];
        for (text, expected) in good {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["0", "0s", "-5m", "5 minutes ago", "1.5", "200ms", "m", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
