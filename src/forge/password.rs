//! The password of a private key.

use anyhow::anyhow;

use super::Error;

/// Gives the password of a private key, each time that one is needed.
pub type Password = dyn Fn() -> Result<String, Error> + Send + Sync;

/// The variable with the password of a private key, as cosign calls it.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// Returns the password of the environment.
///
/// # Errors
/// It is not set.
pub(crate) fn of_environment() -> Result<String, Error> {
    // An empty one is a password, too.
    std::env::var(PASSWORD).map_err(|_| {
        let error = anyhow!("the private key needs a password, and nobody is there to ask");
        Error::input(error).with_hint(Some(format!("set {PASSWORD}")))
    })
}
