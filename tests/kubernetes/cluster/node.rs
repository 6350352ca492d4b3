//! The node: pulls images, runs the containers of pods, and says how they end.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::State;
use super::image::Image;
use super::objects::{Id, Kind, now};

/// Runs the pods of the cluster.
pub(super) async fn run(state: Arc<State>) {
    let mut begun = HashSet::new();
    let mut changed = state.changed.subscribe();
    loop {
        let pods: Vec<(Id, Value)> = {
            let objects = state.objects.lock().unwrap();
            let names = objects.all(Kind::Pod);
            names.into_iter().filter(|(_, pod)| begun.insert(uid(pod))).collect()
        };
        for (id, pod) in pods {
            let state = state.clone();
            tokio::spawn(async move { run_pod(state, id, pod).await });
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), changed.changed()).await;
    }
}

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// Where the containers of a pod are.
pub(super) fn pod_dir(state: &State, pod: &Value) -> PathBuf {
    state.dir.join("pods").join(uid(pod))
}

/// Says how the containers are; a pod that is gone, or another by its name, is left alone.
fn tell(state: &State, id: &Id, of: &Value, phase: &str, tests: Value) -> bool {
    state.change(|objects| {
        if objects.get(id).is_none_or(|there| uid(there) != uid(of)) {
            return false;
        }
        objects.modify(id, |pod| {
            pod["spec"]["nodeName"] = json!("n1");
            let status = &mut pod["status"];
            status["phase"] = json!(phase);
            if !tests.is_null() {
                status["containerStatuses"] = json!([
                    container("keeper", &json!({ "running": { "startedAt": now() } })),
                    container("tests", &tests),
                ]);
            }
        })
    })
}

fn container(name: &str, state: &Value) -> Value {
    json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": state, "lastState": {} })
}

/// The Secrets that the volumes of a pod name; `None` where one is not there.
fn secrets(state: &State, namespace: &str, pod: &Value) -> Option<Vec<Value>> {
    let mut names = Vec::new();
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        names.extend(volume["secret"]["secretName"].as_str());
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        names.extend(sources.filter_map(|source| source["secret"]["name"].as_str()));
    }
    let objects = state.objects.lock().unwrap();
    let find = |name: &str| objects.get(&(Kind::Secret, namespace.to_owned(), name.to_owned()));
    names.into_iter().map(|name| find(name).cloned()).collect()
}

async fn run_pod(state: Arc<State>, id: Id, pod: Value) {
    let knobs = state.knobs();
    tell(&state, &id, &pod, "Pending", Value::Null);
    let waits = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
    tell(&state, &id, &pod, "Pending", waits("ContainerCreating", ""));
    let Some(secrets) = secrets(&state, &id.1, &pod) else {
        // As a kubelet does: without a word in the status.
        return;
    };
    let reference = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    let pulled = match knobs.no_image {
        true => Err(format!("rpc error: code = NotFound desc = {reference}: not found")),
        false => state.images.pull(&reference).await,
    };
    let image = match pulled {
        Ok(image) => image,
        Err(why) => {
            tell(&state, &id, &pod, "Pending", waits("ErrImagePull", &why));
            return;
        }
    };
    let dir = pod_dir(&state, &pod);
    prepare(&dir, &secrets);
    let closed = pod["metadata"]["labels"]["dev.imgforge.network"] == "none" && !knobs.open_network;
    let mut running = HashMap::new();
    for container in pod["spec"]["containers"].as_array().unwrap() {
        let name = container["name"].as_str().unwrap().to_owned();
        let mut child = start(&dir, &name, container, &image, closed);
        until_it_runs(&mut child).await;
        std::fs::write(dir.join(format!("{name}.pid")), child.id().unwrap_or(0).to_string())
            .unwrap();
        running.insert(name, child);
    }
    tell(&state, &id, &pod, "Running", json!({ "running": { "startedAt": now() } }));
    let mut tests = running.remove("tests").unwrap();
    let keeper = running.remove("keeper");
    let mut killed = false;
    if state.strikes("deleted", knobs.deleted) {
        state.change(|objects| {
            objects.modify(&id, |pod| pod["metadata"]["deletionTimestamp"] = json!(now()))
        });
    } else if state.strikes("evicted", knobs.evicted) {
        state.change(|objects| {
            objects.modify(&id, |pod| {
                pod["status"]["conditions"] = json!([{ "type": "DisruptionTarget",
                    "status": "True", "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting" }]);
                pod["metadata"]["deletionTimestamp"] = json!(now());
            })
        });
    } else if state.strikes("killed", knobs.killed) {
        killed = true;
        kill(&mut tests).await;
    }
    let mut ended = None;
    // Until the pod is deleted; its tests end at some time.
    loop {
        let there = state.objects.lock().unwrap().get(&id).cloned();
        let there = there.filter(|there| uid(there) == uid(&pod));
        let deleted =
            there.as_ref().is_none_or(|it| !it["metadata"]["deletionTimestamp"].is_null());
        if deleted || state.ended.load(Ordering::Relaxed) {
            break;
        }
        if ended.is_none() {
            tokio::select! {
                status = tests.wait() => {
                    let code = status.ok().and_then(|status| status.code()).unwrap_or(137);
                    let message = std::fs::read_to_string(dir.join("tests.message"));
                    let message = message.unwrap_or_default();
                    let reason = match (knobs.oom, code) {
                        (true, _) => "OOMKilled",
                        (false, 0) => "Completed",
                        (false, _) => "Error",
                    };
                    let end = json!({ "terminated": { "exitCode": code, "reason": reason,
                        "message": if killed { "" } else { &message },
                        "startedAt": now(), "finishedAt": now() } });
                    tell(&state, &id, &pod, "Running", end.clone());
                    ended = Some(end);
                }
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    kill(&mut tests).await;
    if let Some(mut keeper) = keeper {
        kill(&mut keeper).await;
    }
    if ended.is_none() {
        let end = json!({ "terminated": { "exitCode": 137, "reason": "Error" } });
        tell(&state, &id, &pod, "Failed", end);
    }
    state.change(|objects| {
        if objects.get(&id).is_some_and(|there| uid(there) == uid(&pod)) {
            objects.remove(&id);
        }
    });
    let _ = std::fs::remove_dir_all(&dir);
}

/// Returns process 1 of a container: the child of `unshare`.
pub(super) fn process_one(unshare: &str) -> String {
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
    children.unwrap_or_default().split_whitespace().next().unwrap_or("0").to_owned()
}

/// Waits until the command of a container runs, in its own root, or has ended.
async fn until_it_runs(child: &mut Child) {
    for _ in 0..1000 {
        let Some(pid) = child.id() else { return };
        let first = process_one(&pid.to_string());
        let line = std::fs::read_to_string(format!("/proc/{first}/cmdline")).unwrap_or_default();
        let is_setup =
            ["unshare\0", "chroot\0", "/usr/bin/env\0"].iter().any(|it| line.starts_with(it));
        if !line.is_empty() && !is_setup && !line.contains("make-rprivate") {
            return;
        }
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Kills process 1 of a container, and with it all others.
async fn kill(child: &mut Child) {
    let _ = child.start_kill();
    let _ = child.wait().await;
}

/// Writes the volumes of a pod.
fn prepare(dir: &Path, secrets: &[Value]) {
    for name in ["in", "out"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    use std::os::unix::fs::PermissionsExt as _;
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir.join("out"), all).unwrap();
    let data = secrets.iter().filter_map(|secret| secret["data"].as_object());
    for (name, data) in data.flatten() {
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(data.as_str().unwrap()).unwrap();
        let path = dir.join("in").join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    }
}

/// Starts a container: its root is the image below an empty layer in memory.
fn start(dir: &Path, name: &str, container: &Value, image: &Image, closed: bool) -> Child {
    let message = dir.join(format!("{name}.message"));
    std::fs::write(&message, "").unwrap();
    let root = dir.join(format!("{name}.root"));
    std::fs::create_dir_all(&root).unwrap();
    let layers: Vec<String> =
        image.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let setup = "set -e\n\
        mount --make-rprivate /\n\
        mount -t tmpfs tmpfs \"$ROOT\"\n\
        mkdir \"$ROOT/upper\" \"$ROOT/work\" \"$ROOT/m\"\n\
        mount -t overlay overlay -o \"lowerdir=$LAYERS,upperdir=$ROOT/upper,workdir=$ROOT/work\" \"$ROOT/m\"\n\
        m=$ROOT/m\n\
        mkdir -p $m/imgforge/in $m/imgforge/out $m/proc $m/dev $m/etc\n\
        mount --bind \"$POD/in\" $m/imgforge/in\n\
        mount --bind \"$POD/out\" $m/imgforge/out\n\
        mount -t proc proc $m/proc\n\
        mount -t tmpfs tmpfs $m/dev\n\
        for d in null zero full random urandom tty; do touch $m/dev/$d; mount --bind /dev/$d $m/dev/$d; done\n\
        ln -s /proc/self/fd $m/dev/fd; mkdir $m/dev/shm; chmod 1777 $m/dev/shm\n\
        touch $m/dev/termination-log; mount --bind \"$MESSAGE\" $m/dev/termination-log\n\
        echo '127.0.0.1 localhost sandbox' >$m/etc/hosts\n\
        hostname sandbox\n\
        ip link set lo up 2>/dev/null || true\n\
        cd /\n\
        exec chroot $m /usr/bin/env -i -C \"$DIRECTORY\" \"$@\"\n";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL"]);
    if closed {
        command.arg("--net");
    }
    command.args(["/bin/sh", "-c", setup, "sh"]);
    command.args(&image.variables);
    let mut known = HashMap::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let text = |field: &str| variable[field].as_str().unwrap_or_default().to_owned();
        let value = expand(&text("value"), &known);
        command.arg(format!("{}={value}", text("name")));
        known.insert(text("name"), value);
    }
    for word in container["command"].as_array().unwrap() {
        command.arg(expand(word.as_str().unwrap(), &known));
    }
    command
        .env("DIRECTORY", container["workingDir"].as_str().unwrap_or(&image.directory))
        .env("ROOT", &root)
        .env("LAYERS", layers.join(":"))
        .env("POD", dir)
        .env("MESSAGE", &message)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join(format!("{name}.stderr"))).unwrap())
        .kill_on_drop(true);
    command.spawn().expect("`unshare` of util-linux starts")
}

/// Expands `$(NAME)` as a kubelet does: what is not known stays, and `$$` is `$`.
fn expand(text: &str, known: &HashMap<String, String>) -> String {
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            done.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|named| named.split_once(')'))
        {
            let unknown = format!("$({name})");
            done.push_str(known.get(name).unwrap_or(&unknown));
            rest = after;
        } else {
            done.push('$');
        }
    }
    done + rest
}
