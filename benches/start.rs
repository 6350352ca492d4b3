//! From the wish for a container to the first byte that it prints: the embedded engine with its full
//! isolation beside the same sandbox on Docker, `docker run`, `podman run` and bare `runc`, on the same root file system, taken
//! in turns.
//!
//! `cargo bench --bench start` (as root, on an idle machine). It stands on the state directory of the
//! tests, `IMGFORGE_TEST_STATE`; programs that are not installed are left out. `START_ROUNDS` is the
//! number of rounds, 50 by default.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use imgforge::engine::docker::DockerEngine;
use imgforge::engine::embedded::{EmbeddedEngine, Settings};
use imgforge::engine::{Engine, Images as _, LogSink, SandboxNetwork, SandboxRequest};

const IMAGE: &str = "python:3.11-slim-bookworm";

/// Notes when the first byte came.
#[derive(Default)]
struct First(Mutex<Option<Instant>>);

impl LogSink for First {
    fn write(&self, _: &[u8]) {
        self.0.lock().unwrap().get_or_insert_with(Instant::now);
    }
}

fn main() {
    let rounds = std::env::var("START_ROUNDS").map_or(50, |text| text.parse().expect("a number"));
    let user = rustix::process::geteuid().as_raw();
    let state = std::env::var_os("IMGFORGE_TEST_STATE")
        .map_or_else(|| std::env::temp_dir().join(format!("imgforge-test-{user}")), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let engine = runtime
        .block_on(EmbeddedEngine::open(Settings {
            state_dir: state.clone(),
            helper: env!("CARGO_BIN_EXE_imgforge").into(),
            owner: format!("bench-{}", std::process::id()),
            client_config: None,
            storage: None,
            probe: false,
        }))
        .unwrap();
    let docker = runtime.block_on(async {
        let owner = format!("bench-{}", std::process::id());
        let engine = DockerEngine::connect(|name| std::env::var(name).ok(), &owner).await.ok()?;
        engine.inspect(IMAGE).await.ok()??;
        Some(engine)
    });
    let bundle = Bundle::make(&state);
    let tar = bundle.as_ref().map(|bundle| bundle.podman());
    let mut programs: Vec<(&str, Vec<String>)> = Vec::new();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let answers = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    if answers("docker", &["image", "inspect", IMAGE]) {
        let run = format!("docker run --rm --network none {IMAGE} /bin/echo x");
        programs.push(("docker run", words(&run)));
    }
    if tar == Some(true) {
        let run = "podman run --rm --network none --ulimit nofile=1024:1024 --ulimit \
                   nproc=4096:4096 imgforge-bench /bin/echo x";
        programs.push(("podman run", words(run)));
    }
    if let Some(bundle) = &bundle {
        let run = format!("runc run --bundle {} imgforge-bench", bundle.dir.path().display());
        programs.push(("runc run", words(&run)));
    }
    let mut times: Vec<(String, Vec<Duration>)> = Vec::new();
    let mut note = |name: &str, time: Duration| match times.iter_mut().find(|(n, _)| n == name) {
        Some((_, list)) => list.push(time),
        None => times.push((name.to_owned(), vec![time])),
    };
    for round in 0..=rounds {
        let (first, whole) = runtime.block_on(sandbox(&engine));
        // The first round warms caches.
        if round > 0 {
            note("embedded", first);
            note("embedded, to its end", whole);
        }
        if let Some(docker) = &docker {
            let (first, whole) = runtime.block_on(sandbox(docker));
            if round > 0 {
                note("the same on Docker", first);
                note("the same on Docker, to its end", whole);
            }
        }
        for (name, command) in &programs {
            let (first, whole) = program(command);
            if round > 0 {
                note(name, first);
                note(&format!("{name}, to its end"), whole);
            }
        }
    }
    println!("{:<31} {:>10} {:>10} {:>10}   ({rounds} rounds)", "", "median", "least", "most");
    for (name, mut list) in times {
        list.sort();
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        let (least, most) = (list[0], list[list.len() - 1]);
        println!("{name:<31} {:>10} {:>10} {:>10}", ms(list[list.len() / 2]), ms(least), ms(most));
    }
}

async fn sandbox(engine: &dyn Engine) -> (Duration, Duration) {
    let request = SandboxRequest {
        image: IMAGE.to_owned(),
        files: Vec::new(),
        command: "exec /bin/echo x".to_owned(),
        time_limit: Duration::from_secs(60),
        memory: Some(1 << 30),
        milli_cpus: Some(1000),
        pids: Some(1000),
        quotas: imgforge::engine::Quotas::default(),
        network: SandboxNetwork::None,
        loopback_names: Vec::new(),
        variables: Default::default(),
        labels: Default::default(),
    };
    let (log, control) = (First::default(), First::default());
    let started = Instant::now();
    engine.run_script(&request, &log, &control).await.unwrap();
    let whole = started.elapsed();
    let first = log.0.lock().unwrap().expect("it printed");
    (first - started, whole)
}

fn program(command: &[String]) -> (Duration, Duration) {
    let started = Instant::now();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut byte = [0];
    child.stdout.take().unwrap().read_exact(&mut byte).expect("it printed");
    let first = started.elapsed();
    assert!(child.wait().unwrap().success());
    (first, started.elapsed())
}

/// A bundle for runc on the unpacked base layer of the embedded engine.
struct Bundle {
    dir: tempfile::TempDir,
}

impl Bundle {
    fn make(state: &Path) -> Option<Bundle> {
        let layers = state.join("embedded/root-overlay/s");
        let layer = std::fs::read_dir(&layers)
            .ok()?
            .flatten()
            .find(|entry| entry.path().join("usr/bin/python3.11").exists())?;
        let dir = tempfile::tempdir().unwrap();
        Command::new("runc").arg("spec").current_dir(dir.path()).status().ok()?;
        let config = dir.path().join("config.json");
        let text = std::fs::read_to_string(&config).ok()?;
        let mut spec: serde_json::Value = serde_json::from_str(&text).unwrap();
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = serde_json::json!(["/bin/echo", "x"]);
        // A machine may not allow more.
        spec["process"]["rlimits"] = serde_json::json!([]);
        spec["root"]["readonly"] = false.into();
        std::fs::write(&config, spec.to_string()).unwrap();
        for name in ["rootfs", "u", "w"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={d}/u,workdir={d}/w",
            layer.path().display(),
            d = dir.path().display()
        );
        let mounted = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(dir.path().join("rootfs"))
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Bundle { dir })
    }

    /// Gives podman the same files.
    fn podman(&self) -> bool {
        let known = Command::new("podman").args(["image", "exists", "imgforge-bench"]).status();
        if known.is_ok_and(|status| status.success()) {
            return true;
        }
        let import = "tar -C \"$0\" -c . | podman import - imgforge-bench";
        let made = Command::new("sh")
            .args(["-c", import])
            .arg(self.dir.path().join("rootfs"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        made.is_ok_and(|status| status.success())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path().join("rootfs")).status();
    }
}
