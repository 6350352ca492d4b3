//! Engines that are not there, are too old, or go away.

use std::path::Path;
use std::time::Duration;

use imgforge::engine::docker::DockerEngine;
use imgforge::engine::{Builder as _, EngineError, Runner as _, SandboxEnd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::common::{Log, on_every_engine};
use crate::needs::{NotHere, not_here};
use crate::scratch::Scratch;

async fn connect(socket: &Path) -> Result<DockerEngine, EngineError> {
    let address = format!("unix://{}", socket.display());
    DockerEngine::connect(|name| (name == "DOCKER_HOST").then(|| address.clone()), "test").await
}

/// Answers every request on a socket with `body`.
fn answer(socket: &Path, body: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
            let answer = format!("{head}{}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
}

#[tokio::test]
async fn an_engine_that_is_too_old_says_which_version_it_speaks() {
    let directory = Scratch::new();
    let socket = directory.path().join("old.sock");
    answer(&socket, r#"{"Version":"1.13.1","ApiVersion":"1.26"}"#);
    let Err(error) = connect(&socket).await else { panic!("connected") };
    assert_eq!(error.to_string(), "the engine speaks API 1.26, imgforge needs 1.41 or newer");
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_unreachable() {
    let directory = Scratch::new();
    let socket = directory.path().join("dead.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let Err(error) = connect(&socket).await else { panic!("connected") };
    assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("dead.sock"));
}

#[tokio::test]
async fn podman_is_refused_by_what_it_says_of_itself() {
    let directory = Scratch::new();
    let socket = directory.path().join("podman.sock");
    answer(
        &socket,
        r#"{"Version":"5.4.2","ApiVersion":"1.41","Components":[{"Name":"Podman Engine","Version":"5.4.2"},{"Name":"OCI Runtime (crun)","Version":"1.21"}]}"#,
    );
    let Err(error) = connect(&socket).await else { panic!("connected") };
    assert!(
        error.to_string().ends_with("is Podman 5.4.2, which takes no single layers"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--engine embedded"));
}

#[tokio::test]
async fn something_that_is_no_engine_is_unreachable() {
    let directory = Scratch::new();
    let socket = directory.path().join("other.sock");
    answer(&socket, "<html>");
    let Err(error) = connect(&socket).await else { panic!("connected") };
    assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
}

#[test]
#[ignore = "needs an engine"]
fn a_connection_that_ends_under_a_script_is_no_end_of_it() {
    on_every_engine(|bench| async move {
        let Some(engine) = bench.socket().map(str::to_owned) else {
            return not_here(NotHere::OtherEngine);
        };
        let directory = Scratch::new();
        let socket = directory.path().join("proxy.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
        let cutting = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (engine, mut cut) = (engine.clone(), cutting.subscribe());
                tokio::spawn(async move {
                    let mut far = UnixStream::connect(engine).await.unwrap();
                    // Both ends see an orderly end, as from a proxy that has enough of silence.
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        let through = connect(&socket).await.unwrap();
        // One that the watcher ends, and one that ends before that with half of its words.
        for script in ["echo up; sleep 1000", "echo up; sleep 1; echo passed; exit 0"] {
            let log = Log::default();
            let request = crate::sandbox::sandbox(&bench, script);
            let running = through.run_script(&request, &log, &log);
            let ends = async {
                while !log.text().contains("up") {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                cut.send(()).unwrap();
            };
            let (end, ()) = tokio::join!(running, ends);
            match end {
                Ok(end) => assert!(matches!(end, SandboxEnd::Killed(_)), "{script}: {end:?}"),
                Err(error) => assert!(error.is_transient(), "{script}: {error:?}"),
            }
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_connection_that_breaks_in_a_build_is_worth_another_try() {
    on_every_engine(|bench| async move {
        let Some(engine) = bench.socket().map(str::to_owned) else {
            return not_here(NotHere::OtherEngine);
        };
        let directory = Scratch::new();
        let socket = directory.path().join("proxy.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let proxy = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let engine = engine.clone();
                connections.spawn(async move {
                    let mut far = UnixStream::connect(engine).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        let through = connect(&socket).await.unwrap();
        let text = format!("FROM {}\nRUN echo up; sleep 1000\n", bench.from());
        let request = bench.build(&text, "cut");
        let log = Log::default();
        let build = through.build(&request, &log);
        let cut = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            proxy.abort();
        };
        let (built, ()) = tokio::join!(build, cut);
        let error = built.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    });
}
