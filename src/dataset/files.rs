//! Datasets in files: parquet, JSON, JSON lines, and directories of them.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};

use super::row::{self, COLUMNS, RowProblem};
use super::{DatasetError, Instance};

/// How many bad rows one error names.
const NAMED: usize = 10;

/// Finds the files of a split: the file itself, or those in a directory.
pub(super) fn find(path: &Path, split: &str) -> Result<Vec<PathBuf>, DatasetError> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut splits = Vec::new();
    for dir in [path.to_owned(), path.join("data")] {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(of) = split_of(&name) {
                if of == split {
                    found.push(entry.path());
                }
                splits.push(of.to_owned());
            }
        }
        found.sort();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    splits.sort();
    splits.dedup();
    Err(DatasetError::UnknownSplit {
        name: path.display().to_string(),
        split: split.to_owned(),
        splits,
    })
}

/// Returns the split that a file's name says: `test.parquet`, `test-00000-of-00001.parquet`.
pub(super) fn split_of(file: &str) -> Option<&str> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let (stem, end) = name.rsplit_once('.')?;
    if !matches!(end, "parquet" | "json" | "jsonl") {
        return None;
    }
    match stem.split_once('-') {
        Some((split, rest)) if rest.contains("of") || rest.chars().all(|c| c.is_ascii_digit()) => {
            Some(split)
        }
        _ => Some(stem),
    }
}

/// Reads files one after the other.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Instance>, DatasetError> {
    let mut instances: Vec<Instance> = Vec::new();
    let mut seen: HashMap<String, String> = HashMap::new();
    let mut problems = Vec::new();
    for file in files {
        let mut take = |row: Result<Map<String, Value>, RowProblem>, place: String| {
            let instance = row.and_then(|row| row::read(&row, &place));
            match instance {
                Err(problem) => problems.push(problem),
                Ok(instance) => match seen.insert(instance.instance_id.clone(), place.clone()) {
                    None => instances.push(instance),
                    Some(first) => problems.push(RowProblem {
                        place,
                        instance_id: Some(instance.instance_id),
                        field: "instance_id".to_owned(),
                        what: format!("is the same as that of {first}"),
                    }),
                },
            }
        };
        match file.extension().and_then(|end| end.to_str()) {
            Some("parquet") => parquet_rows(file, &mut take)?,
            Some("jsonl") => json_lines(file, &mut take)?,
            Some("json") => json_list(file, &mut take)?,
            _ => return Err(DatasetError::UnknownFormat { path: file.clone() }),
        }
        if !problems.is_empty() {
            let more = problems.len().saturating_sub(NAMED);
            problems.truncate(NAMED);
            return Err(DatasetError::Rows { path: file.clone(), problems, more });
        }
    }
    Ok(instances)
}

type Take<'a> = dyn FnMut(Result<Map<String, Value>, RowProblem>, String) + 'a;

fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Read { path, source }
}

fn parquet_rows(path: &Path, take: &mut Take<'_>) -> Result<(), DatasetError> {
    let file = File::open(path).map_err(read_error(path))?;
    let corrupt = |error: parquet::errors::ParquetError| DatasetError::Corrupt {
        path: path.to_owned(),
        what: error.to_string(),
    };
    let reader = SerializedFileReader::new(file).map_err(corrupt)?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let wanted = schema
        .get_fields()
        .iter()
        .filter(|field| COLUMNS.contains(&field.name()))
        .cloned()
        .collect();
    let projection = parquet::schema::types::Type::group_type_builder(schema.name())
        .with_fields(wanted)
        .build()
        .map_err(corrupt)?;
    let rows = reader.get_row_iter(Some(projection)).map_err(corrupt)?;
    for (index, row) in rows.enumerate() {
        let row = row.map_err(corrupt)?;
        let map =
            row.into_columns().into_iter().map(|(name, field)| (name, value_of(field))).collect();
        take(Ok(map), format!("row {}", index + 1));
    }
    Ok(())
}

/// Makes JSON of a parquet value; strings are moved.
fn value_of(field: Field) -> Value {
    match field {
        Field::Str(text) => Value::String(text),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().cloned().map(value_of).collect())
        }
        Field::Group(row) => Value::Object(
            row.into_columns().into_iter().map(|(name, field)| (name, value_of(field))).collect(),
        ),
        Field::Null => Value::Null,
        Field::Float(number) => serde_json::Number::from_f64(f64::from(number)).into(),
        Field::Double(number) => serde_json::Number::from_f64(number).into(),
        Field::Bool(value) => Value::Bool(value),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::MapInternal(map) => Value::Object(
            map.entries()
                .iter()
                .map(|(key, value)| {
                    let key = match key {
                        Field::Str(text) => text.clone(),
                        other => other.to_string(),
                    };
                    (key, value_of(value.clone()))
                })
                .collect(),
        ),
        // Times and the like, in the columns that are only shown.
        other => Value::String(other.to_string()),
    }
}

fn json_lines(path: &Path, take: &mut Take<'_>) -> Result<(), DatasetError> {
    use std::io::BufRead as _;
    let file = File::open(path).map_err(read_error(path))?;
    for (index, line) in std::io::BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(read_error(path))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = format!("line {}", index + 1);
        let row = serde_json::from_slice::<Value>(&line)
            .map_err(|error| error.to_string())
            .and_then(|value| match value {
                Value::Object(map) => Ok(map),
                _ => Err("is not a JSON object".to_owned()),
            })
            .map_err(|what| RowProblem {
                place: place.clone(),
                instance_id: None,
                field: "(row)".to_owned(),
                what,
            });
        take(row, place);
    }
    Ok(())
}

fn json_list(path: &Path, take: &mut Take<'_>) -> Result<(), DatasetError> {
    let bytes = std::fs::read(path).map_err(read_error(path))?;
    let corrupt = |what: String| DatasetError::Corrupt { path: path.to_owned(), what };
    let value = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let Value::Array(rows) = value else {
        return Err(corrupt("it must be a list of objects".to_owned()));
    };
    for (index, row) in rows.into_iter().enumerate() {
        let place = format!("row {}", index + 1);
        let row = match row {
            Value::Object(map) => Ok(map),
            _ => Err(RowProblem {
                place: place.clone(),
                instance_id: None,
                field: "(row)".to_owned(),
                what: "is not a JSON object".to_owned(),
            }),
        };
        take(row, place);
    }
    Ok(())
}
