//! Which part of the source may use which: the table of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

type Rooms = BTreeMap<String, BTreeSet<String>>;

/// What a room may use that may use every other.
const ANY: &str = "any";

fn table() -> Rooms {
    let page = std::fs::read_to_string("docs/architecture.md").unwrap();
    let rows = page.lines().skip_while(|line| *line != "| room | holds | uses |").skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [room, _, uses] = cells[..] else { panic!("`{row}` has not three cells") };
        let uses = uses.split(", ").filter(|name| *name != "-").map(str::to_owned);
        (room.to_owned(), uses.collect())
    })
    .collect()
}

/// The code of the files below a path, without comments and tests.
fn code(below: &Path) -> Vec<(PathBuf, String)> {
    let comment = Regex::new("//[^\n]*").unwrap();
    let files = walkdir::WalkDir::new(below).into_iter().map(|entry| entry.unwrap().into_path());
    let is_code = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs"
    };
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = comment.replace_all(text, "").into_owned();
        (file, code)
    };
    files.filter(is_code).map(read).collect()
}

/// What each room uses, read from the paths in its files.
fn source() -> Rooms {
    let path = Regex::new(r"\bcrate::([a-z]\w*)").unwrap();
    let group = Regex::new(r"\bcrate::\{([^;]*)\};").unwrap();
    let of_group = Regex::new(r"(?:^|,)\s*([a-z]\w*)").unwrap();
    let mut rooms = Rooms::new();
    for (file, code) in code(Path::new("src")) {
        if ["src/lib.rs", "src/main.rs"].map(Path::new).contains(&&*file) {
            continue;
        }
        let room = file.iter().nth(1).unwrap().to_str().unwrap().trim_end_matches(".rs");
        let named = path.captures_iter(&code).map(|found| found[1].to_owned());
        let grouped = group.captures_iter(&code).flat_map(|found| {
            let names = of_group.captures_iter(found.get(1).unwrap().as_str());
            names.map(|found| found[1].to_owned()).collect::<Vec<_>>()
        });
        let uses = rooms.entry(room.to_owned()).or_default();
        uses.extend(named.chain(grouped).filter(|used| used != room));
    }
    rooms
}

#[test]
fn every_room_uses_what_the_architecture_page_says_and_nothing_else() {
    let (table, source) = (table(), source());
    let listed: Vec<&String> = table.keys().collect();
    assert_eq!(listed, source.keys().collect::<Vec<_>>(), "the rooms of the page, and of `src`");
    for (room, uses) in &source {
        let may = &table[room];
        if may.contains(ANY) {
            continue;
        }
        assert_eq!(may, uses, "what `{room}` may use by the page, and what it uses");
    }
}

#[test]
fn no_way_leads_back() {
    let source = source();
    // Whoever uses only rooms that are done is done; what is left is a circle.
    let mut done: BTreeSet<&String> = BTreeSet::new();
    while let Some((room, _)) = source
        .iter()
        .find(|(room, uses)| !done.contains(room) && uses.iter().all(|used| done.contains(used)))
    {
        done.insert(room);
    }
    let left: Vec<&String> = source.keys().filter(|room| !done.contains(room)).collect();
    assert!(left.is_empty(), "these stand on each other: {left:?}");
}

#[test]
fn what_is_pure_reads_no_clock_and_opens_nothing() {
    let banned =
        Regex::new(r"std::(fs|net|process|time::(Instant|SystemTime))|\btokio\b|async fn").unwrap();
    for room in ["recipe", "plan", "grade", "report", "key.rs", "patch.rs"] {
        for (file, code) in code(&Path::new("src").join(room)) {
            let found = banned.find(&code).map(|found| found.as_str().to_owned());
            assert_eq!(found, None, "in {}", file.display());
        }
    }
}
