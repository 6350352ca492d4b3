//! Commands whose ends the caller holds: pipes and terminals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use imgforge::engine::{
    AttachRequest, Attached, EngineError, Output, Removed, SandboxEnd, SandboxNetwork, WindowSize,
};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::common::{Bench, dead, on_every_engine};

fn attach(bench: &Bench, script: &str) -> AttachRequest {
    AttachRequest {
        image: bench.from().to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        files: Vec::new(),
        variables: BTreeMap::new(),
        working_dir: None,
        user: None,
        network: SandboxNetwork::None,
        memory: None,
        milli_cpus: None,
        pids: None,
        terminal: None,
        labels: BTreeMap::new(),
    }
}

fn on_terminal(bench: &Bench, script: &str) -> AttachRequest {
    let terminal = Some(WindowSize { rows: 31, columns: 97 });
    AttachRequest { terminal, ..attach(bench, script) }
}

/// The outputs of a command, as they come.
struct Shown {
    output: futures_util::stream::BoxStream<'static, Result<Output, EngineError>>,
    out: Vec<u8>,
    error: Vec<u8>,
}

impl Shown {
    /// Reads until a text was printed, or the end.
    async fn until(&mut self, text: &str) {
        let wait = async {
            while text.is_empty() || !String::from_utf8_lossy(&self.out).contains(text) {
                match self.output.next().await {
                    Some(Ok(Output::Out(bytes))) => self.out.extend(bytes),
                    Some(Ok(Output::Error(bytes))) => self.error.extend(bytes),
                    Some(Err(error)) => panic!("{error:?}"),
                    None => return,
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{:?}", String::from_utf8_lossy(&self.out));
    }
}

type Input = Box<dyn AsyncWrite + Send + Unpin>;
type Command = Arc<dyn imgforge::engine::AttachedCommand>;

async fn start(bench: &Bench, request: &AttachRequest) -> (Input, Shown, Command) {
    let Attached { input, output, command } = bench.engine.attach(request).await.unwrap();
    (input, Shown { output, out: Vec::new(), error: Vec::new() }, command)
}

async fn end(command: &Command) -> SandboxEnd {
    let ended = tokio::time::timeout(Duration::from_secs(30), command.end()).await;
    ended.expect("the command ends").unwrap()
}

#[test]
#[ignore = "needs an engine"]
fn pipes_keep_the_outputs_apart_and_pass_bytes_and_the_end_of_the_input_on() {
    on_every_engine(|bench| async move {
        let script = "cat; echo $A $(id -u) $(pwd) >&2; cat /file >&2; exit 7";
        let request = AttachRequest {
            files: vec![("/file".to_owned(), b"content\n".to_vec())],
            variables: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
            working_dir: Some("/usr".to_owned()),
            ..attach(&bench, script)
        };
        let (mut input, mut shown, command) = start(&bench, &request).await;
        let bytes: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
        let sent = bytes.clone();
        tokio::spawn(async move {
            input.write_all(&sent).await.unwrap();
            input.shutdown().await.unwrap();
        });
        shown.until("").await;
        assert_eq!(end(&command).await, SandboxEnd::Exited(7));
        assert_eq!(shown.out, bytes);
        assert_eq!(String::from_utf8_lossy(&shown.error), "b 0 /usr\ncontent\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_terminal_has_a_size_an_interrupt_key_and_the_command_its_session() {
    on_every_engine(|bench| async move {
        // Docker gives a terminal its size when the command has started already.
        let script = "tty; while [ \"$(stty size)\" = '0 0' ]; do sleep 0.05; done; stty size; \
                      trap 'stty size; exit 5' INT; cat";
        let request =
            AttachRequest { user: Some("1000".to_owned()), ..on_terminal(&bench, script) };
        let (mut input, mut shown, command) = start(&bench, &request).await;
        shown.until("31 97").await;
        command.resize(WindowSize { rows: 40, columns: 120 }).await.unwrap();
        input.write_all(b"typed\r").await.unwrap();
        shown.until("typed\r\ntyped").await;
        input.write_all(b"\x03").await.unwrap();
        shown.until("").await;
        assert_eq!(end(&command).await, SandboxEnd::Exited(5));
        let text = String::from_utf8_lossy(&shown.out);
        assert!(text.starts_with("/dev/pts/0\r\n31 97\r\n"), "{text:?}");
        assert!(text.ends_with("40 120\r\n"), "{text:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn signals_reach_the_command_and_its_status_tells_them() {
    on_every_engine(|bench| async move {
        for (script, signal, code) in [
            ("echo up; exec sleep 100", libc::SIGTERM, 143),
            ("trap 'exit 3' HUP; echo up; while :; do sleep 0.1; done", libc::SIGHUP, 3),
            ("exec yes up", libc::SIGPIPE, 141),
        ] {
            let (_input, mut shown, command) = start(&bench, &attach(&bench, script)).await;
            shown.until("up").await;
            command.signal(signal).await.unwrap();
            shown.until("").await;
            assert_eq!(end(&command).await, SandboxEnd::Exited(code), "{script}");
        }
        let (_input, mut shown, command) =
            start(&bench, &on_terminal(&bench, "trap '' TERM; echo up; sleep 100 & wait")).await;
        shown.until("up").await;
        command.signal(libc::SIGTERM).await.unwrap();
        command.signal(libc::SIGKILL).await.unwrap();
        let ended = end(&command).await;
        assert!(matches!(ended, SandboxEnd::Exited(137) | SandboxEnd::Killed(137)), "{ended:?}");
        let left = bench.engine.remove_scratch(&dead(&bench.owner)).await.unwrap();
        assert_eq!(left, Removed::default());
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_cannot_be_started_is_told_as_by_a_shell_and_a_missing_image_by_its_name() {
    on_every_engine(|bench| async move {
        for terminal in [None, Some(WindowSize { rows: 24, columns: 80 })] {
            let command = vec!["no-such-command".to_owned()];
            let request = AttachRequest { command, terminal, ..attach(&bench, "") };
            let (_input, mut shown, command) = start(&bench, &request).await;
            shown.until("").await;
            assert_eq!(end(&command).await, SandboxEnd::Exited(127));
            let said = [shown.out, shown.error].concat();
            assert!(String::from_utf8_lossy(&said).contains("no-such-command"), "{said:?}");
        }
        let request = AttachRequest { image: bench.name("none"), ..attach(&bench, "") };
        let error = bench.engine.attach(&request).await.err().unwrap();
        assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error:?}");
    });
}
