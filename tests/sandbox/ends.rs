//! How commands end, and that nothing is left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::common::needs::is_root;
use crate::space::{Space, marker, said, sleeps};

#[test]
#[ignore = "needs a base image"]
fn the_status_is_that_of_the_command() {
    let space = Space::new();
    let text = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)";
    let output = space.run(&["--", "python", "-c", text]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "out\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    // A plain user is told which limits are not enforced.
    let is_own = |line: &&str| is_root() || !line.starts_with("warning: ");
    assert_eq!(stderr.lines().filter(is_own).collect::<Vec<_>>(), ["err"]);
    let ran = space.python(3, &[], text);
    assert_eq!((&ran["stdout"], &ran["stderr"]), (&json!("out\n"), &json!("err\n")));
    let ran = space.python(137, &[], "import os; os.kill(os.getpid(), 9)");
    assert_eq!((&ran["returncode"], &ran["out_of_memory"]), (&json!(137), &json!(false)));
    // A code of its own is no limit of time.
    let ran = space.python(124, &[], "import sys; sys.exit(124)");
    assert_eq!((&ran["returncode"], &ran["timed_out"]), (&json!(124), &json!(false)));
}

/// Leaves processes behind, in the foreground, in a session of their own, and without a parent.
fn leave(marker: &str, then: &str) -> String {
    format!(
        "
import os, subprocess, sys, time
print('before', flush=True)
print('said', file=sys.stderr, flush=True)
words = ['sleep', '{marker}']
subprocess.Popen(words)
subprocess.Popen(words, start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp(words[0], words)
    os._exit(0)
{then}
"
    )
}

#[test]
#[ignore = "needs a base image"]
fn at_the_time_limit_nothing_is_left_but_what_was_printed() {
    let (space, marker) = (Space::new(), marker());
    let began = Instant::now();
    let ran = space.python(124, &["--timeout", "2s"], &leave(&marker, "time.sleep(1000)"));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!((&ran["timed_out"], &ran["returncode"]), (&json!(true), &json!(-1)), "{ran:#}");
    assert_eq!(ran["stdout"], "before\n");
    assert_eq!(ran["stderr"], "said\nTIMEOUT after 2s");
    assert!(!sleeps(&marker));
    let output =
        space.run(&["--timeout", "1s", "--", "python", "-c", "import time; time.sleep(9)"]);
    assert_eq!(output.status.code(), Some(124));
    assert!(said(&output).contains("time limit of 1s"), "{}", said(&output));
}

#[test]
#[ignore = "needs a base image"]
fn what_a_command_leaves_is_killed() {
    let marker = marker();
    let ran = Space::new().python(0, &[], &leave(&marker, "time.sleep(0.2)"));
    assert_eq!(ran["returncode"], 0, "{ran:#}");
    assert!(!sleeps(&marker));
}

#[test]
#[ignore = "needs a base image"]
fn a_reader_that_stands_still_keeps_no_time_limit_waiting() {
    let (space, marker) = (Space::new(), marker());
    let text = leave(&marker, "while True: print('x' * 65536)");
    let mut command = space.sandbox(&["--timeout", "2s", "--", "python", "-c", &text]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(within(20, || sleeps(&marker)), "it has not begun");
    assert!(within(20, || !sleeps(&marker)), "it runs past its limit");
    // Nobody reads any more: then it ends as it would have.
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(124));
}

#[test]
#[ignore = "needs a base image"]
fn an_interrupt_and_a_kill_of_imgforge_leave_nothing() {
    for (signal, status) in
        [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)]
    {
        let (space, marker) = (Space::new(), marker());
        let text = leave(&marker, "time.sleep(1000)");
        let mut command = space.sandbox(&["--", "python", "-c", &text]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(within(20, || sleeps(&marker)), "it has not begun");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), status, "{signal:?}");
        assert!(within(20, || !sleeps(&marker)), "{signal:?}");
    }
}

fn within(seconds: u64, what: impl Fn() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
