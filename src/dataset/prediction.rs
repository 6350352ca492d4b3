//! Predictions: the patches of models.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::cell::Cell;
use super::json::{self, Fields, JsonError};
use super::parts::Format;
use super::{Instance, Patch};

/// One prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// The instance.
    pub instance_id: String,
    /// The patch; `None` when the file has null.
    pub model_patch: Option<Patch>,
    /// The model.
    pub model_name_or_path: String,
}

/// Predictions that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PredictionError {
    /// The file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file's name does not say its form.
    #[error("`{path}` is neither `.jsonl` nor `.json`, and neither `gold` nor `empty`")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A directory without `.pred` files.
    #[error("`{path}` is a directory without `.pred` files{}", others_text(others))]
    NoPredFiles {
        /// The directory.
        path: PathBuf,
        /// Files in it that may be meant.
        others: Vec<String>,
    },
    /// A prediction has a mistake.
    #[error("{path}:{place}: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// The line, or the number of the item.
        place: String,
        /// What is wrong, with the field.
        what: String,
    },
    /// There is nothing in it.
    #[error("`{path}` has no predictions")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

fn others_text(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; it has `{}`", others.join("`, `")),
    }
}

impl PredictionError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            PredictionError::UnknownFormat { .. } => {
                "name a .jsonl or .json file, a directory of .pred files, `gold` or `empty`"
            }
            PredictionError::NoPredFiles { .. } => "name the file itself",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Predictions as they were read.
#[derive(Debug, Clone, Default)]
pub struct Predictions {
    /// One for each model and instance, in the order of the first.
    pub list: Vec<Prediction>,
    /// What was there more than once; the last one counts.
    pub duplicates: Vec<Duplicate>,
}

/// Two predictions of one model for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The model.
    pub model: String,
    /// The instance.
    pub instance_id: String,
    /// Where the one is that does not count.
    pub first: String,
    /// Where the one is that counts.
    pub second: String,
}

/// Reads predictions: a path, `gold` (the dataset's own patches) or `empty` (none at all).
pub fn read(name: &str, instances: &[Instance]) -> Result<Predictions, PredictionError> {
    let own = |patch: fn(&Instance) -> Patch| {
        let predictions = instances.iter().map(|instance| Prediction {
            instance_id: instance.instance_id.clone(),
            model_patch: Some(patch(instance)),
            model_name_or_path: name.to_owned(),
        });
        Ok(Predictions { list: predictions.collect(), duplicates: Vec::new() })
    };
    match name {
        "gold" => own(|instance| instance.patch.clone()),
        "empty" => own(|_| Patch::default()),
        path => read_file(Path::new(path)),
    }
}

fn read_file(path: &Path) -> Result<Predictions, PredictionError> {
    let mut list = List::new(path);
    if path.is_dir() {
        for file in pred_files(path)? {
            list.read(&file, false)?;
        }
    } else {
        match Format::of(&path.to_string_lossy()) {
            Some(Format::JsonLines) => list.read(path, true)?,
            Some(Format::Json) => list.read(path, false)?,
            _ if has_end(path, "pred") => list.read(path, false)?,
            _ => return Err(PredictionError::UnknownFormat { path: path.to_owned() }),
        }
    }
    if list.read.list.is_empty() {
        return Err(PredictionError::Empty { path: path.to_owned() });
    }
    Ok(list.read)
}

fn has_end(path: &Path, end: &str) -> bool {
    path.extension().is_some_and(|own| own.eq_ignore_ascii_case(end))
}

/// Lists the `.pred` files of a directory, and of those in it: SWE-agent makes one for each
/// instance.
fn pred_files(dir: &Path) -> Result<Vec<PathBuf>, PredictionError> {
    let error = |source| PredictionError::Read { path: dir.to_owned(), source };
    let mut files = Vec::new();
    let mut others = Vec::new();
    for entry in walkdir::WalkDir::new(dir).max_depth(2).sort_by_file_name() {
        let entry = entry.map_err(|failed| error(failed.into()))?;
        let path = entry.path();
        if !path.is_file() {
            continue;
        }
        if has_end(path, "pred") {
            files.push(path.to_owned());
        } else if entry.depth() == 1
            && let Some(Format::Json | Format::JsonLines) = Format::of(&path.to_string_lossy())
        {
            others.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    match files.is_empty() {
        true => Err(PredictionError::NoPredFiles { path: dir.to_owned(), others }),
        false => Ok(files),
    }
}

/// Other names that tools have for `model_name_or_path` and `model_patch`. Where the field itself is
/// there, it is what is meant.
const MODEL: [&str; 2] = ["model", "prefix"];
const PATCH: [&str; 2] = ["prediction", "patch"];
/// What OpenHands has the patch in.
const RESULT: (&str, &str) = ("test_result", "git_patch");
/// Fields that only a dataset's row has: its `patch` is no prediction.
const OF_ROWS: [&str; 3] = ["test_patch", "base_commit", "FAIL_TO_PASS"];

struct List {
    path: PathBuf,
    /// The model of predictions that name none.
    model: String,
    read: Predictions,
    seen: HashMap<(String, String), (usize, String)>,
}

/// What keeps one prediction from being used.
struct Wrong(String);

impl List {
    fn new(path: &Path) -> Self {
        let name = |path: &Path| {
            let own = if path.is_dir() { path.file_name() } else { path.file_stem() };
            own.map(|name| name.to_string_lossy().into_owned())
        };
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let own = name(&whole).unwrap_or_default();
        // OpenHands calls every file so, and the directory after the model.
        let model = match own.as_str() {
            "output" => whole.parent().and_then(name).unwrap_or(own),
            _ => own,
        };
        List { path: path.to_owned(), model, read: Predictions::default(), seen: HashMap::new() }
    }

    fn read(&mut self, path: &Path, lines: bool) -> Result<(), PredictionError> {
        self.path = path.to_owned();
        let one = has_end(path, "pred").then(|| path.file_stem()).flatten();
        let one = one.map(|stem| stem.to_string_lossy().into_owned());
        json::read(path, lines, |item| {
            let line = item.place.line;
            let place = match (&item.place.number, &item.place.key) {
                (Some(number), _) => format!("{line}: item {number}"),
                (None, Some(key)) => format!("{line}: `{key}`"),
                (None, None) => line.to_string(),
            };
            let key = item.place.key.as_deref();
            let read = match &item.fields {
                None => Err(Wrong("a prediction must be an object".to_owned())),
                Some(fields) => self.prediction(fields, key, one.as_deref()),
            };
            let prediction =
                read.map_err(|Wrong(what)| Problem::Item { place: place.clone(), what })?;
            // Several files need their names.
            let place = if one.is_some() { format!("{}:{place}", path.display()) } else { place };
            self.add(place, prediction);
            Ok(())
        })
        .map_err(|problem| {
            let malformed = |place, what| PredictionError::Malformed {
                path: path.display().to_string(),
                place,
                what,
            };
            match problem {
                Problem::Item { place, what } => malformed(place, what),
                Problem::Json(JsonError::Malformed { line, what }) => {
                    malformed(line.to_string(), what)
                }
                Problem::Json(JsonError::Read(source)) => {
                    PredictionError::Read { path: path.to_owned(), source }
                }
            }
        })
    }

    /// Reads one prediction. `key` is what it is called by in its file, `stem` what its file is
    /// called.
    fn prediction(
        &self,
        fields: &Fields<'_>,
        key: Option<&str>,
        stem: Option<&str>,
    ) -> Result<Prediction, Wrong> {
        let (instance_id, model_patch) = match (id(fields, key, stem), patch(fields)) {
            (Err(Wrong(one)), Err(Wrong(other))) => return Err(Wrong(format!("{one}; {other}"))),
            (id, patch) => (id?, patch?),
        };
        Ok(Prediction {
            instance_id,
            model_patch,
            model_name_or_path: match text(fields, &["model_name_or_path"])? {
                Some(model) => model,
                None => text(fields, &MODEL)?.unwrap_or_else(|| self.model.clone()),
            },
        })
    }

    fn add(&mut self, place: String, prediction: Prediction) {
        let id = (prediction.model_name_or_path.clone(), prediction.instance_id.clone());
        match self.seen.get_mut(&id) {
            None => {
                self.seen.insert(id, (self.read.list.len(), place));
                self.read.list.push(prediction);
            }
            Some((at, first)) => {
                self.read.duplicates.push(Duplicate {
                    model: id.0,
                    instance_id: id.1,
                    first: std::mem::replace(first, place.clone()),
                    second: place,
                });
                self.read.list[*at] = prediction;
            }
        }
    }
}

enum Problem {
    Json(JsonError),
    Item { place: String, what: String },
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        Problem::Json(error)
    }
}

/// Returns the values of a field under all its names.
fn named<'a>(
    fields: &'a Fields<'_>,
    names: &'a [&str],
) -> impl Iterator<Item = Result<(&'a str, Cell), Wrong>> {
    fields.0.iter().filter(|(name, _)| names.contains(&&**name)).map(|(name, raw)| {
        let cell = Cell::of_json(raw.get()).map_err(|what| Wrong(format!("`{name}` {what}")))?;
        Ok((&**name, cell))
    })
}

/// Takes a value that is said under several names: all must say the same.
fn agree<'a, T: PartialEq>(
    found: &mut Option<(&'a str, T)>,
    name: &'a str,
    value: T,
) -> Result<(), Wrong> {
    match found {
        None => *found = Some((name, value)),
        Some((_, first)) if *first == value => {}
        Some((first, _)) if *first == name => {
            return Err(Wrong(format!("`{name}` is there twice and says two things")));
        }
        Some((first, _)) => {
            return Err(Wrong(format!("`{name}` says another thing than `{first}`")));
        }
    }
    Ok(())
}

/// Reads a text that is not empty; absent and null are none.
fn text(fields: &Fields<'_>, names: &[&str]) -> Result<Option<String>, Wrong> {
    let mut found = None;
    for one in named(fields, names) {
        let (name, cell) = one?;
        let text = match cell {
            Cell::Null => continue,
            Cell::Text(bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        };
        match text {
            Some(text) if !text.is_empty() => agree(&mut found, name, text)?,
            Some(_) => return Err(Wrong(format!("`{name}` is empty"))),
            None => return Err(Wrong(format!("`{name}` must be a string"))),
        }
    }
    Ok(found.map(|(_, text)| text))
}

/// Reads the id of the instance; the key, and else the name of the file, stands for it.
fn id(fields: &Fields<'_>, key: Option<&str>, stem: Option<&str>) -> Result<String, Wrong> {
    match (text(fields, &["instance_id"])?, key) {
        (Some(own), Some(key)) if own != key => {
            Err(Wrong(format!("`instance_id` is `{own}`, and the key another")))
        }
        (Some(own), _) => Ok(own),
        (None, key) => {
            let id = key.or(stem).map(str::to_owned);
            id.ok_or_else(|| Wrong("`instance_id` is missing".to_owned()))
        }
    }
}

/// Reads the patch; `None` where it is null.
fn patch(fields: &Fields<'_>) -> Result<Option<Patch>, Wrong> {
    let mut found = None;
    let mut null = false;
    let mut take = |name, cell| match cell {
        Cell::Null => {
            null = true;
            Ok(())
        }
        Cell::Text(bytes) => agree(&mut found, name, bytes),
        Cell::Torn => Err(Wrong(format!("`{name}` holds half a surrogate pair, which is no text"))),
        other => Err(Wrong(format!("`{name}` is {}, it must be a string or null", other.kind()))),
    };
    let own = fields.0.iter().any(|(name, _)| name == "model_patch");
    for one in named(fields, if own { &["model_patch"] } else { &PATCH }) {
        let (name, cell) = one?;
        if name == "patch"
            && let Some((own, _)) = fields.0.iter().find(|(name, _)| OF_ROWS.contains(&&**name))
        {
            let what = format!("`{own}` is there: this is a row of a dataset, not a prediction");
            return Err(Wrong(what));
        }
        take(name, cell)?;
    }
    for one in named(fields, &[RESULT.0]) {
        let (_, cell) = one?;
        if let (Cell::Map(inner), false) = (cell, own) {
            for (name, cell) in inner {
                if name == RESULT.1 {
                    take(RESULT.1, cell)?;
                }
            }
        }
    }
    match found {
        Some((_, bytes)) => Ok(Some(bytes.into())),
        None if null => Ok(None),
        None => Err(Wrong(
            "`model_patch` is missing; `patch`, `prediction` and `test_result.git_patch` are read \
             as well"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Predictions, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let dir = format!("{}/", dir.path().display());
        read(path.to_str().unwrap(), &[]).map_err(|error| error.to_string().replace(&dir, ""))
    }

    fn line(id: &str, patch: &str) -> String {
        let row = serde_json::json!({
            "instance_id": id, "model_patch": patch, "model_name_or_path": "m",
        });
        format!("{row}\n")
    }

    #[test]
    fn a_line_that_is_not_json_is_named_by_its_number() {
        let mut text = line("a-1", "x").repeat(39_999);
        text.push_str("{not json}\n");
        let error = read_text("p.jsonl", &text).unwrap_err();
        assert_eq!(error, "p.jsonl:40000: key must be a string (column 2)");
    }

    #[test]
    fn blank_lines_are_no_predictions_and_carriage_returns_stay_in_patches() {
        let text = format!("\n{}\r\n  \n{}", line("a-1", "a\r\nb\r\n").trim(), line("a-2", ""));
        let read = read_text("p.jsonl", &text).unwrap();
        assert_eq!(read.list.len(), 2);
        assert_eq!(read.list[0].model_patch, Some("a\r\nb\r\n".into()));
    }

    #[test]
    fn the_last_of_two_predictions_counts_and_both_places_are_known() {
        let text = [line("a-1", "x"), line("a-2", "y"), line("a-1", "z")].concat();
        let read = read_text("p.jsonl", &text).unwrap();
        let patches: Vec<_> = read.list.iter().map(|one| one.model_patch.clone()).collect();
        assert_eq!(patches, [Some("z".into()), Some("y".into())]);
        let twice = &read.duplicates[0];
        assert_eq!((twice.first.as_str(), twice.second.as_str()), ("1", "3"));
    }

    #[test]
    fn an_empty_file_and_a_field_of_another_kind_are_refused() {
        assert_eq!(read_text("p.jsonl", "\n").unwrap_err(), "`p.jsonl` has no predictions");
        assert_eq!(read_text("p.json", "[]").unwrap_err(), "`p.json` has no predictions");
        let number = r#"[{"instance_id": "a-1", "model_name_or_path": "m", "model_patch": 7}]"#;
        let error = read_text("p.json", number).unwrap_err();
        assert_eq!(
            error,
            "p.json:1: item 1: `model_patch` is a number, it must be a string or null"
        );
        let error = read_text("p.jsonl", "{\"foo\": 1}\n").unwrap_err();
        assert!(error.contains("`instance_id` is missing; `model_patch` is missing"), "{error}");
        let error = read_text("p.txt", "").unwrap_err();
        assert!(error.contains("neither `.jsonl` nor `.json`"), "{error}");
    }

    #[test]
    fn an_object_keyed_by_instance_is_read() {
        let text =
            r#"{"a-1": {"instance_id": "a-1", "model_name_or_path": "m", "model_patch": null}}"#;
        assert_eq!(read_text("p.json", text).unwrap().list[0].model_patch, None);
    }
}
