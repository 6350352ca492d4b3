//! The files of a dataset on disk: a file, a folder of splits, a folder of `save_to_disk`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::parts::{self, Format, PartsError};
use super::{DatasetError, json};

/// Where files of a split lie below a folder.
const FOLDERS: [&str; 3] = ["", "data", "default"];

/// Finds the files of a split: the file itself, or those in a folder. With `prefer` a split that is
/// there in several formats is read in the first of them.
pub(super) fn find(path: &Path, split: &str, prefer: bool) -> Result<Vec<PathBuf>, DatasetError> {
    if path.is_file() {
        return Ok(vec![single(path, split)?]);
    }
    if let Some(files) = saved(path, split)? {
        return Ok(files);
    }
    let mut files = Vec::new();
    let mut dirs = Vec::new();
    for folder in FOLDERS {
        list(path, folder, &mut files, &mut dirs)?;
    }
    let folder = |dir: &&String| FOLDERS.iter().all(|folder| folder != dir);
    for dir in dirs.iter().filter(folder) {
        list(path, dir, &mut files, &mut Vec::new())?;
    }
    let names = || files.iter().map(String::as_str);
    let found = parts::choose(names(), split, prefer)
        .map_err(|source| DatasetError::Parts { path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(DatasetError::UnknownSplit {
            name: path.display().to_string(),
            split: split.to_owned(),
            splits: parts::splits(names()),
        });
    }
    Ok(found.into_iter().map(|file| path.join(file)).collect())
}

/// Adds what is in a folder, by names relative to `root`.
fn list(
    root: &Path,
    folder: &str,
    files: &mut Vec<String>,
    dirs: &mut Vec<String>,
) -> Result<(), DatasetError> {
    let dir = root.join(folder);
    let error = |source| DatasetError::Read { path: dir.clone(), source };
    if !folder.is_empty() && !dir.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(&dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        match entry.path().is_dir() {
            true => dirs.push(name),
            false => files.push(name),
        }
    }
    Ok(())
}

/// Takes a file that was named itself. It has the split that its name says; where the name says
/// none, it is `test`.
fn single(path: &Path, split: &str) -> Result<PathBuf, DatasetError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let part = parts::part(&name);
    if split != "test" && part.as_ref().is_none_or(|part| part.split != split) {
        return Err(DatasetError::NoSplits {
            name: path.display().to_string(),
            split: split.into(),
        });
    }
    if let Some(part) = part
        && let Err(source @ PartsError::Missing { .. }) =
            parts::choose([name.as_str()], part.split, false)
    {
        return Err(DatasetError::OnePart { path: path.to_owned(), source });
    }
    Ok(path.to_owned())
}

/// `dataset_dict.json` of `DatasetDict.save_to_disk`.
#[derive(Deserialize)]
struct Dictionary {
    splits: Vec<String>,
}

/// `state.json` of `Dataset.save_to_disk`.
#[derive(Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    data: Vec<DataFile>,
    #[serde(rename = "_split", default)]
    split: Option<String>,
    #[serde(rename = "_indices_data_files", default)]
    indices: Option<Vec<DataFile>>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

fn document<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DatasetError> {
    let bytes = std::fs::read(path)
        .map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| DatasetError::Corrupt {
        path: path.to_owned(),
        what: json::text_of(&error),
    })
}

/// Lists the files of a split in a folder that `save_to_disk` wrote; `None` for other folders.
fn saved(path: &Path, split: &str) -> Result<Option<Vec<PathBuf>>, DatasetError> {
    let is_saved = |dir: &Path| dir.join("state.json").is_file();
    let dictionary = path.join("dataset_dict.json");
    let unknown = |splits: Vec<String>| DatasetError::UnknownSplit {
        name: path.display().to_string(),
        split: split.to_owned(),
        splits,
    };
    let dir = if dictionary.is_file() {
        let dictionary: Dictionary = document(&dictionary)?;
        if !dictionary.splits.iter().any(|one| one == split) {
            return Err(unknown(dictionary.splits));
        }
        path.join(split)
    } else if is_saved(path) {
        path.to_owned()
    } else if !split.contains('/') && is_saved(&path.join(split)) {
        path.join(split)
    } else {
        return Ok(None);
    };
    let state: State = document(&dir.join("state.json"))?;
    if dir == path && split != "test" && state.split.as_deref() != Some(split) {
        return Err(match state.split {
            Some(own) => unknown(vec![own]),
            None => {
                DatasetError::NoSplits { name: path.display().to_string(), split: split.into() }
            }
        });
    }
    let corrupt = |what: &str| DatasetError::Corrupt { path: dir.clone(), what: what.to_owned() };
    if state.indices.is_some_and(|files| !files.is_empty()) {
        return Err(corrupt(
            "its rows are chosen by a file of indices: save it anew after `flatten_indices()`",
        ));
    }
    let names: Vec<String> = state.data.into_iter().map(|file| file.filename).collect();
    if names.is_empty() {
        return Err(corrupt("its `state.json` names no files"));
    }
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !dir.join(name).is_file())
        .map(|name| dir.strip_prefix(path).unwrap_or(&dir).join(name).display().to_string())
        .collect();
    if !missing.is_empty() {
        let (count, total) = (missing.len(), names.len());
        let source = PartsError::Missing { split: split.to_owned(), missing, count, total };
        return Err(DatasetError::Parts { path: path.to_owned(), source });
    }
    let outside = |name: &String| Path::new(name).components().count() != 1;
    if names.iter().any(outside) || names.iter().any(|name| Format::of(name) != Some(Format::Arrow))
    {
        return Err(corrupt("its `state.json` names other files than `.arrow` ones beside it"));
    }
    Ok(Some(names.into_iter().map(|name| dir.join(name)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(files: &[(&str, &str)]) -> tempfile::TempDir {
        let space = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = space.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        space
    }

    fn found(space: &Path, name: &str, split: &str) -> Result<Vec<String>, String> {
        let root = format!("{}/", space.display());
        let found = find(&space.join(name), split, false);
        let names = |files: Vec<PathBuf>| {
            files.iter().map(|file| file.display().to_string().replace(&root, "")).collect()
        };
        found.map(names).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            format!("{error}{}", source.unwrap_or_default()).replace(&root, "")
        })
    }

    #[test]
    fn a_split_is_where_people_put_it() {
        let space = space(&[
            ("a/test.jsonl", ""),
            ("a/dev.jsonl", ""),
            ("b/data/test-00000-of-00002.parquet", ""),
            ("b/data/test-00001-of-00002.parquet", ""),
            ("c/test/0000.parquet", ""),
            ("d/test-00000-of-00003.parquet", ""),
            ("d/test-00002-of-00003.parquet", ""),
            ("e/README.md", ""),
        ]);
        let found = |name: &str, split: &str| found(space.path(), name, split);
        assert_eq!(found("a", "dev").unwrap(), ["a/dev.jsonl"]);
        assert_eq!(found("b", "test").unwrap().len(), 2);
        assert_eq!(found("c", "test").unwrap(), ["c/test/0000.parquet"]);
        assert!(found("a", "train").unwrap_err().contains("it has dev, test"));
        assert!(found("d", "test").unwrap_err().contains("`test-00001-of-00003.parquet`"));
        assert!(found("e", "test").unwrap_err().contains("no split `test`"));
    }

    #[test]
    fn a_file_has_the_split_of_its_name() {
        let space = space(&[("rows.jsonl", ""), ("dev.jsonl", ""), ("x-00000-of-00002.json", "")]);
        let found = |name: &str, split: &str| found(space.path(), name, split);
        assert_eq!(found("rows.jsonl", "test").unwrap(), ["rows.jsonl"]);
        assert_eq!(found("dev.jsonl", "dev").unwrap(), ["dev.jsonl"]);
        assert!(found("rows.jsonl", "dev").unwrap_err().contains("has no split `dev`"));
        assert!(
            found("x-00000-of-00002.json", "test").unwrap_err().contains("one part of several")
        );
    }

    #[test]
    fn a_saved_folder_is_what_its_state_says() {
        let state = r#"{"_data_files": [{"filename": "data-00000-of-00002.arrow"},
            {"filename": "data-00001-of-00002.arrow"}], "_split": "dev"}"#;
        let space = space(&[
            ("one/state.json", state),
            ("one/data-00000-of-00002.arrow", ""),
            ("one/data-00001-of-00002.arrow", ""),
            ("two/dataset_dict.json", r#"{"splits": ["test", "dev"]}"#),
            ("two/test/state.json", state),
            ("two/test/data-00000-of-00002.arrow", ""),
            (
                "chosen/state.json",
                r#"{"_data_files": [{"filename": "a.arrow"}],
                "_indices_data_files": [{"filename": "i.arrow"}]}"#,
            ),
            ("outside/state.json", r#"{"_data_files": [{"filename": "../one/state.json"}]}"#),
        ]);
        let found = |name: &str, split: &str| found(space.path(), name, split);
        assert_eq!(found("one", "dev").unwrap().len(), 2);
        assert!(found("one", "train").unwrap_err().contains("it has dev"));
        assert!(found("two", "train").unwrap_err().contains("it has test, dev"));
        let error = found("two", "test").unwrap_err();
        assert!(error.contains("`test/data-00001-of-00002.arrow`"), "{error}");
        assert!(found("chosen", "test").unwrap_err().contains("flatten_indices"));
        assert!(found("outside", "test").unwrap_err().contains("other files"));
    }
}
