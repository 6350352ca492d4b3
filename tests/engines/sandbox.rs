//! Scripts in sandboxes: how they end, what they get, what they are told apart from.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use imgforge::engine::{Quotas, Removed, SandboxEnd, SandboxNetwork, SandboxRequest, label};
use imgforge::owner::Liveness;

use crate::common::{Bench, Log, is_running, on_every_engine};
use crate::needs::{NotHere, not_here};

/// A sandbox that runs `script` with bash.
pub(crate) fn sandbox(bench: &Bench, script: &str) -> SandboxRequest {
    SandboxRequest {
        image: bench.from().to_owned(),
        files: vec![("/eval.sh".to_owned(), script.as_bytes().to_vec())],
        command: "exec /bin/bash /eval.sh".to_owned(),
        time_limit: Duration::from_secs(60),
        memory: Some(512 << 20),
        milli_cpus: None,
        pids: Some(256),
        quotas: Quotas::default(),
        network: SandboxNetwork::None,
        loopback_names: Vec::new(),
        variables: BTreeMap::new(),
        labels: BTreeMap::from([(label::RUN.to_owned(), bench.run_id().to_string())]),
    }
}

/// Runs a script and returns its end, its output, and what it wrote to file descriptor 4.
pub(crate) async fn run(bench: &Bench, request: &SandboxRequest) -> (SandboxEnd, String, String) {
    let (log, control) = (Log::default(), Log::default());
    let end = bench.engine.run_script(request, &log, &control).await.unwrap();
    (end, log.text(), control.text())
}

#[test]
#[ignore = "needs an engine"]
fn a_script_gets_its_files_and_variables_and_both_outputs_are_one() {
    on_every_engine(|bench| async move {
        let mut request = sandbox(
            &bench,
            "echo out; echo err >&2; echo control >&4; stat -c %a /eval.sh; umask; cat; \
             echo $WHO $LANG; id -u; exit 3",
        );
        request.variables.insert("WHO".to_owned(), "me".to_owned());
        let (end, log, control) = run(&bench, &request).await;
        assert_eq!(end, SandboxEnd::Exited(3));
        assert_eq!(log, "out\nerr\n600\n0022\nme C.UTF-8\n0\n");
        assert!(control.starts_with("control\n"), "{control}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_time_limit_ends_everything_and_keeps_what_was_printed() {
    on_every_engine(|bench| async move {
        let marker = format!("32{}", rand::random::<u32>());
        let script = format!("echo before; setsid nohup sleep {marker} & trap '' TERM; sleep 1000");
        let mut request = sandbox(&bench, &script);
        request.time_limit = Duration::from_secs(2);
        let started = Instant::now();
        let (end, log, _) = run(&bench, &request).await;
        assert_eq!(end, SandboxEnd::TimedOut);
        assert!(log.starts_with("before\n"), "{log}");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        assert!(!is_running(&marker));
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_runs_on_in_the_background_ends_with_the_script() {
    on_every_engine(|bench| async move {
        let marker = format!("33{}", rand::random::<u32>());
        let request = sandbox(&bench, &format!("setsid nohup sleep {marker} & sleep 0.2; exit 0"));
        let (end, ..) = run(&bench, &request).await;
        assert_eq!(end, SandboxEnd::Exited(0));
        assert!(!is_running(&marker));
    });
}

#[test]
#[ignore = "needs an engine"]
fn too_much_memory_is_told_from_a_failure() {
    on_every_engine(|bench| async move {
        let mut request = sandbox(
            &bench,
            "python3 -c 'b = []\nwhile True: b.append(bytearray(1 << 24))'; exit $?",
        );
        request.memory = Some(128 << 20);
        let (end, log, _) = run(&bench, &request).await;
        // Without control groups the processes are measured together, and killed.
        assert!(matches!(end, SandboxEnd::OutOfMemory(137)), "{end:?}: {log}");
        // Pages that processes share count once; what each has for itself counts together.
        for (own, over) in [(1, false), (40, true)] {
            let script = format!(
                "cat >/p.py <<'END'\n\
                 import os, time\n\
                 kept = bytearray(60 << 20)\n\
                 for _ in range(4):\n    \
                     if os.fork() == 0:\n        \
                         own = b'x' * ({own} << 20)\n        \
                         time.sleep(2)\n        \
                         os._exit(0)\n\
                 for _ in range(4):\n    \
                     os.wait()\n\
                 END\n\
                 python3 /p.py; exit 5"
            );
            let request = SandboxRequest { memory: Some(128 << 20), ..sandbox(&bench, &script) };
            let (end, log, _) = run(&bench, &request).await;
            match over {
                true => assert!(matches!(end, SandboxEnd::OutOfMemory(_)), "{end:?}: {log}"),
                false => assert!(matches!(end, SandboxEnd::Exited(5)), "{end:?}: {log}"),
            }
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_script_that_ends_with_the_code_of_a_signal_ends_by_itself() {
    on_every_engine(|bench| async move {
        for (script, code) in [
            ("echo up; kill -9 $$", 137),
            ("echo up; kill -9 $PPID; kill -9 $$", 137),
            ("echo up; kill -9 -1; kill -9 $$", 137),
            ("echo up; timeout -s KILL 0.1 sleep 10", 137),
            ("echo up; exit 137", 137),
            ("echo up; kill -TERM $$", 143),
        ] {
            let mut request = sandbox(&bench, script);
            request.memory = None;
            let (end, log, control) = run(&bench, &request).await;
            assert_eq!(end, SandboxEnd::Exited(code), "{script}: {log}");
            assert!(log.starts_with("up\n"), "{script}: {log}");
            assert!(!control.contains("imgforge-end"), "{control}");
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_script_that_is_stopped_ends_at_its_limit_and_no_later() {
    on_every_engine(|bench| async move {
        for script in [
            "echo up; kill -STOP $$",
            "echo up; kill -STOP $PPID $$",
            "echo up; kill -STOP -1; kill -STOP $$",
            "echo up; python3 -c 'import ctypes, os, time\nl = ctypes.CDLL(None)\n\
             pids = [int(p) for p in os.listdir(\"/proc\") if p.isdigit() and int(p) != os.getpid()]\n\
             for pid in pids: l.ptrace(16, pid, 0, 0)\ntime.sleep(100)'",
        ] {
            let mut request = sandbox(&bench, script);
            request.time_limit = Duration::from_secs(3);
            let started = Instant::now();
            let (end, log, _) = run(&bench, &request).await;
            assert_eq!(end, SandboxEnd::TimedOut, "{script}: {log}");
            assert!(
                started.elapsed() < Duration::from_secs(15),
                "{script}: {:?}",
                started.elapsed()
            );
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_container_that_somebody_kills_did_not_end_by_itself() {
    on_every_engine(|bench| async move {
        let marker = format!("35{}", rand::random::<u32>());
        let request = sandbox(&bench, &format!("echo up; sleep {marker}; exit 0"));
        let log = Log::default();
        let running = bench.engine.run_script(&request, &log, &log);
        let kill = async {
            let sleep = loop {
                match pid_of(&marker) {
                    Some(pid) => break pid,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            match bench.address() {
                Some(host) => {
                    let docker = |args: &[&str]| {
                        Command::new("docker").arg("-H").arg(host).args(args).output().unwrap()
                    };
                    let label = format!("label={}={}", label::RUN, bench.run_id());
                    let found = docker(&["ps", "-q", "--filter", &label]);
                    let id = String::from_utf8(found.stdout).unwrap();
                    assert!(docker(&["kill", id.trim()]).status.success());
                }
                // The first process of the container, as only the host can.
                None => {
                    let first = parent(parent(sleep));
                    let first = rustix::process::Pid::from_raw(first).unwrap();
                    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
                }
            }
        };
        let (end, ()) = tokio::join!(running, kill);
        assert_eq!(end.unwrap(), SandboxEnd::Killed(137), "{}", log.text());
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_container_that_somebody_removes_is_worth_another_try() {
    on_every_engine(|bench| async move {
        let Some(socket) = bench.socket() else {
            return not_here(NotHere::OtherEngine);
        };
        let log = Log::default();
        let request = sandbox(&bench, "echo up; sleep 1000");
        let running = bench.engine.run_script(&request, &log, &log);
        let remove = async {
            while !log.text().contains("up") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let label = format!("label={}={}", label::RUN, bench.run_id());
            let script = format!(
                "docker -H unix://{socket} ps -q --filter {label} | \
                 xargs docker -H unix://{socket} rm -f"
            );
            assert!(Command::new("sh").args(["-c", &script]).output().unwrap().status.success());
        };
        let (end, ()) = tokio::join!(running, remove);
        match end {
            Ok(end) => assert_eq!(end, SandboxEnd::Killed(137)),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    });
}

fn pid_of(word: &str) -> Option<i32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let found = line.split(|byte| *byte == 0).eq([b"sleep".as_slice(), word.as_bytes(), b""]);
        found.then(|| process.file_name().to_str()?.parse().ok())?
    })
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    after.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs an engine"]
fn too_many_processes_are_refused() {
    on_every_engine(|bench| async move {
        let mut request = sandbox(
            &bench,
            "python3 - <<'X'\nimport os, time\nstarted = 0\n\
             try:\n    while started < 100:\n        if os.fork() == 0: time.sleep(60); os._exit(0)\n        \
             started += 1\nexcept OSError: pass\nprint(started, flush=True)\nX\n",
        );
        request.pids = Some(40);
        let (end, log, control) = run(&bench, &request).await;
        let started: usize = log.lines().last().and_then(|l| l.trim().parse().ok()).unwrap_or(0);
        // The kernel limits the number of root's processes in a control group only: that is told.
        let told = control.contains("the number of processes is not limited as a whole");
        let root_without_group = told && rustix::process::geteuid().is_root();
        assert!(started < 60 || root_without_group, "{started} processes: {end:?} {log} {control}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn there_is_loopback_with_its_names_and_nothing_else() {
    on_every_engine(|bench| async move {
        let mut request = sandbox(
            &bench,
            "python3 - <<'X'\nimport socket\nfor family, host in [(2, '127.0.0.1'), (10, '::1')]:\n    \
             s = socket.socket(family); s.bind((host, 80)); s.listen()\n    \
             socket.create_connection((host, 80), 2).close()\n\
             print(socket.gethostbyname('httpbin.test'), socket.gethostbyname(socket.gethostname()))\n\
             try: socket.create_connection(('10.1.2.3', 80), 2)\nexcept OSError as e: print(e.errno)\n\
             X\n",
        );
        request.loopback_names.push("httpbin.test".to_owned());
        let (end, log, _) = run(&bench, &request).await;
        assert_eq!(end, SandboxEnd::Exited(0), "{log}");
        assert_eq!(log, "127.0.0.1 127.0.0.1\n101\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn silent_peers_do_not_answer_and_do_not_refuse() {
    on_every_engine(|bench| async move {
        let mut request = sandbox(
            &bench,
            "python3 - <<'X'\nimport socket\n\
             try: socket.create_connection(('10.255.255.1', 80), 1)\n\
             except OSError as e: print(type(e).__name__, e)\nX\n",
        );
        request.network = SandboxNetwork::SilentPeer;
        let (_, log, _) = run(&bench, &request).await;
        assert!(log.contains("timed out"), "{log}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_run_of_this_host_is_removed_whoever_owns_it() {
    on_every_engine(|bench| async move {
        let request = sandbox(&bench, "echo up; sleep 1000");
        let log = Log::default();
        let (other, run_id) = (bench.another_engine().await, bench.run_id());
        let judge = |_: &str, _: Option<SystemTime>| Liveness::Alive;
        let running = bench.engine.run_script(&request, &log, &log);
        let remove = async {
            while !log.text().contains("up") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other.remove_run(&run_id, &judge).await.unwrap()
        };
        let (end, removed) = tokio::join!(running, remove);
        assert_eq!((removed.removed.len(), removed.kept.len()), (1, 0), "{removed:?}");
        // Whether the engine still knows of it when it is asked is a matter of moments.
        assert!(matches!(end, Ok(SandboxEnd::Killed(_)) | Err(_)), "{end:?}");
        assert_eq!(bench.engine.remove_run(&run_id, &judge).await.unwrap(), Removed::default());
    });
}
