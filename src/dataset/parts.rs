//! Which files make up a split, by their names: `test.parquet`, `test-00000-of-00003.parquet`,
//! `data/test/0000.parquet`. Knows only names.

use std::collections::{BTreeMap, BTreeSet};

/// What a file holds, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    Parquet,
    Arrow,
    JsonLines,
    Json,
    Csv,
    Tsv,
}

impl Format {
    /// Tells by a file's name.
    pub(super) fn of(name: &str) -> Option<Format> {
        let (_, end) = name.rsplit_once('.')?;
        Some(match end.to_ascii_lowercase().as_str() {
            "parquet" => Format::Parquet,
            "arrow" => Format::Arrow,
            "jsonl" | "ndjson" => Format::JsonLines,
            "json" => Format::Json,
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            _ => return None,
        })
    }
}

/// Files that describe a dataset, and hold no rows.
const NO_ROWS: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"];

/// One file of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// The split.
    pub split: &'a str,
    /// What it holds.
    pub format: Format,
    /// Its number.
    number: Option<usize>,
    /// How many there are.
    total: Option<usize>,
    /// The name with the number left out: equal for the files of one set.
    set: (&'a str, &'a str),
    /// How many digits the number has.
    width: usize,
}

fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Reads the name of a file, relative to its dataset; `None` for files that hold no rows.
pub(super) fn part<'a>(path: &'a str) -> Option<Part<'a>> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let format = Format::of(name)?;
    if NO_ROWS.contains(&name) || name.starts_with('.') {
        return None;
    }
    let stem = &name[..name.rfind('.')?];
    let above = dir.rsplit('/').next().filter(|above| !above.is_empty());
    let named = |own: &'a str| match above {
        // `test/0000.parquet` and `test/data-00000-of-00002.arrow`.
        Some(above) if own.is_empty() || own == "data" => above,
        _ => own,
    };
    let pieces: Vec<(usize, &str)> = stem
        .split('-')
        .map(|piece| (piece.as_ptr() as usize - path.as_ptr() as usize, piece))
        .collect();
    for (at, window) in pieces.windows(3).enumerate() {
        let [(start, first), (_, of), (end, last)] = window else { continue };
        if let (Some(number), "of", Some(total)) = (number(first), *of, number(last)) {
            let split = match at {
                0 => "",
                _ => &stem[..start - 1 - (path.len() - name.len())],
            };
            return Some(Part {
                split: named(split),
                format,
                number: Some(number),
                total: Some(total),
                set: (&path[..*start], &path[end + last.len()..]),
                width: first.len(),
            });
        }
    }
    if let Some((start, last)) = pieces.last()
        && let Some(number) = number(last)
    {
        let split = match pieces.len() {
            1 => "",
            _ => &stem[..start - 1 - (path.len() - name.len())],
        };
        return Some(Part {
            split: named(split),
            format,
            number: Some(number),
            total: None,
            set: (&path[..*start], &path[start + last.len()..]),
            width: last.len(),
        });
    }
    let split = named(stem);
    Some(Part { split, format, number: None, total: None, set: (path, ""), width: 0 })
}

/// How many files an error names.
const NAMED: usize = 5;

/// Why the files of a split are not one whole set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// Some are missing.
    #[error("{count} of the {total} parts of `{split}` {} missing: {}",
        if *count == 1 { "is" } else { "are" }, some(missing, *count))]
    Missing {
        /// The split.
        split: String,
        /// The names of the first of them.
        missing: Vec<String>,
        /// How many are missing.
        count: usize,
        /// How many there should be.
        total: usize,
    },
    /// There is more than one set.
    #[error("`{split}` is there more than once: {}", some(sets, sets.len()))]
    Mixed {
        /// The split.
        split: String,
        /// A file of each set.
        sets: Vec<String>,
    },
}

/// Lists names; the first of them where they are many.
fn some(names: &[String], count: usize) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let more = match count - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

/// Chooses the files of a split among those of a dataset, in their order; none where it lacks the
/// split. With `prefer` a split that is there in several formats is read in the first of them.
pub(super) fn choose<'a>(
    files: impl IntoIterator<Item = &'a str>,
    split: &str,
    prefer: bool,
) -> Result<Vec<&'a str>, PartsError> {
    let of_split = files.into_iter().filter_map(|path| Some((path, part(path)?)));
    let mut found: Vec<(&str, Part<'_>)> =
        of_split.filter(|(_, part)| part.split == split).collect();
    if let Some(best) = found.iter().map(|(_, part)| part.format).min().filter(|_| prefer) {
        found.retain(|(_, part)| part.format == best);
    }
    let mut sets: BTreeMap<_, Vec<(&str, Part<'_>)>> = BTreeMap::new();
    for (path, part) in found {
        sets.entry((part.set, part.total)).or_default().push((path, part));
    }
    if sets.len() > 1 {
        let sets = sets.values().map(|set| set[0].0.to_owned()).collect();
        return Err(PartsError::Mixed { split: split.to_owned(), sets });
    }
    let Some(((set, total), mut parts)) = sets.into_iter().next() else { return Ok(Vec::new()) };
    parts.sort_by_key(|(path, part)| (part.number, *path));
    let numbers: BTreeSet<usize> = parts.iter().filter_map(|(_, part)| part.number).collect();
    let names = || parts.iter().map(|(path, _)| (*path).to_owned());
    let wanted = match (total, numbers.first(), numbers.last()) {
        // Some count from 1.
        (Some(total), first, last) if first > Some(&0) && last == Some(&total) => 1..total + 1,
        (Some(total), ..) => 0..total,
        (None, Some(first @ (0 | 1)), Some(last)) => *first..last + 1,
        // Dates and the like.
        _ => return Ok(parts.into_iter().map(|(path, _)| path).collect()),
    };
    let inside = numbers.range(wanted.clone()).count();
    let width = parts[0].1.width;
    let (before, after) = set;
    if inside < wanted.len() {
        let missing = wanted.clone().filter(|number| !numbers.contains(number)).take(NAMED);
        let missing = missing.map(|number| match total {
            Some(total) => format!("{before}{number:0width$}-of-{total:0width$}{after}"),
            None => format!("{before}{number:0width$}{after}"),
        });
        return Err(PartsError::Missing {
            split: split.to_owned(),
            missing: missing.collect(),
            count: wanted.len() - inside,
            total: wanted.len(),
        });
    }
    // A number past the end, or two of one number.
    if parts.len() != wanted.len() {
        return Err(PartsError::Mixed { split: split.to_owned(), sets: names().collect() });
    }
    Ok(parts.into_iter().map(|(path, _)| path).collect())
}

/// Returns the splits that files are of.
pub(super) fn splits<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let of = |path| part(path).map(|part: Part<'_>| part.split.to_owned());
    let mut splits: Vec<String> = files.into_iter().filter_map(of).collect();
    splits.sort();
    splits.dedup();
    splits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_split() {
        let cases = [
            ("test.parquet", "test"),
            ("data/test-00000-of-00002.parquet", "test"),
            ("data/test-00000-of-00002-1a2b3c.parquet", "test"),
            ("test/0000.parquet", "test"),
            ("default/train/0003.parquet", "train"),
            ("dev/data-00000-of-00001.arrow", "dev"),
            ("test-0001.JSONL", "test"),
            ("swe-bench-test.csv", "swe-bench-test"),
            ("one-of-two.json", "one-of-two"),
            ("dev/rows.jsonl", "rows"),
        ];
        for (path, split) in cases {
            assert_eq!(part(path).map(|part| part.split), Some(split), "{path}");
        }
        for path in ["dataset_info.json", "a/state.json", "README.md", ".x.json", "test"] {
            assert_eq!(part(path), None, "{path}");
        }
    }

    fn chosen(files: &[&str], prefer: bool) -> Result<Vec<String>, String> {
        let chosen = choose(files.iter().copied(), "test", prefer);
        let names = chosen.map(|files| files.into_iter().map(str::to_owned).collect());
        names.map_err(|error| error.to_string())
    }

    #[test]
    fn a_set_is_whole_or_refused() {
        let all = ["d/test-00001-of-00002.parquet", "d/test-00000-of-00002.parquet"];
        assert_eq!(chosen(&all, false).unwrap(), [all[1], all[0]]);
        assert_eq!(
            chosen(&all[1..], false).unwrap_err(),
            "1 of the 2 parts of `test` is missing: `d/test-00001-of-00002.parquet`"
        );
        let one = ["test-00003-of-00007.jsonl"];
        let error = chosen(&one, false).unwrap_err();
        assert!(error.contains("6 of the 7") && error.contains("and 1 more"), "{error}");
        for mixed in [
            &["test-00000-of-00001.parquet", "test-00000-of-00002.parquet"][..],
            &["test.jsonl", "test.parquet"],
            &["test.jsonl", "data/test.jsonl"],
            &["test-00000-of-00001-a1.parquet", "test-00000-of-00001-b2.parquet"],
            &["x/test-00000-of-00001.parquet", "y/test-00000-of-00001.parquet"],
        ] {
            let error = chosen(mixed, false).unwrap_err();
            assert!(error.contains("more than once"), "{mixed:?}: {error}");
        }
        assert!(chosen(&["test-00000-of-00002.json", "test-00005-of-00002.json"], false).is_err());
        assert!(chosen(&["test-0.json", "test-2.json"], false).unwrap_err().contains("test-1"));
        assert_eq!(chosen(&["test-1.json", "test-2.json"], false).unwrap().len(), 2);
        assert_eq!(chosen(&["test-20240612.json"], false).unwrap().len(), 1);
        assert!(chosen(&["test-1-of-9999999999.json"], false).is_err());
        assert_eq!(chosen(&["test-1-of-2.json", "test-2-of-2.json"], false).unwrap().len(), 2);
        assert_eq!(chosen(&["test/1.json", "test/0.json"], false).unwrap()[0], "test/0.json");
        assert_eq!(chosen(&["test.jsonl", "test.parquet"], true).unwrap(), ["test.parquet"]);
        assert!(chosen(&["dev.jsonl"], false).unwrap().is_empty());
    }
}
