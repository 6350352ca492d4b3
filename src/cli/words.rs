//! Words of docker, cargo, uv and others for commands, and what they are here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What stands for a word: the command above it, the word, the tip.
const WORDS: &[(&str, &[&str], &str)] = &[
    ("", &["images", "image"], "`imgforge cache ls` lists the images"),
    (
        "",
        &["ps", "containers"],
        "a container lives as long as its command: `imgforge run` and `imgforge eval` show what runs",
    ),
    (
        "",
        &["exec", "attach", "ssh"],
        "`imgforge run ID -- CMD` and `imgforge shell ID` look into an image",
    ),
    (
        "",
        &["logs", "log"],
        "the log of a test run is logs/run_evaluation/RUN/MODEL/ID/test_output.txt",
    ),
    (
        "",
        &["prune", "gc"],
        "`imgforge cache gc` bounds the cache, `imgforge clean` removes what killed runs left",
    ),
    ("", &["rm", "rmi", "remove"], "`imgforge cache rm KEY` removes an image"),
    (
        "",
        &["pull"],
        "`imgforge prewarm -d NAME` brings the images of a dataset, `imgforge cache pull` those of a registry",
    ),
    ("", &["push"], "`imgforge cache push REGISTRY` shares images"),
    ("", &["save", "export"], "`imgforge cache export FILE` writes images to a file"),
    ("", &["load", "import"], "`imgforge cache import FILE` reads images from a file"),
    (
        "",
        &["ls", "list"],
        "`imgforge dataset ls -d NAME` lists instances, `imgforge cache ls` images",
    ),
    ("", &["du", "df"], "`imgforge cache du` says what takes room"),
    ("", &["test", "evaluate", "run_evaluation"], "`imgforge eval` runs the tests of predictions"),
    ("", &["info", "version", "check"], "`imgforge doctor` checks this machine"),
    (
        "cache",
        &["clean", "clear", "purge"],
        "`imgforge cache rm KEY` removes images, `imgforge clean --embedded` all of the embedded engine",
    ),
    ("cache", &["list", "images"], "`imgforge cache ls` lists the images"),
    ("cache", &["save"], "`imgforge cache export FILE` writes images to a file"),
    ("cache", &["load"], "`imgforge cache import FILE` reads images from a file"),
];

/// What an error has on commands that are spelt alike.
const SPELT_ALIKE: [ContextKind; 2] = [ContextKind::SuggestedSubcommand, ContextKind::Suggested];

/// Says in the error of a command that does not exist what there is instead.
pub(super) fn explain(error: clap::Error, arguments: &[String]) -> clap::Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let before = arguments.iter().take_while(|argument| *argument != word);
    let above = before.filter(|argument| *argument == "cache").count();
    let above = if above > 0 { "cache" } else { "" };
    let known = WORDS.iter().find(|(of, words, _)| *of == above && words.contains(&word.as_str()));
    let Some((_, _, tip)) = known else { return error };
    // Without the command that is only spelt alike.
    let mut told = clap::Error::new(error.kind()).with_cmd(&super::help::command());
    for (kind, value) in error.context().filter(|(kind, _)| !SPELT_ALIKE.contains(kind)) {
        told.insert(kind, value.clone());
    }
    told.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*tip).into()]));
    told
}

#[cfg(test)]
mod tests {
    use super::super::help;
    use super::*;

    /// Lists the names of the commands below one.
    fn commands(above: &str) -> Vec<String> {
        let command = help::command();
        let command = match above {
            "" => command,
            name => command.find_subcommand(name).unwrap().clone(),
        };
        let names = |one: &clap::Command| {
            one.get_name_and_visible_aliases().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        command.get_subcommands().flat_map(names).collect()
    }

    #[test]
    fn a_word_of_another_tool_leads_to_the_command_that_does_it() {
        for (above, words, tip) in WORDS {
            for word in *words {
                assert!(!commands(above).contains(&(*word).to_owned()), "`{word}` is a command");
                let words = ["imgforge", above, word].into_iter().filter(|word| !word.is_empty());
                let words: Vec<String> = words.map(str::to_owned).collect();
                let error = help::command().try_get_matches_from(&words).unwrap_err();
                let text = explain(error, &words).render().to_string();
                assert!(text.contains(&format!("tip: {tip}")), "{text}");
                assert_eq!(text.matches("tip:").count(), 1, "{text}");
            }
            for named in tip.split("`imgforge ").skip(1) {
                let mut words = named.split(['`', ' ']);
                let first = words.next().unwrap();
                assert!(commands("").contains(&first.to_owned()), "{tip}");
                if first == "cache" {
                    assert!(commands("cache").contains(&words.next().unwrap().to_owned()), "{tip}");
                }
            }
        }
    }
}
