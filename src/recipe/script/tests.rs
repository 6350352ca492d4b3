//! What scripts hold: to the line on published images, to the byte where patches stand in them.

use super::*;

const TEST_PATCH: &str = "diff --git a/tests/a_test.py b/tests/a_test.py\n\
    --- a/tests/a_test.py\n+++ b/tests/a_test.py\n@@ -1 +1 @@\n-a\n+b\n\
    diff --git a/tests/data.json b/tests/data.json\n--- a/tests/data.json\n+++ b/tests/data.json\n\
    @@ -1 +1 @@\n-a\n+b\n";

fn instance() -> Instance {
    Instance {
        instance_id: "a__b-1".into(),
        repo: "a/b".into(),
        base_commit: "c".repeat(40),
        test_patch: TEST_PATCH.into(),
        ..Instance::default()
    }
}

#[test]
fn the_rows_own_script_gets_the_exit_status_recorded_as_the_harness_does() {
    let own = "#!/bin/bash\nset -uxo pipefail\ncd /testbed\n: '>>>>> Start Test Output'\n\
               pytest\n: '>>>>> End Test Output'\ngit checkout x\n\n";
    let instance = Instance { eval_script: Some(own.into()), ..instance() };
    insta::assert_snapshot!(eval_script(&instance, None, Place::Built).unwrap(), @r#"
    #!/bin/bash
    set -uxo pipefail
    cd /testbed || { echo '>>>>> Image Not Ready: the script cannot enter /testbed'; exit 96; }
    : '>>>>> Start Test Output'
    pytest
    SWEBENCH_TEST_EXIT_CODE=$?
    : '>>>>> End Test Output'
    echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"
    git checkout x
    "#);
    assert!(reset_tests(&instance, Place::Built).unwrap().contains("for path in tests/a_test.py"));
}

fn flask() -> Environment {
    crate::catalog::Catalog::embedded().unwrap().environment("pallets/flask", "2.3", None).unwrap()
}

/// A place whose model patch is `patch`.
fn published<'a>(directory: &'a str, model_patch: &'a Patch, network: bool) -> Place<'a> {
    Place::Published { directory, model_patch, network }
}

#[test]
fn on_a_published_image_a_row_without_a_script_gets_the_whole_one_of_the_harness() {
    let row = Instance {
        test_patch: format!(
            "{TEST_PATCH}diff --git a/tests/new_test.py b/tests/new_test.py\nnew file mode 100644\n\
             --- /dev/null\n+++ b/tests/new_test.py\n@@ -0,0 +1 @@\n+a\r\n"
        )
        .into(),
        ..instance()
    };
    let script =
        eval_script(&row, Some(&flask()), published(TESTBED, &Patch::default(), true)).unwrap();
    insta::assert_snapshot!(script.replace('\r', "<CR>"), @r#"
    #!/bin/bash
    set -uxo pipefail
    source /opt/miniconda3/bin/activate
    conda activate testbed
    cd /testbed || { echo '>>>>> Image Not Ready: the script cannot enter /testbed'; exit 96; }
    git config --global --add safe.directory /testbed
    cd /testbed || { echo '>>>>> Image Not Ready: the script cannot enter /testbed'; exit 96; }
    git status
    git show
    git -c core.fileMode=false diff cccccccccccccccccccccccccccccccccccccccc
    source /opt/miniconda3/bin/activate
    conda activate testbed
    python -m pip install -e .
    git checkout cccccccccccccccccccccccccccccccccccccccc tests/a_test.py tests/data.json
    git apply -v - <<'EOF_114329324912' || { echo '>>>>> Image Not Ready: the test patch does not apply to it'; exit 96; }
    diff --git a/tests/a_test.py b/tests/a_test.py
    --- a/tests/a_test.py
    +++ b/tests/a_test.py
    @@ -1 +1 @@
    -a
    +b
    diff --git a/tests/data.json b/tests/data.json
    --- a/tests/data.json
    +++ b/tests/data.json
    @@ -1 +1 @@
    -a
    +b
    diff --git a/tests/new_test.py b/tests/new_test.py
    new file mode 100644
    --- /dev/null
    +++ b/tests/new_test.py
    @@ -0,0 +1 @@
    +a<CR>
    EOF_114329324912
    : '>>>>> Start Test Output'
    pytest -rA tests/a_test.py tests/new_test.py
    SWEBENCH_TEST_EXIT_CODE=$?
    : '>>>>> End Test Output'
    echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"
    git checkout cccccccccccccccccccccccccccccccccccccccc tests/a_test.py tests/data.json
    "#);
    // Tests win over files that a model made.
    assert!(
        reset_tests(&row, published(TESTBED, &Patch::default(), true))
            .unwrap()
            .contains("tests/new_test.py")
    );
    // Built here both patches are in the image.
    let built = eval_script(&row, Some(&flask()), Place::Built).unwrap();
    for only_published in ["git apply", "git checkout", "pip install"] {
        assert!(!built.contains(only_published), "{built}");
    }
    assert_eq!(reset_tests(&row, Place::Built), None);
}

#[test]
fn a_test_patch_that_only_makes_files_resets_none_and_ends_where_it_does() {
    let patch = "diff --git a/t.py b/t.py\nnew file mode 100644\n--- /dev/null\n+++ b/t.py\n\
                 @@ -0,0 +1 @@\n+EOF_114329324912\n EOF_114329324912";
    let patch = patch.replace(" EOF_", "EOF_");
    let row = Instance { test_patch: patch.as_str().into(), ..instance() };
    let script =
        eval_script(&row, Some(&flask()), published("/app", &Patch::default(), true)).unwrap();
    assert_eq!(script.matches("echo \"No test files to reset\"").count(), 2, "{script}");
    assert!(script.contains(&format!("\n{patch}\nEOF_114329324912_\n")), "{script}");
    assert!(script.contains("\ncd /app || ") && !script.contains("/testbed"), "{script}");
}

#[test]
fn a_test_patch_that_is_no_text_comes_as_a_file() {
    let patch = Patch::from([TEST_PATCH.as_bytes(), b"+caf\xe9\n"].concat());
    let row = Instance { test_patch: patch.clone(), ..instance() };
    let none = Patch::default();
    let place = published(TESTBED, &none, true);
    let script = eval_script(&row, Some(&flask()), place).unwrap();
    assert!(script.contains("\ngit apply -v /tmp/test.patch || "), "{script}");
    assert_eq!(test_patch_file(&row, place), Some(patch));
    assert_eq!(test_patch_file(&row, Place::Built), None);
    assert_eq!(test_patch_file(&instance(), place), None);
}

#[test]
fn without_a_network_an_installation_that_counts_must_succeed() {
    let guarded = |environment: &Environment, patch: &str| {
        let patch = patch.into();
        let place = published(TESTBED, &patch, false);
        let script = eval_script(&instance(), Some(environment), place).unwrap();
        script.contains("the installation fails")
    };
    let compiled = "diff --git a/x.pyx b/x.pyx\n--- a/x.pyx\n+++ b/x.pyx\n@@ -1 +1 @@\n-a\n+b\n";
    assert!(!guarded(&flask(), TEST_PATCH));
    assert!(guarded(&flask(), compiled));
    let copied = Environment { install: vec!["python -m pip install .".into()], ..flask() };
    assert!(guarded(&copied, TEST_PATCH));
}

#[test]
fn only_the_first_two_lines_of_a_rows_script_are_dropped_and_patches_stay_to_the_byte() {
    let own = "#!/bin/bash\nset -uxo pipefail\ncat >run.sh <<'E'\n#!/bin/bash\nset -uxo pipefail\n\
               cd /nowhere\n+a line of DOS\r\n: '>>>>> Start Test Output'\n\
               : '>>>>> End Test Output'\n\nE\ncd /app\ncd src\ncd /testbed/x\n\
               : '>>>>> Start Test Output'\ncd /tmp\nbash run.sh\n: '>>>>> End Test Output'\n";
    let row = Instance { eval_script: Some(own.into()), ..instance() };
    let script = eval_script(&row, None, published(TESTBED, &Patch::default(), true)).unwrap();
    let start = script.find("cat >run.sh").unwrap();
    let end = script.find("cd /app").unwrap();
    assert_eq!(script[start..end], own[own.find("cat").unwrap()..own.find("cd /app").unwrap()]);
    assert!(script.contains("cd /app || {") && script.contains("\ncd src\n"), "{script}");
    assert!(script.contains("\ncd /testbed/x\n") && script.contains("\ncd /tmp\n"), "{script}");
    assert!(script.ends_with(
        "bash run.sh\nSWEBENCH_TEST_EXIT_CODE=$?\n: '>>>>> End Test Output'\n\
         echo \">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE\"\n"
    ));
    assert_eq!(
        reset_tests(&row, published(TESTBED, &Patch::default(), true)),
        None,
        "as the harness has it"
    );
    // The tests of strict mode are those of the script, not of its here-document.
    let parts = crate::recipe::strict::separate(&script, TESTBED).unwrap().files(TESTBED, &[]);
    let (_, tests) = parts.iter().find(|(path, _)| path.ends_with("tests.sh")).unwrap();
    assert!(tests.ends_with(b"cd /tmp\nbash run.sh\n"), "{}", String::from_utf8_lossy(tests));
    // A script that was saved with CRLF throughout.
    let dos =
        Instance { eval_script: Some(own.replace("\r\n", "\n").replace('\n', "\r\n")), ..row };
    assert!(!eval_script(&dos, None, Place::Built).unwrap().contains('\r'));
}

#[test]
fn data_files_of_a_test_patch_are_not_named_to_the_test_command() {
    assert_eq!(directives(&instance()), ["tests/a_test.py"]);
    let django = Instance {
        repo: "django/django".into(),
        test_patch: TEST_PATCH.replace("a_test", "x/tests").into(),
        ..instance()
    };
    assert_eq!(directives(&django), ["x.tests"]);
}

#[test]
fn without_script_and_environment_there_is_nothing_to_run() {
    assert_eq!(eval_script(&instance(), None, Place::Built), None);
    assert_eq!(reset_tests(&instance(), Place::Built), None);
}
