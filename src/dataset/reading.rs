//! The rows of files as they are read: what is right, what is refused, what is there twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::cell::Cell;
use super::row::{self, Row, RowProblem};
use super::{DatasetError, Instance, Refused};

/// How many bad rows one error names.
const NAMED: usize = 10;

/// What files hold.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The rows that can be read, in their order.
    pub instances: Vec<Instance>,
    /// The others.
    pub refused: Vec<Refused>,
}

/// What was read so far.
#[derive(Default)]
pub(super) struct Reading {
    path: PathBuf,
    rows: Rows,
    problems: Vec<(PathBuf, RowProblem)>,
    /// Whether a row has no id.
    nameless: bool,
    /// Where each id is.
    seen: HashMap<String, Seen>,
}

struct Seen {
    place: String,
    /// Its number among the instances; `None` when it is refused.
    at: Option<usize>,
}

impl Reading {
    /// Goes on with a file.
    pub(super) fn begin(&mut self, path: &Path) {
        self.path = path.to_owned();
    }

    /// Returns the rows.
    ///
    /// # Errors
    /// When a row has no id, or no row is right.
    pub(super) fn finish(self, files: &[PathBuf]) -> Result<Rows, DatasetError> {
        let Reading { rows, mut problems, nameless, .. } = self;
        if nameless || (rows.instances.is_empty() && !problems.is_empty()) {
            problems.sort_by_key(|(_, problem)| problem.instance_id.is_some());
            let more = problems.len().saturating_sub(NAMED);
            problems.truncate(NAMED);
            return Err(DatasetError::Rows { problems, more });
        }
        if rows.instances.is_empty() {
            return Err(DatasetError::NoRows { path: files.first().cloned().unwrap_or_default() });
        }
        Ok(rows)
    }

    /// Takes a row.
    pub(super) fn take(&mut self, place: String, cells: Vec<(String, Cell)>) {
        match row::read(&Row { place: place.clone(), cells }) {
            Err(problem) => self.refuse(problem),
            Ok(instance) => {
                let id = instance.instance_id.clone();
                let at = self.rows.instances.len();
                match self.seen.get(&id) {
                    None => {
                        self.seen.insert(id, Seen { place, at: Some(at) });
                        self.rows.instances.push(instance);
                    }
                    Some(Seen { place: first, .. }) => {
                        let what = format!("is the same as that of {first}");
                        let problem = RowProblem {
                            place,
                            instance_id: Some(id),
                            repo: Some(instance.repo),
                            field: "instance_id".to_owned(),
                            what,
                        };
                        self.refuse(problem);
                    }
                }
            }
        }
    }

    pub(super) fn not_an_object(&mut self, place: String) {
        self.refuse(RowProblem {
            place,
            instance_id: None,
            repo: None,
            field: "(row)".to_owned(),
            what: "is not a JSON object".to_owned(),
        });
    }

    fn refuse(&mut self, problem: RowProblem) {
        self.problems.push((self.path.clone(), problem.clone()));
        let Some(id) = problem.instance_id.clone() else {
            self.nameless = true;
            return;
        };
        let seen = Seen { place: problem.place.clone(), at: None };
        let earlier = self.seen.insert(id.clone(), seen);
        if let Some(Seen { at: None, .. }) = earlier {
            return;
        }
        if let Some(Seen { at: Some(at), .. }) = earlier {
            // Which of the two is meant, nobody knows.
            self.rows.instances.remove(at);
            for seen in self.seen.values_mut() {
                if let Some(other) = seen.at.as_mut().filter(|other| **other > at) {
                    *other -= 1;
                }
            }
            for refused in self.rows.refused.iter_mut().filter(|one| one.before > at) {
                refused.before -= 1;
            }
        }
        self.rows.refused.push(Refused {
            instance_id: id,
            repo: problem.repo.clone(),
            before: self.rows.instances.len(),
            why: format!("`{}` {problem}", self.path.display()),
        });
    }
}

/// Makes the error of a file that cannot be read.
pub(super) fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Read { path, source }
}

/// Makes the error of a file that is damaged.
pub(super) fn corrupt(path: &Path, what: impl std::fmt::Display) -> DatasetError {
    DatasetError::Corrupt { path: path.to_owned(), what: what.to_string() }
}
