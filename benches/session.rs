//! What sessions take: start, commands, shells, files, checkpoints and forks, on the embedded engine
//! and through Docker, in turns, beside a `fork` and `exec` of `true` on this machine.
//!
//! `cargo bench --bench session` (as root, on an idle machine). It stands on the state directory of the
//! tests, `IMGFORGE_TEST_STATE`; Docker is left out where it does not answer or has not the image.
//! `SESSION_ROUNDS` is the number of rounds, 10 by default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use imgforge::engine::docker::DockerEngine;
use imgforge::engine::embedded::{EmbeddedEngine, Settings};
use imgforge::engine::{Engine, ExecRequest, Images as _, NoLog, SandboxSession, SessionRequest};
use imgforge::session::{Keep, Shell, ShellOptions, run};

const IMAGE: &str = "python:3.11-slim-bookworm";

/// Times by what was done, in the order in which it was done first.
#[derive(Default)]
struct Times(Vec<(String, BTreeMap<&'static str, Vec<Duration>>)>);

impl Times {
    fn note(&mut self, what: &str, who: &'static str, time: Duration) {
        let at = self.0.iter().position(|(known, _)| known == what).unwrap_or_else(|| {
            self.0.push((what.to_owned(), BTreeMap::new()));
            self.0.len() - 1
        });
        self.0[at].1.entry(who).or_default().push(time);
    }
}

fn main() {
    let rounds = std::env::var("SESSION_ROUNDS").map_or(10, |text| text.parse().expect("a number"));
    let user = rustix::process::geteuid().as_raw();
    let state = std::env::var_os("IMGFORGE_TEST_STATE")
        .map_or_else(|| std::env::temp_dir().join(format!("imgforge-test-{user}")), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let owner = format!("bench-{}", std::process::id());
    let settings = Settings {
        state_dir: state,
        helper: env!("CARGO_BIN_EXE_imgforge").into(),
        owner: owner.clone(),
        client_config: None,
        storage: None,
        probe: false,
    };
    runtime.block_on(async {
        let embedded = EmbeddedEngine::open(settings).await.unwrap();
        let docker = async {
            let engine =
                DockerEngine::connect(|name| std::env::var(name).ok(), &owner).await.ok()?;
            engine.inspect(IMAGE).await.ok()??;
            Some(engine)
        };
        let docker = docker.await;
        let mut times = Times::default();
        for round in 0..=rounds {
            // The first warms caches.
            let mut ignored = Times::default();
            let times = if round == 0 { &mut ignored } else { &mut times };
            let started = Instant::now();
            assert!(Command::new("/bin/true").status().unwrap().success());
            times.note("fork and exec of true", "host", started.elapsed());
            measure(&embedded, "embedded", times).await;
            if let Some(docker) = &docker {
                measure(docker, "docker", times).await;
            }
        }
        print(&times, rounds);
    });
}

fn print(times: &Times, rounds: usize) {
    println!("median (least) of {rounds} rounds; x: times a fork and exec of `true`");
    let median = |list: &[Duration]| {
        let mut list = list.to_vec();
        list.sort();
        (list[list.len() / 2], list[0])
    };
    let unit = median(&times.0[0].1["host"]).0.as_secs_f64();
    for (what, by) in &times.0 {
        let mut line = format!("{what:<32}");
        for (who, list) in by {
            let (middle, least) = median(list);
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let ratio = middle.as_secs_f64() / unit;
            line += &format!("  {who} {:.2} ({:.2}) ms {ratio:.1} x", ms(middle), ms(least));
        }
        println!("{line}");
    }
}

async fn start(engine: &dyn Engine, image: &str) -> Box<dyn SandboxSession> {
    engine.start(&SessionRequest::of_image(image), &NoLog).await.unwrap()
}

async fn does(session: &dyn SandboxSession, text: &str) {
    let ran = run(session, &ExecRequest::shell(text), Keep::default()).await.unwrap();
    let error = String::from_utf8_lossy(&ran.error.bytes).into_owned();
    assert_eq!(ran.summary.end, imgforge::engine::ExecEnd::Exited(0), "{text}: {error}");
}

/// A tar of files of some bytes each.
fn tar_of(files: usize, bytes: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let content = vec![b'x'; bytes];
    for number in 0..files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("files/{number}"), &content[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

async fn measure(engine: &dyn Engine, who: &'static str, times: &mut Times) {
    let mut note = |what: &str, since: Instant| times.note(what, who, since.elapsed());
    let began = Instant::now();
    let session = start(engine, IMAGE).await;
    note("start", began);
    let session = &*session;
    let began = Instant::now();
    let ran = run(session, &ExecRequest::of(&["true"]), Keep::default()).await.unwrap();
    note("exec of true", began);
    assert_eq!(ran.summary.end, imgforge::engine::ExecEnd::Exited(0));
    let began = Instant::now();
    let mut shell = Shell::open(session, &ShellOptions::default()).await.unwrap();
    note("open a shell", began);
    for (what, text) in [("a builtin in the shell", ":"), ("/bin/true in the shell", "/bin/true")] {
        let began = Instant::now();
        shell.run(text, None, &NoLog).await.unwrap();
        note(what, began);
    }
    drop(shell);
    for (what, files, bytes) in [("1,000 files of 4 KB", 1000, 4096), ("20 MB", 1, 20 << 20)] {
        let tar = tar_of(files, bytes);
        let began = Instant::now();
        session.put("/tmp", true, &mut &tar[..]).await.unwrap();
        note(&format!("put {what}"), began);
        let began = Instant::now();
        let mut out = Vec::new();
        session.get("/tmp/files", &mut out).await.unwrap();
        note(&format!("get {what}"), began);
        assert!(out.len() >= files * bytes);
        does(session, "rm -r /tmp/files").await;
    }
    let began = Instant::now();
    session.stop().await.unwrap();
    note("stop", began);
    let changes = [
        ("an edit", "echo >>/etc/profile; echo >>/etc/passwd; echo >>/etc/group"),
        ("2,000 files", "mkdir /f; for i in $(seq 2000); do head -c 4096 /dev/zero >/f/$i; done"),
        ("100 MB", "for i in $(seq 10); do head -c 10000000 /dev/zero >/big-$i; done"),
    ];
    for (what, text) in changes {
        let session = start(engine, IMAGE).await;
        does(&*session, text).await;
        let began = Instant::now();
        let copied = session.checkpoint().await.unwrap();
        note(&format!("checkpoint of {what}"), began);
        let began = Instant::now();
        let fork = start(engine, copied.reference().as_str()).await;
        note(&format!("fork of {what}"), began);
        fork.stop().await.unwrap();
        let began = Instant::now();
        let moved = session.end_as_checkpoint().await.unwrap();
        note(&format!("end as a checkpoint, {what}"), began);
        for made in [copied, moved] {
            engine.remove(made.reference().as_str()).await.unwrap();
        }
    }
}
