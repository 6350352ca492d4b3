//! Credentials for registries, from Docker's `config.json` and its helpers.

use std::path::Path;

use bollard::auth::DockerCredentials;
use docker_credential::{CredentialRetrievalError, DockerCredential};

use crate::engine::LogSink;

use super::DockerEngine;

/// The name under which Docker keeps the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

impl DockerEngine {
    /// Returns the credentials for a reference's registry; `None` asks without. A helper that fails
    /// is named in `log`, and the registry decides.
    pub(super) async fn credentials(
        &self,
        reference: &str,
        log: &dyn LogSink,
    ) -> Option<DockerCredentials> {
        let config = self.client_config.as_ref()?.join("config.json");
        let server = registry(reference).to_owned();
        let asked = server.clone();
        // A helper is a program that is waited for.
        let found = tokio::task::spawn_blocking(move || look_up(&config, &asked));
        match found.await.expect("looking up credentials does not panic") {
            Ok(found) => found.map(|found| credentials(found, server)),
            Err(reason) => {
                let text = format!("no credentials for `{server}`: {}\n", reason.trim_end());
                log.write(text.as_bytes());
                None
            }
        }
    }
}

fn look_up(config: &Path, server: &str) -> Result<Option<DockerCredential>, String> {
    use CredentialRetrievalError as Failure;
    let file = match std::fs::File::open(config) {
        Ok(file) => std::io::BufReader::new(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read `{}`: {error}", config.display())),
    };
    match docker_credential::get_credential_from_reader(file, server) {
        Ok(found) => Ok(Some(found)),
        Err(Failure::NoCredentialConfigured) => Ok(None),
        // How a helper says that it has none; the words are part of its protocol.
        Err(Failure::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found in native keychain") =>
        {
            Ok(None)
        }
        Err(error) => Err(error.to_string()),
    }
}

fn credentials(found: DockerCredential, server: String) -> DockerCredentials {
    let serveraddress = Some(server);
    match found {
        DockerCredential::UsernamePassword(username, password) => DockerCredentials {
            username: Some(username),
            password: Some(password),
            serveraddress,
            ..DockerCredentials::default()
        },
        DockerCredential::IdentityToken(token) => DockerCredentials {
            identitytoken: Some(token),
            serveraddress,
            ..DockerCredentials::default()
        },
    }
}

/// Returns the registry of a reference as Docker's configuration names it.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some(("docker.io" | "index.docker.io", _)) => DOCKER_HUB,
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER_HUB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_host_is_on_docker_hub() {
        assert_eq!(registry("swebench/sweb.eval:latest"), DOCKER_HUB);
        assert_eq!(registry("debian"), DOCKER_HUB);
        assert_eq!(registry("docker.io/library/debian"), DOCKER_HUB);
        assert_eq!(registry("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000");
        assert_eq!(registry("ghcr.io/a/b"), "ghcr.io");
    }

    #[test]
    fn a_helper_that_has_nothing_is_told_from_one_that_fails() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.json");
        assert_eq!(look_up(&config, "r.example").unwrap(), None);
        // base64 of `me:secret`
        std::fs::write(&config, r#"{"auths":{"r.example":{"auth":"bWU6c2VjcmV0"}}}"#).unwrap();
        let me = DockerCredential::UsernamePassword("me".to_owned(), "secret".to_owned());
        assert_eq!(look_up(&config, "r.example").unwrap(), Some(me));
        assert_eq!(look_up(&config, "other.example").unwrap(), None);
        let helper = r#"{"credHelpers":{"r.example":"imgforge-does-not-exist"}}"#;
        std::fs::write(&config, helper).unwrap();
        assert!(look_up(&config, "r.example").is_err());
    }
}
