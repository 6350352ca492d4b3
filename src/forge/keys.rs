//! Keys: whose signatures are trusted, and what signs.

use std::path::Path;

use anyhow::anyhow;

use crate::cache::registry::Signer;
use crate::catalog::Catalog;
use crate::sign::{KeyError, PrivateKey, PublicKey};

use super::open::variable;
use super::{Error, SourceOptions};

/// Reads the public keys of flags, else those of the catalog.
pub(crate) fn trusted(sources: &SourceOptions, catalog: &Catalog) -> Result<Vec<PublicKey>, Error> {
    let named: Vec<&String> = sources.verify.iter().filter(|named| !named.is_empty()).collect();
    if named.is_empty() {
        let read = |(at, path): &(crate::catalog::SourceLocation, std::path::PathBuf)| {
            public(path).map_err(|error| error.in_place(&at.to_string()))
        };
        return catalog.trusted_keys().iter().map(read).collect();
    }
    named.into_iter().map(|named| public_of(named)).collect()
}

fn public_of(named: &str) -> Result<PublicKey, Error> {
    // A certificate's identity needs a log and an authority that answer, or their roots at least.
    let keyless = ["identity:", "http://", "https://"].iter().any(|start| named.starts_with(start));
    if keyless {
        let error =
            anyhow!("`--verify {named}`: identities of certificates cannot be verified here");
        let hint = "name a public key in PEM: signatures without keys (Fulcio, Rekor) are not read";
        return Err(Error::input(error).with_hint(Some(hint.to_owned())));
    }
    public(Path::new(named)).map_err(|error| error.in_place("`--verify`"))
}

fn public(path: &Path) -> Result<PublicKey, Error> {
    PublicKey::of_file(path).map_err(|error| key_error(path, error))
}

fn key_error(path: &Path, error: KeyError) -> Error {
    let hint = error.hint().to_owned();
    let error = match error {
        error @ KeyError::Read { .. } => anyhow::Error::from(error),
        error => anyhow::Error::from(error).context(format!("`{}` cannot be used", path.display())),
    };
    Error::input(error).with_hint(Some(hint))
}

/// The variable with a URI that stands for who builds images.
const BUILDER: &str = "IMGFORGE_BUILDER_ID";

/// Reads the private key that signs what is pushed or exported.
pub(crate) fn signer(
    sources: &SourceOptions,
    password: &dyn Fn() -> Result<String, Error>,
) -> Result<Option<Signer>, Error> {
    let Some(path) = sources.sign.as_deref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path)
        .map_err(|source| key_error(path, KeyError::Read { path: path.to_owned(), source }))?;
    let read = PrivateKey::read(&text, || password().map_err(Failed::Asking));
    let key = read.map_err(|failed| match failed {
        Failed::Key(error) => key_error(path, error),
        Failed::Asking(error) => error,
    })?;
    Ok(Some(Signer { key, builder: builder(variable)? }))
}

/// Returns who builds: as the variable says, or the workflow of GitHub Actions in which this runs.
fn builder(variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, Error> {
    if let Some(named) = variable(BUILDER) {
        if reqwest::Url::parse(&named).is_err() {
            let error = anyhow!("{BUILDER} is `{named}`, which is no URI");
            let hint = "such as https://ci.example.org/builders/nightly".to_owned();
            return Err(Error::input(error).with_hint(Some(hint)));
        }
        return Ok(Some(named));
    }
    let workflow = variable("GITHUB_SERVER_URL").zip(variable("GITHUB_WORKFLOW_REF"));
    Ok(workflow.map(|(server, workflow)| format!("{server}/{workflow}")))
}

/// The reason for which a private key was not read.
enum Failed {
    Key(KeyError),
    Asking(Error),
}

impl From<KeyError> for Failed {
    fn from(error: KeyError) -> Failed {
        Failed::Key(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_builds_is_what_the_variable_says_or_the_workflow() {
        let with = |set: &[(&'static str, &'static str)]| {
            let set: std::collections::HashMap<&str, &str> = set.iter().copied().collect();
            builder(move |name| set.get(name).map(|value| (*value).to_owned()))
        };
        assert_eq!(with(&[]).unwrap(), None);
        let github = [
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_WORKFLOW_REF", "a/b/.github/workflows/warm.yml@refs/heads/main"),
        ];
        let workflow = "https://github.com/a/b/.github/workflows/warm.yml@refs/heads/main";
        assert_eq!(with(&github).unwrap().as_deref(), Some(workflow));
        let named = [github[0], github[1], (BUILDER, "https://ci.example.org/x")];
        assert_eq!(with(&named).unwrap().as_deref(), Some("https://ci.example.org/x"));
        assert!(with(&[(BUILDER, "me")]).is_err());
    }
}
