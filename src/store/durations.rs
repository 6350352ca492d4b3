//! How long nodes took in earlier runs, by engine and name: what a schedule and a forecast go by.

use std::collections::HashMap;

use rusqlite::params;

use super::{Store, StoreError};

/// The table. The name of a node leaves out what does not matter for its time.
pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS durations (
        engine TEXT NOT NULL, name TEXT NOT NULL, seconds REAL NOT NULL,
        at INTEGER NOT NULL DEFAULT (unixepoch()),
        PRIMARY KEY (engine, name)
    ) WITHOUT ROWID;
";

impl Store {
    /// Records how long a node took; with what is recorded of it the mean is kept, in which the
    /// newest counts most.
    pub fn note_duration(&self, engine: &str, name: &str, seconds: f64) -> Result<(), StoreError> {
        self.with(|database| {
            database
                .prepare_cached(
                    "INSERT INTO durations (engine, name, seconds) VALUES (?1, ?2, ?3)
                     ON CONFLICT (engine, name) DO UPDATE SET
                     seconds = 0.4 * seconds + 0.6 * ?3, at = unixepoch()",
                )?
                .execute(params![engine, name, seconds])
                .map(drop)
        })
    }

    /// Returns the seconds of all that was recorded of an engine, by name.
    pub fn durations(&self, engine: &str) -> Result<HashMap<String, f64>, StoreError> {
        self.with(|database| {
            let mut query =
                database.prepare_cached("SELECT name, seconds FROM durations WHERE engine = ?1")?;
            let rows = query.query_map([engine], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_of_one_engine_and_moves_to_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.note_duration("docker", "env:a/b@1", 10.0).unwrap();
        store.note_duration("docker", "env:a/b@1", 20.0).unwrap();
        store.note_duration("embedded", "env:a/b@1", 1.0).unwrap();
        let durations = store.durations("docker").unwrap();
        assert_eq!(durations.len(), 1);
        assert!((durations["env:a/b@1"] - 16.0).abs() < 1e-9);
    }
}
