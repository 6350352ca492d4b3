//! Chosen instances that are left out: how it is told at the end.

use serde::Serialize;

use crate::dataset::Refused;

use super::Exit;

/// The status where something was left out: it is not all done.
pub(super) fn exit(exit: Exit, refused: &[Refused]) -> Exit {
    match exit {
        Exit::Success if !refused.is_empty() => Exit::SomeFailed,
        exit => exit,
    }
}

/// A document, and what was left out.
#[derive(Serialize)]
pub(super) struct WithRefused<'a, T> {
    #[serde(flatten)]
    document: &'a T,
    refused: Vec<Problem<'a>>,
}

#[derive(Serialize)]
struct Problem<'a> {
    instance_id: &'a str,
    problem: &'a str,
}

/// Adds to a document what was left out.
pub(super) fn with<'a, T>(document: &'a T, refused: &'a [Refused]) -> WithRefused<'a, T> {
    let problem = |one: &'a Refused| Problem { instance_id: &one.instance_id, problem: &one.why };
    WithRefused { document, refused: refused.iter().map(problem).collect() }
}
