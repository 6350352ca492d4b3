//! Requirements that can be had: what names the project itself is left out, what only the machine
//! had where the list was frozen is replaced or refused.

use std::sync::LazyLock;

use regex::Regex;

use super::line::{Line, Statement, lines};
use super::normal_name;

/// Where a list of requirements is from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The project, `owner/name`.
    pub repo: &'a str,
    /// Whether the list is a file of the repository: it may include others of its files. One of a
    /// dataset's row stands alone.
    pub in_repository: bool,
    /// Whether pins of the project itself are left out, because the checkout's installation
    /// installs it.
    pub drops_own_pins: bool,
    /// The value of `${NAME}`, where it has one.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The version of a package, by its normal name, where something else than the list says it.
    pub version_of: &'a dyn Fn(&str) -> Option<String>,
}

/// Requirements that pip and uv can install.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// One requirement or option a line.
    pub text: String,
    /// The files that it includes, as they are spelled.
    pub included: Vec<String>,
    /// What was replaced or left out, for people.
    pub notes: Vec<String>,
}

/// A line that cannot be installed anywhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The line, from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
    /// Why it cannot be had.
    pub why: &'static str,
    /// What to write instead.
    pub instead: String,
}

/// What becomes of a line.
enum Fate {
    Keep(String),
    Include(String, String),
    /// Left out: the checkout's installation installs it.
    Own,
    /// Left out or replaced, and people are told.
    Changed(Option<String>, String),
    Refuse(&'static str, String),
}

/// Cleans a list of requirements.
///
/// # Errors
/// Every line that cannot be had.
pub(crate) fn clean(text: &str, source: &Source<'_>) -> Result<Cleaned, Vec<Refused>> {
    let mut cleaned = Cleaned::default();
    let mut refused = Vec::new();
    for line in lines(text, source.variable) {
        let said = spelled(&line.statement);
        match source.fate(&line) {
            Fate::Keep(text) => cleaned.push(&text),
            Fate::Include(text, file) => {
                cleaned.push(&text);
                cleaned.included.push(file);
            }
            Fate::Own => {}
            Fate::Changed(text, note) => {
                if let Some(text) = text {
                    cleaned.push(&text);
                }
                cleaned.notes.push(format!("line {}: `{said}` {note}", line.number));
            }
            Fate::Refuse(why, instead) => {
                refused.push(Refused { line: line.number, text: said, why, instead });
            }
        }
    }
    if refused.is_empty() { Ok(cleaned) } else { Err(refused) }
}

impl Cleaned {
    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

impl Source<'_> {
    fn fate(&self, line: &Line) -> Fate {
        match &line.statement {
            Statement::Requirement(text) => self.requirement(text),
            Statement::Editable(target) => self.editable(target, line.comment.as_deref()),
            Statement::Include(file) => self.include("-r", file),
            Statement::Constraint(file) => self.include("-c", file),
            Statement::Options(options) => self.options(options),
            Statement::Unknown(text) if self.in_repository => Fate::Keep(text.clone()),
            Statement::Unknown(_) => Fate::Refuse(
                "is no option of a requirement file",
                "remove it, or write what it is for under `install_config`".to_owned(),
            ),
        }
    }

    fn include(&self, flag: &str, file: &str) -> Fate {
        let text = format!("{flag} {file}");
        if file.contains("://") {
            Fate::Keep(text)
        } else if file.contains("${") {
            let why = "names a variable that the environment does not have";
            Fate::Refuse(why, "write the file's path".to_owned())
        } else if self.in_repository && !file.starts_with('/') {
            Fate::Include(text, file.to_owned())
        } else {
            let instead = "write the lines of that file in its place".to_owned();
            Fate::Refuse("names a file that is not here", instead)
        }
    }

    fn options(&self, options: &[(String, Option<String>)]) -> Fate {
        let mut text = Vec::new();
        for (name, value) in options {
            match value {
                Some(place) if name == "--find-links" && is_path(place) => {
                    let instead = "write the URL of an index with `--index-url`".to_owned();
                    return Fate::Refuse("names a folder that is not here", instead);
                }
                Some(value) => text.push(format!("{name} {value}")),
                None => text.push(name.clone()),
            }
        }
        Fate::Keep(text.join("\n"))
    }

    fn requirement(&self, text: &str) -> Fate {
        let (specifier, options) = match text.find(" --") {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let Some((name, extras, rest)) = named(specifier) else {
            return self.unnamed(specifier);
        };
        if let Some(url) = rest.strip_prefix('@') {
            let (url, marker) = url.split_once(" ;").unwrap_or((url, ""));
            let marker = if marker.is_empty() { String::new() } else { format!(" ;{marker}") };
            return self.direct(name, extras, url.trim(), &marker, text);
        }
        if self.drops_own_pins && normal_name(name) == self.own_name() {
            return Fate::Own;
        }
        if let Some(version) = rest.strip_prefix("==").map(|rest| rest.trim_start_matches('=')) {
            let version = version.split(';').next().unwrap_or(version).trim();
            if normal_name(name) == "pkg-resources" && version == "0.0.0" {
                let note = "is left out: it is a part of Debian's pip, not a package";
                return Fate::Changed(None, note.to_owned());
            }
            if COMMIT.is_match(version) && !self.in_repository {
                if self.drops_own_pins && self.may_be_own(name) {
                    return Fate::Changed(None, "is left out: it is the checkout's own".to_owned());
                }
                let instead = format!("write `{name} @ git+URL@COMMIT`");
                return Fate::Refuse("is the version of a commit, which no index has", instead);
            }
        } else if let Some(version) = rest.strip_prefix('=') {
            let version = version.split('=').next().unwrap_or(version).trim();
            let instead = format!("write `{name}=={version}`");
            return Fate::Refuse("is conda's spelling, which pip does not read", instead);
        } else if !rest.is_empty() && !rest.starts_with(['<', '>', '!', '~', ';', '(']) {
            return Fate::Refuse("is not a requirement", format!("write `{name}==VERSION`"));
        }
        Fate::Keep(format!("{}{options}", specifier.trim()))
    }

    /// A requirement without a name: a path or an address.
    fn unnamed(&self, text: &str) -> Fate {
        let (address, marker) = text.split_once(" ;").unwrap_or((text, ""));
        let marker = if marker.is_empty() { String::new() } else { format!(" ;{marker}") };
        let address = address.trim();
        if self.is_own_path(address) {
            return Fate::Own;
        }
        if let Some(fate) = self.version_control(address, &marker) {
            return fate;
        }
        if address.starts_with("http://") || address.starts_with("https://") {
            return if self.is_own_address(address, None) {
                Fate::Own
            } else {
                Fate::Keep(text.to_owned())
            };
        }
        if !is_path(address) {
            return Fate::Refuse("is not a requirement", "write `NAME==VERSION`".to_owned());
        }
        match file_version(address) {
            Some((name, version)) => self.pinned(&name, "", Some(version), &marker),
            None => self.no_path(None),
        }
    }

    /// `NAME @ URL`; `text` is the whole line.
    fn direct(&self, name: &str, extras: &str, url: &str, marker: &str, text: &str) -> Fate {
        if self.is_own_address(url, Some(name)) {
            return Fate::Own;
        }
        if is_path(url) {
            let version = (self.version_of)(&normal_name(name))
                .or_else(|| file_version(url).map(|(_, version)| version));
            return self.pinned(name, extras, version, marker);
        }
        match is_foreign_control(url) {
            true => self.no_control(Some(name)),
            false => Fate::Keep(text.to_owned()),
        }
    }

    fn editable(&self, target: &str, comment: Option<&str>) -> Fate {
        if let Some((name, extras, rest)) = named(target)
            && let Some(url) = rest.strip_prefix('@')
        {
            let text = format!("{name}{extras} @ {}", url.trim());
            return self.direct(name, extras, url.trim(), "", &text);
        }
        if self.is_own_path(target) {
            return Fate::Own;
        }
        if let Some(fate) = self.version_control(target, "") {
            return fate;
        }
        // pip says of what it cannot place: "# Editable Git install with no remote (NAME==VERSION)".
        let said = comment.and_then(|comment| {
            let inside = comment.strip_suffix(')')?.rsplit_once('(')?.1;
            let (name, version) = inside.split_once("==")?;
            Some((name.trim(), version.trim().to_owned()))
        });
        match said {
            Some((name, _)) if self.may_be_own(name) => Fate::Own,
            Some((name, version)) if !COMMIT.is_match(&version) => {
                self.pinned(name, "", Some(version), "")
            }
            said => self.no_path(said.map(|(name, _)| name)),
        }
    }

    /// What an address of a version control becomes: `NAME @ git+URL`, as uv takes it; `None` for
    /// another address.
    fn version_control(&self, address: &str, marker: &str) -> Option<Fate> {
        let (url, fragment) = address.split_once('#').unwrap_or((address, ""));
        let part = |name: &str| {
            fragment.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        let egg = part("egg").and_then(|egg| named(egg.split("==").next().unwrap_or(egg)));
        if is_foreign_control(url) {
            return Some(match egg {
                Some((name, ..)) if normal_name(name) == self.own_name() => Fate::Own,
                egg => self.no_control(egg.map(|(name, ..)| name)),
            });
        }
        let place = url.strip_prefix("git+")?;
        let name = egg.map(|(name, ..)| name);
        if self.is_own_address(url, name) {
            let part_of = name.is_some_and(|name| normal_name(name) != self.own_name());
            return Some(match part_of && part("subdirectory").is_some() {
                true => Fate::Changed(None, "is left out: it is a part of the checkout".to_owned()),
                false => Fate::Own,
            });
        }
        if place.starts_with("file:") || place.starts_with('/') {
            return Some(self.no_path(name));
        }
        // `git+git@host:owner/name` is the shell's spelling of an ssh address.
        let url = match (place.contains("://"), place.split_once(':')) {
            (false, Some((host, path))) => format!("git+ssh://{host}/{path}"),
            _ => url.to_owned(),
        };
        let below =
            part("subdirectory").map_or(String::new(), |dir| format!("#subdirectory={dir}"));
        Some(Fate::Keep(match egg {
            Some((name, extras, _)) => format!("{name}{extras} @ {url}{below}{marker}"),
            None => format!("{url}{below}{marker}"),
        }))
    }

    /// What only the machine had where the list was frozen is taken from the index.
    fn pinned(&self, name: &str, extras: &str, version: Option<String>, marker: &str) -> Fate {
        if normal_name(name) == self.own_name() {
            return Fate::Own;
        }
        let text = match version {
            Some(version) => format!("{name}{extras}=={version}"),
            None => format!("{name}{extras}"),
        };
        let note = format!("is a file of another machine: taken for `{text}`");
        Fate::Changed(Some(format!("{text}{marker}")), note)
    }

    fn no_path(&self, name: Option<&str>) -> Fate {
        let name = name.unwrap_or("NAME");
        let instead = format!(
            "write `{name}==VERSION`, or install it with the checkout (`install_config.install`)"
        );
        Fate::Refuse("is a path that is not here", instead)
    }

    fn no_control(&self, name: Option<&str>) -> Fate {
        let instead = format!("write `{}==VERSION`", name.unwrap_or("NAME"));
        Fate::Refuse("is not in git, and only git can be asked", instead)
    }

    fn own_name(&self) -> String {
        normal_name(self.repo.rsplit('/').next().unwrap_or(self.repo))
    }

    /// Tells whether a name may be that of the project, whose repository is called `python-NAME` or
    /// the like.
    fn may_be_own(&self, name: &str) -> bool {
        let own = self.own_name();
        let name = normal_name(name);
        name == own
            || own.strip_prefix("python-").or_else(|| own.strip_prefix("py-")) == Some(&*name)
            || own.strip_suffix("-python").or_else(|| own.strip_suffix("-py")) == Some(&*name)
    }

    /// Tells whether a path is that of the project itself.
    fn is_own_path(&self, path: &str) -> bool {
        let path = path.split_once('[').map_or(path, |(path, _)| path).trim_end();
        if matches!(path, "." | "./" | "..") {
            return true;
        }
        let path = path.strip_prefix("file://").unwrap_or(path);
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
        path.starts_with('/') && (last == "testbed" || normal_name(last) == self.own_name())
    }

    /// Tells whether an address is that of the project: its repository, or one of a fork.
    fn is_own_address(&self, url: &str, name: Option<&str>) -> bool {
        if !url.contains("://") && !url.starts_with("git+") {
            return self.is_own_path(url) && !url.is_empty();
        }
        let (url, _) = url.split_once('#').unwrap_or((url, ""));
        let after_host = url.split_once("://").map_or(url, |(_, rest)| rest);
        let after_host = match after_host.split_once(['/', ':']) {
            Some((_, path)) => path,
            None => after_host,
        };
        let mut parts = after_host.split('/').filter(|part| !part.is_empty());
        let bare = |part: &str| {
            let part = part.split('@').next().unwrap_or(part);
            part.strip_suffix(".git").unwrap_or(part).to_ascii_lowercase()
        };
        let (owner, repository) = match (parts.next(), parts.next()) {
            (Some(owner), Some(repository)) => (bare(owner), bare(repository)),
            _ => return false,
        };
        if format!("{owner}/{repository}") == self.repo.to_ascii_lowercase() {
            return true;
        }
        match name {
            Some(name) => url.starts_with("git+") && normal_name(name) == self.own_name(),
            None => url.starts_with("git+") && normal_name(&repository) == self.own_name(),
        }
    }
}

/// The version that setuptools_scm and its kind give to a commit.
static COMMIT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\+(.*\.)?(g[0-9a-f]{7,40}|d[0-9]{8})\b|\+[0-9]+\.g[0-9a-f]{7,40}")
        .expect("the pattern is valid")
});

/// Splits a requirement into its name, its extras and the rest.
fn named(text: &str) -> Option<(&str, &str, &str)> {
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*(.*)$")
            .expect("the pattern is valid")
    });
    let found = NAME.captures(text.trim())?;
    let (name, rest) = (found.get(1)?, found.get(3)?.as_str());
    let extras = found.get(2).map_or("", |extras| extras.as_str());
    // What goes on like an address or a path is none.
    let is_address = rest.starts_with([':', '/', '+', '\\']) || ends_like_a_file(text.trim());
    (!is_address).then(|| (name.as_str(), extras, rest))
}

fn ends_like_a_file(text: &str) -> bool {
    [".whl", ".tar.gz", ".zip", ".tar.bz2"].iter().any(|end| text.ends_with(end))
        && !text.contains(" @ ")
}

fn is_foreign_control(url: &str) -> bool {
    ["hg+", "svn+", "bzr+"].iter().any(|scheme| url.starts_with(scheme))
}

/// Tells whether an address is a path of a machine.
fn is_path(address: &str) -> bool {
    address.starts_with("file:")
        || !address.contains("://")
            && (address.starts_with(['.', '/', '~', '\\'])
                || address.contains('/')
                || ends_like_a_file(address)
                || address.as_bytes().get(1) == Some(&b':'))
}

/// Reads name and version from the name of a wheel or of an archive of sources.
fn file_version(path: &str) -> Option<(String, String)> {
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    let file = path.rsplit(['/', '\\']).next()?;
    let (name, version) = match file.strip_suffix(".whl") {
        Some(wheel) => {
            let mut parts = wheel.split('-');
            (parts.next()?, parts.next()?)
        }
        None => {
            let ends = [".tar.gz", ".zip", ".tar.bz2"];
            ends.iter().find_map(|end| file.strip_suffix(end))?.rsplit_once('-')?
        }
    };
    let is_version = version.starts_with(|c: char| c.is_ascii_digit());
    is_version.then(|| (name.to_owned(), version.replace("%2B", "+")))
}

/// Spells a line as people would know it again.
fn spelled(statement: &Statement) -> String {
    match statement {
        Statement::Requirement(text) | Statement::Unknown(text) => text.clone(),
        Statement::Editable(target) => format!("-e {target}"),
        Statement::Include(file) => format!("-r {file}"),
        Statement::Constraint(file) => format!("-c {file}"),
        Statement::Options(options) => {
            let spell = |(name, value): &(String, Option<String>)| match value {
                Some(value) => format!("{name} {value}"),
                None => name.clone(),
            };
            options.iter().map(spell).collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &dyn Fn(&str) -> Option<String> = &|_| None;

    fn row(repo: &str) -> Source<'_> {
        Source {
            repo,
            in_repository: false,
            drops_own_pins: true,
            variable: NOTHING,
            version_of: NOTHING,
        }
    }

    fn cleaned(text: &str) -> Cleaned {
        clean(text, &row("acme/Rocket_Kit")).unwrap()
    }

    #[test]
    fn what_conda_built_on_its_machine_is_taken_from_the_index() {
        let known: &dyn Fn(&str) -> Option<String> =
            &|name| (name == "brotlipy").then(|| "0.7.0".to_owned());
        let source = Source { version_of: known, ..row("acme/rocket") };
        let text = "certifi @ file:///croot/certifi_1690000000000/build/certifi\r\n\
                    brotlipy @ file:///home/conda/feedstock_root/build_artifacts/brotlipy_1/work\r\n\
                    wheel @ file:///tmp/dist/wheel-0.37.1-py2.py3-none-any.whl ; os_name == 'posix'\r\n\
                    six==1.16.0\r\n";
        let found = clean(text, &source).unwrap();
        assert_eq!(
            found.text,
            "certifi\nbrotlipy==0.7.0\nwheel==0.37.1 ; os_name == 'posix'\nsix==1.16.0\n"
        );
        assert_eq!(found.notes.len(), 3);
        assert!(found.notes[0].starts_with("line 1: `certifi @ file:///croot/"), "{found:?}");
        assert!(found.notes[0].ends_with("taken for `certifi`"), "{found:?}");
    }

    #[test]
    fn the_project_itself_is_left_to_the_checkout() {
        for own in [
            "-e .",
            "-e .[dev]",
            "--editable=.",
            ".",
            ".[dev]",
            "-e /testbed",
            "-e /home/me/src/rocket-kit",
            "-e git+https://github.com/acme/Rocket_Kit@0123456789abcdef#egg=rocket_kit",
            "-e git+https://github.com/Acme/rocket_kit.git@0123456789abcdef#egg=Rocket.Kit",
            "-e git+ssh://git@github.com/fork/rocket-kit.git@main#egg=rocket-kit",
            "-e git+git@github.com:acme/rocket_kit.git#egg=rocket_kit",
            "rocket-kit @ git+https://github.com/acme/rocket_kit@0123",
            "rocket_kit @ file:///home/somewhere",
            "rocket-kit==1.2.3",
            "Rocket.Kit==1.3.dev4+g0123456",
            "# Editable Git install with no remote (rocket-kit==1.0)\n-e /home/me/x",
            "https://github.com/acme/rocket_kit/archive/main.zip",
        ] {
            let text = format!("{own}\nsix==1.16.0\n");
            assert_eq!(cleaned(&text).text, "six==1.16.0\n", "{own}");
        }
        // A checkout that nothing installs needs the pin.
        let source = Source { drops_own_pins: false, ..row("acme/rocket") };
        assert_eq!(clean("rocket==1.2.3", &source).unwrap().text, "rocket==1.2.3\n");
    }

    #[test]
    fn other_projects_in_git_are_spelled_as_uv_takes_them() {
        for (line, expected) in [
            ("-e git+https://x.org/o/n@abc#egg=other", "other @ git+https://x.org/o/n@abc"),
            ("git+https://x.org/o/n@abc#egg=o[e]", "o[e] @ git+https://x.org/o/n@abc"),
            (
                "-e git+https://x.org/o/n@abc#egg=o&subdirectory=a/b",
                "o @ git+https://x.org/o/n@abc#subdirectory=a/b",
            ),
            ("-e git+git@x.org:o/n.git#egg=o", "o @ git+ssh://git@x.org/o/n.git"),
            ("-e git+https://x.org/o/n", "git+https://x.org/o/n"),
            ("o @ git+https://x.org/o/n@abc", "o @ git+https://x.org/o/n@abc"),
            ("o @ https://x.org/o.whl ; os_name=='a'", "o @ https://x.org/o.whl ; os_name=='a'"),
            ("https://x.org/o-1.0.whl", "https://x.org/o-1.0.whl"),
        ] {
            let found = cleaned(line);
            assert_eq!((found.text.trim_end(), found.notes.len()), (expected, 0), "{line}");
        }
    }

    #[test]
    fn options_hashes_and_markers_stay() {
        let text = "--index-url https://i/simple --pre\n-f https://x/wheels\n\
                    a==1 \\\n  --hash=sha256:00\nb[x,y] >= 2, <3 ; python_version < '3.9'\nc (>=1)\n";
        assert_eq!(
            cleaned(text).text,
            "--index-url https://i/simple\n--pre\n--find-links https://x/wheels\n\
             a==1 --hash=sha256:00\nb[x,y] >= 2, <3 ; python_version < '3.9'\nc (>=1)\n"
        );
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_line_with_what_to_write() {
        for (text, line, instead) in [
            ("six==1\n-e ../lib\n", 2, "NAME==VERSION"),
            ("./vendor/x\n", 1, "install_config.install"),
            ("-e hg+https://x/y#egg=y\n", 1, "`y==VERSION`"),
            ("\n\nnumpy=1.20=py39_0\n", 3, "`numpy==1.20`"),
            ("six 1.16.0\n", 1, "`six==VERSION`"),
            ("-r other.txt\n", 1, "the lines of that file"),
            ("-c limits.txt\n", 1, "the lines of that file"),
            ("--no-such-option\n", 1, "install_config"),
            ("-f ./wheels\n", 1, "--index-url"),
            ("other==1.0.dev3+g0123456\n", 1, "git+URL@COMMIT"),
            ("# Editable install with no version control (o==1)\nsix\n-e /x/y\n", 3, "VERSION"),
            ("C:\\wheels\\x\n", 1, "VERSION"),
        ] {
            let refused = clean(text, &row("acme/rocket")).unwrap_err();
            assert_eq!((refused.len(), refused[0].line), (1, line), "{text:?} {refused:?}");
            assert!(refused[0].instead.contains(instead), "{text:?} {refused:?}");
        }
        let local = cleaned("torch==2.0.1+cu118\npkg_resources==0.0.0\n");
        assert_eq!((local.text.as_str(), local.notes.len()), ("torch==2.0.1+cu118\n", 1));
        let editable = cleaned("# Editable install with no version control (o==1.0)\n-e /x/o\n");
        assert_eq!((editable.text.as_str(), editable.notes.len()), ("o==1.0\n", 1));
    }

    #[test]
    fn a_file_of_the_repository_may_include_others() {
        let source = Source { in_repository: true, drops_own_pins: false, ..row("acme/rocket") };
        let found = clean("-rbase.txt  # first\n-c\t../c.txt\nrocket\n--new-option\n", &source);
        let found = found.unwrap();
        assert_eq!(found.included, ["base.txt", "../c.txt"]);
        assert_eq!(found.text, "-r base.txt\n-c ../c.txt\nrocket\n--new-option\n");
        assert!(clean("-r ${DIR}/x.txt\n", &source).is_err());
    }
}
