//! The table of cases that the tests of the Python package read too.

use serde_json::{Value, json};

use super::{Action, CommandFile, observation};

fn table() -> Value {
    serde_json::from_str(include_str!("../../tests/gym/cases.json")).unwrap()
}

fn cases(name: &str) -> Vec<Value> {
    let cases = table()[name].as_array().unwrap().clone();
    assert!(cases.len() > 10, "{name}");
    cases
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap()
}

#[test]
fn actions_are_read_and_quoted_as_in_python() {
    for case in cases("actions") {
        let action = Action::read(text(&case, "text"));
        let parameters: Vec<Value> = action.parameters.iter().map(|pair| json!(pair)).collect();
        let found = match action.command() {
            Ok(command) => json!({ "command": command }),
            Err(error) => json!({ "refused": error.to_string() }),
        };
        let mut found = found;
        found["text"] = case["text"].clone();
        found["function"] = json!(action.function);
        found["parameters"] = json!(parameters);
        assert_eq!(found, case);
    }
}

#[test]
fn files_of_commands_are_read_as_in_python() {
    for case in cases("files") {
        match CommandFile::read(text(&case, "name"), text(&case, "text").as_bytes()) {
            Ok(file) => {
                let commands: Vec<Value> = file
                    .commands
                    .iter()
                    .map(|command| {
                        let mut document = json!(command);
                        document["code"] = json!(command.code);
                        document
                    })
                    .collect();
                assert_eq!(json!(commands), case["commands"], "{case:#}");
            }
            Err(error) => {
                let expected = &case["error"];
                assert_eq!(json!(error.line), expected["line"], "{error}: {case:#}");
                if let Some(message) = expected["message"].as_str() {
                    assert_eq!(error.message, message);
                }
                assert!(!error.message.contains('\n'), "{error}");
            }
        }
    }
}

#[test]
fn the_order_of_arguments_is_that_of_the_file() {
    let text = "#!/bin/sh\n# @yaml\n# docstring: a\n# arguments:\n#   z:\n#     required: true\n\
                #   a:\n#     required: false\n";
    let file = CommandFile::read("x", text.as_bytes()).unwrap();
    assert_eq!(file.commands[0].signature.as_deref(), Some("x <z> [<a>]"));
}

#[test]
fn observations_are_those_of_python() {
    for case in cases("observations") {
        let function = text(&case, "function").to_owned();
        let action = Action { function, parameters: Default::default() };
        let told = observation(&action, text(&case, "output"), text(&case, "code"));
        assert_eq!(told, text(&case, "text"), "{case:#}");
    }
}

#[test]
fn what_is_no_file_of_commands_is_refused() {
    let error = CommandFile::read("x.py", b"#!/bin/sh\n\n# \xff\n").unwrap_err();
    assert_eq!(error.to_string(), "x.py:3: this is not UTF-8");
    for name in ["", "..", "a/b", "it's", "a\nb"] {
        assert!(CommandFile::read(name, b"f() {\n}\n").is_err(), "{name}");
    }
}
