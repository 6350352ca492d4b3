//! What the tests share: the command line on one engine, an image with git, Python and pytest, and
//! repositories that git makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::common::needs;

/// The instance whose image has what tests need.
const INSTANCE: &str = "imgforge__abacus-1";

/// A directory of its own, and an engine.
pub(crate) struct Space {
    dir: tempfile::TempDir,
    engine: &'static str,
    state: PathBuf,
    pub(crate) image: String,
}

impl Space {
    /// On the embedded engine, which all tests share.
    pub(crate) fn new() -> Space {
        let state = needs::base();
        Space::on("embedded", state)
    }

    pub(crate) fn on(engine: &'static str, state: PathBuf) -> Space {
        let dir = tempfile::tempdir().unwrap();
        let mut space = Space { dir, engine, state, image: String::new() };
        let words = ["build", "-d", "demo", "-i", INSTANCE, "--layers", "base,env,checkout"];
        let output = space.command(&[&words[..], &["--json"]].concat()).output().unwrap();
        let built: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        let nodes = built["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["kind"] == "checkout").unwrap();
        assert!(output.status.success(), "{}", said(&output));
        node["image"].as_str().unwrap().clone_into(&mut space.image);
        space
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A command of imgforge.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
        command.args(["--engine", self.engine, "--state-dir"]).arg(&self.state);
        command.args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// `imgforge sandbox` with the image. A plain user has no control groups, and takes what there is.
    pub(crate) fn sandbox(&self, words: &[&str]) -> Command {
        let mut all = vec!["sandbox", "--image", &self.image];
        if !needs::is_root() {
            all.push("--unenforced");
        }
        if !words.contains(&"-m") {
            all.extend(["-m", "512m"]);
        }
        all.extend(words);
        self.command(&all)
    }

    /// Runs a sandbox to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.sandbox(words).output().unwrap()
    }

    /// Runs a sandbox that ends with `status`; returns its document.
    pub(crate) fn json(&self, status: i32, words: &[&str]) -> Value {
        let output = self.sandbox(words).env("IMGFORGE_JSON", "1").output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
    }

    /// Runs Python text, which ends with `status`; returns the command of the document.
    pub(crate) fn python(&self, status: i32, options: &[&str], text: &str) -> Value {
        let words = [options, &["--", "python", "-c", text]].concat();
        self.json(status, &words)["command"].clone()
    }

    /// Makes a repository `name` with one commit of these files, and returns the commit.
    pub(crate) fn repository(&self, name: &str, files: &[(&str, &str)]) -> String {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        git(&path, &["init", "-q"]);
        self.commit(name, files)
    }

    /// Commits these files, and returns the commit.
    pub(crate) fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        let path = self.dir.path().join(name);
        for (file, text) in files {
            let file = path.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        git(&path, &["add", "-A"]);
        git(&path, &["commit", "-q", "--allow-empty", "-m", "c"]);
        git(&path, &["rev-parse", "HEAD"])
    }

    /// Runs tests of a repository that has these files; returns the tests of the document.
    pub(crate) fn tests(
        &self,
        status: i32,
        files: &[(&str, &str)],
        options: &[&str],
        ids: &[&str],
    ) -> Value {
        let commit = self.repository("r", files);
        let words = ["--repo", "./r", "--commit", &commit];
        let words = [&words[..], options, &["--tests"], ids].concat();
        self.json(status, &words)["tests"].clone()
    }
}

/// Runs git of this machine, without settings of anybody.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir).env("HOME", dir);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "a")
            .env(format!("GIT_{who}_EMAIL"), "a@example.org")
            // The files of a checkout have the time of its commit. git takes a file for unchanged that is
            // as long and has a time in the same second.
            .env(format!("GIT_{who}_DATE"), "2026-01-02T03:04:05Z");
    }
    let output = needs::program(&mut command, "git");
    assert!(output.status.success(), "git {args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a program printed.
pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// An argument of `sleep` that no other test has.
pub(crate) fn marker() -> String {
    format!("7{:09}", rand::random::<u32>())
}

/// Tells whether a `sleep` of that argument runs, in a container or not.
pub(crate) fn sleeps(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.map(|process| process.path().join("cmdline")).any(|path| {
        std::fs::read(path).is_ok_and(|line| {
            line.split(|byte| *byte == 0).eq([b"sleep".as_slice(), marker.as_bytes(), b""])
        })
    })
}

/// The texts of a list.
pub(crate) fn list(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
}
