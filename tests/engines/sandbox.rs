//! Scripts in sandboxes: how they end, what they get, what they are told apart from.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use imgforge::engine::{SandboxEnd, SandboxNetwork, SandboxRequest, label};

use crate::common::{Bench, Log, is_running, on_every_engine};

/// A sandbox that runs `script` with bash.
pub fn sandbox(bench: &Bench, script: &str) -> SandboxRequest {
    SandboxRequest {
        image: bench.from().to_owned(),
        files: vec![("/eval.sh".to_owned(), script.as_bytes().to_vec())],
        command: "exec /bin/bash /eval.sh".to_owned(),
        time_limit: Duration::from_secs(60),
        memory: Some(512 << 20),
        milli_cpus: None,
        pids: Some(256),
        network: SandboxNetwork::None,
        loopback_names: Vec::new(),
        variables: BTreeMap::new(),
        labels: BTreeMap::from([(label::RUN.to_owned(), bench.name("run"))]),
    }
}

/// Runs a script and returns its end, its output, and what it wrote to file descriptor 4.
pub async fn run(bench: &Bench, request: &SandboxRequest) -> (SandboxEnd, String, String) {
    let (log, control) = (Log::default(), Log::default());
    let end = bench.engine.run_sandboxed(request, &log, &control).await.unwrap();
    (end, log.text(), control.text())
}

#[test]
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
fn too_much_memory_is_told_from_a_failure() {
    on_every_engine(|bench| async move {
        let mut request = sandbox(
            &bench,
            "python3 -c 'b = []\nwhile True: b.append(bytearray(1 << 24))'; exit $?",
        );
        request.memory = Some(128 << 20);
        let (end, log, control) = run(&bench, &request).await;
        if control.contains("memory is not limited as a whole") {
            // Without control groups each process has its own limit, and says so itself.
            assert!(matches!(end, SandboxEnd::Exited(1)), "{end:?}");
            assert!(log.contains("MemoryError"), "{log}");
        } else {
            assert!(matches!(end, SandboxEnd::OutOfMemory(137)), "{end:?}: {log}");
        }
    });
}

#[test]
fn too_many_processes_are_refused() {
    on_every_engine(|bench| async move {
        let mut request = sandbox(
            &bench,
            "python3 - <<'X'\nimport os, time\nstarted = 0\n\
             try:\n    while started < 100:\n        if os.fork() == 0: time.sleep(60); os._exit(0)\n        \
             started += 1\nexcept OSError: pass\nprint(started, flush=True)\nX\n",
        );
        request.pids = Some(40);
        let (end, log, _) = run(&bench, &request).await;
        let started: usize = log.lines().last().and_then(|l| l.trim().parse().ok()).unwrap_or(0);
        assert!(started < 60, "{started} processes: {end:?} {log}");
    });
}

#[test]
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
fn a_run_is_removed_whoever_owns_it() {
    on_every_engine(|bench| async move {
        let request = sandbox(&bench, "echo up; sleep 1000");
        let log = Log::default();
        let (other, run_id) = (bench.another_engine().await, bench.name("run"));
        let running = bench.engine.run_sandboxed(&request, &log, &log);
        let remove = async {
            while !log.text().contains("up") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other.remove_run(&run_id).await.unwrap()
        };
        let (end, removed) = tokio::join!(running, remove);
        assert_eq!(removed.len(), 1, "{removed:?}");
        // Whether the engine still knows of it when it is asked is a matter of moments.
        assert!(matches!(end, Ok(SandboxEnd::Killed(_)) | Err(_)), "{end:?}");
        assert_eq!(bench.engine.remove_run(&run_id).await.unwrap(), Vec::<String>::new());
    });
}
