//! Options of running tests: limits, sandbox, rules, repetitions.

use clap::Args;

use crate::grade::Family;
use crate::plan::EvaluateOptions;
use crate::recipe::RunNetwork;

/// How tests are run.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Seconds that the tests of an instance may take [default: the catalog's, else 1800]
    #[arg(short, long, value_name = "SECONDS", env = "IMGFORGE_TIMEOUT",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// What tests can reach [default: the catalog's, else none]
    #[arg(long, value_enum, env = "IMGFORGE_NETWORK")]
    pub network: Option<RunNetwork>,
    /// Memory of each run, such as 4g [default: the catalog's, else 8g]
    #[arg(long, value_name = "BYTES", value_parser = bytes, env = "IMGFORGE_MEMORY")]
    pub memory: Option<u64>,
    /// Processors of each run, such as 1.5 [default: the catalog's, else all]
    #[arg(long, value_name = "N", value_parser = milli_cpus, env = "IMGFORGE_CPUS")]
    pub cpus: Option<u64>,
    /// Processes and threads of each run [default: the catalog's, else 4096]
    #[arg(long, value_name = "N", env = "IMGFORGE_PIDS_LIMIT",
        value_parser = clap::value_parser!(u64).range(16..))]
    pub pids_limit: Option<u64>,
    /// Run everything, also what was run before with the same inputs
    #[arg(long, env = "IMGFORGE_NO_RESULT_CACHE")]
    pub no_result_cache: bool,
    /// Whose rules compare a log with what is expected
    #[arg(long, value_enum, default_value_t, env = "IMGFORGE_GRADING")]
    pub grading: Family,
    /// Grade more strictly than the harness: test configuration is restored from the base commit,
    /// tests run as a user without rights, and only what they could not forge counts
    #[arg(long, env = "IMGFORGE_STRICT")]
    pub strict: bool,
    /// Run each instance so often; resolved is what is resolved every time
    #[arg(long, value_name = "N", default_value_t = 1, env = "IMGFORGE_REPEAT",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
}

impl RunArgs {
    /// Returns what a plan is told of it.
    pub fn options(&self) -> EvaluateOptions {
        EvaluateOptions {
            timeout: self.timeout,
            memory: self.memory,
            milli_cpus: self.cpus,
            pids: self.pids_limit,
            network: self.network,
            strict: self.strict,
            family: self.grading,
            repeat: self.repeat.max(1),
            ..EvaluateOptions::default()
        }
    }
}

/// Reads an amount of memory as `docker run` does.
fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(['b', 'i']);
    let (digits, shift) = match digits.chars().last() {
        Some('k') => (&digits[..digits.len() - 1], 10),
        Some('m') => (&digits[..digits.len() - 1], 20),
        Some('g') => (&digits[..digits.len() - 1], 30),
        _ => (digits, 0),
    };
    let number: f64 = digits.parse().map_err(|_| "write it as 512m or 4g".to_owned())?;
    let bytes = number * (1u64 << shift) as f64;
    // What engines refuse as too little to start a process.
    if bytes >= (6 << 20) as f64 { Ok(bytes as u64) } else { Err("at least 6m are needed".into()) }
}

fn milli_cpus(text: &str) -> Result<u64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=4096.0).contains(&number) {
        Ok((number * 1000.0).round() as u64)
    } else {
        Err("it must be at least 0.01".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_docker_reads_them() {
        assert_eq!(bytes("4g"), Ok(4 << 30));
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1.5g"), Ok(3 << 29));
        assert!(bytes("lots").is_err());
        assert!(bytes("1k").is_err());
        assert_eq!(milli_cpus("1.5"), Ok(1500));
        assert!(milli_cpus("0").is_err());
    }
}
