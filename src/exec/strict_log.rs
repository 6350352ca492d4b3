//! The log of a strict evaluation on the disk: what came before the tests, their output, and the files
//! of results that they wrote, made one.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::grade::results::ResultsFile;
use crate::grade::sentinel;
use crate::recipe::strict::results;
use crate::run::file;

use super::NodeError;

/// Makes one log of what came before the tests, at `path`, and of what they printed, at `aside`,
/// which is removed. `tests` is how they ended, where they began; with `has_results`, files of results
/// follow their output.
pub(super) async fn put_together(
    path: &Path,
    aside: &Path,
    tests: Option<Option<i64>>,
    has_results: bool,
) -> Result<(), NodeError> {
    let (path, aside) = (path.to_owned(), aside.to_owned());
    let work = move || -> std::io::Result<()> {
        let whole = path.with_extension("whole");
        let mut before = File::open(&path)?;
        let mut theirs = File::open(&aside)?;
        let mut out = std::io::BufWriter::new(File::create(&whole)?);
        let (length, files) = match has_results {
            true => results_at_end(&mut theirs)?,
            false => (u64::MAX, Vec::new()),
        };
        let mut output = theirs.take(length);
        let tests = tests.map(|exit_code| sentinel::Tests {
            output: &mut output,
            exit_code,
            results: &files,
        });
        sentinel::compose(&mut before, tests, &mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        std::fs::rename(&whole, &path)?;
        std::fs::remove_file(&aside)
    };
    let done = tokio::task::spawn_blocking(work).await.expect("writing a log does not panic");
    done.map_err(|source| NodeError::File { path: PathBuf::from(file::OUTPUT), source })
}

/// Reads the files of results at the end of the tests' output; returns the length of what is before.
fn results_at_end(theirs: &mut File) -> std::io::Result<(u64, Vec<ResultsFile>)> {
    let whole = theirs.metadata()?.len();
    let mut end = Vec::new();
    theirs.seek(SeekFrom::Start(whole.saturating_sub(64)))?;
    theirs.read_to_end(&mut end)?;
    let Some(length) = results::length_at_end(&end, whole) else {
        theirs.rewind()?;
        return Ok((whole, vec![ResultsFile::Missing]));
    };
    let mut bytes = Vec::new();
    theirs.seek(SeekFrom::Start(whole - length))?;
    theirs.read_to_end(&mut bytes)?;
    theirs.rewind()?;
    Ok((whole - length, results::read(&bytes)))
}
