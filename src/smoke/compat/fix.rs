//! The names of fixes, as configuration files have them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::nearest::nearest;

/// One thing that lets an old repository run on a newer Python.
///
/// Its text is its id, which [`FromStr`] reads: `collections-abc`, `collections-abc=rewrite`,
/// `setuptools-cap=RELEASE`, `pytest-min=RELEASE`, `no-warnings`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fix {
    /// The abstract base classes can be asked of `collections` again. The source is not changed.
    CollectionsAbc,
    /// The source asks `collections.abc` for the abstract base classes. This changes tracked files.
    CollectionsAbcRewrite,
    /// pip takes no setuptools of this release or a later one, for builds in isolation neither.
    SetuptoolsCap(Release),
    /// pytest has this release or a later one: the smallest that runs.
    PytestMin(Release),
    /// No warning fails a test, whatever the configuration of pytest says.
    NoWarnings,
}

/// The number of a release: decimal numbers with dots between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Release(Vec<u32>);

/// A text that is no id of a fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FixError {
    /// No fix has this name.
    #[error("there is no fix `{name}`{}; the fixes are {}", did_you_mean(.nearest), forms())]
    Unknown {
        /// The name.
        name: String,
        /// The name that resembles it.
        nearest: Option<String>,
    },
    /// A fix needs the number of a release.
    #[error("the fix `{0}` needs the number of a release: write `{0}={1}`, for example")]
    NoRelease(&'static str, &'static str),
    /// The value of a fix is not the number of a release.
    #[error(
        "`{value}` in `{name}={value}` is no release: write numbers and dots, as in `{example}`"
    )]
    NotARelease {
        /// The name of the fix.
        name: &'static str,
        /// Its value.
        value: String,
        /// A release.
        example: &'static str,
    },
    /// A fix takes no value, or another one.
    #[error("the fix `{name}` does not take `{value}`{}: write {forms}", did_you_mean(.nearest))]
    Value {
        /// The name of the fix.
        name: &'static str,
        /// Its value.
        value: String,
        /// The value that resembles it.
        nearest: Option<String>,
        /// How the fix can be written.
        forms: &'static str,
    },
}

const COLLECTIONS_ABC: &str = "collections-abc";
const SETUPTOOLS_CAP: &str = "setuptools-cap";
const PYTEST_MIN: &str = "pytest-min";
const NO_WARNINGS: &str = "no-warnings";

/// The names of all fixes.
const NAMES: [&str; 4] = [COLLECTIONS_ABC, SETUPTOOLS_CAP, PYTEST_MIN, NO_WARNINGS];

/// The value of [`COLLECTIONS_ABC`] that changes the source.
const REWRITE: &str = "rewrite";

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(": did you mean `{name}`?"))
}

/// Every form that a fix can have, for a person.
fn forms() -> String {
    format!(
        "`{COLLECTIONS_ABC}`, `{COLLECTIONS_ABC}={REWRITE}`, `{SETUPTOOLS_CAP}=RELEASE`, \
         `{PYTEST_MIN}=RELEASE` and `{NO_WARNINGS}`"
    )
}

impl FromStr for Fix {
    type Err = FixError;

    fn from_str(text: &str) -> Result<Fix, FixError> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let release = |name, example| {
            let value = value.ok_or(FixError::NoRelease(name, example))?;
            let release = value.parse();
            release.map_err(|()| FixError::NotARelease { name, value: value.to_owned(), example })
        };
        let refused = |name, value: &str, known: &[&str], forms| FixError::Value {
            name,
            value: value.to_owned(),
            nearest: nearest(value, known.iter().copied()),
            forms,
        };
        match (name, value) {
            (COLLECTIONS_ABC, None) => Ok(Fix::CollectionsAbc),
            (COLLECTIONS_ABC, Some(REWRITE)) => Ok(Fix::CollectionsAbcRewrite),
            (COLLECTIONS_ABC, Some(value)) => {
                let forms = "`collections-abc` or `collections-abc=rewrite`";
                Err(refused(COLLECTIONS_ABC, value, &[REWRITE], forms))
            }
            (SETUPTOOLS_CAP, _) => Ok(Fix::SetuptoolsCap(release(SETUPTOOLS_CAP, "58")?)),
            (PYTEST_MIN, _) => Ok(Fix::PytestMin(release(PYTEST_MIN, "6.2.5")?)),
            (NO_WARNINGS, None) => Ok(Fix::NoWarnings),
            (NO_WARNINGS, Some(value)) => {
                Err(refused(NO_WARNINGS, value, &[], "`no-warnings` alone"))
            }
            _ => Err(FixError::Unknown { name: name.to_owned(), nearest: nearest(name, NAMES) }),
        }
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fix::CollectionsAbc => f.write_str(COLLECTIONS_ABC),
            Fix::CollectionsAbcRewrite => write!(f, "{COLLECTIONS_ABC}={REWRITE}"),
            Fix::SetuptoolsCap(release) => write!(f, "{SETUPTOOLS_CAP}={release}"),
            Fix::PytestMin(release) => write!(f, "{PYTEST_MIN}={release}"),
            Fix::NoWarnings => f.write_str(NO_WARNINGS),
        }
    }
}

impl TryFrom<String> for Fix {
    type Error = FixError;

    fn try_from(text: String) -> Result<Fix, FixError> {
        text.parse()
    }
}

impl From<Fix> for String {
    fn from(fix: Fix) -> String {
        fix.to_string()
    }
}

impl FromStr for Release {
    type Err = ();

    fn from_str(text: &str) -> Result<Release, ()> {
        let number = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse().map_err(drop),
            false => Err(()),
        };
        text.split('.').map(number).collect::<Result<_, ()>>().map(Release)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        text.parse::<Fix>().unwrap_err().to_string()
    }

    #[test]
    fn every_id_is_read_and_written() {
        let ids = [
            "collections-abc",
            "collections-abc=rewrite",
            "setuptools-cap=58",
            "setuptools-cap=59.8.0",
            "pytest-min=6.2.5",
            "no-warnings",
        ];
        for id in ids {
            assert_eq!(id.parse::<Fix>().unwrap().to_string(), id);
            let json = serde_json::to_string(id).unwrap();
            let fix: Fix = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&fix).unwrap(), json);
        }
    }

    #[test]
    fn an_unknown_id_names_the_nearest_and_all() {
        assert_eq!(
            message("setuptool-cap=58"),
            "there is no fix `setuptool-cap`: did you mean `setuptools-cap`?; the fixes are \
             `collections-abc`, `collections-abc=rewrite`, `setuptools-cap=RELEASE`, \
             `pytest-min=RELEASE` and `no-warnings`"
        );
        assert!(message("xyz").starts_with("there is no fix `xyz`; the fixes are "));
        assert!(message("").starts_with("there is no fix ``; the fixes are "));
    }

    #[test]
    fn a_wrong_value_says_what_is_taken() {
        assert_eq!(
            message("collections-abc=rewrit"),
            "the fix `collections-abc` does not take `rewrit`: did you mean `rewrite`?: write \
             `collections-abc` or `collections-abc=rewrite`"
        );
        assert_eq!(
            message("no-warnings=1"),
            "the fix `no-warnings` does not take `1`: write `no-warnings` alone"
        );
        assert_eq!(
            message("pytest-min"),
            "the fix `pytest-min` needs the number of a release: write `pytest-min=6.2.5`, for \
             example"
        );
        for value in ["", ".", "6.", "six", "6.2rc1", "<60", "-1", " 6", "99999999999"] {
            let message = message(&format!("setuptools-cap={value}"));
            assert!(message.contains("is no release"), "{value}: {message}");
        }
    }
}
