//! From files to rows: JSON and CSV here, parquet and Arrow in `columns`.

use std::path::{Path, PathBuf};

use super::DatasetError;
use super::cell::Cell;
#[cfg(feature = "parquet")]
use super::columns;
use super::json::{self, JsonError, Place};
use super::parts::Format;
use super::reading::{Reading, Rows, corrupt, read_error};
use super::row;

/// Reads files one after the other. A row with a mistake is refused; the others stay.
///
/// # Errors
/// When a file is damaged, a row has no id, or no row is right.
pub(super) fn read(files: &[PathBuf]) -> Result<Rows, DatasetError> {
    let mut reading = Reading::default();
    for file in files {
        reading.begin(file);
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
    reading.finish(files)
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
