//! Documents held against the files of `schemas/`.

use std::path::Path;

use jsonschema::Validator;
use serde_json::{Value, json};

/// Reads the schemas: name and schema, by name.
pub(crate) fn all() -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let mut all: Vec<(String, Value)> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            let name = file.strip_suffix(".schema.json").expect("there is nothing else");
            let text = std::fs::read_to_string(&path).unwrap();
            let schema = serde_json::from_str(&text);
            (name.to_owned(), schema.unwrap_or_else(|error| panic!("{file}: {error}")))
        })
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

/// Compiles the schema of a name.
pub(crate) fn validator(name: &str) -> Validator {
    let schema = all().into_iter().find(|(own, _)| own == name);
    let (_, schema) = schema.unwrap_or_else(|| panic!("`{name}` has no schema"));
    jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Lists what a document has against its schema, one a line.
pub(crate) fn errors(validator: &Validator, document: &Value) -> String {
    let lines = validator.iter_errors(document);
    lines.map(|error| format!("  {}: {error}\n", error.instance_path())).collect()
}

/// Objects of which a schema leaves the fields open, by the name of the schema and the place.
const OPEN: &[(&str, &str)] = &[("cache-why", "/inputs"), ("schema", "")];

/// Checks that a document follows its schema, and that the schema lets no object of it have a field
/// more: what is added to a document has to be added to its schema.
pub(crate) fn check(name: &str, document: &Value) {
    let validator = validator(name);
    let errors = errors(&validator, document);
    assert!(errors.is_empty(), "{name}:\n{errors}{document:#}");
    let mut objects = Vec::new();
    find_objects(document, String::new(), &mut objects);
    let is_open = |place: &str| {
        let open = OPEN.iter().filter(|(of, _)| *of == name);
        open.into_iter().any(|(_, open)| place.starts_with(open))
    };
    // A list has a schema of its own for each of its rows: those of the list of schemas are closed.
    let is_list = document.is_array();
    for place in objects.iter().filter(|place| is_list || !is_open(place)) {
        let mut more = document.clone();
        // No map of texts, numbers or reports takes it either.
        more.pointer_mut(place).unwrap()["of a later version"] = json!({ "x": [] });
        assert!(!validator.is_valid(&more), "{name}: `{place}` may have any field");
    }
}

/// Finds the objects of a document, of long lists those of the first rows.
fn find_objects(document: &Value, place: String, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                find_objects(value, format!("{place}/{name}"), found);
            }
            found.push(place);
        }
        Value::Array(rows) => {
            for (at, row) in rows.iter().enumerate().take(8) {
                find_objects(row, format!("{place}/{at}"), found);
            }
        }
        _ => {}
    }
}
