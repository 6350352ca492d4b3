//! The reports of a run on disk: what `eval` and `report` share.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::out::errln;
use crate::report::{RunReport, harness, html, junit, markdown, text};
use crate::run::{RunError, model_name, write_changed};

use super::help::heading;

/// Where the results of runs are, below the directory of what they leave.
pub(super) const DIRECTORY: &str = "evaluation_results";

/// Where reports go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = heading::OUTPUT)]
pub(super) struct Outputs {
    /// Where <model>.<run_id>.json goes [default: --output-dir]
    #[arg(long, alias = "report_dir", value_name = "DIR", env = "IMGFORGE_REPORT_DIR")]
    pub report_dir: Option<PathBuf>,
    /// A further copy of junit.xml
    #[arg(long, value_name = "FILE", env = "IMGFORGE_JUNIT")]
    junit: Option<PathBuf>,
    /// A further copy of summary.md
    #[arg(long, value_name = "FILE", env = "IMGFORGE_MARKDOWN")]
    markdown: Option<PathBuf>,
    /// A further copy of index.html
    #[arg(long, value_name = "FILE", env = "IMGFORGE_HTML")]
    html: Option<PathBuf>,
}

/// Writes all reports of a run, or of a shard under its own names; returns the files that people want to know of. What a file says
/// already is not written again.
pub(super) fn write(
    report: &RunReport,
    outputs: &Outputs,
    directory: &Path,
) -> Result<Vec<PathBuf>, RunError> {
    let mut written = Vec::new();
    let part = report.shard.map(|shard| format!("shard-{}", shard.file_name()));
    let suffix = part.as_ref().map_or(String::new(), |part| format!(".{part}"));
    for model in report.models() {
        let name = format!("{}.{}{suffix}.json", model_name(model), report.run_id);
        let path = outputs.report_dir.as_deref().unwrap_or(directory).join(name);
        let text = serde_json::to_string_pretty(&harness::run_report(report, model));
        let text = text.expect("reports are plain values") + "\n";
        write_changed(&path, text.as_bytes())?;
        written.push(path);
    }
    let mut dir = directory.join(DIRECTORY).join(report.run_id.as_str());
    dir.extend(part);
    let texts = [
        ("summary.md", &outputs.markdown, markdown::summary(report)),
        ("junit.xml", &outputs.junit, junit::junit(report)),
        ("index.html", &outputs.html, html::page(report)),
    ];
    for (name, copy, text) in texts {
        let path = dir.join(name);
        write_changed(&path, text.as_bytes())?;
        if let Some(copy) = copy {
            write_changed(copy, text.as_bytes())?;
        }
        written.push(path);
    }
    Ok(written)
}

/// Adds the summary to that of the step, on GitHub's runners.
pub(super) fn write_step_summary(report: &RunReport) -> Result<(), RunError> {
    let Some(path) = super::open::variable("GITHUB_STEP_SUMMARY") else { return Ok(()) };
    let mut options = std::fs::OpenOptions::new();
    let open = options.append(true).create(true).open(&path);
    let added = open.and_then(|mut file| file.write_all(markdown::summary(report).as_bytes()));
    added.map_err(|source| RunError::File { path: path.into(), source })
}

/// Prints what a run came to, for people.
pub(super) fn print(report: &RunReport, written: &[PathBuf]) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text::summary(report).as_bytes());
    if !written.is_empty() {
        errln!();
    }
    for path in written {
        errln!("  {}", path.display());
    }
}
