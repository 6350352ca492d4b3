//! `imgforge run` and `imgforge shell` on the embedded engine, with pipes and on a terminal.
//!
//! They stand on the base image in the state directory of the engine tests, `IMGFORGE_TEST_STATE`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

mod common;

use common::needs::{self, state};

const ID: &str = "imgforge__abacus-1";

fn imgforge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command.args(["--engine", "embedded", "-q", "--state-dir"]).arg(state()).args(args);
    command.current_dir(std::env::temp_dir()).env_remove("DOCKER_HOST");
    command
}

#[test]
#[ignore = "needs a base image"]
fn a_command_inherits_nothing_of_whoever_started_imgforge() {
    needs::base();
    // As `nohup` and a script's `&` ignore some signals: a test that raises one would not see it.
    // Not every machine lets a process change its personality.
    let start = "trap '' ALRM VTALRM XCPU; umask 077; ulimit -S -s 4096; exec 7</etc/passwd
                 setarch -R true && exec setarch -R \"$@\"; exec \"$@\"";
    let show = "umask; ulimit -S -s; cat /proc/self/personality; \
                grep -E 'Sig(Ign|Blk)' /proc/self/status; [ -e /proc/$$/fd/7 ] || echo none";
    let command = imgforge(&["run", ID, "--", "bash", "-c", show]);
    let mut shell = Command::new("bash");
    shell.args(["-c", start, "bash"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = shell.current_dir(std::env::temp_dir()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "0022\n8192\n00000000\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
         none\n",
        "{said}"
    );
}

#[test]
#[ignore = "needs a base image"]
fn every_shell_of_an_image_finds_the_environment_and_the_status_is_the_command_s() {
    needs::base();
    let script = r#"
        want=/opt/miniconda3/envs/testbed/bin/python
        conda=/opt/miniconda3
        check() { got=$("$@" 2>/dev/null | tail -n 1); [ "$got" = "$want" ] || echo "$* finds $got"; }
        check bash -c 'command -v python'
        check bash -lc 'command -v python'
        check bash -ic 'command -v python'
        check sh -c 'command -v python'
        check sh -lc 'command -v python'
        check su - root -c 'command -v python'
        check env BASH_ENV=/root/.bashrc bash -c 'command -v python'
        check env -i bash -c ". $conda/bin/activate; command -v python"
        check env -i bash -uec ". $conda/etc/profile.d/conda.sh; conda activate testbed; command -v python"
        check env -i bash -c "eval \"\$($conda/bin/conda shell.bash hook)\"; conda activate testbed; command -v python"
        exit 9
    "#;
    let mut child = imgforge(&["shell", ID])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{said}");
    assert_eq!(output.status.code(), Some(9), "{said}");

    let output = imgforge(&["run", "imgforge__abacus1", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the nearest is `imgforge__abacus-1`"), "{said}");
}

/// Reads what a terminal shows until it has so many prompts of a shell. Where nothing is shown for a
/// while, `keys` are typed again: a shell loses a Ctrl-C that comes just after its prompt.
fn read_prompts(screen: &mut File, shown: &mut String, count: usize, keys: &[u8]) {
    let began = Instant::now();
    while shown.matches("# ").count() < count {
        assert!(began.elapsed() < Duration::from_secs(120), "no prompt: {shown}");
        let mut polled = [PollFd::new(screen, PollFlags::IN)];
        if poll(&mut polled, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap() == 0 {
            screen.write_all(keys).unwrap();
            continue;
        }
        let mut piece = [0; 4096];
        let length = screen.read(&mut piece).unwrap();
        shown.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
}

#[test]
#[ignore = "needs a base image"]
fn a_terminal_is_raw_while_the_command_runs_and_as_before_afterwards_also_after_a_term() {
    needs::base();
    for (typed, status) in [(Some("exit 5\r"), 5), (None, 137)] {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let size = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).unwrap();
        let before = format!("{:?}", tcgetattr(&theirs).unwrap());
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let mut command = imgforge(&["run", ID, "--", "bash", "-c", "stty size; exec bash -i"]);
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: both are single calls of the system.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
            });
        }
        let mut child = command.spawn().unwrap();
        let mut screen = File::from(ours);
        let mut shown = String::new();
        read_prompts(&mut screen, &mut shown, 1, b"");
        assert!(shown.contains("31 97"), "{shown}");
        assert_ne!(format!("{:?}", tcgetattr(&theirs).unwrap()), before);
        match typed {
            Some(keys) => {
                // It takes along what was typed with it.
                screen.write_all(b"\x03").unwrap();
                read_prompts(&mut screen, &mut shown, 2, b"\x03");
                screen.write_all(keys.as_bytes()).unwrap();
            }
            None => {
                let pid = rustix::process::Pid::from_child(&child);
                // A shell that somebody types at takes no notice: the second one kills.
                for _ in 0..2 {
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
                    std::thread::sleep(Duration::from_millis(300));
                }
            }
        }
        assert_eq!(child.wait().unwrap().code(), Some(status), "{shown}");
        assert_eq!(format!("{:?}", tcgetattr(&theirs).unwrap()), before);
    }
}
