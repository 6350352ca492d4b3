//! Predictions: the patches of models.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Instance;

/// One prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// The instance.
    pub instance_id: String,
    /// The patch; `None` when the file has null.
    pub model_patch: Option<String>,
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
    /// One model has two predictions of one instance.
    #[error("{path}: `{model}` has two predictions for `{instance_id}`, at {first} and {second}")]
    Duplicate {
        /// The file.
        path: String,
        /// The model.
        model: String,
        /// The instance.
        instance_id: String,
        /// Where the first is.
        first: String,
        /// Where the second is.
        second: String,
    },
}

/// Reads predictions: a path, `gold` (the dataset's own patches) or `empty` (none at all).
pub fn read(name: &str, instances: &[Instance]) -> Result<Vec<Prediction>, PredictionError> {
    let own = |patch: fn(&Instance) -> &str| {
        let predictions = instances.iter().map(|instance| Prediction {
            instance_id: instance.instance_id.clone(),
            model_patch: Some(patch(instance).to_owned()),
            model_name_or_path: name.to_owned(),
        });
        Ok(predictions.collect())
    };
    match name {
        "gold" => own(|instance| &instance.patch),
        "empty" => own(|_| ""),
        path => read_file(Path::new(path)),
    }
}

fn read_file(path: &Path) -> Result<Vec<Prediction>, PredictionError> {
    let mut list = List { path, predictions: Vec::new(), seen: HashMap::new() };
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
    Ok(list.predictions)
}

struct List<'a> {
    path: &'a Path,
    predictions: Vec<Prediction>,
    seen: HashMap<(String, String), String>,
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
                Some(Value::String(patch)) => Some(patch.clone()),
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
        if let Some(first) = self.seen.insert(id, place.clone()) {
            return Err(PredictionError::Duplicate {
                path: self.path.display().to_string(),
                model: prediction.model_name_or_path,
                instance_id: prediction.instance_id,
                first,
                second: place,
            });
        }
        self.predictions.push(prediction);
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
