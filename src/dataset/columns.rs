//! Rows of files that keep columns: parquet and Arrow. The cargo feature `parquet`.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;

use super::DatasetError;
use super::cell::Cell;
use super::reading::{Reading, corrupt, read_error};
use super::row;

/// Opens a file that is not readable from its beginning on when it is cut off.
fn open(path: &Path) -> Result<File, DatasetError> {
    let file = File::open(path).map_err(read_error(path))?;
    match file.metadata().map_err(read_error(path))?.len() {
        0 => Err(corrupt(path, "it is empty (0 bytes)")),
        _ => Ok(file),
    }
}

/// Reads parquet.
pub(super) fn parquet_rows(path: &Path, reading: &mut Reading) -> Result<(), DatasetError> {
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
pub(super) fn arrow_rows(path: &Path, reading: &mut Reading) -> Result<(), DatasetError> {
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
