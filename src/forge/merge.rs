//! Joining the shards of a run: their records and files come together in the directory of the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use walkdir::WalkDir;

use crate::run::shards::{Evaluated, ShardSettings, ShardsError, join};
use crate::run::{Metadata, RUNS, RunDir, RunError};
use crate::shard::Shard;

use super::record::Record;
use super::run_directory::run_error;
use super::{Error, Notices};

/// The record of a run that was evaluated in shards.
pub(super) struct Merged {
    /// As of a run that was evaluated at once.
    pub metadata: Metadata,
    /// The results of all shards that came to their end.
    pub record: Record,
}

/// Which shards are joined.
#[derive(Debug, Clone, Default)]
pub struct MergeOptions {
    /// Directories with shards of other machines: an output directory, the directory of a run, or one
    /// above several of these.
    pub from: Vec<PathBuf>,
    /// Whether shards may be missing; what they were to evaluate was not run.
    pub allow_missing: bool,
}

/// Joins the shards in the directory of a run, and those of other machines, whose files are copied to it.
/// `None` where the run is not in shards. The joined record is written where `write`.
///
/// # Errors
/// A shard is missing or there twice, shards are not of one run, or a file cannot be read or written.
pub(super) fn merge(
    dir: &RunDir,
    options: &MergeOptions,
    write: bool,
    notices: &Notices,
) -> Result<Option<Merged>, Error> {
    let mut places = vec![dir.clone()];
    for from in &options.from {
        places.extend(find(from, dir)?);
    }
    let shards = collect(&places)?;
    if shards.is_empty() {
        return Ok(None);
    }
    let whole = dir.metadata().ok().flatten().and_then(|whole| whole.imgforge);
    if whole.is_some_and(|whole| whole.shards.is_none()) {
        return Err(run_error(RunError::Other {
            run_id: dir.run_id().clone(),
            what: "it was evaluated at once, and has shards beside that".to_owned(),
        }));
    }
    let mut records = Vec::new();
    for (shard, place) in &shards {
        records.push(metadata(&place.of_shard(*shard))?);
    }
    let metadata =
        join(&records, options.allow_missing).map_err(|error| shards_error(dir, error))?;
    let mut record = Record::default();
    for ((shard, place), metadata) in shards.iter().zip(&records) {
        if place.path() != dir.path() {
            copy(place, dir, *shard, metadata)?;
        }
        let Some(own) = Record::read(&place.of_shard(*shard)) else {
            notices.warn(format!(
                "shard {shard} did not come to its end: evaluate it again with the same run id"
            ));
            continue;
        };
        record.add(own);
    }
    let own = metadata.imgforge.as_ref().expect("joined records have settings");
    if let Some(count) = own.shards.filter(|count| *count as usize != shards.len()) {
        notices.warn(format!(
            "{} of {count} shards are there: what the others were to evaluate counts as not run",
            shards.len()
        ));
    }
    if let Some(own) = own_of(&records[0]) {
        // Every shard knows these of the whole run.
        record.models.clone_from(&own.models);
        record.unknown_ids.clone_from(&own.unknown_ids);
    }
    if write {
        dir.write_metadata(&metadata).map_err(run_error)?;
        record.write(dir).map_err(run_error)?;
    }
    Ok(Some(Merged { metadata, record }))
}

fn own_of(record: &Metadata) -> Option<&ShardSettings> {
    record.imgforge.as_ref()?.shard.as_ref()
}

/// Finds the directories of a run with shards in a directory that somebody named.
fn find(from: &Path, run: &RunDir) -> Result<Vec<RunDir>, Error> {
    let mut above = vec![from.to_owned()];
    let entries = std::fs::read_dir(from).map_err(|error| {
        Error::input(
            anyhow::Error::from(error).context(format!("cannot read `{}`", from.display())),
        )
    })?;
    let mut below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    below.sort();
    above.extend(below.into_iter().filter(|path| path.is_dir()));
    let mut found: Vec<RunDir> = Vec::new();
    for place in above {
        let name = run.run_id().as_str();
        for path in [place.clone(), place.join(name), place.join(RUNS).join(name)] {
            let candidate = RunDir::at(path, run.run_id());
            if !candidate.shards().map_err(run_error)?.is_empty() {
                found.push(candidate);
            }
        }
    }
    if found.is_empty() {
        let error = anyhow!("`{}` has no shard of run `{}`", from.display(), run.run_id());
        return Err(Error::input(error).with_hint(Some(format!(
            "it is looked for in the directory, in `{RUNS}/{}` below it, and one level down",
            run.run_id()
        ))));
    }
    Ok(found)
}

/// Lists the shards of all places, each with the first place that has it.
fn collect(places: &[RunDir]) -> Result<BTreeMap<Shard, RunDir>, Error> {
    let mut shards: BTreeMap<Shard, RunDir> = BTreeMap::new();
    for place in places {
        for shard in place.shards().map_err(run_error)? {
            let Some(known) = shards.get(&shard) else {
                shards.insert(shard, place.clone());
                continue;
            };
            let (one, other) = (known.of_shard(shard), place.of_shard(shard));
            if !is_same(&one, &other) {
                let error = anyhow!(
                    "shard {shard} is there twice, and not the same: in `{}` and in `{}`",
                    known.path().display(),
                    place.path().display()
                );
                return Err(Error::input(error)
                    .with_hint(Some("remove the one that does not count".to_owned())));
            }
        }
    }
    Ok(shards)
}

/// Tells whether two directories hold the same records of a shard.
fn is_same(one: &RunDir, other: &RunDir) -> bool {
    let same_path = match (one.path().canonicalize(), other.path().canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    };
    let bytes = |dir: &RunDir| dir.records().map(|path| std::fs::read(path).ok());
    same_path || bytes(one) == bytes(other)
}

fn metadata(dir: &RunDir) -> Result<Metadata, Error> {
    let read = dir.metadata().map_err(run_error)?;
    let is_shard = |record: &Metadata| own_of(record).map(|own| own.shard) == dir.shard();
    read.filter(is_shard).ok_or_else(|| {
        let [record, _] = dir.records();
        Error::input(anyhow!("`{}` is not the record of that shard", record.display()))
    })
}

/// Copies what a shard left to the directory of the run; its records come last.
fn copy(place: &RunDir, to: &RunDir, shard: Shard, metadata: &Metadata) -> Result<(), Error> {
    for Evaluated { instance_id, model_name_or_path } in
        own_of(metadata).into_iter().flat_map(|own| &own.slice)
    {
        let path = |dir: &RunDir| dir.instance(model_name_or_path, instance_id, 0);
        let (source, target) = (path(place).map_err(run_error)?, path(to).map_err(run_error)?);
        if source.is_dir() {
            replace(&source, &target).map_err(|error| file_error(&target, error))?;
        }
    }
    let (sources, targets) = (place.of_shard(shard).records(), to.of_shard(shard).records());
    for (source, target) in sources.iter().zip(&targets) {
        if source.is_file() {
            std::fs::copy(source, target).map_err(|error| file_error(target, error))?;
        }
    }
    Ok(())
}

/// Puts a copy of a directory in the place of another one, or where there is none.
fn replace(source: &Path, target: &Path) -> std::io::Result<()> {
    let parent = target.parent().expect("it is below the directory of the run");
    std::fs::create_dir_all(parent)?;
    let scratch = tempfile::Builder::new().prefix(".merge-").tempdir_in(parent)?;
    let new = scratch.path().join("new");
    for entry in WalkDir::new(source) {
        let entry = entry?;
        let path = new.join(entry.path().strip_prefix(source).expect("it is below its root"));
        if entry.file_type().is_dir() {
            std::fs::create_dir(&path)?;
        } else if entry.file_type().is_file() {
            std::fs::copy(entry.path(), &path)?;
        }
    }
    match std::fs::rename(target, scratch.path().join("old")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::rename(&new, target)
}

fn file_error(path: &Path, source: std::io::Error) -> Error {
    run_error(RunError::File { path: path.to_owned(), source })
}

fn shards_error(dir: &RunDir, error: ShardsError) -> Error {
    let hint = match &error {
        ShardsError::Missing(_) => {
            "name the directories of the others with --merge; --allow-missing reports what is there"
        }
        ShardsError::Counts { .. } => "evaluate all shards with one N, under a run id of their own",
        ShardsError::Unequal { .. } | ShardsError::Slices(_) => {
            "evaluate one of them again, with the same options, files and version as the others"
        }
    };
    let error =
        anyhow::Error::new(error).context(format!("run `{}` cannot be joined", dir.run_id()));
    Error::input(error).with_hint(Some(hint.to_owned()))
}
