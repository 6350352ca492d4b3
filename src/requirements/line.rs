//! The lines of a requirement file, joined and split as pip does it.

/// One logical line: continuation lines are joined, comments are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The number of its first line in the file, from 1.
    pub number: usize,
    /// What it asks for.
    pub statement: Statement,
    /// The comment line just before it, without the `#`: what `pip freeze` says of the next line.
    pub comment: Option<String>,
}

/// What one line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// A requirement, with its own options (`--hash=…`) behind it.
    Requirement(String),
    /// `-e TARGET`.
    Editable(String),
    /// `-r FILE`.
    Include(String),
    /// `-c FILE`.
    Constraint(String),
    /// Options for all requirements, such as `--index-url`, in their long spelling.
    Options(Vec<(String, Option<String>)>),
    /// No line that pip takes.
    Unknown(String),
}

/// The options of a requirement file: the short spelling, the long one, and whether a value follows.
const OPTIONS: [(&str, &str, bool); 18] = [
    ("-i", "--index-url", true),
    ("", "--pypi-url", true),
    ("", "--extra-index-url", true),
    ("", "--no-index", false),
    ("-c", "--constraint", true),
    ("-r", "--requirement", true),
    ("-e", "--editable", true),
    ("-f", "--find-links", true),
    ("", "--no-binary", true),
    ("", "--only-binary", true),
    ("", "--prefer-binary", false),
    ("", "--require-hashes", false),
    ("", "--pre", false),
    ("", "--trusted-host", true),
    ("", "--use-feature", true),
    ("", "--hash", true),
    ("", "--global-option", true),
    ("-C", "--config-settings", true),
];

/// Reads the lines. `variable` gives the value of `${NAME}` where it has one, as pip takes it from
/// the environment.
pub(super) fn lines(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Vec<Line> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut found = Vec::new();
    let mut comment = None;
    for (number, raw) in joined(&text) {
        let line = without_comment(&raw).trim();
        if line.is_empty() {
            comment = raw.trim().strip_prefix('#').map(|text| text.trim().to_owned());
            continue;
        }
        let statement = statement(&expanded(line, variable));
        found.push(Line { number, statement, comment: comment.take() });
    }
    found
}

/// Joins lines that end with a backslash; a comment line ends what it continues.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.split('\n').enumerate() {
        let is_comment = line.trim_start().starts_with('#');
        if line.ends_with('\\') && !is_comment {
            let (_, start) = open.get_or_insert_with(|| (index + 1, String::new()));
            start.push_str(line.trim_matches('\\'));
            continue;
        }
        match open.take() {
            // The blank keeps the comment one.
            Some((number, start)) if is_comment => found.push((number, format!("{start} {line}"))),
            Some((number, start)) => found.push((number, start + line)),
            None => found.push((index + 1, line.to_owned())),
        }
    }
    found.extend(open);
    found
}

/// Cuts a comment: a `#` at the beginning or after white space.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

fn expanded(line: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        text.push_str(before);
        let end = from.find('}');
        let name = end.map(|end| &from[2..end]).filter(|name| {
            let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            !name.is_empty() && name.chars().all(is_part)
        });
        match name.and_then(|name| Some((name, variable(name).filter(|v| !v.is_empty())?))) {
            Some((name, value)) => {
                text.push_str(&value);
                rest = &from[name.len() + 3..];
            }
            None => {
                text.push_str("${");
                rest = &from[2..];
            }
        }
    }
    text + rest
}

fn statement(line: &str) -> Statement {
    // What stands before the first word with a dash is the requirement.
    let mut start = line.len();
    let mut at = 0;
    for word in line.split(' ') {
        if word.starts_with('-') {
            start = at;
            break;
        }
        at += word.len() + 1;
    }
    let (requirement, options) = line.split_at(start.min(line.len()));
    let requirement = requirement.trim();
    let Some(options) = read_options(options) else { return Statement::Unknown(line.to_owned()) };
    let value = |name: &str| {
        let found = options.iter().find(|(option, _)| option == name);
        found.and_then(|(_, value)| value.clone())
    };
    if !requirement.is_empty() {
        let mut text = requirement.to_owned();
        for (name, value) in &options {
            if matches!(name.as_str(), "--hash" | "--global-option" | "--config-settings") {
                text.push_str(&format!(" {name}={}", value.as_deref().unwrap_or_default()));
            }
        }
        return Statement::Requirement(text);
    }
    if let Some(target) = value("--editable") {
        Statement::Editable(target)
    } else if let Some(file) = value("--requirement") {
        Statement::Include(file)
    } else if let Some(file) = value("--constraint") {
        Statement::Constraint(file)
    } else {
        Statement::Options(options)
    }
}

/// Reads options with their values, by their long names; `None` where one is unknown or lacks its
/// value.
fn read_options(text: &str) -> Option<Vec<(String, Option<String>)>> {
    let mut words = shlex::split(text)?.into_iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let (name, attached) = if word.starts_with("--") {
            match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            }
        } else if !word.starts_with('-') {
            // pip reads over it, too.
            continue;
        } else {
            let (name, value) = word.split_at_checked(2)?;
            (name.to_owned(), (!value.is_empty()).then(|| value.to_owned()))
        };
        let (_, long, takes_value) = option(&name)?;
        let value = match (takes_value, attached) {
            (true, Some(value)) => Some(value),
            (true, None) => Some(words.next()?),
            (false, None) => None,
            (false, Some(_)) => return None,
        };
        found.push(((*long).to_owned(), value));
    }
    Some(found)
}

/// Finds an option by its short or long spelling, or by the beginning of the one long spelling.
fn option(name: &str) -> Option<&'static (&'static str, &'static str, bool)> {
    let exact = OPTIONS.iter().find(|(short, long, _)| name == *long || name == *short);
    if exact.is_some() || !name.starts_with("--") || name.len() < 3 {
        return exact.filter(|_| !name.is_empty());
    }
    let mut begin = OPTIONS.iter().filter(|(_, long, _)| long.starts_with(name));
    begin.next().filter(|_| begin.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Statement {
        let found = lines(text, &|_| None);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].statement.clone()
    }

    #[test]
    fn an_include_is_read_in_every_spelling_that_pip_takes() {
        for text in [
            "-r f.txt",
            "-rf.txt",
            "-r\tf.txt",
            "-r  f.txt  # the others",
            "--requirement f.txt",
            "--requirement=f.txt",
            "--requirem=f.txt",
            "-r \\\n  f.txt\n",
            "  -r 'f.txt'",
            "\u{feff}-r f.txt\r\n",
        ] {
            assert_eq!(one(text), Statement::Include("f.txt".into()), "{text:?}");
        }
        for text in ["-c f.txt", "-cf.txt", "--constraint=f.txt", "--cons f.txt"] {
            assert_eq!(one(text), Statement::Constraint("f.txt".into()), "{text:?}");
        }
        assert_eq!(one("-e ."), Statement::Editable(".".into()));
        assert_eq!(one("--editable=.[dev]"), Statement::Editable(".[dev]".into()));
    }

    #[test]
    fn continuation_comments_hashes_and_markers_are_read_as_pip_does() {
        let text = "# frozen\na==1 \\\n    --hash=sha256:00 \\\n    --hash sha256:11\n\
                    b==2 ; python_version < \"3\"  # why\nc @ https://x/y#egg=c\n# end";
        let found = lines(text, &|_| None);
        let statements: Vec<_> = found.iter().map(|line| (line.number, &line.statement)).collect();
        let requirement = |text: &str| Statement::Requirement(text.to_owned());
        assert_eq!(
            statements,
            [
                (2, &requirement("a==1 --hash=sha256:00 --hash=sha256:11")),
                (5, &requirement("b==2 ; python_version < \"3\"")),
                (6, &requirement("c @ https://x/y#egg=c")),
            ]
        );
        assert_eq!(found[0].comment.as_deref(), Some("frozen"));
        // A comment ends what a backslash continues.
        let found = lines("a==1 \\\n# no\nb==2\n", &|_| None);
        assert_eq!(found[0].statement, requirement("a==1"));
        assert_eq!(found[1].statement, requirement("b==2"));
    }

    #[test]
    fn options_and_variables_are_read() {
        let text = "-i https://a/simple --trusted-host=a\n--pre\n--no-such\n-r ${DIR}/x ${Dir}\n";
        let known = |name: &str| (name == "DIR").then(|| "sub".to_owned());
        let found = lines(text, &known);
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            found[0].statement,
            Statement::Options(vec![
                pair("--index-url", Some("https://a/simple")),
                pair("--trusted-host", Some("a"))
            ])
        );
        assert_eq!(found[1].statement, Statement::Options(vec![pair("--pre", None)]));
        assert_eq!(found[2].statement, Statement::Unknown("--no-such".into()));
        assert_eq!(found[3].statement, Statement::Include("sub/x".into()));
        let unset = lines("-r ${DIR}/x\n", &|_| None);
        assert_eq!(unset[0].statement, Statement::Include("${DIR}/x".into()));
    }
}
