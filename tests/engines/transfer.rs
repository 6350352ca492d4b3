//! Pulls and pushes, against a registry on this machine: Debian's `docker-registry`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use imgforge::engine::{Engine, EngineError};
use imgforge::key::DiffId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Bench, Log, file, on_every_engine};
use crate::scratch::Scratch;

/// A published name, as the benchmark spells it.
const PUBLISHED: &str = "swebench/sweb.eval.x86_64.pallets_1776_flask-4045:latest";

/// A user `me` with the password `secret`.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry that ends with the test.
pub(crate) struct Registry {
    process: Child,
    port: u16,
    _directory: Scratch,
}

impl Registry {
    /// Starts one, for all or for the users of a file.
    pub(crate) async fn start(htpasswd: Option<&str>) -> Registry {
        let directory = Scratch::new();
        let port = free_port().await;
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n",
            directory.path().join("data").display()
        );
        if let Some(htpasswd) = htpasswd {
            let path = directory.path().join("htpasswd");
            std::fs::write(&path, htpasswd).unwrap();
            let path = path.display();
            config += &format!("auth: {{htpasswd: {{realm: imgforge, path: {path}}}}}\n");
        }
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let process = Command::new("docker-registry")
            .args([Path::new("serve"), &path])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = process.expect("cannot start `docker-registry`: install it");
        let registry = Registry { process, port, _directory: directory };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return registry;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the registry does not answer");
    }

    pub(crate) fn name(&self, published: &str) -> String {
        format!("127.0.0.1:{}/{published}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Stands before a registry and answers the first requests for a manifest with an error.
async fn flaky(registry: u16, status: &'static str, times: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = Arc::new(AtomicUsize::new(0));
    let counter = refused.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(pass_on(near, registry, status, times, counter.clone()));
        }
    });
    (port, refused)
}

async fn pass_on(
    mut near: TcpStream,
    registry: u16,
    status: &'static str,
    times: usize,
    refused: Arc<AtomicUsize>,
) {
    let mut head = [0; 2048];
    let Ok(length) = near.peek(&mut head).await else { return };
    let head = String::from_utf8_lossy(&head[..length]);
    let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
    let mut answer = None;
    // The engine tries TLS first, and asks whether it is a registry before anything else.
    if head.starts_with('\u{16}') {
        answer = Some(format!("HTTP/1.1 400 Bad Request\r\n{end}"));
    } else if head.contains(" /v2/ ") {
        let header = "Docker-Distribution-Api-Version: registry/2.0";
        answer = Some(format!("HTTP/1.1 200 OK\r\n{header}\r\n{end}"));
    } else if head.contains("/manifests/") && refused.load(Ordering::SeqCst) < times {
        refused.fetch_add(1, Ordering::SeqCst);
        answer = Some(format!("HTTP/1.1 {status}\r\nRetry-After: 1\r\n{end}"));
    }
    if let Some(answer) = answer {
        // What is not read would reset the connection before the answer is.
        let mut request = vec![0; length];
        let _ = near.read_exact(&mut request).await;
        let _ = near.write_all(answer.as_bytes()).await;
        return;
    }
    let mut far = TcpStream::connect(("127.0.0.1", registry)).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

/// Builds an image of one small file and pushes it.
async fn publish(bench: &Bench, engine: &dyn Engine, reference: &str) -> Vec<DiffId> {
    let mut request = bench.build("FROM scratch\nCOPY a.txt /\nCMD [\"/a.txt\"]\n", "published");
    request.context.push(file("a.txt", reference));
    request.tags.push(reference.to_owned());
    let image = engine.build(&request, &Log::default()).await.unwrap();
    engine.push(&reference.parse().unwrap(), &[], &Log::default()).await.unwrap();
    engine.remove(image.id.as_str()).await.unwrap();
    image.diff_ids
}

#[test]
#[ignore = "needs an engine and docker-registry"]
fn a_published_name_is_pulled() {
    on_every_engine(|bench| async move {
        let registry = Registry::start(None).await;
        let name = registry.name(PUBLISHED);
        let diff_ids = publish(&bench, &*bench.engine, &name).await;
        assert_eq!(bench.engine.inspect(&name).await.unwrap(), None);
        let log = Log::default();
        let image =
            bench.engine.pull(&name.parse().unwrap(), &bench.base.platform, &log).await.unwrap();
        assert_eq!(image.diff_ids, diff_ids);
        assert!(image.tags.contains(&name), "{image:?}");
        assert_eq!(image.repo_digests.len(), 1, "{image:?}");
        assert!(log.text().contains("Digest: sha256:"), "{}", log.text());
        bench.engine.remove(image.id.as_str()).await.unwrap();
        let digest = &image.repo_digests[0];
        let again =
            bench.engine.pull(&digest.parse().unwrap(), &bench.base.platform, &log).await.unwrap();
        assert_eq!(again.diff_ids, diff_ids);
        bench.engine.remove(again.id.as_str()).await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine and docker-registry"]
fn a_name_that_the_registry_lacks_is_not_tried_again() {
    on_every_engine(|bench| async move {
        let registry = Registry::start(None).await;
        let name = registry.name("swebench/none:latest");
        let log = Log::default();
        let error = bench
            .engine
            .pull(&name.parse().unwrap(), &bench.base.platform, &log)
            .await
            .unwrap_err();
        let EngineError::NotFound { reference, reason } = &error else { panic!("{error:?}") };
        assert_eq!(*reference, name);
        assert!(!reason.is_empty());
        assert!(!log.text().contains("again in"), "{}", log.text());
    });
}

#[test]
#[ignore = "needs an engine and docker-registry"]
fn a_registry_that_is_busy_is_asked_again() {
    on_every_engine(|bench| async move {
        let registry = Registry::start(None).await;
        let diff_ids = publish(&bench, &*bench.engine, &registry.name(PUBLISHED)).await;
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let (port, refused) = flaky(registry.port, status, 2).await;
            let name = format!("127.0.0.1:{port}/{PUBLISHED}");
            let log = Log::default();
            let image = bench.engine.pull(&name.parse().unwrap(), &bench.base.platform, &log).await;
            let image = image.unwrap_or_else(|error| panic!("{status}: {error:?}"));
            assert_eq!(image.diff_ids, diff_ids);
            assert_eq!(refused.load(Ordering::SeqCst), 2);
            // containerd asks again by itself.
            if bench.engine.info().await.unwrap().store != "containerd" {
                assert!(log.text().contains("again in"), "{status}: {}", log.text());
            }
            bench.engine.remove(image.id.as_str()).await.unwrap();
        }
    });
}

#[test]
#[ignore = "needs an engine and docker-registry"]
fn credentials_come_from_dockers_configuration() {
    on_every_engine(|bench| async move {
        let registry = Registry::start(Some(HTPASSWD)).await;
        let name = registry.name(PUBLISHED);
        let config = Scratch::new();
        let path = config.path().join("config.json");
        let server = format!("127.0.0.1:{}", registry.port);
        let engine = bench.with_credentials(config.path()).await;
        // base64 of `me:secret`
        let auths = serde_json::json!({"auths": {&server: {"auth": "bWU6c2VjcmV0"}}});
        std::fs::write(&path, auths.to_string()).unwrap();
        let diff_ids = publish(&bench, &*engine, &name).await;
        let platform = &bench.base.platform;
        let image = engine.pull(&name.parse().unwrap(), platform, &Log::default()).await.unwrap();
        assert_eq!(image.diff_ids, diff_ids);
        engine.remove(image.id.as_str()).await.unwrap();
        // base64 of `me:wrong`
        let wrong = serde_json::json!({"auths": {&server: {"auth": "bWU6d3Jvbmc="}}});
        for text in [wrong.to_string(), "{}".to_owned()] {
            std::fs::write(&path, text).unwrap();
            let log = Log::default();
            let error = engine.pull(&name.parse().unwrap(), platform, &log).await.unwrap_err();
            // What Docker cannot tell from an image that is not there.
            let refused =
                matches!(error, EngineError::Denied { .. } | EngineError::NotFound { .. });
            assert!(refused, "{error:?}");
            assert!(!log.text().contains("again in"), "{}", log.text());
        }
    });
}
