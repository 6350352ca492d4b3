//! How a file describes a command: YAML, with the fields of R2E-Gym.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

/// The fields of a description. Others are left out.
#[derive(Debug, Default, Deserialize)]
struct Fields {
    docstring: Option<Value>,
    end_name: Option<Value>,
    signature: Option<Value>,
    arguments: Option<Arguments>,
}

/// Arguments in the order of the file, or what is none.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Arguments {
    Named(IndexMap<String, Value>),
    Other(Value),
}

/// A description.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Description {
    pub docstring: String,
    pub end_name: Option<String>,
    pub signature: Option<String>,
    /// The arguments in the order of the file, with all that it says of them.
    pub arguments: Option<IndexMap<String, Value>>,
}

/// Why a text is no description. The line counts from 0.
#[derive(Debug)]
pub(super) struct NoDescription {
    pub line: usize,
    pub message: String,
}

/// Reads YAML. An error is one line.
fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options)
}

/// Takes the line end off a block that is the last thing of a text without one: the reader adds it, and
/// others do not.
fn without_added_end(text: &str, mut value: String) -> String {
    let last = text.rsplit('\n').next().unwrap_or_default().trim();
    if !last.is_empty() && value.strip_suffix('\n').is_some_and(|value| value.ends_with(last)) {
        value.pop();
    }
    value
}

/// Reads a description.
pub(super) fn read(text: &str) -> Result<Description, NoDescription> {
    let wrong = |message: &str| NoDescription { line: 0, message: message.to_owned() };
    let no_mapping = || wrong("@yaml is followed by no description: write `docstring: …`");
    let of_yaml = |error: serde_saphyr::Error| {
        let line = error.location().map_or(0, |at| at.line().saturating_sub(1) as usize);
        NoDescription { line, message: error.to_string() }
    };
    if text.trim().is_empty() {
        return Err(no_mapping());
    }
    let value: Value = parsed(text).map_err(of_yaml)?;
    if !value.is_object() {
        return Err(no_mapping());
    }
    // Once more: a plain value has lost the order of its fields.
    let Fields { docstring, end_name, signature, arguments } = parsed(text).map_err(of_yaml)?;
    let word = |name: &str, value: Option<Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(value)) => Ok(Some(without_added_end(text, value))),
        Some(Value::Bool(value)) => Ok(Some(if value { "True" } else { "False" }.to_owned())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(wrong(&format!("{name} is no text"))),
    };
    let docstring = word("docstring", docstring)?
        .ok_or_else(|| wrong("the description has no docstring: write `docstring: …`"))?;
    let (end_name, signature) = (word("end_name", end_name)?, word("signature", signature)?);
    let arguments = match arguments {
        None | Some(Arguments::Other(Value::Null)) => None,
        Some(Arguments::Named(named)) => Some(named),
        // Where the signature is given nobody reads them.
        Some(Arguments::Other(_)) if signature.is_some() => None,
        Some(Arguments::Other(_)) => {
            return Err(wrong("arguments is no mapping: write `name: {…}` as a block"));
        }
    };
    Ok(Description { docstring, end_name, signature, arguments })
}

impl Description {
    /// Returns how the command `name` is called, where that is given, or follows from its arguments.
    pub(super) fn signature_of(&self, name: &str) -> Result<Option<String>, NoDescription> {
        let (None, Some(arguments)) = (&self.signature, &self.arguments) else {
            return Ok(self.signature.clone());
        };
        let mut words = vec![name.to_owned()];
        for (argument, settings) in arguments {
            match settings.get("required").and_then(Value::as_bool) {
                Some(true) => words.push(format!("<{argument}>")),
                Some(false) => words.push(format!("[<{argument}>]")),
                None => {
                    let message =
                        format!("the argument {argument} does not say `required: true` or false");
                    return Err(NoDescription { line: 0, message });
                }
            }
        }
        Ok(Some(words.join(" ")))
    }
}
