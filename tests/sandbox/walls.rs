//! What a command in a sandbox cannot reach.

use std::time::Instant;

use serde_json::{Value, json};

use crate::space::{Space, git};

#[test]
#[ignore = "needs a base image"]
fn there_is_no_network_but_loopback() {
    let space = Space::new();
    let began = Instant::now();
    let ran = space.python(
        0,
        &[],
        r#"
import errno, socket
for address in ("1.1.1.1", 80), ("10.0.0.1", 80):
    try:
        socket.create_connection(address, timeout=20)
        raise SystemExit("connected")
    except OSError as error:
        print(errno.errorcode[error.errno])
try:
    socket.getaddrinfo("pypi.org", 443)
    raise SystemExit("found")
except socket.gaierror:
    print("no name")
print(open("/proc/net/dev").read().count(":"))
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname(), timeout=5)
server.accept()[0].sendall(b"hello")
print(client.recv(5), socket.gethostbyname(socket.gethostname()))
"#,
    );
    let expected = "ENETUNREACH\nENETUNREACH\nno name\n1\nb'hello' 127.0.0.1\n";
    assert_eq!(ran["stdout"], expected, "{ran:#}");
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
}

#[test]
#[ignore = "needs a base image"]
fn only_the_workspace_and_tmp_can_be_written() {
    let ran = Space::new().python(
        0,
        &[],
        r#"
import errno, os, tempfile
for path in "/x", "/etc/x", "/usr/bin/x", "/home/x", "/var/tmp/x":
    try:
        open(path, "w")
        print(path, "written")
    except OSError as error:
        assert error.errno == errno.EROFS, (path, error)
for path in "/.imgforge/x", "/.imgforge/inside/x", "/workspace/../.imgforge/gitconfig":
    try:
        open(path, "w")
        print(path, "written")
    except OSError as error:
        assert error.errno == errno.EACCES, (path, error)
try:
    os.listdir("/.imgforge/results")
    print("seen")
except OSError as error:
    assert error.errno == errno.EACCES
for path in "/workspace/x", "/tmp/x", os.path.expanduser("~/x"), tempfile.mkstemp()[1]:
    open(path, "w").close()
print(os.environ["HOME"])
"#,
    );
    assert_eq!((&ran["stdout"], &ran["stderr"]), (&json!("/workspace/.home\n"), &json!("")));
}

#[test]
#[ignore = "needs a base image"]
fn programs_run_from_tmp_and_the_workspace() {
    let ran = Space::new().python(
        0,
        &[],
        r#"
import shutil, subprocess
for place in "/tmp/true", "/workspace/true":
    shutil.copy(shutil.which("true"), place)
    print(subprocess.call([place]))
"#,
    );
    assert_eq!(ran["stdout"], "0\n0\n", "{ran:#}");
}

#[test]
#[ignore = "needs a base image"]
fn the_user_has_no_privileges() {
    let ran = Space::new().python(
        0,
        &[],
        r#"
import json, os
names = "CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp"
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
found = {name: int(status[name], 16) for name in names}
found["ids"] = sorted({*os.getresuid(), *os.getresgid(), *os.getgroups()})
print(json.dumps(found))
"#,
    );
    let found: Value = serde_json::from_str(ran["stdout"].as_str().unwrap()).unwrap();
    let expected = json!({
        "CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2, "ids": [1000],
    });
    assert_eq!(found, expected);
}

#[test]
#[ignore = "needs a base image"]
fn a_set_user_id_program_gains_nothing() {
    let ran = Space::new().python(
        0,
        &[],
        r#"
import os, shutil, stat, subprocess, time
su = shutil.which("su")
assert os.stat(su).st_mode & stat.S_ISUID and os.stat(su).st_uid == 0
# It waits for a password.
process = subprocess.Popen([su], stdin=subprocess.PIPE)
for _ in range(500):
    if os.readlink(f"/proc/{process.pid}/exe").endswith("/su"):
        break
    time.sleep(0.01)
time.sleep(0.1)
status = open(f"/proc/{process.pid}/status").read()
print([line.split()[1:] for line in status.splitlines() if line.startswith("Uid")][0])
process.kill()
"#,
    );
    assert_eq!(ran["stdout"], "['1000', '1000', '1000', '1000']\n", "{ran:#}");
}

#[test]
#[ignore = "needs a base image"]
fn no_variable_of_this_process_is_there_but_those_that_are_named() {
    let space = Space::new();
    let text = "import os; print(os.environ.get('SECRET'), os.environ.get('STAGE'))";
    let mut command = space.sandbox(&["-e", "STAGE=dev", "--", "python", "-c", text]);
    let output = command.env("SECRET", "secret").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "None dev\n");
}

#[test]
#[ignore = "needs a base image"]
fn git_trusts_every_repository_and_can_commit() {
    let space = Space::new();
    let commit = space.repository("r", &[("a.txt", "1\n")]);
    let git_of = |words: &[&str]| {
        let all = [&["--repo", "./r", "--commit", &commit, "--", "git"], words].concat();
        space.json(0, &all)["command"].clone()
    };
    assert_eq!(git_of(&["status", "--porcelain"])["stdout"], "");
    assert_eq!(git_of(&["log", "--format=%H"])["stdout"], format!("{commit}\n"));
    git_of(&["commit", "-q", "--allow-empty", "-m", "more"]);
    // The repository of an image is root's.
    git_of(&["-C", "/testbed", "status"]);
    assert_eq!(git(&space.path().join("r"), &["rev-parse", "HEAD"]), commit);
}
