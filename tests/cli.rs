//! Bad input and bad days: what the binary says, and the status that it ends with. No engine.

use std::process::{Command, Output};

mod common;

use common::needs;

struct Space(tempfile::TempDir);

impl Space {
    fn new() -> Space {
        Space(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("IMGFORGE_STATE_DIR", self.0.path().join("state"))
            .env("HF_HOME", self.0.path().join("hf"))
            .env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs and checks the status; returns stderr.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }
}

fn row(id: &str, more: &str) -> String {
    format!(
        "{{\"instance_id\":\"{id}\",\"repo\":\"pallets/flask\",\"version\":\"2.0\",\
         \"base_commit\":\"{}\",\"test_patch\":\"x\"{more}}}\n",
        "a".repeat(40)
    )
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let space = Space::new();
    assert!(space.fails(2, &["plan", "-d", "lits"]).contains("the nearest is `lite`"));
    space.write("d/test.jsonl", &row("pallets__flask-4045", ""));
    let split = space.fails(2, &["plan", "-d", "d", "--split", "tests"]);
    assert!(split.contains("no split `tests`; it has test"), "{split}");
    let id = space.fails(2, &["plan", "-d", "d", "-i", "pallets__flask-4054"]);
    assert!(id.contains("`pallets__flask-4054` (the nearest is `pallets__flask-4045`)"), "{id}");
    let repo = space.fails(2, &["plan", "-d", "d", "--repo", "pallets/flsk"]);
    assert!(repo.contains("it has pallets/flask"), "{repo}");
}

#[test]
fn every_bad_row_is_named_with_line_id_and_field() {
    let space = Space::new();
    let text = row("a__a-1", "")
        + &row("a__a-1", "")
        + "{\"instance_id\": \"b__b-1\", \"repo\": \"a/b\"}\n"
        + &row("c__c-1", ",\"FAIL_TO_PASS\": 3")
        + &row("d__d-1", ",\"PASS_TO_PASS\": \"['x' 'y']\"");
    space.write("bad.jsonl", &text);
    let error = space.fails(2, &["plan", "-d", "bad.jsonl"]);
    for part in [
        "line 2 (`a__a-1`): `instance_id` is the same as that of line 1",
        "line 3 (`b__b-1`): `base_commit` is missing",
        "line 4 (`c__c-1`): `FAIL_TO_PASS` is a number, it must be a list",
        "line 5 (`d__d-1`): `PASS_TO_PASS` is neither JSON nor a Python literal",
    ] {
        assert!(error.contains(part), "{part}\n{error}");
    }
    space.write("bad.jsonl", &(row("a__a-1", "") + "not json\n"));
    let error = space.fails(2, &["plan", "-d", "bad.jsonl"]);
    assert!(error.contains("`bad.jsonl` is damaged or cut off: line 2: expected ident"), "{error}");
}

#[test]
fn every_command_refuses_names_that_are_paths_options_or_markup() {
    let space = Space::new();
    let ids = ["../../..", "..", "-x", "a/b", "a\\nb", "<b>x</b>", "a b", "a\\u0000b", "a\"b"];
    let rows = ids.map(|id| ("instance_id", row(&id.replace('"', "\\\""), "")));
    let repos = ["--upload-pack=id/x", "../x", "a/..", "a/b/c", "a/-b", "ext::sh -c x/y", "a"];
    let repos = repos.map(|repo| ("repo", row("a__a-1", "").replace("pallets/flask", repo)));
    for (field, text) in rows.into_iter().chain(repos) {
        space.write("bad.jsonl", &text);
        for command in [
            &["plan", "-d", "bad.jsonl"][..],
            &["build", "-d", "bad.jsonl", "--dry-run"],
            &["prewarm", "-d", "bad.jsonl"],
            &["eval", "-d", "bad.jsonl", "-p", "gold", "--run-id", "r"],
        ] {
            let error = space.fails(2, command);
            assert!(error.contains(&format!("`{field}` is `")), "{command:?} {text}: {error}");
        }
    }
}

#[test]
fn a_damaged_parquet_file_is_named() {
    let space = Space::new();
    space.write("x.parquet", "PAR1 and then nothing of use");
    let error = space.fails(2, &["plan", "-d", "x.parquet"]);
    assert!(error.contains("`x.parquet` is damaged or cut off"), "{error}");
    space.write("x.txt", "a,b");
    assert!(space.fails(2, &["plan", "-d", "x.txt"]).contains("none of `.parquet`"));
}

#[test]
fn a_dataset_that_is_not_cached_and_may_not_be_fetched_says_so() {
    let error = Space::new().fails(2, &["plan", "-d", "lite"]);
    assert!(error.contains("is not in the cache") && error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn rows_that_the_catalog_cannot_build_are_named_before_anything_starts() {
    let space = Space::new();
    for (old, new, said) in [
        ("pallets/flask", "apache/druid", "the catalog has no repo `apache/druid`"),
        ("\"2.0\"", "\"\"", "the row has no `version`"),
    ] {
        let lists = ",\"FAIL_TO_PASS\":[\"t\"],\"PASS_TO_PASS\":[]";
        space.write("d.jsonl", &row("pallets__flask-1", lists).replace(old, new));
        let error = space.fails(2, &["plan", "-d", "d.jsonl"]);
        assert!(error.contains(said) && error.contains("--namespace swebench"), "{error}");
    }
    space.write("d.jsonl", &row("pallets__flask-1", ",\"PASS_TO_PASS\":[\"t\"]"));
    let error = space.fails(2, &["plan", "-d", "d.jsonl"]);
    assert!(error.contains("`FAIL_TO_PASS` is missing"), "{error}");
    space.write("d.jsonl", &row("pallets__flask-1", "").replace("\"2.0\"", "\"9.9\""));
    let error = space.fails(2, &["plan", "-d", "d.jsonl"]);
    assert!(error.contains("pallets__flask-1") && error.contains("9.9"), "{error}");
    assert!(error.contains("hint:"), "{error}");
}

#[test]
fn a_mistake_in_the_catalog_has_file_and_line() {
    let space = Space::new();
    space.write(
        "images.local.toml",
        "[stand-in]\n\"3.6\" = \"3.9\"\n\n[base.x]\ndockerfile = \"no/Dockerfile\"\n",
    );
    let error = space.fails(2, &["plan", "-d", "demo"]);
    assert!(error.contains("images.local.toml:5"), "{error}");
}

#[test]
fn predictions_with_mistakes_are_named_by_line_and_field() {
    let space = Space::new();
    space.write("p.jsonl", "{\"instance_id\":\"a\",\"model_name_or_path\":\"m\",\"model_patch\":\"\"}\n\n{\"instance_id\":\"b\",\"model\":\"m\"}\n");
    let error = space.fails(2, &["plan", "-d", "demo", "-p", "p.jsonl"]);
    assert!(error.contains("p.jsonl:3: `model_patch` is missing"), "{error}");
    let twice =
        "{\"instance_id\":\"a\",\"model_name_or_path\":\"m\",\"model_patch\":null}\n".repeat(2);
    space.write("p.jsonl", &twice);
    assert!(space.fails(2, &["plan", "-d", "demo", "-p", "p.jsonl"]).contains("two predictions"));
}

#[test]
fn bad_usage_ends_with_two_and_no_engine_with_three() {
    let space = Space::new();
    space.fails(2, &["plan"]);
    space.fails(2, &["build", "-d", "demo", "--filter", "("]);
    assert!(
        space
            .fails(2, &["plan", "-d", "demo", "--platform", "windows/amd64"])
            .contains("linux/arm64")
    );
    let missing = space.fails(2, &["bundle", "use", "nofile"]);
    assert!(missing.contains("cannot use `nofile`"), "{missing}");
    space.fails(3, &["build", "-d", "demo"]);
    space.fails(3, &["clean"]);
    assert!(space.fails(3, &["doctor", "--offline"]).is_empty());
}

#[test]
fn a_state_directory_of_a_newer_version_is_refused() {
    let space = Space::new();
    space.write("state/version", "99\n");
    let error = space.fails(3, &["plan", "-d", "demo"]);
    assert!(error.contains("has layout 99"), "{error}");
}

#[test]
fn every_form_of_a_plan_is_printed() {
    let space = Space::new();
    for (format, word) in
        [("dot", "digraph"), ("mermaid", "flowchart"), ("table", "instance"), ("json", "\"nodes\"")]
    {
        let output = space.run(&["plan", "-d", "demo", "--format", format]);
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{format}");
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_no_mistake_of_the_user() {
    let space = Space::new();
    let output = space
        .command(&["plan", "-d", "lite"])
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env_remove("HF_HUB_OFFLINE")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("cannot read `http://127.0.0.1:1"), "{stderr}");
}

#[test]
fn what_the_harness_takes_and_imgforge_cannot_do_is_refused_with_a_reason() {
    let space = Space::new();
    let error = space.fails(2, &["eval", "demo", "--gold", "--modal", "True"]);
    assert!(error.contains("not run tests on Modal") && error.contains("hint:"), "{error}");
    let error = space.fails(2, &["eval", "demo", "--gold", "--rewrite_reports", "True"]);
    assert!(error.contains("needs the --run-id"), "{error}");
    let error = space.fails(2, &["plan", "demo", "-j", "-1"]);
    assert!(error.contains("no number of workers"), "{error}");
    let error = space.fails(2, &["plan", "demo", "--json", "--format", "dot"]);
    assert!(error.contains("--format names another"), "{error}");
}

#[test]
fn ids_come_with_commas_from_files_and_without_those_that_are_excluded() {
    let space = Space::new();
    let ids = |args: &[&str]| -> Vec<String> {
        let output = space.run(&[&["dataset", "ls", "demo"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| line.split(['\t', '_']).nth(2).unwrap().to_owned()).collect()
    };
    space.write("ids.txt", "# mine\nimgforge__quill-1\n  imgforge__ledger-1,imgforge__abacus-1\n");
    space.write("ids.json", "[\"imgforge__quill-1\"]");
    assert_eq!(ids(&["-i", "@ids.txt"]), ["abacus-1", "quill-1", "ledger-1"]);
    assert_eq!(ids(&["-i", "@ids.json", "imgforge__abacus-1"]), ["abacus-1", "quill-1"]);
    assert_eq!(ids(&["-i", "imgforge__quill-1,imgforge__quill-2"]), ["quill-1", "quill-2"]);
    assert_eq!(ids(&["-i", "@ids.txt", "--exclude", "@ids.json"]), ["abacus-1", "ledger-1"]);
    assert_eq!(ids(&["--exclude", "@ids.txt", "--limit", "2"]), ["abacus-2", "abacus-3"]);
    space.write("none.txt", "# nothing yet\n");
    assert_eq!(ids(&["--exclude", "@none.txt"]).len(), 8);
    for (args, said) in [
        (["-i", "@none.txt"], "names no instance"),
        (["-i", "@no.txt"], "cannot read `no.txt`"),
        (["-i", "quill-1"], "`quill-1` (the nearest is `imgforge__quill-1`)"),
        (["--exclude", "imgforge__quil-1"], "the nearest is `imgforge__quill-1`"),
    ] {
        let error = space.fails(2, &[&["dataset", "ls", "demo"][..], &args].concat());
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

const LOG: &str = "+ : '>>>>> Start Test Output'\nPASSED t.py::a\nFAILED t.py::b - no\n\
                   + : '>>>>> End Test Output'\n>>>>> Test Exit Code: 1\n";

#[test]
fn one_log_is_graded_without_an_engine() {
    let space = Space::new();
    space.write("log.txt", LOG);
    let output =
        space.run(&["grade", "--log", "log.txt", "--parser", "parse_log_pytest", "--json"]);
    let graded: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let map = serde_json::json!({ "t.py::a": "PASSED", "t.py::b": "FAILED" });
    assert_eq!((&graded["status_map"], &graded["found"]), (&map, &serde_json::json!(true)));
    assert!(graded["resolved"].is_null() && graded["tests_status"].is_null());
    let expected = ",\"FAIL_TO_PASS\":[\"t.py::a\"],\"PASS_TO_PASS\":[\"t.py::b\"]";
    space.write("d.jsonl", &row("pallets__flask-4045", expected));
    let args =
        ["grade", "--log", "log.txt", "-d", "d.jsonl", "-i", "pallets__flask-4045", "--json"];
    let graded = space.run(&args);
    let graded: serde_json::Value = serde_json::from_slice(&graded.stdout).unwrap();
    assert_eq!(graded["resolved"], false);
    assert_eq!(graded["resolution"], "RESOLVED_NO");
    assert_eq!(graded["tests_status"]["PASS_TO_PASS"]["failure"][0], "t.py::b");
    let mut piped = space.command(&["grade", "--log", "-", "--parser", "parse_log_pytest"]);
    piped.stdin(std::fs::File::open(space.0.path().join("log.txt")).unwrap());
    let piped = String::from_utf8(piped.output().unwrap().stdout).unwrap();
    assert_eq!(piped, "PASSED t.py::a\nFAILED t.py::b\n");
    let error = space.fails(2, &["grade", "--log", "log.txt", "--parser", "parse_log_pytst"]);
    assert!(error.contains("the nearest is `parse_log_pytest`"), "{error}");
    let error = space.fails(2, &["grade", "--log", "none.txt", "--parser", "parse_log_pytest"]);
    assert!(error.contains("cannot read `none.txt`"), "{error}");
}

#[test]
fn a_run_of_the_harness_is_reported_and_what_is_no_run_is_named() {
    let space = Space::new();
    let expected = ",\"FAIL_TO_PASS\":[\"t.py::a\"]";
    space.write("d.jsonl", &row("pallets__flask-4045", expected));
    let dir = "logs/run_evaluation/old/org__m/pallets__flask-4045";
    space.write(&format!("{dir}/test_output.txt"), LOG);
    space.write(&format!("{dir}/patch.diff"), "x");
    let error = space.fails(2, &["report", "old"]);
    assert!(error.contains("does not say which dataset"), "{error}");
    space.write(
        "logs/run_evaluation/old/run.json",
        "{\"dataset\": \"d.jsonl\", \"split\": \"test\"}",
    );
    let output = space.run(&["report", "old", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["resolved_ids"], serde_json::json!(["pallets__flask-4045"]));
    assert!(space.0.path().join("org__m.old.json").is_file());
    let part = space.run(&["report", "old", "-i", "pallets__flask-4045", "--dataset", "d.jsonl"]);
    let said = String::from_utf8_lossy(&part.stderr);
    assert!(!said.contains("not chosen now"), "{said}");
    let other = row("pallets__flask-4992", expected);
    space.write("two.jsonl", &(row("pallets__flask-4045", expected) + &other));
    let part = space.run(&["report", "old", "-i", "pallets__flask-4045", "-d", "two.jsonl"]);
    let said = String::from_utf8_lossy(&part.stderr);
    assert!(said.contains("run `old` had 1 instance that is not chosen now; its"), "{said}");
    let error = space.fails(2, &["report", "new"]);
    assert!(error.contains("there is no run `new`") && error.contains("there are old"), "{error}");
    space.write("logs/run_evaluation/bad/run.json", "{");
    let error = space.fails(2, &["report", "bad"]);
    assert!(error.contains("`logs/run_evaluation/bad/run.json` cannot be read"), "{error}");
    let error = space.fails(2, &["report", "../old"]);
    assert!(error.contains("run id `../old` cannot name a directory"), "{error}");
}

#[test]
fn an_evaluation_without_an_engine_ends_with_three_and_bad_options_with_two() {
    let space = Space::new();
    space.write("d.jsonl", &row("pallets__flask-4045", ""));
    let error = space.fails(3, &["eval", "-d", "d.jsonl", "-p", "gold", "--namespace", ""]);
    assert!(error.contains("cannot reach an engine"), "{error}");
    for (args, part) in [
        (["--memory", "lots"], "is not an amount of bytes"),
        (["--cpus", "0"], "at least 0.01"),
        (["--timeout", "0"], "at least one second"),
        (["--network", "all"], "possible values: none, bridge, host"),
        (["--run-id", "a/b"], "cannot name a directory"),
        (["--run-id", "a/b"], "has 1 to 200 bytes, no `/`"),
        (["--max-workers", "-1"], "no number of workers: write 1 or more"),
        (["--repeat", "-1"], "-1 is not in 1.."),
        (["-t", "-5"], "it is no time"),
    ] {
        let mut all = vec!["eval", "-d", "d.jsonl", "-p", "gold"];
        all.extend(args);
        let error = space.fails(2, &all);
        assert!(error.contains(part), "{args:?}: {error}");
    }
    let error = space.fails(2, &["eval", "-d", "d.jsonl"]);
    assert!(error.contains("--predictions <PATH>"), "{error}");
}

/// A row that could be evaluated by itself.
fn own_row(id: &str, lists: &str) -> String {
    row(
        id,
        &format!(
            ",\"log_parser\":\"parse_log_pytest\",\"eval_script\":\"true\",\
             \"install_config\":{{\"python\":\"3.11\",\"install\":\"true\",\"pip_packages\":[]}}{lists}"
        ),
    )
}

const LISTS: &str = ",\"FAIL_TO_PASS\":[\"t\"],\"PASS_TO_PASS\":[]";

/// Plans, and returns the status, how many instances are planned, and stderr.
fn planned(space: &Space, args: &[&str]) -> (i32, usize, String) {
    let output = space.run(&[&["plan", "--json"], args].concat());
    let instances =
        String::from_utf8_lossy(&output.stdout).matches("\"kind\": \"instance\"").count();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().unwrap(), instances, said)
}

#[test]
fn predictions_are_read_in_every_form_that_people_have() {
    let space = Space::new();
    space.write("d.jsonl", &(own_row("x__y-1", LISTS) + &own_row("x__y-2", LISTS)));
    let patch = "diff --git a/f b/f\\n--- a/f\\n+++ b/f\\n@@ -1 +1 @@\\n-a\\n+b\\n";
    let one = format!("\"instance_id\":\"x__y-1\",\"model_patch\":\"{patch}\"");
    for (name, text) in [
        ("mark.jsonl", format!("\u{feff}{{{one}}}\n")),
        ("nan.jsonl", format!("{{{one},\"cost\":NaN,\"low\":-Infinity}}\n")),
        ("keyed.json", format!("{{\"x__y-1\":{{\"model_patch\":\"{patch}\"}}}}")),
        ("bytes.jsonl", format!("{{{}}}\n", one.replace("+b", "+\\udce9"))),
        ("list.jsonl", format!("[{{{one}}}]")),
        ("lines.json", format!("{{{one}}}\n")),
        ("CAPITALS.JSONL", format!("{{{one}}}\n")),
        (
            "output.jsonl",
            format!(
                "{{\"instance_id\":\"x__y-1\",\"test_result\":{{\"git_patch\":\"{patch}\"}}}}\n"
            ),
        ),
        ("old.jsonl", format!("{{{}}}\n", one.replace("model_patch", "prediction"))),
        (
            "pro.json",
            format!("[{{\"instance_id\":\"x__y-1\",\"patch\":\"{patch}\",\"prefix\":\"m\"}}]"),
        ),
        ("agent/x__y-1/x__y-1.pred", format!("{{{one}}}")),
    ] {
        space.write(name, &text);
        let path = name.split('/').next().unwrap();
        let (status, instances, said) = planned(&space, &["-d", "d.jsonl", "-p", path]);
        assert_eq!((status, instances), (0, 1), "{name}: {said}");
    }
    let wide: Vec<u8> =
        format!("\u{feff}{{{one}}}\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(space.0.path().join("wide.jsonl"), wide).unwrap();
    assert_eq!(planned(&space, &["-d", "d.jsonl", "-p", "wide.jsonl"]).1, 1);
    space.write(
        "twice.json",
        "{\"x__y-1\":{\"model_patch\":\"\"},\"x__y-1\":{\"model_patch\":null}}",
    );
    let (status, _, said) = planned(&space, &["-d", "d.jsonl", "-p", "twice.json"]);
    assert!(status == 0 && said.contains("two predictions for `x__y-1`"), "{said}");
    space.write(
        "wrong.jsonl",
        &format!("{{{one}}}\n\n{{\"instance_id\":\"x__y-2\",\"model_patch\":3}}\n"),
    );
    let (status, _, said) = planned(&space, &["-d", "d.jsonl", "-p", "wrong.jsonl"]);
    assert!(
        status == 2 && said.contains("wrong.jsonl:3") && said.contains("model_patch"),
        "{said}"
    );
}

#[test]
fn rows_are_read_in_every_form_or_refused_by_name() {
    let space = Space::new();
    for (name, text) in [
        ("lower.jsonl", own_row("x__y-1", ",\"fail_to_pass\":\"['t']\",\"pass_to_pass\":\"[]\"")),
        ("short.jsonl", own_row("x__y-1", ",\"F2P\":\"[\\\"t\\\"]\",\"P2P\":[]")),
        ("time.jsonl", own_row("x__y-1", &format!("{LISTS},\"created_at\":1640995200000"))),
        ("nan.jsonl", own_row("x__y-1", &format!("{LISTS},\"hints_text\":NaN"))),
        ("list.json", format!("[{}]", own_row("x__y-1", LISTS))),
    ] {
        space.write(name, &text);
        let (status, instances, said) = planned(&space, &["-d", name, "-p", "empty"]);
        assert_eq!((status, instances), (0, 1), "{name}: {said}");
    }
    for (name, row, part) in [
        ("both.jsonl", own_row("x__y-1", &format!("{LISTS},\"f2p\":[\"u\"]")), "F"),
        (
            "none.jsonl",
            own_row("x__y-1", ",\"FAIL_TO_PASS\":[],\"PASS_TO_PASS\":[]"),
            "expects no test",
        ),
    ] {
        space.write(name, &row);
        let (status, instances, said) = planned(&space, &["-d", name, "-p", "empty"]);
        assert_eq!((status, instances), (2, 0), "{name}: {said}");
        assert!(said.contains("x__y-1") && said.contains(part), "{name}: {said}");
        // Beside a good row, only the bad one is left out.
        space.write(name, &(own_row("x__y-2", LISTS) + &row));
        let (status, instances, said) = planned(&space, &["-d", name, "-p", "empty"]);
        assert_eq!((status, instances), (1, 1), "{name}: {said}");
        assert!(said.contains("x__y-1") && said.contains(part), "{name}: {said}");
    }
    space.write("parts/test-00000-of-00002.parquet", "PAR1");
    let said = space.fails(2, &["dataset", "ls", "-d", "parts"]);
    assert!(said.contains("test-00001-of-00002.parquet"), "{said}");
}

#[test]
fn images_of_another_platform_are_planned_and_neither_built_nor_run() {
    let space = Space::new();
    let other = if cfg!(target_arch = "x86_64") { "linux/arm64" } else { "linux/amd64" };
    let run = |args: &[&str]| {
        let end = ["-d", "demo", "-i", "imgforge__abacus-1", "--platform", other];
        let output = space
            .command(&[args, &end[..]].concat())
            .env("IMGFORGE_ENGINE", "embedded")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for args in [&["build"][..], &["eval", "-p", "gold"], &["prewarm"]] {
        let (status, said) = run(args);
        assert_eq!(status, Some(3), "{args:?}: {said}");
        assert!(said.contains(other) && said.contains("--emulate"), "{args:?}: {said}");
    }
    assert_eq!(run(&["plan"]).0, Some(0));
    assert!(!space.0.path().join("logs/run_evaluation").exists());
}

/// Runs with stdout, stderr or both led to what takes nothing; returns the status and stderr.
fn printing_to(space: &Space, args: &[&str], out: Sink, err: Sink) -> (Option<i32>, String) {
    use std::process::Stdio;
    let open = |sink| match sink {
        Sink::Kept => Stdio::piped(),
        Sink::Full => std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
        // The reading end is closed at once.
        Sink::Closed => std::io::pipe().unwrap().1.into(),
    };
    let output = space.command(args).stdout(open(out)).stderr(open(err)).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[derive(Clone, Copy)]
enum Sink {
    Kept,
    Full,
    Closed,
}

#[test]
fn a_stream_that_nobody_reads_ends_the_output_and_not_the_work() {
    let space = Space::new();
    let commands: [&[&str]; 7] = [
        &["plan", "-d", "demo", "--engine", "embedded"],
        &["plan", "-d", "demo", "--engine", "embedded", "--json"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["--help"],
        &["dataset", "ls"],
        &["plan", "-d", "gone"],
    ];
    for args in commands {
        let (code, said) = printing_to(&space, args, Sink::Kept, Sink::Kept);
        for (out, err) in
            [(Sink::Closed, Sink::Kept), (Sink::Kept, Sink::Closed), (Sink::Closed, Sink::Closed)]
        {
            let (closed, said_then) = printing_to(&space, args, out, err);
            assert_eq!(closed, code, "{args:?}: {said_then}");
            assert!(said_then.is_empty() || said_then == said, "{args:?}: {said_then}");
        }
        assert_eq!(printing_to(&space, args, Sink::Kept, Sink::Full).0, code, "{args:?}");
    }
    // A full disk is told: a file that is not whole must not look like one.
    for args in &commands[..4] {
        let (code, said) = printing_to(&space, args, Sink::Full, Sink::Kept);
        assert_eq!(code, Some(3), "{args:?}: {said}");
        assert!(said.contains("cannot write the output"), "{args:?}: {said}");
    }
}

#[test]
fn an_empty_variable_of_our_own_is_absent() {
    let space = Space::new();
    for name in ["IMGFORGE_STATE_DIR", "IMGFORGE_TIMEOUT", "IMGFORGE_JOBS", "IMGFORGE_STRICT"] {
        let output = space
            .command(&["plan", "-d", "demo", "--engine", "embedded"])
            .env("XDG_CACHE_HOME", space.0.path())
            .env(name, "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
    }
}

/// Runs with variables set; returns status and stderr.
fn with_variables(space: &Space, set: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String) {
    let output = space.command(args).envs(set.iter().copied()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn switches_in_variables_take_what_people_write_and_an_error_names_the_variable() {
    let space = Space::new();
    space.write("d.jsonl", &row("pallets__flask-4045", ",\"FAIL_TO_PASS\":[\"a\"]"));
    let plan = ["plan", "-d", "d.jsonl"];
    for (text, is_json) in [("1", true), ("yes", true), ("On", true), ("0", false), ("", false)] {
        let output = space.command(&plan).env("IMGFORGE_JSON", text).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_eq!(output.stdout.starts_with(b"{"), is_json, "{text}");
    }
    let (code, error) = with_variables(&space, &[("IMGFORGE_JSON", "maybe")], &plan);
    assert_eq!(code, Some(2));
    assert!(error.contains("invalid value 'maybe' for 'IMGFORGE_JSON'"), "{error}");
    let (code, error) = with_variables(&space, &[("IMGFORGE_ENGINE", "kubernetes")], &plan);
    assert_eq!(code, Some(2));
    assert!(error.contains("give `--runner kubernetes`"), "{error}");
    let (code, error) = with_variables(&space, &[("IMGFORGE_MAX_WORKERS", "lots")], &plan);
    assert_eq!(code, Some(2));
    assert!(error.contains("invalid value 'lots' for 'IMGFORGE_MAX_WORKERS'"), "{error}");
    // What a flag says is the flag's, whatever is set beside it.
    let flag = ["plan", "-d", "d.jsonl", "-j", "lots"];
    let (code, error) = with_variables(&space, &[("IMGFORGE_MAX_WORKERS", "2")], &flag);
    assert_eq!(code, Some(2));
    assert!(error.contains("for '--max-workers"), "{error}");
    let (code, error) = with_variables(&space, &[("IMGFORGE_QUIET", "1")], &["-v", "doctor"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("IMGFORGE_QUIET is set to `1`"), "{error}");
    let on_network = [("IMGFORGE_STATE_ON_NETWORK", "maybe")];
    let (code, error) = with_variables(&space, &on_network, &plan);
    assert_eq!(code, Some(2));
    assert!(error.contains("IMGFORGE_STATE_ON_NETWORK is `maybe`"), "{error}");
}

#[test]
fn a_variable_that_nothing_reads_is_named_with_the_nearest() {
    let space = Space::new();
    space.write("d.jsonl", &row("pallets__flask-4045", ",\"FAIL_TO_PASS\":[\"a\"]"));
    let set = [("IMGFORGE_DATSET", "lite"), ("IMGFORGE_TEST_STATE", "/x")];
    let (code, error) = with_variables(&space, &set, &["plan", "-d", "d.jsonl"]);
    assert_eq!(code, Some(0), "{error}");
    let expected = "nothing reads the variable IMGFORGE_DATSET; the nearest is IMGFORGE_DATASET";
    assert!(error.contains(expected) && !error.contains("IMGFORGE_TEST_STATE"), "{error}");
    let (_, error) = with_variables(&space, &set, &["-q", "plan", "-d", "d.jsonl"]);
    assert!(!error.contains("IMGFORGE_DATSET"), "{error}");
}

#[test]
fn settings_are_shown_with_where_they_come_from() {
    let space = Space::new();
    space.write("images.local.toml", "[defaults]\nmemory = \"4g\"\nmax-workers = 5\n");
    let args = ["config", "show", "--json", "-t", "5m"];
    let output = space.command(&args).env("IMGFORGE_CPUS", "1.5").output().unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of = |name: &str| {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(of("timeout"), ("5m".to_owned(), "flag".to_owned()));
    assert_eq!(of("cpus"), ("1.5".to_owned(), "IMGFORGE_CPUS".to_owned()));
    assert_eq!(of("memory"), ("4294967296".to_owned(), "images.toml".to_owned()));
    assert_eq!(of("max-workers"), ("5".to_owned(), "images.toml".to_owned()));
    assert_eq!(of("engine"), ("auto".to_owned(), "default".to_owned()));
    assert_eq!(of("state-dir").1, "IMGFORGE_STATE_DIR");
    let output = space.run(&["config", "show", "--all"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.lines().any(|line| line.starts_with("junit") && line.ends_with("default")),
        "{text}"
    );
    let output = space.run(&["parsers"]);
    assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "parse_log_pytest"));
}

#[test]
fn what_is_named_is_looked_at_before_anything_is_planned() {
    let space = Space::new();
    let dry = ["build", "-d", "demo", "--dry-run"];
    let error = space.fails(2, &[&dry[..], &["--ca-bundle", "nope.pem"]].concat());
    assert!(error.contains("cannot read the CA bundle `nope.pem`"), "{error}");
    for mirror in ["nope", "nope/{repo}.git", "file:///nope/{owner}"] {
        let error = space.fails(2, &[&dry[..], &["--git-mirror", mirror]].concat());
        assert!(error.contains("where --git-mirror looks, is no directory"), "{error}");
    }
    let error = space.fails(2, &["lock", "pallets/flask", "2.0", "--date", "yesterday"]);
    assert!(error.contains("`--date yesterday` is no date"), "{error}");
    let error = space.fails(2, &["eval", "-d", "demo", "-p", "gold", "-t", "5x"]);
    assert!(error.contains("write seconds (300), or 5m"), "{error}");
    space.fails(3, &["--engine", "docker", "eval", "-d", "demo", "-p", "gold", "-t", "5m"]);
}

#[test]
fn offline_nothing_is_asked() {
    let space = Space::new();
    let plan = ["--offline", "plan", "-d", "lite"];
    let output = space.command(&plan).env_remove("HF_HUB_OFFLINE").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("is not in the cache"), "{error}");
    let output = space.command(&["doctor", "--json"]).env("IMGFORGE_OFFLINE", "yes").output();
    let document: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["detail"] == "not asked"), "{document}");
}

#[test]
fn runs_are_where_the_output_directory_says() {
    let space = Space::new();
    space.write("out/logs/run_evaluation/first/m/x__y-1/test_output.txt", "");
    let error = space.fails(2, &["report", "nope", "--output-dir", "out"]);
    assert!(error.contains("there are first"), "{error}");
}

#[test]
fn the_bundled_dataset_is_made_in_the_state_directory_that_is_named() {
    let space = Space::new();
    let home = space.0.path().join("home");
    for args in [
        vec!["dataset", "ls", "-d", "demo"],
        vec!["grade", "-d", "demo", "-i", "imgforge__abacus-1", "--log", "x.log"],
    ] {
        space.write("x.log", "");
        let mut command = space.command(&[args.as_slice(), &["--state-dir", "named"]].concat());
        let output = command.env("HOME", &home).env_remove("XDG_CACHE_HOME").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(space.0.path().join("named/demo").is_dir(), "{args:?}");
        assert!(!home.join(".cache").exists(), "{args:?}");
        std::fs::remove_dir_all(space.0.path().join("named")).unwrap();
    }
}

/// Returns what a shell offers for the last word of a line.
fn offered(space: &Space, line: &[&str]) -> Vec<String> {
    let output = space
        .command(&[&["--", "imgforge"], line].concat())
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", line.len().to_string())
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn a_shell_is_offered_what_is_on_this_machine() {
    let space = Space::new();
    space.write("logs/run_evaluation/first/run.json", "{}");
    space.write("rows.jsonl", &row("pallets__flask-4045", ",\"FAIL_TO_PASS\":[\"a\"]"));
    let has = |line: &[&str], word: &str| {
        let offered = offered(&space, line);
        assert!(offered.iter().any(|one| one == word), "{line:?}: {word} in {offered:?}");
    };
    has(&["ev"], "eval");
    has(&["eval", "-d", ""], "lite");
    has(&["eval", "-d", "row"], "rows.jsonl");
    has(&["eval", "-d", "demo", "-p", ""], "gold");
    has(&["eval", "-d", "demo", "-i", "imgforge__aba"], "imgforge__abacus-1");
    has(&["eval", "-d", "rows.jsonl", "-i", ""], "pallets__flask-4045");
    has(&["grade", "--parser", "parse_log_pyt"], "parse_log_pytest");
    has(&["report", ""], "first");
    has(&["schema", "cache-l"], "cache-ls");
    // What is not on this machine is not asked for.
    assert!(offered(&space, &["eval", "-d", "lite", "-i", ""]).is_empty());
    assert!(!space.0.path().join("state").exists(), "completing makes nothing");
}

#[test]
fn a_base_is_not_begun_where_the_disk_has_too_little_free() {
    let space = Space::new();
    let image = "python:3.11-slim-bookworm";
    let args = ["--engine", "embedded", "base", "bootstrap", image, "--min-free", "1000000"];
    let error = space.fails(3, &args);
    assert!(error.contains("free") && !error.contains("making"), "{error}");
}

/// What needs the test data: `scripts/test` leaves this module out where there is none.
mod test_data {
    use super::*;

    #[test]
    #[ignore = "needs the test data"]
    fn a_truncated_published_file_is_named() {
        let bytes = std::fs::read(needs::data("datasets/SWE-bench_Lite/dev.parquet")).unwrap();
        let space = Space::new();
        std::fs::write(space.0.path().join("cut.parquet"), &bytes[..bytes.len() / 2]).unwrap();
        assert!(space.fails(2, &["plan", "-d", "cut.parquet"]).contains("damaged or cut off"));
    }

    #[test]
    #[ignore = "needs the test data"]
    fn platforms_and_namespaces_change_names_as_published() {
        let space = Space::new();
        let lite = needs::data("datasets/SWE-bench_Lite");
        let lite = lite.to_str().unwrap();
        let plan = |args: &[&str]| -> serde_json::Value {
            let output = space.run(&[&["plan", "-d", lite, "--json"], args].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let pulled = plan(&["--namespace", "swebench", "-i", "pallets__flask-4045"]);
        let node = &pulled["nodes"][0];
        assert_eq!(node["image"], "swebench/sweb.eval.x86_64.pallets_1776_flask-4045:latest");
        assert_eq!((&node["status"], &node["kind"]), (&"pull".into(), &"instance".into()));
        let arm = plan(&["--namespace", "", "--platform", "linux/arm64"]);
        assert_eq!(arm["platform"], "linux/arm64");
        assert_eq!(arm["summary"]["instance"]["stale"], 300);
        let native = plan(&["--namespace", ""]);
        assert_ne!(arm["nodes"][0]["key"], native["nodes"][0]["key"]);
        let ids: Vec<&str> = native["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
    }
}
