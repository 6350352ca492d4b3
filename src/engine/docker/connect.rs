//! Finding the engine: the addresses that are tried, in which order, and what answers there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use serde::Deserialize;

use crate::engine::{EngineError, Result};
use crate::key::Digest;

use super::errors::failed;

/// The oldest API that has what imgforge needs (Docker 20.10).
const OLDEST_API: (u32, u32) = (1, 41);
const OLDEST_API_TEXT: &str = "1.41";

/// One request may take this long: a build is one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// Returns the addresses to try, in order. As with the `docker` command, `DOCKER_HOST` wins, then
/// the context that `DOCKER_CONTEXT` or `docker context use` chose; else the sockets of Docker and
/// of Podman.
pub(super) fn addresses(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(host) = set("DOCKER_HOST") {
        return vec![host];
    }
    if let Some(host) =
        config_directory(&variable).and_then(|config| context_host(&config, set("DOCKER_CONTEXT")))
    {
        return vec![host];
    }
    let mut addresses = vec!["unix:///var/run/docker.sock".to_owned()];
    if let Some(home) = set("HOME") {
        addresses.push(format!("unix://{home}/.docker/run/docker.sock"));
    }
    if let Some(runtime) = set("XDG_RUNTIME_DIR") {
        addresses.push(format!("unix://{runtime}/docker.sock"));
        addresses.push(format!("unix://{runtime}/podman/podman.sock"));
    }
    addresses.push("unix:///run/podman/podman.sock".to_owned());
    addresses
}

/// Returns the directory of Docker's client configuration.
pub fn config_directory(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let home = || set("HOME").map(|home| Path::new(&home).join(".docker"));
    set("DOCKER_CONFIG").map(PathBuf::from).or_else(home)
}

/// Reads the address of the context `named`, else of the current one. The context `default` has
/// none: it is the sockets.
fn context_host(config: &Path, named: Option<String>) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ClientConfig {
        current_context: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Context {
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Endpoint,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        host: String,
    }
    let current = || {
        let text = std::fs::read(config.join("config.json")).ok()?;
        serde_json::from_slice::<ClientConfig>(&text).ok()?.current_context
    };
    let name = named.or_else(current).filter(|name| !name.is_empty() && name != "default")?;
    let directory = config.join("contexts/meta").join(Digest::of(&name).to_string());
    let text = std::fs::read(directory.join("meta.json")).ok()?;
    let context: Context = serde_json::from_slice(&text).ok()?;
    Some(context.endpoints.docker.host)
}

/// Connects to one address and checks that an engine which is new enough answers.
pub(super) async fn connect(address: &str) -> Result<Docker> {
    let unreachable = |source| EngineError::Unreachable { address: address.to_owned(), source };
    let docker = Docker::connect_with_host(address)
        .map_err(|error| unreachable(error.into()))?
        .with_timeout(REQUEST_TIMEOUT);
    if let Some(path) = address.strip_prefix("unix://")
        && let Err(error) = tokio::net::UnixStream::connect(path).await
    {
        return Err(match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                EngineError::PermissionDenied { address: address.to_owned() }
            }
            _ => unreachable(error.into()),
        });
    }
    let version = match docker.version().await {
        Ok(version) => version,
        // Something answers that is no engine, or none that lets us in.
        Err(error @ bollard::errors::Error::DockerResponseServerError { .. }) => {
            return Err(failed("say its version", error));
        }
        Err(error) => return Err(unreachable(error.into())),
    };
    let found = version.api_version.unwrap_or_default();
    if is_too_old(&found) {
        return Err(EngineError::TooOld { found, needed: OLDEST_API_TEXT });
    }
    Ok(docker)
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

    fn variables(set: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn docker_host_wins_over_every_socket() {
        let host = variables(&[("DOCKER_HOST", "tcp://1.2.3.4:2375"), ("HOME", "/h")]);
        assert_eq!(addresses(host), ["tcp://1.2.3.4:2375"]);
    }

    #[test]
    fn an_empty_docker_host_is_none() {
        let found = addresses(variables(&[("DOCKER_HOST", ""), ("XDG_RUNTIME_DIR", "/run/u")]));
        assert_eq!(found[0], "unix:///var/run/docker.sock");
        assert!(found.contains(&"unix:///run/u/podman/podman.sock".to_owned()));
    }

    #[test]
    fn the_chosen_docker_context_is_read() {
        let config = tempfile::tempdir().unwrap();
        let meta = config.path().join("contexts/meta").join(Digest::of("mine").to_string());
        std::fs::create_dir_all(&meta).unwrap();
        let text = r#"{"Name":"mine","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///m","SkipTLSVerify":false}}}"#;
        std::fs::write(meta.join("meta.json"), text).unwrap();
        assert_eq!(context_host(config.path(), None), None);
        std::fs::write(config.path().join("config.json"), r#"{"currentContext":"mine"}"#).unwrap();
        assert_eq!(context_host(config.path(), None).as_deref(), Some("unix:///m"));
        assert_eq!(context_host(config.path(), Some("default".into())), None);
    }

    #[test]
    fn an_engine_older_than_docker_20_10_is_too_old() {
        assert!(is_too_old("1.40"));
        assert!(is_too_old(""));
        assert!(!is_too_old("1.41"));
        assert!(!is_too_old("1.52"));
        assert!(!is_too_old("2.0"));
    }

    #[tokio::test]
    async fn no_engine_is_told_from_a_socket_that_may_not_be_used() {
        let error = connect("unix:///nowhere/docker.sock").await.unwrap_err();
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    }
}
