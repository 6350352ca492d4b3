//! The database of images: what was verified on which engine, and what it was made of.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::key::{DiffId, Digest, ImageId, Key, KeyDocument, Kind};

use super::{BuildRecord, Store, StoreError};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS images (
        engine TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL,
        image_id TEXT NOT NULL, diff_ids TEXT NOT NULL, parent TEXT,
        bytes INTEGER NOT NULL, seconds REAL NOT NULL,
        last_used INTEGER NOT NULL DEFAULT (unixepoch()), node TEXT, looked TEXT,
        PRIMARY KEY (engine, key)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS nodes (
        node TEXT PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL, document TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS checkout_diffs (key TEXT PRIMARY KEY, blob TEXT NOT NULL) WITHOUT ROWID;
";

/// An image that was built or found whole.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// The key that the image was made for.
    pub key: Key,
    /// The kind.
    pub kind: Kind,
    /// The id in the plan; empty where it is not known.
    pub node: String,
    /// The engine that holds it.
    pub engine: String,
    /// The engine's id of the image: the digest of its config.
    pub image_id: ImageId,
    /// Its layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// The key of the parent; `None` of a base.
    pub parent: Option<Key>,
    /// The canonical key document.
    pub document: String,
    /// Bytes that it added.
    pub bytes: u64,
    /// Seconds that its making took.
    pub seconds: f64,
}

/// What is known of an image that was built here, or was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedImage {
    /// The engine's id at that time.
    pub image_id: ImageId,
    /// Its layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// When it was built, where that was here.
    pub built: Option<BuildRecord>,
}

/// How images were checked that are recorded, before their ids: what was checked otherwise, by an
/// older imgforge, is checked once more.
const CHECK: &str = "2 ";

/// Opens the database, creating it when it is not there.
pub(super) fn open(path: &Path, on_network: bool) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(Duration::from_secs(30))?;
    if on_network {
        // A write-ahead log needs memory that hosts do not share.
        set_journal(&database, "delete")?;
    } else {
        // With a write-ahead log, `NORMAL` cannot damage the file at a kill; a power cut may lose the
        // last commits, which only costs looking at those images again.
        set_journal(&database, "wal")?;
        database.pragma_update(None, "synchronous", "NORMAL")?;
    }
    database.execute_batch(SCHEMA)?;
    super::results::prepare(&database)?;
    database.execute_batch(super::usage::SCHEMA)?;
    database.execute_batch(super::builds::SCHEMA)?;
    database.execute_batch(super::durations::SCHEMA)?;
    if database.prepare("SELECT node FROM images").is_err() {
        database.execute_batch("ALTER TABLE images ADD COLUMN node TEXT")?;
    }
    // How it was checked, and the image id at that time: what an older imgforge recorded has none, or
    // another, and is checked once more.
    if database.prepare("SELECT looked FROM images").is_err() {
        database.execute_batch("ALTER TABLE images ADD COLUMN looked TEXT")?;
    }
    Ok(database)
}

/// Sets how changes are kept apart until they are whole; another mode is an error.
fn set_journal(database: &Connection, mode: &str) -> rusqlite::Result<()> {
    let set = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let found = database.pragma_update_and_check(None, "journal_mode", mode, set)?;
    if found == mode {
        return Ok(());
    }
    let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    Err(rusqlite::Error::SqliteFailure(error, Some(format!("its journal stays `{found}`"))))
}

impl Store {
    pub(super) fn with<T>(
        &self,
        run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut database = self.database.lock().expect("no holder of the lock panics");
        run(&mut database)
            .map_err(|source| StoreError::Database { path: self.dir.join("state.db"), source })
    }

    /// Records an image that is whole, in one transaction.
    pub fn record_image(&self, record: &ImageRecord) -> Result<(), StoreError> {
        self.record_images(std::slice::from_ref(record))
    }

    /// Records images that are whole, in one transaction.
    pub fn record_images(&self, records: &[ImageRecord]) -> Result<(), StoreError> {
        self.write_images(records, true)
    }

    fn write_images(&self, records: &[ImageRecord], used: bool) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.transaction()?;
            for record in records {
                transaction
                    .prepare_cached(
                        "INSERT INTO images
                         (engine, key, kind, image_id, diff_ids, parent, bytes, seconds, node, looked)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, nullif(?9, ''), ?11 || ?4)
                         ON CONFLICT (engine, key) DO UPDATE SET image_id = ?4, diff_ids = ?5,
                         looked = ?11 || ?4,
                         parent = ?6, bytes = max(bytes, ?7), seconds = max(seconds, ?8),
                         node = coalesce(nullif(?9, ''), node),
                         last_used = iif(?10, unixepoch(), last_used)",
                    )?
                    .execute(params![
                        record.engine,
                        record.key.to_string(),
                        record.kind.as_str(),
                        record.image_id,
                        record.diff_ids.join(" "),
                        record.parent.map(|key| key.to_string()),
                        record.bytes as i64,
                        record.seconds,
                        record.node,
                        used,
                        CHECK,
                    ])?;
                if record.node.is_empty() {
                    continue;
                }
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO nodes VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![
                        record.node,
                        record.key.to_string(),
                        record.kind.as_str(),
                        record.document
                    ])?;
            }
            transaction.commit()
        })
    }

    /// Puts images that were found whole back into the index; what it knows of their use stays.
    pub fn restore_images(&self, records: &[ImageRecord]) -> Result<(), StoreError> {
        self.write_images(records, false)
    }

    /// Returns every image that was built on `engine`, or was checked there.
    pub fn verified_images(&self, engine: &str) -> Result<HashMap<Key, VerifiedImage>, StoreError> {
        self.with(|database| {
            let mut query = database.prepare_cached(
                "SELECT key, image_id, diff_ids, started, finished, version
                 FROM images LEFT JOIN builds USING (engine, key, image_id)
                 WHERE engine = ?1 AND looked = ?2 || image_id",
            )?;
            let mut rows = query.query([engine, CHECK])?;
            let mut images = HashMap::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                if let Ok(key) = key.parse() {
                    let layers: String = row.get(2)?;
                    let diff_ids = layers.split_whitespace().map(DiffId::from).collect();
                    let version: Option<String> = row.get(5)?;
                    let built = match version {
                        Some(version) => Some(BuildRecord {
                            started: row.get(3)?,
                            finished: row.get(4)?,
                            version,
                        }),
                        None => None,
                    };
                    images.insert(key, VerifiedImage { image_id: row.get(1)?, diff_ids, built });
                }
            }
            Ok(images)
        })
    }

    /// Returns the key document of the newest image that was built for each of `nodes`.
    pub fn newest_documents<'a>(
        &self,
        nodes: impl Iterator<Item = &'a str>,
    ) -> Result<HashMap<String, KeyDocument>, StoreError> {
        self.with(|database| {
            let mut query =
                database.prepare_cached("SELECT kind, document FROM nodes WHERE node = ?1")?;
            let mut documents = HashMap::new();
            for node in nodes {
                let found: Option<(String, String)> =
                    query.query_row([node], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
                let Some((kind, text)) = found else { continue };
                let kind = Kind::IMAGES.into_iter().find(|known| known.as_str() == kind);
                // A document that cannot be read explains nothing, and harms nothing.
                if let Some(Ok(document)) = kind.map(|kind| KeyDocument::parse(kind, &text)) {
                    documents.insert(node.to_owned(), document);
                }
            }
            Ok(documents)
        })
    }

    /// Remembers what the installation of a checkout changed in tracked files.
    pub fn set_checkout_diff(&self, key: &Key, blob: &Digest) -> Result<(), StoreError> {
        self.with(|database| {
            database.execute(
                "INSERT OR REPLACE INTO checkout_diffs VALUES (?1, ?2)",
                [key.to_string(), blob.to_string()],
            )
        })?;
        Ok(())
    }

    /// Returns the blob of [`Store::set_checkout_diff`].
    pub fn checkout_diff(&self, key: &Key) -> Result<Option<Digest>, StoreError> {
        let found: Option<String> = self.with(|database| {
            database
                .query_row(
                    "SELECT blob FROM checkout_diffs WHERE key = ?1",
                    [key.to_string()],
                    |row| row.get(0),
                )
                .optional()
        })?;
        Ok(found.and_then(|text| text.parse().ok()))
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Makes a record of an image that has a number.
    pub(crate) fn record(field: i64) -> ImageRecord {
        let document = KeyDocument::new(Kind::Env).with("n", field);
        ImageRecord {
            key: document.key(),
            kind: Kind::Env,
            node: "env:a/b@1".into(),
            engine: "docker".into(),
            image_id: format!("sha256:{field}").into(),
            diff_ids: vec!["sha256:1".into()],
            parent: None,
            document: document.canonical(),
            bytes: 1,
            seconds: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::record;
    use super::*;

    #[test]
    fn what_was_found_whole_before_platforms_were_compared_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let record = record(1);
        store.record_image(&record).unwrap();
        assert!(store.verified_images(&record.engine).unwrap().contains_key(&record.key));
        store
            .with(|database| database.execute_batch("ALTER TABLE images DROP COLUMN looked"))
            .unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert!(store.verified_images(&record.engine).unwrap().is_empty());
        assert!(store.indexed(&record.engine).unwrap().contains_key(&record.key));
        store.record_image(&record).unwrap();
        assert!(store.verified_images(&record.engine).unwrap().contains_key(&record.key));
    }

    #[test]
    fn on_a_network_the_journal_is_one_that_hosts_can_share() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mode = |database: &Connection| -> String {
            database.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap()
        };
        let local = open(&path, false).unwrap();
        assert_eq!(mode(&local), "wal");
        drop(local);
        let shared = open(&path, true).unwrap();
        assert_eq!(mode(&shared), "delete");
        assert!(!dir.path().join("state.db-wal").exists());
    }

    #[test]
    fn the_newest_document_of_a_node_is_the_last_one_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.record_image(&record(1)).unwrap();
        store.record_image(&record(2)).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        let documents = store.newest_documents(["env:a/b@1", "env:x"].into_iter()).unwrap();
        assert_eq!(documents.len(), 1);
        assert_eq!(documents["env:a/b@1"].key(), record(2).key);
        assert_eq!(store.verified_images("docker").unwrap().len(), 2);
        assert!(store.verified_images("podman").unwrap().is_empty());
    }
}
