//! The `imgforge` binary: parse, run, exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    runtime.block_on(imgforge::cli::main()).into()
}
