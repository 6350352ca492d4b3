//! What a command in a sandbox may use.

use crate::common::needs::{NotHere, is_root, not_here};
use crate::space::{Space, marker, said, sleeps};

const EAT: &str = "x = bytearray(900 << 20); print(len(x))";

#[test]
#[ignore = "needs a base image"]
fn a_lack_of_memory_is_no_end_of_the_commands_own() {
    let space = Space::new();
    let child = format!(
        "import subprocess, sys; print('begun', flush=True); \
         sys.exit(not subprocess.call([sys.executable, '-c', {EAT:?}]))"
    );
    for text in [EAT, &child] {
        let ran = space.python(137, &["-m", "300m"], text);
        assert_eq!(ran["out_of_memory"], true, "{ran:#}");
        assert_eq!((&ran["success"], &ran["timed_out"]), (&false.into(), &false.into()));
        if text != EAT {
            assert_eq!(ran["stdout"], "begun\n");
            // Of a child that was killed the command may know nothing.
            assert!(!is_root() || ran["returncode"] == 0, "{ran:#}");
        }
    }
    let output = space.run(&["-m", "300m", "--", "python", "-c", EAT]);
    assert!(said(&output).contains("the memory limit was reached"), "{}", said(&output));
}

#[test]
#[ignore = "needs a base image and root"]
fn what_is_in_the_directories_counts_as_memory() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let fill = "
import subprocess, sys
eat = [sys.executable, '-c', 'x = bytearray(180 << 20)']
print(subprocess.call(eat), flush=True)
with open('/workspace/big', 'wb') as file:
    for _ in range(110):
        file.write(bytes(1 << 20))
print(subprocess.call(eat))
";
    let ran = Space::new().python(137, &["-m", "256m"], fill);
    assert_eq!((&ran["stdout"], &ran["out_of_memory"]), (&"0\n-9\n".into(), &true.into()));
}

#[test]
#[ignore = "needs a base image"]
fn the_directories_have_a_size() {
    let text = "
for path in '/workspace/big', '/tmp/big':
    try:
        with open(path, 'wb') as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
    except OSError as error:
        print(error.errno)
";
    let sizes = ["--workspace-size", "32m", "--tmp-size", "16m"];
    let space = Space::new();
    assert_eq!(space.python(0, &sizes, text)["stdout"], "28\n28\n");
    let text = "
import os
for path in '/workspace', '/tmp':
    size = os.statvfs(path)
    print((size.f_blocks * size.f_frsize) >> 20)
";
    // Half of the memory, and an eighth of it.
    assert_eq!(space.python(0, &["-m", "512m"], text)["stdout"], "256\n64\n");
}

#[test]
#[ignore = "needs a base image"]
fn a_limit_of_processors_is_one_of_time_and_programs_are_told() {
    let text = "
import os, subprocess, time
print(subprocess.check_output(['nproc']).decode().strip())
print(os.environ['PYTEST_XDIST_AUTO_NUM_WORKERS'])
begin = time.monotonic(), time.process_time()
while time.monotonic() - begin[0] < 2:
    pass
print(time.process_time() - begin[1])
";
    let ran = Space::new().python(0, &["--cpus", "0.5"], text);
    let words: Vec<&str> = ran["stdout"].as_str().unwrap().split_whitespace().collect();
    assert_eq!(words[..2], ["1", "1"]);
    // Half of two seconds, and the period that had begun.
    assert!(!is_root() || words[2].parse::<f64>().unwrap() < 1.3, "{words:?}");
}

#[test]
#[ignore = "needs a base image"]
fn processes_are_counted() {
    let text = "
import os, sys, time
made = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
    except OSError as error:
        print(made, error.errno)
        sys.exit(0)
";
    let ran = Space::new().python(0, &["--pids-limit", "40"], text);
    let words: Vec<&str> = ran["stdout"].as_str().unwrap().split_whitespace().collect();
    assert!((10..40).contains(&words[0].parse::<i32>().unwrap()), "{words:?}");
    assert_eq!(words[1], "11");
}

#[test]
#[ignore = "needs a base image"]
fn a_fork_bomb_ends_with_its_command() {
    let marker = marker();
    let text = format!(
        "
import os
print('begun', flush=True)
if os.fork() == 0:
    os.execvp('sleep', ['sleep', '{marker}'])
while True:
    try:
        os.fork()
    except OSError:
        pass
"
    );
    let ran = Space::new().python(124, &["--pids-limit", "64", "--timeout", "3s"], &text);
    assert_eq!(ran["timed_out"], true, "{ran:#}");
    assert!(ran["elapsed_seconds"].as_f64().unwrap() < 30.0, "{ran:#}");
    assert!(!sleeps(&marker));
}
