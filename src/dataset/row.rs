//! From a row as a file gives it to an [`Instance`], with errors that name the place.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{InstallConfig, Instance};

/// What is wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// Where: `row 12` or `line 12`.
    pub place: String,
    /// The row's id, when it has one.
    pub instance_id: Option<String>,
    /// The column.
    pub field: String,
    /// What was found, and what should be there.
    pub what: String,
}

impl std::fmt::Display for RowProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(id) = &self.instance_id {
            write!(f, " (`{id}`)")?;
        }
        write!(f, ": `{}` {}", self.field, self.what)
    }
}

/// The columns that are read, in every spelling.
pub(super) const COLUMNS: [&str; 21] = [
    "instance_id",
    "repo",
    "version",
    "base_commit",
    "environment_setup_commit",
    "patch",
    "test_patch",
    "FAIL_TO_PASS",
    "PASS_TO_PASS",
    "eval_script",
    "log_parser",
    "eval_type",
    "image",
    "image_name",
    "docker_image",
    "workdir",
    "install_config",
    "requirements",
    "environment",
    "expected_output_json",
    "created_at",
];

/// Reads one row.
pub(super) fn read(row: &Map<String, Value>, place: &str) -> Result<Instance, RowProblem> {
    let reader = Reader { row, place };
    let config = reader.install_config()?;
    let instance = Instance {
        instance_id: reader.required("instance_id")?,
        repo: reader.required("repo")?,
        version: reader.optional("version")?.unwrap_or_default(),
        base_commit: reader.required("base_commit")?,
        environment_setup_commit: reader.optional("environment_setup_commit")?,
        patch: reader.text("patch")?.unwrap_or_default().into(),
        test_patch: reader.text("test_patch")?.unwrap_or_default().into(),
        FAIL_TO_PASS: reader.list("FAIL_TO_PASS")?,
        PASS_TO_PASS: reader.list("PASS_TO_PASS")?,
        eval_script: reader.text("eval_script")?.filter(|text| !text.trim().is_empty()),
        log_parser: reader
            .optional("log_parser")?
            .or_else(|| config.as_ref().and_then(|config| config.log_parser.clone())),
        eval_type: reader.optional("eval_type")?,
        image: match reader.optional("image")? {
            Some(image) => Some(image),
            None => match reader.optional("image_name")? {
                Some(image) => Some(image),
                None => reader.optional("docker_image")?,
            },
        },
        workdir: reader.optional("workdir")?,
        install_config: config,
        requirements: reader.text("requirements")?.filter(|text| !text.trim().is_empty()),
        environment: reader.optional("environment").unwrap_or_default(),
        expected_output_json: reader.statuses("expected_output_json")?,
        created_at: reader.optional("created_at")?,
    };
    let id = &instance.base_commit;
    if id.len() != 40 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(reader.wrong("base_commit", format!("is `{id}`, not a commit id of 40 digits")));
    }
    if instance.repo.split('/').filter(|part| !part.is_empty()).count() != 2 {
        return Err(reader.wrong("repo", format!("is `{}`, not `owner/name`", instance.repo)));
    }
    Ok(instance)
}

struct Reader<'a> {
    row: &'a Map<String, Value>,
    place: &'a str,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Reader<'_> {
    fn wrong(&self, field: &str, what: String) -> RowProblem {
        let id = self.row.get("instance_id").and_then(Value::as_str).map(str::to_owned);
        RowProblem { place: self.place.to_owned(), instance_id: id, field: field.to_owned(), what }
    }

    /// A string, as it is.
    fn text(&self, field: &str) -> Result<Option<String>, RowProblem> {
        match self.row.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            // `version: 2.0` is how a hand-written file has it.
            Some(Value::Number(number)) if field == "version" => Ok(Some(number.to_string())),
            Some(other) => {
                Err(self.wrong(field, format!("is {}, it must be a string", kind(other))))
            }
        }
    }

    /// A string that is absent when it is empty.
    fn optional(&self, field: &str) -> Result<Option<String>, RowProblem> {
        Ok(self.text(field)?.filter(|text| !text.is_empty()))
    }

    fn required(&self, field: &str) -> Result<String, RowProblem> {
        self.optional(field)?.ok_or_else(|| {
            let empty = self.row.contains_key(field);
            let what = if empty { "is empty" } else { "is missing" };
            self.wrong(field, what.to_owned())
        })
    }

    /// A list of strings, as a list or as its JSON text.
    fn list(&self, field: &str) -> Result<Vec<String>, RowProblem> {
        let parsed;
        let value = match self.row.get(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
            Some(Value::String(text)) => {
                parsed = serde_json::from_str::<Value>(text).map_err(|error| {
                    self.wrong(field, format!("is not the JSON text of a list: {error}"))
                })?;
                &parsed
            }
            Some(value) => value,
        };
        let Value::Array(items) = value else {
            return Err(self.wrong(field, format!("is {}, it must be a list", kind(value))));
        };
        items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                other => {
                    Err(self
                        .wrong(field, format!("holds {}, its items must be strings", kind(other))))
                }
            })
            .collect()
    }

    /// An object of strings, as an object or as its JSON text.
    fn statuses(&self, field: &str) -> Result<Option<BTreeMap<String, String>>, RowProblem> {
        let value = match self.row.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
            Some(Value::String(text)) => serde_json::from_str(text)
                .map_err(|error| self.wrong(field, format!("is not JSON text: {error}")))?,
            Some(value) => value.clone(),
        };
        let read = serde_json::from_value(value);
        read.map(Some).map_err(|error| {
            self.wrong(field, format!("is not an object of test names and statuses: {error}"))
        })
    }

    /// `install_config`, as an object or as its JSON text; one command may stand for a list of one.
    fn install_config(&self) -> Result<Option<InstallConfig>, RowProblem> {
        let field = "install_config";
        let mut value = match self.row.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
            Some(Value::String(text)) => serde_json::from_str::<Value>(text)
                .map_err(|error| self.wrong(field, format!("is not JSON text: {error}")))?,
            Some(value) => value.clone(),
        };
        let Value::Object(map) = &mut value else {
            return Err(self.wrong(field, format!("is {}, it must be an object", kind(&value))));
        };
        map.retain(|_, value| !value.is_null());
        for name in ["pre_install", "pip_packages", "reqs_path", "env_yml_path"] {
            if let Some(one @ Value::String(_)) = map.get_mut(name) {
                *one = Value::Array(vec![one.take()]);
            }
        }
        for name in ["install", "packages", "test_cmd"] {
            if let Some(many @ Value::Array(_)) = map.get_mut(name) {
                let words: Vec<&str> =
                    many.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                *many = Value::String(words.join(if name == "packages" { " " } else { " && " }));
            }
        }
        serde_json::from_value(value)
            .map(Some)
            .map_err(|error| self.wrong(field, format!("does not have the right form: {error}")))
    }
}
