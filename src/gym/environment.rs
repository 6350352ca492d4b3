//! An environment: a session, and the commands that an agent may use in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::{EngineError, ExecEnd, ExecRequest, Outputs, SandboxSession};
use crate::session::{Keep, Run, run};

use super::action::Action;
use super::commands::{Command, CommandFile, has_end, stem};
use super::observation::observation;
use super::text::{repr_list, strip_start};

/// Where commands are installed.
const BIN: &str = "/usr/local/bin";

/// What every shell reads that runs a command: the libraries.
const LIBRARIES: &str = "/usr/local/lib/imgforge-commands.sh";

/// Where programs are looked for, in every command; as R2E-Gym has it.
const PATH: &str = "/root/.venv/bin:/root/.local/bin:/root/.cargo/bin:\
     /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The code of an action that was refused or took too long.
const REFUSED: &str = "-1";

/// An environment on a session, which is given to each call.
#[derive(Debug, Default)]
pub struct Environment {
    /// Where commands run.
    pub working_dir: String,
    files: Vec<CommandFile>,
    commands: Vec<Command>,
    libraries: Vec<String>,
    done: bool,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What the agent is told.
    pub observation: String,
    /// What the command printed, or why it was refused.
    pub output: String,
    /// `0`, `Error: Exit code N`, or `-1` where the action was refused or took too long.
    pub code: String,
    /// Whether it is over: from `finish` or `submit` on.
    pub done: bool,
    /// How long it took.
    pub duration: Duration,
}

impl Environment {
    /// An environment without commands; `working_dir` is where they run.
    pub fn new(working_dir: String) -> Environment {
        Environment { working_dir, ..Environment::default() }
    }

    /// The commands that an agent may use.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// Installs files of commands. A command that is there already is replaced.
    ///
    /// # Errors
    /// Where the session takes no files; some of them may be installed then.
    pub async fn add(
        &mut self,
        session: &dyn SandboxSession,
        files: Vec<CommandFile>,
    ) -> Result<(), EngineError> {
        for file in &files {
            self.install(session, file).await?;
        }
        for file in files {
            for command in &file.commands {
                // Of two of one name the last one counts, as the last one is installed.
                self.commands.retain(|known| known.name != command.name);
                self.commands.push(command.clone());
            }
            self.files.retain(|known| known.name != file.name);
            self.files.push(file);
        }
        Ok(())
    }

    /// Begins anew in a session that was reset: the commands are installed again.
    pub async fn reset(&mut self, session: &dyn SandboxSession) -> Result<(), EngineError> {
        self.libraries.clear();
        self.done = false;
        let files = std::mem::take(&mut self.files);
        let mut installed = Ok(());
        for file in &files {
            if installed.is_ok() {
                installed = self.install(session, file).await;
            }
        }
        self.files = files;
        installed
    }

    async fn install(
        &mut self,
        session: &dyn SandboxSession,
        file: &CommandFile,
    ) -> Result<(), EngineError> {
        let name = &file.name;
        let target = if has_end(name, ".py") { stem(name) } else { name };
        if !file.is_script() {
            write(session, BIN, &[(target, &file.data, 0o755)]).await?;
            let path = format!("{BIN}/{target}");
            if !self.libraries.contains(&path) {
                self.libraries.push(path);
            }
            let lines: String = self.libraries.iter().map(|path| format!(". '{path}'\n")).collect();
            let (directory, name) = LIBRARIES.rsplit_once('/').expect("it is a path");
            return write(session, directory, &[(name, lines.as_bytes(), 0o644)]).await;
        }
        // The kernel looks for `#!` at the very beginning.
        let text = String::from_utf8_lossy(&file.data);
        let data = strip_start(&text).as_bytes();
        let mut written = vec![(target, data, 0o755)];
        if stem(name) != target && !name.starts_with('_') {
            written.push((stem(name), data, 0o755));
        }
        write(session, BIN, &written).await
    }

    /// Runs an action; at the limit all of its command is killed.
    ///
    /// # Errors
    /// Where the engine fails or the session has ended: that says nothing of the action.
    pub async fn step(
        &mut self,
        session: &dyn SandboxSession,
        action: &Action,
        limit: Duration,
    ) -> Result<Step, EngineError> {
        let began = Instant::now();
        let (output, code) = match self.command_of(action) {
            Ok(command) if command.is_empty() => (String::new(), "0".to_owned()),
            Ok(command) => self.run(session, command, limit).await?,
            Err(refused) => (refused, REFUSED.to_owned()),
        };
        self.done |= action.is_end();
        let observation = observation(action, &output, &code);
        let (done, duration) = (self.done, began.elapsed());
        Ok(Step { observation, output, code, done, duration })
    }

    /// Returns the command of an action, or why it is refused.
    fn command_of(&self, action: &Action) -> Result<String, String> {
        let name = &action.function;
        if !name.is_empty() && !self.commands.iter().any(|command| command.name == *name) {
            let allowed = repr_list(self.commands.iter().map(|command| command.name.as_str()));
            return Err(format!(
                "Invalid Action: input action must be one of allowed actions \n \
                 Allowed actions: {allowed} \n Input action: {name}\t"
            ));
        }
        action.command().map_err(|error| error.to_string())
    }

    async fn run(
        &self,
        session: &dyn SandboxSession,
        command: String,
        limit: Duration,
    ) -> Result<(String, String), EngineError> {
        let mut variables = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        if !self.libraries.is_empty() {
            variables.insert("BASH_ENV".to_owned(), LIBRARIES.to_owned());
        }
        let request = ExecRequest {
            command: ["/bin/bash", "-c", &command].map(str::to_owned).to_vec(),
            variables,
            working_dir: Some(self.working_dir.clone()),
            outputs: Outputs::Merged,
            time_limit: Some(limit),
            ..ExecRequest::default()
        };
        let Run { summary, out, .. } = run(session, &request, Keep::default()).await?;
        let output = String::from_utf8_lossy(&out.bytes).into_owned();
        Ok(match summary.end {
            ExecEnd::Exited(0) => (without_colours(&output), "0".to_owned()),
            ExecEnd::Exited(code) | ExecEnd::OutOfMemory(code) => (output, failed(code)),
            ExecEnd::Signaled(signal) => (output, failed(128 + signal)),
            // An agent may have removed the directory.
            ExecEnd::NotStarted(why) => (why.reason.clone(), failed(why.code())),
            ExecEnd::TimedOut | ExecEnd::Idle => {
                let seconds = limit.as_secs_f64();
                let told = format!("The command took too long to execute (>{seconds}s)");
                let told = if output.is_empty() { told } else { format!("{told}\n{output}") };
                (told, REFUSED.to_owned())
            }
            ExecEnd::SessionEnded(how) => {
                return Err(EngineError::SessionEnded { session: session.id().to_owned(), how });
            }
        })
    }
}

fn failed(code: i32) -> String {
    format!("Error: Exit code {code}")
}

/// Takes codes for colours and carriage returns out of a text.
fn without_colours(text: &str) -> String {
    static COLOUR: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
        regex::Regex::new(r"\x1b\[[0-9;]*m|\r").expect("it is an expression")
    });
    COLOUR.replace_all(text, "").into_owned()
}

/// Writes files of root to a directory, which is made where it is not there.
async fn write(
    session: &dyn SandboxSession,
    directory: &str,
    files: &[(&str, &[u8], u32)],
) -> Result<(), EngineError> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, *data).map_err(|error| EngineError::Refused {
            action: format!("write `{name}`"),
            reason: error.to_string(),
        })?;
    }
    let bytes = tar.into_inner().expect("a vector takes every byte");
    session.put(directory, true, &mut &bytes[..]).await
}
