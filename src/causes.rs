//! The causes of errors.

use std::error::Error;

/// Lists the causes of an error, the nearest first, without the error itself.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'a),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let first: Option<&'a (dyn Error + 'static)> = error.source();
    std::iter::successors(first, |cause| (*cause).source())
}

/// Returns an error with its causes, in one line.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    let texts = causes(error).map(|cause| format!(": {cause}"));
    std::iter::once(error.to_string()).chain(texts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn an_error_is_told_with_all_of_its_causes() {
        let root = Layer { text: "c", source: None };
        let middle = Layer { text: "b", source: Some(root.into()) };
        let error = Layer { text: "a", source: Some(middle.into()) };
        assert_eq!(in_one_line(&error), "a: b: c");
        assert_eq!(causes(&error).count(), 2);
    }
}
