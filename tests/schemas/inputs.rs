//! What is read: a file that follows the schema is taken, and one that does not is refused.

use std::path::Path;

use imgforge::dataset::{self, HubSettings, prediction};
use serde_json::{Value, json};

use crate::common::schema::{errors, validator};

/// Predictions: the name of the file, its text, and whether it is taken.
const PREDICTIONS: &[(&str, &str, bool)] = &[
    ("a.json", r#"[{"instance_id": "a", "model_name_or_path": "m", "model_patch": "x"}]"#, true),
    ("a.json", r#"[{"instance_id": "a", "model_patch": null, "more": 1}]"#, true),
    ("a.json", r#"[{"instance_id": "a", "model": "m", "patch": ""}]"#, true),
    ("a.json", r#"[{"instance_id": "a", "prefix": "m", "prediction": "x"}]"#, true),
    ("a.json", r#"[{"instance_id": "a", "test_result": {"git_patch": "x", "b": 1}}]"#, true),
    ("a.json", r#"{"a": {"model_patch": "x"}, "b": {"instance_id": "b", "patch": "x"}}"#, true),
    ("a.jsonl", r#"{"instance_id": "a", "model_patch": "x", "model_name_or_path": null}"#, true),
    ("a.pred", r#"{"instance_id": "a", "model_patch": "x"}"#, true),
    ("a.json", r#"[{"model_patch": "x"}]"#, false),
    ("a.json", r#"[{"instance_id": "", "model_patch": "x"}]"#, false),
    ("a.json", r#"[{"instance_id": 3, "model_patch": "x"}]"#, false),
    ("a.json", r#"[{"instance_id": "a"}]"#, false),
    ("a.json", r#"[{"instance_id": "a", "model_patch": 3}]"#, false),
    ("a.json", r#"[{"instance_id": "a", "model_patch": ["x"]}]"#, false),
    ("a.json", r#"[{"instance_id": "a", "model_patch": "x", "model_name_or_path": 3}]"#, false),
    ("a.json", r#"[{"instance_id": "a", "test_result": {"b": 1}}]"#, false),
    ("a.json", r#"["x"]"#, false),
    ("a.json", r#"{"a": "x"}"#, false),
    ("a.json", r#"{"a": {"model_name_or_path": "m"}}"#, false),
    ("a.jsonl", r#"{"model_patch": "x"}"#, false),
];

#[test]
fn predictions_are_taken_where_they_follow_the_schema() {
    let validator = validator("predictions");
    for (name, text, taken) in PREDICTIONS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let read = prediction::read(path.to_str().unwrap(), &[]);
        assert_eq!(read.is_ok(), *taken, "{text}: {read:?}");
        let document: Value = serde_json::from_str(text).unwrap();
        let errors = errors(&validator, &document);
        assert_eq!(errors.is_empty(), *taken, "{text}: {errors}");
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/predictions.jsonl");
    let demo = std::fs::read_to_string(demo).unwrap();
    for line in demo.lines() {
        let errors = errors(&validator, &serde_json::from_str(line).unwrap());
        assert!(errors.is_empty(), "{errors}");
    }
}

#[tokio::test]
async fn rows_are_taken_where_they_follow_the_schema() {
    let validator = validator("dataset-row");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/test.jsonl");
    let demo = std::fs::read_to_string(demo).unwrap();
    let rows: Vec<Value> = demo.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut cases: Vec<(Value, bool)> = rows.iter().map(|row| (row.clone(), true)).collect();
    for (field, value, taken) in [
        ("version", json!(1.5), true),
        ("version", json!(null), true),
        ("a_column_of_its_own", json!([1]), true),
        ("FAIL_TO_PASS", json!("[\"a\"]"), true),
        ("workdir", json!(null), true),
        ("instance_id", json!("../x"), false),
        ("instance_id", json!("a b"), false),
        ("instance_id", json!(null), false),
        ("repo", json!("abacus"), false),
        ("repo", json!("a/b/c"), false),
        ("base_commit", json!("main"), false),
        ("base_commit", json!(3), false),
        ("FAIL_TO_PASS", json!(3), false),
        ("patch", json!(3), false),
    ] {
        let mut row = rows[0].clone();
        row[field] = value;
        cases.push((row, taken));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let hub = HubSettings { offline: true, ..HubSettings::from_env(|_| None) };
    for (row, taken) in cases {
        std::fs::write(&path, row.to_string() + "\n").unwrap();
        let read = dataset::load(path.to_str().unwrap(), "test", &hub).await;
        let is_taken = read.as_ref().is_ok_and(|read| read.instances.len() == 1);
        assert_eq!(is_taken, taken, "{row}: {read:?}");
        let errors = errors(&validator, &row);
        assert_eq!(errors.is_empty(), taken, "{row}: {errors}");
    }
}
