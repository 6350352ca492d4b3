//! Registries for tests: Debian's `docker-registry`, and one that stands before it and misbehaves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A registry that ends with the test.
pub(crate) struct Registry {
    process: Child,
    pub port: u16,
    pub directory: tempfile::TempDir,
}

/// Returns a port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Registry {
    /// Starts one.
    pub(crate) fn start() -> Registry {
        Registry::with(tempfile::tempdir().unwrap(), "")
    }

    /// Starts one on the data of `directory`, with more lines of configuration.
    pub(crate) fn with(directory: tempfile::TempDir, more: &str) -> Registry {
        let port = free_port();
        let data = directory.path().join("data");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
             {more}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            data.display()
        );
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = process.expect("cannot start `docker-registry`: install it");
        let registry = Registry { process, port, directory };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return registry;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the registry does not answer");
    }

    /// Stops it; its data stays.
    pub(crate) fn stop(mut self) -> tempfile::TempDir {
        let _ = self.process.kill();
        let _ = self.process.wait();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}/team", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It is answered with a status, such as `500 Internal Server Error`.
    Status(&'static str),
    /// The body ends after half of its bytes.
    Half,
    /// A byte of the body is another one.
    Flipped,
}

/// Stands before a registry: requests whose first line contains `part` go wrong so many times.
pub(crate) struct Proxy {
    pub port: u16,
    /// How many requests went wrong.
    pub hit: Arc<AtomicUsize>,
    /// Bytes that came from clients.
    pub sent: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) fn start(registry: u16, part: &'static str, fault: Fault, times: usize) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (hit, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let (hits, bytes) = (hit.clone(), sent.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (hits, bytes) = (hits.clone(), bytes.clone());
                std::thread::spawn(move || {
                    let _ = serve(near, registry, part, fault, times, &hits, &bytes);
                });
            }
        });
        Proxy { port, hit, sent }
    }

    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}/team", self.port)
    }
}

/// Serves one request of a connection; the connection ends with it.
fn serve(
    mut near: TcpStream,
    registry: u16,
    part: &str,
    fault: Fault,
    times: usize,
    hits: &AtomicUsize,
    bytes: &AtomicU64,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if near.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    let wrong = line.contains(part) && hits.fetch_add(1, Ordering::SeqCst) < times;
    if wrong && let Fault::Status(status) = fault {
        // What is not read would reset the connection before the answer is.
        let _ = near.set_read_timeout(Some(std::time::Duration::from_millis(50)));
        let _ = std::io::copy(&mut near, &mut std::io::sink());
        let end = "Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return near.write_all(format!("HTTP/1.1 {status}\r\n{end}").as_bytes());
    }
    let mut far = TcpStream::connect(("127.0.0.1", registry))?;
    let head = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    far.write_all(head.as_bytes())?;
    let mut body = near.try_clone()?;
    let mut to_far = far.try_clone()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count) = body.read(&mut buffer) {
                bytes.fetch_add(count as u64, Ordering::SeqCst);
                if count == 0 || to_far.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
        let mut answer = Vec::new();
        let ended = far.read_to_end(&mut answer);
        let start = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        let body = answer.len() - start;
        if wrong && body > 2 {
            match fault {
                Fault::Half => answer.truncate(start + body / 2),
                Fault::Flipped => answer[start + body / 2] ^= 1,
                Fault::Status(_) => {}
            }
        }
        let _ = near.write_all(&answer);
        let _ = near.shutdown(std::net::Shutdown::Both);
        ended.map(drop)
    })
}
