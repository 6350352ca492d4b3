//! Sandbox sessions: what a command gets, how it ends, how all of it is killed; shells; files.
//!
//! The cases are those of a table, each with a name; every engine runs all of them, in one session of
//! its own each. What an engine cannot do is listed in [`Case::not_on_fake`] and in the case itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use imgforge::engine::{
    Checkpoint, EngineError, Exec, ExecEnd, ExecRequest, Input, NoLog, Output, Outputs, Quotas,
    SandboxEnd, SandboxNetwork, SandboxSession, SessionEnd, SessionRequest, SessionSettings,
    WindowSize, label, run_script_in,
};
use imgforge::session::rpc;
use imgforge::session::{Capture, Keep, Kept, Run, Shell, ShellEnd, ShellOptions, run};
use tokio::io::AsyncWriteExt as _;

use crate::common::{Bench, Log, is_running, on_every_engine, on_every_engine_and_the_fake};
use crate::needs::{NotHere, not_here};
use crate::sandbox::sandbox;
use crate::scratch::Scratch;

type Session = Box<dyn SandboxSession>;

fn request(bench: &Bench) -> SessionRequest {
    SessionRequest {
        settings: SessionSettings::default(),
        image: bench.from().to_owned(),
        user: None,
        memory: Some(512 << 20),
        milli_cpus: None,
        pids: Some(256),
        quotas: Quotas::default(),
        network: SandboxNetwork::None,
        loopback_names: Vec::new(),
        variables: BTreeMap::from([("OF_SESSION".to_owned(), "s".to_owned())]),
        labels: BTreeMap::from([(label::RUN.to_owned(), bench.run_id().to_string())]),
    }
}

async fn start(bench: &Bench) -> Session {
    bench.engine.start(&request(bench), &NoLog).await.unwrap()
}

async fn shell(session: &Session, text: &str) -> Run {
    run(&**session, &ExecRequest::shell(text), Keep::default()).await.unwrap()
}

async fn does(session: &Session, request: &ExecRequest) -> Run {
    run(&**session, request, Keep::default()).await.unwrap()
}

fn out(run: &Run) -> String {
    String::from_utf8(run.out.bytes.clone()).unwrap()
}

fn error(run: &Run) -> String {
    String::from_utf8(run.error.bytes.clone()).unwrap()
}

/// A number that no other process has as an argument.
fn marker() -> String {
    format!("7{:09}", rand::random::<u32>())
}

async fn is_gone(marker: &str) -> bool {
    for _ in 0..100 {
        if !is_running(marker) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Runs a case on every engine, in a session that is stopped afterwards; where that takes little, also
/// in one that is spoken to over the protocol.
fn in_a_session<F>(case: impl Fn(Arc<Bench>, Arc<Session>) -> F + Copy + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    on_every_engine_and_the_fake(move |bench| async move {
        let session = Arc::new(start(&bench).await);
        case(bench.clone(), session.clone()).await;
        session.stop().await.unwrap();
        if bench.address().is_none() {
            let session = Arc::new(remote(start(&bench).await).await);
            case(bench, session.clone()).await;
            session.stop().await.unwrap();
        }
    });
}

/// Puts the protocol between this test and a session.
async fn remote(session: Session) -> Session {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let (stopped, _) = tokio::sync::mpsc::channel(1);
    let kept = Kept::of(session.into());
    tokio::spawn(rpc::serve(kept.into(), theirs, stopped));
    Box::new(rpc::RemoteSession::connect(ours).await.unwrap())
}

// 4.1: what a command gets, and how it ends.

#[test]
#[ignore = "needs an engine"]
fn outputs_are_told_apart_or_are_one() {
    in_a_session(|_, session| async move {
        let text = "echo 1; echo 2 >&2; echo 3; exit 3";
        let apart = shell(&session, text).await;
        assert_eq!((out(&apart), error(&apart)), ("1\n3\n".into(), "2\n".into()));
        assert_eq!(apart.summary.end, ExecEnd::Exited(3));
        let merged = ExecRequest { outputs: Outputs::Merged, ..ExecRequest::shell(text) };
        let merged = does(&session, &merged).await;
        assert_eq!((out(&merged), error(&merged)), ("1\n2\n3\n".into(), String::new()));
        let outputs = Outputs::MergedWithControl(5);
        let control =
            ExecRequest { outputs, ..ExecRequest::shell("echo 1; echo 2 >&2; echo c >&5") };
        let control = does(&session, &control).await;
        assert_eq!((out(&control), error(&control)), ("1\n2\n".into(), "c\n".into()));
    });
}

#[test]
#[ignore = "needs an engine"]
fn bytes_of_every_kind_arrive_as_they_were_written() {
    in_a_session(|_, session| async move {
        let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let request =
            ExecRequest { input: Input::Bytes(all.clone().into()), ..ExecRequest::of(&["cat"]) };
        let echoed = does(&session, &request).await;
        assert_eq!(echoed.summary.end, ExecEnd::Exited(0));
        assert!(echoed.out.bytes == all, "{} bytes", echoed.out.bytes.len());
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_a_command_left_behind_may_print_after_its_end() {
    in_a_session(|_, session| async move {
        let script =
            "(while :; do echo said; echo said >&2; sleep 0.05; done) & echo $! >/tmp/server";
        let script = script.replace("/tmp/server", "server");
        let left = shell(&session, &script).await;
        assert_eq!(left.summary.end, ExecEnd::Exited(0));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let alive = shell(&session, "kill -0 $(cat server)").await;
        assert_eq!(alive.summary.end, ExecEnd::Exited(0), "{}", error(&alive));
        shell(&session, "kill -9 $(cat server)").await;
    });
}

#[test]
#[ignore = "needs an engine"]
fn without_an_input_a_command_reads_the_end() {
    in_a_session(|_, session| async move {
        let read = shell(&session, "cat; echo end; readlink /proc/self/fd/0").await;
        assert_eq!(out(&read), "end\n/dev/null\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_that_does_not_read_its_input_ends_all_the_same() {
    in_a_session(|_, session| async move {
        let input = Input::Bytes(vec![b'x'; 1 << 20].into());
        let request = ExecRequest { input, ..ExecRequest::shell("echo done") };
        let ran = does(&session, &request).await;
        assert_eq!((out(&ran).as_str(), ran.summary.end), ("done\n", ExecEnd::Exited(0)));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_held_input_is_a_conversation() {
    in_a_session(|_, session| async move {
        let request = ExecRequest { input: Input::Held, ..ExecRequest::of(&["cat"]) };
        let Exec { input, mut output, handle } = session.spawn(&request).await.unwrap();
        let mut input = input.unwrap();
        for word in ["one", "two"] {
            input.write_all(word.as_bytes()).await.unwrap();
            input.flush().await.unwrap();
            let said = output.next().await.unwrap().unwrap();
            assert_eq!(said, Output::Out(Bytes::from(word)));
        }
        input.shutdown().await.unwrap();
        assert!(output.next().await.is_none());
        assert_eq!(handle.end().await.unwrap().end, ExecEnd::Exited(0));
    });
}

#[test]
#[ignore = "needs an engine"]
fn variables_are_those_of_image_session_and_request_and_none_of_the_host() {
    in_a_session(|_, session| async move {
        let mut request = ExecRequest::shell("echo $OF_SESSION $OF_EXEC; env");
        request.variables.insert("OF_EXEC".into(), "e".into());
        let ran = does(&session, &request).await;
        assert!(out(&ran).starts_with("s e\n"), "{}", out(&ran));
        let names: Vec<String> =
            out(&ran).lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
        assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
        request.variables.insert("OF_SESSION".into(), "other".into());
        assert!(out(&does(&session, &request).await).starts_with("other e\n"));
    });
}

#[test]
#[ignore = "needs an engine"]
fn hostile_words_and_values_arrive_as_they_are() {
    in_a_session(|_, session| async move {
        let words = ["a b", "$(id)", "'\"", "*", "\n", "", "--", "ä"];
        let mut command = vec!["/usr/bin/printf", "<%s>"];
        command.extend(words);
        let mut request = ExecRequest::of(&command);
        request.variables.insert("V".into(), "x=y; $(id)\n".into());
        for outputs in [Outputs::Separate, Outputs::Merged, Outputs::MergedWithControl(3)] {
            request.outputs = outputs;
            let ran = does(&session, &request).await;
            assert_eq!(out(&ran), words.map(|word| format!("<{word}>")).concat());
        }
        let mut request = ExecRequest::shell("printf %s \"$V\"");
        request.variables.insert("V".into(), "x=y; $(id)\n".into());
        assert_eq!(out(&does(&session, &request).await), "x=y; $(id)\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_no_engine_can_start_is_refused() {
    in_a_session(|_, session| async move {
        let mut wrong = vec![
            ExecRequest::of(&[]),
            ExecRequest::of(&[""]),
            ExecRequest::of(&["a\0b"]),
            ExecRequest { outputs: Outputs::MergedWithControl(1), ..ExecRequest::of(&["true"]) },
        ];
        let mut named = ExecRequest::of(&["true"]);
        named.variables.insert("a=b".into(), String::new());
        wrong.push(named);
        for request in wrong {
            let refused = session.exec(&request, &NoLog, &NoLog).await;
            assert!(matches!(refused, Err(EngineError::Refused { .. })), "{request:?}");
        }
        assert_eq!(shell(&session, "true").await.summary.end, ExecEnd::Exited(0));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_program_that_is_missing_is_not_one_that_exits_with_127() {
    in_a_session(|_, session| async move {
        let by_itself = shell(&session, "exit 127").await;
        assert_eq!(by_itself.summary.end, ExecEnd::Exited(127));
        for outputs in [Outputs::Separate, Outputs::Merged, Outputs::MergedWithControl(4)] {
            for program in ["no-such-program", "/no/such/program"] {
                let request = ExecRequest { outputs, ..ExecRequest::of(&[program, "x"]) };
                let ran = does(&session, &request).await;
                let ExecEnd::NotStarted(why) = &ran.summary.end else {
                    panic!("{program} {outputs:?}: {:?}", ran.summary.end)
                };
                assert_eq!((why.code(), why.errno), (127, Some(libc::ENOENT)), "{why:?}");
                assert_eq!((out(&ran), error(&ran)), (String::new(), String::new()));
            }
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_program_that_cannot_be_executed_is_told() {
    in_a_session(|_, session| async move {
        shell(&session, "echo text >plain; chmod 644 plain; mkdir d").await;
        let here = shell(&session, "pwd").await;
        let here = out(&here).trim().to_owned();
        let ran = does(&session, &ExecRequest::of(&[&format!("{here}/plain")])).await;
        let ExecEnd::NotStarted(why) = ran.summary.end else { panic!("{:?}", ran.summary.end) };
        assert_eq!((why.code(), why.errno), (126, Some(libc::EACCES)), "{why:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_user_who_is_missing_is_told() {
    in_a_session(|_, session| async move {
        let user = Some("no-such-user".to_owned());
        let ran = does(&session, &ExecRequest { user, ..ExecRequest::of(&["true"]) }).await;
        let ExecEnd::NotStarted(why) = ran.summary.end else { panic!("{:?}", ran.summary.end) };
        assert_eq!(why.code(), 126);
        assert!(why.reason.contains("no-such-user"), "{why:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_directory_that_is_missing_is_told() {
    in_a_session(|_, session| async move {
        let working_dir = Some("/no/such/directory".to_owned());
        let ran = does(&session, &ExecRequest { working_dir, ..ExecRequest::of(&["true"]) }).await;
        let ExecEnd::NotStarted(why) = ran.summary.end else { panic!("{:?}", ran.summary.end) };
        assert_eq!(why.code(), 126, "{why:?}");
        assert!(why.reason.contains("/no/such/directory"), "{why:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_starts_where_it_is_told_to() {
    in_a_session(|bench, session| async move {
        put(&session, "/w/here", &[("f", "x")]).await;
        let working_dir = Some("/w/here".to_owned());
        let request = ExecRequest { working_dir, ..ExecRequest::shell("cat f; pwd") };
        let said = out(&does(&session, &request).await);
        assert!(said.starts_with('x') && said.trim_end().ends_with("/w/here"), "{said}");
        assert!(bench.is_fake || said == "x/w/here\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn codes_are_those_of_the_command() {
    in_a_session(|_, session| async move {
        for code in [0, 1, 124, 126, 127, 255] {
            let ran = shell(&session, &format!("exit {code}")).await;
            assert_eq!(ran.summary.end, ExecEnd::Exited(code));
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_signal_is_told_where_the_engine_tells_it() {
    in_a_session(|bench, session| async move {
        for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV] {
            let ran = shell(&session, &format!("kill -{signal} $$")).await;
            let told = match bench.address() {
                Some(_) => ExecEnd::Exited(128 + signal),
                None => ExecEnd::Signaled(signal),
            };
            assert_eq!(ran.summary.end, told);
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn the_exec_ends_with_its_command_and_a_server_that_it_starts_lives_on() {
    in_a_session(|bench, session| async move {
        let marker = marker();
        let began = Instant::now();
        let ran = shell(&session, &format!("sleep {marker} & echo started")).await;
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        assert_eq!((out(&ran).as_str(), ran.summary.end), ("started\n", ExecEnd::Exited(0)));
        // Docker ends the output of what is left behind before it tells the end, from some release on.
        assert!(ran.summary.background || bench.address().is_some());
        assert!(is_running(&marker));
        let quiet = shell(&session, &format!("sleep {marker}1 >/dev/null 2>&1 &")).await;
        assert!(!quiet.summary.background);
        assert!(is_running(&format!("{marker}1")));
        session.stop().await.unwrap();
        assert!(is_gone(&marker).await && is_gone(&format!("{marker}1")).await);
    });
}

#[test]
#[ignore = "needs an engine"]
fn all_that_was_printed_before_the_end_is_there() {
    in_a_session(|_, session| async move {
        for count in [1, 10_000, 300_000] {
            let ran = shell(&session, &format!("seq {count}; seq {count} >&2")).await;
            assert_eq!(ran.summary.end, ExecEnd::Exited(0));
            assert_eq!(out(&ran).lines().count(), count);
            assert_eq!(error(&ran).lines().count(), count);
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn an_output_that_is_too_long_is_cut_and_the_count_is_told() {
    in_a_session(|_, session| async move {
        let request = ExecRequest::shell("seq 100000");
        let all = 588_895;
        let ran = run(&**session, &request, Keep::Tail(100)).await.unwrap();
        assert!(out(&ran).ends_with("\n100000\n") && ran.out.bytes.len() == 100);
        assert_eq!(ran.out.dropped, all - 100);
        let ran = run(&**session, &request, Keep::HeadTail(100)).await.unwrap();
        assert!(out(&ran).starts_with("1\n2\n") && out(&ran).ends_with("\n100000\n"));
        assert_eq!(ran.out.dropped, all - 100);
        let dir = Scratch::new();
        let path = dir.path().join("all");
        let spilled = Capture::new(Keep::Tail(10)).with_spill(&path).unwrap();
        session.exec(&request, &spilled, &NoLog).await.unwrap();
        assert_eq!(spilled.finish().dropped, all - 10);
        assert_eq!(std::fs::metadata(path).unwrap().len(), all);
    });
}

#[test]
#[ignore = "needs an engine"]
fn commands_at_once_do_not_wait_for_each_other() {
    in_a_session(|_, session| async move {
        let began = Instant::now();
        let commands = (0..8).map(|number| {
            let session = session.clone();
            async move { out(&shell(&session, &format!("sleep 1; echo {number}")).await) }
        });
        let said = futures_util::future::join_all(commands).await;
        assert_eq!(said.concat(), "0\n1\n2\n3\n4\n5\n6\n7\n");
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    });
}

#[test]
#[ignore = "needs an engine"]
fn files_and_processes_are_there_for_the_next_command() {
    in_a_session(|_, session| async move {
        shell(&session, "echo kept >kept; mkfifo pipe; (echo heard >pipe) &").await;
        let ran = shell(&session, "cat kept pipe").await;
        assert_eq!(out(&ran), "kept\nheard\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_runs_as_the_user_who_was_asked_for() {
    in_a_session(|bench, session| async move {
        let user = Some("nobody".to_owned());
        let request = ExecRequest { user, ..ExecRequest::shell("id -u; echo $HOME; umask") };
        let said = out(&does(&session, &request).await);
        // A plain user without a range of ids is everybody; the fake engine stays who it is.
        let single = bench.state().is_some() && said.starts_with("0\n");
        let stays = bench.is_fake && !rustix::process::geteuid().is_root();
        assert!(single || stays || said.starts_with("65534\n/nonexistent\n"), "{said}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn the_time_is_told() {
    in_a_session(|bench, session| async move {
        let before = jiff::Timestamp::now();
        let ran =
            shell(&session, "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 0.3").await;
        assert!(ran.summary.started_at >= before);
        assert!(ran.summary.duration >= Duration::from_millis(300), "{:?}", ran.summary.duration);
        match ran.summary.cpu_time {
            Some(time) => {
                assert!(bench.state().is_some() && time > Duration::from_millis(1), "{time:?}");
            }
            None => assert!(bench.state().is_none()),
        }
    });
}

// 4.2: terminals, and what a command of a session may do.

#[test]
#[ignore = "needs an engine"]
fn a_terminal_is_the_containers_own() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        let size = WindowSize { rows: 33, columns: 77 };
        let text = "sleep 1; tty; stty size; read -r line; echo \"got $line\"; stty size; exit 4";
        let request = ExecRequest { outputs: Outputs::Terminal(size), ..ExecRequest::shell(text) };
        let Exec { input, mut output, handle } = session.spawn(&request).await.unwrap();
        let mut input = input.unwrap();
        let mut said = String::new();
        let mut until = async |wanted: &str, said: &mut String| {
            while !said.contains(wanted) {
                let Some(Ok(Output::Out(bytes))) = output.next().await else { return };
                said.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        until("33 77", &mut said).await;
        assert!(said.contains("/dev/pts/"), "{said}");
        handle.resize(WindowSize { rows: 5, columns: 6 }).await.unwrap();
        input.write_all(b"word\n").await.unwrap();
        input.flush().await.unwrap();
        until("5 6", &mut said).await;
        assert!(said.contains("got word"), "{said}");
        assert_eq!(handle.end().await.unwrap().end, ExecEnd::Exited(4));
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_has_no_more_capabilities_than_a_script() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        let look = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status";
        let of_exec = out(&shell(&session, look).await);
        let log = Log::default();
        bench.engine.run_script(&sandbox(&bench, look), &log, &NoLog).await.unwrap();
        assert_eq!(of_exec, log.text());
        assert!(of_exec.contains("NoNewPrivs:\t1"), "{of_exec}");
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn nothing_of_the_host_is_seen_through_the_processes_of_the_engine() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        let text = "for p in /proc/[0-9]*; do [ ${p#/proc/} = $$ ] && continue; \
                    ls -d $p/root/. $p/cwd/. && readlink $p/root $p/cwd $p/exe; done 2>/dev/null; true";
        let said = out(&shell(&session, text).await);
        for line in said.lines() {
            let own = ["/", "/usr/", "/bin/", "/proc/"].iter().any(|path| line.starts_with(path));
            assert!(own && !line.contains("imgforge"), "{said}");
        }
        let ran = shell(&session, "cat /proc/*/environ | tr '\\0' '\\n' | grep -c CARGO").await;
        assert_eq!(out(&ran), "0\n");
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn descriptors_of_the_engine_are_not_the_commands() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        for outputs in [Outputs::Separate, Outputs::Merged, Outputs::MergedWithControl(3)] {
            let text = "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done";
            let ran = does(&session, &ExecRequest { outputs, ..ExecRequest::shell(text) }).await;
            let open: Vec<i32> = out(&ran).lines().map(|line| line.parse().unwrap()).collect();
            let own = if outputs == Outputs::MergedWithControl(3) { 3 } else { 2 };
            // The last is that of the directory.
            let others: Vec<&i32> = open.iter().filter(|fd| **fd > own).collect();
            assert!(others.len() <= 1, "{outputs:?}: {open:?}");
        }
        session.stop().await.unwrap();
    });
}

// 4.3: killing.

#[test]
#[ignore = "needs an engine"]
fn a_time_limit_kills_all_that_came_of_the_command_and_nothing_else() {
    in_a_session(|_, session| async move {
        let marker = marker();
        let (first, second, third, other) = (
            format!("{marker}1"),
            format!("{marker}2"),
            format!("{marker}3"),
            format!("{marker}4"),
        );
        shell(&session, &format!("sleep {other} >/dev/null 2>&1 &")).await;
        let text = format!(
            "trap '' TERM INT HUP; echo before; sleep {first} & setsid sleep {second} & \
             (setsid nohup sh -c 'sleep {third} & wait' >/dev/null 2>&1 &) ; sleep 1000"
        );
        let time_limit = Some(Duration::from_secs(1));
        let began = Instant::now();
        let ran = does(&session, &ExecRequest { time_limit, ..ExecRequest::shell(&text) }).await;
        assert_eq!((out(&ran).as_str(), ran.summary.end), ("before\n", ExecEnd::TimedOut));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        for marker in [first, second, third] {
            assert!(is_gone(&marker).await, "{marker}");
        }
        assert!(is_running(&other));
        assert_eq!(out(&shell(&session, "echo lives").await), "lives\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_that_is_silent_for_too_long_is_killed() {
    in_a_session(|_, session| async move {
        let idle_limit = Some(Duration::from_millis(700));
        let text = "for i in 1 2 3; do echo $i; sleep 0.3; done; sleep 1000";
        let ran = does(&session, &ExecRequest { idle_limit, ..ExecRequest::shell(text) }).await;
        assert_eq!((out(&ran).as_str(), ran.summary.end), ("1\n2\n3\n", ExecEnd::Idle));
        assert!(ran.summary.duration >= Duration::from_millis(1200), "{:?}", ran.summary.duration);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_whose_caller_turns_away_is_killed() {
    in_a_session(|_, session| async move {
        let marker = marker();
        let request = ExecRequest::shell(&format!("setsid sleep {marker} & sleep {marker}"));
        let exec = session.exec(&request, &NoLog, &NoLog);
        let waited = tokio::time::timeout(Duration::from_secs(1), exec).await;
        assert!(waited.is_err());
        assert!(is_gone(&marker).await);
        assert_eq!(out(&shell(&session, "echo lives").await), "lives\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_signal_goes_to_the_command_and_its_group() {
    // Not SIGINT: the processes of the fake engine ignore what whoever started the tests ignores.
    in_a_session(|_, session| async move {
        let text = "trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done";
        let Exec { mut output, handle, .. } =
            session.spawn(&ExecRequest::shell(text)).await.unwrap();
        let ready = output.next().await.unwrap().unwrap();
        assert_eq!(ready, Output::Out("ready\n".into()));
        handle.signal(libc::SIGUSR1).await.unwrap();
        let mut said = output.next().await.unwrap().unwrap();
        // The shell says first how the signal ended its `sleep`.
        while matches!(said, Output::Error(_)) {
            said = output.next().await.unwrap().unwrap();
        }
        assert_eq!(said, Output::Out("caught\n".into()));
        assert_eq!(handle.end().await.unwrap().end, ExecEnd::Exited(7));
        handle.signal(libc::SIGUSR1).await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_that_makes_processes_without_end_is_killed() {
    on_every_engine(|bench| async move {
        let session = bench
            .engine
            .start(&SessionRequest { pids: Some(64), ..request(&bench) }, &NoLog)
            .await
            .unwrap();
        // The command itself waits, so that its end is the limit's doing.
        let text = "sleep 1000 & f() { while :; do f & f; done; }; (f 2>/dev/null) & wait %1";
        bomb(&bench, &session, &ExecRequest::shell(text)).await;
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn hundreds_of_processes_that_make_others_are_killed() {
    on_every_engine(|bench| async move {
        let limited = SessionRequest { pids: Some(512), ..request(&bench) };
        let session = bench.engine.start(&limited, &NoLog).await.unwrap();
        let text = "import os\nwhile True:\n try: os.fork()\n except OSError: pass";
        bomb(&bench, &session, &ExecRequest::of(&["python3", "-c", text])).await;
        session.stop().await.unwrap();
    });
}

/// Runs a command that makes processes without end, and looks that its limit ends it.
async fn bomb(bench: &Bench, session: &Session, command: &ExecRequest) {
    let began = Instant::now();
    let request = ExecRequest { time_limit: Some(Duration::from_secs(1)), ..command.clone() };
    let ended = session.exec(&request, &NoLog, &NoLog).await.unwrap().end;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    match ended {
        ExecEnd::TimedOut => {
            // The limit of processes is what it was.
            let after = shell(session, "sleep 0 & wait; echo lives").await;
            assert_eq!(out(&after), "lives\n");
        }
        // It made them faster than they could be killed, and nothing can stop them from that.
        ExecEnd::SessionEnded(SessionEnd::Unkillable) => {
            let is_root = rustix::process::geteuid().is_root();
            assert!(bench.state().is_none() || !is_root, "the kernel can stop them");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs an engine"]
fn files_in_memory_beyond_the_limit_are_too_much_memory() {
    on_every_engine(|bench| async move {
        let tmpfs = "/m:size=400m".parse().unwrap();
        let mounted = SessionRequest { memory: Some(64 << 20), ..request(&bench) };
        let settings = SessionSettings { tmpfs: vec![tmpfs], ..mounted.settings.clone() };
        let mounted = SessionRequest { settings, ..mounted };
        let session = bench.engine.start(&mounted, &NoLog).await.unwrap();
        let fill = "for i in 1 2 3 4 5 6 7 8; do head -c 50000000 /dev/zero >/m/$i; done; ls /m";
        let ended = shell(&session, fill).await.summary.end;
        match ended {
            // The kernel took the writer only.
            ExecEnd::OutOfMemory(_) => {}
            ExecEnd::SessionEnded(how) => {
                assert_eq!(how, SessionEnd::OutOfMemory);
                assert_eq!(session.ended().await.unwrap(), SessionEnd::OutOfMemory);
            }
            // Without control groups only what processes have is measured.
            ExecEnd::Exited(0) => {
                assert!(bench.state().is_some() && !rustix::process::geteuid().is_root());
            }
            other => panic!("{other:?}"),
        }
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn too_much_memory_is_told_from_a_failure() {
    on_every_engine(|bench| async move {
        let session = bench
            .engine
            .start(&SessionRequest { memory: Some(96 << 20), ..request(&bench) }, &NoLog)
            .await
            .unwrap();
        assert_eq!(shell(&session, "exit 137").await.summary.end, ExecEnd::Exited(137));
        let hog = ExecRequest::of(&["python3", "-c", "x = bytearray(400 << 20); print(len(x))"]);
        let ended = does(&session, &hog).await.summary.end;
        match ended {
            ExecEnd::OutOfMemory(137) => {
                let after = shell(&session, "echo lives").await;
                assert_eq!(
                    (out(&after).as_str(), after.summary.end),
                    ("lives\n", ExecEnd::Exited(0))
                );
            }
            // Where the kernel cannot limit the session, it is measured and ends.
            ExecEnd::SessionEnded(SessionEnd::OutOfMemory) => assert!(bench.state().is_some()),
            other => panic!("{other:?}"),
        }
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_that_kills_everything_it_can_does_not_take_the_session() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        let marker = marker();
        shell(&session, &format!("sleep {marker} >/dev/null 2>&1 &")).await;
        let time_limit = Some(Duration::from_secs(20));
        let killing = ExecRequest { time_limit, ..ExecRequest::shell("kill -9 -1; sleep 0.2") };
        session.exec(&killing, &NoLog, &NoLog).await.unwrap();
        assert!(is_gone(&marker).await);
        assert_eq!(out(&shell(&session, "echo lives").await), "lives\n");
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn all_processes_are_held_and_killed_at_once_by_several() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        if let Err(EngineError::Unsupported { .. }) = session.signal_all(libc::SIGCONT).await {
            session.stop().await.unwrap();
            return not_here(NotHere::OtherEngine);
        }
        for _ in 0..30 {
            let marker = marker();
            shell(&session, &format!("sleep {marker} >/dev/null 2>&1 &")).await;
            let hold = async {
                session.signal_all(libc::SIGSTOP).await?;
                session.signal_all(libc::SIGCONT).await
            };
            let kill = || session.signal_all(libc::SIGKILL);
            let (held, first, second) = tokio::join!(hold, kill(), kill());
            held.unwrap();
            first.unwrap();
            second.unwrap();
            assert!(!is_running(&marker));
        }
        session.stop().await.unwrap();
    });
}

// The session itself.

#[test]
#[ignore = "needs an engine"]
fn a_session_that_was_stopped_says_so() {
    on_every_engine_and_the_fake(|bench| async move {
        let session = start(&bench).await;
        let marker = marker();
        let long = ExecRequest::shell(&format!("echo up; sleep {marker}"));
        let running = session.spawn(&long).await.unwrap();
        let mut output = running.output;
        output.next().await.unwrap().unwrap();
        assert_eq!(session.stop().await.unwrap(), SessionEnd::Stopped);
        let ended = running.handle.end().await.unwrap().end;
        assert_eq!(ended, ExecEnd::SessionEnded(SessionEnd::Stopped));
        let after = shell(&session, "true").await;
        assert_eq!(after.summary.end, ExecEnd::SessionEnded(SessionEnd::Stopped));
        let got = session.get("/etc", &mut tokio::io::sink()).await;
        assert!(matches!(got, Err(EngineError::SessionEnded { .. })), "{got:?}");
        let put = session.put("/tmp", false, &mut tokio::io::empty()).await;
        assert!(matches!(put, Err(EngineError::SessionEnded { .. })), "{put:?}");
        assert_eq!(session.stop().await.unwrap(), SessionEnd::Stopped);
        assert!(is_gone(&marker).await);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_session_that_is_dropped_ends() {
    on_every_engine_and_the_fake(|bench| async move {
        let session = start(&bench).await;
        let marker = marker();
        shell(&session, &format!("sleep {marker} >/dev/null 2>&1 &")).await;
        drop(session);
        assert!(is_gone(&marker).await);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_session_that_somebody_removes_says_so() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        let running = session.spawn(&ExecRequest::shell("sleep 1000")).await.unwrap();
        let run = bench.run_id();
        let judge = |_: &str, _: Option<std::time::SystemTime>| imgforge::owner::Liveness::Alive;
        let removed = bench.engine.remove_run(&run, &judge).await.unwrap();
        assert_eq!(removed.removed.len(), 1, "{removed:?}");
        let ended = running.handle.end().await;
        match ended {
            Ok(ended) => assert_eq!(ended.end, ExecEnd::SessionEnded(SessionEnd::Killed)),
            // The embedded engine's helper is killed with it.
            Err(error) => assert!(bench.state().is_some() && error.is_transient(), "{error:?}"),
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn an_image_that_is_missing_is_told() {
    on_every_engine_and_the_fake(|bench| async move {
        let request = SessionRequest { image: bench.name("none"), ..request(&bench) };
        let started = bench.engine.start(&request, &NoLog).await.err().unwrap();
        assert!(matches!(started, EngineError::NoSuchImage { .. }), "{started:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_script_in_a_session_ends_as_one_that_is_the_containers_own_work() {
    on_every_engine(|bench| async move {
        for (text, seconds) in [
            (
                "echo out; echo err >&2; echo control >&4; stat -c %a /eval.sh; umask; cat; id -u; exit 3",
                60,
            ),
            ("echo before; setsid nohup sleep 1000 & trap '' TERM; sleep 1000", 2),
            ("yes | head -c 300000; sleep 1000 & exit 0", 60),
            ("kill -9 $$", 60),
            ("exit 137", 60),
            ("pwd; echo $OF_RUN; tty", 60),
        ] {
            let mut request = sandbox(&bench, text);
            request.time_limit = Duration::from_secs(seconds);
            request.variables.insert("OF_RUN".into(), "r".into());
            let (log, control) = (Log::default(), Log::default());
            let own = bench.engine.run_script(&request, &log, &control).await.unwrap();
            let (other_log, other_control) = (Log::default(), Log::default());
            let session = bench.engine.start(&SessionRequest::of_script(&request), &NoLog).await;
            let other = run_script_in(session.unwrap(), &request, &other_log, &other_control).await;
            assert_eq!(other.unwrap(), own, "{text}");
            assert_eq!(other_log.text(), log.text(), "{text}");
            assert_eq!(
                other_control.text().contains("control"),
                control.text().contains("control")
            );
        }
        let mut request = sandbox(&bench, "yes");
        request.quotas.log = Some(100_000);
        let log = Log::default();
        let session = bench.engine.start(&SessionRequest::of_script(&request), &NoLog).await;
        let ended = run_script_in(session.unwrap(), &request, &log, &NoLog).await.unwrap();
        assert_eq!(ended, SandboxEnd::OverQuota(imgforge::engine::Quota::Log));
        assert_eq!(log.text().len(), 100_000);
    });
}

// 4.4: shells.

async fn said(shell: &mut Shell<'_>, text: &str) -> (ShellEnd, String) {
    let log = Log::default();
    let end = shell.run(text, Some(Duration::from_secs(20)), &log).await.unwrap();
    (end, log.text())
}

#[test]
#[ignore = "needs an engine"]
fn a_shell_keeps_directory_variables_functions_and_the_last_code() {
    in_a_session(|_, session| async move {
        let mut shell = Shell::open(&**session, &ShellOptions::default()).await.unwrap();
        let done = ShellEnd::Exited(0);
        let text = "mkdir -p a/b; cd a/b; X=1; export Y=2; f() { echo f$1; }; (exit 9)";
        assert_eq!(said(&mut shell, text).await, (ShellEnd::Exited(9), String::new()));
        assert_eq!(said(&mut shell, "echo $?").await, (done.clone(), "9\n".into()));
        let text = "basename $PWD; echo $X; sh -c 'echo $Y'; f 3";
        assert_eq!(said(&mut shell, text).await, (done.clone(), "b\n1\n2\nf3\n".into()));
        let text = "set -eu; REPLY=mine; IFS=0123456789";
        assert_eq!(said(&mut shell, text).await, (done.clone(), String::new()));
        let text = "echo $REPLY ${__imgforge_since-none} \"${#IFS}\"; set +eu; unset IFS";
        assert_eq!(said(&mut shell, text).await, (done.clone(), "mine none 10\n".into()));
        let both = "echo out; echo err >&2; cat; ls /proc/self/fd/8 /proc/self/fd/9 2>/dev/null";
        let (end, text) = said(&mut shell, both).await;
        assert_eq!((end, text.as_str()), (ShellEnd::Exited(2), "out\nerr\n"));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_syntax_error_is_a_code_and_the_shell_lives() {
    in_a_session(|_, session| async move {
        let mut shell = Shell::open(&**session, &ShellOptions::default()).await.unwrap();
        // Not `echo $(`: bash 5.2.15 damages its memory over that.
        for text in ["if", "echo 'open", ")", "{", "cat <<EOF\nx", "for", "case x in", "("] {
            let (end, _) = said(&mut shell, text).await;
            assert!(matches!(end, ShellEnd::Exited(_)), "{text}: {end:?}");
        }
        assert_eq!(said(&mut shell, "if").await.0, ShellEnd::Exited(2));
        assert_eq!(said(&mut shell, "echo \"it's\" 'a\\b' $'\\t' ä").await.1, "it's a\\b \t ä\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_time_limit_kills_the_commands_of_a_shell_and_the_shell_lives() {
    in_a_session(|_, session| async move {
        let mut shell = Shell::open(&**session, &ShellOptions::default()).await.unwrap();
        let marker = marker();
        let log = Log::default();
        let kept = format!("7{marker}");
        said(&mut shell, &format!("sleep {kept} & sleep 0.1")).await;
        let text = format!("X=kept; echo before; setsid sleep {marker} & sleep {marker}");
        let end = shell.run(&text, Some(Duration::from_secs(1)), &log).await.unwrap();
        assert_eq!(end, ShellEnd::TimedOut);
        // Bash says behind it whom somebody killed.
        assert!(log.text().starts_with("before\n"), "{}", log.text());
        assert!(is_gone(&marker).await);
        assert!(is_running(&kept), "a command before left it");
        let (end, text) = said(&mut shell, "echo $X").await;
        assert!(end == ShellEnd::Exited(0) && text.ends_with("kept\n"), "{end:?} {text}");
        // Nothing that comes later in the command is run, whatever it is in, and the next one is.
        for text in [
            "f() { (trap '' INT TERM; sleep 60); touch /over; }; f || touch /over",
            "while x=$(sleep 60); do touch /over; done; touch /over",
        ] {
            let end = shell.run(text, Some(Duration::from_millis(500)), &NoLog).await.unwrap();
            assert_eq!(end, ShellEnd::TimedOut, "{text}");
            let (end, said) = said(&mut shell, "echo \"$? $X\"; ls /over 2>&-").await;
            assert_eq!((end, said.as_str()), (ShellEnd::Exited(2), "137 kept\n"), "{text}");
        }
        // Whoever kills it by hand gets as much, and no success.
        let running = shell.running();
        let kill = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            running.kill().await.unwrap();
        };
        let (end, ()) = tokio::join!(shell.run("sleep 60; touch /over", None, &NoLog), kill);
        assert_eq!(end.unwrap(), ShellEnd::Exited(137));
        let (_, text) = said(&mut shell, "echo $?; ls /over 2>&-").await;
        assert_eq!(text, "137\n");
        let endless = shell.run("while :; do :; done", Some(Duration::from_secs(1)), &NoLog).await;
        assert_eq!(endless.unwrap(), ShellEnd::ShellEnded(ExecEnd::TimedOut));
    });
}

#[test]
#[ignore = "needs an engine"]
fn an_interactive_shell_is_one_to_startup_files_prints_no_prompt_and_outlives_a_limit() {
    in_a_session(|bench, session| async move {
        // On a busy machine an interrupt was missed there, twice. Why is not known: on containers it was
        // not seen.
        if bench.is_fake {
            return not_here(NotHere::OtherEngine);
        }
        let options = ShellOptions { is_interactive: true, ..ShellOptions::default() };
        let mut shell = Shell::open(&**session, &options).await.unwrap();
        let text = "X=1; alias a='echo alias'; PS1='$ '; case $- in *i*) echo \"[$PS1]\" ;; esac";
        assert_eq!(said(&mut shell, text).await, (ShellEnd::Exited(0), "[$ ]\n".into()));
        assert_eq!(said(&mut shell, "a; a >&2").await.1, "alias\nalias\n");
        let texts = [
            "while :; do :; done",
            "sleep 60; touch /over",
            "(trap '' INT; sleep 60); touch /over",
        ];
        for text in texts {
            let end = shell.run(text, Some(Duration::from_millis(500)), &NoLog).await.unwrap();
            assert_eq!(end, ShellEnd::TimedOut, "{text}");
        }
        let (end, text) = said(&mut shell, "echo $X; ls /over 2>&-").await;
        assert_eq!((end, text.as_str()), (ShellEnd::Exited(2), "1\n"));
        assert_eq!(said(&mut shell, "if").await.0, ShellEnd::Exited(2));
        let running = shell.running();
        // One that comes while the shell starts the program may not reach it.
        let interrupts = async {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                running.interrupt().await.unwrap();
            }
        };
        let ran = tokio::select! {
            ran = said(&mut shell, "sleep 60; echo on") => ran,
            () = interrupts => unreachable!("it goes on"),
        };
        assert_eq!(ran.0, ShellEnd::Exited(130), "{}", ran.1);
        assert_eq!(said(&mut shell, "echo $X").await, (ShellEnd::Exited(0), "1\n".into()));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_shell_that_ends_says_so() {
    in_a_session(|_, session| async move {
        let mut shell = Shell::open(&**session, &ShellOptions::default()).await.unwrap();
        let (end, text) = said(&mut shell, "echo bye; exit 5").await;
        assert_eq!((end, text.as_str()), (ShellEnd::ShellEnded(ExecEnd::Exited(5)), "bye\n"));
        let (end, _) = said(&mut shell, "echo more").await;
        assert_eq!(end, ShellEnd::ShellEnded(ExecEnd::Exited(5)));
    });
}

#[test]
#[ignore = "needs an engine"]
fn the_output_of_a_shell_is_whole_and_has_nothing_of_its_own() {
    in_a_session(|_, session| async move {
        let mut shell = Shell::open(&**session, &ShellOptions::default()).await.unwrap();
        for _ in 0..20 {
            assert_eq!(said(&mut shell, "printf x").await, (ShellEnd::Exited(0), "x".into()));
            let (_, text) = said(&mut shell, "seq 5000; seq 5000 >&2").await;
            assert_eq!(text.lines().count(), 10_000);
        }
        let log = Capture::new(Keep::All);
        shell.run("head -c 100000 /dev/zero; printf '\\377\\n'", None, &log).await.unwrap();
        let bytes = log.finish().bytes;
        assert!(bytes.len() == 100_002 && bytes.ends_with(b"\0\xff\n"), "{}", bytes.len());
    });
}

// 4.5: files.

async fn put(session: &Session, directory: &str, files: &[(&str, &str)]) {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_mtime(1_600_000_000);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    let bytes = archive.into_inner().unwrap();
    session.put(directory, true, &mut bytes.as_slice()).await.unwrap();
}

async fn get(session: &Session, path: &str) -> Vec<(String, Vec<u8>, u32, u64)> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    session.get(path, &mut bytes).await.unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).unwrap();
        let header = entry.header();
        (name, text, header.mode().unwrap() & 0o7777, header.mtime().unwrap())
    });
    entries.collect()
}

#[test]
#[ignore = "needs an engine"]
fn files_come_back_as_they_went() {
    in_a_session(|_, session| async move {
        let long = format!("{}/file", "d".repeat(120));
        let big = "x\0y".repeat(400_000);
        put(&session, "/w/in", &[("a", "text"), ("dir/b", ""), (&long, "deep"), ("big", &big)])
            .await;
        let back = get(&session, "/w/in").await;
        let file = |name: &str| back.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(file("in/a").1, b"text");
        assert_eq!((file("in/a").2, file("in/a").3), (0o640, 1_600_000_000));
        assert!(file("in/big").1 == big.as_bytes());
        assert_eq!(file(&format!("in/{long}")).1, b"deep");
        assert_eq!(file("in/dir/b").1, b"");
        let one = get(&session, "/w/in/a").await;
        assert_eq!((one.len(), one[0].0.as_str()), (1, "a"));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_directory_that_is_missing_is_told_unless_it_is_to_be_made() {
    in_a_session(|_, session| async move {
        let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let put_to = async |path: &str, make| session.put(path, make, &mut empty.as_slice()).await;
        let missing = put_to("/no/such", false).await;
        assert!(matches!(&missing, Err(EngineError::NoSuchPath { path }) if path == "/no/such"));
        put_to("/no/such", true).await.unwrap();
        put_to("/no/such", false).await.unwrap();
        put(&session, "/no", &[("file", "x")]).await;
        let to_file = put_to("/no/file", false).await;
        assert!(matches!(to_file, Err(EngineError::NoSuchPath { .. })), "{to_file:?}");
        let got = session.get("/no/thing", &mut tokio::io::sink()).await;
        assert!(matches!(got, Err(EngineError::NoSuchPath { .. })), "{got:?}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn links_lead_nowhere_but_into_the_container() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        let dir = Scratch::new();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "host").unwrap();
        shell(
            &session,
            &format!("mkdir -p /t; ln -s {} /t/up; ln -s / /t/root", dir.path().display()),
        )
        .await;
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(5);
        archive.append_data(&mut header, "root/written", &b"there"[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        session.put("/t", false, &mut bytes.as_slice()).await.unwrap();
        assert_eq!(out(&shell(&session, "cat /written /t/root/written").await), "therethere");
        assert!(!std::path::Path::new("/written").exists());
        let got = session.get("/t/up/outside", &mut tokio::io::sink()).await;
        assert!(matches!(got, Err(EngineError::NoSuchPath { .. })), "{got:?}");
        let link = get(&session, "/t/up").await;
        assert_eq!(link.len(), 1, "the link itself: {link:?}");
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_file_takes_the_place_of_one_of_its_name() {
    in_a_session(|_, session| async move {
        put(&session, "/r", &[("f", "long old text"), ("d/x", "1")]).await;
        put(&session, "/r", &[("f", "new")]).await;
        let back = get(&session, "/r").await;
        assert!(back.iter().any(|(name, text, ..)| name == "r/f" && text == b"new"), "{back:?}");
        assert!(back.iter().any(|(name, ..)| name == "r/d/x"));
    });
}

#[test]
#[ignore = "needs an engine"]
fn hard_links_and_programs_keep_what_they_are() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        shell(&session, "mkdir /h; echo '#!/bin/sh\necho ran' >/h/a; chmod 755 /h/a; ln /h/a /h/b; ln -s a /h/c")
            .await;
        let mut bytes = Vec::new();
        session.get("/h", &mut bytes).await.unwrap();
        session.put("/copy", true, &mut bytes.as_slice()).await.unwrap();
        let ran =
            shell(&session, "cd /copy/h; stat -c %h a; readlink c; ./c; [ a -ef b ] && echo same")
                .await;
        assert_eq!(out(&ran), "2\na\nran\nsame\n");
        session.stop().await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_copy_of_twenty_megabytes_goes_both_ways() {
    in_a_session(|_, session| async move {
        let big = vec![7_u8; 20 << 20];
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(big.len() as u64);
        archive.append_data(&mut header, "big", big.as_slice()).unwrap();
        let bytes = archive.into_inner().unwrap();
        session.put("/", false, &mut bytes.as_slice()).await.unwrap();
        assert!(get(&session, "/big").await[0].1 == big);
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_is_no_archive_is_refused_and_the_session_lives() {
    in_a_session(|bench, session| async move {
        let garbage = vec![b'x'; 4096];
        let refused = session.put("/", false, &mut garbage.as_slice()).await;
        assert!(refused.is_err(), "on {:?}", bench.address());
        assert_eq!(out(&shell(&session, "echo lives").await), "lives\n");
    });
}

/// The session from what another one had at a checkpoint.
async fn from(bench: &Bench, checkpoint: &Checkpoint) -> Session {
    let image = checkpoint.reference().to_string();
    let request = SessionRequest { image, ..request(bench) };
    bench.engine.start(&request, &NoLog).await.unwrap()
}

/// What sessions work in that make checkpoints, below where commands start: on the fake engine another
/// path is one of this machine.
const WORK: &str = "checkpoint-work";

#[test]
#[ignore = "needs an engine"]
fn a_checkpoint_has_the_files_of_its_moment_and_nothing_that_runs() {
    on_every_engine_and_the_fake(|bench| async move {
        let session = start(&bench).await;
        let marker = marker();
        let text =
            format!("mkdir {WORK} && cd {WORK} && echo one >kept && sleep {marker} >&- 2>&- &");
        shell(&session, &text).await;
        shell(&session, &format!("until [ -s {WORK}/kept ]; do sleep 0.05; done")).await;
        let checkpoint = session.checkpoint().await.unwrap();
        assert_eq!(checkpoint.parent, bench.from());
        assert!(is_running(&marker), "what ran goes on");
        shell(&session, &format!("echo two >{WORK}/later; echo changed >{WORK}/kept")).await;
        let other = from(&bench, &checkpoint).await;
        assert_eq!(out(&shell(&other, &format!("cat {WORK}/*")).await), "one\n");
        shell(&other, &format!("echo three >{WORK}/kept")).await;
        assert_eq!(out(&shell(&session, &format!("cat {WORK}/*")).await), "changed\ntwo\n");
        session.stop().await.unwrap();
        assert!(is_gone(&marker).await);
        // Of what it was made of nothing is needed any more.
        let third = from(&bench, &checkpoint).await;
        assert_eq!(out(&shell(&third, &format!("cat {WORK}/*")).await), "one\n");
        let above = third.checkpoint().await.unwrap();
        assert_eq!(above.parent, checkpoint.reference().to_string());
        for session in [other, third] {
            session.stop().await.unwrap();
        }
        for checkpoint in [checkpoint, above] {
            bench.engine.remove(checkpoint.reference().as_str()).await.unwrap();
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_session_that_ends_as_a_checkpoint_has_ended() {
    on_every_engine_and_the_fake(|bench| async move {
        let session = start(&bench).await;
        shell(&session, &format!("mkdir {WORK}; echo one >{WORK}/a")).await;
        let checkpoint = session.end_as_checkpoint().await.unwrap();
        assert_eq!(session.ended().await.unwrap(), SessionEnd::Stopped);
        let other = from(&bench, &checkpoint).await;
        assert_eq!(out(&shell(&other, &format!("cat {WORK}/a")).await), "one\n");
        let again = other.end_as_checkpoint().await.unwrap();
        let last = from(&bench, &again).await;
        assert_eq!(out(&shell(&last, &format!("cat {WORK}/a")).await), "one\n");
        last.stop().await.unwrap();
        assert!(last.checkpoint().await.is_err(), "it has ended");
        for checkpoint in [checkpoint, again] {
            bench.engine.remove(checkpoint.reference().as_str()).await.unwrap();
        }
    });
}

/// What `find` prints of all that is below a directory: kinds, modes, owners, times, links, contents.
const LOOK: &str = "cd /checkpoint-work && find . -printf '%y %m %U:%G %s %T@ %n %l %P\\n' | sort -k8 && \
                    find . -type f -exec sha256sum {} + | sort -k2";

#[test]
#[ignore = "needs an engine"]
fn files_of_every_kind_are_in_a_checkpoint_as_they_were() {
    on_every_engine(|bench| async move {
        let session = start(&bench).await;
        let make = "mkdir -p /checkpoint-work/d /checkpoint-work/empty && cd /checkpoint-work && \
                    echo a >'a b' && ln 'a b' hard && ln -s /etc/passwd soft && mkfifo fifo && \
                    printf x >d/script && chmod 4755 d/script && touch -d '2001-02-03 04:05:06' d && \
                    truncate -s 10000000 sparse && mkdir -m 0 closed && \
                    rm -r /usr/share/doc; mkdir -p /usr/share/doc/new; rm /etc/motd";
        let made = ExecRequest { user: Some("0:0".into()), ..ExecRequest::shell(make) };
        assert_eq!(error(&does(&session, &made).await), "");
        let before = shell(&session, LOOK).await;
        let checkpoint = session.checkpoint().await.unwrap();
        let other = from(&bench, &checkpoint).await;
        let after = shell(&other, LOOK).await;
        // Docker has seconds only.
        let plain = |run: &Run| {
            let lines = out(run);
            let lines = lines.lines().map(|line| {
                line.split(' ')
                    .map(|word| word.split('.').next().unwrap_or(word).to_owned())
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(plain(&before), plain(&after));
        assert_eq!(out(&shell(&other, "ls /usr/share/doc").await), "new\n");
        session.stop().await.unwrap();
        other.stop().await.unwrap();
        bench.engine.remove(checkpoint.reference().as_str()).await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_checkpoint_is_an_image_for_whatever_takes_one_and_is_not_the_one_below() {
    on_every_engine(|bench| async move {
        let engine = &bench.engine;
        let variables = BTreeMap::from([("SECRET".to_owned(), "of the session".to_owned())]);
        let started = SessionRequest { variables, ..request(&bench) };
        let session = engine.start(&started, &NoLog).await.unwrap();
        shell(&session, &format!("mkdir {WORK}; echo one >{WORK}/a")).await;
        let checkpoint = session.checkpoint().await.unwrap();
        session.stop().await.unwrap();
        let reference = checkpoint.reference();
        let image = engine.inspect(reference.as_str()).await.unwrap().unwrap();
        let below = engine.inspect(bench.from()).await.unwrap().unwrap();
        assert_ne!(image.id, below.id);
        assert!(image.diff_ids.starts_with(&below.diff_ids));
        assert_eq!(image.config.cmd, below.config.cmd);
        assert_eq!(image.config.entrypoint, below.config.entrypoint);
        let env = image.config.env.join("\n");
        assert!(!env.contains("SECRET"), "{env}");
        assert_eq!(image.config.labels.get(label::KIND).map(String::as_str), Some("checkpoint"));
        assert!(image.config.labels.get(label::RUN).is_none_or(String::is_empty));
        assert!(image.config.labels.get(label::SCRATCH).is_none_or(String::is_empty));
        let log = Log::default();
        let command = ["cat".to_owned(), format!("/{WORK}/a")];
        assert_eq!(engine.run(reference.as_str(), &command, &log).await.unwrap(), 0);
        assert_eq!(log.text(), "one\n");
        // Nobody takes it for what somebody left behind.
        let judge = |owner: &str, _| match owner {
            "" => imgforge::owner::Liveness::Dead,
            _ => imgforge::owner::Liveness::Alive,
        };
        drop(engine.remove_scratch(&judge).await.unwrap());
        assert!(engine.inspect(reference.as_str()).await.unwrap().is_some());
        engine.remove(reference.as_str()).await.unwrap();
        assert!(engine.inspect(reference.as_str()).await.unwrap().is_none());
    });
}
