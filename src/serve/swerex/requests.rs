//! What the calls bring, by SWE-ReX's names. Fields that are not known are passed over, as SWE-ReX does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A shell to start.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct CreateSession {
    /// Files to source, one after another.
    #[serde(default)]
    pub(super) startup_source: Vec<String>,
    /// Its name.
    #[serde(default = "default_session")]
    pub(super) session: String,
    /// How long the sourcing may take.
    #[serde(default = "one_second", deserialize_with = "seconds")]
    pub(super) startup_timeout: Duration,
    /// Only bash is known.
    #[serde(default, rename = "session_type")]
    pub(super) _kind: Bash,
}

/// A shell to end.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct CloseSession {
    /// Its name.
    #[serde(default = "default_session")]
    pub(super) session: String,
    /// Only bash is known.
    #[serde(default, rename = "session_type")]
    pub(super) _kind: Bash,
}

/// The kind of a shell.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum Bash {
    /// Bash.
    #[default]
    #[serde(rename = "bash")]
    Bash,
}

/// What a shell is to do.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "action_type")]
pub(super) enum Action {
    /// Run a command.
    #[serde(rename = "bash")]
    Run(RunAction),
    /// Interrupt what runs.
    #[serde(rename = "bash_interrupt")]
    Interrupt(InterruptAction),
}

/// A command of a shell.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RunAction {
    /// Its text.
    pub(super) command: String,
    /// The name of the shell.
    #[serde(default = "default_session")]
    pub(super) session: String,
    /// How long it may take; without it for ever.
    #[serde(default, deserialize_with = "maybe_seconds")]
    pub(super) timeout: Option<Duration>,
    /// Whether it speaks to a program on a terminal, which stays.
    #[serde(default)]
    pub(super) is_interactive_command: bool,
    /// Whether it makes such a program end.
    #[serde(default)]
    pub(super) is_interactive_quit: bool,
    /// What an exit code means.
    #[serde(default)]
    pub(super) check: Check,
    /// What an error begins with.
    #[serde(default)]
    pub(super) error_msg: String,
    /// The outputs that end the wait.
    #[serde(default)]
    pub(super) expect: Vec<String>,
}

/// What the exit code of a command means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Check {
    /// It is told.
    Silent,
    /// Another one than 0 is an error.
    #[default]
    Raise,
    /// It is not told.
    Ignore,
}

/// An interrupt of what runs in a shell.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct InterruptAction {
    /// The name of the shell.
    #[serde(default = "default_session")]
    pub(super) session: String,
    /// How long one attempt waits.
    #[serde(default = "fifth_of_a_second", deserialize_with = "seconds")]
    pub(super) timeout: Duration,
    /// How many attempts there are before it is killed.
    #[serde(default = "three")]
    pub(super) n_retry: u16,
    /// The outputs that end the wait.
    #[serde(default)]
    pub(super) expect: Vec<String>,
}

/// A command beside the shells.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Command {
    /// Its words, or its text.
    pub(super) command: Words,
    /// How long it may take; without it for ever.
    #[serde(default, deserialize_with = "maybe_seconds")]
    pub(super) timeout: Option<Duration>,
    /// Whether `/bin/sh` reads it.
    #[serde(default)]
    pub(super) shell: bool,
    /// Whether another exit code than 0 is an error.
    #[serde(default)]
    pub(super) check: bool,
    /// What that error begins with.
    #[serde(default)]
    pub(super) error_msg: String,
    /// Variables.
    #[serde(default)]
    pub(super) env: Option<BTreeMap<String, String>>,
    /// Where it runs.
    #[serde(default)]
    pub(super) cwd: Option<String>,
    /// Whether both outputs are one.
    #[serde(default)]
    pub(super) merge_output_streams: bool,
}

/// The words of a command, or its text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    /// One text.
    One(String),
    /// Program and arguments.
    Many(Vec<String>),
}

/// A file to read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ReadFile {
    /// Its path.
    pub(super) path: String,
    /// The encoding of its text, as Python calls it.
    #[serde(default)]
    pub(super) encoding: Option<String>,
    /// What becomes of bytes that are no text, as Python calls it.
    #[serde(default)]
    pub(super) errors: Option<String>,
}

/// A file to write.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct WriteFile {
    /// Its text.
    pub(super) content: String,
    /// Its path.
    pub(super) path: String,
}

fn default_session() -> String {
    "default".to_owned()
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn fifth_of_a_second() -> Duration {
    Duration::from_millis(200)
}

fn three() -> u16 {
    3
}

/// A hundred years: clocks do not count further.
const LONGEST: f64 = 3.0e9;

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    let time = Duration::try_from_secs_f64(seconds.min(LONGEST));
    time.map_err(|_| serde::de::Error::custom(format!("`{seconds}` is no time in seconds")))
}

fn maybe_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    struct Seconds(#[serde(deserialize_with = "seconds")] Duration);
    Ok(Option::<Seconds>::deserialize(deserializer)?.map(|Seconds(time)| time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_is_as_swe_rex_has_it() {
        let action = json!({ "action_type": "bash", "command": "ls" });
        let Action::Run(run) = serde_json::from_value(action).unwrap() else { panic!() };
        assert_eq!((run.session.as_str(), run.timeout, run.check), ("default", None, Check::Raise));
        let action = json!({ "action_type": "bash_interrupt" });
        let Action::Interrupt(found) = serde_json::from_value(action).unwrap() else { panic!() };
        assert_eq!((found.timeout, found.n_retry), (Duration::from_millis(200), 3));
        let create: CreateSession = serde_json::from_value(json!({})).unwrap();
        assert_eq!(create.startup_timeout, Duration::from_secs(1));
    }

    #[test]
    fn a_time_that_is_none_is_refused_and_a_long_one_is_not() {
        let limit = |value: f64| {
            let command = json!({ "command": "ls", "timeout": value });
            serde_json::from_value::<Command>(command).map(|command| command.timeout)
        };
        assert_eq!(limit(0.5).unwrap(), Some(Duration::from_millis(500)));
        assert!(limit(1e300).unwrap().is_some());
        assert!(limit(-1.0).is_err());
        let other = json!({ "session_type": "zsh" });
        assert!(serde_json::from_value::<CreateSession>(other).is_err());
    }
}
