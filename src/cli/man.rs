//! `imgforge man`: manual pages, made from the command line as it is parsed.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command, ValueHint};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::out::{errln, out};
use crate::words::count;

use super::{CommandResult, Error, Exit, Global, help};

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write imgforge.1 and a page for each command here, such as imgforge-eval.1 [default: print
    /// imgforge.1]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// Runs `man`.
pub(super) fn run(global: &Global, args: &ManArgs) -> CommandResult {
    let mut command = without_help(help::command());
    command.build();
    let Some(dir) = &args.dir else {
        out!("{}", page(&command, "", None));
        return Ok(Exit::Success);
    };
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot make `{}`", dir.display()))
        .map_err(Error::environment)?;
    let mut pages = Vec::new();
    add_pages(&command, "", None, &mut pages);
    for (name, text) in &pages {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, text)
            .with_context(|| format!("cannot write `{}`", path.display()))
            .map_err(Error::environment)?;
    }
    if !global.quiet {
        errln!("wrote {} to {}", count(pages.len(), "page"), dir.display());
    }
    Ok(Exit::Success)
}

/// Takes the commands that print help away: `--help` is on every page.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// Adds the pages of a command and of those below it: name and text.
fn add_pages(
    command: &Command,
    path: &str,
    above: Option<&str>,
    pages: &mut Vec<(String, String)>,
) {
    pages.push((name(command).to_owned(), page(command, path, above)));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let path = format!("{path} {}", below.get_name());
        add_pages(below, path.trim(), Some(name(command)), pages);
    }
}

/// Renders the page of the command at a path; `above` is the page that leads to it.
fn page(command: &Command, path: &str, above: Option<&str>) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let has_commands = command.get_subcommands().any(|below| !below.is_hide_set());
    let man = Man::new(command.clone().override_usage(usage))
        .source(format!("imgforge {}", env!("CARGO_PKG_VERSION")))
        .manual("imgforge");
    let head = rendered(|to| {
        man.render_title(to)?;
        man.render_name_section(to)?;
        man.render_synopsis_section(to)?;
        man.render_description_section(to)
    });
    let mut text = Roff::default().render() + &head + &options(&man);
    if has_commands {
        text += &rendered(|to| man.render_subcommands_section(to));
    }
    let mut rest = Roff::default();
    let examples = help::examples(path);
    if !examples.is_empty() {
        rest.control("SH", ["EXAMPLES"]);
    }
    for (line, what) in examples {
        rest.control("TP", []);
        rest.text([bold(*line)]);
        rest.text([roman(*what)]);
    }
    match above {
        Some(above) => {
            rest.control("SH", ["SEE ALSO"]);
            rest.text([bold(above), roman("(1)")]);
        }
        None => {
            rest.control("SH", ["EXIT STATUS"]);
            for (status, what) in STATUSES {
                rest.control("TP", []);
                rest.text([bold(*status)]);
                rest.text([roman(*what)]);
            }
            rest.control("SH", ["NOTES"]);
            for paragraph in help::MORE.split("\n\n") {
                rest.control("PP", []);
                rest.text([roman(paragraph)]);
            }
        }
    }
    text + &rendered(|to| rest.to_writer(to))
}

/// What a command ends with.
const STATUSES: &[(&str, &str)] = &[
    ("0", "All is done. Predictions that are not resolved are a result, and no failure."),
    ("1", "Some images or instances failed; the rest is finished and reported."),
    ("2", "The usage or the input is wrong; nothing was started."),
    ("3", "The environment cannot do it: no engine, no disk, no network."),
    ("130", "Interrupted. The state is consistent, and the same command goes on."),
];

/// Renders the options, their headings below one of their own.
fn options(man: &Man) -> String {
    let mut text = String::from(".SH OPTIONS\n");
    for line in rendered(|to| man.render_options_section(to)).lines() {
        let _ = match line.strip_prefix(".SH ") {
            // Arguments, and what has no heading.
            Some("OPTIONS") => Ok(()),
            Some(heading) => {
                let heading = heading.trim_matches('"');
                let (first, rest) = heading.split_at(heading.len().min(1));
                writeln!(text, ".SS {first}{}", rest.to_lowercase())
            }
            None => writeln!(text, "{line}"),
        };
    }
    text
}

/// Renders a part of a page, without what every such text begins with.
fn rendered(render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes).expect("memory takes what is written");
    let text = String::from_utf8(bytes).expect("pages are text");
    text.replace(&Roff::default().render(), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Vec<(String, String)> {
        let mut command = without_help(help::command());
        command.build();
        let mut pages = Vec::new();
        add_pages(&command, "", None, &mut pages);
        pages
    }

    /// Lists the names of a command and of those below it that are seen.
    fn names(command: &Command, name: &str, found: &mut Vec<String>) {
        found.push(name.to_owned());
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            names(below, &format!("{name}-{}", below.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_a_page_with_its_sections() {
        let pages = pages();
        let mut expected = Vec::new();
        names(&help::command(), "imgforge", &mut expected);
        assert_eq!(pages.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
        assert!(expected.iter().any(|name| name == "imgforge-cache-ls"), "{expected:?}");
        for (name, text) in &pages {
            let sections: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
            assert_eq!(sections[..4], ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"], "{name}");
            assert!(text.matches(".TH ").count() == 1 && text.contains("\\-\\-color"), "{name}");
            assert!(!text.contains('\u{1b}'), "{name}: no colours");
            let is_long = |line: &str| line.starts_with(".SH") && line.len() > 20;
            assert!(!text.lines().any(is_long), "{name}");
        }
        let page = |name: &str| &pages.iter().find(|(own, _)| own == name).unwrap().1;
        let eval = page("imgforge-eval");
        for part in [
            "imgforge\\-eval \\- Run the tests of predictions",
            "\\fBimgforge eval\\fR [OPTIONS]",
            "\n.SS Limits\n",
            "IMGFORGE_PREDICTIONS",
            "\n.SH EXAMPLES\n",
            "\\fBimgforge\\fR(1)",
        ] {
            assert!(eval.contains(part), "{part} in {eval}");
        }
        let all = page("imgforge");
        for part in ["imgforge\\-eval(1)", "\n.SH \"EXIT STATUS\"\n", "imgforge config show"] {
            assert!(all.contains(part), "{part} in {all}");
        }
        // What means nothing to a command is on its page as little as in its help.
        assert!(!page("imgforge-completions").contains("\\-\\-engine"));
    }
}
