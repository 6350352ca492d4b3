//! Reading a Dockerfile: its text to stages and steps.

use std::collections::BTreeMap;

use parse_dockerfile::{
    Command, Flag, HereDoc, Instruction as ParsedInstruction, JsonOrStringArray, Source,
};

use crate::dockerfile::{self, external_images, normalise, split_flags};

use super::metadata::{self, Metadata};
use super::shell_lexer::expand;
use super::stage::{CommandForm, CopySpec, Instruction, Origin, Stage, Step, arguments, images};

/// Reads the stages that the last one needs. They stand on no image that [`external_images`] does not
/// find: it would be in no key.
pub(crate) fn stages(text: &str, args: &BTreeMap<String, String>) -> Result<Vec<Stage>, String> {
    stages_to(None, text, args)
}

/// The same of the stages that `target` needs, by its name or number.
pub(super) fn stages_to(
    target: Option<&str>,
    text: &str,
    args: &BTreeMap<String, String>,
) -> Result<Vec<Stage>, String> {
    let known = external_images(text, args);
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
    if let Some(target) = target {
        let named =
            names.iter().position(|name| !name.is_empty() && *name == target.to_ascii_lowercase());
        let numbered = || target.parse().ok().filter(|number| *number < stages.len());
        let last = named.or_else(numbered);
        let last = last.ok_or_else(|| format!("target stage `{target}` could not be found"))?;
        stages.truncate(last + 1);
    }
    let stages = needed(stages);
    match images(&stages).iter().find(|image| !known.contains(image)) {
        Some(image) => Err(format!("write the name of the image `{image}` as one plain word")),
        None => Ok(stages),
    }
}

/// Makes every heredoc the whole of its `RUN`: the parser knows no other, and a command with
/// heredocs in it is a script like any. Returns also the lines after which two lines were added.
fn alone(text: &str) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut added = Vec::new();
    for instruction in dockerfile::instructions(text) {
        let dockerfile::Instruction { text, lines, source, heredocs } = instruction;
        let runs = text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("RUN "));
        let (flags, command) = split_flags(text.get(4..).unwrap_or(""));
        if !runs || heredocs.is_empty() || command.starts_with("<<") {
            out += source;
            continue;
        }
        let bodies: String = source.split_inclusive('\n').skip(lines.len()).collect();
        let mut end = String::from("IMGFORGE");
        while bodies.contains(&end) {
            end.push('_');
        }
        out += &format!("RUN {flags}<<{end}\n{command}\n{bodies}{end}\n");
        added.push(out.matches('\n').count());
    }
    (out, added)
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
            Instruction::Copy(copy) => copy.from.as_ref(),
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

fn instruction_span(instruction: &ParsedInstruction<'_>, end: usize) -> usize {
    match instruction {
        ParsedInstruction::Add(i) => i.add.span.start,
        ParsedInstruction::Arg(i) => i.arg.span.start,
        ParsedInstruction::Cmd(i) => i.cmd.span.start,
        ParsedInstruction::Copy(i) => i.copy.span.start,
        ParsedInstruction::Entrypoint(i) => i.entrypoint.span.start,
        ParsedInstruction::Env(i) => i.env.span.start,
        ParsedInstruction::Expose(i) => i.expose.span.start,
        ParsedInstruction::From(i) => i.from.span.start,
        ParsedInstruction::Healthcheck(i) => i.healthcheck.span.start,
        ParsedInstruction::Label(i) => i.label.span.start,
        ParsedInstruction::Maintainer(i) => i.maintainer.span.start,
        ParsedInstruction::Onbuild(i) => i.onbuild.span.start,
        ParsedInstruction::Run(i) => i.run.span.start,
        ParsedInstruction::Shell(i) => i.shell.span.start,
        ParsedInstruction::Stopsignal(i) => i.stopsignal.span.start,
        ParsedInstruction::User(i) => i.user.span.start,
        ParsedInstruction::Volume(i) => i.volume.span.start,
        ParsedInstruction::Workdir(i) => i.workdir.span.start,
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

fn kind(instruction: &ParsedInstruction<'_>, stages: &[String]) -> Result<Instruction, String> {
    Ok(match instruction {
        ParsedInstruction::Arg(arg) => Instruction::Arg(arg.arguments.value.to_string()),
        ParsedInstruction::Env(env) => Instruction::Env(env.arguments.value.to_string()),
        ParsedInstruction::Label(label) => {
            Instruction::Metadata(Metadata::Label(label.arguments.value.to_string()))
        }
        ParsedInstruction::Run(run) => {
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
            Instruction::Run { mounts, command: run_line(&run.arguments, &run.here_docs) }
        }
        ParsedInstruction::Copy(copy) => {
            Instruction::Copy(copy_of(&copy.options, &copy.src, &copy.dest.value, stages, false)?)
        }
        ParsedInstruction::Add(add) => {
            Instruction::Copy(copy_of(&add.options, &add.src, &add.dest.value, stages, true)?)
        }
        ParsedInstruction::Workdir(workdir) => {
            Instruction::Workdir(workdir.arguments.value.to_string())
        }
        ParsedInstruction::User(user) => Instruction::User(user.arguments.value.to_string()),
        ParsedInstruction::Shell(shell) => {
            Instruction::Shell(shell.arguments.iter().map(|word| word.value.to_string()).collect())
        }
        ParsedInstruction::Entrypoint(entrypoint) => {
            Instruction::Entrypoint(line(&entrypoint.arguments))
        }
        ParsedInstruction::Cmd(cmd) => Instruction::Cmd(line(&cmd.arguments)),
        ParsedInstruction::Maintainer(_) => Instruction::WithoutEffect,
        ParsedInstruction::Expose(expose) => {
            let ports = expose.arguments.iter().map(|port| port.value.to_string());
            Instruction::Metadata(Metadata::Expose(ports.collect()))
        }
        ParsedInstruction::Healthcheck(check) => {
            Instruction::Metadata(Metadata::HealthCheck(metadata::health_check(check)))
        }
        ParsedInstruction::Stopsignal(signal) => {
            Instruction::Metadata(Metadata::StopSignal(signal.arguments.value.to_string()))
        }
        ParsedInstruction::Volume(volume) => {
            let paths = match &volume.arguments {
                JsonOrStringArray::Json(paths) => &paths.value,
                JsonOrStringArray::String(paths) => paths,
            };
            let paths = paths.iter().map(|path| path.value.to_string());
            Instruction::Metadata(Metadata::Volume(paths.collect()))
        }
        ParsedInstruction::Onbuild(_) => {
            return Err("`ONBUILD` is not known to the embedded engine".to_owned());
        }
        _ => return Err("this instruction is not known to the embedded engine".to_owned()),
    })
}

fn value_of<'a>(flag: &'a Flag<'_>) -> &'a str {
    flag.value.as_ref().map_or("", |value| value.value.as_ref())
}

fn line(command: &Command<'_>) -> CommandForm {
    match command {
        Command::Exec(words) => {
            CommandForm::Exec(words.value.iter().map(|word| word.value.to_string()).collect())
        }
        Command::Shell(text) => CommandForm::Shell(continued(text.value)),
        _ => CommandForm::Shell(String::new()),
    }
}

/// Joins continued lines, as Docker does before a shell sees them.
fn continued(text: &str) -> String {
    text.replace("\\\n", "").trim().to_owned()
}

fn run_line(command: &Command<'_>, docs: &[HereDoc<'_>]) -> CommandForm {
    let [first, ..] = docs else { return line(command) };
    let body = first.value.to_string();
    if body.starts_with("#!") { CommandForm::Program(body) } else { CommandForm::Shell(body) }
}

fn copy_of(
    options: &[Flag<'_>],
    sources: &[Source<'_>],
    destination: &str,
    stages: &[String],
    add: bool,
) -> Result<CopySpec, String> {
    let mut copy = CopySpec {
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

#[cfg(test)]
mod tests {
    use super::super::Built;
    use super::super::stage::Action;
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
    fn a_target_is_the_last_stage() {
        let text = "FROM a AS One\nRUN x\nFROM b\nRUN y\n";
        for target in ["one", "ONE", "0"] {
            let stages = stages_to(Some(target), text, &none()).unwrap();
            assert_eq!(images(&stages), ["a"], "{target}");
        }
        assert_eq!(images(&stages_to(Some("1"), text, &none()).unwrap()), ["b"]);
        for target in ["two", "2", ""] {
            assert!(stages_to(Some(target), text, &none()).is_err(), "{target:?}");
        }
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
    fn an_image_that_the_key_does_not_see_is_refused() {
        for text in ["FROM \"python:3\"\n", "FROM pytho'n':3\n"] {
            let error = stages(text, &none()).err().unwrap();
            assert_eq!(error, "write the name of the image `python:3` as one plain word", "{text}");
        }
        assert_eq!(images(&stages("FROM python:3\n", &none()).unwrap()), ["python:3"]);
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
}
