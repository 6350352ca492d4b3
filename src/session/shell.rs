//! A shell that lives between commands: the directory, variables and functions that a command sets
//! are there for the next.
//!
//! The shell is bash, which reads from a pipe. A command is quoted and evaluated; then the shell says
//! its exit code on a file descriptor of its own, and a word, which nobody in the container knows, on
//! the output, so that all that was printed before is known to be there. The commands themselves have
//! neither descriptor.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use rand::distr::{Alphanumeric, SampleString as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::engine::{
    EngineError, Exec, ExecEnd, ExecHandle, ExecRequest, Input, LogSink, NoLog, Output, Outputs,
    Result, SandboxSession,
};

/// Where the shell says exit codes.
const STATUS: i32 = 9;

/// What a command that was killed leaves as `$?`.
const KILLED: i32 = 128 + libc::SIGKILL;

/// How long a shell may take to say so once the processes of a command are killed.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// How long a shell that had to give up a command may take to say that it is ready for the next.
const SETTLING: Duration = Duration::from_secs(30);

/// Has a shell (`$1`) give up what its command is yet to do, by [`GIVE_UP`]; then kills what came of it and
/// was started since then (`$2`), again and again until there is nothing. The time is in hundredths of a
/// second since the machine started, as the kernel counts.
const KILL_CHILDREN: &str = r#"root=$1 since=$2 round=0
kill -64 $root 2>/dev/null
while [ $round -lt 200 ]; do
    round=$((round + 1)) all= found=" $root "
    for directory in /proc/[0-9]*; do
        read -r line <$directory/stat || continue
        set -- ${line##*) }
        [ "$1" = Z ] || [ "${20}" -lt $since ] || all="$all ${directory#/proc/}:$2"
    done 2>/dev/null
    before=
    while [ "$before" != "$found" ]; do
        before=$found
        for process in $all; do
            case $found in *" ${process%:*} "*) continue ;; esac
            case $found in *" ${process#*:} "*) found="$found${process%:*} " ;; esac
        done
    done
    found=${found#" $root "}
    [ -n "$found" ] || exit 0
    kill -9 $found 2>/dev/null
done
exit 1
"#;

/// What makes an interactive shell silent: its own outputs lead nowhere, those of its commands are set
/// for each. The prompt is there, because startup files ask for it, and is empty.
const PROMPTLESS: &str = r"exec >/dev/null 2>&1
set +mH +o history
PS1='\[\]' PS2= PS0=
unset HISTFILE
";

/// What an interactive shell does at signal 64, the last one of Linux, which programs do not use: it
/// interrupts itself, and so gives up what it evaluates. `SIGINT` from elsewhere is not enough: bash goes on
/// with a list where the program that it waited for did not end by that signal.
const GIVE_UP_INTERACTIVE: &str = "trap 'kill -INT $$' 64\n";

/// What another shell does then, which `SIGINT` would end: it skips every command until the one that says
/// the exit code.
const GIVE_UP: &str = r#"trap 'shopt -s extdebug; trap '\''[[ $BASH_COMMAND == printf*">&9" ]] && { trap - DEBUG; shopt -u extdebug; }'\'' DEBUG' 64
"#;

/// How a shell is started.
#[derive(Debug, Clone, Default)]
pub struct ShellOptions {
    /// As in [`ExecRequest::variables`].
    pub variables: BTreeMap<String, String>,
    /// As in [`ExecRequest::working_dir`].
    pub working_dir: Option<String>,
    /// As in [`ExecRequest::user`].
    pub user: Option<String>,
    /// Whether it says of itself that it is interactive, as startup files of users ask before they do
    /// anything, and has aliases. It prints no prompts and keeps no history all the same. It goes on
    /// after `SIGINT`, which ends what it runs, loops of its own as well.
    pub is_interactive: bool,
}

/// How a command of a shell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShellEnd {
    /// With this exit code; the shell lives.
    Exited(i32),
    /// Its processes were killed at the time limit, and nothing else of it is run; the shell lives, with
    /// the state that the command had made until then.
    TimedOut,
    /// The shell ended with the command, or before it.
    ShellEnded(ExecEnd),
}

/// A shell of a session. It ends when it is dropped.
pub struct Shell<'a> {
    session: &'a dyn SandboxSession,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    output: BoxStream<'static, Result<Output>>,
    handle: Arc<dyn ExecHandle>,
    /// The number of its process in the container.
    pid: i32,
    /// What the last command left as `$?`.
    last: i32,
    /// What was said on the descriptor for exit codes and not read yet.
    said: Vec<u8>,
    /// As in [`ShellOptions::is_interactive`].
    is_interactive: bool,
    /// When the last command was started, for [`KILL_CHILDREN`]; 0 where nobody knows.
    since: Arc<AtomicU64>,
    /// Whether it was told to give up a command, and has not said since that it is ready for another.
    /// Whoever tells it holds the lock until that is done.
    was_killed: Arc<Mutex<bool>>,
}

/// What a shell runs now, for whoever wants to end it while [`Shell::run`] waits.
pub struct Running<'a> {
    session: &'a dyn SandboxSession,
    handle: Arc<dyn ExecHandle>,
    pid: i32,
    since: Arc<AtomicU64>,
    was_killed: Arc<Mutex<bool>>,
}

impl Running<'_> {
    /// Interrupts it with `SIGINT`, unless it left the process group of the shell. A shell that is not
    /// interactive may end with it.
    pub async fn interrupt(&self) -> Result<()> {
        self.handle.signal(libc::SIGINT).await
    }

    /// Kills all that the command started, and not the shell, which does nothing else of the command: that
    /// ends with code 137. What commands before left in the background lives on.
    pub async fn kill(&self) -> Result<()> {
        let mut was_killed = self.was_killed.lock().await;
        *was_killed = true;
        let pid = self.pid.to_string();
        let since = self.since.load(Ordering::Relaxed).to_string();
        let request = ExecRequest {
            user: Some("0:0".to_owned()),
            working_dir: Some("/".to_owned()),
            time_limit: Some(Duration::from_secs(30)),
            ..ExecRequest::of(&["/bin/sh", "-c", KILL_CHILDREN, "sh", &pid, &since])
        };
        self.session.exec(&request, &NoLog, &NoLog).await.map(|_| ())
    }
}

impl<'a> Shell<'a> {
    /// Starts a shell.
    ///
    /// # Errors
    /// [`EngineError::Refused`] where the container has no `/bin/bash`.
    pub async fn open(
        session: &'a dyn SandboxSession,
        options: &ShellOptions,
    ) -> Result<Shell<'a>> {
        let is_interactive = options.is_interactive;
        let mut command = vec!["/bin/bash", "--noprofile", "--norc"];
        if is_interactive {
            command.extend(["--noediting", "-i"]);
        }
        let request = ExecRequest {
            variables: options.variables.clone(),
            working_dir: options.working_dir.clone(),
            user: options.user.clone(),
            input: Input::Held,
            outputs: Outputs::MergedWithControl(STATUS),
            ..ExecRequest::of(&command)
        };
        let Exec { input, output, handle } = session.spawn(&request).await?;
        let refused = |end: ExecEnd| EngineError::Refused {
            action: "start a shell".to_owned(),
            reason: match end {
                ExecEnd::NotStarted(why) => why.reason,
                ExecEnd::SessionEnded(how) => format!("the session has ended: {}", how.reason()),
                _ => "it ended at once".to_owned(),
            },
        };
        let Some(input) = input else { return Err(refused(handle.end().await?.end)) };
        let (pid, last, said) = (0, 0, Vec::new());
        let (since, was_killed) = (Arc::default(), Arc::default());
        let mut shell = Shell {
            session,
            input,
            output,
            handle,
            pid,
            last,
            said,
            is_interactive,
            since,
            was_killed,
        };
        // A copy of the output, for the word that ends it.
        let nonce = nonce();
        let mut first = "exec 8>&1\n".to_owned();
        if is_interactive {
            first += PROMPTLESS;
            first += GIVE_UP_INTERACTIVE;
        } else {
            first += GIVE_UP;
        }
        first += &saying("$$", &nonce);
        match shell.tell(&first, &nonce, None, &NoLog).await? {
            Told::Number(pid) => shell.pid = pid,
            Told::Late | Told::Ended => return Err(refused(shell.handle.end().await?.end)),
        }
        Ok(shell)
    }

    /// Runs a command; what it prints goes to `out`, both outputs in one. Its input is empty.
    pub async fn run(
        &mut self,
        command: &str,
        time_limit: Option<Duration>,
        out: &dyn LogSink,
    ) -> Result<ShellEnd> {
        if command.contains('\0') {
            let reason = "it has a zero byte".to_owned();
            return Err(EngineError::Refused { action: "run a command".to_owned(), reason });
        }
        if std::mem::take(&mut *self.was_killed.clone().lock().await)
            && let Some(end) = self.settle().await?
        {
            return Ok(end);
        }
        let nonce = nonce();
        let outputs = if self.is_interactive { " >&8 2>&8" } else { "" };
        let uptime = self.handle.uptime();
        if let Some(uptime) = uptime {
            let hundredths = uptime.as_millis() / 10;
            self.since.store(u64::try_from(hundredths).unwrap_or(0), Ordering::Relaxed);
        }
        let text = framed(command, &nonce, self.last, uptime.is_none(), outputs);
        let deadline = time_limit.map(|limit| Instant::now() + limit);
        let told = match self.tell(&text, &nonce, deadline, out).await? {
            Told::Late => {
                self.running().kill().await?;
                let grace = Some(Instant::now() + KILL_GRACE);
                match self.tell("", &nonce, grace, out).await? {
                    Told::Number(_) => {
                        self.last = KILLED;
                        return Ok(ShellEnd::TimedOut);
                    }
                    // A loop of the shell itself.
                    Told::Late => return self.kill().await,
                    Told::Ended => Told::Ended,
                }
            }
            told => told,
        };
        match told {
            Told::Number(code) => {
                // What a shell says that gave up is not how the command ended.
                let was_killed = *self.was_killed.lock().await;
                self.last = if was_killed { KILLED } else { code };
                Ok(ShellEnd::Exited(self.last))
            }
            Told::Late | Told::Ended => Ok(ShellEnd::ShellEnded(self.handle.end().await?.end)),
        }
    }

    /// Waits until a shell that was told to give up is past it; returns its end where it has ended. The
    /// signal may have come when the command was over: it is not to hit the next.
    async fn settle(&mut self) -> Result<Option<ShellEnd>> {
        let nonce = nonce();
        // What an interactive shell gives up then is the first line.
        let text = format!(":\n{}", saying("0", &nonce));
        let until = Some(Instant::now() + SETTLING);
        match self.tell(&text, &nonce, until, &NoLog).await? {
            Told::Number(_) => Ok(None),
            Told::Late => self.kill().await.map(Some),
            Told::Ended => Ok(Some(ShellEnd::ShellEnded(self.handle.end().await?.end))),
        }
    }

    /// Ends the shell that does not answer.
    async fn kill(&mut self) -> Result<ShellEnd> {
        self.handle.signal(libc::SIGKILL).await?;
        Ok(ShellEnd::ShellEnded(ExecEnd::TimedOut))
    }

    /// Returns what it runs now, or will run next.
    pub fn running(&self) -> Running<'a> {
        let (handle, since) = (self.handle.clone(), self.since.clone());
        let (session, pid, was_killed) = (self.session, self.pid, self.was_killed.clone());
        Running { session, handle, pid, since, was_killed }
    }

    /// Returns the number of the shell's process in the container.
    pub fn process(&self) -> i32 {
        self.pid
    }

    /// Gives text to the shell, and waits for the number that it says with a word, and for that word at
    /// the end of the output.
    async fn tell(
        &mut self,
        text: &str,
        nonce: &str,
        deadline: Option<Instant>,
        out: &dyn LogSink,
    ) -> Result<Told> {
        if self.input.write_all(text.as_bytes()).await.is_err() || self.input.flush().await.is_err()
        {
            return Ok(Told::Ended);
        }
        let mut printed = Printed { nonce: nonce.as_bytes(), held: Vec::new(), out };
        let (mut number, mut is_complete) = (None, false);
        loop {
            if let (Some(number), true) = (number, is_complete) {
                return Ok(Told::Number(number));
            }
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let ended = self.handle.end();
            tokio::select! {
                biased;
                piece = self.output.next() => match piece.transpose()? {
                    Some(Output::Out(bytes)) => is_complete |= printed.take(&bytes),
                    Some(Output::Error(bytes)) => {
                        self.said.extend_from_slice(&bytes);
                        if let Some(since) = since(&self.said, nonce) {
                            self.since.store(since, Ordering::Relaxed);
                        }
                        number = number.or(status(&mut self.said, nonce));
                    }
                    None => {
                        printed.finish();
                        return Ok(Told::Ended);
                    }
                },
                () = late => {
                    printed.finish();
                    return Ok(Told::Late);
                }
                // A process that it left behind may hold its output open.
                _ = ended => {
                    let silence = self.handle.output_lag();
                    while let Ok(Some(Ok(piece))) =
                        tokio::time::timeout(silence, self.output.next()).await
                    {
                        if let Output::Out(bytes) = piece {
                            printed.take(&bytes);
                        }
                    }
                    printed.finish();
                    return Ok(Told::Ended);
                }
            }
        }
    }
}

/// What a shell told.
enum Told {
    Number(i32),
    Late,
    Ended,
}

/// A word that nobody knows: of 62 letters and digits, as hard to guess as 95 bits, and short, because the
/// shell reads it byte by byte.
fn nonce() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 16)
}

/// Writes what the shell reads: the command as one quoted word, without the descriptors of the shell, and
/// with its outputs led as the words of `outputs` say. It is short where it can be: bash reads a pipe byte
/// by byte, and asking it for the time takes as long as all the rest.
fn framed(command: &str, nonce: &str, last: i32, asks_for_uptime: bool, outputs: &str) -> String {
    let mut text = String::new();
    if asks_for_uptime {
        // By a name that no command has, which goes again; without a fork.
        let _ = writeln!(
            text,
            "read -r __imgforge_since 2>/dev/null </proc/uptime || :; \
             printf '{SINCE}{nonce} %s\\n' \"${{__imgforge_since-}}\" >&9; \
             unset -v __imgforge_since"
        );
    }
    if last != 0 {
        let _ = writeln!(text, "(exit {last})");
    }
    text += "{ eval $'";
    for byte in command.bytes() {
        match byte {
            b'\\' | b'\'' => {
                let _ = write!(text, "\\{}", char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            other => {
                let _ = write!(text, "\\{other:03o}");
            }
        }
    }
    let _ = writeln!(text, "'; }} </dev/null{outputs} 8>&- 9>&-");
    text += &saying("\"$?\"", nonce);
    text
}

/// Writes what has the shell say a number with a word, and the word at the end of the output.
fn saying(number: &str, nonce: &str) -> String {
    format!("printf '{nonce} %d\\n' {number} >&9; printf %s {nonce} >&8\n")
}

/// Before the word and the time at which a command was started.
const SINCE: &str = "since";

/// Reads when a command was started, in hundredths of a second.
fn since(said: &[u8], nonce: &str) -> Option<u64> {
    let text = String::from_utf8_lossy(said);
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let mut told = lines.filter_map(|line| line.strip_prefix(SINCE)?.strip_prefix(nonce));
    let (seconds, hundredths) = told.next()?.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 100 + hundredths.get(..2)?.parse::<u64>().ok()?)
}

/// Reads the number that was said with a word, and forgets what was said.
fn status(said: &mut Vec<u8>, nonce: &str) -> Option<i32> {
    let text = String::from_utf8_lossy(said);
    let number = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .find_map(|line| line.strip_prefix(nonce)?.trim().parse().ok())?;
    said.clear();
    Some(number)
}

/// Passes on what is printed, but for the word at its end.
struct Printed<'a> {
    nonce: &'a [u8],
    held: Vec<u8>,
    out: &'a dyn LogSink,
}

impl Printed<'_> {
    /// Takes a piece; tells whether the word came.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.held.extend_from_slice(bytes);
        if let Some(at) = memchr::memmem::find(&self.held, self.nonce) {
            // What comes behind it is of a process that was left in the background.
            let rest = self.held.split_off(at + self.nonce.len());
            self.held.truncate(at);
            self.held.extend(rest);
            self.finish();
            return true;
        }
        // What may be the beginning of the word waits for the rest.
        let most = self.held.len().min(self.nonce.len() - 1);
        let waits = (0..=most).rev().find(|count| self.held.ends_with(&self.nonce[..*count]));
        let passed = self.held.len() - waits.unwrap_or(0);
        if passed > 0 {
            self.out.write(&self.held[..passed]);
            self.held.drain(..passed);
        }
        false
    }

    /// Passes the rest on.
    fn finish(&mut self) {
        if !self.held.is_empty() {
            self.out.write(&self.held);
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Capture, Keep};

    #[test]
    fn a_quoted_command_is_one_line_and_bash_reads_it_back() {
        let command = "echo 'a\\b' \"$X\"\n# ä\u{1}\r\ttab";
        let text = framed(command, "n", 0, true, "");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.ends_with(&framed(command, "n", 0, false, "")), "{text}");
        let word = text.lines().nth(1).unwrap();
        let word = word.strip_prefix("{ eval ").unwrap().strip_suffix("; } </dev/null 8>&- 9>&-");
        let script = format!("printf %s {}", word.unwrap());
        let read = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(read.stdout, command.as_bytes());
    }

    #[test]
    fn the_word_at_the_end_is_taken_out_however_it_is_cut() {
        let printed = b"nonnonce!nonc";
        for cut in 0..=printed.len() {
            let capture = Capture::new(Keep::All);
            let mut taken = Printed { nonce: b"nonce", held: Vec::new(), out: &capture };
            let came = [taken.take(&printed[..cut]), taken.take(&printed[cut..])];
            taken.finish();
            assert!(came[0] != came[1], "{cut}");
            assert_eq!(capture.finish().bytes, b"non!nonc", "{cut}");
        }
    }

    #[test]
    fn the_start_of_a_command_is_told_in_hundredths() {
        assert_eq!(since(b"sincen 70394.60 33741.61\n", "n"), Some(7_039_460));
        for said in [&b"sincen 70394.60"[..], b"sincem 1.00\n", b"sincen 0\n", b"n 1.00\n"] {
            assert_eq!(since(said, "n"), None);
        }
    }

    #[test]
    fn a_number_counts_with_its_word_and_a_whole_line() {
        let mut said = b"other 3\nn 1".to_vec();
        assert_eq!(status(&mut said, "n"), None);
        said.extend(b"27\n");
        assert_eq!(status(&mut said, "n"), Some(127));
        assert!(said.is_empty());
    }
}
