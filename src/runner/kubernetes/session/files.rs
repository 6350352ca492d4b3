//! Files into a session and out of it. The end of such a command alone proves nothing: what was given is
//! read back by its SHA-256 before it is used, and what is taken is compared.

use std::io::{Seek as _, Write as _};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::engine::{
    EngineError, ExecEnd, ExecRequest, ExecSummary, Input, LogSink, NoLog, Result,
};

use super::super::client::lost;
use super::PodContainer;
use super::exec::attach;
use super::script::{self, KEEP, MISSING, PACK, UNPACK};

/// How often files are moved, and the first pause; the next ones double.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// How long a transfer may take, beside this many bytes in a second.
const ANSWER: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 100 << 10;

/// What is kept of what a command says, in bytes.
const SAID: usize = 4096;

const GIVE: &str = "write files into a pod";
const TAKE: &str = "read files of a pod";

/// Output that goes to a file of this machine.
struct Spool(Mutex<(std::fs::File, Sha256, Option<std::io::Error>)>);

impl Spool {
    fn new() -> Result<Spool> {
        let file = tempfile::tempfile().map_err(scratch_error)?;
        Ok(Spool(Mutex::new((file, Sha256::new(), None))))
    }

    /// Returns the file, from its beginning, and the SHA-256 of what it has.
    fn finish(self) -> Result<(std::fs::File, String)> {
        let (mut file, sum, failure) = self.0.into_inner().expect("no holder panics");
        if let Some(failure) = failure {
            return Err(scratch_error(failure));
        }
        file.rewind().map_err(scratch_error)?;
        Ok((file, hex::encode(sum.finalize())))
    }
}

impl LogSink for Spool {
    fn write(&self, bytes: &[u8]) {
        let (file, sum, failure) = &mut *self.0.lock().expect("no holder panics");
        sum.update(bytes);
        if let Err(error) = file.write_all(bytes) {
            failure.get_or_insert(error);
        }
    }
}

/// The end of what a command says.
#[derive(Default)]
struct Said(Mutex<Vec<u8>>);

impl Said {
    fn text(self) -> String {
        let said = self.0.into_inner().expect("no holder panics");
        String::from_utf8_lossy(&said).trim().to_owned()
    }
}

impl LogSink for Said {
    fn write(&self, bytes: &[u8]) {
        let mut said = self.0.lock().expect("no holder panics");
        said.extend_from_slice(bytes);
        let more = said.len().saturating_sub(SAID);
        said.drain(..more);
    }
}

/// Brings bytes to a file of the container, whole; returns its path.
pub(super) async fn stage(container: &PodContainer, bytes: &[u8]) -> Result<String> {
    let mut spool = tempfile::tempfile().map_err(scratch_error)?;
    spool.write_all(bytes).map_err(scratch_error)?;
    stage_file(container, spool, bytes.len() as u64, &hex::encode(Sha256::digest(bytes))).await
}

async fn stage_file(
    container: &PodContainer,
    file: std::fs::File,
    bytes: u64,
    sum: &str,
) -> Result<String> {
    let path = script::path(&format!("{:032x}", rand::random::<u128>()));
    again(|| async {
        container.check()?;
        let mut file = file.try_clone().map_err(scratch_error)?;
        file.rewind().map_err(scratch_error)?;
        let command = ["/bin/sh", "-c", KEEP, "sh", &bytes.to_string(), &path].map(str::to_owned);
        let mut process = attach(container, &command, true).await?;
        let (Some(mut input), Some(mut out), Some(mut error)) =
            (process.stdin(), process.stdout(), process.stderr())
        else {
            return Err(lost(GIVE, "the client gave no input"));
        };
        let give = async {
            let given = tokio::io::copy(&mut tokio::fs::File::from_std(file), &mut input).await;
            // Whoever does not read to the end is told by the digest.
            let _ = input.shutdown().await;
            given
        };
        let (mut printed, mut said) = (Vec::new(), Vec::new());
        let moved = async {
            tokio::join!(give, out.read_to_end(&mut printed), error.read_to_end(&mut said))
        };
        let limit = ANSWER + Duration::from_secs(bytes / SLOWEST);
        let mut over = container.over.subscribe();
        tokio::select! {
            moved = tokio::time::timeout(limit, moved) => {
                let late = || lost(GIVE, format!("no end within {} s", limit.as_secs()));
                let (given, ..) = moved.map_err(|_| late())?;
                drop(given);
            }
            _ = over.wait_for(Option::is_some) => return container.check(),
        }
        let found = String::from_utf8_lossy(&printed).trim().to_owned();
        if found != sum {
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            let text =
                format!("of {bytes} bytes what came has SHA-256 `{found}`, not {sum}: {said}");
            return Err(lost(GIVE, text));
        }
        Ok(())
    })
    .await?;
    Ok(path)
}

/// Unpacks a tar to a directory.
pub(super) async fn put(
    container: &Arc<PodContainer>,
    directory: &str,
    make: bool,
    tar: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<()> {
    let refused = |reason: String| EngineError::Refused { action: GIVE.to_owned(), reason };
    let mut spool = tempfile::tempfile().map_err(scratch_error)?;
    let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let count = tar.read(&mut buffer).await.map_err(|error| refused(error.to_string()))?;
        if count == 0 {
            break;
        }
        sum.update(&buffer[..count]);
        bytes += count as u64;
        spool.write_all(&buffer[..count]).map_err(scratch_error)?;
    }
    if make {
        let made = run(container, &["/bin/mkdir", "-p", "--", directory], &NoLog).await?;
        if !matches!(made.0.end, ExecEnd::Exited(0)) {
            return Err(EngineError::NoSuchPath { path: directory.to_owned() });
        }
    }
    let file = stage_file(container, spool, bytes, &hex::encode(sum.finalize())).await?;
    let words = ["/bin/sh", "-c", UNPACK, "sh", &file, directory];
    match run(container, &words, &NoLog).await? {
        (ExecSummary { end: ExecEnd::Exited(0), .. }, _) => Ok(()),
        (ExecSummary { end: ExecEnd::Exited(MISSING), .. }, _) => {
            Err(EngineError::NoSuchPath { path: directory.to_owned() })
        }
        (_, said) => Err(refused(said)),
    }
}

/// Writes the file or directory at a path as a tar.
pub(super) async fn get(
    container: &Arc<PodContainer>,
    path: &str,
    tar: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<()> {
    let missing = || EngineError::NoSuchPath { path: path.to_owned() };
    let plain = path.trim_end_matches('/');
    let (directory, name) = plain.rsplit_once('/').ok_or_else(missing)?;
    let directory = if directory.is_empty() { "/" } else { directory };
    let name = if name.is_empty() { "." } else { name };
    let file = again(|| async {
        let work = script::path(&format!("{:032x}", rand::random::<u128>()));
        let spool = Spool::new()?;
        let words = ["/bin/sh", "-c", PACK, "sh", directory, name, &work];
        let (ended, said) = run(container, &words, &spool).await?;
        let (file, sum) = spool.finish()?;
        match ended.end {
            ExecEnd::Exited(0) if said == sum => Ok(file),
            ExecEnd::Exited(0) => {
                Err(lost(TAKE, format!("what came has SHA-256 {sum}, not `{said}`")))
            }
            ExecEnd::Exited(MISSING) => Err(missing()),
            _ => Err(EngineError::Refused { action: TAKE.to_owned(), reason: said }),
        }
    })
    .await?;
    tokio::io::copy(&mut tokio::fs::File::from_std(file), tar).await.map_err(|error| {
        EngineError::Refused { action: "write an archive".to_owned(), reason: error.to_string() }
    })?;
    Ok(())
}

/// Runs a script of our own as root; returns its end, and what it said on its error output.
async fn run(
    container: &Arc<PodContainer>,
    words: &[&str],
    out: &dyn LogSink,
) -> Result<(ExecSummary, String)> {
    let request = ExecRequest {
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        input: Input::Null,
        ..ExecRequest::of(words)
    };
    let said = Said::default();
    let ended = container.exec(&request, out, &said).await?;
    if let ExecEnd::SessionEnded(how) = ended.end {
        return Err(EngineError::SessionEnded { session: container.pod.clone(), how });
    }
    let reason = match &ended.end {
        ExecEnd::NotStarted(why) => why.reason.clone(),
        _ => said.text(),
    };
    Ok((ended, reason))
}

/// Tries again what may pass.
async fn again<T, F>(work: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match work().await {
            Err(EngineError::Transient { .. }) => {}
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    work().await
}

fn scratch_error(source: std::io::Error) -> EngineError {
    EngineError::File { path: std::env::temp_dir(), source }
}
