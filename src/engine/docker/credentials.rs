//! Credentials for registries, from Docker's `config.json` and its helpers.

use bollard::auth::DockerCredentials;
use docker_credential::DockerCredential;

/// The name under which Docker keeps the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Returns the registry of a reference as Docker's configuration names it.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER_HUB,
    }
}

/// Returns the credentials for a reference's registry; `None` pulls without.
pub(super) fn for_reference(reference: &str) -> Option<DockerCredentials> {
    let server = registry(reference);
    let found = docker_credential::get_credential(server).ok()?;
    let serveraddress = Some(server.to_owned());
    Some(match found {
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_host_is_on_docker_hub() {
        assert_eq!(registry("swebench/sweb.eval:latest"), DOCKER_HUB);
        assert_eq!(registry("debian"), DOCKER_HUB);
        assert_eq!(registry("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000");
        assert_eq!(registry("ghcr.io/a/b"), "ghcr.io");
    }
}
