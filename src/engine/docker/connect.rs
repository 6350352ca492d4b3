//! Asking an engine whether it can be used, and telling why not.

use std::io;
use std::time::Duration;

use bollard::Docker;
use bollard::models::SystemVersion;

use crate::causes::causes;
use crate::engine::{EngineError, Result};
use crate::retry::{Passing, Tries, retried};

use super::choice::Endpoint;
use super::errors::failed;
use super::tls::Tls;
use super::transport::{self, NoConnection, Way};
use crate::engine::SshEnded;
use crate::engine::address::Address;
use crate::engine::refusal::Refusal;

/// The oldest API that has what imgforge needs (Docker 20.10).
const OLDEST_API: (u32, u32) = (1, 41);
const OLDEST_API_TEXT: &str = "1.41";

/// One request may take this long: a build is one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// The answer to the first question may take this long.
const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// How often the first question is put where its connection ended before it was sent.
const FIRST_QUESTIONS: Tries = Tries { attempts: 5, first: Duration::from_millis(5) };

/// What answers a request in plain text where only TLS is spoken.
const BAD_REQUEST: u16 = 400;

/// Connects to an engine and checks that it can be used: it answers, is new enough, and is Docker.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Docker> {
    let Endpoint { address, way, .. } = endpoint;
    let unreachable = |source| EngineError::Unreachable { address: address.clone(), source };
    let docker = way.docker(REQUEST_TIMEOUT).map_err(|error| unreachable(error.into()))?;
    let asked = tokio::time::timeout(FIRST_ANSWER, version(&docker)).await;
    let answer = asked.map_err(|_| unreachable(transport::late(FIRST_ANSWER).into()))?;
    let version = match answer {
        Ok(version) => version,
        // Something answers that is no engine, or none that lets us in.
        Err(error @ bollard::errors::Error::DockerResponseServerError { status_code, .. }) => {
            if let Way::Tcp(to) = way
                && status_code == BAD_REQUEST
                && transport::dial_tls(to, Tls::blind()).await.is_ok()
            {
                return Err(EngineError::Unusable(Refusal::TlsOnly { address: address.clone() }));
            }
            return Err(failed("say its version", error));
        }
        Err(error) => return Err(no_answer(endpoint, error)),
    };
    let is_podman = |part: &bollard::models::SystemVersionComponents| part.name == PODMAN;
    if version.components.iter().flatten().any(is_podman) {
        let version = version.version.unwrap_or_default();
        return Err(EngineError::Unusable(Refusal::Podman { address: address.clone(), version }));
    }
    let found = version.api_version.unwrap_or_default();
    if is_too_old(&found) {
        return Err(EngineError::TooOld { found, needed: OLDEST_API_TEXT });
    }
    Ok(docker)
}

/// What Podman's component is called in the answer to the question for its version.
const PODMAN: &str = "Podman Engine";

/// Asks for the version. An engine that refuses a certificate ends the connection after the handshake
/// of TLS 1.3; where that comes just before the request, the client drops the reason with the request,
/// which was not sent, and another connection tells it.
async fn version(docker: &Docker) -> std::result::Result<SystemVersion, bollard::errors::Error> {
    let asked = async || docker.version().await.map_err(NoVersion);
    retried(FIRST_QUESTIONS, |_, _| {}, asked).await.map_err(|NoVersion(error)| error)
}

/// The version was not told; the question may be put again where it was not sent.
struct NoVersion(bollard::errors::Error);

impl Passing for NoVersion {
    fn may_pass(&self) -> bool {
        causes(&self.0)
            .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
            .any(hyper::Error::is_canceled)
    }
}

/// Makes the error of an engine that gave no answer, by what failed below.
fn no_answer(endpoint: &Endpoint, error: bollard::errors::Error) -> EngineError {
    let address = || endpoint.address.clone();
    let causes = known_causes(&error);
    let root = causes.root.clone();
    let refusal = match (&endpoint.way, causes) {
        (Way::Unix(_), Causes { kind: Some(io::ErrorKind::PermissionDenied), .. }) => {
            return EngineError::PermissionDenied { address: address() };
        }
        (Way::Tls(_, tls), Causes { tls: Some(of_tls), .. }) => {
            of_tls_error(address(), tls, of_tls)
        }
        // An engine that refuses the handshake may close before its reason arrives.
        (
            Way::Tls(_, tls),
            Causes {
                kind: Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), ..
            },
        ) if !tls.shows_certificate => Some(Refusal::Unknown {
            address: address(),
            directory: tls.directory.clone(),
            sent: false,
        }),
        (Way::Ssh(_), Causes { no_ssh: Some(kind), .. }) => {
            Some(Refusal::NoSsh { address: address(), source: kind.into() })
        }
        (Way::Ssh(_), Causes { ssh: Some(source), .. }) => {
            Some(Refusal::Ssh { address: address(), source })
        }
        _ => None,
    };
    match refusal {
        Some(refusal) => EngineError::Unusable(refusal),
        None => {
            let source = root.map_or_else(|| error.into(), Into::into);
            EngineError::Unreachable { address: address(), source }
        }
    }
}

fn of_tls_error(address: Box<Address>, tls: &Tls, error: rustls::Error) -> Option<Refusal> {
    use rustls::AlertDescription as Alert;
    let directory = tls.directory.clone();
    match error {
        rustls::Error::InvalidCertificate(_) => {
            Some(Refusal::Untrusted { address, directory, source: error })
        }
        rustls::Error::InvalidMessage(_) => Some(Refusal::NoTls { address }),
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::DecryptError
            | Alert::AccessDenied,
        ) => Some(Refusal::Unknown { address, directory, sent: tls.shows_certificate }),
        _ => None,
    }
}

/// What is known of the causes of an error.
#[derive(Default)]
struct Causes {
    /// What the system said.
    root: Option<String>,
    kind: Option<io::ErrorKind>,
    tls: Option<rustls::Error>,
    ssh: Option<SshEnded>,
    no_ssh: Option<io::ErrorKind>,
}

fn known_causes(error: &bollard::errors::Error) -> Causes {
    let mut found = Causes::default();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        next = cause.source();
        let of_io = match cause.downcast_ref::<NoConnection>() {
            Some(NoConnection::Tls(error)) => {
                found.tls = Some(error.clone());
                continue;
            }
            Some(NoConnection::NoSsh(error)) => {
                found.no_ssh = Some(error.kind());
                continue;
            }
            Some(NoConnection::Io(error)) => Some(error),
            None => cause.downcast_ref::<io::Error>(),
        };
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            found.tls = Some(error.clone());
        }
        if let Some(error) = cause.downcast_ref::<SshEnded>() {
            found.ssh = Some(error.clone());
        }
        if let Some(error) = of_io {
            found.kind = found.kind.or(Some(error.kind()));
            found.root = found.root.or(Some(error.to_string()));
            // An error of the system's kind passes over what it wraps.
            if let Some(inner) = error.get_ref() {
                next = Some(inner);
            }
        }
    }
    found
}

/// Tells whether an API version is below [`OLDEST_API`]; one that is no version is.
fn is_too_old(version: &str) -> bool {
    let number = version
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    number.is_none_or(|number| number < OLDEST_API)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_older_than_docker_20_10_is_too_old() {
        assert!(is_too_old("1.40"));
        assert!(is_too_old(""));
        assert!(!is_too_old("1.41"));
        assert!(!is_too_old("1.52"));
        assert!(!is_too_old("2.0"));
    }
}
