//! From files to rows: parquet, Arrow, JSON and CSV.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;

use super::cell::Cell;
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
            Some(Format::Parquet) => parquet_rows(file, &mut reading)?,
            Some(Format::Arrow) => arrow_rows(file, &mut reading)?,
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
struct Reading {
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
    fn take(&mut self, place: String, cells: Vec<(String, Cell)>) {
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

fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Read { path, source }
}

fn corrupt(path: &Path, what: impl std::fmt::Display) -> DatasetError {
    DatasetError::Corrupt { path: path.to_owned(), what: what.to_string() }
}

/// Opens a file that is not readable from its beginning on when it is cut off.
fn open(path: &Path) -> Result<File, DatasetError> {
    let file = File::open(path).map_err(read_error(path))?;
    match file.metadata().map_err(read_error(path))?.len() {
        0 => Err(corrupt(path, "it is empty (0 bytes)")),
        _ => Ok(file),
    }
}

fn parquet_rows(path: &Path, reading: &mut Reading) -> Result<(), DatasetError> {
    let reader = SerializedFileReader::new(open(path)?).map_err(|error| corrupt(path, error))?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let wanted = schema
        .get_fields()
        .iter()
        .filter(|field| row::column(field.name()).is_some())
        .cloned()
        .collect();
    let projection = parquet::schema::types::Type::group_type_builder(schema.name())
        .with_fields(wanted)
        .build()
        .map_err(|error| corrupt(path, error))?;
    let rows = reader.get_row_iter(Some(projection)).map_err(|error| corrupt(path, error))?;
    for (index, row) in rows.enumerate() {
        let row = row.map_err(|error| corrupt(path, error))?;
        let cells = row.into_columns().into_iter();
        let cells = cells.map(|(name, field)| (name, cell_of(field))).collect();
        reading.take(format!("row {}", index + 1), cells);
    }
    Ok(())
}

/// Makes a cell of a parquet value; strings are moved.
fn cell_of(field: Field) -> Cell {
    let float = |number: f64| match number.is_finite() {
        // As Python writes it: `3.0`, not `3`.
        true => Cell::Number(format!("{number:?}")),
        false => Cell::Null,
    };
    match field {
        Field::Str(text) => Cell::Text(text.into_bytes()),
        Field::Bytes(bytes) => Cell::Text(bytes.data().to_vec()),
        Field::ListInternal(list) => {
            Cell::List(list.elements().iter().cloned().map(cell_of).collect())
        }
        Field::Group(row) => Cell::Map(
            row.into_columns().into_iter().map(|(name, field)| (name, cell_of(field))).collect(),
        ),
        Field::Null => Cell::Null,
        Field::Float(number) => float(f64::from(number)),
        Field::Double(number) => float(number),
        Field::Bool(value) => Cell::Bool(value),
        Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_) => Cell::Number(field.to_string()),
        Field::MapInternal(map) => Cell::Map(
            map.entries()
                .iter()
                .map(|(key, value)| {
                    let key = match key {
                        Field::Str(text) => text.clone(),
                        other => other.to_string(),
                    };
                    (key, cell_of(value.clone()))
                })
                .collect(),
        ),
        // Times and the like, in the columns that are only shown.
        other => Cell::Text(other.to_string().into_bytes()),
    }
}

/// Reads Arrow: the stream that `save_to_disk` writes, or the file format.
fn arrow_rows(path: &Path, reading: &mut Reading) -> Result<(), DatasetError> {
    let mut file = open(path)?;
    let mut magic = [0; 6];
    let is_file = file.read_exact(&mut magic).is_ok() && magic == *b"ARROW1";
    let mut row = 0;
    let mut take = |batch: RecordBatch| -> Result<(), DatasetError> {
        let schema = batch.schema();
        let wanted: Vec<usize> = (0..schema.fields().len())
            .filter(|index| row::column(schema.field(*index).name()).is_some())
            .collect();
        let batch = batch.project(&wanted).map_err(|error| corrupt(path, error))?;
        let mut lines = arrow_json::LineDelimitedWriter::new(Vec::new());
        lines.write(&batch).and_then(|()| lines.finish()).map_err(|error| corrupt(path, error))?;
        let lines = String::from_utf8(lines.into_inner()).map_err(|error| corrupt(path, error))?;
        for line in lines.lines() {
            row += 1;
            let Cell::Map(cells) = Cell::of_json(line).map_err(|what| corrupt(path, what))? else {
                return Err(corrupt(path, "a row is no object"));
            };
            reading.take(format!("row {row}"), cells);
        }
        Ok(())
    };
    if is_file {
        file.rewind().map_err(read_error(path))?;
        let batches = FileReader::try_new(file, None).map_err(|error| corrupt(path, error))?;
        for batch in batches {
            take(batch.map_err(|error| corrupt(path, error))?)?;
        }
        return Ok(());
    }
    // A stream that was cut off between two batches reads well: only its end says that it is whole.
    let mut end = [0; 8];
    let at_end = file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut end));
    if at_end.is_err() || end != [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0] {
        return Err(corrupt(path, "the mark at the end of the stream is missing"));
    }
    file.rewind().map_err(read_error(path))?;
    let file = std::io::BufReader::new(file);
    let batches = StreamReader::try_new(file, None).map_err(|error| corrupt(path, error))?;
    for batch in batches {
        take(batch.map_err(|error| corrupt(path, error))?)?;
    }
    Ok(())
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
