//! Reading a Dockerfile: stages, and in each the steps with what they mean.
//!
//! Pure: variables are values, and nothing is looked up on a disk.

use std::collections::BTreeMap;

use parse_dockerfile::{Command, Flag, HereDoc, Instruction, JsonOrStringArray, Source};

use crate::recipe::dockerfile::{heredocs, normalise};

use super::Built;
use super::words::{expand, pairs, words};

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, by its reference.
    Image(String),
}

/// A stage.
pub struct Stage {
    /// What it stands on.
    pub origin: Origin,
    /// Its instructions, but for `FROM`.
    pub steps: Vec<Step>,
    /// Arguments from before the first `FROM`, for an `ARG` without a default.
    global: BTreeMap<String, String>,
    /// Arguments of the build.
    given: BTreeMap<String, String>,
}

/// An instruction.
pub struct Step {
    /// The line where it begins.
    pub line: usize,
    /// The text, continued lines joined.
    pub text: String,
    kind: Kind,
}

enum Kind {
    Arg(String),
    Env(String),
    Label,
    Run { mounts: Vec<String>, command: Line },
    Copy(Copy),
    Workdir(String),
    User(String),
    Shell(Vec<String>),
    Entrypoint(Line),
    Cmd(Line),
    WithoutEffect,
}

/// A command in one of its forms.
#[derive(Clone)]
enum Line {
    Exec(Vec<String>),
    Shell(String),
    /// A heredoc that names its interpreter.
    Program(String),
}

/// What a step does.
pub enum Action {
    /// It changed the config only.
    Config,
    /// It runs a command.
    Run(Run),
    /// It copies files.
    Copy(Copy),
}

/// A `RUN`.
pub struct Run {
    /// The program and its arguments; none runs `program`.
    pub words: Vec<String>,
    /// A file that is run.
    pub program: Option<String>,
    /// What is mounted while it runs.
    pub mounts: Vec<Mount>,
}

/// A `--mount` of a `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
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
#[derive(Debug, Clone)]
pub struct Copy {
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
pub struct Variables {
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
    pub fn environment(&self) -> Vec<String> {
        let args = self.args.iter().map(|(name, value)| format!("{name}={value}"));
        args.chain(self.env.iter().cloned()).collect()
    }
}

impl Stage {
    /// Returns the variables at the start of the stage.
    pub fn variables(&self, env: &[String]) -> Variables {
        Variables {
            env: env.to_vec(),
            args: BTreeMap::new(),
            global: self.global.clone(),
            given: self.given.clone(),
        }
    }
}

/// Lists the images that the stages stand on or copy from.
pub fn images(stages: &[Stage]) -> Vec<String> {
    let mut images = Vec::new();
    for stage in stages {
        let copied = stage.steps.iter().filter_map(|step| match &step.kind {
            Kind::Copy(copy) => copy.from.as_ref(),
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

/// Reads the stages that the last one needs.
pub fn stages(text: &str, args: &BTreeMap<String, String>) -> Result<Vec<Stage>, String> {
    let (text, added) = alone(&normalise(text));
    let parsed = parse_dockerfile::parse(&text).map_err(|error| error.to_string())?;
    let line_of = |at: usize| {
        let line = text[..at].matches('\n').count() + 1;
        line - 2 * added.iter().filter(|at| **at < line).count()
    };
    let mut global = BTreeMap::new();
    for arg in parsed.global_args() {
        let at = |reason| format!("line {}: {reason}", line_of(arg.arg.span.start));
        let value = |name: &str| global.get(name).cloned();
        for (name, default) in arguments(&arg.arguments.value, &value).map_err(at)? {
            let set = args.get(&name).cloned().or(default).unwrap_or_default();
            global.insert(name, set);
        }
    }
    let mut names: Vec<String> = Vec::new();
    let mut stages = Vec::new();
    for stage in parsed.stages() {
        let line = line_of(stage.from.from.span.start);
        let at = |reason: String| format!("line {line}: {reason}");
        for flag in &stage.from.options {
            if flag.name.value != "platform" {
                return Err(at(format!("`--{}` is not known here", flag.name.value)));
            }
        }
        let value = |name: &str| global.get(name).cloned();
        let image = expand(&stage.from.image.value, &value).map_err(at)?;
        if image.is_empty() {
            return Err(at(format!("`{}` is empty", stage.from.image.value)));
        }
        let origin = origin(&image, &names, false);
        let mut steps = Vec::new();
        for instruction in stage.instructions {
            let span = instruction_span(instruction, text.len());
            let line = line_of(span);
            let at = |reason: String| format!("line {line}: {reason}");
            let kind = kind(instruction, &names).map_err(at)?;
            steps.push(Step { line, text: joined(&text[span..]), kind });
        }
        names.push(
            stage
                .from
                .as_
                .as_ref()
                .map_or(String::new(), |(_, name)| name.value.to_ascii_lowercase()),
        );
        stages.push(Stage { origin, steps, global: global.clone(), given: args.clone() });
    }
    Ok(needed(stages))
}

/// Makes every heredoc the whole of its `RUN`: the parser knows no other, and a command with
/// heredocs in it is a script like any. Returns also the lines after which two lines were added.
fn alone(text: &str) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut added = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut whole = line.to_owned();
        let mut source = format!("{line}\n");
        while !line.starts_with('#') && whole.ends_with('\\') {
            whole.pop();
            let Some(next) = lines.next() else { break };
            whole.push_str(next);
            source += next;
            source.push('\n');
        }
        let found = heredocs(&whole);
        let runs = whole.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("RUN "));
        let (flags, command) = split_flags(whole.get(4..).unwrap_or(""));
        let mut bodies = String::new();
        for heredoc in &found {
            for body in lines.by_ref() {
                bodies += body;
                bodies.push('\n');
                if heredoc.ends_with(body) {
                    break;
                }
            }
        }
        if !runs || found.is_empty() || command.starts_with("<<") {
            out += &source;
            out += &bodies;
            continue;
        }
        let mut end = String::from("IMGFORGE");
        while bodies.contains(&end) {
            end.push('_');
        }
        out += &format!("RUN {flags}<<{end}\n{command}\n{bodies}{end}\n");
        added.push(out.matches('\n').count());
    }
    (out, added)
}

/// Splits the flags of an instruction from its command.
fn split_flags(arguments: &str) -> (&str, &str) {
    let mut rest = arguments.trim_start();
    while rest.starts_with("--") {
        rest = rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
    }
    let at = arguments.len() - rest.len();
    (&arguments[..at], rest)
}

/// Empties the stages that the last one does not need.
fn needed(mut stages: Vec<Stage>) -> Vec<Stage> {
    let mut wanted = vec![false; stages.len()];
    let mut open: Vec<usize> = stages.len().checked_sub(1).into_iter().collect();
    while let Some(index) = open.pop() {
        if std::mem::replace(&mut wanted[index], true) {
            continue;
        }
        let copied = stages[index].steps.iter().filter_map(|step| match &step.kind {
            Kind::Copy(copy) => copy.from.as_ref(),
            _ => None,
        });
        for origin in copied.chain([&stages[index].origin]) {
            if let Origin::Stage(below) = origin {
                open.push(*below);
            }
        }
    }
    for (stage, wanted) in stages.iter_mut().zip(wanted) {
        if !wanted {
            stage.origin = Origin::Scratch;
            stage.steps.clear();
        }
    }
    stages
}

fn origin(name: &str, stages: &[String], by_number: bool) -> Origin {
    let lower = name.to_ascii_lowercase();
    if let Some(index) = stages.iter().position(|stage| *stage == lower && !lower.is_empty()) {
        return Origin::Stage(index);
    }
    match name.parse::<usize>() {
        Ok(index) if by_number && index < stages.len() => Origin::Stage(index),
        _ if name == "scratch" => Origin::Scratch,
        _ => Origin::Image(name.to_owned()),
    }
}

fn instruction_span(instruction: &Instruction<'_>, end: usize) -> usize {
    match instruction {
        Instruction::Add(i) => i.add.span.start,
        Instruction::Arg(i) => i.arg.span.start,
        Instruction::Cmd(i) => i.cmd.span.start,
        Instruction::Copy(i) => i.copy.span.start,
        Instruction::Entrypoint(i) => i.entrypoint.span.start,
        Instruction::Env(i) => i.env.span.start,
        Instruction::Expose(i) => i.expose.span.start,
        Instruction::From(i) => i.from.span.start,
        Instruction::Healthcheck(i) => i.healthcheck.span.start,
        Instruction::Label(i) => i.label.span.start,
        Instruction::Maintainer(i) => i.maintainer.span.start,
        Instruction::Onbuild(i) => i.onbuild.span.start,
        Instruction::Run(i) => i.run.span.start,
        Instruction::Shell(i) => i.shell.span.start,
        Instruction::Stopsignal(i) => i.stopsignal.span.start,
        Instruction::User(i) => i.user.span.start,
        Instruction::Volume(i) => i.volume.span.start,
        Instruction::Workdir(i) => i.workdir.span.start,
        _ => end,
    }
}

/// Returns the instruction that text begins with, continued lines joined.
fn joined(text: &str) -> String {
    let mut joined = String::new();
    for line in text.lines() {
        match line.strip_suffix('\\') {
            Some(start) => joined.push_str(start),
            None => {
                joined.push_str(line);
                break;
            }
        }
    }
    joined
}

fn kind(instruction: &Instruction<'_>, stages: &[String]) -> Result<Kind, String> {
    Ok(match instruction {
        Instruction::Arg(arg) => Kind::Arg(arg.arguments.value.to_string()),
        Instruction::Env(env) => Kind::Env(env.arguments.value.to_string()),
        // The labels of an image are those that were asked for.
        Instruction::Label(_) => Kind::Label,
        Instruction::Run(run) => {
            let mut mounts = Vec::new();
            for flag in &run.options {
                match (flag.name.value.as_ref(), value_of(flag)) {
                    ("mount", value) => mounts.push(value.to_owned()),
                    ("network" | "security", "default" | "sandbox" | "") => {}
                    (name, value) => {
                        return Err(format!(
                            "`--{name}={value}` of a RUN is not known to the embedded engine"
                        ));
                    }
                }
            }
            Kind::Run { mounts, command: run_line(&run.arguments, &run.here_docs) }
        }
        Instruction::Copy(copy) => {
            Kind::Copy(copy_of(&copy.options, &copy.src, &copy.dest.value, stages, false)?)
        }
        Instruction::Add(add) => {
            Kind::Copy(copy_of(&add.options, &add.src, &add.dest.value, stages, true)?)
        }
        Instruction::Workdir(workdir) => Kind::Workdir(workdir.arguments.value.to_string()),
        Instruction::User(user) => Kind::User(user.arguments.value.to_string()),
        Instruction::Shell(shell) => {
            Kind::Shell(shell.arguments.iter().map(|word| word.value.to_string()).collect())
        }
        Instruction::Entrypoint(entrypoint) => Kind::Entrypoint(line(&entrypoint.arguments)),
        Instruction::Cmd(cmd) => Kind::Cmd(line(&cmd.arguments)),
        // imgforge writes the config of its images without them.
        Instruction::Expose(_)
        | Instruction::Healthcheck(_)
        | Instruction::Maintainer(_)
        | Instruction::Stopsignal(_) => Kind::WithoutEffect,
        Instruction::Volume(volume) => {
            let (JsonOrStringArray::Json(_) | JsonOrStringArray::String(_)) = &volume.arguments;
            Kind::WithoutEffect
        }
        Instruction::Onbuild(_) => {
            return Err("`ONBUILD` is not known to the embedded engine".to_owned());
        }
        _ => return Err("this instruction is not known to the embedded engine".to_owned()),
    })
}

fn value_of<'a>(flag: &'a Flag<'_>) -> &'a str {
    flag.value.as_ref().map_or("", |value| value.value.as_ref())
}

fn line(command: &Command<'_>) -> Line {
    match command {
        Command::Exec(words) => {
            Line::Exec(words.value.iter().map(|word| word.value.to_string()).collect())
        }
        Command::Shell(text) => Line::Shell(continued(text.value)),
        _ => Line::Shell(String::new()),
    }
}

/// Joins continued lines, as Docker does before a shell sees them.
fn continued(text: &str) -> String {
    text.replace("\\\n", "").trim().to_owned()
}

fn run_line(command: &Command<'_>, docs: &[HereDoc<'_>]) -> Line {
    let [first, ..] = docs else { return line(command) };
    let body = first.value.to_string();
    if body.starts_with("#!") { Line::Program(body) } else { Line::Shell(body) }
}

fn copy_of(
    options: &[Flag<'_>],
    sources: &[Source<'_>],
    destination: &str,
    stages: &[String],
    add: bool,
) -> Result<Copy, String> {
    let mut copy = Copy {
        from: None,
        sources: Vec::new(),
        destination: destination.to_owned(),
        owner: String::new(),
        mode: None,
        unpack: add,
    };
    for flag in options {
        match (flag.name.value.as_ref(), value_of(flag)) {
            ("from", name) if !add => copy.from = Some(origin(name, stages, true)),
            ("chown", owner) => copy.owner = owner.to_owned(),
            ("chmod", mode) => {
                let octal = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
                copy.mode =
                    Some(octal.ok_or_else(|| format!("`--chmod={mode}` is not an octal mode"))?);
            }
            ("link", _) => {}
            (name, _) => {
                return Err(format!("`--{name}` is not known to the embedded engine"));
            }
        }
    }
    for source in sources {
        match source {
            Source::Path(path) => {
                let remote = path.value.contains("://") || path.value.starts_with("git@");
                if add && remote {
                    return Err(format!(
                        "`ADD {}` is not known to the embedded engine: fetch it in a RUN",
                        path.value
                    ));
                }
                copy.sources.push(path.value.to_string());
            }
            _ => {
                return Err("a heredoc is only known in a RUN: put the file beside the \
                            Dockerfile"
                    .to_owned());
            }
        }
    }
    Ok(copy)
}

/// Splits the names of an `ARG`, with their defaults.
fn arguments(
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
    pub fn action(&self, variables: &mut Variables, built: &mut Built) -> Result<Action, String> {
        let value = |name: &str| variables.get(name);
        match &self.kind {
            Kind::Label | Kind::WithoutEffect => {}
            Kind::Arg(text) => {
                for (name, default) in arguments(text, &value)? {
                    let set = variables.given.get(&name).cloned();
                    let inherited = || variables.global.get(&name).cloned();
                    // Without any value the variable is not set.
                    if let Some(set) = set.or(default).or_else(inherited) {
                        variables.args.insert(name, set);
                    }
                }
            }
            Kind::Env(text) => {
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
            Kind::User(user) => built.config.user = expand(user, &value)?,
            Kind::Shell(words) => built.config.shell.clone_from(words),
            Kind::Entrypoint(line) => {
                built.config.entrypoint = in_shell(line, &built.config.shell);
                // As Docker does: the command of the image below belonged to its entrypoint.
                built.config.cmd.clear();
            }
            Kind::Cmd(line) => built.config.cmd = in_shell(line, &built.config.shell),
            Kind::Workdir(path) => {
                let path = absolute(&expand(path, &value)?, &built.config.working_dir);
                built.config.working_dir.clone_from(&path);
                return Ok(Action::Copy(Copy {
                    from: None,
                    sources: Vec::new(),
                    destination: path,
                    owner: String::new(),
                    mode: None,
                    unpack: false,
                }));
            }
            Kind::Copy(copy) => {
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
            Kind::Run { mounts, command } => {
                let mut read = Vec::new();
                for mount in mounts {
                    read.push(mount_of(&expand(mount, &value)?, &built.config.working_dir)?);
                }
                let program = match command {
                    Line::Program(text) => Some(text.clone()),
                    _ => None,
                };
                let words = in_shell(command, &built.config.shell);
                return Ok(Action::Run(Run { words, program, mounts: read }));
            }
        }
        Ok(Action::Config)
    }

    /// Tells whether the instruction names something.
    pub fn mentions(&self, text: &str) -> bool {
        match &self.kind {
            Kind::Run { command: Line::Shell(line) | Line::Program(line), .. } => {
                line.contains(text) || self.text.contains(text)
            }
            _ => self.text.contains(text),
        }
    }

    /// Tells whether it is a `RUN`.
    pub fn runs(&self) -> bool {
        matches!(self.kind, Kind::Run { .. })
    }
}

fn in_shell(line: &Line, shell: &[String]) -> Vec<String> {
    match line {
        Line::Exec(words) => words.clone(),
        Line::Program(_) => Vec::new(),
        Line::Shell(text) => {
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
    use super::*;

    fn none() -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    #[test]
    fn stages_that_are_not_needed_are_left_out() {
        let text = "FROM a AS one\nRUN x\nFROM b AS two\nRUN y\nFROM c\nCOPY --from=one /a /a\n\
                    COPY --from=d:1 /b /b\n";
        let stages = stages(text, &none()).unwrap();
        assert_eq!(images(&stages), ["a", "d:1", "c"]);
        assert_eq!(stages[1].steps.len(), 0);
        assert_eq!(stages[2].steps[0].line, 6);
    }

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
    fn what_is_not_known_is_named_with_its_line() {
        let error = |text: &str| stages(text, &none()).err().unwrap();
        assert_eq!(
            error("FROM a\nRUN b\nONBUILD RUN c\n"),
            "line 3: `ONBUILD` is not known to the embedded engine"
        );
        assert!(
            error("FROM a\nRUN --mount=type=ssh b\nCOPY --parents a b\n").starts_with("line 3")
        );
        assert!(error("FROM a\nRUNN b\n").contains("RUNN"), "{}", error("FROM a\nRUNN b\n"));
        assert!(error("FROM a\nADD https://x/y /z\n").contains("fetch it in a RUN"));
    }

    #[test]
    fn a_heredoc_in_a_command_is_a_script() {
        let text = "FROM a\nRUN --mount=type=tmpfs,target=/t cat > /x <<'END' && b\n# $HOME\nEND\n\
                    RUN <<EOF\nset -e\nEOF\nONBUILD RUN c\n";
        assert!(stages(text, &none()).err().unwrap().starts_with("line 8:"));
        let text = text.replace("ONBUILD RUN c\n", "");
        let stages = stages(&text, &none()).unwrap();
        let mut built = Built::default();
        let mut scripts = Vec::new();
        for step in &stages[0].steps {
            let Action::Run(run) = step.action(&mut stages[0].variables(&[]), &mut built).unwrap()
            else {
                panic!()
            };
            scripts.push(run.words[2].clone());
        }
        assert_eq!(scripts, ["cat > /x <<'END' && b\n# $HOME\nEND\n", "set -e\n"]);
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
