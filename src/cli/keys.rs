//! Keys on the command line: whose signatures are trusted, what signs, and making a pair.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};

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

/// Reads the private key that signs what is pushed.
pub fn signer(sources: &Sources) -> Result<Option<PrivateKey>, Failure> {
    let Some(path) = sources.sign.as_deref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path)
        .map_err(|source| key_failure(path, KeyError::Read { path: path.to_owned(), source }))?;
    PrivateKey::read(&text, || password(false).map_err(Failed::Asking)).map(Some).map_err(
        |failed| match failed {
            Failed::Key(error) => key_failure(path, error),
            Failed::Asking(failure) => failure,
        },
    )
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
        eprint!("{text}");
        let typed = console::Term::stderr().read_secure_line();
        typed.context("cannot read the password").map_err(Failure::environment)
    };
    let first = ask("password of the private key: ")?;
    if is_new && ask("once more: ")? != first {
        return Err(Failure::input(anyhow!("the two passwords differ")));
    }
    Ok(first)
}
