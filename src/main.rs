//! The `imgforge` binary: parse, run, exit status.
fn main() {}
