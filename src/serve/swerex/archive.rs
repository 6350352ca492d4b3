//! The zip files in which SWE-ReX sends directories, as tars that an engine unpacks.

use std::fs::File;
use std::io::{self, Read, Write};

/// The most that the files of a directory may have together, in bytes.
const MOST: u64 = 8 << 30;

/// Writes the files of a zip as a tar, for this user and group. Names that lead out of the directory are
/// refused. Links do not exist: SWE-ReX sends what they lead to.
///
/// # Errors
/// Where it is no zip, or too large; what is written is no tar then.
pub(super) fn to_tar(zip: File, tar: impl Write, user: u64, group: u64) -> io::Result<()> {
    let mut zip = zip::ZipArchive::new(io::BufReader::new(zip)).map_err(io::Error::other)?;
    let mut tar = tar::Builder::new(tar);
    let mut left = MOST;
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).map_err(io::Error::other)?;
        let Some(path) = file.enclosed_name() else {
            let name = file.name().map_err(io::Error::other)?;
            let message = format!("`{}` leads out of the directory", name.escape_debug());
            return Err(io::Error::other(message));
        };
        if path.as_os_str().is_empty() {
            continue;
        }
        let is_directory = file.is_dir();
        let size = if is_directory { 0 } else { file.size() };
        left = left.checked_sub(size).ok_or_else(|| {
            io::Error::other(format!("its files have more than {} GiB", MOST >> 30))
        })?;
        let usual = if is_directory { 0o755 } else { 0o644 };
        let mode = file.unix_mode().map_or(usual, |mode| mode & 0o777);
        let mut header = tar::Header::new_gnu();
        let kind = if is_directory { tar::EntryType::Directory } else { tar::EntryType::Regular };
        header.set_entry_type(kind);
        header.set_size(size);
        // Its owner can always change it, as if the owner had made it.
        header.set_mode(mode | if is_directory { 0o700 } else { 0o600 });
        header.set_uid(user);
        header.set_gid(group);
        header.set_mtime(jiff::Timestamp::now().as_second().max(0) as u64);
        let mut content = Exact { inner: file.by_ref().take(size), left: size };
        tar.append_data(&mut header, path, &mut content)?;
    }
    tar.finish()
}

/// Reads as many bytes as were announced; fewer are an error.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left -= count as u64;
        match count == 0 && self.left > 0 && !buffer.is_empty() {
            true => Err(io::Error::other("a file of it is shorter than it says")),
            false => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use zip::write::SimpleFileOptions;

    use super::*;

    fn zipped(files: &[(&str, &str, u32)]) -> File {
        let mut zip = zip::ZipWriter::new(tempfile::tempfile().unwrap());
        for (name, text, mode) in files {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            zip.start_file(*name, options).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        let mut file = zip.finish().unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn files_keep_their_content_and_modes_and_get_an_owner() {
        let zip = zipped(&[("a/run.sh", "text", 0o755), ("b", "", 0o200)]);
        let mut bytes = Vec::new();
        to_tar(zip, &mut bytes, 7, 8).unwrap();
        let mut tar = tar::Archive::new(&bytes[..]);
        let mut found = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (7, 8));
            let path = entry.path().unwrap().display().to_string();
            found.push((path, text, header.mode().unwrap()));
        }
        let right = [("a/run.sh", "text", 0o755), ("b", "", 0o600)];
        assert_eq!(found, right.map(|(name, text, mode)| (name.into(), text.into(), mode)));
    }

    #[test]
    fn what_is_no_zip_or_leads_out_of_it_is_refused() {
        for name in ["../up", "a/../../up"] {
            let zip = zipped(&[(name, "text", 0o644)]);
            let refused = to_tar(zip, io::sink(), 0, 0).unwrap_err();
            assert!(refused.to_string().contains("leads out"), "{refused}");
        }
        let mut text = tempfile::tempfile().unwrap();
        text.write_all(b"text").unwrap();
        assert!(to_tar(text, io::sink(), 0, 0).is_err());
    }
}
