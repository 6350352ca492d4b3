//! The bundled dataset `demo`: a few instances over three small repositories.
//!
//! The repositories are `git fast-import` streams in the binary. [`materialise`] makes them real
//! git repositories; authors and dates are part of the streams, so their commit ids are constants
//! that the rows can name. Knows nothing of the catalog, which describes them as it does any other.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cell::Cell;
use super::row::{self, Row};
use super::{Dataset, Instance};
use crate::key::Digest;

const ROWS: &str = include_str!("../../demo/test.jsonl");

/// Each repository with its history.
const REPOSITORIES: [(&str, &str); 3] = [
    ("imgforge/abacus", include_str!("../../demo/repositories/abacus.fast-import")),
    ("imgforge/ledger", include_str!("../../demo/repositories/ledger.fast-import")),
    ("imgforge/quill", include_str!("../../demo/repositories/quill.fast-import")),
];

/// The demo dataset with its repositories.
#[derive(Debug)]
pub struct Demo {
    /// The dataset.
    pub dataset: Dataset,
    /// Where each repository is.
    pub mirrors: BTreeMap<String, Vec<String>>,
}

/// Why the demo cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The `git` program cannot be run.
    #[error("cannot run `git`, which makes the repositories of the demo")]
    NoGit(#[source] io::Error),
    /// The `git` program refused.
    #[error("`git {command}` failed for `{repo}`: {message}")]
    Git {
        /// The repository.
        repo: &'static str,
        /// What git was asked to do.
        command: &'static str,
        /// What it said.
        message: String,
    },
    /// A directory cannot be made.
    #[error("cannot write the repositories of the demo to `{path}`")]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Tells whether a dataset is at `path` that is not the one that comes with imgforge.
pub fn is_another(path: &Path) -> bool {
    super::files::find(path, "test", false).is_ok()
        && std::fs::read(path.join("test.jsonl")).ok().is_none_or(|rows| rows != ROWS.as_bytes())
}

/// Lists its instances.
pub fn ids() -> Vec<String> {
    instances().into_iter().map(|instance| instance.instance_id).collect()
}

/// Makes the repositories below `dir`, when they are not there, and returns the dataset.
///
/// Safe to call from several processes at once: a complete set appears by one rename, under a name
/// that its content gives.
///
/// # Errors
/// When `git` cannot be run or `dir` cannot be written.
pub fn materialise(dir: &Path) -> Result<Demo, DemoError> {
    let content: String = REPOSITORIES.iter().map(|(_, history)| *history).collect();
    let home = dir.join(&Digest::of(content).to_string()[..16]);
    if !home.is_dir() {
        let failed = |source| DemoError::Write { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let aside = tempfile::Builder::new().prefix(".part-").tempdir_in(dir).map_err(failed)?;
        for (repo, history) in REPOSITORIES {
            import(repo, history, &aside.path().join(file_name(repo)))?;
        }
        let renamed = std::fs::rename(aside.path(), &home);
        // Another process may have been first; then its set is as good as this one.
        if !home.is_dir() {
            renamed.map_err(failed)?;
        }
    }
    let mirrors = REPOSITORIES
        .iter()
        .map(|(repo, _)| {
            let path = home.join(file_name(repo)).display().to_string();
            ((*repo).to_owned(), vec![path])
        })
        .collect();
    Ok(Demo { dataset: dataset(), mirrors })
}

fn file_name(repo: &str) -> String {
    format!("{}.git", repo.replace('/', "__"))
}

fn dataset() -> Dataset {
    Dataset {
        name: "demo".to_owned(),
        split: "test".to_owned(),
        revision: None,
        origin: "demo".to_owned(),
        instances: instances(),
        refused: Vec::new(),
        note: None,
    }
}

fn instances() -> Vec<Instance> {
    ROWS.lines()
        .map(|line| {
            let cells = match Cell::of_json(line) {
                Ok(Cell::Map(cells)) => cells,
                other => unreachable!("a row of the bundled dataset is a JSON object: {other:?}"),
            };
            let row = Row { place: "demo".to_owned(), cells };
            row::read(&row).expect("a row of the bundled dataset is valid")
        })
        .collect()
}

/// Makes a bare repository from a history.
fn import(repo: &'static str, history: &str, path: &Path) -> Result<(), DemoError> {
    let target = path.display().to_string();
    git(repo, "init", &["-c", "init.defaultBranch=main", "init", "--bare", &target], "")?;
    git(repo, "fast-import", &["--git-dir", &target, "fast-import", "--quiet"], history)
}

/// Runs git with `input`, away from the settings of the user and of a surrounding repository, so
/// that the same objects come out everywhere.
fn git(
    repo: &'static str,
    command: &'static str,
    args: &[&str],
    input: &str,
) -> Result<(), DemoError> {
    let mut child = Command::new("git")
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_OBJECT_DIRECTORY")
        .env_remove("GIT_DEFAULT_HASH")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(DemoError::NoGit)?;
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // A git that ends early closes the pipe; what it then says on stderr is the error.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(DemoError::NoGit)?;
    if !output.status.success() || written.is_err() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DemoError::Git { repo, command, message });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::dataset::{Patch, prediction};

    /// A demo with one work tree per call of [`Space::base`].
    struct Space {
        dir: tempfile::TempDir,
        demo: Demo,
    }

    impl Space {
        fn new() -> Space {
            let dir = tempfile::tempdir().unwrap();
            let demo = materialise(&dir.path().join("demo")).unwrap();
            Space { dir, demo }
        }

        fn repository(&self, repo: &str) -> &str {
            &self.demo.mirrors[repo][0]
        }

        /// Runs git with `input`; its standard output when it succeeds.
        fn git(&self, args: &[&str], input: &str) -> Option<String> {
            let file = self.dir.path().join("input");
            std::fs::write(&file, input).unwrap();
            let output = Command::new("git")
                .args(args)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_INDEX_FILE", self.dir.path().join("index"))
                .stdin(std::fs::File::open(&file).unwrap())
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            output.status.success().then(|| text.trim().to_owned())
        }

        /// The tree that `patches` make of the base commit, when each applies strictly.
        fn patched(&self, instance: &Instance, patches: &[&str]) -> Option<String> {
            let repo = self.repository(&instance.repo);
            self.git(&["-C", repo, "read-tree", &instance.base_commit], "")?;
            for patch in patches {
                self.git(&["-C", repo, "apply", "--cached", "-"], patch)?;
            }
            self.git(&["-C", repo, "write-tree"], "")
        }
    }

    #[test]
    fn both_patches_make_the_commit_after_the_base_commit() {
        let space = Space::new();
        assert_eq!(space.demo.dataset.instances.len(), 8);
        for instance in &space.demo.dataset.instances {
            let repo = space.repository(&instance.repo);
            let commits = space.git(&["-C", repo, "rev-list", "--reverse", "main"], "").unwrap();
            let mut after = commits.lines().skip_while(|id| *id != instance.base_commit).skip(1);
            let fix = format!("{}^{{tree}}", after.next().unwrap());
            let fixed = space.git(&["-C", repo, "rev-parse", &fix], "").unwrap();
            let patched = space.patched(
                instance,
                &[&instance.test_patch.to_string_lossy(), &instance.patch.to_string_lossy()],
            );
            assert_eq!(patched, Some(fixed), "{}", instance.instance_id);
            assert!(after.next().is_some(), "{}: a later commit could leak", instance.instance_id);
        }
    }

    #[test]
    fn the_rows_reach_every_path() {
        let instances = instances();
        let patches = |holds: &str| {
            let has = |patch: &Patch| patch.to_string_lossy().contains(holds);
            instances.iter().filter(|row| has(&row.patch)).count()
        };
        assert!(patches("\nnew file mode") >= 2 && patches("\ndeleted file mode") >= 2);
        let own = instances.iter().filter(|row| row.eval_script.is_some());
        for row in own.clone() {
            let script = row.eval_script.as_deref().unwrap();
            assert!(script.contains(&*row.test_patch.to_string_lossy()), "{}", row.instance_id);
            assert!(script.contains("\n: '>>>>> Start Test Output'\n"), "{}", row.instance_id);
        }
        assert!((1..instances.len()).contains(&own.count()));
        assert!(instances.iter().all(|row| !row.FAIL_TO_PASS.is_empty()));

        let catalog = Catalog::embedded().unwrap();
        let entry =
            |row: &Instance| catalog.environment(&row.repo, &row.version, Some(row)).unwrap();
        assert!(instances.iter().any(|row| entry(row).install.is_empty()));
        assert!(instances.iter().any(|row| !entry(row).pre_install.is_empty()));
        assert!(instances.iter().any(|row| !entry(row).requirements.is_empty()));
        let locked = instances.iter().filter(|row| !entry(row).locks.is_empty());
        let versions: std::collections::BTreeSet<_> = locked.map(|row| &row.version).collect();
        assert!(versions.len() > 1, "two versions share one locked environment");
    }

    #[test]
    fn the_predictions_are_of_every_kind() {
        let space = Space::new();
        let instances = &space.demo.dataset.instances;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/predictions.jsonl");
        let predictions = prediction::read(path.to_str().unwrap(), instances).unwrap().list;
        assert_eq!(predictions.len(), instances.len());
        let mut outcomes = BTreeMap::new();
        for (instance, prediction) in instances.iter().zip(&predictions) {
            assert_eq!(instance.instance_id, prediction.instance_id);
            let outcome =
                match prediction.model_patch.as_ref().map(Patch::to_string_lossy).as_deref() {
                    None => "null",
                    Some("") => "empty",
                    Some(patch) => match space.patched(instance, &[patch]) {
                        None => "refused",
                        Some(_) if patch.contains(" b/tests/") => "touches tests",
                        Some(_) => "applied",
                    },
                };
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
        let expected =
            [("applied", 3), ("empty", 1), ("null", 1), ("refused", 1), ("touches tests", 2)];
        assert_eq!(outcomes, BTreeMap::from(expected));
    }

    #[test]
    fn the_repositories_are_made_once_even_by_several_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| materialise(dir.path()).unwrap());
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
        let demo = materialise(dir.path()).unwrap();
        let marker = Path::new(&demo.mirrors["imgforge/quill"][0]).join("marker");
        std::fs::write(&marker, "").unwrap();
        materialise(dir.path()).unwrap();
        assert!(marker.is_file(), "an existing set is left alone");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = materialise(&file.join("demo")).unwrap_err();
        assert!(error.to_string().contains("file/demo"), "{error}");
    }
}
