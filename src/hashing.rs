//! Hashing what passes by.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::key::Digest;

/// A reader or a writer that hashes the bytes which pass through it.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

impl<T> Hashing<T> {
    /// Starts with no bytes.
    pub(crate) fn new(inner: T) -> Self {
        Hashing { inner, hasher: Sha256::new(), size: 0 }
    }

    /// Returns what is inside, the sha256 of the bytes that passed, and their number.
    pub(crate) fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest::from_bytes(self.hasher.finalize().into()), self.size)
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.passed(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.passed(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_and_what_is_written_is_hashed() {
        let mut reader = Hashing::new(&b"text"[..]);
        let mut writer = Hashing::new(Vec::new());
        io::copy(&mut reader, &mut writer).unwrap();
        let (_, read, length) = reader.finish();
        let (bytes, written, _) = writer.finish();
        assert_eq!((read, length), (Digest::of("text"), 4));
        assert_eq!((written, bytes), (Digest::of("text"), b"text".to_vec()));
    }
}
