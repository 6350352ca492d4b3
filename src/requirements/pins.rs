//! The pins of a lockfile, one by one, for programs.

use serde::Serialize;

use super::line::{Line, Statement, lines};

/// A package of a lockfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Pin {
    /// The project, as the lockfile writes it.
    pub name: String,
    /// The version; `None` where the package comes from an address.
    pub version: Option<String>,
    /// The requirement with its marker, without hashes.
    pub requirement: String,
    /// The hashes of the files that may be installed, such as `sha256:…`.
    pub hashes: Vec<String>,
}

/// Reads the pins of a lockfile, in its order.
pub(crate) fn pins(text: &str) -> Vec<Pin> {
    let requirement = |line: Line| match line.statement {
        Statement::Requirement(text) => Some(pin(&text)),
        _ => None,
    };
    lines(text, &|_| None).into_iter().filter_map(requirement).collect()
}

fn pin(text: &str) -> Pin {
    const HASH: &str = "--hash=";
    let hashes = text.split_whitespace().filter_map(|word| word.strip_prefix(HASH));
    let plain = text.split_whitespace().filter(|word| !word.starts_with(HASH));
    let requirement = plain.collect::<Vec<_>>().join(" ");
    let of_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let end = requirement.find(|c| !of_name(c)).unwrap_or(requirement.len());
    let (name, rest) = requirement.split_at(end);
    let specifier = rest.split(';').next().unwrap_or_default();
    let version = match specifier.contains('@') {
        true => None,
        false => specifier.split_once("==").map(|(_, version)| version),
    };
    let version = version.map(|version| version.trim_start_matches('=').trim().to_owned());
    Pin {
        name: name.to_owned(),
        version,
        hashes: hashes.map(str::to_owned).collect(),
        requirement: requirement.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_has_its_version_its_marker_and_its_hashes() {
        let text = "# a header\nattrs==25.1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n\
                    tomli==2.0.2 ; python_full_version < '3.11'\nx[y] === 1\n\
                    z @ https://example.org/z.zip?a==b\n--no-index\n";
        let pin = |name: &str, version: Option<&str>, requirement: &str, hashes: &[&str]| Pin {
            name: name.to_owned(),
            version: version.map(str::to_owned),
            requirement: requirement.to_owned(),
            hashes: hashes.iter().map(|hash| (*hash).to_owned()).collect(),
        };
        let expected = [
            pin("attrs", Some("25.1.0"), "attrs==25.1.0", &["sha256:aa", "sha256:bb"]),
            pin("tomli", Some("2.0.2"), "tomli==2.0.2 ; python_full_version < '3.11'", &[]),
            pin("x", Some("1"), "x[y] === 1", &[]),
            pin("z", None, "z @ https://example.org/z.zip?a==b", &[]),
        ];
        assert_eq!(pins(text), expected);
    }
}
