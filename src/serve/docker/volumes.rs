//! Volumes: directories in the engine's state that outlive their containers.
//!
//! What is known of one is in its directory, so that servers of one state see the same. Whoever has it in
//! a container holds its lock.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use jiff::Timestamp;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::file_lock::is_named;

use super::answer::Refusal;
use super::id::new_id;

/// In the directory of a volume: what is known of it, its files, its lock.
const DESCRIPTION: &str = "volume.json";
const FILES: &str = "_data";
const LOCK: &str = "lock";

/// How directories begin that are no volumes, yet or any more.
const ASIDE: char = '.';

/// The label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Volume {
    /// Its name.
    pub(super) name: String,
    /// When it was made.
    pub(super) created_at: Timestamp,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// What it was made with.
    pub(super) options: BTreeMap<String, String>,
}

impl Volume {
    /// Tells whether nobody named it.
    pub(super) fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

/// A volume that is in use as long as this value lives.
pub(super) struct InUse(#[allow(dead_code, reason = "it is held, and not read")] File);

/// The volumes of a container that are in use.
pub(super) struct HeldVolumes(Mutex<Vec<InUse>>);

impl HeldVolumes {
    /// Those of a container that was just made.
    pub(super) fn new(held: Vec<InUse>) -> HeldVolumes {
        HeldVolumes(Mutex::new(held))
    }

    /// Lets go of them.
    pub(super) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The volumes of a state.
pub(super) struct Volumes(PathBuf);

impl Volumes {
    /// Those in a directory.
    pub(super) fn new(directory: PathBuf) -> Volumes {
        Volumes(directory)
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns the directory of a volume's files.
    pub(super) fn files(&self, name: &str) -> PathBuf {
        self.directory(name).join(FILES)
    }

    /// Lists all of them, by their names.
    pub(super) fn all(&self) -> Vec<Volume> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<Volume> = names.filter_map(|name| self.find(&name)).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Finds a volume.
    pub(super) fn find(&self, name: &str) -> Option<Volume> {
        check_name(name).ok()?;
        let text = std::fs::read(self.directory(name).join(DESCRIPTION)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Makes a volume, or returns the one of that name. Without a name it is an anonymous one.
    pub(super) fn make(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
    ) -> Result<Volume, Refusal> {
        if let Some(option) = options.keys().next() {
            return Err(Refusal::unserved(format!(
                "option `{option}` of a volume is not served: a volume is a directory of the state"
            )));
        }
        if let Some(volume) = self.find(name) {
            return Ok(volume);
        }
        let mut labels = labels.clone();
        let name = match name {
            "" => {
                labels.insert(ANONYMOUS.to_owned(), String::new());
                new_id()
            }
            name => check_name(name)?.to_owned(),
        };
        let options = options.clone();
        let volume = Volume { name, created_at: Timestamp::now(), labels, options };
        match self.write(&volume) {
            Ok(()) => Ok(volume),
            // Somebody else made it meanwhile.
            Err(error) => self.find(&volume.name).ok_or_else(|| {
                Refusal::failed(format!("cannot make the volume {}: {error}", volume.name))
            }),
        }
    }

    /// Writes a volume aside and gives it its name.
    fn write(&self, volume: &Volume) -> io::Result<()> {
        let aside = self.0.join(format!("{ASIDE}{}", new_id()));
        std::fs::create_dir_all(aside.join(FILES))?;
        let text = serde_json::to_vec(volume).expect("a volume is valid JSON");
        let written = std::fs::write(aside.join(DESCRIPTION), text)
            .and_then(|()| std::fs::write(aside.join(LOCK), ""))
            .and_then(|()| std::fs::rename(&aside, self.directory(&volume.name)));
        if written.is_err() {
            let _ = std::fs::remove_dir_all(&aside);
        }
        written
    }

    /// Says that a volume is in use.
    ///
    /// # Errors
    /// Where it is not there, or being removed.
    pub(super) fn hold(&self, name: &str) -> Result<InUse, Refusal> {
        let path = self.directory(name).join(LOCK);
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|_| absent(name))?;
        match file.try_lock_shared() {
            Ok(()) if is_named(&file, &path) => Ok(InUse(file)),
            _ => Err(absent(name)),
        }
    }

    /// Tells whether a volume is in use, by whichever server.
    pub(super) fn is_used(&self, name: &str) -> bool {
        !matches!(self.take(name), Ok(Some(_)))
    }

    /// Takes a volume that is not in use; `None` for one that is.
    fn take(&self, name: &str) -> io::Result<Option<File>> {
        let file = OpenOptions::new().write(true).open(self.directory(name).join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Removes a volume that is not in use.
    ///
    /// # Errors
    /// Where it is not there, or in use.
    pub(super) async fn remove(&self, engine: &dyn Engine, name: &str) -> Result<(), Refusal> {
        if self.find(name).is_none() {
            return Err(absent(name));
        }
        let Ok(Some(_taken)) = self.take(name) else {
            return Err(Refusal::conflict(format!("remove {name}: volume is in use")));
        };
        let aside = self.0.join(format!("{ASIDE}{}", new_id()));
        let moved = std::fs::rename(self.directory(name), &aside);
        moved.map_err(|error| Refusal::failed(format!("cannot remove {name}: {error}")))?;
        engine.remove_directory(&aside).await?;
        Ok(())
    }

    /// Measures the files of a volume that this process may see, in bytes.
    pub(super) fn size(&self, name: &str) -> u64 {
        let walk = walkdir::WalkDir::new(self.files(name)).into_iter().flatten();
        let sizes = walk.filter_map(|entry| entry.metadata().ok()).filter(|found| found.is_file());
        sizes.map(|found| found.len()).sum()
    }

    /// Describes a volume.
    pub(super) fn described(&self, volume: &Volume) -> Value {
        let list = |map: &BTreeMap<String, String>| match map.is_empty() {
            true => Value::Null,
            false => json!(map),
        };
        json!({
            "Name": volume.name,
            "Driver": "local",
            "Mountpoint": self.files(&volume.name),
            "CreatedAt": volume.created_at.to_string(),
            "Labels": list(&volume.labels),
            "Options": list(&volume.options),
            "Scope": "local",
        })
    }
}

/// Says that there is no volume of a name.
pub(super) fn absent(name: &str) -> Refusal {
    Refusal::absent(format!("get {name}: no such volume"))
}

/// Checks that a name can be that of a volume, and so of a directory.
pub(super) fn check_name(name: &str) -> Result<&str, Refusal> {
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new("^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}$").expect("the expression is valid")
    });
    match NAME.is_match(name) {
        true => Ok(name),
        false => Err(Refusal::bad(format!(
            "{name:?} includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"
        ))),
    }
}

/// Refuses drivers that there are not.
pub(super) fn check_driver(name: Option<&str>) -> Result<(), Refusal> {
    match name.unwrap_or_default() {
        "" | "local" => Ok(()),
        other => Err(Refusal::absent(format!(
            "error looking up volume plugin {other}: plugin \"{other}\" not found"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_once_and_is_taken_when_nobody_uses_it() {
        let directory = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(directory.path().join("volumes"));
        let none = BTreeMap::new();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        volumes.make("data", &labels, &none).unwrap();
        assert_eq!(volumes.make("data", &none, &none).unwrap().labels, labels);
        let one = volumes.make("", &none, &none).unwrap();
        assert!(one.is_anonymous() && one.name.len() == 64);
        let held = (volumes.hold("data").unwrap(), volumes.hold("data").unwrap());
        assert!(volumes.is_used("data") && !volumes.is_used(&one.name));
        drop(held);
        assert!(!volumes.is_used("data"));
        assert_eq!(volumes.all().len(), 2);
        for wrong in ["../x", ".x", "a/b", "", "a"] {
            assert!(volumes.find(wrong).is_none() && volumes.hold(wrong).is_err(), "{wrong}");
            assert!(wrong.is_empty() || volumes.make(wrong, &none, &none).is_err(), "{wrong}");
        }
        assert!(
            !volumes.0.read_dir().unwrap().any(|entry| entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with(ASIDE))
        );
        let options = BTreeMap::from([("o".to_owned(), "bind".to_owned())]);
        assert!(volumes.make("other", &none, &options).is_err());
    }
}
