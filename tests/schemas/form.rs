//! The schemas themselves.

use std::collections::{BTreeMap, BTreeSet};

use clap::Command;
use serde_json::{Value, json};

use crate::common::schema::{all, check};
use crate::machine::PROGRAM;

/// Schemas of files.
pub(crate) const OF_FILES: [&str; 9] = [
    "dataset-row",
    "events",
    "instance-report",
    "predictions",
    "protocol",
    "run-report",
    "run-settings",
    "smoke-config",
    "smoke-events",
];

/// Lists the commands that print a document, as schemas are named.
pub(crate) fn commands() -> BTreeSet<String> {
    fn add(command: &Command, path: &str, found: &mut BTreeSet<String>) {
        let below: Vec<&Command> =
            command.get_subcommands().filter(|one| one.get_name() != "help").collect();
        for one in &below {
            add(one, format!("{path}-{}", one.get_name()).trim_start_matches('-'), found);
        }
        let json = command.get_arguments().find(|arg| arg.get_id() == "json").unwrap();
        // It is taken everywhere, and listed where it means something.
        let does = below.is_empty() || !command.is_subcommand_required_set();
        if does && !json.is_hide_set() {
            found.insert(path.to_owned());
        }
    }
    let mut found = BTreeSet::new();
    let mut command = imgforge::cli::command();
    command.build();
    add(&command, "", &mut found);
    found
}

#[test]
fn every_command_with_json_has_a_schema_and_every_schema_is_of_something() {
    let mut expected = commands();
    for name in ["plan", "cache-why", "bundle-use", "config-show", "schema"] {
        assert!(expected.contains(name), "{name} in {expected:?}");
    }
    for name in ["run", "shell", "completions", "man", "cache"] {
        assert!(!expected.contains(name), "{name} in {expected:?}");
    }
    expected.extend(OF_FILES.map(str::to_owned));
    expected.insert("error".to_owned());
    let found: BTreeSet<String> = all().into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, expected);
}

/// Calls `see` with every schema within a schema, and where it is.
fn each<'a>(schema: &'a Value, place: String, see: &mut dyn FnMut(&'a Value, &str)) {
    see(schema, &place);
    for (name, below) in schema.as_object().into_iter().flatten() {
        let place = format!("{place}/{name}");
        match (name.as_str(), below) {
            ("properties" | "$defs", Value::Object(fields)) => {
                for (name, field) in fields {
                    each(field, format!("{place}/{name}"), see);
                }
            }
            ("anyOf", Value::Array(forms)) => {
                for (at, form) in forms.iter().enumerate() {
                    each(form, format!("{place}/{at}"), see);
                }
            }
            ("items" | "additionalProperties", Value::Object(_)) => each(below, place, see),
            ("enum" | "required" | "type" | "const", _) => {}
            (name, Value::Array(_) | Value::Object(_)) => panic!("{place}: `{name}` is not read"),
            _ => {}
        }
    }
}

fn is_type(schema: &Value, wanted: &str) -> bool {
    match &schema["type"] {
        Value::String(own) => own == wanted,
        Value::Array(all) => all.iter().any(|own| own == wanted),
        _ => false,
    }
}

#[test]
fn every_schema_is_one_and_says_what_every_field_is() {
    let mut titles = BTreeMap::new();
    let mut definitions: BTreeMap<String, (String, Value)> = BTreeMap::new();
    for (file, schema) in all() {
        jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{file}");
        let title = schema["title"].as_str().unwrap().to_owned();
        if let Some(other) = titles.insert(title, file.clone()) {
            panic!("{file} has the title of {other}");
        }
        let text = schema.to_string();
        // Every file stands alone, and what several define is the same in all.
        for (name, own) in schema["$defs"].as_object().into_iter().flatten() {
            assert!(text.contains(&format!("\"#/$defs/{name}\"")), "{file}: nothing is a {name}");
            let (first, known) =
                definitions.entry(name.clone()).or_insert_with(|| (file.clone(), own.clone()));
            assert_eq!(known, own, "{name} is another thing in {file} than in {first}");
        }
        each(&schema, String::new(), &mut |one, place| {
            let at = format!("{file}{place}");
            // Null beside another form, and a further condition on what is described already.
            let is_condition = one.get("type").is_none() && one.get("required").is_some();
            if *one == json!({ "type": "null" }) || is_condition {
                return;
            }
            let referred = one["$ref"].as_str().map(|to| {
                let to = to.strip_prefix('#').unwrap_or_else(|| panic!("{at} leads elsewhere"));
                schema.pointer(to).unwrap_or_else(|| panic!("{at} leads nowhere"))
            });
            let says = |one: &Value| one["description"].as_str().is_some_and(|text| text.len() > 3);
            assert!(says(one) || referred.is_some_and(says), "{at} is not described");
            let kinds = ["type", "enum", "const", "anyOf", "$ref"];
            assert!(kinds.iter().any(|kind| one.get(kind).is_some()), "{at} may be anything");
            if is_type(one, "object") {
                assert!(one.get("additionalProperties").is_some(), "{at} does not say what else");
            }
            if is_type(one, "array") {
                assert!(one.get("items").is_some(), "{at} does not say of what");
            }
            for name in one["required"].as_array().into_iter().flatten() {
                assert!(one["properties"].get(name.as_str().unwrap()).is_some(), "{at}: {name}");
            }
        });
    }
}

#[test]
fn a_schema_is_printed_as_it_is_and_a_slip_is_named() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(PROGRAM).arg("schema").args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), output.stdout, said)
    };
    let (_, listed, _) = run(&["--json"]);
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    check("schema", &listed);
    let names = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), all().iter().map(|(name, _)| name).collect::<Vec<_>>());
    let (_, lines, _) = run(&[]);
    assert_eq!(String::from_utf8(lines).unwrap().lines().count(), all().len());
    for (name, schema) in all() {
        let (status, printed, _) = run(&[&name]);
        assert_eq!(status, Some(0));
        assert_eq!(serde_json::from_slice::<Value>(&printed).unwrap(), schema, "{name}");
        check("schema", &schema);
    }
    let (status, printed, said) = run(&["cache-lst"]);
    assert_eq!((status, printed.len()), (Some(2), 0));
    assert!(said.contains("the nearest is `cache-ls`"), "{said}");
}
