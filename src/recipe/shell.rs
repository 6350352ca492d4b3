//! Which lines of a shell script are commands, and which are the text of a here-document or of a
//! string that spans lines.
//!
//! Scripts of datasets carry whole patches in here-documents; a line there that looks like a marker
//! or like `cd` is content. Pure; it knows as much of the shell as that needs.

/// Tells of every line of a script whether a command may start on it.
pub(super) fn commands(lines: &[&str]) -> Vec<bool> {
    let mut commands = Vec::with_capacity(lines.len());
    let mut quote = None;
    // The word that ends the here-document at hand, and whether tabs before it do not count; the
    // documents that begin on one line follow each other.
    let mut documents: Vec<(String, bool)> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some((word, tabs)) = documents.first() {
            commands.push(false);
            let text = if *tabs { line.trim_start_matches('\t') } else { line };
            if text == word {
                documents.remove(0);
            }
            continue;
        }
        commands.push(quote.is_none());
        // What never ends is no here-document: `<<` is also a shift of bits.
        let ends = |(word, tabs): &(String, bool)| {
            lines[at + 1..]
                .iter()
                .any(|line| if *tabs { line.trim_start_matches('\t') } else { line } == word)
        };
        documents.extend(read(line, &mut quote).into_iter().filter(ends));
    }
    commands
}

/// Reads the here-documents that begin on a line; `quote` is the quotation mark that is open.
fn read(line: &str, quote: &mut Option<char>) -> Vec<(String, bool)> {
    let mut documents = Vec::new();
    let mut rest = line.chars().peekable();
    let mut last = ' ';
    while let Some(c) = rest.next() {
        match (*quote, c) {
            (Some('\''), '\'') => *quote = None,
            (Some('\''), _) => {}
            (_, '\\') => {
                rest.next();
            }
            (Some(open), _) => {
                if c == open {
                    *quote = None;
                }
            }
            (None, '\'' | '"') => *quote = Some(c),
            (None, '#') if last.is_whitespace() || last == ';' => break,
            (None, '<') if rest.peek() == Some(&'<') => {
                rest.next();
                if rest.peek() == Some(&'<') {
                    rest.next();
                } else {
                    let tabs = rest.next_if_eq(&'-').is_some();
                    documents.extend(word(&mut rest).map(|word| (word, tabs)));
                }
            }
            (None, _) => {}
        }
        last = c;
    }
    documents
}

/// Reads a word as the shell does, without its quotation marks.
fn word(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    while rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
    let mut word = String::new();
    let mut quote = None;
    while let Some(c) = rest.next_if(|c| quote.is_some() || !" \t;|&<>()".contains(*c)) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '\\') => word.extend(rest.next()),
            (_, c) => word.push(c),
        }
    }
    (!word.is_empty()).then_some(word)
}

/// Returns the directory of a line that is `cd` with one word and nothing else.
pub(super) fn entered(line: &str) -> Option<&str> {
    let directory = line.trim().strip_prefix("cd ")?.trim();
    let plain = !directory.is_empty()
        && directory != "-"
        && !directory.contains(|c: char| c.is_whitespace() || ";&|<>()`#".contains(c));
    plain.then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(script: &str) -> String {
        let lines: Vec<&str> = script.split('\n').collect();
        let kept = commands(&lines).into_iter().zip(&lines).filter(|(command, _)| *command);
        kept.map(|(_, line)| *line).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn the_text_of_a_here_document_is_no_command() {
        assert_eq!(shown("a\ncat <<'EOF'\ncd /x\nEOF \nEOF\nb"), "a|cat <<'EOF'|b");
        assert_eq!(shown("cat <<-E\n\tcd /x\n\tE\nb"), "cat <<-E|b");
        assert_eq!(shown("cat <<A - <<\"B C\"\n1\nA\n2\nB C\nb"), "cat <<A - <<\"B C\"|b");
        assert_eq!(shown("cat <<\\EOF >x\ncat <<'Y'\nEOF\nb"), "cat <<\\EOF >x|b");
    }

    #[test]
    fn what_only_looks_like_a_here_document_hides_nothing() {
        assert_eq!(shown("cat <<< EOF\nb"), "cat <<< EOF|b");
        assert_eq!(shown("x=$((1<<2))\nb"), "x=$((1<<2))|b");
        assert_eq!(shown("echo '<<EOF'\nb\nEOF"), "echo '<<EOF'|b|EOF");
        assert_eq!(shown("# it's <<EOF\nb\nEOF"), "# it's <<EOF|b|EOF");
    }

    #[test]
    fn a_string_that_spans_lines_holds_no_commands() {
        assert_eq!(shown("python -c '\ncd /x\n'\nb"), "python -c '|b");
        assert_eq!(shown("echo \"a\\\"\ncd /x\n\"; c\nb"), "echo \"a\\\"|b");
        assert_eq!(shown(": '>>>>> Start'\nb"), ": '>>>>> Start'|b");
    }

    #[test]
    fn only_a_plain_change_of_the_directory_is_one() {
        assert_eq!(entered("cd /testbed"), Some("/testbed"));
        assert_eq!(entered("  cd \"$HOME/x\" "), Some("\"$HOME/x\""));
        for other in ["cd", "cd -", "cd /x && y", "cd /x || true", "cdx /x", "cd /x; y", "cd a b"] {
            assert_eq!(entered(other), None, "{other}");
        }
    }
}
