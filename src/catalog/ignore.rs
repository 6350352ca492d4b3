//! `.dockerignore`: which files beside a Dockerfile are no part of its context
//! (<https://docs.docker.com/build/concepts/context/#dockerignore-files>).

use glob::{MatchOptions, Pattern};

/// The rules of a file, in order.
pub(super) struct Ignore {
    rules: Vec<(Pattern, bool)>,
}

impl Ignore {
    /// Reads rules. A pattern that is none ignores nothing.
    pub(super) fn parse(text: &str) -> Ignore {
        let rules = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let rule = |line: &str| {
            let (pattern, again) = match line.strip_prefix('!') {
                Some(pattern) => (pattern.trim(), true),
                None => (line, false),
            };
            let plain = pattern.trim_matches('/').trim_start_matches("./");
            let plain = if plain == "." { "**" } else { plain };
            (!plain.is_empty()).then(|| Some((Pattern::new(plain).ok()?, again)))?
        };
        Ignore { rules: rules.filter_map(rule).collect() }
    }

    /// Tells whether a file is ignored: of the rules that match it, or a directory above it, the last
    /// counts.
    pub(super) fn ignores(&self, path: &str) -> bool {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let prefixes: Vec<&str> = ends.map(|end| &path[..end]).collect();
        let matches =
            |pattern: &Pattern| prefixes.iter().any(|prefix| pattern.matches_with(prefix, options));
        let last = self.rules.iter().rev().find(|(pattern, _)| matches(pattern));
        last.is_some_and(|(_, again)| !again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_matches_counts() {
        let ignore =
            Ignore::parse("# note\n*.md\n!README.md\nbuild\n**/*.pyc\n/docs/*\n!docs/keep\n");
        for ignored in ["a.md", "build/x/y", "build", "a/b/c.pyc", "c.pyc", "docs/a/b"] {
            assert!(ignore.ignores(ignored), "{ignored}");
        }
        for kept in ["README.md", "sub/a.md", "rebuild/x", "docs/keep", "docs/keep/a", "a.py"] {
            assert!(!ignore.ignores(kept), "{kept}");
        }
    }
}
