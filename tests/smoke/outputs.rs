//! What commands print: how much of it is kept, and that secrets are nowhere.

use std::sync::Arc;

use imgforge::smoke::{Events, MASK, Manager, RunReport, Truncated, saved_report};
use serde_json::Value;

use crate::bench::Space;
use crate::common::schema::check;

#[tokio::test]
async fn a_hundred_megabytes_are_in_a_file_and_their_ends_in_the_report() {
    let space = Space::new();
    let line = "echo first; head -c 104857600 /dev/zero | tr '\\\\0' x; echo; echo last";
    let config = space.config("", &format!("setup = [\"{line}\"]\ntest = \"true\""));
    let mut options = space.options();
    options.max_output = 1000;
    let mut manager = Manager::open(config, space.means(), options).unwrap();
    let report = manager.run().await;
    assert!(report.success, "{:?}", report.failure_reason);
    let command = &report.stages[4].commands[0];
    assert_eq!(command.stdout.len(), 1000);
    assert!(command.stdout.starts_with("first\nx") && command.stdout.ends_with("x\nlast\n"));
    let all = 104_857_600 + "first\n\nlast\n".len() as u64;
    assert_eq!(command.truncated, Truncated { stdout: all - 1000, stderr: 0 });
    let file = space.artifacts().join("setup/1.stdout");
    assert_eq!(std::fs::metadata(file).unwrap().len(), all);
    assert_eq!(saved_report(&space.artifacts()).unwrap().0.runs(), [report]);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_replaced_and_kept_in_the_file() {
    let space = Space::new();
    let config = space.config("", "setup = [\"printf 'a\\\\377\\\\000b'\"]\ntest = \"true\"");
    let report = space.run(config).await;
    assert_eq!(report.stages[4].commands[0].stdout, "a\u{fffd}\0b");
    let file = std::fs::read(space.artifacts().join("setup/1.stdout")).unwrap();
    assert_eq!(file, b"a\xff\0b");
    assert_eq!(saved_report(&space.artifacts()).unwrap().0.runs(), [report]);
}

/// Reads everything below a directory.
fn everything(dir: &std::path::Path) -> Vec<u8> {
    let files = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.unwrap().into_path());
    files.filter(|path| path.is_file()).flat_map(|path| std::fs::read(path).unwrap()).collect()
}

#[tokio::test]
async fn secrets_are_in_no_report_event_or_file() {
    const SECRETS: [&str; 3] = ["hunter22", "s3cr3t-value", "with space"];
    let space = Space::new();
    let sandbox = "env = { API_TOKEN = \"hunter22\", PLAIN = \"seen hunter22\" }";
    let setup = "setup = [\"echo $API_TOKEN $MY_SECRET; echo $DB_PASSWORD >&2; printf hunt; sleep 0.2; \
                 printf er22\", \"echo s3cr3t-value; exit 1\"]";
    let env = "env = { MY_SECRET = \"s3cr3t-value\", DB_PASSWORD = \"with space\" }";
    let config = space.config_of(sandbox, "", &format!("{setup}\ntest = \"true\"\n{env}"));
    let events = space.path().join("events");
    let mut options = space.options();
    options.events = Some(Arc::new(Events::append(&events).unwrap()));
    let mut manager = Manager::open(config, space.means(), options).unwrap();
    let report = manager.run().await;
    let command = &report.stages[4].commands[0];
    assert_eq!((command.stdout.as_str(), command.stderr.as_str()), ("*** ***\n***", "***\n"));
    assert_eq!(command.env["API_TOKEN"], MASK);
    assert_eq!(command.env["PLAIN"], "seen ***");
    assert!(report.failure_reason.as_ref().unwrap().contains("echo ***; exit 1"));
    let told = [
        serde_json::to_vec(&report).unwrap(),
        std::fs::read(&events).unwrap(),
        everything(&space.artifacts()),
    ];
    for (at, bytes) in told.iter().enumerate() {
        assert!(!bytes.is_empty());
        for secret in SECRETS {
            let found = bytes.windows(secret.len()).any(|one| one == secret.as_bytes());
            assert!(!found, "{secret} is in {at}");
        }
    }
}

fn read_events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn events_say_what_the_report_says() {
    let space = Space::new();
    let events = space.path().join("events");
    let config = space.config("", "setup = [\"echo a\", \"echo b\"]\ntest = \"exit 4\"");
    let mut options = space.options();
    options.events = Some(Arc::new(Events::append(&events).unwrap()));
    let mut manager = Manager::open(config, space.means(), options).unwrap();
    let report: RunReport = manager.run().await;
    let events = read_events(&std::fs::read_to_string(&events).unwrap());
    let kind = |event: &Value| event["event"].as_str().unwrap().to_owned();
    for (at, event) in events.iter().enumerate() {
        check("smoke-events", event);
        assert_eq!((&event["seq"], &event["run"]), (&at.into(), &"run".into()));
    }
    assert_eq!(kind(&events[0]), "run_started");
    let last = events.last().unwrap();
    assert_eq!((kind(last).as_str(), &last["success"]), ("run_finished", &false.into()));
    assert_eq!(last["failure_stage"], "test");
    let finished = events.iter().filter(|event| kind(event) == "stage_finished");
    for (event, stage) in finished.zip(&report.stages) {
        assert_eq!(event["stage"], stage.stage.as_str());
        assert_eq!(event["duration"], stage.duration);
    }
    let commands = events.iter().filter(|event| kind(event) == "command").count();
    assert_eq!(commands, report.stages.iter().map(|stage| stage.commands.len()).sum::<usize>());
}
