//! `imgforge session`: the binary, on every engine.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Bench, helper, is_running, on_every_engine};
use crate::scratch::Scratch;

/// The command line of one engine, with a state directory of its own where that is possible.
struct Cli {
    engine: &'static str,
    host: Option<String>,
    state: PathBuf,
    image: String,
    dir: Scratch,
}

impl Cli {
    fn of(bench: &Bench) -> Cli {
        let dir = Scratch::new();
        let state = bench.state().map_or(dir.path().join("state"), Path::to_owned);
        let host = bench.address().map(str::to_owned);
        let engine = if host.is_some() { "docker" } else { "embedded" };
        Cli { engine, host, state, image: bench.from().to_owned(), dir }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(helper());
        command.args(["--engine", self.engine, "--state-dir"]).arg(&self.state);
        command.arg("session").args(words).current_dir(self.dir.path());
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs what has to succeed, and returns what it prints.
    fn does(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a session, and returns its id.
    fn start(&self, options: &[&str]) -> String {
        let words = [&["start", "--image", &self.image], options].concat();
        self.does(&words).trim().to_owned()
    }

    fn listed(&self, id: &str) -> Option<Value> {
        let list: Value = serde_json::from_str(&self.does(&["ls", "--all", "--json"])).unwrap();
        list.as_array().unwrap().iter().find(|one| one["id"] == id).cloned()
    }
}

/// Runs a case with a session, and stops that.
fn with_session<F>(options: &'static [&'static str], case: F)
where
    F: Fn(&Cli, &str) + Copy + Send + Sync + 'static,
{
    on_every_engine(move |bench: Arc<Bench>| async move {
        tokio::task::spawn_blocking(move || {
            let cli = Cli::of(&bench);
            let id = cli.start(options);
            case(&cli, &id);
            if cli.listed(&id).is_some() {
                cli.does(&["stop", &id]);
            }
            assert_eq!(cli.listed(&id), None);
        })
        .await
        .unwrap();
    });
}

fn marker() -> String {
    format!("8{:09}", rand::random::<u32>())
}

fn wait_for(what: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
#[ignore = "needs an engine"]
fn a_session_forgets_nothing_between_commands_and_tells_how_they_ended() {
    with_session(&[], |cli, id| {
        cli.does(&["exec", id, "--", "sh", "-c", "echo kept >/root/file"]);
        // The beginning of an id is enough.
        assert_eq!(cli.does(&["exec", &id[..8], "cat", "/root/file"]), "kept\n");
        let ended = cli.run(&["exec", id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(ended.status.code(), Some(7));
        assert_eq!((text(&ended.stdout), text(&ended.stderr)), ("out\n".into(), "err\n".into()));
        assert_eq!(cli.run(&["exec", id, "no-such-program"]).status.code(), Some(127));
        assert_eq!(cli.run(&["exec", id, "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
        let options = ["exec", "-w", "/tmp", "-e", "A=b c", "-u", "1234:99", id, "--", "sh", "-c"];
        let said = cli.does(&[&options[..], &["echo $A $(pwd) $(id -u):$(id -g)"]].concat());
        assert_eq!(said, "b c /tmp 1234:99\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_command_gets_the_input_where_that_is_asked_for() {
    with_session(&[], |cli, id| {
        let mut child =
            cli.command(&["exec", "-i", id, "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let mut stdin = child.stdin.take().unwrap();
        let given = bytes.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&given).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.stdout == bytes, "{} bytes", output.stdout.len());
        let mut without = cli.command(&["exec", id, "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let open = without.stdin.take();
        assert_eq!(without.wait().unwrap().code(), Some(0));
        drop(open);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_limit_kills_all_that_came_of_a_command_and_the_session_lives_on() {
    with_session(&[], |cli, id| {
        let (first, second) = (marker(), marker());
        let script = format!("setsid sleep {first} & echo began; sleep {first}");
        let began = Instant::now();
        let cut = cli.run(&["exec", "--timeout", "1s", id, "--", "sh", "-c", &script]);
        assert_eq!(cut.status.code(), Some(124), "{}", text(&cut.stderr));
        assert_eq!(text(&cut.stdout), "began\n");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(wait_for(|| !is_running(&first)));
        let script = format!("for i in 1 2 3; do echo $i; sleep 0.2; done; sleep {second}");
        let idle = cli.run(&["exec", "--idle-timeout", "1s", id, "--", "sh", "-c", &script]);
        assert_eq!((idle.status.code(), text(&idle.stdout)), (Some(124), "1\n2\n3\n".to_owned()));
        assert!(wait_for(|| !is_running(&second)));
        assert_eq!(cli.does(&["exec", id, "echo", "lives"]), "lives\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_reader_that_stands_still_keeps_no_limit_waiting() {
    with_session(&[], |cli, id| {
        let marker = marker();
        let script = format!("sleep {marker} & while :; do echo said; done");
        let words = ["exec", "--timeout", "2s", id, "--", "sh", "-c", &script];
        let child = cli.command(&words).spawn().unwrap();
        assert!(wait_for(|| is_running(&marker)));
        assert!(wait_for(|| !is_running(&marker)), "it is killed while nobody reads");
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(124));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_server_that_a_command_started_outlives_it_and_may_print() {
    with_session(&[], |cli, id| {
        let script = "(while :; do echo said; echo said >&2; sleep 0.05; done) & \
                      echo $! >/tmp/pid; echo started";
        assert!(cli.does(&["exec", id, "--", "sh", "-c", script]).contains("started\n"));
        std::thread::sleep(Duration::from_millis(500));
        cli.does(&["exec", id, "--", "sh", "-c", "kill -0 $(cat /tmp/pid)"]);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_client_that_is_killed_takes_its_command_along() {
    with_session(&[], |cli, id| {
        let marker = marker();
        let mut child = cli.command(&["exec", id, "sleep", &marker]).spawn().unwrap();
        assert!(wait_for(|| is_running(&marker)));
        child.kill().unwrap();
        child.wait().unwrap();
        // The one on this side is gone as well.
        assert!(wait_for(|| !is_running(&marker)));
        assert_eq!(cli.does(&["exec", id, "echo", "lives"]), "lives\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_host_that_is_killed_leaves_nothing() {
    with_session(&["--name", "to-be-killed"], |cli, id| {
        let marker = marker();
        let host = cli.listed(id).unwrap()["host"].as_i64().unwrap();
        let child = cli.command(&["exec", id, "sleep", &marker]).spawn().unwrap();
        assert!(wait_for(|| is_running(&marker)));
        let pid = rustix::process::Pid::from_raw(host.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{}", text(&output.stderr));
        assert!(wait_for(|| !is_running(&marker)));
        assert_eq!(cli.listed(id), None);
        // The name is free at once.
        let again = cli.start(&["--name", "to-be-killed"]);
        cli.does(&["stop", "to-be-killed"]);
        assert_eq!(cli.listed(&again), None);
    });
}

/// A machine cannot be put to sleep here: the clocks that the host waits by are looked at.
#[test]
#[ignore = "needs an engine"]
fn the_time_of_a_session_goes_on_while_the_machine_sleeps() {
    with_session(&["--ttl", "1h", "--idle", "30m"], |cli, id| {
        let host = cli.listed(id).unwrap()["host"].as_u64().unwrap();
        let clocks = || {
            let known = std::fs::read_dir(format!("/proc/{host}/fdinfo")).unwrap().flatten();
            let texts = known.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
            let clock =
                |text: String| Some(text.split_once("clockid: ")?.1.lines().next()?.to_owned());
            texts.filter_map(clock).collect::<Vec<_>>()
        };
        // One for each limit, by `CLOCK_BOOTTIME`; the second once nobody is there any more.
        let both = wait_for(|| clocks() == ["7", "7"]);
        assert!(both, "{:?}", clocks());
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_session_ends_when_its_time_is_over_and_says_so_afterwards() {
    with_session(&["--ttl", "1s"], |cli, id| {
        let ended = || cli.listed(id).is_some_and(|one| one["ended"]["why"] == "expired");
        assert!(wait_for(ended), "{:?}", cli.listed(id));
        let late = cli.run(&["exec", id, "true"]);
        assert_eq!(late.status.code(), Some(125));
        assert!(text(&late.stderr).contains("its time was over"), "{}", text(&late.stderr));
    });
    with_session(&["--idle", "1s"], |cli, id| {
        // As long as somebody is there it lives.
        cli.does(&["exec", id, "sleep", "2"]);
        assert_eq!(cli.listed(id).unwrap()["ended"], Value::Null);
        assert!(wait_for(|| cli.listed(id).is_some_and(|one| one["ended"]["why"] == "idle")));
    });
}

#[test]
#[ignore = "needs an engine"]
fn files_go_in_and_out_as_they_are() {
    with_session(&[], |cli, id| {
        let dir = cli.dir.path().join("tree");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        std::fs::write(dir.join("sub/data"), &bytes).unwrap();
        std::os::unix::fs::symlink("sub/data", dir.join("link")).unwrap();
        let to = |path: &str| format!("{id}:{path}");
        cli.does(&["cp", "tree", &to("/root/new")]);
        cli.does(&["cp", "tree", &to("/root/new/")]);
        cli.does(&["cp", "tree/sub/data", "tree/link", &to("/tmp")]);
        let found = cli.does(&["exec", id, "--", "sh", "-c", "cd /root/new; find . | sort"]);
        let expected = ". ./link ./sub ./sub/data ./tree ./tree/link ./tree/sub ./tree/sub/data";
        assert_eq!(found.lines().collect::<Vec<_>>().join(" "), expected);
        assert_eq!(cli.does(&["exec", id, "readlink", "/tmp/link"]), "sub/data\n");
        cli.does(&["cp", &to("/root/new"), "back"]);
        let back = cli.dir.path().join("back");
        assert!(std::fs::read(back.join("sub/data")).unwrap() == bytes);
        assert_eq!(std::fs::read_link(back.join("link")).unwrap(), Path::new("sub/data"));
        // Into what is there.
        cli.does(&["cp", &to("/root/new/sub"), "back"]);
        assert!(back.join("sub/data").exists());
        let missing = cli.run(&["cp", &to("/no/such"), "x"]);
        assert_eq!(missing.status.code(), Some(2), "{}", text(&missing.stderr));
        assert!(!cli.dir.path().join("x").exists());
        // More than fits in what is on its way: nobody waits for a copy that has failed.
        std::fs::write(dir.join("large"), vec![7; 8 << 20]).unwrap();
        assert_eq!(cli.run(&["cp", "tree", &to("/no/such/x")]).status.code(), Some(2));
        assert_eq!(cli.run(&["cp", "a", "b"]).status.code(), Some(2));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_session_that_is_read_only_writes_to_what_is_bound() {
    on_every_engine(move |bench: Arc<Bench>| async move {
        tokio::task::spawn_blocking(move || {
            let cli = Cli::of(&bench);
            let (given, kept) = (cli.dir.path().join("given"), cli.dir.path().join("kept"));
            std::fs::create_dir_all(&given).unwrap();
            std::fs::create_dir_all(&kept).unwrap();
            std::fs::write(given.join("file"), "given").unwrap();
            let binds =
                [format!("{}:/given:ro", given.display()), format!("{}:/kept", kept.display())];
            let binds = ["--read-only", "-w", "/tmp", "--bind", &binds[0], "--bind", &binds[1]];
            let memory = ["--tmpfs", "/scratch:size=1m,mode=750,exec", "--tmpfs", "/quiet"];
            let id = cli.start(&[&binds[..], &memory].concat());
            let script = "pwd; cat /given/file; echo; \
                 for f in /given/x /kept/x /root/x /scratch/x /quiet/x; do \
                 echo new 2>/dev/null >$f && echo wrote $f; done; stat -c %a /scratch /quiet; \
                 for d in /scratch /quiet; do cp /bin/true $d/t && $d/t && echo ran $d; done; \
                 head -c 2M /dev/zero >/scratch/y || echo full";
            let said = cli.run(&["exec", &id, "--", "sh", "-c", script]);
            assert_eq!(
                text(&said.stdout),
                "/tmp\ngiven\nwrote /kept/x\nwrote /scratch/x\nwrote /quiet/x\n750\n1777\n\
                 ran /scratch\nfull\n",
                "{}",
                text(&said.stderr)
            );
            assert_eq!(std::fs::read_to_string(kept.join("x")).unwrap(), "new\n");
            // What is in memory is reached as other files are.
            std::fs::write(cli.dir.path().join("in"), "in\n").unwrap();
            let of_session = |path: &str| format!("{id}:{path}");
            cli.does(&["cp", "in", &of_session("/quiet/")]);
            assert_eq!(cli.does(&["exec", &id, "cat", "/quiet/in"]), "in\n");
            cli.does(&["cp", &of_session("/scratch/x"), "out"]);
            let out = std::fs::read_to_string(cli.dir.path().join("out")).unwrap();
            assert_eq!(out, "new\n");
            let missing = cli.run(&["cp", &of_session("/scratch/no"), "no"]);
            assert_eq!(missing.status.code(), Some(2), "{}", text(&missing.stderr));
            cli.does(&["stop", &id]);
        })
        .await
        .unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_name_is_one_sessions_and_a_mistake_is_told() {
    with_session(&[], |cli, id| {
        let name = format!("n{}", marker());
        cli.start(&["--name", &name]);
        let twice = cli.run(&["start", "--image", &cli.image, "--name", &name]);
        assert_eq!(twice.status.code(), Some(2), "{}", text(&twice.stderr));
        let bad = cli.run(&["start", "--image", &cli.image, "--name", "a b"]);
        assert_eq!(bad.status.code(), Some(2), "{}", text(&bad.stderr));
        let image = cli.run(&["start", "--image", "imgforge-test-absent:1"]);
        assert_ne!(image.status.code(), Some(0));
        assert!(text(&image.stderr).contains("imgforge-test-absent:1"), "{}", text(&image.stderr));
        assert_eq!(cli.run(&["exec", "no-such-session", "true"]).status.code(), Some(125));
        assert_eq!(cli.run(&["start", "--image", "x", "--ttl", "soon"]).status.code(), Some(2));
        cli.does(&["stop", &name, id]);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_document_tells_all_of_a_command() {
    with_session(&[], |cli, id| {
        let script = "head -c 100000 /dev/zero | tr '\\0' a; echo err >&2; exit 3";
        let words = ["exec", "--json", "--max-output", "1000", id, "--", "sh", "-c", script];
        let output = cli.run(&words);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["end"]["exited"], 3);
        assert_eq!(told["stdout"].as_str().unwrap().len(), 1000);
        assert_eq!(told["dropped"]["stdout"], 99_000);
        assert_eq!(told["stderr"], "err\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn sessions_are_forked_and_go_back() {
    with_session(&["--workdir", "/w", "-e", "OWN=1", "--ttl", "1h"], |cli, id| {
        let sh = |id: &str, text: &str| cli.does(&["exec", id, "--", "sh", "-c", text]);
        sh(id, "echo one >a; exec sleep 1000 >&- 2>&- &");
        let forked = cli.does(&["fork", id, "-n", "2"]);
        let forked: Vec<&str> = forked.lines().collect();
        let [first, second] = forked[..] else { panic!("{forked:?}") };
        // As the first was started, and with its files.
        assert_eq!(sh(first, "cat a; pwd; echo $OWN"), "one\n/w\n1\n");
        assert!(cli.listed(first).unwrap()["expires"].is_string());
        sh(first, "echo two >a");
        assert_eq!(sh(second, "cat a"), "one\n");
        let made = cli.does(&["checkpoint", first]);
        let made = made.trim();
        sh(first, "rm a");
        cli.does(&["reset", first, "--to", made]);
        assert_eq!(sh(first, "cat a"), "two\n");
        cli.does(&["reset", first]);
        assert_eq!(sh(first, "cat a"), "one\n");
        let moved = cli.does(&["checkpoint", second, "--move"]);
        sh(second, "cat a && echo more >>a");
        let third = cli.does(&["fork", moved.trim(), "--name", "forked"]);
        assert_eq!(sh("forked", "cat a"), "one\n");
        let from = cli.does(&["start", "--from", made, "--workdir", "/w"]);
        assert_eq!(sh(from.trim(), "cat a; echo $OWN"), "two\n\n");
        let listed = |cli: &Cli| -> Vec<String> {
            let listed = cli.does(&["ls", "--checkpoints", "--json"]);
            let listed: Value = serde_json::from_str(&listed).unwrap();
            let mine =
                listed.as_array().unwrap().iter().filter(|one| {
                    [id, first, second].iter().any(|session| one["session"] == *session)
                });
            mine.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
        };
        let all = listed(cli);
        assert_eq!(all.len(), 3, "{all:?}");
        let ids: Vec<&str> = all.iter().map(String::as_str).collect();
        cli.does(&[&["rm"], &ids[..]].concat());
        assert_eq!(listed(cli), Vec::<String>::new());
        assert_eq!(sh(first, "cat a"), "one\n", "who stands on one goes on");
        let gone = cli.run(&["fork", made]);
        assert_eq!(gone.status.code(), Some(2), "{}", text(&gone.stderr));
        for session in [first, second, third.trim(), from.trim()] {
            cli.does(&["stop", session]);
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_checkpoint_gets_a_name_as_an_image() {
    on_every_engine(|bench: Arc<Bench>| async move {
        let name = "named/checkpoint:1";
        let of_bench = bench.clone();
        let case = tokio::task::spawn_blocking(move || {
            let cli = Cli::of(&of_bench);
            let id = cli.start(&[]);
            cli.does(&["exec", &id, "--", "sh", "-c", "echo one >/a"]);
            let made = cli.does(&["checkpoint", &id, "--tag", name, "--json"]);
            let made: Value = serde_json::from_str(&made).unwrap();
            cli.does(&["rm", made["id"].as_str().unwrap()]);
            let other = cli.does(&["start", "--image", name]);
            assert_eq!(cli.does(&["exec", other.trim(), "cat", "/a"]), "one\n");
            cli.does(&["stop", &id, other.trim()]);
        });
        let ended = case.await;
        bench.engine.remove(name).await.unwrap();
        ended.unwrap();
    });
}

/// A proxy that answers each request with its first line.
fn outside() -> String {
    use std::io::{BufRead as _, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut lines = Vec::new();
            while let Some(Ok(line)) = stream.by_ref().lines().next() {
                if line.is_empty() {
                    break;
                }
                lines.push(line);
            }
            let first = lines.first().cloned().unwrap_or_default();
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nasked: {first}\n");
            let _ = stream.get_mut().write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
#[ignore = "needs an engine"]
fn a_session_reaches_the_hosts_that_it_may_and_no_others() {
    with_session(&[], |cli, other| {
        let outside = outside();
        let mut start = cli.command(&["start", "--image", &cli.image, "--allow", "a.test"]);
        let started =
            start.env("HTTP_PROXY", &outside).env("HTTPS_PROXY", &outside).output().unwrap();
        if cli.engine != "embedded" {
            assert_eq!(started.status.code(), Some(3), "{}", text(&started.stderr));
            assert!(text(&started.stderr).contains("--engine embedded"));
        } else {
            reaches_its_hosts_only(cli, other, &started, &outside);
        }
    });
}

/// What a session reaches whose list has `a.test`, of an engine that can.
fn reaches_its_hosts_only(cli: &Cli, other: &str, started: &Output, outside: &str) {
    assert_eq!(started.status.code(), Some(0), "{}", text(&started.stderr));
    let id = text(&started.stdout).trim().to_owned();
    let get = |id: &str, url: &str| {
        let script = format!(
                "exec 3<>/dev/tcp/${{http_proxy#http://}}; printf 'GET {url} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; \
                 timeout 5 cat <&3 | tr -d '\\r' | sed -n '1p;/^asked/p'"
            )
            .replace("${http_proxy#http://}", "127.0.0.1/3128");
        cli.does(&["exec", id, "--timeout", "10s", "--", "bash", "-c", &script])
    };
    assert_eq!(
        cli.does(&["exec", &id, "--", "sh", "-c", "echo $https_proxy"]),
        "http://127.0.0.1:3128\n"
    );
    let asked = "HTTP/1.1 200 OK\nasked: GET http://a.test/x HTTP/1.1\n";
    assert_eq!(get(&id, "http://a.test/x"), asked);
    assert!(get(&id, "http://b.test/x").starts_with("HTTP/1.1 403 Forbidden\n"));
    // What does not ask the proxy reaches nothing, this machine neither.
    let direct =
        format!("echo >/dev/tcp/{}", outside.trim_start_matches("http://").replace(':', "/"));
    let direct = cli.run(&["exec", &id, "--", "bash", "-c", &direct]);
    assert_eq!(direct.status.code(), Some(1), "{}", text(&direct.stdout));
    let told: Value = serde_json::from_str(&cli.does(&["network", &id, "--json"])).unwrap();
    assert_eq!(told, serde_json::json!({ "allowed": ["a.test"], "denied": { "b.test:80": 1 } }));
    cli.does(&["network", &id, "--allow", "b.test", "--allow", "*.c.test"]);
    assert!(get(&id, "http://b.test/x").starts_with("HTTP/1.1 200 OK\n"));
    assert!(get(&id, "http://a.test/x").starts_with("HTTP/1.1 403"));
    // As it is now, and in each container that the session gets.
    cli.does(&["reset", &id]);
    assert!(get(&id, "http://b.test/x").starts_with("HTTP/1.1 200 OK\n"));
    let mut fork = cli.command(&["fork", &id]);
    let forked = fork.env("HTTP_PROXY", outside).output().unwrap();
    let forked = text(&forked.stdout).trim().to_owned();
    assert!(get(&forked, "http://y.c.test/").starts_with("HTTP/1.1 200 OK\n"));
    cli.does(&["network", &forked, "--none"]);
    assert!(get(&forked, "http://y.c.test/").starts_with("HTTP/1.1 403"));
    assert!(get(&id, "http://y.c.test/").starts_with("HTTP/1.1 200 OK\n"));
    let none = cli.run(&["network", other]);
    assert_ne!(none.status.code(), Some(0));
    assert!(text(&none.stderr).contains("--network proxy"), "{}", text(&none.stderr));
    let wrong = cli.run(&["start", "--image", &cli.image, "--allow", "https://a.test/"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("pypi.org"), "{}", text(&wrong.stderr));
    cli.does(&["stop", &id, &forked]);
}

#[test]
#[ignore = "needs an engine"]
fn limits_that_cannot_be_set_are_told() {
    on_every_engine(|bench: Arc<Bench>| async move {
        tokio::task::spawn_blocking(move || {
            let cli = Cli::of(&bench);
            let limits = ["--memory", "512m", "--pids-limit", "200"];
            let words = [&["start", "--image", &cli.image], &limits[..]].concat();
            let started = cli.run(&words);
            let (id, said) = (text(&started.stdout), text(&started.stderr));
            let groups = cli.does(&["exec", id.trim(), "cat", "/proc/self/cgroup"]);
            // Docker sets limits, or refuses.
            let is_limited = cli.engine == "docker" || groups.contains("imgforge");
            assert_eq!(!said.contains("warning: "), is_limited, "{said}{groups}");
            assert_eq!(said.contains("the number of processes"), !is_limited, "{said}");
            cli.does(&["stop", id.trim()]);
        })
        .await
        .unwrap();
    });
}
