//! Secrets of a run: values that nobody is to read in a report, a log, an event or a file.
//!
//! Variables whose names have `TOKEN`, `KEY`, `SECRET` or `PASSWORD` in them have secret values, and so has
//! the password of a URL. Each occurrence of such a value becomes [`MASK`], before it is written anywhere.
//! A value of less than [`SHORTEST`] bytes is masked in the list of variables alone: it would occur by chance.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::engine::LogSink;

use super::config::{Origin, RunConfig};

/// What stands for a secret.
pub const MASK: &str = "***";

/// The fewest bytes of a value that is looked for in outputs.
pub const SHORTEST: usize = 4;

/// The words that make the name of a variable that of a secret.
const WORDS: [&str; 4] = ["TOKEN", "KEY", "SECRET", "PASSWORD"];

/// Tells whether a variable has a secret value.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// The values to mask.
#[derive(Clone, Default)]
pub struct Secrets {
    /// The longest first: one may begin with another.
    values: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.values.len())
    }
}

impl Secrets {
    /// Finds the secrets of a run.
    pub fn of(config: &RunConfig) -> Secrets {
        let variables = config.sandbox.env.iter().chain(&config.task.env);
        let variables = variables.filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
        let mut values: Vec<Vec<u8>> =
            variables.map(|value| value.trim().as_bytes().to_vec()).collect();
        if let Origin::Url(url) = &config.repo.origin
            && let Some((_, password)) = user_of(url)
        {
            values.push(password.as_bytes().to_vec());
            let decoded = percent_encoding::percent_decode_str(password);
            values.push(decoded.collect());
        }
        values.retain(|value| value.len() >= SHORTEST);
        values.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        values.dedup();
        Secrets { values }
    }

    /// Masks a text.
    pub fn mask(&self, text: &str) -> String {
        let (masked, rest) = self.pass(text.as_bytes(), true);
        debug_assert!(rest == text.len(), "all of it is passed at the end");
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// Masks the values of variables.
    pub fn mask_variables(&self, variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let masked = variables.iter().map(|(name, value)| {
            let value = match is_secret(name) && !value.is_empty() {
                true => MASK.to_owned(),
                false => self.mask(value),
            };
            (name.clone(), value)
        });
        masked.collect()
    }

    /// Masks all that is whole in some bytes; returns it, and how many bytes it stands for. What may be
    /// the beginning of a secret is left, unless no more comes.
    fn pass(&self, bytes: &[u8], is_end: bool) -> (Vec<u8>, usize) {
        if self.values.is_empty() {
            return (bytes.to_vec(), bytes.len());
        }
        let mut begins = [false; 256];
        for value in &self.values {
            begins[usize::from(value[0])] = true;
        }
        let mut masked = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let plain = bytes[at..].iter().take_while(|byte| !begins[usize::from(**byte)]).count();
            masked.extend_from_slice(&bytes[at..at + plain]);
            at += plain;
            let rest = &bytes[at..];
            if rest.is_empty() {
                break;
            }
            let may_come = |value: &&Vec<u8>| value.len() > rest.len() && value.starts_with(rest);
            if !is_end && self.values.iter().any(|value| may_come(&value)) {
                return (masked, at);
            }
            match self.values.iter().find(|value| rest.starts_with(value)) {
                Some(value) => {
                    masked.extend_from_slice(MASK.as_bytes());
                    at += value.len();
                }
                None => {
                    masked.push(rest[0]);
                    at += 1;
                }
            }
        }
        (masked, at)
    }
}

/// Returns the user and the password of a URL that has them.
fn user_of(url: &str) -> Option<(&str, &str)> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').or(Some(("", user)))
}

/// An output on its way to `to`, without secrets, however it is cut into pieces.
pub(super) struct Masked<'a, S> {
    secrets: &'a Secrets,
    to: S,
    held: Mutex<Vec<u8>>,
}

impl<'a, S: LogSink> Masked<'a, S> {
    /// Masks what goes to a sink.
    pub(super) fn new(secrets: &'a Secrets, to: S) -> Masked<'a, S> {
        Masked { secrets, to, held: Mutex::default() }
    }

    /// Passes the rest on; returns the sink.
    pub(super) fn finish(self) -> S {
        let held = self.held.into_inner().expect("no writer panics");
        let (masked, _) = self.secrets.pass(&held, true);
        if !masked.is_empty() {
            self.to.write(&masked);
        }
        self.to
    }
}

impl<S: LogSink> LogSink for Masked<'_, S> {
    fn write(&self, bytes: &[u8]) {
        let mut held = self.held.lock().expect("no writer panics");
        held.extend_from_slice(bytes);
        let (masked, passed) = self.secrets.pass(&held, false);
        held.drain(..passed);
        if !masked.is_empty() {
            self.to.write(&masked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Capture, Keep};

    fn secrets(values: &[&str]) -> Secrets {
        let mut values: Vec<Vec<u8>> =
            values.iter().map(|value| value.as_bytes().to_vec()).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Secrets { values }
    }

    #[test]
    fn a_secret_is_masked_however_the_output_is_cut() {
        let secrets = secrets(&["hunter22", "hunter22-longer", "aaaa"]);
        let text = "x hunter22 hunter22-longer\naaaaaaab hunter2 hunter22-long";
        let expected = "x *** ***\n***aaab hunter2 ***-long";
        assert_eq!(secrets.mask(text), expected);
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let masked = Masked::new(&secrets, Capture::new(Keep::All));
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    masked.write(piece.as_bytes());
                }
                let bytes = masked.finish().finish().bytes;
                assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{first} {second}");
            }
        }
    }

    #[test]
    fn names_and_urls_say_what_is_secret() {
        for name in ["HF_TOKEN", "aws_secret_access_key", "PGPASSWORD", "API_KEY_2"] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("PATH"));
        assert_eq!(user_of("https://me:pass@host/a/b"), Some(("me", "pass")));
        assert_eq!(user_of("https://ghp_123@host/a/b"), Some(("", "ghp_123")));
        assert_eq!(user_of("https://host/a@b"), None);
        assert_eq!(user_of("git@github.com:a/b"), None);
        let variables = BTreeMap::from([
            ("A_KEY".to_owned(), "abc".to_owned()),
            ("B".to_owned(), "with hunter22".to_owned()),
        ]);
        let masked = secrets(&["hunter22"]).mask_variables(&variables);
        assert_eq!(masked["A_KEY"], MASK);
        assert_eq!(masked["B"], "with ***");
    }
}
