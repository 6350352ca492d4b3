//! The record of evaluations: what a run of tests came to, by its key, and its log.
//!
//! Verdicts are not kept: they follow from the log, whatever the version that reads it.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;

use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::hashing::Hashing;
use crate::key::{Digest, ImageId, Key};
use crate::owner;
use crate::tree::TreeNotes;

use super::{Store, StoreError, file_error};

/// The schema of results, a number that goes up when those of before are not to be believed: up to 1
/// another process could take the tree away under the tests, and what they said then was kept.
pub(super) const RESULT_SCHEMA: u32 = 2;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS results (
        key TEXT PRIMARY KEY, instance_id TEXT NOT NULL, image_id TEXT NOT NULL,
        exit_code INTEGER NOT NULL, seconds REAL NOT NULL,
        log TEXT NOT NULL, log_bytes INTEGER NOT NULL,
        finished_at INTEGER NOT NULL DEFAULT (unixepoch()),
        last_used INTEGER NOT NULL DEFAULT (unixepoch()),
        schema INTEGER NOT NULL DEFAULT 1,
        notes TEXT NOT NULL DEFAULT '{}'
    ) WITHOUT ROWID;
";

/// Makes the table of results.
pub(super) fn prepare(database: &rusqlite::Connection) -> rusqlite::Result<()> {
    database.execute_batch(TABLE)?;
    for (column, kind) in
        [("schema", "INTEGER NOT NULL DEFAULT 1"), ("notes", "TEXT NOT NULL DEFAULT '{}'")]
    {
        let is_there = || database.prepare(&format!("SELECT {column} FROM results")).is_ok();
        if is_there() {
            continue;
        }
        let add = format!("ALTER TABLE results ADD COLUMN {column} {kind}");
        match database.execute_batch(&add) {
            // Another process did it at this moment.
            Err(_) if is_there() => {}
            done => done?,
        }
    }
    Ok(())
}

/// Speed counts: a log of a gigabyte is compressed while others wait.
const LEVEL: i32 = 1;

/// A run of tests that came to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The instance.
    pub instance_id: String,
    /// The engine's id of the image that it ran in.
    pub image_id: ImageId,
    /// The exit code of the script.
    pub exit_code: i64,
    /// Seconds from start to end of the container's work.
    pub seconds: f64,
    /// The blob of the log.
    pub log: Digest,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Seconds since 1970.
    pub finished_at: i64,
    /// What is known of the tree.
    #[serde(default)]
    pub notes: TreeNotes,
}

impl Store {
    /// Keeps a log, compressed; returns its blob and its bytes. Memory does not depend on its size.
    pub fn put_log(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let blobs = self.dir().join("blobs");
        let keep = || {
            let mut log = File::open(path)?;
            let prefix = format!("{}-", owner::name());
            let mut builder = tempfile::Builder::new();
            let mut file = builder.prefix(&prefix).tempfile_in(self.dir().join("tmp"))?;
            let hashing = Hashing::new(file.as_file_mut());
            let mut encoder = zstd::Encoder::new(hashing, LEVEL)?;
            let bytes = io::copy(&mut log, &mut encoder)?;
            let (_, digest, _) = encoder.finish()?.finish();
            file.as_file().sync_all()?;
            file.persist(blobs.join(digest.to_string())).map_err(|error| error.error)?;
            Ok((digest, bytes))
        };
        keep().map_err(file_error(path))
    }

    /// Writes a kept log to `path`. A blob that is gone or damaged is an error, and `path` is not
    /// there then.
    pub fn write_log(&self, digest: &Digest, path: &Path) -> Result<(), StoreError> {
        let blob = File::open(self.dir().join("blobs").join(digest.to_string()));
        let blob = blob.map_err(|_| StoreError::Blob(*digest))?;
        let hashing = Hashing::new(blob);
        let mut hashing = io::BufReader::with_capacity(1 << 16, hashing);
        let mut file = File::create(path).map_err(file_error(path))?;
        let copied = (|| {
            let mut decoder = zstd::Decoder::with_buffer(&mut hashing)?;
            io::copy(&mut decoder, &mut file)
        })();
        let rest = io::copy(&mut hashing, &mut io::sink());
        let whole = hashing.into_inner().finish().1 == *digest;
        if whole && rest.is_ok() {
            return copied.map(|_| ()).map_err(file_error(path));
        }
        let _ = std::fs::remove_file(path);
        Err(StoreError::Blob(*digest))
    }

    /// Records a run; a newer one of the same key takes its place.
    pub fn record_result(&self, key: &Key, record: &RunRecord) -> Result<(), StoreError> {
        self.with(|database| {
            database.execute(
                "INSERT OR REPLACE INTO results
                 (key, instance_id, image_id, exit_code, seconds, log, log_bytes, finished_at, schema,
                  notes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    key.to_string(),
                    record.instance_id,
                    record.image_id,
                    record.exit_code,
                    record.seconds,
                    record.log.to_string(),
                    record.log_bytes as i64,
                    record.finished_at,
                    RESULT_SCHEMA,
                    serde_json::to_string(&record.notes).expect("text is valid JSON"),
                ],
            )
        })?;
        Ok(())
    }

    /// Returns the result of a key.
    pub fn result(&self, key: &Key) -> Result<Option<RunRecord>, StoreError> {
        let found = self.with(|database| {
            database
                .prepare_cached(
                    "UPDATE results SET last_used = unixepoch() WHERE key = ?1 AND schema = ?2
                     RETURNING instance_id, image_id, exit_code, seconds, log, log_bytes, finished_at,
                               notes",
                )?
                .query_row(params![key.to_string(), RESULT_SCHEMA], |row| {
                    Ok((
                        RunRecord {
                            instance_id: row.get(0)?,
                            image_id: row.get(1)?,
                            exit_code: row.get(2)?,
                            seconds: row.get(3)?,
                            log: Digest::from_bytes([0; 32]),
                            log_bytes: row.get::<_, i64>(5)? as u64,
                            finished_at: row.get(6)?,
                            notes: serde_json::from_str(&row.get::<_, String>(7)?)
                                .unwrap_or_default(),
                        },
                        row.get::<_, String>(4)?,
                    ))
                })
                .optional()
        })?;
        Ok(found.and_then(|(record, log)| Some(RunRecord { log: log.parse().ok()?, ..record })))
    }

    /// Returns which of `keys` have a result whose log is here.
    pub fn results_of(&self, keys: impl Iterator<Item = Key>) -> Result<HashSet<Key>, StoreError> {
        let found = self.with(|database| {
            let mut query = database
                .prepare_cached("SELECT log FROM results WHERE key = ?1 AND schema = ?2")?;
            let mut found = Vec::new();
            for key in keys {
                let log: Option<String> = query
                    .query_row(params![key.to_string(), RESULT_SCHEMA], |row| row.get(0))
                    .optional()?;
                found.extend(log.map(|log| (key, log)));
            }
            Ok(found)
        })?;
        let blobs = self.dir().join("blobs");
        let here = found.into_iter().filter(|(_, log)| blobs.join(log).is_file());
        Ok(here.map(|(key, _)| key).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyDocument, Kind};

    fn key(number: u32) -> Key {
        KeyDocument::new(Kind::Evaluation).with("n", number).key()
    }

    #[test]
    fn a_log_comes_back_byte_for_byte_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, b"a\0\xff\n".repeat(100_000)).unwrap();
        let (digest, bytes) = store.put_log(&log).unwrap();
        assert_eq!(bytes, 400_000);
        let back = dir.path().join("back");
        store.write_log(&digest, &back).unwrap();
        assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&log).unwrap());
        let blob = dir.path().join("blobs").join(digest.to_string());
        let mut damaged = std::fs::read(&blob).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&blob, damaged).unwrap();
        assert!(matches!(store.write_log(&digest, &back), Err(StoreError::Blob(_))));
        assert!(!back.exists());
    }

    #[test]
    fn a_result_of_an_older_schema_is_not_one() {
        let dir = tempfile::tempdir().unwrap();
        let old = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
        old.execute_batch(
            "CREATE TABLE results (
                key TEXT PRIMARY KEY, instance_id TEXT NOT NULL, image_id TEXT NOT NULL,
                exit_code INTEGER NOT NULL, seconds REAL NOT NULL,
                log TEXT NOT NULL, log_bytes INTEGER NOT NULL,
                finished_at INTEGER NOT NULL DEFAULT (unixepoch()),
                last_used INTEGER NOT NULL DEFAULT (unixepoch())
            ) WITHOUT ROWID;",
        )
        .unwrap();
        let text = Digest::of(b"log").to_string();
        let insert = "INSERT OR REPLACE INTO results
                      (key, instance_id, image_id, exit_code, seconds, log, log_bytes)
                      VALUES (?1, 'a__b-1', 'sha256:1', 128, 1.0, ?2, 3)";
        old.execute(insert, params![key(1).to_string(), text]).unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("blobs").join(&text), "").unwrap();
        assert_eq!(store.result(&key(1)).unwrap(), None);
        assert!(store.results_of([key(1)].into_iter()).unwrap().is_empty());
        // An imgforge of before beside this one writes as it did.
        old.execute(insert, params![key(2).to_string(), text]).unwrap();
        assert_eq!(store.result(&key(2)).unwrap(), None);
    }

    #[test]
    fn a_result_whose_log_is_gone_is_not_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "text").unwrap();
        let (digest, log_bytes) = store.put_log(&log).unwrap();
        let record = RunRecord {
            instance_id: "a__b-1".into(),
            image_id: "sha256:1".into(),
            exit_code: 0,
            seconds: 1.5,
            log: digest,
            log_bytes,
            finished_at: 1,
            notes: TreeNotes { changed: vec!["A a".into()], ..TreeNotes::default() },
        };
        store.record_result(&key(1), &record).unwrap();
        assert_eq!(store.result(&key(1)).unwrap(), Some(record));
        assert_eq!(store.result(&key(2)).unwrap(), None);
        assert_eq!(store.results_of([key(1), key(2)].into_iter()).unwrap(), [key(1)].into());
        std::fs::remove_file(dir.path().join("blobs").join(digest.to_string())).unwrap();
        assert!(store.results_of([key(1)].into_iter()).unwrap().is_empty());
    }
}
