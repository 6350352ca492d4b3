//! The parameter `filters`: names with the values of which one has to hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::answer::Refusal;
use super::call::Call;
use super::times;

/// Filters of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the filters of a request: `{"name": ["a"]}`, or `{"name": {"a": true}}`.
    ///
    /// # Errors
    /// Where a name is none of `known`, or the text is no such document.
    pub(super) fn of(call: &Call, known: &[&str]) -> Result<Filters, Refusal> {
        let Some(text) = call.parameter("filters") else { return Ok(Filters::default()) };
        Filters::read(text, known)
    }

    fn read(text: &str, known: &[&str]) -> Result<Filters, Refusal> {
        let wrong = || Refusal::bad(format!("invalid filters: {text}"));
        let document: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| wrong())?;
        let mut filters = BTreeMap::new();
        for (name, values) in document {
            if !known.contains(&name.as_str()) {
                return Err(Refusal::bad(format!("invalid filter '{name}'")));
            }
            let values = match values {
                Value::Array(values) => values
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong))
                    .collect::<Result<_, _>>()?,
                Value::Object(values) => values.into_iter().map(|(value, _)| value).collect(),
                _ => return Err(wrong()),
            };
            filters.insert(name, values);
        }
        Ok(Filters(filters))
    }

    /// Reads the filter `until`: a time, or how long it is ago, such as `24h`.
    ///
    /// # Errors
    /// Where it is neither.
    pub(super) fn until(&self) -> Result<Option<Timestamp>, Refusal> {
        let Some(text) = self.values("until").first() else { return Ok(None) };
        times::read(text).map(Some).ok_or_else(|| Refusal::bad(format!("invalid until: {text:?}")))
    }

    /// Returns the values of a filter.
    pub(super) fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Tells whether one of the values of a filter holds, or there is none.
    pub(super) fn any(&self, name: &str, holds: impl FnMut(&String) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(holds)
    }

    /// Tells whether all labels that are asked for, `NAME` or `NAME=VALUE`, are among these.
    pub(super) fn labels<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.values("label").iter().all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => get(name) == Some(value),
            None => get(wanted).is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_filters_are_read() {
        let known = ["name", "label"];
        let lists = Filters::read(r#"{"name":["a","b"]}"#, &known).unwrap();
        assert_eq!(lists.values("name"), ["a", "b"]);
        let maps = Filters::read(r#"{"label":{"x=1":true,"y":true}}"#, &known).unwrap();
        assert!(maps.labels(|name| if name == "x" { Some("1") } else { Some("") }));
        assert!(!maps.labels(|name| if name == "x" { Some("2") } else { Some("") }));
        assert!(!maps.labels(|name| (name == "x").then_some("1")));
        for wrong in ["[]", "{", r#"{"other":["a"]}"#, r#"{"name":"a"}"#, r#"{"name":[1]}"#] {
            assert!(Filters::read(wrong, &known).is_err(), "{wrong}");
        }
    }
}
