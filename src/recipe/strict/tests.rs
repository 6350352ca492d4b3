//! What root runs of a script, and what the user runs.

use super::*;

fn shown(script: &str) -> String {
    let script =
        format!("{script}\n: '>>>>> Start Test Output'\npytest\n: '>>>>> End Test Output'\n");
    let separated = separate(&script, "/testbed").unwrap();
    assert_eq!(separated.tests.as_deref(), Some("pytest\n"));
    let mut text = separated
        .before
        .replace(" 2>/dev/null", "")
        .replace("imgforge_", "")
        .replace(" \"$@\"", "");
    for (number, command) in separated.commands.iter().enumerate() {
        text.push_str(&format!("{number}: {command}\n"));
    }
    text
}

#[test]
fn root_prepares_and_the_user_installs() {
    insta::assert_snapshot!(shown(
        "#!/bin/bash\nset -uxo pipefail\nsource /opt/miniconda3/bin/activate\nconda activate testbed\n\
         cd /testbed || { echo no; exit 96; }\ngit status\ngit -c core.fileMode=false diff abc\n\
         sed -i 's/a/b/' setup.py\npython -m pip install -e . || { echo no; exit 96; }\n\
         git checkout abc tests/a.py\n\
         git apply -v - <<'EOF' || { echo no; exit 96; }\ndiff --git a/x b/x\n+pip install x\nEOF"
    ), @r#"
    #!/bin/bash
    set -uxo pipefail
    source /opt/miniconda3/bin/activate
    conda activate testbed
    cd /testbed || { echo no; exit 96; }
    git status
    git -c core.fileMode=false diff abc
    sed -i 's/a/b/' setup.py
    { nobody 0; } || { echo no; exit 96; }
    git checkout abc tests/a.py
    git apply -v - <<'EOF' || { echo no; exit 96; }
    diff --git a/x b/x
    +pip install x
    EOF
    0: python -m pip install -e .
    "#);
}

#[test]
fn control_flow_stays_and_what_is_not_known_is_the_users() {
    insta::assert_snapshot!(shown(
        "export A=1 B=$(pwd)\nexport C=$(python -c 'print(1)')\nif [ -f a ]; then make; else echo b; fi\n\
         for f in a b; do cp $f c; npm ci \"$f\"; done\ncd a && npm run build && cd ..\n\
         source .venv/bin/activate\n. /opt/x/env.sh\nnvm use 16\n\
         python - <<EOF\nprint(1)\nEOF\ncat a | sh\nf() { make \"$1\"; }\nf x\nsed -i s/a/b/ c\n\
         echo a > b\necho a >/dev/null\n(cd x; ./configure)\ngit submodule update\n$TOOL x"
    ), @r#"
    export A=1 B=$(pwd)
    { setting 0; }
    if [ -f a ]; then { nobody 1; }; else echo b; fi
    for f in a b; do { nobody 2; }; { nobody 3; }; done
    cd a && { nobody 4; } && cd ..
    { setting 5; }
    . /opt/x/env.sh
    { setting 6; }
    { nobody 7; }
    { nobody 8; }
    f() { { nobody 9; }; }
    f x
    { nobody 10; }
    { nobody 11; }
    echo a >/dev/null
    { nobody 12; }
    { nobody 13; }
    { nobody 14; }
    0: export C=$(python -c 'print(1)')
    1: make
    2: cp $f c
    3: npm ci "$f"
    4: npm run build
    5: source .venv/bin/activate
    6: nvm use 16
    7: python - <<EOF
    print(1)
    EOF
    8: cat a | sh
    9: make "$1"
    10: sed -i s/a/b/ c
    11: echo a > b
    12: (cd x; ./configure)
    13: git submodule update
    14: $TOOL x
    "#);
}

#[test]
fn a_script_that_no_shell_reads_is_told_with_its_line() {
    let error = separate("cd /testbed\nif true; then\n", "/testbed").unwrap_err();
    assert!(error.line >= 2, "{error}");
}

#[test]
fn a_script_without_markers_has_no_tests() {
    let separated = separate("pytest\n", "/testbed").unwrap();
    assert_eq!(separated.tests, None);
    assert!(!separated.command("w").contains("imgforge-tests"));
}

#[test]
fn tools_that_do_not_know_their_options_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let try_with = |stubs: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for stub in stubs {
            let path = dir.path().join(stub);
            std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &(ready() + "echo ready")])
            .env("PATH", path)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    // Both need root; as another user the rest is still tried.
    let root = ["setpriv", "chown"];
    assert_eq!(try_with(&root), (Some(0), "ready\n".to_owned()));
    for tool in ["find", "sort", "comm", "sed", "grep", "xargs", "cp", "tr"] {
        let (code, said) = try_with(&[&root[..], &[tool]].concat());
        assert_eq!(code, Some(NOT_READY as i32), "{tool}");
        assert!(said.starts_with(NOT_READY_MARK), "{tool}: {said}");
    }
}
