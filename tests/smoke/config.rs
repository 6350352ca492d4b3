//! Configurations: three ways to write one, and what is wrong with others.

use std::time::Duration;

use imgforge::smoke::{
    CommandLine, ConfigError, Configured, Format, Network, Origin, Resources, read_file, read_text,
};

use crate::bench::Space;
use crate::common::schema::{check, validator};

const TOML: &str = r#"
name = "first"
[sandbox]
image = "python:3.11"
workdir = "/src/repo/"
env = { A = "1" }
timeouts = { command = "90s", stage = 1800 }
resources = { memory = "2g", cpus = 1.5, pids = 100 }
network = ["pypi.org", "*.pythonhosted.org"]
[repo]
url = "https://github.com/psf/requests"
ref = "v2.0.0"
patches = ["fix.patch"]
compat = ["collections-abc", "setuptools-cap=58"]
[task]
setup = ["pip install .", ["python", "-c", "1"]]
test = "pytest -q"
expected_fail = true
env = { B = "2" }
"#;

const YAML: &str = r#"
name: first
sandbox:
  image: python:3.11
  workdir: /src/repo
  env: {A: "1"}
  timeouts: {command: 1m 30s, stage: 30m}
  resources: {memory: 2147483648, cpus: "1.5", pids: 100}
  network: [pypi.org, "*.pythonhosted.org"]
repo:
  url: https://github.com/psf/requests
  ref: v2.0.0
  patches: [fix.patch]
  compat: [collections-abc, setuptools-cap=58]
task:
  setup:
    - pip install .
    - [python, -c, "1"]
  test: pytest -q
  expected_fail: true
  env: {B: "2"}
"#;

const JSON: &str = r#"{
"name": "first",
"sandbox": {"image": "python:3.11", "workdir": "/src/repo", "env": {"A": "1"},
  "timeouts": {"command": 90, "stage": "1800s"},
  "resources": {"memory": "2GiB", "cpus": 1.5, "pids": 100},
  "network": ["pypi.org", "*.pythonhosted.org"]},
"repo": {"url": "https://github.com/psf/requests", "ref": "v2.0.0", "patches": ["fix.patch"],
  "compat": ["collections-abc", "setuptools-cap=58"]},
"task": {"setup": ["pip install .", ["python", "-c", "1"]], "test": "pytest -q",
  "expected_fail": true, "env": {"B": "2"}}}"#;

fn read(space: &Space, text: &str, format: Format) -> Result<Configured, ConfigError> {
    read_text("f", text, format, space.path())
}

#[test]
fn three_ways_to_write_a_run_are_one_run() {
    let space = Space::new();
    let forms = [(TOML, Format::Toml), (YAML, Format::Yaml), (JSON, Format::Json)];
    let forms = forms.map(|(text, format)| read(&space, text, format).unwrap());
    assert_eq!(forms[0], forms[1]);
    assert_eq!(forms[0], forms[2]);
    check("smoke-config", &serde_json::from_str(JSON).unwrap());
    let [run] = &forms[0].runs[..] else { panic!() };
    assert_eq!(run.name.as_deref(), Some("first"));
    assert_eq!(run.sandbox.timeouts.command, Duration::from_secs(90));
    assert_eq!(run.sandbox.timeouts.stage, Duration::from_secs(1800));
    let resources = Resources { memory: Some(2 << 30), milli_cpus: Some(1500), pids: Some(100) };
    assert_eq!(run.sandbox.resources, resources);
    assert!(matches!(&run.sandbox.network, Network::Hosts(hosts) if hosts.len() == 2));
    assert_eq!(run.repo.origin, Origin::Url("https://github.com/psf/requests".to_owned()));
    assert_eq!(run.repo.patches[0].bytes, std::fs::read(space.path().join("fix.patch")).unwrap());
    assert_eq!(run.task.setup[0], CommandLine::Shell("pip install .".to_owned()));
    assert_eq!(run.task.setup[1].argv(), ["python", "-c", "1"]);
}

#[test]
fn what_is_left_out_has_a_default() {
    let space = Space::new();
    let text = "sandbox: {image: x}\nrepo: {path: repo, ref: main}\ntask: {test: [make, check]}\n";
    let run = read(&space, text, Format::Yaml).unwrap().runs.remove(0);
    assert_eq!(run.sandbox.workdir, "/testbed");
    assert_eq!(run.sandbox.timeouts.command, Duration::from_secs(600));
    assert_eq!(run.sandbox.timeouts.stage, Duration::from_secs(3600));
    assert_eq!((run.sandbox.network, run.task.expected_fail), (Network::None, false));
    assert_eq!(run.repo.origin, Origin::Path(space.path().join("repo").canonicalize().unwrap()));
}

#[test]
fn runs_of_a_list_have_what_stands_above_it() {
    let space = Space::new();
    let text = "sandbox: {image: x}\nrepo: {path: repo, ref: main}\n\
                runs:\n- {name: a, task: {test: a}}\n- {task: {test: b}, sandbox: {image: y}}\n";
    let configured = read(&space, text, Format::Yaml).unwrap();
    assert!(configured.is_list);
    let names = configured.runs.iter().map(|run| run.name.as_deref().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["a", "2"]);
    assert_eq!(configured.runs[0].sandbox.image, "x");
    assert_eq!(configured.runs[1].sandbox.image, "y");
}

/// A change of the JSON form, and what is said of it: the key, a part of the text, the nearest name.
type Wrong<'a> = (&'a str, &'a str, &'a str, &'a str, Option<&'a str>);

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let space = Space::new();
    std::fs::write(space.path().join("empty.patch"), "\n").unwrap();
    let table: &[Wrong<'_>] = &[
        (
            "\"command\": 90",
            "\"comand\": 90",
            "sandbox.timeouts.comand",
            "unknown",
            Some("command"),
        ),
        ("\"task\"", "\"tasks\"", "tasks", "unknown field", Some("task")),
        ("\"cpus\"", "\"cpu\"", "sandbox.resources.cpu", "unknown field", Some("cpus")),
        ("\"command\": 90", "\"command\": 0", "sandbox.timeouts.command", "more than 0", None),
        ("\"1800s\"", "\"soon\"", "sandbox.timeouts.stage", "`soon` is no time", None),
        ("\"2GiB\"", "\"2 potatoes\"", "sandbox.resources.memory", "amount of bytes", None),
        ("\"2GiB\"", "\"1k\"", "sandbox.resources.memory", "too little", None),
        ("\"cpus\": 1.5", "\"cpus\": 0", "sandbox.resources.cpus", "at least", None),
        ("\"pids\": 100", "\"pids\": 3", "sandbox.resources.pids", "too few", None),
        ("[\"pypi.org\", \"*.pythonhosted.org\"]", "\"hots\"", "sandbox.network", "`host`", None),
        ("[\"pypi.org\", \"*.pythonhosted.org\"]", "[]", "sandbox.network", "empty", None),
        ("[\"pypi.org\"", "[\"10.0.0.1\"", "sandbox.network", "is an address", None),
        ("\"image\": \"python:3.11\"", "\"image\": 5", "sandbox.image", "invalid type", None),
        ("\"image\": \"python:3.11\"", "\"image\": \" \"", "sandbox.image", "empty", None),
        ("\"image\": \"python:3.11\", ", "", "sandbox", "missing field `image`", None),
        ("\"/src/repo\"", "\"src\"", "sandbox.workdir", "absolute", None),
        ("\"/src/repo\"", "\"/\"", "sandbox.workdir", "absolute", None),
        ("\"/src/repo\"", "\"/a/../b\"", "sandbox.workdir", "absolute", None),
        ("{\"A\": \"1\"}", "{\"A\": 1}", "sandbox.env.A", "invalid type", None),
        ("{\"A\": \"1\"}", "{\"A=B\": \"1\"}", "sandbox.env.A=B", "no variable", None),
        ("\"ref\": \"v2.0.0\"", "\"path\": \"repo\", \"ref\": \"v2.0.0\"", "repo", "both", None),
        ("\"url\": \"https://github.com/psf/requests\", ", "", "repo", "neither", None),
        ("\"https://github.com/psf/requests\"", "\"/repo\"", "repo.url", "no URL", None),
        ("\"ref\": \"v2.0.0\", ", "", "repo", "missing field `ref`", None),
        ("\"v2.0.0\"", "\"--upload-pack=x\"", "repo.ref", "no branch", None),
        ("[\"fix.patch\"]", "[]", "repo.patches", "empty", None),
        ("[\"fix.patch\"]", "[\"no.patch\"]", "repo.patches[0]", "`no.patch`", None),
        ("[\"fix.patch\"]", "[\"empty.patch\"]", "repo.patches[0]", "is empty", None),
        ("\"collections-abc\"", "\"colections-abc\"", "repo.compat[0]", "collections-abc", None),
        ("[\"pip install .\", [\"python\", \"-c\", \"1\"]]", "[]", "task.setup", "empty", None),
        ("[\"python\", \"-c\", \"1\"]", "[]", "task.setup[1]", "names no program", None),
        ("\"pytest -q\"", "[]", "task.test", "names no program", None),
        ("\"pytest -q\"", "7", "task.test", "a command", None),
        ("\"pytest -q\"", "\"  \"", "task.test", "names no program", None),
        (
            "\"expected_fail\": true",
            "\"expected_fail\": \"yes\"",
            "task.expected_fail",
            "bool",
            None,
        ),
        ("\"test\": \"pytest -q\",", "", "task", "missing field `test`", None),
        ("\"name\": \"first\"", "\"name\": \"a/b\"", "name", "is no name", None),
        ("\"name\": \"first\"", "\"runs\": []", "runs", "empty", None),
        ("\"name\": \"first\"", "\"name\": \"first\", \"name\": \"b\"", "", "duplicate", None),
    ];
    for (old, new, key, said, nearest) in table {
        assert!(JSON.contains(old), "{old}");
        let error = read(&space, &JSON.replacen(old, new, 1), Format::Json).unwrap_err();
        assert_eq!(error.key.trim_end_matches('.'), *key, "{new}: {error}");
        assert!(error.message.contains(said), "{new}: {error}");
        assert_eq!(error.nearest.as_deref(), *nearest, "{new}: {error}");
    }
    // What has another form than it is to have, the schema does not take either.
    let schema = validator("smoke-config");
    let form = ["unknown", "missing field", "invalid type", "a command", "bool", "too few"];
    for (old, new, _, said, _) in table.iter().filter(|row| form.contains(&row.3)) {
        let value = serde_json::from_str(&JSON.replacen(old, new, 1)).unwrap();
        assert!(!schema.is_valid(&value), "{new}: {said}");
    }
    for text in ["", "[]", "{", "name: ["] {
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            assert!(read(&space, text, format).is_err(), "{text:?} as {format:?}");
        }
    }
    let toml = TOML.replacen("stage", "stege", 1);
    let error = read(&space, &toml, Format::Toml).unwrap_err();
    assert_eq!(
        (error.key.as_str(), error.nearest.as_deref()),
        ("sandbox.timeouts.stege", Some("stage"))
    );
    let yaml = YAML.replacen("stage", "stege", 1);
    let error = read(&space, &yaml, Format::Yaml).unwrap_err();
    assert_eq!(
        (error.key.as_str(), error.nearest.as_deref()),
        ("sandbox.timeouts.stege", Some("stage"))
    );
    let twice = "sandbox: {image: x}\nsandbox: {image: y}\n";
    assert!(read(&space, twice, Format::Yaml).unwrap_err().message.contains("uplicate"));
}

#[test]
fn places_in_a_list_have_their_number() {
    let space = Space::new();
    let list = |second: &str| {
        let text = format!(
            "sandbox: {{image: x}}\nrepo: {{path: repo, ref: main}}\n\
             runs:\n- {{name: a, task: {{test: a}}}}\n- {second}\n"
        );
        read(&space, &text, Format::Yaml).unwrap_err()
    };
    for (second, key, said) in [
        ("{name: a, task: {test: b}}", "runs[1].name", "two runs"),
        ("{name: b}", "runs[1].task", "missing"),
        ("{task: {tests: b}}", "runs[1].task.tests", "unknown"),
        ("{task: {test: b}, sandbox: {image: ''}}", "runs[1].sandbox.image", "empty"),
    ] {
        let error = list(second);
        assert_eq!(error.key, key, "{error}");
        assert!(error.message.contains(said), "{error}");
    }
    let text = "name: a\nruns:\n- {task: {test: b}}\n";
    assert_eq!(read(&space, text, Format::Yaml).unwrap_err().key, "name");
}

#[test]
fn the_ending_of_a_file_says_how_it_is_written() {
    let space = Space::new();
    for (name, text) in [("a.toml", TOML), ("a.yaml", YAML), ("a.yml", YAML), ("a.json", JSON)] {
        let path = space.path().join(name);
        std::fs::write(&path, text).unwrap();
        assert_eq!(read_file(&path).unwrap().runs.len(), 1, "{name}");
    }
    let other = space.path().join("a.ini");
    std::fs::write(&other, TOML).unwrap();
    assert!(read_file(&other).unwrap_err().message.contains(".toml"));
    let none = read_file(&space.path().join("none.toml")).unwrap_err();
    assert!(none.to_string().contains("none.toml"), "{none}");
    std::fs::write(space.path().join("b.json"), [b'"', 0xff, b'"']).unwrap();
    assert!(read_file(&space.path().join("b.json")).is_err());
}
