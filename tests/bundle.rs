//! A bundle, made with a network and used without one.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::needs::{self, NotHere, not_here};

fn imgforge(dir: &Path, engine: &str, state: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command
        .args(["--engine", engine, "--state-dir", state])
        .args(args)
        .current_dir(dir)
        .env("RUST_BACKTRACE", "0");
    command
}

/// The same command in an empty network namespace.
fn cut_off(command: &Command) -> Output {
    let mut cut_off = Command::new("unshare");
    cut_off.arg("--net").arg(command.get_program()).args(command.get_args());
    cut_off.current_dir(command.get_current_dir().unwrap()).env("RUST_BACKTRACE", "0");
    cut_off.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
#[ignore = "needs Docker and root"]
fn what_a_bundle_holds_builds_and_evaluates_without_a_network() {
    if !needs::is_root() {
        return not_here(NotHere::PlainUser);
    }
    needs::docker();
    let space = tempfile::tempdir().unwrap();
    let dir = space.path();
    let create =
        ["bundle", "create", "demo.bundle", "-d", "demo", "-i", "imgforge__quill-1", "--json"];
    let made = imgforge(dir, "docker", "first", &create).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let document: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    common::schema::check("bundle-create", &document);
    assert_eq!((&document["instances"], &document["file"]), (&1.into(), &"demo.bundle".into()));
    assert!(!dir.join("demo.bundle.work").exists());

    let command = |args: &[&str]| imgforge(dir, "embedded", "second", args);
    let output = cut_off(&command(&["plan", "-d", "bundle"]));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("bundle use"), "{}", text(&output));
    let output = cut_off(&command(&["bundle", "use", "demo.bundle"]));
    assert!(output.status.success(), "{}", text(&output));
    let output = cut_off(&command(&["eval", "-d", "bundle", "-p", "gold"]));
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("1 of 1 resolved"), "{said}");
    assert!(said.contains("built env:imgforge/quill"), "packages were installed: {said}");
    let output = cut_off(&command(&["dataset", "ls", "-d", "bundle"]));
    assert!(text(&output).contains("imgforge__quill-1"), "{}", text(&output));

    let bundle = std::fs::read(dir.join("demo.bundle")).unwrap();
    std::fs::write(dir.join("cut.bundle"), &bundle[..bundle.len() - 1000]).unwrap();
    let output = cut_off(&command(&["bundle", "use", "cut.bundle"]));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    // What was in use stays in use.
    let output = cut_off(&command(&["plan", "-d", "bundle", "--json"]));
    assert!(text(&output).contains("\"fresh\": 1"), "{}", text(&output));
}
