//! Proxies of the environment, as datasets and git go by them: SOCKS, exceptions, mistakes. No engine.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// A SOCKS 5 proxy that knows every name: each leads to a server that has nothing.
struct Socks {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Socks {
    fn start() -> Socks {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                std::thread::spawn(move || serve(stream, &log));
            }
        });
        Socks { port, asked }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.dedup();
        asked
    }
}

/// Serves one connection (RFC 1928), without a login and for names only.
fn serve(mut stream: TcpStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let [_, methods] = take(2)?[..] else { return None };
    take(methods.into())?;
    stream.write_all(&[5, 0]).ok()?;
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let [5, 1, 0, 3] = take(4)?[..] else { return None };
    let length = take(1)?[0];
    let name = String::from_utf8(take(length.into())?).ok()?;
    let port = u16::from_be_bytes(take(2)?.try_into().ok()?);
    asked.lock().unwrap().push(format!("{name}:{port}"));
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    let _ = stream.read(&mut [0; 4096]);
    let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(answer).ok()
}

fn run(dir: &Path, args: &[&str], set: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    let output: Output = command
        .args(args)
        .current_dir(dir)
        .env("IMGFORGE_STATE_DIR", dir.join("state"))
        .env("HF_HOME", dir.join("hf"))
        .env("HF_ENDPOINT", "http://hub.invalid")
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .envs(set.iter().copied())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn datasets_come_through_a_socks_proxy_that_looks_names_up() {
    let (dir, socks) = (tempfile::tempdir().unwrap(), Socks::start());
    let url = socks.url("socks5h");
    let ls = ["dataset", "ls", "-d", "o/n"];
    for name in ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"] {
        let (code, stderr) = run(dir.path(), &ls, &[(name, &url)]);
        assert!(stderr.contains("the hub has no dataset `o/n`"), "{name}: {code:?} {stderr}");
        assert_eq!(socks.asked(), ["hub.invalid:80"], "{name}");
    }
    // An exception is reached directly, which a name of nobody is not.
    let set = [("ALL_PROXY", url.as_str()), ("NO_PROXY", "10.0.0.0/8 *.invalid")];
    let (code, stderr) = run(dir.path(), &ls, &set);
    assert_eq!(code, Some(3), "{stderr}");
    assert_eq!(socks.asked(), [""; 0]);
}

#[test]
fn git_comes_through_a_socks_proxy_too() {
    let (dir, socks) = (tempfile::tempdir().unwrap(), Socks::start());
    let row = format!(
        "{{\"instance_id\":\"pallets__flask-1\",\"repo\":\"pallets/flask\",\"version\":\"2.0\",\
         \"base_commit\":\"{}\",\"patch\":\"\",\"test_patch\":\"x\"}}\n",
        "a".repeat(40)
    );
    std::fs::write(dir.path().join("rows.jsonl"), row).unwrap();
    let mirror = "http://git.invalid/{owner}/{name}";
    let args = ["dataset", "check", "-d", "rows.jsonl", "--git-mirror", mirror];
    let (_, stderr) = run(dir.path(), &args, &[("ALL_PROXY", &socks.url("socks5h"))]);
    assert_eq!(socks.asked(), ["git.invalid:80"], "{stderr}");
}

#[test]
fn a_proxy_that_does_not_answer_or_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ls = ["dataset", "ls", "-d", "o/n"];
    let set = [("ALL_PROXY", "socks5h://127.0.0.1:9")];
    let (code, stderr) = run(dir.path(), &ls, &set);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("error connecting to socks proxy"), "{stderr}");
    assert!(stderr.contains("a proxy of the environment leads there"), "{stderr}");
    let (code, stderr) = run(dir.path(), &ls, &[("all_proxy", "quic://127.0.0.1:9")]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("ALL_PROXY names no proxy of a known kind"), "{stderr}");
}
