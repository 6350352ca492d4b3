//! The `imgforge` binary: parse, run, exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before there is any other thread: a helper of the embedded engine enters Linux namespaces.
    if let Some(code) = imgforge::engine::embedded::helper::main() {
        return code;
    }
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    runtime.block_on(imgforge::cli::main()).into()
}
