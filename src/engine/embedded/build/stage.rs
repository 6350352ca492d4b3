//! Stages and steps of a Dockerfile, and what each step means where it stands.
//!
//! Pure: variables are values, and nothing is looked up on a disk.

use std::collections::BTreeMap;

use super::Built;
use super::metadata::Metadata;
use super::shell_lexer::{expand, pairs, words};

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, by its reference.
    Image(String),
}

/// A stage.
pub(crate) struct Stage {
    /// What it stands on.
    pub origin: Origin,
    /// Its instructions, but for `FROM`.
    pub steps: Vec<Step>,
    /// Arguments from before the first `FROM`, for an `ARG` without a default.
    pub(super) global: BTreeMap<String, String>,
    /// Arguments of the build.
    pub(super) given: BTreeMap<String, String>,
}

/// An instruction.
pub(crate) struct Step {
    /// The line where it begins.
    pub line: usize,
    /// The text, continued lines joined.
    pub text: String,
    pub(super) kind: Instruction,
}

pub(super) enum Instruction {
    Arg(String),
    Env(String),
    Metadata(Metadata),
    Run { mounts: Vec<String>, command: CommandForm },
    Copy(CopySpec),
    Workdir(String),
    User(String),
    Shell(Vec<String>),
    Entrypoint(CommandForm),
    Cmd(CommandForm),
    WithoutEffect,
}

/// A command in one of its forms.
#[derive(Clone)]
pub(super) enum CommandForm {
    Exec(Vec<String>),
    Shell(String),
    /// A heredoc that names its interpreter.
    Program(String),
}

/// What a step does.
pub(crate) enum Action {
    /// It changed the config only.
    Config,
    /// It runs a command.
    Run(Run),
    /// It copies files.
    Copy(CopySpec),
}

/// A `RUN`.
pub(crate) struct Run {
    /// The program and its arguments; none runs `program`.
    pub words: Vec<String>,
    /// A file that is run.
    pub program: Option<String>,
    /// What is mounted while it runs.
    pub mounts: Vec<Mount>,
}

/// A `--mount` of a `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mount {
    /// A directory that builds share.
    Cache {
        /// Which one.
        id: String,
        /// Where.
        target: String,
        /// Whether one build has it at a time.
        locked: bool,
    },
    /// A file that leaves no trace.
    Secret {
        /// Which one.
        id: String,
        /// Where.
        target: String,
        /// Whether the step fails without it.
        required: bool,
    },
    /// A directory of the context.
    Bind {
        /// In the context.
        source: String,
        /// Where.
        target: String,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Where.
        target: String,
    },
}

/// A `COPY`, `ADD` or `WORKDIR`.
#[derive(Debug, Clone, Default)]
pub(crate) struct CopySpec {
    /// Where the files are; none is the context.
    pub from: Option<Origin>,
    /// Patterns; none makes a directory.
    pub sources: Vec<String>,
    /// Where to, absolute.
    pub destination: String,
    /// `--chown`.
    pub owner: String,
    /// `--chmod`.
    pub mode: Option<u32>,
    /// `ADD` unpacks archives.
    pub unpack: bool,
}

/// The variables that a step sees.
pub(crate) struct Variables {
    env: Vec<String>,
    args: BTreeMap<String, String>,
    global: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<String> {
        let set = self.env.iter().rev().find_map(|variable| {
            let (known, value) = variable.split_once('=')?;
            (known == name).then(|| value.to_owned())
        });
        set.or_else(|| self.args.get(name).cloned())
    }

    /// Returns the environment of a command: arguments, and over them the image's variables.
    pub(crate) fn environment(&self) -> Vec<String> {
        let args = self.args.iter().map(|(name, value)| format!("{name}={value}"));
        args.chain(self.env.iter().cloned()).collect()
    }
}

impl Stage {
    /// Returns the variables at the start of the stage.
    pub(crate) fn variables(&self, env: &[String]) -> Variables {
        Variables {
            env: env.to_vec(),
            args: BTreeMap::new(),
            global: self.global.clone(),
            given: self.given.clone(),
        }
    }
}

/// Lists the images that the stages stand on or copy from.
pub(crate) fn images(stages: &[Stage]) -> Vec<String> {
    let mut images = Vec::new();
    for stage in stages {
        let copied = stage.steps.iter().filter_map(|step| match &step.kind {
            Instruction::Copy(copy) => copy.from.as_ref(),
            _ => None,
        });
        for origin in copied.chain([&stage.origin]) {
            if let Origin::Image(reference) = origin
                && !images.contains(reference)
            {
                images.push(reference.clone());
            }
        }
    }
    images
}

/// Splits the names of an `ARG`, with their defaults.
pub(super) fn arguments(
    text: &str,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Option<String>)>, String> {
    let split = |word: String| match word.split_once('=') {
        Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
        None => (word, None),
    };
    Ok(words(text, value)?.into_iter().map(split).collect())
}

impl Step {
    /// Does what the step does to variables and config, and returns what is left to do.
    pub(crate) fn action(
        &self,
        variables: &mut Variables,
        built: &mut Built,
    ) -> Result<Action, String> {
        let value = |name: &str| variables.get(name);
        match &self.kind {
            Instruction::WithoutEffect => {}
            Instruction::Metadata(said) => said.apply(&value, &mut built.config)?,
            Instruction::Arg(text) => {
                for (name, default) in arguments(text, &value)? {
                    let set = variables.given.get(&name).cloned();
                    let inherited = || variables.global.get(&name).cloned();
                    // Without any value the variable is not set.
                    if let Some(set) = set.or(default).or_else(inherited) {
                        variables.args.insert(name, set);
                    }
                }
            }
            Instruction::Env(text) => {
                for (name, value) in pairs(text, &value)? {
                    let start = format!("{name}=");
                    let set = format!("{start}{value}");
                    let env = &mut built.config.env;
                    match env.iter_mut().find(|variable| variable.starts_with(&start)) {
                        Some(known) => *known = set,
                        None => env.push(set),
                    }
                }
                variables.env.clone_from(&built.config.env);
            }
            Instruction::User(user) => built.config.user = expand(user, &value)?,
            Instruction::Shell(words) => built.config.shell.clone_from(words),
            Instruction::Entrypoint(line) => {
                built.config.entrypoint = in_shell(line, &built.config.shell);
                // As Docker does: the command of the image below belonged to its entrypoint.
                built.config.cmd.clear();
            }
            Instruction::Cmd(line) => built.config.cmd = in_shell(line, &built.config.shell),
            Instruction::Workdir(path) => {
                let path = absolute(&expand(path, &value)?, &built.config.working_dir);
                built.config.working_dir.clone_from(&path);
                let made = CopySpec { destination: path, ..CopySpec::default() };
                return Ok(Action::Copy(made));
            }
            Instruction::Copy(copy) => {
                let mut copy = copy.clone();
                for source in &mut copy.sources {
                    *source = expand(source, &value)?;
                }
                let destination = expand(&copy.destination, &value)?;
                let slash =
                    destination.ends_with('/') || matches!(destination.as_str(), "." | "..");
                copy.destination = absolute(&destination, &built.config.working_dir);
                if slash && !copy.destination.ends_with('/') {
                    copy.destination.push('/');
                }
                copy.owner = expand(&copy.owner, &value)?;
                return Ok(Action::Copy(copy));
            }
            Instruction::Run { mounts, command } => {
                let mut read = Vec::new();
                for mount in mounts {
                    read.push(mount_of(&expand(mount, &value)?, &built.config.working_dir)?);
                }
                let program = match command {
                    CommandForm::Program(text) => Some(text.clone()),
                    _ => None,
                };
                let words = in_shell(command, &built.config.shell);
                return Ok(Action::Run(Run { words, program, mounts: read }));
            }
        }
        Ok(Action::Config)
    }

    /// Tells whether the instruction names something.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        match &self.kind {
            Instruction::Run {
                command: CommandForm::Shell(line) | CommandForm::Program(line),
                ..
            } => line.contains(text) || self.text.contains(text),
            _ => self.text.contains(text),
        }
    }

    /// Tells whether it only says something of the image.
    pub(super) fn is_metadata(&self) -> bool {
        matches!(self.kind, Instruction::Metadata(_))
    }

    /// Tells whether it is a `RUN`.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.kind, Instruction::Run { .. })
    }
}

fn in_shell(line: &CommandForm, shell: &[String]) -> Vec<String> {
    match line {
        CommandForm::Exec(words) => words.clone(),
        CommandForm::Program(_) => Vec::new(),
        CommandForm::Shell(text) => {
            let mut words = match shell {
                [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                shell => shell.to_vec(),
            };
            words.push(text.clone());
            words
        }
    }
}

/// Makes a path absolute and plain.
fn absolute(path: &str, working_dir: &str) -> String {
    let whole =
        if path.starts_with('/') { path.to_owned() } else { format!("{working_dir}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn mount_of(text: &str, working_dir: &str) -> Result<Mount, String> {
    let options: BTreeMap<&str, &str> =
        text.split(',').map(|option| option.split_once('=').unwrap_or((option, "true"))).collect();
    let get = |names: &[&str]| names.iter().find_map(|name| options.get(name).copied());
    let target = get(&["target", "dst", "destination"]).map(|path| absolute(path, working_dir));
    let needed = || target.clone().ok_or_else(|| format!("`--mount={text}` has no target"));
    let known = |names: &[&str]| match options.keys().find(|name| !names.contains(name)) {
        Some(name) => Err(format!("`{name}` of `--mount={text}` is not known here")),
        None => Ok(()),
    };
    match get(&["type"]).unwrap_or("bind") {
        "cache" => {
            let names =
                ["type", "target", "dst", "destination", "id", "sharing", "mode", "uid", "gid"];
            known(&names)?;
            let target = needed()?;
            let id = get(&["id"]).unwrap_or(&target).to_owned();
            let locked = get(&["sharing"]).is_some_and(|sharing| sharing != "shared");
            Ok(Mount::Cache { id, target, locked })
        }
        "secret" => {
            known(&["type", "target", "dst", "destination", "id", "required"])?;
            let id = get(&["id"]);
            let id = match (id, &target) {
                (Some(id), _) => id.to_owned(),
                (None, Some(target)) => target.rsplit('/').next().unwrap_or("").to_owned(),
                (None, None) => return Err(format!("`--mount={text}` has no id")),
            };
            let target = target.unwrap_or_else(|| format!("/run/secrets/{id}"));
            let required = get(&["required"]).is_some_and(|value| value == "true");
            Ok(Mount::Secret { id, target, required })
        }
        "bind" => {
            known(&["type", "target", "dst", "destination", "source", "src", "ro", "readonly"])?;
            let source = get(&["source", "src"]).unwrap_or("").trim_start_matches('/').to_owned();
            Ok(Mount::Bind { source, target: needed()? })
        }
        "tmpfs" => {
            known(&["type", "target", "dst", "destination", "size"])?;
            Ok(Mount::Tmpfs { target: needed()? })
        }
        other => Err(format!("a mount of type `{other}` is not known to the embedded engine")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::stages;
    use super::*;

    #[test]
    fn variables_follow_dockers_precedence() {
        let text = "ARG TAG=1\nFROM a:$TAG\nARG TAG\nARG WHO=nobody\nENV WHO=env GREETING=\"hi $WHO\"\n\
                    WORKDIR sub\nRUN echo\n";
        let args = BTreeMap::from([("WHO".to_owned(), "me".to_owned())]);
        let stages = stages(text, &args).unwrap();
        assert_eq!(images(&stages), ["a:1"]);
        let mut built = Built::default();
        let mut variables = stages[0].variables(&["PATH=/bin".to_owned()]);
        let mut last = None;
        for step in &stages[0].steps {
            last = Some(step.action(&mut variables, &mut built).unwrap());
        }
        assert_eq!(built.config.env, ["WHO=env", "GREETING=hi me"]);
        assert_eq!(built.config.working_dir, "/sub");
        assert_eq!(variables.environment(), ["TAG=1", "WHO=me", "WHO=env", "GREETING=hi me"]);
        let Some(Action::Run(run)) = last else { panic!() };
        assert_eq!(run.words, ["/bin/sh", "-c", "echo"]);
    }

    #[test]
    fn mounts_are_read() {
        let of = |text| mount_of(text, "/w");
        assert_eq!(
            of("type=cache,target=x,sharing=locked").unwrap(),
            Mount::Cache { id: "/w/x".into(), target: "/w/x".into(), locked: true }
        );
        assert_eq!(
            of("type=secret,id=key").unwrap(),
            Mount::Secret { id: "key".into(), target: "/run/secrets/key".into(), required: false }
        );
        assert!(of("type=ssh").unwrap_err().contains("`ssh`"));
        assert!(of("type=bind,from=x,target=/y").unwrap_err().contains("`from`"));
    }
}
