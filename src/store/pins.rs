//! Pins: images that nothing takes away, by the name that a person gave them.
//!
//! `pins.json` is a file of its own, not a part of the index, since nothing can tell it again. A
//! pin of a dataset or of an instance holds the keys of the time when it was set, and every later
//! image that the index knows for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::file_lock::FileLock;
use crate::key::Key;

use super::{Store, StoreError, file_error, write_whole};

/// The subject of a pin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "name")]
pub enum Pinned {
    /// A dataset, under the name that it was asked for with.
    Dataset(String),
    /// An instance.
    Instance(String),
    /// One image, and what it stands on.
    Key(Key),
}

impl std::fmt::Display for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pinned::Dataset(name) => write!(f, "dataset {name}"),
            Pinned::Instance(id) => write!(f, "instance {id}"),
            Pinned::Key(key) => write!(f, "key {}", key.short()),
        }
    }
}

/// All pins, with the keys of their images.
pub type Pins = BTreeMap<Pinned, BTreeSet<Key>>;

#[derive(Serialize, Deserialize)]
struct Entry {
    pin: Pinned,
    keys: BTreeSet<Key>,
}

impl Store {
    /// Returns all pins; none where the file does not exist.
    pub fn pins(&self) -> Result<Pins, StoreError> {
        let path = self.dir().join("pins.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Pins::new()),
            Err(error) => return Err(file_error(&path)(error)),
        };
        // A file that cannot be read must not let what it holds be taken away.
        let entries: Vec<Entry> =
            serde_json::from_slice(&text).map_err(|error| file_error(&path)(error.into()))?;
        Ok(entries.into_iter().map(|entry| (entry.pin, entry.keys)).collect())
    }

    /// Changes the pins.
    pub fn change_pins(&self, change: impl FnOnce(&mut Pins)) -> Result<(), StoreError> {
        let lock = self.dir().join("locks/pins");
        let _lock = FileLock::take(&lock).map_err(file_error(&lock))?;
        let mut pins = self.pins()?;
        change(&mut pins);
        let entries: Vec<Entry> = pins.into_iter().map(|(pin, keys)| Entry { pin, keys }).collect();
        let text = serde_json::to_vec_pretty(&entries).expect("pins are valid JSON");
        write_whole(&self.dir().join("pins.json"), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyDocument, Kind};

    #[test]
    fn pins_are_kept_apart_from_the_index_and_a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = KeyDocument::new(Kind::Env).key();
        let pin = Pinned::Dataset("lite".to_owned());
        store.change_pins(|pins| drop(pins.insert(pin.clone(), BTreeSet::from([key])))).unwrap();
        store.change_pins(|pins| drop(pins.insert(Pinned::Key(key), BTreeSet::new()))).unwrap();
        std::fs::remove_file(dir.path().join("state.db")).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pins = store.pins().unwrap();
        assert_eq!(pins[&pin], BTreeSet::from([key]));
        assert_eq!(pins.len(), 2);
        std::fs::write(dir.path().join("pins.json"), "[{").unwrap();
        assert!(store.pins().is_err());
    }
}
