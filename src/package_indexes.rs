//! Package indexes: what pip's variables say, said to uv, which reads none of them.
//!
//! pip's files (`pip.conf`) are not read: what a build asks is in the environment, where it shows.

use std::collections::BTreeMap;

/// What pip calls yes.
const YES: [&str; 6] = ["1", "true", "yes", "on", "t", "y"];

/// What pip reads, what uv reads instead, and another spelling of the latter.
const NAMES: [(&str, &str, &str); 4] = [
    ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"),
    ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST", "UV_INSECURE_HOST"),
    ("PIP_FIND_LINKS", "UV_FIND_LINKS", "UV_FIND_LINKS"),
];

/// Returns the variables that say to uv what pip's say to pip. What is said to uv itself stays.
pub(crate) fn uv_variables(variable: &impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let said = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let mut variables = BTreeMap::new();
    for (pip, uv, other) in NAMES {
        let Some(value) = said(pip).filter(|_| said(uv).is_none() && said(other).is_none()) else {
            continue;
        };
        // pip separates by blanks, and so does uv but for links.
        let between = if pip == "PIP_FIND_LINKS" { "," } else { " " };
        let words: Vec<&str> = value.split_whitespace().collect();
        variables.insert(uv.to_owned(), words.join(between));
        // pip takes the best version of all indexes, uv the first index that has the package.
        if pip == "PIP_EXTRA_INDEX_URL" && said("UV_INDEX_STRATEGY").is_none() {
            variables.insert("UV_INDEX_STRATEGY".to_owned(), "unsafe-best-match".to_owned());
        }
    }
    variables
}

/// Tells whether no index may be asked.
pub(crate) fn no_index(variable: &impl Fn(&str) -> Option<String>) -> bool {
    let value = variable("PIP_NO_INDEX").unwrap_or_default();
    YES.contains(&value.trim().to_ascii_lowercase().as_str())
}

/// Splits the places of `PIP_FIND_LINKS` or `UV_FIND_LINKS` into what a build step can ask, in the
/// same form, and folders of this host, which it does not see.
pub(crate) fn links(value: &str) -> (String, Vec<&str>) {
    let between = if value.contains(',') { ',' } else { ' ' };
    let places = value.split([',', ' ', '\t', '\n']).filter(|place| !place.is_empty());
    let (seen, unseen): (Vec<&str>, Vec<&str>) =
        places.partition(|place| place.contains("://") && !place.starts_with("file:"));
    (seen.join(&between.to_string()), unseen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uv(set: &[(&str, &str)]) -> BTreeMap<String, String> {
        uv_variables(&|name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn pips_indexes_are_uvs_too() {
        let said = uv(&[
            ("PIP_INDEX_URL", "https://u:p@i/simple"),
            ("PIP_EXTRA_INDEX_URL", "https://a/simple\n https://b/simple"),
            ("PIP_TRUSTED_HOST", "i a:8080"),
            ("PIP_FIND_LINKS", "https://x/wheels https://y/"),
        ]);
        let expected = [
            ("UV_DEFAULT_INDEX", "https://u:p@i/simple"),
            ("UV_FIND_LINKS", "https://x/wheels,https://y/"),
            ("UV_INDEX", "https://a/simple https://b/simple"),
            ("UV_INDEX_STRATEGY", "unsafe-best-match"),
            ("UV_INSECURE_HOST", "i a:8080"),
        ];
        let said: Vec<(&str, &str)> = said.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_said_to_uv_itself_stays() {
        for own in ["UV_DEFAULT_INDEX", "UV_INDEX_URL"] {
            assert!(uv(&[("PIP_INDEX_URL", "https://p"), (own, "https://u")]).is_empty());
        }
        for own in ["UV_INDEX", "UV_EXTRA_INDEX_URL"] {
            assert!(uv(&[("PIP_EXTRA_INDEX_URL", "https://p"), (own, "https://u")]).is_empty());
        }
        let strategy = [("PIP_EXTRA_INDEX_URL", "https://p"), ("UV_INDEX_STRATEGY", "first-index")];
        assert_eq!(uv(&strategy).len(), 1);
        assert!(uv(&[("PIP_INDEX_URL", " ")]).is_empty());
    }

    #[test]
    fn folders_of_the_host_are_not_seen_by_a_step() {
        assert_eq!(
            links("https://x/w /opt/wheels"),
            ("https://x/w".to_owned(), vec!["/opt/wheels"])
        );
        assert_eq!(links("https://x,https://y").0, "https://x,https://y");
        assert_eq!(links("file:///w wheels").1, ["file:///w", "wheels"]);
        let no = |value: &str| {
            let value = value.to_owned();
            no_index(&move |name: &str| (name == "PIP_NO_INDEX").then(|| value.clone()))
        };
        assert!(no("1") && no("True") && !no("0") && !no(""));
    }
}
