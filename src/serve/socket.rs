//! The unix socket of a server: for one user, one server at a time.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;
use tokio::net::UnixListener;

use crate::file_lock::FileLock;

/// The longest path that the kernel takes for a socket, in bytes.
const MOST_PATH: usize = 107;

/// The address of a server: `unix:///PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(PathBuf);

impl Address {
    /// Returns the path of the socket, which is absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

impl FromStr for Address {
    type Err = SocketError;

    fn from_str(text: &str) -> Result<Address, SocketError> {
        let path = text.strip_prefix("unix://").map(PathBuf::from);
        match path.filter(|path| path.is_absolute()) {
            Some(path) if path.as_os_str().len() > MOST_PATH => Err(SocketError::TooLong { path }),
            Some(path) => Ok(Address(path)),
            None => Err(SocketError::NoAddress { text: text.to_owned() }),
        }
    }
}

/// Returns where a server listens by default: in the user's runtime directory, else below the state
/// directory.
pub fn default_address(runtime_dir: Option<&str>, state_dir: &Path) -> Address {
    let runtime_dir = runtime_dir.map(Path::new).filter(|path| path.is_absolute());
    Address(match runtime_dir {
        Some(directory) => directory.join("imgforge/docker.sock"),
        None => std::path::absolute(state_dir.join("docker.sock"))
            .unwrap_or_else(|_| state_dir.join("docker.sock")),
    })
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address is none of a unix socket.
    #[error("`{text}` is not `unix:///PATH`: imgforge serves unix sockets only")]
    NoAddress {
        /// The text.
        text: String,
    },
    /// The kernel takes no such long path.
    #[error("`{path}` is too long for a socket: {MOST_PATH} bytes fit")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another server answers there.
    #[error("a server listens on `{path}` already")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is there.
    #[error("`{path}` is there and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused it.
    #[error("cannot listen on `{path}`")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A socket that is listened on; it is removed with this value.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    address: Address,
    _lock: FileLock,
}

impl Listening {
    /// Listens, for this user alone. The socket of a server that is dead is replaced.
    ///
    /// # Errors
    /// [`SocketError::Taken`] where another server lives.
    pub fn on(address: &Address) -> Result<Listening, SocketError> {
        let path = address.path();
        let failed = |source| SocketError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        // Two servers that start at once do not take the socket from each other.
        let lock = path.with_extension("lock");
        let taken = || SocketError::Taken { path: path.to_owned() };
        let lock = FileLock::try_take(&lock).map_err(failed)?.ok_or_else(taken)?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !is_socket(&found) => {
                return Err(SocketError::NotASocket { path: path.to_owned() });
            }
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(taken()),
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(_) => {}
        }
        // Nobody else connects between the making of the socket and its mode.
        let aside = path.with_extension(std::process::id().to_string());
        let _ = std::fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside).map_err(failed)?;
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&aside, path).map_err(failed)?;
        Ok(Listening { listener, address: address.clone(), _lock: lock })
    }

    /// Returns the listener.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.address.path());
    }
}

fn is_socket(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    found.file_type().is_socket()
}

/// Returns the process that listens on a socket; `None` where none answers.
pub fn process_of(address: &Address) -> Option<Pid> {
    let stream = UnixStream::connect(address.path()).ok()?;
    Some(socket_peercred(&stream).ok()?.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absolute_path_of_a_unix_socket_is_an_address() {
        let address: Address = "unix:///run/a.sock".parse().unwrap();
        assert_eq!(address.path(), Path::new("/run/a.sock"));
        assert_eq!(address.to_string(), "unix:///run/a.sock");
        for text in ["tcp://127.0.0.1:2375", "/run/a.sock", "unix://a.sock", ""] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let long = format!("unix:///{}", "a".repeat(200));
        assert!(matches!(long.parse::<Address>(), Err(SocketError::TooLong { .. })));
    }

    #[test]
    fn the_runtime_directory_is_preferred() {
        let state = Path::new("/state");
        let own = default_address(Some("/run/user/7"), state);
        assert_eq!(own.path(), Path::new("/run/user/7/imgforge/docker.sock"));
        assert_eq!(default_address(None, state).path(), Path::new("/state/docker.sock"));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let address: Address = format!("unix://{}", path.display()).parse().unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listening = Listening::on(&address).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(process_of(&address), Some(rustix::process::getpid()));
        assert!(matches!(Listening::on(&address), Err(SocketError::Taken { .. })));
        drop(listening);
        assert!(!path.exists());
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(Listening::on(&address), Err(SocketError::NotASocket { .. })));
    }
}
