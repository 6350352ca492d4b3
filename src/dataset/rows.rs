//! From files to rows: JSON and CSV here, parquet and Arrow in [`columns`](super::columns).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::cell::Cell;
#[cfg(feature = "parquet")]
use super::columns;
use super::json::{self, JsonError, Place};
use super::parts::Format;
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

/// Reads files one after the other. A row with a mistake is refused; the others stay.
///
/// # Errors
/// When a file is damaged, a row has no id, or no row is right.
pub(super) fn read(files: &[PathBuf]) -> Result<Rows, DatasetError> {
    let mut reading = Reading::default();
    for file in files {
        reading.path = file.clone();
        match Format::of(&file.to_string_lossy()) {
            #[cfg(feature = "parquet")]
            Some(Format::Parquet) => columns::parquet_rows(file, &mut reading)?,
            #[cfg(feature = "parquet")]
            Some(Format::Arrow) => columns::arrow_rows(file, &mut reading)?,
            #[cfg(not(feature = "parquet"))]
            Some(Format::Parquet | Format::Arrow) => {
                return Err(DatasetError::NotBuilt { path: file.clone() });
            }
            Some(Format::JsonLines) => json_rows(file, true, &mut reading)?,
            Some(Format::Json) => json_rows(file, false, &mut reading)?,
            Some(Format::Csv) => csv_rows(file, b',', &mut reading)?,
            Some(Format::Tsv) => csv_rows(file, b'\t', &mut reading)?,
            None => return Err(DatasetError::UnknownFormat { path: file.clone() }),
        }
    }
    let Reading { rows, mut problems, nameless, .. } = reading;
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

    fn not_an_object(&mut self, place: String) {
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

pub(super) fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Read { path, source }
}

pub(super) fn corrupt(path: &Path, what: impl std::fmt::Display) -> DatasetError {
    DatasetError::Corrupt { path: path.to_owned(), what: what.to_string() }
}

/// Says where an item is.
fn place_of(place: &Place) -> String {
    match (&place.number, &place.key) {
        (Some(number), _) if place.line > 1 => format!("row {number}, line {}", place.line),
        (Some(number), _) => format!("row {number}"),
        (None, Some(_)) | (None, None) => format!("line {}", place.line),
    }
}

/// Returns the error for a file.
fn json_error(path: &Path) -> impl Fn(JsonError) -> DatasetError {
    move |error| match error {
        JsonError::Read(source) => DatasetError::Read { path: path.to_owned(), source },
        JsonError::Malformed { line, what } => corrupt(path, format!("line {line}: {what}")),
    }
}

fn json_rows(path: &Path, lines: bool, reading: &mut Reading) -> Result<(), DatasetError> {
    let read = json::read(path, lines, |item| -> Result<(), JsonError> {
        let place = place_of(&item.place);
        let Some(fields) = item.fields else {
            reading.not_an_object(place);
            return Ok(());
        };
        let mut cells = Vec::new();
        for (name, raw) in fields.0 {
            if let Some(own) = row::column(&name) {
                let cell = Cell::of_json(raw.get()).map_err(|what| JsonError::Malformed {
                    line: item.place.line,
                    what: format!("`{own}` {what}"),
                })?;
                cells.push((name.into_owned(), cell));
            }
        }
        // A row may be called by its key.
        if let Some(key) = item.place.key {
            cells.push(("instance_id".to_owned(), Cell::Text(key.into_bytes())));
        }
        reading.take(place, cells);
        Ok(())
    });
    read.map_err(json_error(path))
}

fn csv_rows(path: &Path, delimiter: u8, reading: &mut Reading) -> Result<(), DatasetError> {
    let bytes = std::fs::read(path).map_err(read_error(path))?;
    if bytes.is_empty() {
        return Err(corrupt(path, "it is empty (0 bytes)"));
    }
    let text = json::decode(&bytes).map_err(json_error(path))?;
    if memchr::memchr_iter(b'"', text.as_bytes()).count() % 2 == 1 {
        return Err(corrupt(path, "it ends within quotes, so it is cut off"));
    }
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let names = reader.headers().map_err(|error| corrupt(path, error))?.clone();
    if !names.iter().any(|name| row::column(name) == Some("instance_id")) {
        return Err(corrupt(path, "its first line names no column `instance_id`"));
    }
    for record in reader.records() {
        let record = record.map_err(|error| corrupt(path, error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cells = names.iter().zip(&record).filter(|(name, _)| row::column(name).is_some());
        let cells = cells.map(|(name, value)| {
            let cell = match value {
                "" => Cell::Null,
                value => Cell::Text(value.as_bytes().to_vec()),
            };
            (name.to_owned(), cell)
        });
        reading.take(format!("line {line}"), cells.collect());
    }
    Ok(())
}
