//! The one server of a state directory, and where others find it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::atomic;
use crate::file_lock::FileLock;

use super::address::LoopbackAddress;

/// Files below the state directory.
const LOCK: &str = "swerex.lock";
const RECORD: &str = "swerex.json";

/// How often the lock is tried for: whoever looks for a server holds it for a moment.
const TRIES: u32 = 20;

/// A server that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Where.
    pub address: SocketAddr,
    /// Its process.
    pub process: i32,
}

impl Serving {
    /// Finds the server of a state directory; `None` where none serves.
    pub fn of(state_dir: &Path) -> Option<Serving> {
        let lock = fs::File::open(state_dir.join(LOCK)).ok()?;
        // A server holds it for itself alone.
        if lock.try_lock_shared().is_ok() {
            return None;
        }
        serde_json::from_slice(&fs::read(state_dir.join(RECORD)).ok()?).ok()
    }

    /// Returns where a session is served, as SWE-ReX's `host`.
    pub fn host_of(&self, session: &str) -> String {
        format!("http://{}/s/{session}", self.address)
    }
}

/// Why a server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Another one does.
    #[error("SWE-ReX is served for `{}` already{}", state_dir.display(), place(serving.as_ref()))]
    Taken {
        /// The state directory.
        state_dir: PathBuf,
        /// The other one, where it says where it is.
        serving: Option<Serving>,
    },
    /// The system refused the address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: LoopbackAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error("cannot use `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn place(serving: Option<&Serving>) -> String {
    serving.map(|serving| format!(", at http://{}", serving.address)).unwrap_or_default()
}

/// The place of the one server of a state directory; it is free again with this value.
#[derive(Debug)]
pub struct Registration {
    listener: TcpListener,
    serving: Serving,
    record: PathBuf,
    _lock: FileLock,
}

impl Registration {
    /// Listens, and says where.
    ///
    /// # Errors
    /// [`RegistrationError::Taken`] where another one serves this state directory.
    pub async fn take(
        state_dir: &Path,
        address: LoopbackAddress,
    ) -> Result<Registration, RegistrationError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RegistrationError::Io { path, source }
        };
        fs::create_dir_all(state_dir).map_err(failed(state_dir))?;
        let path = state_dir.join(LOCK);
        let mut tries = 0;
        let lock = loop {
            tries += 1;
            match FileLock::try_take(&path).map_err(failed(&path))? {
                Some(lock) => break lock,
                None if tries < TRIES => tokio::time::sleep(Duration::from_millis(10)).await,
                None => {
                    let (state_dir, serving) = (state_dir.to_owned(), Serving::of(state_dir));
                    return Err(RegistrationError::Taken { state_dir, serving });
                }
            }
        };
        let unheard = |source| RegistrationError::Listen { address, source };
        let listener = TcpListener::bind(address.socket()).await.map_err(unheard)?;
        let address = listener.local_addr().map_err(unheard)?;
        let process = i32::try_from(std::process::id()).unwrap_or_default();
        let serving = Serving { address, process };
        let record = state_dir.join(RECORD);
        let text = serde_json::to_vec(&serving).expect("it is valid JSON");
        atomic::write(&record, &text, false).map_err(failed(&record))?;
        Ok(Registration { listener, serving, record, _lock: lock })
    }

    /// Returns the listener.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Returns where it listens.
    pub fn serving(&self) -> &Serving {
        &self.serving
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_directory_has_one_server_that_is_found_as_long_as_it_serves() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Serving::of(state.path()), None);
        let any = LoopbackAddress::default();
        let first = Registration::take(state.path(), any).await.unwrap();
        assert_ne!(first.serving().address.port(), 0);
        assert_eq!(Serving::of(state.path()).as_ref(), Some(first.serving()));
        let second = Registration::take(state.path(), any).await.unwrap_err();
        assert!(second.to_string().contains(&first.serving().address.to_string()), "{second}");
        let other = tempfile::tempdir().unwrap();
        let taken: LoopbackAddress = first.serving().address.to_string().parse().unwrap();
        let refused = Registration::take(other.path(), taken).await.unwrap_err();
        assert!(matches!(refused, RegistrationError::Listen { .. }), "{refused}");
        drop(first);
        assert_eq!(Serving::of(state.path()), None);
        // What a server leaves that was killed does not count.
        let record = Serving { address: "127.0.0.1:1".parse().unwrap(), process: 1 };
        fs::write(state.path().join(RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
        fs::write(state.path().join(LOCK), "").unwrap();
        assert_eq!(Serving::of(state.path()), None);
        Registration::take(state.path(), any).await.unwrap();
    }
}
