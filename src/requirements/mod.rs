//! Requirement files as pip reads them: logical lines, options, and what a line asks for.
//!
//! Pure: files come as text. What cannot be had in an environment is said by line, with what to
//! write instead; see [`clean`].

use std::fmt::Write as _;

mod clean;
mod line;
mod pins;

pub(crate) use clean::{Refused, Source, clean};
pub(crate) use pins::pins;

/// Returns a project's name as indexes compare it: lower case, with `-` for `_` and `.`.
pub(crate) fn normal_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    normal
}

/// Tells whether a requirement gives the same package on any day.
pub(crate) fn is_pinned(requirement: &str) -> bool {
    let specifier = requirement.split([';', '#']).next().unwrap_or(requirement);
    specifier.contains("==") && !specifier.contains(".*") || specifier.contains(" @ ")
}

/// Renders refused lines for an error, one a line.
pub(crate) fn refused_text(place: &str, refused: &[Refused]) -> String {
    let mut text = String::new();
    for one in refused {
        let _ =
            write!(text, "\n  {place}:{}: `{}` {}; {}", one.line, one.text, one.why, one.instead);
    }
    text
}
