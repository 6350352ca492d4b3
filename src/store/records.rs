//! What the state keeps beside images, and what of it goes: recorded runs of tests and their logs,
//! mirrors of repositories, and rows about images that no engine has any more.
//!
//! Runs and mirrors go by age alone, and only where an age is given: they are no copies of anything
//! that is here. Rows about images that are gone say nothing any more and go every time. What is
//! leased stays, and while any run goes on, every mirror does.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::params;

use super::{GcLock, Store, StoreError, file_error};
use crate::disk;
use crate::key::ImageId;

/// How old a blob must be that no row names: one that is younger may be on its way into a row.
const BLOB_AGE: Duration = Duration::from_secs(3600);

/// How long records stay that nothing needed; `None` keeps them for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordLimits {
    /// Recorded runs of tests, with their logs.
    pub results_for: Option<Duration>,
    /// Mirrors of repositories.
    pub mirrors_for: Option<Duration>,
}

/// The records that a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecordsGone {
    /// Recorded runs of tests.
    pub results: usize,
    /// Files that nothing named any more: logs, and differences of installs.
    pub blobs: usize,
    /// Rows about images that are gone.
    pub rows: usize,
    /// Repositories whose mirrors went.
    pub mirrors: Vec<String>,
    /// Mirrors that are old enough, and stay because a run goes on.
    pub mirrors_in_use: usize,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Notes that a mirror is needed now.
pub(crate) fn note_mirror_use(mirror: &Path) {
    // Git writes this file once; a state that cannot be written to keeps the older time.
    if let Ok(head) = std::fs::File::options().append(true).open(mirror.join("HEAD")) {
        let _ = head.set_modified(SystemTime::now());
    }
}

impl Store {
    /// Removes what the limits let go, and what is about images that are gone. `others` are the ids
    /// of all images that `engine` has. With `dry_run` it is told and stays.
    pub fn collect_records(
        &self,
        _: &GcLock,
        engine: &str,
        others: &HashSet<ImageId>,
        limits: &RecordLimits,
        dry_run: bool,
    ) -> Result<RecordsGone, StoreError> {
        let leased = self.leased(false)?;
        let running = self.has_leases()?;
        let mut gone = RecordsGone::default();
        let named = self.with(|database| {
            let transaction = database.transaction()?;
            transaction.execute_batch(
                "CREATE TEMP TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY);
                 CREATE TEMP TABLE IF NOT EXISTS listed (image_id TEXT PRIMARY KEY);
                 DELETE FROM kept; DELETE FROM listed;
                 INSERT OR IGNORE INTO kept SELECT key FROM images;",
            )?;
            for key in &leased {
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO kept VALUES (?1)")?
                    .execute([key.to_string()])?;
            }
            for id in others {
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO listed VALUES (?1)")?
                    .execute([id])?;
            }
            // What no run believes any more goes whatever its age is.
            gone.results = transaction.execute(
                "DELETE FROM results WHERE schema < ?1",
                [super::results::RESULT_SCHEMA],
            )?;
            if let Some(keep) = limits.results_for {
                gone.results += transaction.execute(
                    "DELETE FROM results WHERE last_used <= unixepoch() - ?1
                     AND key NOT IN (SELECT key FROM kept)",
                    params![keep.as_secs() as i64],
                )?;
            }
            for table in ["uses", "nodes", "checkout_diffs"] {
                gone.rows += transaction.execute(
                    &format!("DELETE FROM {table} WHERE key NOT IN (SELECT key FROM kept)"),
                    [],
                )?;
            }
            gone.rows += transaction.execute(
                "DELETE FROM others WHERE engine = ?1
                 AND image_id NOT IN (SELECT image_id FROM listed)",
                [engine],
            )?;
            let named: HashSet<String> = {
                let mut query = transaction
                    .prepare("SELECT log FROM results UNION SELECT blob FROM checkout_diffs")?;
                let rows = query.query_map([], |row| row.get(0))?;
                rows.collect::<Result<_, _>>()?
            };
            match dry_run {
                true => transaction.rollback()?,
                false => transaction.commit()?,
            }
            Ok(named)
        })?;
        self.collect_blobs(&named, dry_run, &mut gone)?;
        if let Some(keep) = limits.mirrors_for {
            self.collect_mirrors(keep, running, dry_run, &mut gone)?;
        }
        Ok(gone)
    }

    fn collect_blobs(
        &self,
        named: &HashSet<String>,
        dry_run: bool,
        gone: &mut RecordsGone,
    ) -> Result<(), StoreError> {
        let blobs = self.dir().join("blobs");
        for entry in std::fs::read_dir(&blobs).map_err(file_error(&blobs))?.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let old = entry.metadata().is_ok_and(|found| {
                found.is_file() && found.modified().is_ok_and(|time| is_older(time, BLOB_AGE))
            });
            if named.contains(&name) || !old {
                continue;
            }
            gone.bytes += disk::usage(&path).unwrap_or(0);
            gone.blobs += 1;
            if !dry_run {
                removed(std::fs::remove_file(&path), &path)?;
            }
        }
        Ok(())
    }

    fn collect_mirrors(
        &self,
        keep: Duration,
        running: bool,
        dry_run: bool,
        gone: &mut RecordsGone,
    ) -> Result<(), StoreError> {
        for (repo, path) in self.mirrors()? {
            let used = std::fs::metadata(path.join("HEAD")).and_then(|found| found.modified());
            // One without that file is what a kill left.
            if used.is_ok_and(|used| !is_older(used, keep)) {
                continue;
            }
            let lock = path.with_extension("lock");
            let lock = std::fs::File::options().create(true).append(true).open(&lock);
            if running || !lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                gone.mirrors_in_use += 1;
                continue;
            }
            gone.bytes += disk::usage(&path).unwrap_or(0);
            gone.mirrors.push(repo);
            if !dry_run {
                // Aside first: half a mirror would be taken for a whole one.
                let aside = path.with_extension("gone");
                removed(std::fs::rename(&path, &aside), &path)?;
                removed(std::fs::remove_dir_all(&aside), &aside)?;
            }
        }
        Ok(())
    }

    /// Lists the mirrors: repository and directory.
    fn mirrors(&self) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let dir = self.dir().join("mirrors");
        let mut mirrors = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(file_error(&dir))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            // What a killed collection left aside.
            if name.ends_with(".gone") {
                removed(std::fs::remove_dir_all(&path), &path)?;
            }
            if let Some(repo) = name.strip_suffix(".git") {
                mirrors.push((repo.replacen("__", "/", 1), path));
            }
        }
        mirrors.sort();
        Ok(mirrors)
    }
}

fn is_older(time: SystemTime, age: Duration) -> bool {
    // A time in the future is of a clock that went wrong: young.
    time.elapsed().is_ok_and(|elapsed| elapsed >= age)
}

/// Takes it for well where another process was faster.
fn removed(done: std::io::Result<()>, path: &Path) -> Result<(), StoreError> {
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::RunRecord;
    use super::*;
    use crate::key::{Digest, Key, KeyDocument, Kind};

    const DAY: Duration = Duration::from_secs(86400);

    fn key(number: i64) -> Key {
        KeyDocument::new(Kind::Evaluation).with("n", number).key()
    }

    fn age(path: &Path, age: Duration) {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    /// Records a run that was needed so many days ago, and returns its log's blob.
    fn run(store: &Store, number: i64, days: u64) -> Digest {
        let log = store.dir().join("log");
        std::fs::write(&log, format!("log {number}")).unwrap();
        let (digest, log_bytes) = store.put_log(&log).unwrap();
        let record = RunRecord {
            instance_id: format!("a__b-{number}"),
            image_id: "sha256:1".into(),
            exit_code: 0,
            seconds: 1.0,
            log: digest,
            log_bytes,
            finished_at: 1,
            notes: Default::default(),
        };
        store.record_result(&key(number), &record).unwrap();
        let text = key(number).to_string();
        store
            .with(|database| {
                database.execute(
                    "UPDATE results SET last_used = unixepoch() - ?1 WHERE key = ?2",
                    params![(days * 86400) as i64, text],
                )
            })
            .unwrap();
        age(&store.dir().join("blobs").join(digest.to_string()), DAY * days as u32);
        digest
    }

    fn mirror(store: &Store, name: &str, days: u32) -> PathBuf {
        let path = store.dir().join(format!("mirrors/{name}.git"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        std::fs::write(path.join("pack"), vec![1; 9000]).unwrap();
        age(&path.join("HEAD"), DAY * days);
        path
    }

    #[tokio::test]
    async fn old_runs_go_with_their_logs_and_young_ones_and_leased_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (young, old) = (run(&store, 1, 2), run(&store, 2, 40));
        run(&store, 3, 40);
        let lease = store.lease([key(3)]).await.unwrap();
        let blob = |digest: &Digest| dir.path().join("blobs").join(digest.to_string());
        let limits = RecordLimits { results_for: Some(DAY * 30), ..RecordLimits::default() };
        let gate = store.lock_for_gc().await.unwrap();
        let collect = |limits: &RecordLimits, dry_run| {
            store.collect_records(&gate, "docker", &HashSet::new(), limits, dry_run).unwrap()
        };
        assert_eq!(collect(&RecordLimits::default(), false), RecordsGone::default());
        let told = collect(&limits, true);
        assert_eq!((told.results, told.blobs), (1, 1));
        assert!(told.bytes > 0 && blob(&old).exists(), "a dry run takes nothing away");
        assert!(store.result(&key(2)).unwrap().is_some());
        // Looking at it was a use.
        assert_eq!(collect(&limits, true).results, 0);
        run(&store, 2, 40);
        assert_eq!(collect(&limits, false), told);
        assert!(!blob(&old).exists() && blob(&young).exists());
        assert_eq!(store.result(&key(2)).unwrap(), None);
        assert!(store.result(&key(1)).unwrap().is_some());
        assert!(store.result(&key(3)).unwrap().is_some(), "a run needs it");
        drop(lease);
    }

    #[tokio::test]
    async fn results_of_before_that_are_not_believed_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        run(&store, 1, 0);
        store.with(|database| database.execute("UPDATE results SET schema = 1", [])).unwrap();
        run(&store, 2, 0);
        let gate = store.lock_for_gc().await.unwrap();
        let limits = RecordLimits::default();
        let gone = store.collect_records(&gate, "docker", &HashSet::new(), &limits, false).unwrap();
        assert_eq!(gone.results, 1);
        assert!(store.result(&key(2)).unwrap().is_some());
    }

    #[tokio::test]
    async fn old_mirrors_go_unless_a_run_goes_on_or_one_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (old, young) = (mirror(&store, "a__old__x", 40), mirror(&store, "a__young", 1));
        let fetched = mirror(&store, "a__fetched", 40);
        let lock = std::fs::File::create(fetched.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let limits = RecordLimits { mirrors_for: Some(DAY * 30), ..RecordLimits::default() };
        let lease = store.lease([key(1)]).await.unwrap();
        let gate = store.lock_for_gc().await.unwrap();
        let collect = |dry_run| {
            store.collect_records(&gate, "docker", &HashSet::new(), &limits, dry_run).unwrap()
        };
        let busy = collect(false);
        assert_eq!((busy.mirrors.len(), busy.mirrors_in_use), (0, 2));
        drop(lease);
        let told = collect(true);
        assert_eq!((told.mirrors.clone(), told.mirrors_in_use), (vec!["a/old__x".to_owned()], 1));
        assert!(told.bytes >= 9000 && old.exists());
        assert_eq!(collect(false), told);
        assert!(!old.exists() && young.exists() && fetched.exists());
        note_mirror_use(&fetched);
        drop(lock);
        assert_eq!(collect(false), RecordsGone::default(), "it was needed just now");
    }

    #[tokio::test]
    async fn rows_about_images_that_are_gone_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let of = ["a__b-1".to_owned()];
        store.record_use("docker", "lite", [(key(1), &of[..])].into_iter()).unwrap();
        store.set_other_layers("docker", &"sha256:gone".into(), &["sha256:1".into()]).unwrap();
        store.set_other_layers("docker", &"sha256:here".into(), &["sha256:2".into()]).unwrap();
        store.set_other_layers("embedded", &"sha256:gone".into(), &["sha256:3".into()]).unwrap();
        let gate = store.lock_for_gc().await.unwrap();
        let here = HashSet::from(["sha256:here".into()]);
        let gone =
            store.collect_records(&gate, "docker", &here, &RecordLimits::default(), false).unwrap();
        assert_eq!(gone.rows, 2, "a use, and an image of this engine");
        assert_eq!(store.other_layers("docker").unwrap().len(), 1);
        assert_eq!(store.other_layers("embedded").unwrap().len(), 1);
    }
}
