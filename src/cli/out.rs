//! Printing. A stream that nobody reads ends what is printed, and never the work: the status is that
//! of the work, and nothing is said of it, as with `cargo` and `rg`. What cannot be written for another
//! reason, such as a full disk, is an error when the work is done.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What went wrong first on stdout.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Whether something was printed on stdout.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Prints a line on stdout.
macro_rules! outln {
    () => { $crate::cli::out::line(format_args!("")) };
    ($($arg:tt)*) => { $crate::cli::out::line(format_args!($($arg)*)) };
}

/// Prints a line on stderr.
macro_rules! errln {
    () => { $crate::cli::out::error_line(format_args!("")) };
    ($($arg:tt)*) => { $crate::cli::out::error_line(format_args!($($arg)*)) };
}

/// Prints text that ends its lines itself on stdout.
macro_rules! out {
    ($($arg:tt)*) => { $crate::cli::out::text(format_args!($($arg)*)) };
}

pub(super) use {errln, out, outln};

/// Prints text on stdout.
pub(super) fn text(text: Arguments<'_>) {
    let _ = write!(Stdout, "{text}");
}

/// Prints a line on stdout.
pub(super) fn line(text: Arguments<'_>) {
    let _ = writeln!(Stdout, "{text}");
}

/// Prints a line on stderr. Where it cannot be, nobody can be told.
pub(super) fn error_line(text: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes bytes on stdout at once; tells whether somebody may still read them.
pub(super) fn bytes(bytes: &[u8]) -> bool {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    let read = !matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
    note(written);
    read
}

/// Writes bytes on stderr. Where they cannot be, nobody can be told.
pub(super) fn error_bytes(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}

/// Stdout, as a writer that takes everything; what went wrong is known by [`finish`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        note(io::stdout().lock().write_all(bytes));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        keep(io::stdout().lock().flush());
        Ok(())
    }
}

/// Tells whether nothing was printed on stdout.
pub(super) fn is_empty() -> bool {
    !PRINTED.load(Ordering::Relaxed)
}

fn note(written: io::Result<()>) {
    PRINTED.store(true, Ordering::Relaxed);
    keep(written);
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written {
        FAILED.lock().expect("no holder panics").get_or_insert(error);
    }
}

/// Ends the output.
///
/// # Errors
/// Why not all of it could be written; that nobody reads it any more is none.
pub(super) fn finish() -> io::Result<()> {
    let _ = Stdout.flush();
    match FAILED.lock().expect("no holder panics").take() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
