//! Bytes of a container as text of the client.

use std::fmt::Write as _;

use crate::session::Captured;

use super::failure::{Class, Failure};

/// The most of an output that is kept, in bytes: half of it from the beginning, half from the end.
pub(super) const MOST_OUTPUT: usize = 10 << 20;

/// Returns bytes as text; those that are none are written as `\xff`, as SWE-ReX writes them.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Returns an output that was kept within [`MOST_OUTPUT`]; where something is missing it says so.
pub(super) fn output(captured: &Captured) -> String {
    if captured.dropped == 0 {
        return escaped(&captured.bytes);
    }
    let (head, tail) = captured.bytes.split_at(captured.bytes.len().min(MOST_OUTPUT / 2));
    let missing = captured.dropped;
    format!("{}\n[imgforge left out {missing} bytes here]\n{}", escaped(head), escaped(tail))
}

/// Takes out what an interactive shell without a terminal says of itself when a signal ended a command; it
/// is told by the number of the shell's process, which it has in it.
pub(super) fn without_complaints(output: &str, shell: i32) -> String {
    let complaint = format!(r"(?:/bin/)?bash: \[{shell}: \d+ \(\d+\)\] tcsetattr: [^\n]*\n");
    let complaint = regex::Regex::new(&complaint).expect("it is a pattern");
    complaint.replace_all(output, "").into_owned()
}

/// Returns what a terminal shows: without control sequences, and with plain line ends.
pub(super) fn shown(bytes: &[u8]) -> String {
    static CONTROL: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
        let sequence =
            "\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|\x1b[@-Z\\\\^_=>]";
        regex::Regex::new(sequence).expect("it is a pattern")
    });
    CONTROL.replace_all(&escaped(bytes), "").replace("\r\n", "\n")
}

/// Decodes the content of a file as Python's `read_text` does, but for line ends, which stay.
pub(super) fn decoded(
    bytes: &[u8],
    encoding: Option<&str>,
    errors: Option<&str>,
) -> Result<String, Failure> {
    let encoding = encoding.unwrap_or("utf-8").to_lowercase().replace('_', "-");
    let mut text = String::with_capacity(bytes.len());
    match encoding.as_str() {
        "utf-8" | "utf8" | "utf-8-sig" => {
            let marked =
                if encoding == "utf-8-sig" { bytes.strip_prefix(b"\xef\xbb\xbf") } else { None };
            for chunk in marked.unwrap_or(bytes).utf8_chunks() {
                text.push_str(chunk.valid());
                if !chunk.invalid().is_empty() {
                    replace(&mut text, chunk.invalid(), &encoding, errors)?;
                }
            }
        }
        "ascii" | "us-ascii" => {
            for byte in bytes {
                match byte.is_ascii() {
                    true => text.push(char::from(*byte)),
                    false => replace(&mut text, &[*byte], &encoding, errors)?,
                }
            }
        }
        "latin-1" | "latin1" | "iso-8859-1" | "iso8859-1" => {
            text.extend(bytes.iter().map(|byte| char::from(*byte)));
        }
        _ => {
            let message = format!(
                "unknown encoding: {encoding}; utf-8, utf-8-sig, ascii and latin-1 are known here"
            );
            return Err(Failure::raised(Class::Lookup, message));
        }
    }
    Ok(text)
}

/// Writes what stands for bytes that are no text.
fn replace(
    text: &mut String,
    invalid: &[u8],
    encoding: &str,
    errors: Option<&str>,
) -> Result<(), Failure> {
    match errors.unwrap_or("strict") {
        "strict" => {
            let message = format!("{invalid:02x?} is no {encoding}");
            return Err(Failure::raised(Class::UnicodeDecode, message));
        }
        "ignore" => {}
        "replace" => text.push(char::REPLACEMENT_CHARACTER),
        "backslashreplace" => {
            for byte in invalid {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
        other => {
            let message = format!("unknown error handler name '{other}'");
            return Err(Failure::raised(Class::Lookup, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_escaped_and_text_stays() {
        assert_eq!(escaped(b"a\xff\xc3\xa4\r\n\xc3"), "a\\xff\u{e4}\r\n\\xc3");
    }

    #[test]
    fn what_is_missing_in_an_output_is_said() {
        let captured = Captured { bytes: vec![b'x'; MOST_OUTPUT], dropped: 7, spill_failure: None };
        let text = output(&captured);
        assert!(text.contains("x\n[imgforge left out 7 bytes here]\nx"));
        assert_eq!(text.matches('x').count(), MOST_OUTPUT);
    }

    #[test]
    fn what_the_shell_says_of_its_terminal_is_taken_out_and_what_others_say_is_not() {
        let said = "bash: [7: 1 (255)] tcsetattr: Inappropriate ioctl for device\n";
        assert_eq!(without_complaints(&format!("a{said}b\n{said}"), 7), "ab\n");
        assert_eq!(without_complaints(said, 8), said);
    }

    #[test]
    fn a_terminal_shows_no_control_sequences() {
        assert_eq!(
            shown(b"\x1b[?2004h>>> \x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07x"),
            ">>> red\nx"
        );
    }

    #[test]
    fn files_are_decoded_as_python_does_it() {
        let bytes = b"a\xe4\r\n";
        assert_eq!(decoded(bytes, Some("latin-1"), None).unwrap(), "a\u{e4}\r\n");
        assert_eq!(decoded(bytes, None, Some("replace")).unwrap(), "a\u{fffd}\r\n");
        assert_eq!(decoded(bytes, Some("ascii"), Some("ignore")).unwrap(), "a\r\n");
        assert_eq!(decoded(bytes, Some("UTF_8"), Some("backslashreplace")).unwrap(), "a\\xe4\r\n");
        assert_eq!(decoded(b"\xef\xbb\xbfx", Some("utf-8-sig"), None).unwrap(), "x");
        let class = |encoding, errors| match decoded(bytes, encoding, errors) {
            Err(Failure::Raised { class, .. }) => class,
            other => panic!("{other:?}"),
        };
        assert_eq!(class(None, None), Class::UnicodeDecode);
        assert_eq!(class(Some("utf-16"), None), Class::Lookup);
        assert_eq!(class(None, Some("surrogateescape")), Class::Lookup);
    }
}
