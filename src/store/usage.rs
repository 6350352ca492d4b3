//! What the index knows of the use of images, and of the room that they take.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::params;

use crate::key::{DiffId, ImageId, Key, Kind};

use super::{Store, StoreError};

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS uses (
        key TEXT NOT NULL, dataset TEXT NOT NULL, instance TEXT NOT NULL,
        PRIMARY KEY (key, dataset, instance)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS layers (
        engine TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (engine, name)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS others (
        engine TEXT NOT NULL, image_id TEXT NOT NULL, diff_ids TEXT NOT NULL,
        PRIMARY KEY (engine, image_id)
    ) WITHOUT ROWID;
";

/// An image as the index has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// The key.
    pub key: Key,
    /// The kind.
    pub kind: Kind,
    /// The engine's id when it was found whole.
    pub image_id: ImageId,
    /// Its layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// The parent's key.
    pub parent: Option<Key>,
    /// Seconds since 1970 when a run needed it last.
    pub last_used: i64,
    /// The id in plans, such as `env:pallets/flask@2.3`; `None` where the index was made anew.
    pub node: Option<String>,
}

/// An instance whose run needed an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The name of the dataset, as it was asked for.
    pub dataset: String,
    /// The `instance_id`.
    pub instance: String,
}

impl Store {
    /// Notes that a run needs these images of `engine` now, for these instances of `dataset`.
    pub fn record_use<'a>(
        &self,
        engine: &str,
        dataset: &str,
        images: impl Iterator<Item = (Key, &'a [String])>,
    ) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.transaction()?;
            {
                let mut touch = transaction.prepare_cached(
                    "UPDATE images SET last_used = unixepoch() WHERE engine = ?1 AND key = ?2",
                )?;
                let mut note =
                    transaction.prepare_cached("INSERT OR IGNORE INTO uses VALUES (?1, ?2, ?3)")?;
                for (key, instances) in images {
                    let key = key.to_string();
                    touch.execute([engine, &key])?;
                    for instance in instances {
                        note.execute([&key, dataset, instance])?;
                    }
                }
            }
            transaction.commit()
        })
    }

    /// Returns who needs each image.
    pub fn uses(&self) -> Result<HashMap<Key, Vec<Use>>, StoreError> {
        self.with(|database| {
            let mut query =
                database.prepare_cached("SELECT key, dataset, instance FROM uses ORDER BY key")?;
            let mut rows = query.query([])?;
            let mut uses: HashMap<Key, Vec<Use>> = HashMap::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                let Ok(key) = key.parse() else { continue };
                let one = Use { dataset: row.get(1)?, instance: row.get(2)? };
                uses.entry(key).or_default().push(one);
            }
            Ok(uses)
        })
    }

    /// Returns every image that the index has of an engine.
    pub fn indexed(&self, engine: &str) -> Result<HashMap<Key, Indexed>, StoreError> {
        self.with(|database| {
            let mut query = database.prepare_cached(
                "SELECT key, kind, image_id, diff_ids, parent, last_used, node
                 FROM images WHERE engine = ?1",
            )?;
            let mut rows = query.query([engine])?;
            let mut images = HashMap::new();
            while let Some(row) = rows.next()? {
                let (key, kind): (String, String) = (row.get(0)?, row.get(1)?);
                let kind = Kind::IMAGES.into_iter().find(|known| known.as_str() == kind);
                let (Ok(key), Some(kind)) = (key.parse(), kind) else { continue };
                let (diff_ids, parent): (String, Option<String>) = (row.get(3)?, row.get(4)?);
                let indexed = Indexed {
                    key,
                    kind,
                    image_id: row.get(2)?,
                    diff_ids: listed(&diff_ids),
                    parent: parent.and_then(|parent| parent.parse().ok()),
                    last_used: row.get(5)?,
                    node: row.get(6)?,
                };
                images.insert(key, indexed);
            }
            Ok(images)
        })
    }

    /// Takes images out of the index: the engine does not have them any more.
    pub fn forget_images(&self, engine: &str, keys: &[Key]) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.transaction()?;
            for key in keys {
                for table in ["images", "builds"] {
                    let forget = format!("DELETE FROM {table} WHERE engine = ?1 AND key = ?2");
                    transaction.prepare_cached(&forget)?.execute([engine, &key.to_string()])?;
                }
            }
            transaction.commit()
        })
    }

    /// Returns the bytes of every layer that was measured on an engine, by its name there.
    pub fn layer_bytes(&self, engine: &str) -> Result<HashMap<String, u64>, StoreError> {
        self.with(|database| {
            let mut query =
                database.prepare_cached("SELECT name, bytes FROM layers WHERE engine = ?1")?;
            let rows = query.query_map([engine], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
            rows.map(|row| row.map(|(name, bytes)| (name, bytes.max(0) as u64))).collect()
        })
    }

    /// Keeps the bytes of layers of an engine, which do not change.
    pub fn set_layer_bytes(
        &self,
        engine: &str,
        layers: &[(String, u64)],
    ) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.transaction()?;
            for (name, bytes) in layers {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO layers VALUES (?1, ?2, ?3)")?
                    .execute(params![engine, name, *bytes as i64])?;
            }
            transaction.commit()
        })
    }

    /// Forgets the bytes of layers that are no more.
    pub fn forget_layers(&self, engine: &str, names: &[String]) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.transaction()?;
            for name in names {
                transaction
                    .prepare_cached("DELETE FROM layers WHERE engine = ?1 AND name = ?2")?
                    .execute([engine, name])?;
            }
            transaction.commit()
        })
    }

    /// Lists the keys of images that any engine is known to have, with their ids in plans.
    pub fn known_keys(&self) -> Result<Vec<(Key, Option<String>)>, StoreError> {
        self.with(|database| {
            let mut query =
                database.prepare_cached("SELECT key, max(node) FROM images GROUP BY key")?;
            let mut rows = query.query([])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                if let Ok(key) = key.parse() {
                    keys.push((key, row.get(1)?));
                }
            }
            Ok(keys)
        })
    }

    /// Counts the images that other engines are known to have, by the engine; with `keys` those of
    /// them alone.
    pub fn elsewhere(
        &self,
        engine: &str,
        keys: Option<&HashSet<Key>>,
    ) -> Result<BTreeMap<String, usize>, StoreError> {
        self.with(|database| {
            let mut query =
                database.prepare_cached("SELECT engine, key FROM images WHERE engine <> ?1")?;
            let mut rows = query.query([engine])?;
            let mut counts = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let (engine, key): (String, String) = (row.get(0)?, row.get(1)?);
                let wanted = |keys: &HashSet<Key>| key.parse().is_ok_and(|key| keys.contains(&key));
                if keys.is_none_or(wanted) {
                    *counts.entry(engine).or_insert(0) += 1;
                }
            }
            Ok(counts)
        })
    }

    /// Forgets the images of engines whose names in the index begin so: they were removed.
    pub fn forget_engines(&self, start: &str) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.transaction()?;
            for table in ["images", "builds", "layers", "others"] {
                let delete = format!("DELETE FROM {table} WHERE substr(engine, 1, ?2) = ?1");
                transaction
                    .execute(&delete, rusqlite::params![start, start.chars().count() as i64])?;
            }
            transaction.commit()
        })
    }

    /// Returns the layers of images that are not imgforge's, by their id, as far as they are known.
    pub fn other_layers(&self, engine: &str) -> Result<HashMap<ImageId, Vec<DiffId>>, StoreError> {
        self.with(|database| {
            let mut query = database
                .prepare_cached("SELECT image_id, diff_ids FROM others WHERE engine = ?1")?;
            let rows =
                query.query_map([engine], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
            rows.map(|row| row.map(|(id, diff_ids)| (id, listed(&diff_ids)))).collect()
        })
    }

    /// Keeps the layers of an image that is not imgforge's.
    pub fn set_other_layers(
        &self,
        engine: &str,
        image_id: &ImageId,
        diff_ids: &[DiffId],
    ) -> Result<(), StoreError> {
        self.with(|database| {
            database.execute(
                "INSERT OR REPLACE INTO others VALUES (?1, ?2, ?3)",
                [engine, image_id.as_str(), &diff_ids.join(" ")],
            )
        })?;
        Ok(())
    }
}

/// Returns the layers of a column, in which a space is between two. An image may have none.
fn listed(column: &str) -> Vec<DiffId> {
    column.split_whitespace().map(DiffId::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyDocument;
    use crate::store::ImageRecord;

    #[test]
    fn the_use_of_an_image_is_noted_with_who_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let document = KeyDocument::new(Kind::Env).with("n", 1);
        let key = document.key();
        let record = ImageRecord {
            key,
            kind: Kind::Env,
            node: "env:a/b@1".into(),
            engine: "docker".into(),
            image_id: "sha256:1".into(),
            diff_ids: vec!["sha256:1".into(), "sha256:2".into()],
            parent: None,
            document: document.canonical(),
            bytes: 1,
            seconds: 1.0,
        };
        store.record_image(&record).unwrap();
        store
            .with(|database| database.execute("UPDATE images SET last_used = 5", []).map(drop))
            .unwrap();
        assert_eq!(store.indexed("docker").unwrap()[&key].last_used, 5);
        let instances = ["a__b-1".to_owned(), "a__b-2".to_owned()];
        for _ in 0..2 {
            store.record_use("docker", "lite", [(key, &instances[..])].into_iter()).unwrap();
        }
        let indexed = &store.indexed("docker").unwrap()[&key];
        assert!(indexed.last_used > 5);
        assert_eq!(indexed.diff_ids, record.diff_ids);
        assert_eq!(indexed.node.as_deref(), Some("env:a/b@1"));
        assert_eq!(store.uses().unwrap()[&key].len(), 2);
        store.forget_images("docker", &[key]).unwrap();
        assert!(store.indexed("docker").unwrap().is_empty());
    }
    #[test]
    fn an_image_without_layers_has_none_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layers = [vec![], vec!["sha256:1".into()], vec!["sha256:1".into(), "sha256:2".into()]];
        for (number, layers) in layers.iter().enumerate() {
            store.set_other_layers("docker", &format!("sha256:{number}").into(), layers).unwrap();
        }
        let read = store.other_layers("docker").unwrap();
        for (number, layers) in layers.iter().enumerate() {
            assert_eq!(&read[&ImageId::from(format!("sha256:{number}"))], layers);
        }
    }
}
