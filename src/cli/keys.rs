//! Keys on the command line: whose signatures are trusted, what signs, and making a pair.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};

use crate::cache::registry::Signer;
use crate::catalog::Catalog;
use crate::sign::{KeyError, PrivateKey, PublicKey};

use super::{Failure, Sources};

/// The variable with the password of a private key, as cosign calls it.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// Reads the public keys of flags, else those of the catalog.
pub fn trusted(sources: &Sources, catalog: &Catalog) -> Result<Vec<PublicKey>, Failure> {
    let named: Vec<&String> = sources.verify.iter().filter(|named| !named.is_empty()).collect();
    if named.is_empty() {
        let read = |(at, path): &(crate::catalog::At, std::path::PathBuf)| {
            public(path).map_err(|failure| in_place(failure, &at.to_string()))
        };
        return catalog.trusted_keys().iter().map(read).collect();
    }
    named.into_iter().map(|named| public_of(named)).collect()
}

fn public_of(named: &str) -> Result<PublicKey, Failure> {
    // A certificate's identity needs a log and an authority that answer, or their roots at least.
    let keyless = ["identity:", "http://", "https://"].iter().any(|start| named.starts_with(start));
    if keyless {
        let error =
            anyhow!("`--verify {named}`: identities of certificates cannot be verified here");
        let hint = "name a public key in PEM: signatures without keys (Fulcio, Rekor) are not read";
        return Err(Failure::input(error).hint(Some(hint.to_owned())));
    }
    public(Path::new(named)).map_err(|failure| in_place(failure, "`--verify`"))
}

fn public(path: &Path) -> Result<PublicKey, Failure> {
    PublicKey::of_file(path).map_err(|error| key_failure(path, error))
}

fn in_place(failure: Failure, place: &str) -> Failure {
    let Failure { exit, error, hint } = failure;
    Failure { exit, error: anyhow!("{place}: {error:#}"), hint }
}

fn key_failure(path: &Path, error: KeyError) -> Failure {
    let hint = error.hint().to_owned();
    let error = match error {
        error @ KeyError::Read { .. } => anyhow::Error::from(error),
        error => anyhow::Error::from(error).context(format!("`{}` cannot be used", path.display())),
    };
    Failure::input(error).hint(Some(hint))
}

/// The variable with a URI that stands for who builds images.
const BUILDER: &str = "IMGFORGE_BUILDER_ID";

/// Reads the private key that signs what is pushed or exported.
pub fn signer(sources: &Sources) -> Result<Option<Signer>, Failure> {
    let Some(path) = sources.sign.as_deref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path)
        .map_err(|source| key_failure(path, KeyError::Read { path: path.to_owned(), source }))?;
    let read = PrivateKey::read(&text, || password(false).map_err(Failed::Asking));
    let key = read.map_err(|failed| match failed {
        Failed::Key(error) => key_failure(path, error),
        Failed::Asking(failure) => failure,
    })?;
    Ok(Some(Signer { key, builder: builder(super::open::variable)? }))
}

/// Returns who builds: as the variable says, or the workflow of GitHub Actions in which this runs.
fn builder(variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, Failure> {
    if let Some(named) = variable(BUILDER) {
        if reqwest::Url::parse(&named).is_err() {
            let error = anyhow!("{BUILDER} is `{named}`, which is no URI");
            let hint = "such as https://ci.example.org/builders/nightly".to_owned();
            return Err(Failure::input(error).hint(Some(hint)));
        }
        return Ok(Some(named));
    }
    let workflow = variable("GITHUB_SERVER_URL").zip(variable("GITHUB_WORKFLOW_REF"));
    Ok(workflow.map(|(server, workflow)| format!("{server}/{workflow}")))
}

/// Why a private key was not read.
enum Failed {
    Key(KeyError),
    Asking(Failure),
}

impl From<KeyError> for Failed {
    fn from(error: KeyError) -> Failed {
        Failed::Key(error)
    }
}

/// Returns the password of the environment, or asks for it on a terminal; twice for a new key.
pub fn password(is_new: bool) -> Result<String, Failure> {
    // An empty one is a password, too.
    if let Ok(password) = std::env::var(PASSWORD) {
        return Ok(password);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let error = anyhow!("the private key needs a password, and nobody is there to ask");
        return Err(Failure::input(error).hint(Some(format!("set {PASSWORD}"))));
    }
    let ask = |text: &str| {
        let _ = write!(std::io::stderr(), "{text}");
        let typed = console::Term::stderr().read_secure_line();
        typed.context("cannot read the password").map_err(Failure::environment)
    };
    let first = ask("password of the private key: ")?;
    if is_new && ask("once more: ")? != first {
        return Err(Failure::input(anyhow!("the two passwords differ")));
    }
    Ok(first)
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
