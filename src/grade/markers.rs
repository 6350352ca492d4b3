//! The lines of the harness around the output of the tests.

/// The line before the output of the tests.
pub(super) const START: &str = ">>>>> Start Test Output";

/// The line after the output of the tests.
pub(super) const END: &str = ">>>>> End Test Output";
