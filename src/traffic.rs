//! Bytes that this process moves to and from registries, hubs and archives: counted where they pass,
//! shown where somebody waits for them. What an engine of its own process moves is counted by what it
//! says.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

static MOVED: AtomicU64 = AtomicU64::new(0);

/// Counts bytes.
pub(crate) fn count(bytes: u64) {
    MOVED.fetch_add(bytes, Ordering::Relaxed);
}

/// Returns how many bytes were moved since the start of the process.
pub(crate) fn moved() -> u64 {
    MOVED.load(Ordering::Relaxed)
}

/// Counts what is read.
pub(crate) struct Counted<R>(pub R);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(bytes)?;
        count(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_counted() {
        let before = moved();
        io::copy(&mut Counted(&b"12345"[..]), &mut io::sink()).unwrap();
        // Other tests count at the same time.
        assert!(moved() >= before + 5);
    }
}
