//! Small files in a sandbox.

use std::io::Read as _;

use crate::engine::{EngineError, SandboxSession};

/// Writes a file that everybody may read; `owner` is its user and group. The directory exists.
pub(super) async fn write(
    session: &dyn SandboxSession,
    path: &str,
    data: &[u8],
    owner: u32,
) -> Result<(), EngineError> {
    let (directory, name) = path.rsplit_once('/').expect("the path is absolute");
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(owner.into());
    header.set_gid(owner.into());
    header.set_size(data.len() as u64);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, name, data).expect("a vector takes every byte");
    let bytes = tar.into_inner().expect("a vector takes every byte");
    session.put(directory, false, &mut &bytes[..]).await
}

/// Reads a file; `None` where it is not there.
pub(super) async fn read(
    session: &dyn SandboxSession,
    path: &str,
) -> Result<Option<Vec<u8>>, EngineError> {
    let mut bytes: Vec<u8> = Vec::new();
    match session.get(path, &mut bytes).await {
        Ok(()) => {}
        Err(EngineError::NoSuchPath { .. }) => return Ok(None),
        Err(error) => return Err(error),
    }
    let refused = |error: std::io::Error| EngineError::Refused {
        action: format!("read `{path}` of a sandbox"),
        reason: error.to_string(),
    };
    let mut archive = tar::Archive::new(&bytes[..]);
    let entry = archive.entries().and_then(|mut entries| entries.next().transpose());
    let Some(mut entry) = entry.map_err(refused)? else { return Ok(None) };
    let mut data = Vec::new();
    entry.read_to_end(&mut data).map_err(refused)?;
    Ok(Some(data))
}
