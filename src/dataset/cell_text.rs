//! A value that a string holds: JSON as Python writes it, or a Python literal.

use serde_json::value::RawValue;

use super::cell::Cell;
use super::{json, literal};

/// Reads a value that a string holds: JSON as Python writes it, or a Python literal. A literal
/// is parsed, never evaluated.
pub(super) fn read(text: &str) -> Result<Cell, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Cell::Null);
    }
    let strict = serde_json::from_str::<&RawValue>(text).map(|raw| Cell::of_json(raw.get()));
    if let Ok(read) = strict {
        return read;
    }
    if let Some(relaxed) = json::relaxed(text)
        && let Ok(raw) = serde_json::from_str::<&RawValue>(&relaxed)
    {
        return Cell::of_json(raw.get());
    }
    literal::parse(text)
}
