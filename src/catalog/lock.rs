//! Writing the lockfile of an environment as of a date, with `uv pip compile`.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// What is to be locked.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// For the header: the repository and its version.
    pub subject: String,
    /// The Python that the environment uses.
    pub python: String,
    /// Packages uploaded after this date (`YYYY-MM-DD`) are not considered.
    pub date: String,
    /// The text of all requirement sources, one after the other.
    pub requirements: String,
    /// The program, `uv` unless another is named.
    pub uv: String,
}

/// Why a lockfile cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is no `uv`.
    #[error("cannot run `{uv}`")]
    NoUv {
        /// The program.
        uv: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The requirements have no solution, or an index cannot be reached.
    #[error("`uv pip compile` found no lock for {subject}: {said}")]
    Unsolvable {
        /// The environment.
        subject: String,
        /// The words of `uv`.
        said: String,
    },
    /// The date is not one.
    #[error("`{date}` is not a date of the form YYYY-MM-DD")]
    Date {
        /// What was given.
        date: String,
    },
}

/// Resolves the requirements and returns the lockfile's text, hashes included.
pub fn lock(request: &LockRequest) -> Result<String, LockError> {
    if request.date.parse::<jiff::civil::Date>().is_err() {
        return Err(LockError::Date { date: request.date.clone() });
    }
    let no_uv = |source| LockError::NoUv { uv: request.uv.clone(), source };
    let mut child = Command::new(&request.uv)
        .args(["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"])
        .args(["--exclude-newer", &request.date, "--python-version", &request.python])
        .args(["--python-platform", "x86_64-unknown-linux-gnu", "--no-emit-index-url", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_uv)?;
    let mut input = child.stdin.take().expect("stdin is piped");
    let text = request.requirements.clone();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(no_uv)?;
    // A uv that ends early has said why on its stderr.
    let _ = writer.join();
    if !output.status.success() {
        return Err(LockError::Unsolvable {
            subject: request.subject.clone(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(format!(
        "# {}, Python {}, packages as of {}\n# written by `imgforge lock`\n{}",
        request.subject,
        request.python,
        request.date,
        String::from_utf8_lossy(&output.stdout)
    ))
}
