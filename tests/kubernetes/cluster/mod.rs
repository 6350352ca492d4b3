//! An API server with one node, in this process: real HTTP over TLS with a token, a watch with versions and
//! bookmarks, exec over a websocket, a garbage collector. It lets whoever asks do what the Role of
//! `docs/kubernetes.md` allows. Its containers are real: each has a root that is
//! unpacked from the image in the registry, its own process 1, and its own network where the policy says so.
//!
//! What it lacks of a real node: capabilities are not dropped, there is no seccomp profile, memory is not
//! bounded. Those ends of a container are knobs.

mod api;
mod exec;
mod image;
mod node;
mod objects;
mod rights;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;

pub(crate) use objects::Kind;
use objects::Objects;

/// What goes wrong. Each share is a part of 1000.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knobs {
    /// Creations that are done and answered with 500.
    pub lost_answers: u64,
    /// Requests that are answered with 429 and `retryAfterSeconds`.
    pub busy: u64,
    /// Pods that somebody deletes while their tests run.
    pub deleted: u64,
    /// Pods that are evicted while their tests run.
    pub evicted: u64,
    /// Pods whose tests are killed, so that no message is written.
    pub killed: u64,
    /// Commands that are answered with 500, "container not found".
    pub exec_fails: u64,
    /// Commands that end without a status.
    pub exec_silent: u64,
    /// Commands whose output ends after a half, with the status of success.
    pub exec_cut: u64,
    /// Commands whose input is lost.
    pub exec_input: u64,
    /// A right of the Role that the user does not have, such as `create pods`.
    pub denied: Option<&'static str>,
    /// Pods that the quota has room for.
    pub quota: Option<usize>,
    /// Watches end after this time, in milliseconds.
    pub watch_ends: Option<u64>,
    /// Watches that begin are answered with 410.
    pub expired: u64,
    /// Whether pods without a network reach one all the same.
    pub open_network: bool,
    /// The reason that containers are killed with by the kernel.
    pub oom: bool,
    /// Images that the node cannot pull.
    pub no_image: bool,
}

/// The cluster. It ends when it is dropped, and all its containers with it.
pub(crate) struct Cluster {
    pub state: Arc<State>,
    pub port: u16,
    ca: String,
    dir: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

pub(crate) struct State {
    pub objects: Mutex<Objects>,
    pub changed: tokio::sync::watch::Sender<u64>,
    pub knobs: Mutex<Knobs>,
    pub token: String,
    pub dir: PathBuf,
    pub images: image::Images,
    pub rights: rights::Rights,
    pub ended: AtomicBool,
    dice: AtomicU64,
    /// How often each kind of request came, and each fault was done.
    pub counts: Mutex<std::collections::BTreeMap<String, u64>>,
}

impl State {
    pub(crate) fn knobs(&self) -> Knobs {
        self.knobs.lock().unwrap().clone()
    }

    /// Tells whether a fault with a share of 1000 is done now, and counts it. The same faults each time, as
    /// far as requests come in the same order.
    pub(crate) fn strikes(&self, what: &str, share: u64) -> bool {
        if share == 0 {
            return false;
        }
        let mut x = self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let strikes = (x ^ (x >> 31)) % 1000 < share;
        if strikes {
            self.count(&format!("fault {what}"));
        }
        strikes
    }

    pub(crate) fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    /// Changes objects, and wakes whoever watches.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let mut objects = self.objects.lock().unwrap();
        let done = change(&mut objects);
        let version = objects.version;
        drop(objects);
        self.changed.send_replace(version);
        done
    }
}

impl Cluster {
    /// Starts one whose node pulls from the registry on that port.
    pub(crate) fn start(registry: u16, layers: &Path, knobs: Knobs) -> Cluster {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let ca = key.cert.pem();
        let state = Arc::new(State {
            objects: Mutex::default(),
            changed: tokio::sync::watch::channel(0).0,
            knobs: Mutex::new(knobs),
            token: format!("token-{:x}", rand::random::<u64>()),
            dir: dir.path().to_owned(),
            images: image::Images::new(layers.to_owned(), registry),
            rights: rights::Rights::of_documentation(),
            ended: AtomicBool::new(false),
            dice: AtomicU64::new(1),
            counts: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(api::serve(listener, key, state.clone()));
        runtime.spawn(node::run(state.clone()));
        runtime.spawn(objects::collect_garbage(state.clone()));
        Cluster { state, port, ca, dir, runtime: Some(runtime) }
    }

    /// Writes a kubeconfig for a namespace.
    pub(crate) fn kubeconfig(&self, namespace: &str) -> PathBuf {
        self.kubeconfig_with(namespace, &self.state.token)
    }

    pub(crate) fn kubeconfig_with(&self, namespace: &str, token: &str) -> PathBuf {
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{}\", \
             certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: c, user: u, namespace: {namespace}}}}}]\n",
            self.port
        );
        let path = self.dir.path().join(format!("{namespace}-{token}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The names of all objects of a kind.
    pub(crate) fn names(&self, kind: Kind) -> Vec<String> {
        self.state.objects.lock().unwrap().names(kind)
    }

    /// Takes all pods away from their node, as the eviction API or a node that is not heard of does it.
    pub(crate) fn disrupt(&self, reason: &str) {
        self.state.change(|objects| {
            for (id, _) in objects.all(Kind::Pod) {
                objects.modify(&id, |pod| {
                    pod["status"]["conditions"] = serde_json::json!([{ "type": "DisruptionTarget",
                        "status": "True", "reason": reason, "message": "taken away" }]);
                    pod["metadata"]["deletionTimestamp"] = serde_json::json!(objects::now());
                });
            }
        });
    }

    pub(crate) fn set(&self, knobs: Knobs) {
        *self.state.knobs.lock().unwrap() = knobs;
    }

    pub(crate) fn age_leases(&self, age: std::time::Duration) {
        self.state.change(|objects| objects.age_leases(age));
    }

    /// Returns when nothing of a run is left, or fails.
    pub(crate) fn assert_empty(&self) {
        for _ in 0..100 {
            let all = [Kind::Pod, Kind::Secret, Kind::Lease];
            if all.iter().all(|kind| self.names(*kind).is_empty()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!(
            "left: pods {:?}, secrets {:?}, leases {:?}",
            self.names(Kind::Pod),
            self.names(Kind::Secret),
            self.names(Kind::Lease)
        );
    }

    pub(crate) fn counts(&self) -> std::collections::BTreeMap<String, u64> {
        self.state.counts.lock().unwrap().clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}
