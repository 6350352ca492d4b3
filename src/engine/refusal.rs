//! Why an engine cannot be used that was chosen, or that answers: each kind with what would help.

use std::fmt;
use std::path::PathBuf;

use super::address::{Address, WrongAddress};
use super::client_config::FileFault;

/// What chose an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChosenBy {
    /// A variable of the environment.
    Variable(&'static str),
    /// `docker context use`, in Docker's client configuration.
    Config(PathBuf),
    /// A context, by its name.
    Context(String),
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChosenBy::Variable(name) => f.write_str(name),
            ChosenBy::Config(path) => write!(f, "`currentContext` in `{}`", path.display()),
            ChosenBy::Context(name) => write!(f, "the Docker context `{name}`"),
        }
    }
}

/// Why an engine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not an address that can be used.
    #[error("{chosen_by} is `{address}`, which {wrong}")]
    Address {
        /// Who says so.
        chosen_by: ChosenBy,
        /// What it says.
        address: String,
        /// What is wrong with it.
        wrong: WrongAddress,
    },
    /// A context that does not exist.
    #[error("{chosen_by} names the Docker context `{name}`, which does not exist")]
    NoContext {
        /// Who says so.
        chosen_by: ChosenBy,
        /// Its name.
        name: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// A context that has no engine.
    #[error("the Docker context `{name}` names no engine (`{path}`)")]
    NoEndpoint {
        /// Its name.
        name: String,
        /// What describes it.
        path: PathBuf,
    },
    /// A file that cannot be read, or is broken.
    #[error(transparent)]
    File(#[from] FileFault),
    /// A file that does not hold what it is for.
    #[error("`{path}` holds no {what}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it has to hold.
        what: &'static str,
    },
    /// A key that is not the certificate's, or of a kind that is not known.
    #[error("`{path}` cannot be used")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The certificate of an engine is not to be trusted.
    #[error("the certificate of the engine at `{address}` is not trusted")]
    Untrusted {
        /// The engine.
        address: Box<Address>,
        /// Where the authorities are read.
        directory: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// An engine wants a certificate of its clients, or another one.
    #[error("the engine at `{address}` {}", match sent {
        true => "does not accept our certificate",
        false => "wants a certificate of its clients",
    })]
    Unknown {
        /// The engine.
        address: Box<Address>,
        /// Where the certificate is read.
        directory: PathBuf,
        /// Whether one was sent.
        sent: bool,
    },
    /// What listens does not speak TLS.
    #[error("what listens at `{address}` does not speak TLS")]
    NoTls {
        /// The engine.
        address: Box<Address>,
    },
    /// What listens speaks TLS only.
    #[error("the engine at `{address}` speaks TLS only")]
    TlsOnly {
        /// The engine.
        address: Box<Address>,
    },
    /// There is no ssh program.
    #[error("cannot start `ssh` for the engine at `{address}`")]
    NoSsh {
        /// The engine.
        address: Box<Address>,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ssh program, or what it started, ended without a connection.
    #[error("no connection to the engine at `{address}`")]
    Ssh {
        /// The engine.
        address: Box<Address>,
        /// How it ended.
        #[source]
        source: SshEnded,
    },
    /// Podman, which takes no layers on images that it has.
    #[error("the engine at `{address}` is Podman {version}, which takes no single layers")]
    Podman {
        /// The engine.
        address: Box<Address>,
        /// Its version.
        version: String,
    },
}

impl Refusal {
    /// Returns what would help.
    pub fn hint(&self) -> String {
        match self {
            Refusal::Address { chosen_by: ChosenBy::Context(name), .. } => {
                format!("correct it with `docker context update {name}`")
            }
            Refusal::Address { .. } => "write it as `unix:///path`, `tcp://host:port` or \
                                        `ssh://user@host`, or unset it"
                .to_owned(),
            Refusal::NoContext { known, .. } => {
                format!("there is {}; `docker context ls` lists them", known.join(", "))
            }
            Refusal::NoEndpoint { name, .. } => {
                format!("choose another with DOCKER_CONTEXT, or make `{name}` anew")
            }
            Refusal::File(FileFault::Unreadable { path, .. })
            | Refusal::Empty { path, .. }
            | Refusal::Key { path, .. }
                if path.extension().is_some_and(|extension| extension == "pem") =>
            {
                "DOCKER_CERT_PATH names the directory of ca.pem, cert.pem and key.pem".to_owned()
            }
            Refusal::File(fault) => fault.hint(),
            Refusal::Empty { .. } | Refusal::Key { .. } => {
                "make it readable, or name another directory in DOCKER_CONFIG".to_owned()
            }
            Refusal::Untrusted { directory, .. } => format!(
                "`{}` has to hold the authority that signed it, and the certificate has to be for \
                 that host",
                directory.join("ca.pem").display()
            ),
            Refusal::Unknown { directory, sent: true, .. } => format!(
                "`{}` has to be signed by an authority that the engine trusts (`--tlscacert`)",
                directory.join("cert.pem").display()
            ),
            Refusal::Unknown { directory, .. } => format!(
                "put cert.pem and key.pem into `{}`, or name their directory in DOCKER_CERT_PATH",
                directory.display()
            ),
            Refusal::NoTls { .. } => {
                "unset DOCKER_TLS_VERIFY and DOCKER_TLS, or name its TLS port (mostly 2376)"
                    .to_owned()
            }
            Refusal::TlsOnly { .. } => {
                "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory of ca.pem, \
                 cert.pem and key.pem"
                    .to_owned()
            }
            Refusal::NoSsh { .. } => "install the OpenSSH client".to_owned(),
            Refusal::Ssh { source, .. } if source.is_of_ssh() => {
                "the same login with `ssh` has to work without a question: use an agent or a key, \
                 and accept the host's key once"
                    .to_owned()
            }
            Refusal::Ssh { .. } => {
                "`docker` (18.09 or newer) has to be on that host, and its user may use the engine"
                    .to_owned()
            }
            Refusal::Podman { .. } => {
                "use `--engine embedded`, which needs no daemon, or name a Docker engine in \
                 DOCKER_HOST"
                    .to_owned()
            }
        }
    }
}

/// How ssh ended without a connection, or in the middle of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshEnded {
    pub(super) code: Option<i32>,
    pub(super) said: String,
}

impl SshEnded {
    /// Tells whether ssh itself failed, and not what it started.
    pub fn is_of_ssh(&self) -> bool {
        self.code == Some(255)
    }
}

impl fmt::Display for SshEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "`ssh` exited with code {code}")?,
            None => f.write_str("`ssh` was killed")?,
        }
        if !self.said.is_empty() {
            write!(f, ": {}", self.said)?;
        }
        Ok(())
    }
}

impl std::error::Error for SshEnded {}
