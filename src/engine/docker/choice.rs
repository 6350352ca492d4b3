//! Which engine is meant: what the environment and Docker's client configuration say, read as the
//! `docker` command reads them. What is chosen and cannot be read is an error, and never another
//! engine.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::key::Digest;

use super::super::client_config::{config_directory, read_json};
use super::tls::{Tls, Trust};
use super::transport::Way;
use crate::engine::address::Address;
use crate::engine::refusal::{ChosenBy, Refusal};

/// The socket of a Docker that runs for the whole host.
const SOCKET: &str = "/var/run/docker.sock";

/// Where `docker` looks when TLS is asked for and no address is.
const TLS_ADDRESS: &str = "tcp://127.0.0.1:2376";

/// The files of a client, as `docker` names them.
const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// An engine to ask.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Its address.
    pub address: Box<Address>,
    /// How it is reached.
    pub way: Way,
    /// Whether it runs on this host, as far as the address says.
    pub is_local: bool,
}

/// Which engines are meant.
#[derive(Debug)]
pub(super) enum Choice {
    /// This one and no other.
    One(Endpoint),
    /// Nobody said: the sockets that a Docker may have, in order.
    Any(Vec<Endpoint>),
}

/// Finds out which engine is meant. `DOCKER_HOST` wins, then the context that `DOCKER_CONTEXT` or
/// `docker context use` chose; else the sockets of Docker, for the host and for the user.
pub(super) fn choose(variable: &impl Fn(&str) -> Option<String>) -> Result<Choice, Refusal> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(host) = set("DOCKER_HOST") {
        let chosen_by = ChosenBy::Variable("DOCKER_HOST");
        return from_environment(&host, chosen_by, &set).map(Choice::One);
    }
    if let Some((name, chosen_by)) = context(&set)? {
        let config = config_directory(variable).unwrap_or_default();
        return of_context(&config, &name, chosen_by).map(Choice::One);
    }
    if let Some(name) =
        ["DOCKER_TLS_VERIFY", "DOCKER_TLS"].into_iter().find(|name| set(name).is_some())
    {
        return from_environment(TLS_ADDRESS, ChosenBy::Variable(name), &set).map(Choice::One);
    }
    let home = set("HOME").map(|home| format!("{home}/.docker/run/docker.sock"));
    // Rootless Docker; without a login session the directory is there and the variable is not.
    let user = || format!("/run/user/{}", rustix::process::geteuid().as_raw());
    let runtime = set("XDG_RUNTIME_DIR").unwrap_or_else(user);
    let sockets = [Some(SOCKET.to_owned()), home, Some(format!("{runtime}/docker.sock"))];
    let endpoint = |path: String| Endpoint::new(Address::Unix(path.into()), None);
    Ok(Choice::Any(sockets.into_iter().flatten().map(endpoint).collect()))
}

impl Endpoint {
    fn new(address: Address, tls: Option<Tls>) -> Endpoint {
        let way = match (address.clone(), tls) {
            (Address::Unix(path), _) => Way::Unix(path),
            (Address::Ssh(to), _) => Way::Ssh(to),
            (Address::Tcp(to) | Address::Https(to), Some(tls)) => Way::Tls(to, tls),
            (Address::Tcp(to) | Address::Https(to), None) => Way::Tcp(to),
        };
        Endpoint { way, is_local: address.is_local(), address: address.into() }
    }
}

/// Makes the endpoint of an address, with the certificates that the environment names.
fn from_environment(
    text: &str,
    chosen_by: ChosenBy,
    set: &impl Fn(&str) -> Option<String>,
) -> Result<Endpoint, Refusal> {
    let address = Address::parse(text).map_err(|wrong| Refusal::Address {
        chosen_by,
        address: text.to_owned(),
        wrong,
    })?;
    if !matches!(address, Address::Tcp(_) | Address::Https(_)) {
        return Ok(Endpoint::new(address, None));
    }
    let named = set("DOCKER_CERT_PATH").map(PathBuf::from);
    // What the image `docker` makes of the directory that it shares with its service `dind`.
    let shared = || {
        let directory = Path::new(&set("DOCKER_TLS_CERTDIR")?).join("client");
        FILES.iter().all(|file| directory.join(file).is_file()).then_some(directory)
    };
    let asked = match (set("DOCKER_TLS_VERIFY"), set("DOCKER_TLS")) {
        (Some(_), _) => Some(Trust::Named),
        (None, Some(_)) => Some(Trust::Everybody),
        (None, None) if matches!(address, Address::Https(_)) => Some(Trust::NamedOrHosts),
        (None, None) => None,
    };
    let (directory, trust) = match (named, asked) {
        (Some(directory), Some(trust)) => (directory, trust),
        (None, Some(trust)) => (config_directory(set).unwrap_or_default(), trust),
        (None, None) => match shared() {
            Some(directory) => (directory, Trust::Named),
            None => return Ok(Endpoint::new(address, None)),
        },
        (Some(_), None) => return Ok(Endpoint::new(address, None)),
    };
    Ok(Endpoint::new(address, Some(Tls::read(&directory, trust)?)))
}

/// Returns the name of the context that is chosen, and by whom. The context `default` is none: it is
/// the sockets.
fn context(set: &impl Fn(&str) -> Option<String>) -> Result<Option<(String, ChosenBy)>, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ClientConfig {
        current_context: Option<String>,
    }
    let found = match set("DOCKER_CONTEXT") {
        Some(name) => Some((name, ChosenBy::Variable("DOCKER_CONTEXT"))),
        None => config_directory(set).map_or(Ok::<_, Refusal>(None), |directory| {
            let path = directory.join("config.json");
            let config = read_json::<ClientConfig>(&path)?;
            let name = config.and_then(|config| config.current_context);
            Ok(name.map(|name| (name, ChosenBy::Config(path))))
        })?,
    };
    Ok(found.filter(|(name, _)| !name.is_empty() && name != "default"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Context {
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<ContextEndpoint>,
}

#[derive(Deserialize)]
struct ContextEndpoint {
    #[serde(rename = "Host", default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

/// Reads a context.
fn of_context(config: &Path, name: &str, chosen_by: ChosenBy) -> Result<Endpoint, Refusal> {
    let (all, id) = (config.join("contexts/meta"), Digest::of(name).to_string());
    let path = all.join(&id).join("meta.json");
    let Some(context) = read_json::<Context>(&path)? else {
        let (name, known) = (name.to_owned(), known_contexts(&all));
        return Err(Refusal::NoContext { chosen_by, name, known });
    };
    let Some(endpoint) = context.endpoints.docker else {
        return Err(Refusal::NoEndpoint { name: name.to_owned(), path });
    };
    if endpoint.host.is_empty() {
        return Ok(Endpoint::new(Address::Unix(SOCKET.into()), None));
    }
    let address = Address::parse(&endpoint.host).map_err(|wrong| Refusal::Address {
        chosen_by: ChosenBy::Context(name.to_owned()),
        address: endpoint.host,
        wrong,
    })?;
    let directory = config.join("contexts/tls").join(&id).join("docker");
    let has_files = FILES.iter().any(|file| directory.join(file).exists());
    let tls = match address {
        Address::Unix(_) | Address::Ssh(_) => None,
        _ if endpoint.skip_tls_verify => Some(Tls::read(&directory, Trust::Everybody)?),
        _ if has_files => Some(Tls::read(&directory, Trust::NamedOrHosts)?),
        Address::Https(_) => Some(Tls::read(&directory, Trust::NamedOrHosts)?),
        Address::Tcp(_) => None,
    };
    Ok(Endpoint::new(address, tls))
}

/// Lists the contexts, `default` first. One that cannot be read has no name to choose it by.
fn known_contexts(all: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten();
    let read = entries.map(|entry| read_json::<Context>(&entry.path().join("meta.json")));
    let mut names: Vec<String> =
        read.filter_map(|context| context.ok().flatten()).map(|context| context.name).collect();
    names.sort();
    names.insert(0, "default".to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client_config::FileFault;

    fn variables(set: &[(&'static str, &str)]) -> impl Fn(&str) -> Option<String> {
        let set: Vec<_> = set.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        move |name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        }
    }

    fn addresses(set: &[(&'static str, &str)]) -> Vec<String> {
        match choose(&variables(set)).unwrap() {
            Choice::One(endpoint) => vec![endpoint.address.to_string()],
            Choice::Any(endpoints) => {
                endpoints.into_iter().map(|each| each.address.to_string()).collect()
            }
        }
    }

    fn refusal(set: &[(&'static str, &str)]) -> Refusal {
        choose(&variables(set)).unwrap_err()
    }

    /// A directory of client configuration with the context `mine`.
    fn config(meta: &str) -> tempfile::TempDir {
        let config = tempfile::tempdir().unwrap();
        let directory = config.path().join("contexts/meta").join(Digest::of("mine").to_string());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("meta.json"), meta).unwrap();
        config
    }

    #[test]
    fn docker_host_wins_over_every_context_and_socket() {
        let set = [("DOCKER_HOST", "tcp://1.2.3.4:2375"), ("HOME", "/h"), ("DOCKER_CONTEXT", "c")];
        assert_eq!(addresses(&set), ["tcp://1.2.3.4:2375"]);
    }

    #[test]
    fn without_a_choice_the_sockets_of_docker_are_tried_and_not_podmans() {
        let found = addresses(&[("DOCKER_HOST", ""), ("XDG_RUNTIME_DIR", "/run/u")]);
        assert_eq!(found, ["unix:///var/run/docker.sock", "unix:///run/u/docker.sock"]);
        let user = rustix::process::geteuid().as_raw();
        let found = addresses(&[("HOME", "/h")]);
        assert_eq!(found[1], "unix:///h/.docker/run/docker.sock");
        assert_eq!(found[2], format!("unix:///run/user/{user}/docker.sock"));
    }

    #[test]
    fn the_chosen_context_is_read() {
        let config = config(
            r#"{"Name":"mine","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///m","SkipTLSVerify":false}}}"#,
        );
        let path = config.path().to_str().unwrap();
        assert_eq!(addresses(&[("DOCKER_CONFIG", path)])[0], "unix:///var/run/docker.sock");
        let chosen = [("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "mine")];
        assert_eq!(addresses(&chosen), ["unix:///m"]);
        std::fs::write(config.path().join("config.json"), r#"{"currentContext":"mine"}"#).unwrap();
        assert_eq!(addresses(&[("DOCKER_CONFIG", path)]), ["unix:///m"]);
        let default = [("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "default")];
        assert_eq!(addresses(&default)[0], "unix:///var/run/docker.sock");
    }

    #[test]
    fn a_context_that_does_not_exist_is_named_with_those_that_do() {
        let config = config(r#"{"Name":"mine","Endpoints":{}}"#);
        let path = config.path().to_str().unwrap();
        let error = refusal(&[("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "yours")]);
        assert_eq!(
            error.to_string(),
            "DOCKER_CONTEXT names the Docker context `yours`, which does not exist"
        );
        assert_eq!(error.hint(), "there is default, mine; `docker context ls` lists them");
        std::fs::write(config.path().join("config.json"), r#"{"currentContext":"gone"}"#).unwrap();
        let error = refusal(&[("DOCKER_CONFIG", path)]);
        assert!(matches!(error, Refusal::NoContext { ref name, .. } if name == "gone"), "{error}");
        let error = refusal(&[("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "mine")]);
        assert!(matches!(error, Refusal::NoEndpoint { .. }), "{error}");
    }

    #[test]
    fn a_broken_configuration_or_context_is_an_error_that_names_the_file() {
        let config = config("{");
        let path = config.path().to_str().unwrap();
        let error = refusal(&[("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "mine")]);
        assert!(error.to_string().contains("meta.json` is broken"), "{error}");
        std::fs::write(config.path().join("config.json"), "\n").unwrap();
        assert_eq!(addresses(&[("DOCKER_CONFIG", path)])[0], "unix:///var/run/docker.sock");
        std::fs::write(config.path().join("config.json"), "{\"auths\": ").unwrap();
        let error = refusal(&[("DOCKER_CONFIG", path)]);
        assert!(error.to_string().contains("config.json` is broken"), "{error}");
    }

    #[test]
    fn an_address_that_is_none_is_told_with_who_chose_it() {
        let error = refusal(&[("DOCKER_HOST", "fd://3")]);
        assert!(error.to_string().starts_with("DOCKER_HOST is `fd://3`, which has"), "{error}");
        let config = config(r#"{"Name":"mine","Endpoints":{"docker":{"Host":"npipe://x"}}}"#);
        let path = config.path().to_str().unwrap();
        let error = refusal(&[("DOCKER_CONFIG", path), ("DOCKER_CONTEXT", "mine")]);
        assert!(error.to_string().starts_with("the Docker context `mine` is"), "{error}");
    }

    #[test]
    fn tls_is_asked_for_as_with_the_docker_command_and_a_missing_file_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let path = empty.path().to_str().unwrap();
        let host = ("DOCKER_HOST", "tcp://docker:2376");
        for set in [
            vec![host, ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", path)],
            vec![host, ("DOCKER_TLS_VERIFY", "0"), ("DOCKER_CONFIG", path)],
            // Without an address, where `docker` looks.
            vec![("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", path)],
        ] {
            let error = refusal(&set);
            let ca = empty.path().join("ca.pem");
            assert!(
                matches!(error, Refusal::File(FileFault::Unreadable { ref path, .. }) if *path == ca),
                "{error}"
            );
        }
        let way = |set: &[(&'static str, &str)]| match choose(&variables(set)).unwrap() {
            Choice::One(endpoint) => endpoint.way,
            Choice::Any(_) => panic!("one is chosen"),
        };
        assert!(matches!(way(&[host]), Way::Tcp(_)));
        assert!(matches!(way(&[host, ("DOCKER_CERT_PATH", path)]), Way::Tcp(_)));
        assert!(matches!(way(&[host, ("DOCKER_TLS", "1"), ("DOCKER_CONFIG", path)]), Way::Tls(..)));
        let socket = [("DOCKER_HOST", "unix:///s"), ("DOCKER_TLS_VERIFY", "1")];
        assert!(matches!(way(&socket), Way::Unix(_)));
    }
}
