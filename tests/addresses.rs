//! Addresses of engines that cannot be used: each is named with its own reason and remedy, before
//! anything starts, and no other engine takes its place. No engine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use imgforge::key::Digest;
use serde_json::Value;

/// Runs a command with a home directory of its own and these variables.
fn run(home: &Path, set: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY"] {
        command.env_remove(name);
    }
    let output = command
        .args(args)
        .current_dir(home)
        .env("HOME", home)
        .env("IMGFORGE_STATE_DIR", home.join("state"))
        .envs(set.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Returns what `doctor` finds wrong with the engine, and its fix. It fails for it.
fn diagnosis(home: &Path, set: &[(&str, &str)]) -> (String, String) {
    let (code, stdout, stderr) = run(home, set, &["doctor", "--offline", "--json"]);
    assert_eq!(code, Some(3), "{set:?}: {stdout}{stderr}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    let check = &document["checks"][0];
    assert_eq!((&check["name"], &check["status"]), (&"engine".into(), &"fail".into()), "{set:?}");
    let text = |field: &str| check[field].as_str().unwrap().to_owned();
    (text("detail"), text("fix"))
}

fn program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn an_address_that_is_none_is_named_with_the_form_that_it_has_to_have() {
    let home = tempfile::tempdir().unwrap();
    for (address, part) in [
        ("npipe:////./pipe/docker_engine", "has the scheme `npipe`"),
        ("fd://", "has the scheme `fd`"),
        ("/var/run/docker.sock", "is written `unix:///var/run/docker.sock`"),
        ("tcp://host:port", "names no host and port"),
        ("ssh://me:secret@host", "has a password, which ssh does not take"),
    ] {
        let (detail, fix) = diagnosis(home.path(), &[("DOCKER_HOST", address)]);
        assert!(detail.contains(part) && detail.starts_with("DOCKER_HOST is"), "{detail}");
        assert!(fix.contains("unix:///path"), "{fix}");
    }
}

#[test]
fn a_chosen_engine_is_never_replaced_by_another() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".docker");
    let context = |name: &str, meta: &str| {
        let directory = config.join("contexts/meta").join(Digest::of(name).to_string());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("meta.json"), meta).unwrap();
    };
    context("away", r#"{"Name":"away","Endpoints":{"docker":{"Host":"tcp://127.0.0.1:9"}}}"#);
    context("broken", "{");
    for (set, part) in [
        (("DOCKER_HOST", "unix:/nowhere/docker.sock"), "`unix:///nowhere/docker.sock`"),
        (("DOCKER_HOST", "127.0.0.1:9"), "`tcp://127.0.0.1:9`"),
        (("DOCKER_CONTEXT", "away"), "`tcp://127.0.0.1:9`"),
        (("DOCKER_CONTEXT", "gone"), "the Docker context `gone`, which does not exist"),
        (("DOCKER_CONTEXT", "broken"), "meta.json` is broken"),
        (("DOCKER_TLS_VERIFY", "1"), "ca.pem`"),
    ] {
        let (detail, fix) = diagnosis(home.path(), &[set]);
        assert!(detail.contains(part), "{set:?}: {detail}");
        assert!(!fix.is_empty() && !fix.contains("own log"), "{fix}");
        let (code, _, stderr) = run(home.path(), &[set], &["build", "-d", "demo"]);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains(part) && !stderr.contains("embedded,"), "{set:?}: {stderr}");
    }
    let (_, fix) = diagnosis(home.path(), &[("DOCKER_CONTEXT", "gone")]);
    assert!(fix.starts_with("there is default, away;"), "{fix}");
    std::fs::write(config.join("config.json"), r#"{"currentContext": "gone"}"#).unwrap();
    let (detail, _) = diagnosis(home.path(), &[]);
    assert!(detail.contains("`currentContext` in `"), "{detail}");
    std::fs::write(config.join("config.json"), r#"{"currentContext": "#).unwrap();
    let (detail, fix) = diagnosis(home.path(), &[]);
    assert!(detail.contains(".docker/config.json` is broken"), "{detail}");
    assert!(fix.contains("docker login"), "{fix}");
}

#[test]
fn an_ssh_that_is_missing_or_lets_nobody_in_is_told_in_its_own_words() {
    let home = tempfile::tempdir().unwrap();
    let programs = home.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    let path = programs.to_str().unwrap();
    let set = [("DOCKER_HOST", "ssh://me@host"), ("PATH", path)];
    let (detail, fix) = diagnosis(home.path(), &set);
    assert!(detail.starts_with("cannot start `ssh`"), "{detail}");
    assert_eq!(fix, "install the OpenSSH client");
    let ssh = programs.join("ssh");
    program(&ssh, "#!/bin/sh\necho 'me@host: Permission denied (publickey).' >&2; exit 255\n");
    let (detail, fix) = diagnosis(home.path(), &set);
    assert!(detail.contains("code 255: me@host: Permission denied (publickey)."), "{detail}");
    assert!(fix.contains("the same login with `ssh`"), "{fix}");
    program(&ssh, "#!/bin/sh\necho 'sh: docker: not found' >&2; exit 127\n");
    let (detail, fix) = diagnosis(home.path(), &set);
    assert!(detail.contains("code 127: sh: docker: not found"), "{detail}");
    assert!(fix.contains("`docker` (18.09 or newer)"), "{fix}");
}
