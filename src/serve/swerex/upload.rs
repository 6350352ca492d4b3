//! Files that a client uploads: one, or a directory as a zip.

use std::fs::File;
use std::io::{Seek as _, Write as _};

use http_body_util::BodyExt as _;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, body::Incoming};
use serde_json::{Value, json};
use tokio_util::io::SyncIoBridge;

use crate::engine::SandboxSession;

use super::archive::to_tar;
use super::failure::{Class, Failure};
use super::files::{make_directory, write_from};

/// The most that is uploaded at once, in bytes.
const MOST_UPLOAD: u64 = 2 << 30;

/// The most of a field that is no file, in bytes.
const MOST_FIELD: u64 = 1 << 16;

/// What a client uploads.
pub(super) struct Upload {
    file: File,
    target: String,
    is_zip: bool,
}

/// Reads an upload; the file waits on the disk, without a name.
///
/// # Errors
/// Where it is none, or too large.
pub(super) async fn read(headers: &HeaderMap, body: Incoming) -> Result<Upload, Failure> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let bad = |error: multer::Error| Failure::bad(format!("the body is no upload: {error}"));
    let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(bad)?;
    let limits = multer::SizeLimit::new()
        .whole_stream(MOST_UPLOAD)
        .for_field("target_path", MOST_FIELD)
        .for_field("unzip", MOST_FIELD);
    let constraints = multer::Constraints::new().size_limit(limits);
    let mut parts =
        multer::Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let (mut file, mut target, mut is_zip) = (None, None, false);
    while let Some(mut part) = parts.next_field().await.map_err(bad)? {
        match part.name() {
            Some("file") => {
                let failed =
                    |error| Failure::raised(Class::Swerex, format!("cannot keep it: {error}"));
                let mut kept = tempfile::tempfile().map_err(failed)?;
                while let Some(bytes) = part.chunk().await.map_err(bad)? {
                    kept.write_all(&bytes).map_err(failed)?;
                }
                kept.rewind().map_err(failed)?;
                file = Some(kept);
            }
            Some("target_path") => target = Some(part.text().await.map_err(bad)?),
            Some("unzip") => {
                let text = part.text().await.map_err(bad)?.to_lowercase();
                is_zip = matches!(text.as_str(), "true" | "1" | "yes" | "on");
            }
            _ => {}
        }
    }
    let file = file.ok_or_else(|| Failure::bad("the body has no field `file`"))?;
    let target = target.filter(|target| !target.is_empty());
    let target = target.ok_or_else(|| Failure::bad("the body has no field `target_path`"))?;
    Ok(Upload { file, target, is_zip })
}

/// Puts an upload where it is meant for.
pub(super) async fn put(session: &dyn SandboxSession, upload: Upload) -> Result<Value, Failure> {
    let Upload { file, target, is_zip } = upload;
    if !is_zip {
        let mut file = tokio::fs::File::from_std(file);
        write_from(session, &target, &mut file).await?;
        return Ok(json!({}));
    }
    let (directory, user, group) = make_directory(session, &target).await?;
    let (writer, mut reader) = tokio::io::duplex(1 << 18);
    let writer = SyncIoBridge::new(writer);
    let packed = tokio::task::spawn_blocking(move || to_tar(file, writer, user, group));
    let put = session.put(&directory, true, &mut reader).await;
    // Whoever still writes learns that nobody reads.
    drop(reader);
    let packed = packed.await.map_err(|error| Failure::raised(Class::Swerex, error.to_string()))?;
    // The archive first: a broken one breaks the other end.
    match (packed, put) {
        (Err(error), Ok(())) => Err(Failure::bad(format!("the zip cannot be unpacked: {error}"))),
        (Err(error), Err(_)) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::bad(format!("the zip cannot be unpacked: {error}")))
        }
        (_, put) => Ok(put.map(|()| json!({}))?),
    }
}
