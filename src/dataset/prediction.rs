//! Predictions: the patches of models.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

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
    let mut list = List { path, read: Predictions::default(), seen: HashMap::new() };
    let error = |source| PredictionError::Read { path: path.to_owned(), source };
    match path.extension().and_then(|end| end.to_str()) {
        Some("jsonl") => {
            let file = std::fs::File::open(path).map_err(error)?;
            for (index, line) in std::io::BufReader::new(file).split(b'\n').enumerate() {
                let line = line.map_err(error)?;
                if !line.trim_ascii().is_empty() {
                    let place = (index + 1).to_string();
                    let value = serde_json::from_slice(&line)
                        .map_err(|error| list.malformed(&place, error.to_string()))?;
                    list.add(place, value)?;
                }
            }
        }
        Some("json") => {
            let bytes = std::fs::read(path).map_err(error)?;
            let value = serde_json::from_slice(&bytes)
                .map_err(|error| list.malformed(&error.line().to_string(), error.to_string()))?;
            match value {
                Value::Array(items) => {
                    for (index, item) in items.into_iter().enumerate() {
                        list.add(format!("item {}", index + 1), item)?;
                    }
                }
                Value::Object(map) => {
                    for (id, item) in map {
                        list.add(format!("`{id}`"), item)?;
                    }
                }
                _ => {
                    let what = "it must be a list, or an object keyed by instance id".to_owned();
                    return Err(list.malformed("1", what));
                }
            }
        }
        _ => return Err(PredictionError::UnknownFormat { path: path.to_owned() }),
    }
    if list.read.list.is_empty() {
        return Err(PredictionError::Empty { path: path.to_owned() });
    }
    Ok(list.read)
}

struct List<'a> {
    path: &'a Path,
    read: Predictions,
    seen: HashMap<(String, String), (usize, String)>,
}

impl List<'_> {
    fn malformed(&self, place: &str, what: String) -> PredictionError {
        let path = self.path.display().to_string();
        PredictionError::Malformed { path, place: place.to_owned(), what }
    }

    fn add(&mut self, place: String, value: Value) -> Result<(), PredictionError> {
        let Value::Object(map) = value else {
            return Err(self.malformed(&place, "a prediction must be an object".to_owned()));
        };
        let prediction = Prediction {
            instance_id: self.string(&map, "instance_id", &place)?,
            model_name_or_path: self.string(&map, "model_name_or_path", &place)?,
            model_patch: match map.get("model_patch") {
                Some(Value::String(patch)) => Some(patch.as_str().into()),
                Some(Value::Null) => None,
                Some(_) => {
                    let what = "`model_patch` must be a string or null".to_owned();
                    return Err(self.malformed(&place, what));
                }
                None => {
                    return Err(self.malformed(&place, "`model_patch` is missing".to_owned()));
                }
            },
        };
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
        Ok(())
    }

    fn string(
        &self,
        map: &Map<String, Value>,
        field: &str,
        place: &str,
    ) -> Result<String, PredictionError> {
        match map.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(_) => Err(self.malformed(place, format!("`{field}` must be a string"))),
            None => Err(self.malformed(place, format!("`{field}` is missing"))),
        }
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
        assert!(error.starts_with("p.jsonl:40000: key must be a string"), "{error}");
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
        assert_eq!(error, "p.json:item 1: `model_patch` must be a string or null");
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
