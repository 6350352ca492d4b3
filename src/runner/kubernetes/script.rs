//! The script that runs the tests in their container, as its process 1.
//!
//! It writes the termination message when nothing else lives there: what the tests do cannot forge it. Only
//! root may write to the directory of the output, and it goes there by descriptors that are open before.

use std::fmt::Write as _;

use crate::engine::SandboxRequest;
use crate::quote::shell_quote;

use super::inputs;
use super::message::{REFUSAL, REPORT};

/// Where the output goes.
pub(super) const OUTPUTS: &str = "/imgforge/out";

/// Where the container says how it ended.
const MESSAGE: &str = "/dev/termination-log";

/// Process 1 of the container of a session: it waits, and takes the end of processes that lost their parent.
pub(super) const WAIT: &str = "umask 022\nwhile :; do sleep 3600 & wait $!; done\n";

/// The exit code of a script that could not begin.
const NOT_BEGUN: u8 = 111;

/// Returns the `/bin/sh` text that a pod runs as its tests.
///
/// Time is that of `/proc/uptime`, in hundredths of a second, which no clock that is set can move. At the
/// end `kill` reaches every process but process 1 itself, those in other sessions included. `-1` would be
/// all processes of the node where this were not process 1, so it is not run then.
pub(super) fn of_tests(request: &SandboxRequest) -> String {
    let mut text = format!(
        "no() {{ printf '{REFUSAL} %s' \"$1\" >{MESSAGE}; exit {NOT_BEGUN}; }}\n\
         [ $$ -eq 1 ] || no 'its script is not process 1 of the container'\n\
         for p in cut sha256sum stat timeout; do\n\
         command -v $p >/dev/null || no \"its image has no $p\"\n\
         done\n\
         now() {{ read -r u _ </proc/uptime; echo \"${{u%.*}}${{u#*.}}\"; }}\n\
         chmod 600 {MESSAGE} 2>/dev/null\n\
         umask 077\n\
         chmod 700 {OUTPUTS} && : >{OUTPUTS}/log && : >{OUTPUTS}/control || no 'its output cannot be written'\n"
    );
    for (from, (path, _)) in inputs::paths(&request.files).into_iter().zip(&request.files) {
        let (from, to) = (from.join(" "), shell_quote(path));
        let _ = writeln!(
            text,
            "cat {from} >{to} || no {}",
            shell_quote(&format!("{path} cannot be written"))
        );
    }
    let limit = request.time_limit.as_secs().max(1);
    // In units of 512 bytes, as POSIX has it for `sh`.
    let files = request.quotas.file.map(|bytes| format!("ulimit -f {}; ", bytes / 512));
    let files = files.unwrap_or_default();
    let command = shell_quote(&format!("umask 022\n{}\n", request.command));
    let hundredths = limit * 100;
    let _ = write!(
        text,
        "umask 022\n\
         s=$(now)\n\
         ( {files}exec </dev/null; exec timeout -s KILL {limit} /bin/sh -c {command} ) \
         >{OUTPUTS}/log 2>&1 4>{OUTPUTS}/control\n\
         c=$?\n\
         kill -KILL -1 2>/dev/null\n\
         e=$(( $(now) - s ))\n\
         t=-; [ $c -eq 137 ] && [ $e -ge {hundredths} ] && t=timeout\n\
         sum() {{ stat -c %s $1; sha256sum <$1 | cut -c1-64; }}\n\
         set -- $(sum {OUTPUTS}/log) $(sum {OUTPUTS}/control)\n\
         printf '{REPORT} %s %s %s %s %s %s %s' $c $e $t $1 $2 $3 $4 >{MESSAGE}\n\
         exit $c\n"
    );
    text
}

/// Returns the command that prints a file of the output.
pub(super) fn print(file: &str) -> [String; 2] {
    ["cat".to_owned(), format!("{OUTPUTS}/{file}")]
}

/// Returns the command that prints length and digest of both files of the output, where the script had no
/// time to do so.
pub(super) fn measure() -> [String; 3] {
    let text = format!(
        "for f in {OUTPUTS}/log {OUTPUTS}/control; do stat -c %s $f; sha256sum <$f | cut -c1-64; done"
    );
    ["/bin/sh".to_owned(), "-c".to_owned(), text]
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::super::inputs::INPUTS;
    use super::super::message::Message;
    use super::super::testing::request;
    use super::*;

    /// Runs the script as process 1 of a container without an image: the host's programs.
    fn run(command: &str, limit: u64) -> (Option<Message>, i32, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let (out, inputs) = (dir.path().join("out"), dir.path().join("in"));
        std::fs::create_dir_all(&out).unwrap();
        std::fs::create_dir_all(&inputs).unwrap();
        let mut request = request();
        request.command = command.to_owned();
        request.time_limit = Duration::from_secs(limit);
        let written = dir.path().join("file");
        request.files = vec![(written.display().to_string(), b"content\n".to_vec())];
        std::fs::write(inputs.join("f0"), b"content\n").unwrap();
        let message = dir.path().join("message");
        let text = of_tests(&request)
            .replace(INPUTS, &inputs.display().to_string())
            .replace(OUTPUTS, &out.display().to_string())
            .replace(MESSAGE, &message.display().to_string());
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "/bin/sh", "-c"])
            .arg(&text)
            .status()
            .expect("`unshare` of util-linux starts");
        assert_eq!(std::fs::read(&written).unwrap(), b"content\n");
        let said = std::fs::read_to_string(&message).unwrap_or_default();
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
        (Message::read(&said), status.code().unwrap_or(-1), read("log"), read("control"))
    }

    #[test]
    fn the_end_of_the_tests_is_told_with_what_they_printed() {
        let command = "echo out; echo err >&2; echo said >&4; exit 3";
        let (message, code, log, control) = run(command, 60);
        let Some(Message::Report(report)) = message else { panic!("{message:?} {code} {log}") };
        assert_eq!((report.code, code, report.timed_out), (3, 3, false));
        assert_eq!((log.as_str(), control.as_str()), ("out\nerr\n", "said\n"));
        assert_eq!((report.log.bytes, report.control.bytes), (8, 5));
        let sum = |text: &str| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text));
        assert_eq!((report.log.sha256, report.control.sha256), (sum(&log), sum(&control)));
    }

    #[test]
    fn at_the_time_limit_everything_dies_and_it_is_told() {
        let (message, code, log, _) = run("echo begun; setsid sleep 100 & sleep 100", 1);
        let Some(Message::Report(report)) = message else { panic!("{message:?} {code}") };
        assert!(report.timed_out && report.code == 137 && code == 137, "{report:?}");
        assert_eq!(log, "begun\n");
        // Whoever kills himself before has not timed out.
        let (message, ..) = run("kill -KILL $$", 60);
        let Some(Message::Report(report)) = message else { panic!("{message:?}") };
        assert!(!report.timed_out && report.code == 137, "{report:?}");
    }

    #[test]
    fn what_goes_on_in_another_session_is_dead_before_the_output_is_measured() {
        let command = "setsid sh -c 'while :; do echo x; sleep 0.01; done' & sleep 0.2; exit 0";
        let (message, _, log, _) = run(command, 60);
        let Some(Message::Report(report)) = message else { panic!("{message:?}") };
        assert_eq!(report.log.bytes, log.len() as u64);
        assert!(report.log.bytes > 0);
    }

    #[test]
    fn outside_of_a_container_nothing_is_run() {
        let dir = tempfile::tempdir().unwrap();
        let message = dir.path().join("message");
        let text = of_tests(&request()).replace(MESSAGE, &message.display().to_string());
        let status = Command::new("/bin/sh").arg("-c").arg(&text).status().unwrap();
        assert_eq!(status.code(), Some(i32::from(NOT_BEGUN)));
        let said = std::fs::read_to_string(&message).unwrap();
        assert!(matches!(Message::read(&said), Some(Message::Refusal(_))), "{said}");
    }
}
