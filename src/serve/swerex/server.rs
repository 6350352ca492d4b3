//! The server: which sessions it serves, and to whom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::session::directory::{Directory, SessionRecord};

use super::failure::Failure;
use super::runtime::Runtime;

/// How many sessions are known before those that are gone are forgotten.
const MANY: usize = 256;

/// A server of SWE-ReX's runtime for the sessions of a state directory. The shells that it started end with
/// the value.
pub struct Server {
    directory: Directory,
    runtimes: Mutex<HashMap<String, Arc<Runtime>>>,
}

impl Server {
    /// Makes a server for the sessions that have keys, now or later.
    pub fn new(directory: Directory) -> Arc<Server> {
        Arc::new(Server { directory, runtimes: Mutex::default() })
    }

    fn runtimes(&self) -> MutexGuard<'_, HashMap<String, Arc<Runtime>>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the session with an id, or without one that of the key, for whoever shows its key.
    ///
    /// # Errors
    /// The same one for a wrong key and for a session that is not there.
    pub(super) fn admit(
        &self,
        id: Option<&str>,
        key: Option<&str>,
    ) -> Result<Arc<Runtime>, Failure> {
        let key = key.ok_or_else(Failure::forbidden)?;
        let found = match id {
            Some(id) => self.known(id).or_else(|| self.learn(&self.directory.with_id(id).ok()?)),
            None => self.of_key(key),
        };
        found.filter(|runtime| runtime.admits(key)).ok_or_else(Failure::forbidden)
    }

    fn known(&self, id: &str) -> Option<Arc<Runtime>> {
        self.runtimes().get(id).cloned()
    }

    fn of_key(&self, key: &str) -> Option<Arc<Runtime>> {
        let known = self.runtimes().values().find(|runtime| runtime.admits(key)).cloned();
        let learned = || {
            let records = self.directory.list().ok()?;
            let mut runtimes = records.iter().filter_map(|record| self.learn(record));
            runtimes.find(|runtime| runtime.admits(key))
        };
        known.or_else(learned)
    }

    /// Remembers a session that has a key. It is known on when it has ended, so that its clients are told.
    fn learn(&self, record: &SessionRecord) -> Option<Arc<Runtime>> {
        let key = self.directory.key(record).ok()??;
        let mut runtimes = self.runtimes();
        if runtimes.len() >= MANY {
            runtimes.retain(|id, _| self.directory.with_id(id).is_ok());
        }
        let made = || Arc::new(Runtime::new(self.directory.clone(), record.id.clone(), key));
        Some(runtimes.entry(record.id.clone()).or_insert_with(made).clone())
    }
}
