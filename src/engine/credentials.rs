//! Credentials for registries, from Docker's `config.json` and its helpers.

use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::{LogSink, reference};

/// The name under which Docker keeps the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Returns the credentials for a reference's registry, and how Docker calls that; `None` asks
/// without. A helper that fails is named in `log`, and the registry decides.
pub(super) async fn credentials(
    client_config: Option<&PathBuf>,
    reference: &str,
    log: &dyn LogSink,
) -> Option<(DockerCredential, String)> {
    let config = client_config?.join("config.json");
    let server = server(reference).to_owned();
    let asked = server.clone();
    // A helper is a program that is waited for.
    let found = tokio::task::spawn_blocking(move || look_up(&config, &asked));
    match found.await.expect("looking up credentials does not panic") {
        Ok(found) => found.map(|found| (found, server)),
        Err(reason) => {
            let text = format!("no credentials for `{server}`: {}\n", reason.trim_end());
            log.write(text.as_bytes());
            None
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

/// Returns the registry of a reference as Docker's configuration names it.
fn server(reference: &str) -> &str {
    match reference::registry(reference) {
        reference::DOCKER_HUB => DOCKER_HUB,
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_host_is_on_docker_hub() {
        assert_eq!(server("swebench/sweb.eval:latest"), DOCKER_HUB);
        assert_eq!(server("debian"), DOCKER_HUB);
        assert_eq!(server("docker.io/library/debian"), DOCKER_HUB);
        assert_eq!(server("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000");
        assert_eq!(server("ghcr.io/a/b"), "ghcr.io");
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
