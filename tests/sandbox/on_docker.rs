//! The same on Docker: its sandbox is another one.

use serde_json::json;

use crate::common::{docker, needs};
use crate::space::{Space, list, marker, sleeps};

#[test]
#[ignore = "needs Docker"]
fn commands_and_tests_are_locked_down_on_docker() {
    needs::docker();
    let state = tempfile::tempdir().unwrap();
    let space = Space::on("docker", state.path().to_owned());
    let ran = space.python(
        0,
        &[],
        r#"
import errno, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(sorted({*os.getresuid(), *os.getresgid()}), int(status["CapEff"], 16), int(status["NoNewPrivs"]))
try:
    open("/x", "w")
except OSError as error:
    print(errno.errorcode[error.errno])
try:
    socket.create_connection(("1.1.1.1", 80), timeout=20)
except OSError as error:
    print(errno.errorcode[error.errno])
open("/workspace/x", "w").close()
print(os.stat("/.imgforge").st_uid, os.access("/.imgforge", os.W_OK))
"#,
    );
    assert_eq!(ran["stdout"], "[1000] 0 1\nEROFS\nENETUNREACH\n0 False\n", "{ran:#}");
    let files = [("t.py", "def test_a(): pass\ndef test_b(): assert 0\n")];
    let commit = space.repository("r", &files);
    let words = ["--repo", "./r", "--commit", &commit];
    let ran = space.json(1, &[&words[..], &["--tests", "t.py"]].concat());
    assert_eq!((&ran["engine"], &ran["unenforced"]), (&json!("docker"), &json!([])));
    assert_eq!(ran["tests"]["source"], "channel");
    assert_eq!(list(&ran["tests"]["passed"]), ["t.py::test_a"]);
    assert_eq!(list(&ran["tests"]["failed"]), ["t.py::test_b"]);
    space.json(0, &[&words[..], &["--tests", "t.py::test_a"]].concat());
    let marker = marker();
    let text = format!(
        "import subprocess, time\nprint('begun', flush=True)\n\
         subprocess.Popen(['sleep', '{marker}'], start_new_session=True)\ntime.sleep(1000)"
    );
    let ran = space.python(124, &["--timeout", "3s"], &text);
    assert_eq!((&ran["stdout"], &ran["timed_out"]), (&json!("begun\n"), &json!(true)));
    assert!(!sleeps(&marker));
    let ran = space.python(137, &["-m", "300m"], "x = bytearray(900 << 20)");
    assert_eq!(ran["out_of_memory"], true, "{ran:#}");
    // Nothing of it is left.
    let left = docker(&["ps", "-aq", "--filter", &format!("ancestor={}", space.image)]);
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
}
