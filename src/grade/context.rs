//! The context of a log: what a few formats depend on.

/// The instance and the rules that a log is read for.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The `instance_id`: some formats differ by it.
    pub instance_id: &'a str,
    /// The version of the repository, as the dataset spells it.
    pub version: &'a str,
    /// Whether the strict rules hold: a failure stays one, and only what stands between the markers
    /// counts.
    pub strict: bool,
    /// How many times the script runs the tests, where its text says so.
    pub runs: Option<u64>,
}

impl Context<'_> {
    /// Tells whether tests run the test runner themselves, as those of pytest and of its plugins do:
    /// what those runs print stands in the log too.
    pub fn nested(&self) -> bool {
        self.instance_id.contains("pytest")
    }
}
