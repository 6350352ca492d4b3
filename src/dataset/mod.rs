//! Benchmark datasets: instances, how they are read and how they are chosen.
//!
//! Knows nothing of images; how an instance is built is the catalog's business.

mod cell;
mod cell_text;
#[cfg(feature = "parquet")]
mod columns;
pub mod demo;
mod files;
pub mod hub;
mod json;
mod literal;
mod parts;
mod patch;
pub mod prediction;
mod reading;
mod row;
mod rows;
mod select;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::nearest::nearest;

pub use hub::HubSettings;
pub use parts::PartsError;
pub use patch::Patch;
pub use row::RowProblem;
pub(crate) use row::is_repo;
pub use select::{Selected, Selection, SelectionError, nearest_id};

/// Short names of published datasets. The longer ones are those that the harness knows.
const ALIASES: [(&str, &str); 17] = [
    ("lite", "SWE-bench/SWE-bench_Lite"),
    ("swe-bench-lite", "SWE-bench/SWE-bench_Lite"),
    ("swebench-lite", "SWE-bench/SWE-bench_Lite"),
    ("swe_bench_lite", "SWE-bench/SWE-bench_Lite"),
    ("swe-bench_lite", "SWE-bench/SWE-bench_Lite"),
    ("verified", "SWE-bench/SWE-bench_Verified"),
    ("swe-bench-verified", "SWE-bench/SWE-bench_Verified"),
    ("swe-bench_verified", "SWE-bench/SWE-bench_Verified"),
    ("full", "SWE-bench/SWE-bench"),
    ("swe-bench", "SWE-bench/SWE-bench"),
    ("swebench", "SWE-bench/SWE-bench"),
    ("swe_bench", "SWE-bench/SWE-bench"),
    ("multilingual", "SWE-bench/SWE-bench_Multilingual"),
    ("swe-bench_multilingual", "SWE-bench/SWE-bench_Multilingual"),
    ("multimodal", "SWE-bench/SWE-bench_Multimodal"),
    ("swe-bench_multimodal", "SWE-bench/SWE-bench_Multimodal"),
    ("swe-bench-multimodal", "SWE-bench/SWE-bench_Multimodal"),
];

/// A dataset that was read.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name that it was asked for by.
    pub name: String,
    /// The split.
    pub split: String,
    /// The commit of the hub's repository, for a dataset from there.
    pub revision: Option<String>,
    /// The path or the id on the hub.
    pub origin: String,
    /// The rows, in their order.
    pub instances: Vec<Instance>,
    /// The rows that cannot be used, in their order.
    pub refused: Vec<Refused>,
    /// What a person should know of how the name was understood.
    pub note: Option<String>,
}

impl Dataset {
    /// Returns the ids of all rows, those included that cannot be used.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let bad = self.refused.iter().map(|one| one.instance_id.as_str());
        self.instances.iter().map(|one| one.instance_id.as_str()).chain(bad)
    }
}

/// An instance that cannot be used, for its row has a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The instance.
    pub instance_id: String,
    /// `owner/name`, when the row has it.
    pub repo: Option<String>,
    /// How many instances of the dataset come before it.
    pub before: usize,
    /// Why: file, line, column and what is wrong.
    pub why: String,
}

/// Why a dataset cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Neither a path nor a name nor an id.
    #[error("there is no dataset `{name}`{}", near.as_ref().map_or(String::new(), |near| format!("; the nearest is `{near}`")))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest known name.
        near: Option<String>,
    },
    /// The dataset lacks the split.
    #[error("dataset `{name}` has no split `{split}`{}", splits_text(splits))]
    UnknownSplit {
        /// The dataset.
        name: String,
        /// What was asked for.
        split: String,
        /// What it has.
        splits: Vec<String>,
    },
    /// A file of another kind.
    #[error("`{path}` is none of `.parquet`, `.arrow`, `.jsonl`, `.json`, `.csv` and `.tsv`")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A file of a kind that this program was built without.
    #[cfg(not(feature = "parquet"))]
    #[error("cannot read `{path}`: this imgforge was built without parquet and Arrow")]
    NotBuilt {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is damaged or cut off.
    #[error("`{path}` is damaged or cut off: {what}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        what: String,
    },
    /// The hub's cache has a damaged file.
    #[error("the hub's cache is damaged")]
    DamagedCache {
        /// The file in the cache.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<DatasetError>,
    },
    /// A folder holds not all of a split, or more than one.
    #[error("`{path}` is no whole dataset")]
    Parts {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PartsError,
    },
    /// A file was named that is one of several.
    #[error("`{path}` is one part of several")]
    OnePart {
        /// The file.
        path: PathBuf,
        /// The others.
        #[source]
        source: PartsError,
    },
    /// A split of something that has none.
    #[error("`{name}` has no split `{split}`: its name says none, so it is read as `test`")]
    NoSplits {
        /// The file.
        name: String,
        /// What was asked for.
        split: String,
    },
    /// There is nothing in it.
    #[error("`{path}` has no rows")]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// No row can be used, or a row has no id.
    #[error("the dataset has rows with mistakes:{}", rows_text(problems, *more))]
    Rows {
        /// The first of them, with their files.
        problems: Vec<(PathBuf, RowProblem)>,
        /// How many more there are.
        more: usize,
    },
    /// The hub refused or cannot be reached.
    #[error(transparent)]
    Hub(#[from] hub::HubError),
}

fn splits_text(splits: &[String]) -> String {
    match splits {
        [] => String::new(),
        splits => format!("; it has {}", splits.join(", ")),
    }
}

fn rows_text(problems: &[(PathBuf, RowProblem)], more: usize) -> String {
    let mut text = String::new();
    for (path, problem) in problems {
        text.push_str(&format!("\n  `{}` {problem}", path.display()));
    }
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}

impl DatasetError {
    /// Tells whether the network or the disk is at fault, not what was asked for.
    pub fn is_environment(&self) -> bool {
        use hub::HubError;
        matches!(
            self,
            DatasetError::Hub(
                HubError::Status { .. }
                    | HubError::Redirects { .. }
                    | HubError::Request { .. }
                    | HubError::CutOff { .. }
                    | HubError::Checksum { .. }
                    | HubError::File { .. }
                    | HubError::Client(_)
            )
        )
    }

    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            DatasetError::Unknown { .. } => Some(
                "name `lite`, `verified`, `full`, `multilingual`, `multimodal`, `demo`, an id such \
                 as `owner/name`, or a path"
                    .to_owned(),
            ),
            DatasetError::Corrupt { .. } => {
                Some("get the file again from where it came, and compare the sizes".to_owned())
            }
            DatasetError::DamagedCache { path, .. } => {
                Some(format!("remove `{}` and the file that it links to; it is fetched again", path.display()))
            }
            DatasetError::Parts { source: PartsError::Missing { .. }, .. } => {
                Some("a score over a part of a benchmark is none: bring the missing files".to_owned())
            }
            DatasetError::Parts { source: PartsError::Mixed { .. }, .. } => {
                Some("name one of the files, or move the others away".to_owned())
            }
            DatasetError::OnePart { .. } => {
                Some("name the folder, and all parts are read".to_owned())
            }
            #[cfg(not(feature = "parquet"))]
            DatasetError::NotBuilt { .. } => Some(
                "build it with them: `cargo install --path . --features parquet`".to_owned(),
            ),
            DatasetError::NoSplits { .. } => Some("leave --split out".to_owned()),
            DatasetError::UnknownFormat { .. } => Some(
                "unpack it when it is compressed; `datasets` writes the others with `to_parquet` \
                 and `to_json`"
                    .to_owned(),
            ),
            DatasetError::Hub(error) => error.hint(),
            _ => None,
        }
    }
}

/// Returns the id on the hub that a short name stands for; other names as they are.
pub fn full_name(name: &str) -> &str {
    let lower = name.to_ascii_lowercase();
    ALIASES.iter().find(|(alias, _)| *alias == lower).map_or(name, |(_, id)| id)
}

/// Tells whether a word is a short name of a dataset.
pub fn is_name(word: &str) -> bool {
    full_name(word) != word || matches!(word, "demo" | "bundle")
}

/// Tells whether a name has the form of a path: no known name and no id on the hub looks like it.
fn is_path(name: &str) -> bool {
    name.starts_with(['.', '/', '~']) || name.ends_with('/') || parts::Format::of(name).is_some()
}

/// Reads a dataset by its name, id or path.
///
/// A short name is the dataset, also where a file or folder of that name is; an id is the folder
/// where there is one, as in Python's `datasets`. [`Dataset::note`] says so.
pub async fn load(name: &str, split: &str, hub: &HubSettings) -> Result<Dataset, DatasetError> {
    let path = Path::new(name);
    let lower = name.to_ascii_lowercase();
    let alias = Some(full_name(name)).filter(|full| *full != name);
    let mut note = None;
    if path.exists() {
        if let Some(id) = alias {
            note = Some(format!("`{name}` is the dataset `{id}`; `./{name}` is the one here"));
        } else if path.is_dir() && hub::is_id(name) && !is_path(name) {
            note = Some(format!("`{name}` is the folder here, not the dataset of the hub"));
        }
    }
    let (files, revision, origin) = if alias.is_none() && path.exists() {
        (files::find(path, split, false)?, None, name.to_owned())
    } else if let Some(id) = alias.or_else(|| (hub::is_id(name) && !is_path(name)).then_some(name))
    {
        let fetched = hub::fetch(id, split, hub).await?;
        (fetched.files, Some(fetched.revision), id.to_owned())
    } else if is_path(name) {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(DatasetError::Read { path: path.to_owned(), source });
    } else {
        let known = ALIASES.iter().map(|(alias, _)| *alias).chain(["demo"]);
        let near = nearest(&lower, known);
        return Err(DatasetError::Unknown { name: name.to_owned(), near });
    };
    let read = tokio::task::spawn_blocking(move || rows::read(&files));
    let read = read.await.expect("reading files does not panic");
    let reading::Rows { instances, refused } = read.map_err(|error| match error {
        DatasetError::Corrupt { ref path, .. } if revision.is_some() => {
            DatasetError::DamagedCache { path: path.clone(), source: Box::new(error) }
        }
        error => error,
    })?;
    let (name, split) = (name.to_owned(), split.to_owned());
    Ok(Dataset { name, split, revision, origin, instances, refused, note })
}

/// One row of a dataset, with the field names of SWE-bench.
///
/// Columns that a dataset lacks are `None` or empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[allow(non_snake_case)]
pub struct Instance {
    /// Unique within the dataset, such as `pallets__flask-4045`.
    pub instance_id: String,
    /// `owner/name`.
    pub repo: String,
    /// The version by which the catalog finds the environment; empty when the row has none.
    pub version: String,
    /// The commit that the patches apply to, 40 hexadecimal digits.
    pub base_commit: String,
    /// The commit that the environment's requirement files are read at, when it is not the base commit.
    pub environment_setup_commit: Option<String>,
    /// The gold patch.
    pub patch: Patch,
    /// The patch of the test files.
    pub test_patch: Patch,
    /// Tests that the gold patch turns from failing to passing.
    pub FAIL_TO_PASS: Vec<String>,
    /// Tests that pass before and after.
    pub PASS_TO_PASS: Vec<String>,
    /// The dataset's own evaluation script.
    pub eval_script: Option<String>,
    /// The name of the log parser.
    pub log_parser: Option<String>,
    /// `pass_and_fail` or `fail_only`.
    pub eval_type: Option<String>,
    /// The published image (`image`, `image_name` or `docker_image`).
    pub image: Option<String>,
    /// Where the repository is in the published image, when that is not `/testbed`.
    pub workdir: Option<String>,
    /// How the repository is installed, in datasets that say it per row (SWE-rebench, nemotron).
    pub install_config: Option<InstallConfig>,
    /// The pinned requirements, in datasets that carry them per row.
    pub requirements: Option<String>,
    /// What conda lists of the environment, in datasets that carry it per row (SWE-rebench).
    pub environment: Option<String>,
    /// What every test must have done, in datasets that say so (R2E): status by test.
    pub expected_output_json: Option<std::collections::BTreeMap<String, String>>,
    /// When the pull request was made, as the dataset writes it.
    pub created_at: Option<String>,
}

/// The `install_config` of a row, as SWE-rebench writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct InstallConfig {
    /// The Python version, such as `3.9`.
    pub python: Option<String>,
    /// The installation command.
    pub install: Option<String>,
    /// Shell commands that run before the installation.
    pub pre_install: Vec<String>,
    /// Requirement names or `requirements.txt`.
    pub packages: Option<String>,
    /// Requirement specifiers.
    pub pip_packages: Vec<String>,
    /// Paths of requirement files in the repository.
    pub reqs_path: Vec<String>,
    /// Paths of conda's environment files in the repository.
    pub env_yml_path: Vec<String>,
    /// The test command.
    pub test_cmd: Option<String>,
    /// The log parser.
    pub log_parser: Option<String>,
}
