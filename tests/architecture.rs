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

/// The path of a module, from the root of the crate.
type Module = Vec<String>;

/// The modules of `src` with their code; a folder's own file is the module of the folder.
fn modules() -> BTreeMap<Module, String> {
    let name = |file: &Path| {
        let inside = file.strip_prefix("src").unwrap().with_extension("");
        let mut path: Module = inside.iter().map(|part| part.to_str().unwrap().into()).collect();
        if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            path.pop();
        }
        path
    };
    code(Path::new("src")).into_iter().map(|(file, code)| (name(&file), code)).collect()
}

/// Writes out the paths of a `use`: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn expanded(tree: &str) -> Vec<Module> {
    let Some((start, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.split("::").map(|part| part.trim().to_owned()).collect()];
    };
    let start: Module = start
        .split("::")
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in rest[..rest.rfind('}').unwrap()].chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        match letter {
            ',' if depth == 0 => parts.push(String::new()),
            letter => parts.last_mut().unwrap().push(letter),
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(expanded).map(|path| [&start[..], &path[..]].concat()).collect()
}

/// Returns a path from the root of the crate; `None` where it leads out of the crate.
fn absolute(path: &[String], module: &Module) -> Option<Module> {
    let mut from = match path.first()?.as_str() {
        "crate" => return Some(path[1..].to_vec()),
        "super" | "self" => module.clone(),
        _ => return None,
    };
    let steps = path.iter().take_while(|part| ["super", "self"].contains(&part.as_str()));
    from.truncate(from.len().checked_sub(steps.clone().filter(|part| *part == "super").count())?);
    from.extend(path[steps.count()..].iter().filter(|part| *part != "self").cloned());
    Some(from)
}

/// The module of an item, through what modules hand on by `pub use`.
fn home(mut path: Module, modules: &BTreeMap<Module, String>, named: &Named) -> Module {
    for _ in 0..6 {
        let longest = (0..=path.len()).rev().find(|end| modules.contains_key(&path[..*end]));
        let end = longest.unwrap_or_default();
        let next = path.get(end).and_then(|name| named.get(&(path[..end].to_vec(), name.clone())));
        match next {
            Some(target) => path = [&target[..], &path[end + 1..]].concat(),
            None => return path[..end].to_vec(),
        }
    }
    path
}

/// By a module and a name: where the module has the name from.
type Named = BTreeMap<(Module, String), Module>;

#[test]
fn no_files_beside_each_other_form_a_circle() {
    let modules = modules();
    let use_line = Regex::new(r"(?m)^\s*use ([\w:{},\s*]+);").unwrap();
    let handed_on = Regex::new(r"(?m)^\s*pub(?:\([^)]*\))? use ([\w:{},\s*]+);").unwrap();
    let written_out = Regex::new(r"(?:crate|super|self)(?:::\w+)+").unwrap();
    let mut named = Named::new();
    for (module, code) in &modules {
        let trees = handed_on.captures_iter(code).flat_map(|found| expanded(&found[1]));
        for path in trees {
            let name = path.last().unwrap().clone();
            let inside = || [&module[..], &path[..]].concat();
            named.insert((module.clone(), name), absolute(&path, module).unwrap_or_else(inside));
        }
    }
    let mut uses: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, code) in &modules {
        let code = handed_on.replace_all(code, "");
        let trees = use_line.captures_iter(&code).flat_map(|found| expanded(&found[1]));
        let bodies = use_line.replace_all(&code, "");
        let written =
            written_out.find_iter(&bodies).map(|found| expanded(found.as_str()).remove(0));
        for path in trees.chain(written).filter_map(|path| absolute(&path, module)) {
            let home = home(path, &modules, &named);
            let shared = module.iter().zip(&home).take_while(|(one, other)| one == other).count();
            // A module and what is inside it are one; so are the folders that two files are in.
            if shared < module.len() && shared < home.len() {
                let (one, other) = (module[..=shared].to_vec(), home[..=shared].to_vec());
                uses.entry(other.clone()).or_default();
                uses.entry(one).or_default().insert(other);
            }
        }
    }
    while let Some(module) = {
        let free = uses.iter().find(|(_, used)| used.iter().all(|used| !uses.contains_key(used)));
        free.map(|(module, _)| module.clone())
    } {
        uses.remove(&module);
    }
    let left: Vec<String> = uses.keys().map(|module| module.join("::")).collect();
    assert!(left.is_empty(), "these stand on each other, or on a circle: {left:?}");
}
