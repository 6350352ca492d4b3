//! What is done to a Dockerfile at build time, and is in no key: every `RUN` gets what the host
//! gives and ends by giving the files that it made constant times.
//!
//! The context that is sent holds the Dockerfile's own under [`USER`] and the host's under [`HOST`],
//! so that no `COPY .` takes the host's along. A heredoc becomes a plain command: the frontend of
//! Docker 20.10 has none.

use std::fmt::Write as _;

use crate::context_file::ContextFile;
use crate::dockerfile::{self, Heredoc, normalise, split_flags};
use crate::engine::{HostAccess, step_mounts};

/// The stage that holds what build steps get from the host.
const STAGE: &str = "imgforge-host";

/// Where the files of [`STAGE`] are in the context.
const HOST: &str = "host";

/// Where a step that stands for a `COPY` finds the context.
const CONTEXT: &str = "/dev/imgforge-context";

/// Where the Dockerfile's own files are in the context.
pub(super) const USER: &str = "context";

/// A Dockerfile as it is sent to BuildKit, with the files beside it.
pub(super) struct Prepared {
    pub dockerfile: String,
    pub files: Vec<ContextFile>,
}

/// One instruction of a Dockerfile.
struct Instruction {
    /// In capitals.
    word: String,
    /// What follows the word, continued lines joined.
    arguments: String,
    /// Heredocs with their bodies.
    heredocs: Vec<(Heredoc, String)>,
    /// The lines as they were.
    source: String,
}

impl Instruction {
    fn of(read: dockerfile::Instruction<'_>) -> Instruction {
        let dockerfile::Instruction { text, source, heredocs, .. } = read;
        let text = text.trim();
        let (word, arguments) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (word, arguments) = (word.to_ascii_uppercase(), arguments.trim().to_owned());
        let held = |(heredoc, written): (Heredoc, &str)| {
            let body = body(&heredoc, written);
            (heredoc, body)
        };
        let heredocs = heredocs.into_iter().map(held).collect();
        Instruction { word, arguments, heredocs, source: source.to_owned() }
    }

    fn mentions(&self, text: &str) -> bool {
        self.source.contains(text)
    }
}

/// Returns what a heredoc holds, of its lines as they are written.
fn body(heredoc: &Heredoc, written: &str) -> String {
    let lines = written.split_inclusive('\n');
    lines.map(|line| if heredoc.dash { line.trim_start_matches('\t') } else { line }).collect()
}

fn parse(normal: &str) -> Vec<Instruction> {
    dockerfile::instructions(normal).into_iter().map(Instruction::of).collect()
}

/// Adds the host's stage and rewrites what takes files or runs. `shell` is what the image below
/// runs the shell form with; empty for `/bin/sh -c`.
pub(super) fn prepare(
    dockerfile: &str,
    context: &[ContextFile],
    host: &HostAccess,
    shell: &[String],
) -> Prepared {
    let within = |directory: &str, file: &ContextFile| ContextFile {
        path: format!("{directory}/{}", file.path),
        ..file.clone()
    };
    let mut files: Vec<ContextFile> =
        step_mounts::files(host).iter().map(|file| within(HOST, file)).collect();
    files.push(ContextFile {
        path: format!("{HOST}/copy"),
        executable: false,
        bytes: include_bytes!("copy.sh").to_vec(),
    });
    files.extend(context.iter().map(|file| within(USER, file)));
    let default_shell = match shell {
        [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        shell => shell.to_vec(),
    };
    let instructions = parse(&normalise(dockerfile));
    let mut out = String::with_capacity(dockerfile.len() + 1024);
    let mut shell = default_shell.clone();
    let mut staged = false;
    let mut has_shell = false;
    for (index, instruction) in instructions.iter().enumerate() {
        let later = &instructions[index + 1..];
        match instruction.word.as_str() {
            "FROM" => {
                shell.clone_from(&default_shell);
                if !staged {
                    staged = true;
                    let _ = writeln!(out, "FROM scratch AS {STAGE}\nADD {HOST}/ /");
                }
                let stage = later.iter().take_while(|next| next.word != "FROM");
                has_shell = !instruction.arguments.starts_with("scratch")
                    && stage.into_iter().any(|next| next.word == "RUN");
                out.push_str(&instruction.source);
            }
            "SHELL" => {
                if let Ok(words) = serde_json::from_str(&instruction.arguments) {
                    shell = words;
                }
                out.push_str(&instruction.source);
            }
            "RUN" => {
                let (flags, command) = flags(&instruction.arguments);
                let command = match script_of(command, instruction) {
                    Some(Script::Text(text)) => words(&text, &shell),
                    Some(Script::Program(text)) => {
                        let name = format!("run-{index}");
                        let path = format!("{HOST}/{name}");
                        let bytes = text.into_bytes();
                        files.push(ContextFile { path, executable: true, bytes });
                        vec![format!("{}/{name}", step_mounts::MOUNT)]
                    }
                    None => words(command, &shell),
                };
                let _ = writeln!(out, "{}", step(&keep(later), &flags, &command));
            }
            "COPY" | "ADD" => {
                let words = plain_words(&instruction.arguments);
                match words.filter(|_| has_shell && instruction.word == "COPY") {
                    Some(words) => {
                        let mut command =
                            vec!["/bin/sh".to_owned(), format!("{}/copy", step_mounts::MOUNT)];
                        command.extend(words.into_iter().map(str::to_owned));
                        let context =
                            format!("--mount=type=bind,source={USER},target={} ", CONTEXT);
                        let _ = writeln!(out, "{}", step("tmp,lists", &context, &command));
                    }
                    None => out.push_str(&copy(instruction)),
                }
            }
            _ => out.push_str(&instruction.source),
        }
    }
    Prepared { dockerfile: out, files }
}

/// Splits the flags of an instruction from the rest; mounts of the context get its place.
fn flags(arguments: &str) -> (String, &str) {
    let mut flags = String::new();
    let (all, rest) = split_flags(arguments);
    for flag in all.split_whitespace() {
        match flag.strip_prefix("--mount=") {
            Some(mount) => {
                let _ = write!(flags, "--mount={} ", mount_of_context(mount));
            }
            None => {
                let _ = write!(flags, "{flag} ");
            }
        }
    }
    (flags, rest)
}

fn mount_of_context(mount: &str) -> String {
    let options: Vec<&str> = mount.split(',').collect();
    let value = |names: &[&str]| {
        options.iter().find_map(|option| {
            let (name, value) = option.split_once('=')?;
            names.contains(&name).then_some(value)
        })
    };
    if value(&["from"]).is_some() || value(&["type"]).is_some_and(|kind| kind != "bind") {
        return mount.to_owned();
    }
    let source = value(&["source", "src"]).unwrap_or("").trim_start_matches('/');
    let kept = options
        .iter()
        .filter(|option| !option.starts_with("source=") && !option.starts_with("src="));
    let kept: Vec<&str> = kept.copied().collect();
    format!("{},source={USER}/{source}", kept.join(","))
}

/// What a heredoc holds.
enum Script {
    /// Commands for the shell.
    Text(String),
    /// A program that names its interpreter.
    Program(String),
}

/// Returns what a `RUN` with heredocs runs.
fn script_of(command: &str, instruction: &Instruction) -> Option<Script> {
    let [(first, body), ..] = instruction.heredocs.as_slice() else { return None };
    let alone = command
        .strip_prefix("<<")
        .is_some_and(|rest| rest.trim_start_matches('-').trim_matches(['"', '\'']) == first.word);
    if alone {
        let program = body.starts_with("#!");
        return Some(if program {
            Script::Program(body.clone())
        } else {
            Script::Text(body.clone())
        });
    }
    let mut text = format!("{command}\n");
    for (heredoc, body) in &instruction.heredocs {
        text.push_str(body);
        text.push_str(&heredoc.word);
        text.push('\n');
    }
    Some(Script::Text(text))
}

/// Returns the words of a command in shell or exec form.
fn words(command: &str, shell: &[String]) -> Vec<String> {
    serde_json::from_str(command).unwrap_or_else(|_| {
        let mut words = shell.to_vec();
        words.push(command.to_owned());
        words
    })
}

/// Says what the files of a step are needed for in the steps after it.
fn keep(later: &[Instruction]) -> String {
    let mut keep = Vec::new();
    if later.iter().any(|next| next.mentions("/tmp")) {
        keep.push("tmp");
    }
    let installs = |next: &&Instruction| next.word == "RUN" && next.mentions("apt");
    if later.iter().filter(installs).any(|next| !next.mentions("update")) {
        keep.push("lists");
    }
    if keep.is_empty() { "nothing".to_owned() } else { keep.join(",") }
}

/// Renders a step that runs `command` in what the host gives.
fn step(keep: &str, flags: &str, command: &[String]) -> String {
    let (mount, cache) = (step_mounts::MOUNT, step_mounts::CACHE);
    let mut words = vec!["/bin/sh".to_owned(), format!("{mount}/step"), keep.to_owned()];
    words.extend_from_slice(command);
    let list = serde_json::to_string(&words).expect("a list of strings is valid JSON");
    format!(
        "RUN --mount=type=bind,from={STAGE},target={mount} \
         --mount=type=cache,id=imgforge-packages,target={cache},mode=1777,sharing=shared {flags}{list}"
    )
}

/// Returns the words of a `COPY` that has neither flags, a list, variables nor quotes.
fn plain_words(arguments: &str) -> Option<Vec<&str>> {
    let plain = |word: &&str| {
        !word.starts_with("--")
            && !word.contains(['[', '"', '\'', '$', '\\', '<', '`', ';', '&', '|'])
    };
    let words: Vec<&str> = arguments.split_whitespace().collect();
    (words.len() > 1 && words.iter().all(plain)).then_some(words)
}

/// Renders a `COPY` or `ADD` whose sources are in the context's new place.
fn copy(instruction: &Instruction) -> String {
    let (flags, rest) = flags(&instruction.arguments);
    let word = &instruction.word;
    if flags.contains("--from=") || !instruction.heredocs.is_empty() {
        return instruction.source.clone();
    }
    let moved = |source: &str| {
        if source.contains("://") || source.starts_with("git@") {
            source.to_owned()
        } else {
            format!("{USER}/{}", source.trim_start_matches('/'))
        }
    };
    if let Ok(mut list) = serde_json::from_str::<Vec<String>>(rest) {
        let sources = list.len().saturating_sub(1);
        list[..sources].iter_mut().for_each(|source| *source = moved(source));
        let list = serde_json::to_string(&list).expect("a list of strings is valid JSON");
        return format!("{word} {flags}{list}\n");
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let Some((destination, sources)) = words.split_last() else {
        return instruction.source.clone();
    };
    let sources: Vec<String> = sources.iter().map(|source| moved(source)).collect();
    format!("{word} {flags}{} {destination}\n", sources.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "--mount=type=bind,from=imgforge-host,target=/dev/imgforge --mount=type=cache,id=imgforge-packages,target=/dev/imgforge-cache,mode=1777,sharing=shared ";

    fn prepared(text: &str) -> String {
        prepare(text, &[], &HostAccess::default(), &[]).dockerfile
    }

    /// The last line without the mounts and the script of a step.
    fn last(text: &str) -> String {
        let text = prepared(text);
        let line = text.lines().last().unwrap().replace(MOUNTS, "");
        line.replace(r#""/bin/sh","/dev/imgforge/step","#, "")
    }

    #[test]
    fn every_run_gets_the_mounts_and_its_own_shell() {
        let text = "ARG X=1\nFROM a AS one\nRUN make \\\n  && true\nSHELL [\"/bin/bash\", \"-c\"]\n\
                    RUN b\nFROM c\nRUN --network=none [\"d\", \"e f\"]\n";
        let step = format!("RUN {MOUNTS}");
        let words = r#"["/bin/sh","/dev/imgforge/step","nothing","#;
        let expected = format!(
            "ARG X=1\nFROM scratch AS imgforge-host\nADD host/ /\nFROM a AS one\n\
             {step}{words}\"/bin/sh\",\"-c\",\"make   && true\"]\n\
             SHELL [\"/bin/bash\", \"-c\"]\n{step}{words}\"/bin/bash\",\"-c\",\"b\"]\n\
             FROM c\n{step}--network=none {words}\"d\",\"e f\"]\n"
        );
        assert_eq!(prepared(text), expected);
    }

    #[test]
    fn the_shell_of_the_image_below_is_used() {
        let shell = ["/bin/bash".to_owned(), "-c".to_owned()];
        let text = prepare("FROM a\nRUN b\n", &[], &HostAccess::default(), &shell).dockerfile;
        assert!(text.trim_end().ends_with(r#""nothing","/bin/bash","-c","b"]"#), "{text}");
    }

    #[test]
    fn what_a_later_step_needs_is_kept() {
        let keep_of = |text: &str| {
            let line =
                prepared(text).lines().find(|line| line.starts_with("RUN")).unwrap().to_owned();
            line.split('"').nth(5).unwrap().to_owned()
        };
        assert_eq!(keep_of("FROM a\nRUN x\nRUN cat /tmp/y\n"), "tmp");
        assert_eq!(keep_of("FROM a\nRUN apt-get update\nRUN apt-get install b\n"), "lists");
        assert_eq!(keep_of("FROM a\nRUN x\nRUN apt-get update && apt-get install b\n"), "nothing");
    }

    #[test]
    fn a_heredoc_becomes_a_command() {
        let shell = r#"RUN ["nothing","/bin/sh","-c""#;
        assert_eq!(last("FROM a\nRUN <<EOF\n# a\nb\nEOF\n"), format!("{shell},\"# a\\nb\\n\"]"));
        assert_eq!(
            last("FROM a\nRUN cat > /x <<-'END'\n\ta\nEND\n"),
            format!("{shell},\"cat > /x <<-'END'\\na\\nEND\\n\"]")
        );
        let text = "FROM a\nRUN <<EOF\n#!/usr/bin/env python3\nprint()\nEOF\n";
        assert_eq!(last(text), r#"RUN ["nothing","/dev/imgforge/run-1"]"#);
        let prepared = prepare(text, &[], &HostAccess::default(), &[]);
        let script = prepared.files.iter().find(|file| file.path == "host/run-1").unwrap();
        assert!(script.executable);
    }

    #[test]
    fn a_shift_is_not_a_heredoc() {
        assert_eq!(
            last("FROM a\nRUN echo $((1<<4))\nRUN b\n"),
            r#"RUN ["nothing","/bin/sh","-c","b"]"#
        );
    }

    #[test]
    fn a_plain_copy_where_there_is_a_shell_is_a_step() {
        let text = prepared("FROM a\nCOPY a dir/ /opt/x/\nRUN b\n");
        assert!(text.contains(
            r#"--mount=type=bind,source=context,target=/dev/imgforge-context ["/bin/sh","/dev/imgforge/step","tmp,lists","/bin/sh","/dev/imgforge/copy","a","dir/","/opt/x/"]"#
        ), "{text}");
        assert_eq!(last("FROM scratch\nCOPY a /\n"), "COPY context/a /");
        assert_eq!(last("FROM distroless\nCOPY a /\n"), "COPY context/a /");
    }

    #[test]
    fn other_copies_take_their_files_from_the_contexts_place() {
        let last = |line: &str| last(&format!("FROM a\nRUN b\n{line}\n"));
        assert_eq!(last("COPY --chown=1 /a b/ c"), "COPY --chown=1 context/a context/b/ c");
        assert_eq!(last(r#"ADD ["a b", "c"]"#), r#"ADD ["context/a b","c"]"#);
        assert_eq!(last("ADD https://x.example/y /z"), "ADD https://x.example/y /z");
        assert_eq!(last("COPY --from=one /a /b"), "COPY --from=one /a /b");
        assert_eq!(
            last("RUN --mount=type=bind,source=r.txt,target=/r c").split('[').next().unwrap(),
            "RUN --mount=type=bind,target=/r,source=context/r.txt "
        );
        assert_eq!(
            last("RUN --mount=type=secret,id=x c").split('[').next().unwrap(),
            "RUN --mount=type=secret,id=x "
        );
    }

    #[test]
    fn the_hosts_files_and_the_contexts_are_apart() {
        let file = ContextFile { path: "a".into(), executable: false, bytes: Vec::new() };
        let prepared = prepare("FROM a\n", &[file], &HostAccess::default(), &[]);
        let paths: Vec<&str> = prepared.files.iter().map(|file| file.path.as_str()).collect();
        assert!(paths.contains(&"context/a"), "{paths:?}");
        assert!(paths.iter().all(|path| path.starts_with("host/") || path.starts_with("context/")));
    }
}
