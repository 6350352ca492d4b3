//! The real binary on a real Docker engine, with the bundled dataset.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use serde_json::Value;

mod common;

use common::{docker, needs};

/// Demands an engine, and gives it the base that all tests stand on.
fn need_base() {
    static BASE: Once = Once::new();
    needs::docker();
    BASE.call_once(build_base);
}

/// Builds the base that all tests stand on, once: their state directories, and so their locks, are
/// their own.
fn build_base() {
    let lock = std::fs::File::create(std::env::temp_dir().join("imgforge-test-base.lock")).unwrap();
    lock.lock().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["build", "-d", "demo", "--layers", "base"])
        .current_dir(dir.path())
        .env("IMGFORGE_STATE_DIR", dir.path().join("state"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A directory of its own with state, logs and an overlay that gives every key of this test another
/// value, so that tests do not see each other's images.
struct Space {
    dir: tempfile::TempDir,
    name: String,
}

impl Space {
    fn new(name: &str) -> Space {
        let dir = tempfile::tempdir().unwrap();
        let unique = format!("{name}-{}-{}", std::process::id(), dir.path().display());
        let space = Space { dir, name: unique };
        space.overlay("");
        space
    }

    /// Writes the overlay; `more` goes to the environment of abacus.
    fn overlay(&self, more: &str) {
        let mut text = String::new();
        for repo in ["abacus", "quill", "ledger"] {
            text.push_str(&format!(
                "[repo.\"imgforge/{repo}\"]\nvariables = {{ IMGFORGE_TEST = \"{}{}\" }}\n",
                self.name,
                if repo == "abacus" { more } else { "" }
            ));
        }
        std::fs::write(self.dir.path().join("images.local.toml"), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("IMGFORGE_STATE_DIR", self.dir.path().join("state"))
            .stdin(Stdio::null());
        command
    }

    fn json(&self, args: &[&str]) -> (Value, Option<i32>, String) {
        let output = self.command(args).arg("--json").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let document = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (document, output.status.code(), stderr)
    }

    fn build(&self, ids: &[&str]) -> Value {
        let mut args = vec!["build", "-d", "demo", "-i"];
        args.extend(ids);
        let (document, code, stderr) = self.json(&args);
        assert_eq!(code, Some(0), "{stderr}\n{document:#}");
        document
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let (plan, ..) = self.json(&["plan", "-d", "demo"]);
        for node in plan["nodes"].as_array().into_iter().flatten().rev() {
            if node["kind"] != "base" {
                docker(&["rmi", "-f", node["image"].as_str().unwrap_or("")]);
            }
        }
    }
}

/// Names and ids of the images of a build.
fn images(summary: &Value) -> Vec<(String, String)> {
    let name = |node: &Value| node["image"].as_str().unwrap().to_owned();
    summary["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(name)
        .map(|image| {
            let output = docker(&["image", "inspect", "--format", "{{.Id}}", &image]);
            assert!(output.status.success(), "`{image}` is not on the engine");
            (image, String::from_utf8_lossy(&output.stdout).trim().to_owned())
        })
        .collect()
}

fn image_of<'a>(summary: &'a Value, kind: &str) -> &'a str {
    let nodes = summary["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["kind"] == kind).unwrap()["image"].as_str().unwrap()
}

fn in_image(image: &str, script: &str) -> String {
    let script =
        format!("source /opt/miniconda3/bin/activate && conda activate testbed && {script}");
    let output = docker(&["run", "--rm", "--network", "none", image, "bash", "-euc", &script]);
    assert!(
        output.status.success(),
        "{script}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
#[ignore = "needs Docker"]
fn an_instance_is_built_whole_and_is_fresh_afterwards() {
    need_base();
    let space = Space::new("whole");
    let built = space.build(&["imgforge__abacus-1"]);
    assert_eq!(built["failed"], 0);
    let checkout = image_of(&built, "checkout");
    assert_eq!(in_image(checkout, "cd /testbed; git status --porcelain"), "");
    assert_eq!(in_image(checkout, "cd /testbed; git log --format=%h --all HEAD | wc -l"), "1");
    in_image(checkout, "python -c 'import abacus'");
    let leftovers =
        in_image(checkout, "ls -A /mnt /media /tmp; env | grep -i -e proxy -e _CERT || true");
    assert!(!leftovers.contains("environment") && !leftovers.contains("CERT"), "{leftovers}");
    let again = space.build(&["imgforge__abacus-1"]);
    assert_eq!((&again["built"], &again["fresh"]), (&0.into(), &4.into()));
    // A lost state is read back from the engine.
    std::fs::remove_dir_all(space.dir.path().join("state")).unwrap();
    assert_eq!(space.build(&["imgforge__abacus-1"])["built"], 0);
}

#[test]
#[ignore = "needs Docker"]
fn a_changed_input_is_named_and_nothing_beside_it_is_stale() {
    need_base();
    let space = Space::new("explain");
    space.build(&["imgforge__abacus-1", "imgforge__quill-1"]);
    space.overlay("-changed");
    let (plan, ..) =
        space.json(&["plan", "-d", "demo", "-i", "imgforge__abacus-1", "imgforge__quill-1"]);
    let status = |id: &str| {
        let nodes = plan["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["id"].as_str().unwrap().starts_with(id)).unwrap();
        (node["status"].as_str().unwrap().to_owned(), node["reasons"].to_string())
    };
    let (env, reasons) = status("env:imgforge/abacus");
    assert_eq!(env, "stale");
    assert!(reasons.contains("variables/IMGFORGE_TEST changed from"), "{reasons}");
    assert_eq!(status("checkout:imgforge/abacus").0, "stale");
    assert!(status("instance:imgforge__abacus-1").1.contains("parent checkout:imgforge/abacus"));
    for fresh in
        ["base:", "env:imgforge/quill", "checkout:imgforge/quill", "instance:imgforge__quill"]
    {
        assert_eq!(status(fresh).0, "fresh", "{fresh}");
    }
}

#[test]
#[ignore = "needs Docker"]
fn a_removed_parent_is_built_again() {
    need_base();
    let space = Space::new("removed");
    let built = space.build(&["imgforge__quill-1"]);
    let before = images(&built);
    for kind in ["instance", "checkout", "env"] {
        docker(&["rmi", "-f", image_of(&built, kind)]);
    }
    let again = space.build(&["imgforge__quill-1"]);
    assert_eq!(again["built"], 3);
    assert_eq!(images(&again), before, "the same inputs give the same images");
}

#[test]
#[ignore = "needs Docker"]
fn two_processes_build_each_key_once() {
    need_base();
    let space = Space::new("two");
    let args = ["build", "-d", "demo", "--repo", "imgforge/quill", "-j", "2", "--json"];
    let start =
        || space.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let children = [start(), start()];
    let mut built = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["failed"], 0, "{summary:#}");
        let nodes = summary["nodes"].as_array().unwrap();
        built +=
            nodes.iter().filter(|node| node["kind"] != "base" && node["status"] == "built").count();
    }
    // One environment, two checkouts, two instances.
    assert_eq!(built, 5);
}

#[test]
#[ignore = "needs Docker"]
fn a_build_that_was_killed_goes_on_and_leaves_nothing() {
    need_base();
    let space = Space::new("killed");
    let undisturbed = images(&space.build(&["imgforge__abacus-1", "imgforge__ledger-1"]));
    for (image, _) in undisturbed.iter().rev().filter(|(image, _)| !image.contains("/base:")) {
        docker(&["rmi", "-f", image]);
    }
    let args = ["build", "-d", "demo", "-i", "imgforge__abacus-1", "imgforge__ledger-1", "-j", "2"];
    for round in 0..6 {
        let mut child = space.command(&args).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(150 + 350 * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let resumed = space.build(&["imgforge__abacus-1", "imgforge__ledger-1"]);
    assert_eq!(images(&resumed), undisturbed);
    let left = docker(&["images", "-aq", "--filter", "label=dev.imgforge.scratch"]);
    let left = String::from_utf8_lossy(&left.stdout);
    // Other tests build at the same time; what is left here would be of dead processes.
    for id in left.split_whitespace() {
        let format = "{{index .Config.Labels \"dev.imgforge.scratch\"}}";
        let owner = docker(&["image", "inspect", "--format", format, id]);
        let owner = String::from_utf8_lossy(&owner.stdout).trim().to_owned();
        let owners = imgforge::owner::Owners::of(&space.dir.path().join("state"));
        let dead = owners.judge(&owner, None) == imgforge::owner::Liveness::Dead;
        assert!(owner.is_empty() || !dead, "{id} of {owner} is left");
    }
    let tmp = std::fs::read_dir(space.dir.path().join("state/tmp")).unwrap().count();
    assert_eq!(tmp, 0);
}

#[test]
#[ignore = "needs Docker"]
fn a_patch_that_does_not_apply_fails_its_instance_alone() {
    need_base();
    let space = Space::new("patch");
    let predictions = space.dir.path().join("preds.jsonl");
    let patch = "--- a/nowhere.py\\n+++ b/nowhere.py\\n@@ -1 +1 @@\\n-a\\n+b\\n";
    let line = |id: &str, patch: &str| {
        format!(
            "{{\"instance_id\":\"{id}\",\"model_name_or_path\":\"m\",\"model_patch\":\"{patch}\"}}\n"
        )
    };
    let text = line("imgforge__quill-1", patch) + &line("imgforge__quill-2", "");
    std::fs::write(&predictions, text).unwrap();
    let path = predictions.to_str().unwrap();
    let (summary, code, _) =
        space.json(&["build", "-d", "demo", "--repo", "imgforge/quill", "-p", path]);
    assert_eq!(code, Some(1));
    assert_eq!((&summary["failed"], &summary["skipped"]), (&1.into(), &0.into()));
    let failed =
        summary["nodes"].as_array().unwrap().iter().find(|node| node["status"] == "failed");
    let error = failed.unwrap()["error"].as_str().unwrap();
    assert!(
        error.contains("model_patch does not apply") && error.contains("nowhere.py"),
        "{error}"
    );
}

#[test]
fn an_engine_that_is_not_there_ends_with_status_three() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_imgforge"))
            .args(args)
            .current_dir(dir.path())
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("IMGFORGE_STATE_DIR", Path::new(dir.path()).join("state"))
            .output()
            .unwrap()
    };
    let build = run(&["build", "-d", "demo"]);
    assert_eq!(build.status.code(), Some(3));
    let stderr = String::from_utf8_lossy(&build.stderr).into_owned();
    assert!(
        stderr.contains("cannot reach an engine") && stderr.contains("hint: start"),
        "{stderr}"
    );
    let plan = run(&["plan", "-d", "demo"]);
    assert_eq!(plan.status.code(), Some(0), "a plan needs no engine");
}

#[test]
fn a_socket_that_may_not_be_used_is_named_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    open(dir.path());
    let socket = dir.path().join("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may use every socket, so the program runs as nobody, from where nobody can read it.
    let program = dir.path().join("imgforge");
    std::fs::copy(env!("CARGO_BIN_EXE_imgforge"), &program).unwrap();
    open(&program);
    let mut command = Command::new(&program);
    command
        .args(["build", "-d", "demo"])
        .current_dir(dir.path())
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("IMGFORGE_STATE_DIR", dir.path().join("state"))
        .env("HOME", dir.path());
    if is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("permission denied on the engine's socket"), "{stderr}");
    assert!(stderr.contains("usermod -aG docker"), "{stderr}");
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.starts_with(b"0\n")
}

/// Stands between imgforge and the engine, and can be broken.
struct Proxy {
    broken: std::sync::Arc<std::sync::atomic::AtomicBool>,
    open: std::sync::Arc<std::sync::Mutex<Vec<std::os::unix::net::UnixStream>>>,
}

impl Proxy {
    fn start(socket: &Path, engine: String) -> Proxy {
        use std::os::unix::net::{UnixListener, UnixStream};
        let listener = UnixListener::bind(socket).unwrap();
        let proxy = Proxy { broken: Default::default(), open: Default::default() };
        let (broken, open) = (proxy.broken.clone(), proxy.open.clone());
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if broken.load(std::sync::atomic::Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = UnixStream::connect(&engine) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        proxy
    }

    /// Cuts every connection and takes no more until it is mended.
    fn set_broken(&self, broken: bool) {
        self.broken.store(broken, std::sync::atomic::Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[test]
#[ignore = "needs Docker"]
fn an_engine_behind_ssh_builds_and_evaluates_as_with_the_docker_command() {
    need_base();
    let space = Space::new("ssh");
    // A login to this very host: it runs what it is given, as `sshd` does.
    let (programs, log) = (space.dir.path().join("bin"), space.dir.path().join("logins"));
    std::fs::create_dir(&programs).unwrap();
    let engine = std::env::var("DOCKER_HOST").unwrap_or_default();
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> '{}'\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\n\
         unset DOCKER_HOST\n[ -z '{engine}' ] || export DOCKER_HOST='{engine}'\n\
         exec sh -c \"$*\"\n",
        log.display()
    );
    std::fs::write(programs.join("ssh"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(programs.join("ssh"), mode).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = space
        .command(&["eval", "-d", "demo", "-i", "imgforge__quill-1", "-p", "gold", "-p", "empty"])
        .arg("--json")
        .env("DOCKER_HOST", "ssh://me@there.example:2222")
        .env("PATH", format!("{}:{path}", programs.display()))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("resolved imgforge__quill-1+gold"), "{stderr}");
    assert!(stderr.contains("unresolved imgforge__quill-1+empty"), "{stderr}");
    let logins = std::fs::read_to_string(log).unwrap();
    let expected =
        "-o ConnectTimeout=30 -T -l me -p 2222 -- there.example docker system dial-stdio";
    assert!(logins.lines().all(|line| line == expected), "{logins}");
}

#[test]
#[ignore = "needs Docker"]
fn an_engine_that_goes_away_in_a_build_and_comes_back_costs_nothing() {
    need_base();
    let engine = std::env::var("DOCKER_HOST").unwrap_or_default();
    let engine = match engine.strip_prefix("unix://") {
        Some(path) => path.to_owned(),
        None => "/var/run/docker.sock".to_owned(),
    };
    let space = Space::new("restart");
    let socket = space.dir.path().join("docker.sock");
    let proxy = Proxy::start(&socket, engine);
    let child = space
        .command(&["build", "-d", "demo", "-i", "imgforge__abacus-1", "--json"])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // In the middle of the environment's build.
    let log = space.dir.path().join("logs/build_images/env");
    for _ in 0..600 {
        if log.is_dir() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(300));
    proxy.set_broken(true);
    std::thread::sleep(Duration::from_millis(500));
    proxy.set_broken(false);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["failed"], &summary["built"]), (&0.into(), &3.into()), "{stderr}");
    assert!(stderr.contains("again in") || stderr.contains("retry"), "{stderr}");
}
