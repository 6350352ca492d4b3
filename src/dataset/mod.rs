//! Benchmark datasets: instances, how they are read and how they are chosen.
//!
//! Knows nothing of images; how an instance is built is the catalog's business.

use serde::Serialize;

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
    pub patch: String,
    /// The patch of the test files.
    pub test_patch: String,
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
    /// How the repository is installed, in datasets that say it per row (SWE-rebench, nemotron).
    pub install_config: Option<InstallConfig>,
    /// The pinned requirements, in datasets that carry them per row.
    pub requirements: Option<String>,
    /// When the pull request was made, as the dataset writes it.
    pub created_at: Option<String>,
}

/// The `install_config` of a row, as SWE-rebench writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, Default)]
#[serde(default)]
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
    /// The test command.
    pub test_cmd: Option<String>,
    /// The log parser.
    pub log_parser: Option<String>,
}
