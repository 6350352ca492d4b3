//! Output out of a pod: by exec in the container that lives on, checked by length and SHA-256. The exit of
//! such a command alone proves nothing.

use std::io::{Read as _, Seek as _, Write as _};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::engine::{EngineError, LogSink, Result};

use super::client::{Server, lost};
use super::message::FileReport;
use super::pod::KEEPER;
use super::script;

/// How often a file is fetched, and the first pause; the next ones double.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// How long a transfer may stand still.
const STILL: Duration = Duration::from_secs(60);

/// What a command may say on its error output, in bytes.
const SAID: usize = 4096;

const ACTION: &str = "fetch the output of a pod";

/// A file that is here whole.
pub(super) struct Fetched(std::fs::File);

impl Fetched {
    /// Passes it on.
    pub(super) fn write_to(mut self, sink: &dyn LogSink) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.0.read(&mut buffer).map_err(scratch_error)? {
                0 => return Ok(()),
                count => sink.write(&buffer[..count]),
            }
        }
    }
}

/// Fetches a file of the output, until it is what the report says.
pub(super) async fn file(
    server: &Server,
    pod: &str,
    name: &str,
    report: &FileReport,
    tell: &(dyn Fn(String) + Sync),
) -> Result<Fetched> {
    let pods = server.pods();
    again(tell, || async {
        let mut file = tempfile::tempfile().map_err(scratch_error)?;
        let (mut sum, mut bytes) = (Sha256::new(), 0);
        let command = script::print(name);
        let _one_of_few = server.fetches.acquire().await.expect("it is never closed");
        run(&pods, pod, &command, &mut |piece| {
            sum.update(piece);
            bytes += piece.len() as u64;
            // What is longer than the report says is not what it says.
            if bytes > report.bytes {
                return Err(lost(
                    ACTION,
                    format!("more than the {} bytes of `{name}`", report.bytes),
                ));
            }
            file.write_all(piece).map_err(scratch_error)
        })
        .await?;
        let sum = hex::encode(sum.finalize());
        if bytes != report.bytes || sum != report.sha256 {
            let text = format!(
                "{bytes} of {} bytes of `{name}` came, with SHA-256 {sum} and not {}",
                report.bytes, report.sha256
            );
            return Err(lost(ACTION, text));
        }
        file.rewind().map_err(scratch_error)?;
        Ok(Fetched(file))
    })
    .await
}

/// Measures both files of the output where the script could not.
pub(super) async fn measure(
    server: &Server,
    pod: &str,
    tell: &(dyn Fn(String) + Sync),
) -> Result<(FileReport, FileReport)> {
    let pods = server.pods();
    again(tell, || async {
        let mut text = Vec::new();
        let _one_of_few = server.fetches.acquire().await.expect("it is never closed");
        run(&pods, pod, &script::measure(), &mut |piece| {
            text.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        let text = String::from_utf8_lossy(&text);
        let words: Vec<&str> = text.split_whitespace().collect();
        let read = match words[..] {
            [log, log_sum, control, control_sum] => {
                FileReport::read(log, log_sum).zip(FileReport::read(control, control_sum))
            }
            _ => None,
        };
        read.ok_or_else(|| lost(ACTION, format!("its length is told as `{}`", text.trim())))
    })
    .await
}

/// Tries again what may pass.
async fn again<T, F>(tell: &(dyn Fn(String) + Sync), fetch: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match fetch().await {
            Err(EngineError::Transient { source, .. }) => {
                tell(format!("fetch the output again in {:.1} s: {source}", pause.as_secs_f64()));
            }
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    fetch().await
}

/// Runs a command in the keeper to its end, and gives its output on as it comes.
async fn run(
    pods: &Api<Pod>,
    pod: &str,
    command: &[String],
    take: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
) -> Result<()> {
    let params = AttachParams {
        container: Some(KEEPER.to_owned()),
        stdin: false,
        stdout: true,
        stderr: true,
        max_stdout_buf_size: Some(1 << 20),
        ..AttachParams::default()
    };
    let started = tokio::time::timeout(STILL, pods.exec(pod, command, &params)).await;
    let mut process = match started {
        Ok(Ok(process)) => process,
        Ok(Err(error)) => return Err(lost(ACTION, error.to_string())),
        Err(_) => return Err(lost(ACTION, "no answer")),
    };
    let status = process.take_status();
    let (Some(mut out), Some(mut error), Some(status)) =
        (process.stdout(), process.stderr(), status)
    else {
        return Err(lost(ACTION, "the client gave no output"));
    };
    let mut said = Vec::new();
    let mut keep = |piece: &[u8]| {
        let fits = SAID.saturating_sub(said.len()).min(piece.len());
        said.extend_from_slice(&piece[..fits]);
        Ok(())
    };
    // Both are read together: whoever leaves one of them full stops the other.
    let (output, _, status) = tokio::join!(
        read(&mut out, take),
        read(&mut error, &mut keep),
        tokio::time::timeout(STILL * 60, status),
    );
    output?;
    match status {
        Ok(Some(status)) if status.status.as_deref() == Some("Success") => Ok(()),
        Ok(Some(status)) => {
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            let message = status.message.unwrap_or_default();
            Err(lost(ACTION, format!("{message} {said}").trim().to_owned()))
        }
        Ok(None) | Err(_) => Err(lost(ACTION, "the connection ended without a status")),
    }
}

async fn read(
    from: &mut (dyn AsyncRead + Unpin + Send),
    take: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut taken = Ok(());
    loop {
        let count = match tokio::time::timeout(STILL, from.read(&mut buffer)).await {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return Err(lost(ACTION, error.to_string())),
            Err(_) => return Err(lost(ACTION, format!("nothing came for {} s", STILL.as_secs()))),
        };
        if count == 0 {
            return taken;
        }
        // Read to the end whatever comes, so that the other side does not stand still.
        if taken.is_ok() {
            taken = take(&buffer[..count]);
        }
    }
}

fn scratch_error(source: std::io::Error) -> EngineError {
    EngineError::File { path: std::env::temp_dir(), source }
}
