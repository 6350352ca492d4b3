//! From a row as a file gives it to an [`Instance`], with errors that name the place.

use std::collections::BTreeMap;

use super::cell::Cell;
use super::cell_text;
use super::{InstallConfig, Instance};

/// What is wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// Where: `row 12` or `line 12`.
    pub place: String,
    /// The row's id, when it has one.
    pub instance_id: Option<String>,
    /// The row's repository, when it has one.
    pub repo: Option<String>,
    /// The column.
    pub field: String,
    /// What was found, and what should be there.
    pub what: String,
}

impl std::fmt::Display for RowProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(id) = &self.instance_id {
            write!(f, " (`{id}`)")?;
        }
        write!(f, ": `{}` {}", self.field, self.what)
    }
}

/// The columns that are read, each with the names that datasets have for it. Capitals make no
/// difference.
const COLUMNS: [(&str, &[&str]); 19] = [
    ("instance_id", &[]),
    ("repo", &[]),
    ("version", &[]),
    ("base_commit", &[]),
    ("environment_setup_commit", &[]),
    ("patch", &[]),
    ("test_patch", &[]),
    ("FAIL_TO_PASS", &["F2P", "F2P_tests"]),
    ("PASS_TO_PASS", &["P2P", "P2P_tests"]),
    ("eval_script", &[]),
    ("log_parser", &[]),
    ("eval_type", &[]),
    ("image", &["image_name", "docker_image"]),
    ("workdir", &[]),
    ("install_config", &[]),
    ("requirements", &[]),
    ("environment", &[]),
    ("expected_output_json", &[]),
    ("created_at", &[]),
];

/// Returns the column that a name stands for; `None` for those that are not read.
pub(super) fn column(name: &str) -> Option<&'static str> {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    let found = COLUMNS.iter().find(|(own, others)| is(own) || others.iter().any(|name| is(name)));
    found.map(|(own, _)| *own)
}

/// One row: the cells of the columns that are read, with the names that the file has.
pub(super) struct Row {
    /// Where it is.
    pub place: String,
    /// Name and value, in the order of the file.
    pub cells: Vec<(String, Cell)>,
}

/// Reads one row.
pub(super) fn read(row: &Row) -> Result<Instance, RowProblem> {
    let reader = Reader { row };
    let config = reader.install_config()?;
    let fail_to_pass = reader.one("FAIL_TO_PASS", Reader::list)?;
    let instance = Instance {
        instance_id: reader.required("instance_id")?,
        repo: reader.required("repo")?,
        version: reader.one("version", Reader::shown)?.unwrap_or_default(),
        base_commit: reader.required("base_commit")?,
        environment_setup_commit: reader.one("environment_setup_commit", Reader::text)?,
        patch: reader.one("patch", Reader::bytes)?.unwrap_or_default().into(),
        test_patch: reader.one("test_patch", Reader::bytes)?.unwrap_or_default().into(),
        FAIL_TO_PASS: fail_to_pass.clone().unwrap_or_default(),
        PASS_TO_PASS: reader.one("PASS_TO_PASS", Reader::list)?.unwrap_or_default(),
        eval_script: reader
            .one("eval_script", Reader::text)?
            .filter(|text| !text.trim().is_empty()),
        log_parser: reader
            .one("log_parser", Reader::text)?
            .or_else(|| config.as_ref().and_then(|config| config.log_parser.clone())),
        eval_type: reader.one("eval_type", Reader::text)?,
        image: reader.one("image", |_, cell| Ok(Reader::image(cell)))?.map(|image| image.written),
        workdir: reader.one("workdir", Reader::text)?,
        install_config: config,
        requirements: reader
            .one("requirements", Reader::lines)?
            .filter(|text| !text.trim().is_empty()),
        environment: reader.one("environment", |_, cell| Ok(Reader::shown_if_any(cell)))?,
        expected_output_json: reader
            .one("expected_output_json", |_, cell| Ok(Reader::statuses(cell)))?,
        created_at: reader.one("created_at", |_, cell| Ok(Reader::shown_if_any(cell)))?,
    };
    if fail_to_pass.is_none()
        && !instance.PASS_TO_PASS.is_empty()
        && instance.expected_output_json.is_none()
    {
        // Without it a patch that changes nothing would be right.
        return Err(reader.wrong("FAIL_TO_PASS", "is missing".to_owned()));
    }
    let id = &instance.base_commit;
    if id.len() != 40 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(reader.wrong("base_commit", format!("is `{id}`, not a commit id of 40 digits")));
    }
    if !is_repo(&instance.repo) {
        return Err(reader.wrong("repo", format!("is `{}`, not `owner/name`", instance.repo)));
    }
    if !is_name(&instance.instance_id) {
        let shown = instance.instance_id.escape_debug();
        let why = format!("is `{shown}`, which cannot be part of file and image names");
        return Err(reader.wrong("instance_id", why));
    }
    Ok(instance)
}

/// Tells whether a text can be part of the names of images, files and addresses: nothing leads out of
/// a directory, is an option of a program, or is markup.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+@=,~#%^".contains(c);
    (1..=200).contains(&text.len()) && !text.starts_with(['-', '.']) && text.chars().all(plain)
}

/// Tells whether a text is `owner/name`; some names begin with a dot.
pub(crate) fn is_repo(text: &str) -> bool {
    let parts = text.split_once('/');
    parts.is_some_and(|(owner, name)| is_name(owner) && is_name(name.trim_start_matches('.')))
}

struct Reader<'a> {
    row: &'a Row,
}

/// What one cell comes to: absent, or a value; or what is wrong with it.
type Found<T> = Result<Option<T>, String>;

/// An image's name; two that an engine takes for the same are equal.
#[derive(Debug, Clone)]
struct Image {
    written: String,
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        let plain = |image: &Image| -> String {
            let name = image.written.trim();
            let hosts = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"];
            let name = hosts.iter().find_map(|host| name.strip_prefix(host)).unwrap_or(name);
            name.strip_suffix(":latest").unwrap_or(name).to_owned()
        };
        plain(self) == plain(other)
    }
}

impl Reader<'_> {
    fn wrong(&self, field: &str, what: String) -> RowProblem {
        let text = |wanted: &str| {
            self.row.cells.iter().find_map(|(name, cell)| match cell {
                Cell::Text(bytes) if column(name) == Some(wanted) && !bytes.is_empty() => {
                    String::from_utf8(bytes.clone()).ok()
                }
                _ => None,
            })
        };
        RowProblem {
            place: self.row.place.clone(),
            instance_id: text("instance_id"),
            repo: text("repo"),
            field: field.to_owned(),
            what,
        }
    }

    /// Reads a column that may be there under several names: all that say something must say the
    /// same.
    fn one<T: PartialEq>(
        &self,
        field: &str,
        read: impl Fn(&Self, &Cell) -> Found<T>,
    ) -> Result<Option<T>, RowProblem> {
        let mut found: Option<(&str, T)> = None;
        for (name, cell) in &self.row.cells {
            if column(name) != Some(field) || *cell == Cell::Null {
                continue;
            }
            let value = read(self, cell).map_err(|what| self.wrong(name, what))?;
            match (value, &found) {
                (None, _) => {}
                (Some(value), None) => found = Some((name, value)),
                (Some(value), Some((_, first))) if value == *first => {}
                (Some(_), Some((first, _))) if *first == name => {
                    return Err(self.wrong(name, "is there twice and says two things".to_owned()));
                }
                (Some(_), Some((first, _))) => {
                    return Err(self.wrong(name, format!("says another thing than `{first}`")));
                }
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    fn required(&self, field: &str) -> Result<String, RowProblem> {
        self.one(field, Reader::text)?.ok_or_else(|| {
            let there = self.row.cells.iter().any(|(name, _)| column(name) == Some(field));
            let what = if there { "is empty" } else { "is missing" };
            self.wrong(field, what.to_owned())
        })
    }

    /// A string of bytes.
    fn bytes(&self, cell: &Cell) -> Found<Vec<u8>> {
        match cell {
            Cell::Null => Ok(None),
            Cell::Text(bytes) if bytes.is_empty() => Ok(None),
            Cell::Text(bytes) => Ok(Some(bytes.clone())),
            other => Err(format!("is {}, it must be a string", other.kind())),
        }
    }

    /// A string that is absent when it is empty.
    fn text(&self, cell: &Cell) -> Found<String> {
        let Some(bytes) = self.bytes(cell)? else { return Ok(None) };
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| "holds bytes that are not UTF-8".to_owned())
    }

    /// A string or a number, as it is written.
    fn shown(&self, cell: &Cell) -> Found<String> {
        match cell {
            Cell::Number(number) => Ok(Some(number.clone())),
            other => self.text(other),
        }
    }

    /// What nobody needs: whatever can be shown.
    fn shown_if_any(cell: &Cell) -> Option<String> {
        match cell {
            Cell::Number(number) => Some(number.clone()),
            Cell::Text(bytes) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        }
    }

    /// The name of an image. A picture is none.
    fn image(cell: &Cell) -> Option<Image> {
        let Cell::Text(bytes) = cell else { return None };
        let written = std::str::from_utf8(bytes).ok()?.trim().to_owned();
        (!written.is_empty()).then_some(Image { written })
    }

    /// A list of names, as a list or as its text.
    fn list(&self, cell: &Cell) -> Found<Vec<String>> {
        let parsed;
        let cell = match cell {
            Cell::Text(bytes) => {
                let text = std::str::from_utf8(bytes);
                let text = text.map_err(|_| "holds bytes that are not UTF-8".to_owned())?;
                parsed =
                    cell_text::read(text).map_err(|what| format!("{what}; it must be a list"))?;
                &parsed
            }
            cell => cell,
        };
        let items = match cell {
            Cell::Null => return Ok(None),
            Cell::List(items) => items,
            other => return Err(format!("is {}, it must be a list", other.kind())),
        };
        let names = items.iter().map(|item| match self.text(item) {
            Ok(Some(name)) if !name.trim().is_empty() => Ok(name),
            Ok(_) => Err("holds an empty name".to_owned()),
            Err(_) => Err(format!("holds {}, its items must be strings", item.kind())),
        });
        names.collect::<Result<_, _>>().map(Some)
    }

    /// A text, or its lines as a list.
    fn lines(&self, cell: &Cell) -> Found<String> {
        match cell {
            Cell::List(_) => Ok(self.list(cell)?.map(|lines| lines.join("\n"))),
            other => self.text(other),
        }
    }

    /// An object of strings, as an object or as its text; nothing else is one.
    fn statuses(cell: &Cell) -> Option<BTreeMap<String, String>> {
        let parsed;
        let cell = match cell {
            Cell::Text(bytes) => {
                parsed = cell_text::read(std::str::from_utf8(bytes).ok()?).ok()?;
                &parsed
            }
            cell => cell,
        };
        let Cell::Map(fields) = cell else { return None };
        let one = |(test, status): &(String, Cell)| match status {
            Cell::Text(status) => Some((test.clone(), String::from_utf8(status.clone()).ok()?)),
            _ => None,
        };
        fields.iter().map(one).collect()
    }

    /// `install_config`, as an object or as its text.
    fn install_config(&self) -> Result<Option<InstallConfig>, RowProblem> {
        self.one("install_config", |reader, cell| {
            let parsed;
            let cell = match cell {
                Cell::Text(_) => {
                    let Some(text) = reader.text(cell)? else { return Ok(None) };
                    parsed = cell_text::read(&text)?;
                    &parsed
                }
                cell => cell,
            };
            match cell {
                Cell::Null => Ok(None),
                Cell::Map(fields) => reader.config(fields).map(Some),
                other => Err(format!("is {}, it must be an object", other.kind())),
            }
        })
    }

    /// The keys of an `install_config`; one command may stand for a list of one, and a list of
    /// commands for one.
    fn config(&self, fields: &[(String, Cell)]) -> Result<InstallConfig, String> {
        let mut config = InstallConfig::default();
        for (key, cell) in fields.iter().filter(|(_, cell)| *cell != Cell::Null) {
            let named = |what: String| format!("has a `{key}` that {what}");
            let list = || match cell {
                Cell::Text(_) => Ok(self.text(cell)?.into_iter().collect()),
                _ => Ok::<_, String>(self.list(cell)?.unwrap_or_default()),
            };
            let joined = |by: &str| match cell {
                Cell::List(_) => Ok(self.list(cell)?.map(|words| words.join(by))),
                _ => self.text(cell),
            };
            match key.as_str() {
                "python" => config.python = self.shown(cell).map_err(named)?,
                "install" => config.install = joined(" && ").map_err(named)?,
                "test_cmd" => config.test_cmd = joined(" && ").map_err(named)?,
                "packages" => config.packages = joined(" ").map_err(named)?,
                "pre_install" => config.pre_install = list().map_err(named)?,
                "pip_packages" => config.pip_packages = list().map_err(named)?,
                "reqs_path" => config.reqs_path = list().map_err(named)?,
                "env_yml_path" => config.env_yml_path = list().map_err(named)?,
                "log_parser" => config.log_parser = self.text(cell).map_err(named)?,
                _ => {}
            }
        }
        Ok(config)
    }
}
