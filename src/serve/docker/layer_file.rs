//! Layers on their way to an image: plain archives in files of the server.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use tempfile::TempPath;

use crate::engine::LayerFile;
use crate::hashing::Hashing;

/// Writes an archive to a file, which goes with the first value.
pub(super) fn write(from: impl Read, scratch: &Path) -> io::Result<(TempPath, LayerFile)> {
    let (mut file, path) = tempfile::NamedTempFile::new_in(scratch)?.into_parts();
    let mut reader = Hashing::new(from);
    io::copy(&mut reader, &mut file)?;
    file.flush()?;
    let (_, diff_id, size) = reader.finish();
    let layer = LayerFile { path: path.to_path_buf(), diff_id, size };
    Ok((path, layer))
}

/// Looks at an archive in a file.
pub(super) fn of(path: &Path) -> io::Result<LayerFile> {
    let mut reader = Hashing::new(File::open(path)?);
    io::copy(&mut reader, &mut io::sink())?;
    let (_, diff_id, size) = reader.finish();
    Ok(LayerFile { path: path.to_owned(), diff_id, size })
}
