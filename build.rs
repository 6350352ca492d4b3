//! Says in `--version` which commit a release was built from, where the sources are a git checkout.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    // A build for development would be made anew after every commit.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // The repository of somebody who merely unpacked the sources below it is not ours.
    let own = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let commit = (is_release && own).then(|| git(&["log", "-1", "--format=%h %cs"])).flatten();
    if commit.is_some()
        && let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
    {
        println!("cargo:rerun-if-changed={log}");
    }
    let version = commit.map_or(version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo:rustc-env=VERSION_TEXT={version}");
}
