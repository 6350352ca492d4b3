//! Amounts in catalog files: bytes, memory, processors.

use serde::Deserialize;

/// Reads bytes: a number, or a text such as `100GB`.
pub(super) fn size<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number of bytes, or a text such as \"100GB\"")]
    enum Form {
        Number(u64),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Number(bytes) => Ok(Some(bytes)),
        Form::Text(text) => crate::size::bytes(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

/// Reads memory: a number of bytes, or a text such as `4g`.
pub(super) fn memory<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let bytes = size(deserializer)?.unwrap_or_default();
    crate::size::memory(&bytes.to_string()).map(Some).map_err(serde::de::Error::custom)
}

/// Reads processors: a number, or a text such as `1.5`.
pub(super) fn cpus<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number of processors")]
    enum Form {
        Whole(u64),
        Part(f64),
        Text(String),
    }
    let text = match Form::deserialize(deserializer)? {
        Form::Whole(number) => number.to_string(),
        Form::Part(number) => number.to_string(),
        Form::Text(text) => text,
    };
    crate::size::milli_cpus(&text).map(Some).map_err(serde::de::Error::custom)
}
