//! The `imgforge` binary: parse, run, exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before there is any other thread: a helper of the embedded engine enters Linux namespaces.
    #[cfg(feature = "embedded")]
    if let Some(code) = imgforge::engine::embedded::helper::main() {
        return code;
    }
    drop_empty_variables();
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    runtime.block_on(imgforge::cli::main()).into()
}

/// Takes empty variables of imgforge's own for absent, as build systems that set them mean it.
fn drop_empty_variables() {
    for (name, value) in std::env::vars_os() {
        if value.is_empty() && name.to_str().is_some_and(|name| name.starts_with("IMGFORGE_")) {
            // SAFETY: there is no other thread yet that could read the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
}
