//! Sessions of instances, on the embedded engine: what was changed in them as a patch, and its grade.
//!
//! They stand on the base image in the state directory of the engine tests, `IMGFORGE_TEST_STATE`.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

mod common;

use common::needs;

const INSTANCE: &str = "imgforge__abacus-1";

struct Cli(tempfile::TempDir);

impl Cli {
    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_imgforge"))
            .args(["--engine", "embedded", "--state-dir"])
            .arg(needs::state())
            .arg("session")
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs what has to succeed, and returns what it prints.
    fn does(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&self) -> String {
        self.does(&["start", "-d", "demo", "-i", INSTANCE, "--ttl", "10m"]).trim().to_owned()
    }

    fn shell(&self, id: &str, text: &str) -> String {
        self.does(&["exec", id, "--", "sh", "-c", text])
    }
}

/// The settings of a repository whose owner wants patches to be wrong, and programs to run.
const HOSTILE: &str = "git update-index --assume-unchanged pyproject.toml; git config diff.noprefix true; git config color.ui always; \
     git config core.autocrlf true; git config core.fsmonitor 'touch /root/ran'; \
     git config diff.external 'touch /root/ran'; git config core.quotePath false; \
     printf '[diff \"x\"]\\ntextconv = touch /root/ran; cat\\n' >>.git/config; \
     git config core.fileMode false; git config core.worktree /nowhere; \
     git config core.excludesFile /testbed/all; echo '*' >/root/all; echo '*' >.git/info/exclude; \
     printf '[filter \"x\"]\\nclean = touch /root/ran; tr a-z A-Z\\n' >>.git/config; \
     echo '* diff=x filter=x' >.git/info/attributes";

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\n", "\n")
}

/// What is in the tree, with modes.
const TREE: &str = "find . -path ./.git -prune -o -print | LC_ALL=C sort | while read -r path; do \
     stat -c '%A %N' \"$path\"; [ ! -f \"$path\" ] || sha256sum <\"$path\"; done";

#[test]
#[ignore = "needs a base image"]
fn a_patch_is_byte_exact_and_applies_to_an_equal_tree() {
    needs::base();
    let cli = Cli(tempfile::tempdir().unwrap());
    let (first, second) = (cli.start(), cli.start());
    let change = "printf 'a\\r\\nc\\r\\n' >crlf.txt; printf '\\0\\2\\377' >binary; printf end >'no \"end'; \
         chmod +x README.md; ln -s README.md link; rm -r tests; mkdir -p a/b; echo x >a/b/\u{e9}; \
         echo '# more' >>pyproject.toml";
    cli.shell(&first, change);
    // What the agent commits counts as well.
    cli.shell(&first, "git add crlf.txt; git -c user.name=n -c user.email=e commit -qm one");
    let status = "git status --porcelain; git count-objects";
    let before = cli.shell(&first, status);
    cli.does(&["patch", "-o", "plain.diff", &first]);
    assert_eq!(before, cli.shell(&first, status), "the repository is as it was");
    cli.shell(&first, HOSTILE);
    cli.does(&["patch", "-o", "p.diff", &first]);
    let plain = std::fs::read(cli.0.path().join("plain.diff")).unwrap();
    let patch = std::fs::read(cli.0.path().join("p.diff")).unwrap();
    assert_eq!(text(&patch), text(&plain));
    assert!(patch.windows(4).any(|window| window == b"+a\r\n"), "line ends are kept");
    assert!(!patch.contains(&0x1b), "there are no colours");
    cli.does(&["apply", &second, "p.diff"]);
    assert_eq!(cli.shell(&first, TREE), cli.shell(&second, TREE));
    cli.does(&["patch", "-o", "again.diff", &second]);
    let again = std::fs::read(cli.0.path().join("again.diff")).unwrap();
    assert_eq!(text(&again), text(&patch));
    assert_eq!(cli.shell(&first, "ls /root/ran 2>/dev/null || echo none"), "none\n");
    // It does not apply twice, and then nothing is changed.
    let tree = cli.shell(&second, TREE);
    let twice = cli.run(&["apply", &second, "p.diff"]);
    assert_eq!(twice.status.code(), Some(2), "{}", String::from_utf8_lossy(&twice.stderr));
    assert_eq!(cli.shell(&second, TREE), tree);
    cli.does(&["apply", "-R", &second, "p.diff"]);
    assert_eq!(cli.does(&["patch", &second]), "");
    cli.does(&["stop", &first, &second]);
    // Packs are large: one whose time is touched is copied.
    let third = cli.start();
    cli.shell(&third, "echo new >new.txt");
    assert!(cli.does(&["patch", &third]).contains("+new\n"));
    let changes = cli.does(&["diff", &third]);
    assert!(!changes.contains("/.git"), "{changes}");
    cli.does(&["stop", &third]);
}

#[test]
#[ignore = "needs a base image"]
fn a_session_is_graded_as_its_patch_is() {
    needs::base();
    let cli = Cli(tempfile::tempdir().unwrap());
    let id = cli.start();
    let rows = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/test.jsonl"));
    let rows = rows.unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let row = rows.into_iter().find(|row| row["instance_id"] == INSTANCE).unwrap();
    // The tests that decide are not there before, nor after.
    let test_patch = row["test_patch"].as_str().unwrap();
    let file = test_patch.lines().find_map(|line| line.strip_prefix("+++ b/")).unwrap();
    let added = test_patch.lines().filter(|line| line.starts_with('+') && !line.starts_with("+++"));
    let added = added.map(|line| &line[1..]).find(|line| line.contains("def test_")).unwrap();
    let look = format!("grep -F '{added}' '{file}' || echo absent");
    assert_eq!(cli.shell(&id, &look), "absent\n");
    let resolved = |run: &str| {
        let output = cli.run(&["grade", &id, "--", "--run-id", run]);
        let said = String::from_utf8_lossy(&output.stderr);
        let report = cli.0.path().join(format!("session.{run}.json"));
        let report = std::fs::read_to_string(&report).unwrap_or_else(|_| panic!("{said}"));
        let report: Value = serde_json::from_str(&report).unwrap();
        report["resolved_instances"].as_u64().unwrap()
    };
    cli.shell(&id, "echo '# nothing' >>README.md");
    assert_eq!(resolved("before"), 0);
    std::fs::write(cli.0.path().join("gold.diff"), row["patch"].as_str().unwrap()).unwrap();
    cli.does(&["apply", &id, "gold.diff"]);
    assert_eq!(resolved("after"), 1);
    assert_eq!(cli.shell(&id, &look), "absent\n");
    cli.does(&["stop", &id]);
}

#[test]
#[ignore = "needs a base image"]
fn a_session_that_ends_by_itself_while_it_is_stopped_is_no_failure() {
    needs::base();
    let cli = Cli(tempfile::tempdir().unwrap());
    let real = cli.start();
    // A host whose session is over: it listens no more, and goes in a moment.
    let sessions = needs::state().join("sessions");
    let id = format!("{:012x}", std::process::id());
    let dir = sessions.join(&id);
    std::fs::create_dir(&dir).unwrap();
    let record = std::fs::read_to_string(sessions.join(&real).join("session.json")).unwrap();
    let lock = std::fs::File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("sock")).unwrap());
    std::fs::write(dir.join("session.json"), record.replace(&real, &id)).unwrap();
    let goes = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        drop(lock);
    });
    assert_eq!(cli.does(&["stop", &id]), format!("{id}\n"));
    goes.join().unwrap();
    assert!(!dir.exists());
    cli.does(&["stop", &real]);
}
