//! Which images were built here, when and by which imgforge: what their provenance says.

use rusqlite::params;

use crate::key::{ImageId, Key};

use super::{Store, StoreError};

/// The table; a row holds for the image id in it, and for no other image of the key.
pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS builds (
        engine TEXT NOT NULL, key TEXT NOT NULL, image_id TEXT NOT NULL,
        started INTEGER NOT NULL, finished INTEGER NOT NULL, version TEXT NOT NULL,
        PRIMARY KEY (engine, key)
    ) WITHOUT ROWID;
";

/// A build of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRecord {
    /// When it began, in seconds since 1970, UTC.
    pub started: i64,
    /// When it ended.
    pub finished: i64,
    /// The version of the imgforge that built it.
    pub version: String,
}

impl Store {
    /// Records that an image was built on an engine.
    pub fn note_build(
        &self,
        engine: &str,
        key: &Key,
        image_id: &ImageId,
        build: &BuildRecord,
    ) -> Result<(), StoreError> {
        self.with(|database| {
            database
                .prepare_cached("INSERT OR REPLACE INTO builds VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    engine,
                    key.to_string(),
                    image_id,
                    build.started,
                    build.finished,
                    build.version
                ])
                .map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::images::testing;
    use super::*;

    #[test]
    fn a_build_is_of_one_image_of_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (built, found) = (testing::record(1), testing::record(2));
        store.record_images(&[built.clone(), found.clone()]).unwrap();
        let build = BuildRecord { started: 10, finished: 12, version: "1.2.3".into() };
        store.note_build(&built.engine, &built.key, &built.image_id, &build).unwrap();
        let built_here =
            |key: &Key| store.verified_images(&built.engine).unwrap().remove(key).unwrap().built;
        assert_eq!(built_here(&built.key), Some(build));
        assert_eq!(built_here(&found.key), None);
        // Another image took its place: nobody here built that one.
        let other = crate::store::ImageRecord { image_id: "sha256:9".into(), ..built.clone() };
        store.record_image(&other).unwrap();
        assert_eq!(built_here(&built.key), None);
    }
}
