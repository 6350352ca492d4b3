//! What the script of a pod says of itself when all else in its container is dead: the termination
//! message.

/// How a report begins.
pub(super) const REPORT: &str = "imgforge1";

/// How a refusal begins.
pub(super) const REFUSAL: &str = "imgforge0";

/// A termination message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The tests ended.
    Report(Report),
    /// They were not begun, for this reason.
    Refusal(String),
}

/// How the tests ended, and what they printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The exit code.
    pub code: i64,
    /// Hundredths of a second that they ran.
    pub centiseconds: u64,
    /// Whether they were killed at their time limit.
    pub timed_out: bool,
    /// What they printed.
    pub log: FileReport,
    /// What was written to the control channel.
    pub control: FileReport,
}

/// A file of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Its length in bytes.
    pub bytes: u64,
    /// The SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}

impl Message {
    /// Reads a termination message; `None` where it is no message of ours, or not whole.
    pub fn read(text: &str) -> Option<Message> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if let Some(why) = text.strip_prefix(REFUSAL) {
            return Some(Message::Refusal(why.trim().to_owned()));
        }
        let words: Vec<&str> = text.split(' ').collect();
        let [REPORT, code, time, end, log, log_sum, control, control_sum] = words[..] else {
            return None;
        };
        Some(Message::Report(Report {
            code: code.parse().ok()?,
            centiseconds: time.parse().ok()?,
            timed_out: match end {
                "-" => false,
                "timeout" => true,
                _ => return None,
            },
            log: FileReport::read(log, log_sum)?,
            control: FileReport::read(control, control_sum)?,
        }))
    }
}

impl FileReport {
    /// Reads a length and a digest.
    pub(super) fn read(bytes: &str, sha256: &str) -> Option<FileReport> {
        let digits = sha256.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        (sha256.len() == 64 && digits)
            .then(|| Some(FileReport { bytes: bytes.parse().ok()?, sha256: sha256.to_owned() }))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_whole_or_not_at_all() {
        let sum = "0123456789abcdef".repeat(4);
        let text = format!("imgforge1 3 250 - 12 {sum} 0 {sum}");
        let Some(Message::Report(report)) = Message::read(&text) else { panic!("{text}") };
        assert_eq!((report.code, report.centiseconds, report.timed_out), (3, 250, false));
        assert_eq!((report.log.bytes, report.control.bytes), (12, 0));
        for end in 0..text.len() {
            assert_eq!(Message::read(&text[..end]), None, "{}", &text[..end]);
        }
        for wrong in [
            "done".to_owned(),
            text.replace("imgforge1", "imgforge2"),
            text.replace(" - ", " late "),
            text.replace(" 3 ", " x "),
            format!("{text} 1"),
            text.to_uppercase(),
        ] {
            assert_eq!(Message::read(&wrong), None, "{wrong}");
        }
        let refused = Message::read("imgforge0 no room\n");
        assert_eq!(refused, Some(Message::Refusal("no room".to_owned())));
    }
}
