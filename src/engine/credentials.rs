//! Credentials for registries: `DOCKER_AUTH_CONFIG`, Docker's `config.json` with its helpers, then
//! Podman's `auth.json`.

use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::client_config::{FileFault, read_json};
use super::reference::{self, Reference};
use super::{EngineError, LogSink, Result};

/// How a helper says that it has no credentials for a server. The words are part of its protocol,
/// which has no code for it.
const HAS_NONE: &str = "credentials not found in native keychain";

/// The name under which Docker keeps the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What a job of a CI system is given in the place of a `config.json`.
const GIVEN: &str = "DOCKER_AUTH_CONFIG";

/// Where credentials are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum File {
    /// In [`GIVEN`], in the form of Docker's file.
    Given(String),
    /// Docker's, by registries.
    Docker(PathBuf),
    /// Podman's, by registries and by what is below them.
    Podman(PathBuf),
}

/// Returns the credentials for a reference's registry, and how Docker calls that; `None` asks
/// without. A helper that fails is named in `log`, and the registry decides.
///
/// # Errors
/// A file that is there and cannot be read.
pub(super) async fn credentials(
    client_config: Option<&PathBuf>,
    reference: &Reference,
    log: &dyn LogSink,
) -> Result<Option<(DockerCredential, String)>> {
    let Some(config) = client_config else { return Ok(None) };
    let files = files(config, |name| std::env::var(name).ok());
    let (asked, server) = (reference.clone(), server(reference).to_owned());
    // A helper is a program that is waited for.
    let found = tokio::task::spawn_blocking(move || look_up(&files, &asked));
    let (found, complaint) = found.await.expect("looking up credentials does not panic")?;
    if let Some(complaint) = complaint {
        let text = format!("no credentials for `{server}`: {}\n", complaint.trim_end());
        log.write(text.as_bytes());
    }
    Ok(found.map(|found| (found, server)))
}

/// Reads the files of credentials that there are, and returns their paths.
///
/// # Errors
/// One that is there and cannot be read.
pub(crate) fn check(
    client_config: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<PathBuf>> {
    let mut there = Vec::new();
    for file in files(client_config, variable) {
        if file.read()?.is_some() {
            there.push(file.path().to_owned());
        }
    }
    Ok(there)
}

/// Lists where credentials may be, in the order in which they count.
fn files(client_config: &Path, variable: impl Fn(&str) -> Option<String>) -> Vec<File> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let given = variable(GIVEN).filter(|text| !text.trim().is_empty());
    let mut files: Vec<File> = given.into_iter().map(File::Given).collect();
    files.push(File::Docker(client_config.join("config.json")));
    if let Some(named) = set("REGISTRY_AUTH_FILE") {
        files.push(File::Podman(named));
        return files;
    }
    let user = || format!("/run/containers/{}", rustix::process::geteuid().as_raw()).into();
    let runtime = set("XDG_RUNTIME_DIR").map_or_else(user, |runtime| runtime.join("containers"));
    files.push(File::Podman(runtime.join("auth.json")));
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    files.extend(config.map(|config| File::Podman(config.join("containers/auth.json"))));
    files
}

impl File {
    fn path(&self) -> &Path {
        match self {
            File::Given(_) => Path::new(GIVEN),
            File::Docker(path) | File::Podman(path) => path,
        }
    }

    fn read(&self) -> Result<Option<serde_json::Value>> {
        let read = match self {
            File::Given(text) => serde_json::from_str(text)
                .map_err(|source| FileFault::Broken { path: self.path().to_owned(), source }),
            File::Docker(path) | File::Podman(path) => read_json(path),
        };
        read.map_err(EngineError::ClientFile)
    }
}

/// Returns the first credential, else why there may be one that could not be had.
fn look_up(
    files: &[File],
    reference: &Reference,
) -> Result<(Option<DockerCredential>, Option<String>)> {
    use CredentialRetrievalError as Failure;
    let mut complaint = None;
    for file in files {
        let names = match file {
            File::Given(_) | File::Docker(_) => vec![server(reference).to_owned()],
            File::Podman(_) => podman_names(reference),
        };
        let Some(content) = file.read()? else { continue };
        let content = content.to_string();
        for name in names {
            match docker_credential::get_credential_from_reader(content.as_bytes(), &name) {
                Ok(found) => return Ok((Some(found), None)),
                Err(Failure::NoCredentialConfigured) => {}
                Err(Failure::HelperFailure { stdout, .. }) if stdout.contains(HAS_NONE) => {}
                Err(error) => complaint = Some(format!("`{}`: {error}", file.path().display())),
            }
        }
    }
    Ok((None, complaint))
}

/// Returns the registry of a reference as Docker's configuration names it.
fn server(reference: &Reference) -> &str {
    match reference.registry() {
        reference::DOCKER_HUB => DOCKER_HUB,
        host => host,
    }
}

/// Lists the names under which Podman keeps what counts for a reference: its repository, what that
/// is in, the registry.
fn podman_names(reference: &Reference) -> Vec<String> {
    let mut names = vec![format!("{}/{}", reference.registry(), reference.repository())];
    while let Some((above, _)) = names[names.len() - 1].rsplit_once('/') {
        names.push(above.to_owned());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// base64 of `me:secret`
    const AUTH: &str = "bWU6c2VjcmV0";

    fn me() -> DockerCredential {
        DockerCredential::UsernamePassword("me".to_owned(), "secret".to_owned())
    }

    fn read(reference: &str) -> Reference {
        reference.parse().unwrap()
    }

    fn found(file: &File, reference: &str) -> (Option<DockerCredential>, Option<String>) {
        look_up(std::slice::from_ref(file), &read(reference)).unwrap()
    }

    #[test]
    fn a_reference_without_a_host_is_on_docker_hub() {
        assert_eq!(server(&read("swebench/sweb.eval:latest")), DOCKER_HUB);
        assert_eq!(server(&read("debian")), DOCKER_HUB);
        assert_eq!(server(&read("docker.io/library/debian")), DOCKER_HUB);
        assert_eq!(server(&read("127.0.0.1:5000/a/b:c")), "127.0.0.1:5000");
        assert_eq!(server(&read("ghcr.io/a/b")), "ghcr.io");
    }

    #[test]
    fn a_helper_that_has_nothing_is_told_from_one_that_fails() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let config = File::Docker(path.clone());
        assert_eq!(found(&config, "r.example/a"), (None, None));
        std::fs::write(&path, format!(r#"{{"auths":{{"r.example":{{"auth":"{AUTH}"}}}}}}"#))
            .unwrap();
        assert_eq!(found(&config, "r.example/a"), (Some(me()), None));
        assert_eq!(found(&config, "other.example/a"), (None, None));
        let helper = r#"{"credHelpers":{"r.example":"imgforge-does-not-exist"}}"#;
        std::fs::write(&path, helper).unwrap();
        let (none, complaint) = found(&config, "r.example/a");
        assert_eq!(none, None);
        assert!(complaint.unwrap().contains("config.json`: "));
    }

    #[test]
    fn podmans_file_counts_after_dockers_and_by_what_is_below_a_registry() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.json");
        let auths = format!(
            r#"{{"auths":{{"q.example/team":{{"auth":"{AUTH}"}},"docker.io":{{"auth":"{AUTH}"}}}}}}"#
        );
        std::fs::write(&path, auths).unwrap();
        let podman = File::Podman(path);
        for (reference, expected) in [
            ("q.example/team/image:1", Some(me())),
            ("q.example/team/below/image:1", Some(me())),
            ("q.example/others/image:1", None),
            ("debian:12", Some(me())),
            ("docker.io/swebench/x:latest", Some(me())),
        ] {
            assert_eq!(found(&podman, reference).0, expected, "{reference}");
        }
        let other = directory.path().join("config.json");
        // base64 of `you:secret`
        let auths = r#"{"auths":{"q.example":{"auth":"eW91OnNlY3JldA=="}}}"#;
        std::fs::write(&other, auths).unwrap();
        let both = [File::Docker(other), podman];
        let you = DockerCredential::UsernamePassword("you".to_owned(), "secret".to_owned());
        assert_eq!(look_up(&both, &read("q.example/team/image")).unwrap().0, Some(you));
    }

    #[test]
    fn the_files_are_where_docker_and_podman_write_them() {
        let paths = |set: &[(&str, &str)]| -> Vec<String> {
            let found = files(Path::new("/h/.docker"), |name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            });
            found.iter().map(|file| file.path().display().to_string()).collect()
        };
        assert_eq!(
            paths(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1")]),
            [
                "/h/.docker/config.json",
                "/run/user/1/containers/auth.json",
                "/h/.config/containers/auth.json"
            ]
        );
        let named = paths(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")]);
        assert_eq!(named, ["/h/.docker/config.json", "/a.json"]);
        let given = format!(r#"{{"auths":{{"r.example":{{"auth":"{AUTH}"}}}}}}"#);
        let set = [("DOCKER_AUTH_CONFIG", given.as_str()), ("REGISTRY_AUTH_FILE", "/a.json")];
        assert_eq!(paths(&set)[..2], ["DOCKER_AUTH_CONFIG", "/h/.docker/config.json"]);
        assert_eq!(found(&File::Given(given), "r.example/a").0, Some(me()));
        assert!(File::Given("{".to_owned()).read().is_err());
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, "{\"auths\"").unwrap();
        let error = look_up(&[File::Docker(path.clone())], &read("r.example/a")).unwrap_err();
        assert!(error.to_string().ends_with("config.json` is broken"), "{error}");
        assert!(check(directory.path(), |_| None).is_err());
        std::fs::write(&path, "").unwrap();
        assert_eq!(look_up(&[File::Docker(path)], &read("r.example/a")).unwrap(), (None, None));
    }
}
