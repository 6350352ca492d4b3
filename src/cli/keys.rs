//! The password of a private key on the command line.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, anyhow};

use crate::forge::{self, password};

/// Returns the password of the environment, or asks for it on a terminal; twice for a new key.
pub(super) fn password(is_new: bool) -> Result<String, forge::Error> {
    let absent = match password::of_environment() {
        Ok(password) => return Ok(password),
        Err(absent) => absent,
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(absent);
    }
    let ask = |text: &str| {
        let _ = write!(std::io::stderr(), "{text}");
        let typed = console::Term::stderr().read_secure_line();
        typed.context("cannot read the password").map_err(forge::Error::environment)
    };
    let first = ask("password of the private key: ")?;
    if is_new && ask("once more: ")? != first {
        return Err(forge::Error::input(anyhow!("the two passwords differ")));
    }
    Ok(first)
}
